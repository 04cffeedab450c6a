"""A field to try things on: the whole demo, or simulated wells and recordings for a broker that is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esp_ingestd.cli.options import ConfigOption, load, loop_factory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esp_ingestd.config import Settings
    from esp_ingestd.publisher import Message, Tally
    from esp_ingestd.simulator import Field


def demo(
    *,
    wells: Annotated[int, typer.Option(min=1, max=10_000, help="Simulated wells.")] = 12,
    duration: Annotated[
        float | None, typer.Option(metavar="S", min=1, help="End by itself after so many seconds. Default: at Ctrl-C.")
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            metavar="X", min=1, max=3600, help="Time in the field against the clock; 60: an hour passes in a minute."
        ),
    ] = 60.0,
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Where everything is kept; emptied at the start of each demo.")
    ] = Path("esp-demo"),
    port: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=1, max=65_535, help="Of metrics and health. Default: 9464, else a free one."),
    ] = None,
    broker_port: Annotated[
        int | None, typer.Option(metavar="PORT", min=1, max=65_535, help="Default: 21883, else a free one.")
    ] = None,
    database_port: Annotated[
        int | None, typer.Option(metavar="PORT", min=1, max=65_535, help="Default: 25432, else a free one.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Lines in place of a live view, as without a terminal.")
    ] = False,
) -> None:
    """Show everything at work: broker, database, simulated wells, the daemon, a live view. Needs nothing beforehand."""
    from math import inf

    from esp_ingestd.demo import Wishes, run_demo
    from esp_ingestd.embedded import StartError

    wishes = Wishes(
        folder=folder,
        wells=wells,
        speed=speed,
        duration_s=inf if duration is None else duration,
        http_port=port,
        broker_port=broker_port,
        database_port=database_port,
        plain=plain,
    )
    try:
        run_demo(wishes)
    except StartError as error:
        typer.echo(f"esp-ingestd demo: {error}", err=True)
        raise typer.Exit(1) from None


def simulate(
    config: ConfigOption,
    *,
    wells: Annotated[int, typer.Option(min=1, help="Wells in the field, WELL-001 on.")] = 10,
    rate: Annotated[
        float,
        typer.Option(
            min=1e-5, metavar="HZ", help="Readings a second of each well, by event time; 0.1 is one every 10 s."
        ),
    ] = 1.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:WELL][@TIME][*SEVERITY]",
            help="Enter a fault, as gas_lock:WELL-003@10m*1.5. Without a well: the next healthy one. TIME is event "
            "time after the start, in s or with s, m, h, d; default 0. Repeatable. A wrong KIND lists all.",
        ),
    ] = None,
    recording: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Publish a recording in place of a simulated field: CSV or JSON lines. Its timestamps stay as they "
            "are. Repeatable, one after the other. Default: a field.",
        ),
    ] = None,
    speed: Annotated[
        str,
        typer.Option(
            metavar="X|max",
            help="Event time against the clock; max: as fast as the broker takes it. A field faster than 1 begins in "
            "the past, at most 30 days, and never overtakes the clock.",
        ),
    ] = "1",
    array: Annotated[int, typer.Option(min=1, metavar="N", help="Consecutive readings of a well in one message.")] = 1,
    seed: Annotated[int, typer.Option(help="Another seed gives another field; the same one the same.")] = 1,
    duration: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="Stop after so many seconds. Default: at Ctrl-C.")
    ] = None,
    window: Annotated[
        int, typer.Option(min=1, max=65_535, help="Messages under way that the broker has not accepted.")
    ] = 100,
    topic: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Topic, with {well_id}. Default: the first of mqtt.topics."),
    ] = None,
    write_wells: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the wells file of the field, for diagnosis.wells_file. Default: none is written.",
        ),
    ] = None,
) -> None:
    """Publish a simulated field of wells, or a recording, to the broker; say how much of it the broker accepted."""
    from math import inf

    from esp_ingestd.publisher import from_field, from_recordings, to_messages

    settings = load(config)
    pace = _to_speed(speed)
    limit_s = inf if duration is None else duration
    if recording:
        readings = from_recordings(recording, naive_is_utc=settings.mqtt.naive_timestamps == "utc")
    else:
        field = _to_field(wells, rate, fault or (), seed, pace, limit_s)
        if write_wells:
            write_wells.write_text(field.wells_toml())
        readings = from_field(field)
    messages = to_messages(readings, topic or settings.mqtt.topics[0], array)
    _publish(settings, messages, window, speed=pace, duration_s=limit_s, live=not recording)


def _publish(
    settings: "Settings",
    messages: "Iterable[Message]",
    window: int,
    *,
    speed: float,
    duration_s: float,
    live: bool,
) -> None:
    import asyncio
    from functools import partial

    from esp_ingestd.publisher import Publisher
    from esp_ingestd.recording import RecordingError
    from esp_ingestd.telemetry import set_up_log

    set_up_log("warning", settings.log.format)

    async def publish() -> "Tally":
        publisher = Publisher(settings.mqtt, window=window, tell=partial(typer.echo, err=True))
        return await publisher.run(messages, speed=speed, duration_s=duration_s, live=live)

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            tally = runner.run(publish())
    except RecordingError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None
    typer.echo(tally)
    if not tally.complete:
        raise typer.Exit(1)


def _to_speed(text: str) -> float:
    from math import inf

    try:
        speed = inf if text == "max" else float(text)
    except ValueError:
        speed = 0.0
    if not speed > 0:
        raise typer.BadParameter(f"{text!r}: a number above 0, or max", param_hint="--speed")
    return speed


def _to_field(
    wells: int, rate_hz: float, faults: "Sequence[str]", seed: int, speed: float, duration_s: float
) -> "Field":
    import time

    from esp_ingestd.core.reading import SECOND_US
    from esp_ingestd.publisher import history_s
    from esp_ingestd.simulator import Field, parse_fault

    start_us = time.time_ns() // 1000 - round(history_s(speed, duration_s) * SECOND_US)
    try:
        parsed = [parse_fault(text) for text in faults]
        return Field(wells, start_us=start_us, seed=seed, faults=parsed, interval_s=1 / rate_hz)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fault") from None
