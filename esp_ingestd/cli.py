"""What you can do: one function a command. Each takes its arguments apart and leaves the work to another module.

What a command needs is imported inside it: the program must start in a fraction of a second.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from esp_ingestd.moment import Every
from esp_ingestd.table import Format

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
    from datetime import date

    from esp_ingestd.answer import Answer
    from esp_ingestd.archive import Report
    from esp_ingestd.config import Settings, Wells
    from esp_ingestd.database import Database, LetterFilter
    from esp_ingestd.publisher import Message, Tally
    from esp_ingestd.simulator import Field

EX_CONFIG = 78  # sysexits.h
EX_USAGE = 2  # click's own, for options that it refuses
MOST_ROWS = 100_000  # of a history at once: a day at a reading a second
T = TypeVar("T")

app = typer.Typer(
    name="esp-ingestd",
    help="Ingest telemetry of electrical submersible pumps from MQTT into TimescaleDB, and name what ails a pump.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ConfigOption = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The configuration, TOML. See config/esp-ingestd.toml.")
]


def main() -> None:
    """The console script."""
    from esp_ingestd.errors import ConfigurationError, Unavailable

    try:
        app()
    except SystemExit as end:
        sys.exit(1 if end.code == EX_USAGE else end.code)  # CONTRACT §1 knows 0, 78 and 1
    except ConfigurationError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 - plain lines, whatever the terminal
        sys.exit(EX_CONFIG)
    except (Unavailable, OSError) as error:
        print(f"esp-ingestd: {error}", file=sys.stderr)  # noqa: T201 - likewise
        sys.exit(1)


def _version(value: bool) -> None:  # noqa: FBT001 - typer's signature
    if value:
        from esp_ingestd import __version__

        typer.echo(f"esp-ingestd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    del version


@app.command()
def run(config: ConfigOption) -> None:
    """Run the daemon: ingest, diagnose, alert, until SIGTERM or Ctrl-C. SIGHUP reads tree and wells file anew."""
    import asyncio
    import signal

    from esp_ingestd.service import Service
    from esp_ingestd.telemetry import set_up_log

    # Until the service listens for it: what a reload asks for, a start does anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = _load(config)
    set_up_log(settings.log.level, settings.log.format)

    async def serve() -> None:
        await Service(settings, config).run()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve())


def _loop_factory() -> "Callable[[], AbstractEventLoop] | None":
    try:
        import uvloop
    except ImportError:  # not on every platform
        return None
    return uvloop.new_event_loop


@app.command()
def check(
    config: ConfigOption,
    *,
    connect: Annotated[
        bool, typer.Option("--connect", help="Also reach the broker and the database, and name its edition.")
    ] = False,
) -> None:
    """Check the configuration, the wells file and the decision tree, and print the effective settings."""
    from esp_ingestd.service import load_diagnosis

    settings = _load(config)
    wells, tree = load_diagnosis(settings)
    for line in settings.effective():
        typer.echo(line)
    typer.echo(f"# decision tree {tree.version}; {len(wells.listed)} wells listed")
    for well_id, well in {"[defaults]": wells.defaults, **wells.listed}.items():
        for diagnosis, why in tree.off_for(well).items():
            typer.echo(f"# {well_id}: {diagnosis} is off: {why}")
    if connect:
        _check_connections(settings)


def _check_connections(settings: "Settings") -> None:
    import asyncio

    from esp_ingestd.database import Database
    from esp_ingestd.errors import Unavailable
    from esp_ingestd.mqtt import Mqtt
    from esp_ingestd.telemetry import set_up_log

    set_up_log("warning", "text")

    async def reach() -> list[str]:
        faults = []
        # Another client id: the daemon's own session is not to be taken over.
        broker = Mqtt(settings.mqtt, client_id=f"{settings.mqtt.client_id}-check", keep_session=False)
        database = Database(settings.database)
        for name, part in (("broker", broker), ("database", database)):
            try:
                edition = await part.connect()
                typer.echo(f"# {name} {part.address}: reached" + (f", {edition}" if edition else ""))
            except Unavailable as unavailable:
                faults.append(str(unavailable))
            await part.close()
        return faults

    if faults := asyncio.run(reach()):
        for fault in faults:
            typer.echo(fault, err=True)
        raise typer.Exit(1)


@app.command()
def migrate(config: ConfigOption) -> None:
    """Create or upgrade the database schema; safe to repeat. Say what was done, and the database's edition."""
    import asyncio

    from esp_ingestd import database

    edition, applied = asyncio.run(database.migrate(_load(config).database))
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to do, the schema is up to date")
    typer.echo(f"edition: {edition}")


@app.command()
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


spool_app = typer.Typer(help="Look at what is kept on disk while the database is away.", no_args_is_help=True)
app.add_typer(spool_app, name="spool")


@spool_app.command("status")
def spool_status(config: ConfigOption) -> None:
    """Say how much is in the spool, how old the oldest reading is, and how much room is left."""
    import time

    from esp_ingestd.core.reading import to_iso
    from esp_ingestd.spool import read_status

    settings = _load(config).spool
    status = read_status(settings)
    typer.echo(f"directory: {settings.directory}")
    typer.echo(f"state: {'holds readings for the database' if status.batches else 'empty'}")
    typer.echo(f"readings: {status.readings} in {status.batches} batches")
    typer.echo(f"size: {status.size_bytes} bytes of at most {settings.max_bytes}")
    if status.oldest_us is not None:
        age_s = time.time() - status.oldest_us / 1e6
        typer.echo(f"oldest: arrived {to_iso(status.oldest_us)}, {age_s:.0f} s ago")


@app.command()
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

    settings = _load(config)
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
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
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


@app.command()
def backfill(
    config: ConfigOption,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Files: .csv (header: well_id, timestamp, and channels by their names), .jsonl, .ndjson or .json (one "
            "payload with its well_id a line), .parquet or .pq (columns as in CSV; needs the extra `parquet`).",
        ),
    ],
    *,
    max_refused: Annotated[
        int, typer.Option(min=0, metavar="ROWS", help="Stop when more rows than this were refused.")
    ] = 10_000,
    restart: Annotated[
        bool, typer.Option("--restart", help="Read every file from its start, wherever an earlier run was cut.")
    ] = False,
) -> None:
    """Load history from files into the database; never raises alarms.

    Rows are judged as messages off the broker are: units as in the wells file, timestamps as in mqtt.naive_timestamps.
    What is refused becomes a dead letter that names file and line. A row whose well_id and timestamp the database has
    already is a duplicate and changes nothing. A load that was cut, by Ctrl-C or otherwise, goes on where it was when
    the same command is given again.
    """
    import asyncio

    from esp_ingestd.backfill import BackfillError, backfill
    from esp_ingestd.config import load_wells
    from esp_ingestd.errors import Unavailable

    settings = _load(config)
    wells = load_wells(settings.diagnosis.wells_file)
    work = backfill(settings, wells, inputs, max_refused=max_refused, restart=restart, say=typer.echo)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            refused = runner.run(work)
    except BackfillError as error:
        for fault in error.faults:
            typer.echo(fault, err=True)
        raise typer.Exit(1) from None
    except (Unavailable, KeyboardInterrupt) as error:
        typer.echo(f"{str(error) or 'stopped'}; the same command goes on from here", err=True)
        raise typer.Exit(1) from None
    if refused:
        typer.echo("`esp-ingestd dead-letters list` says why rows were refused", err=True)


dead_letters = typer.Typer(no_args_is_help=True, help="What was refused, why, and trying it again.")
app.add_typer(dead_letters, name="dead-letters")
ReasonOption = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Only those refused for this reason, such as naive_timestamp. Default: all."),
]
TopicOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOPIC", help="Only those of this topic; * stands for anything, '' for rows of files. Default: all."
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Only those that came since: ISO 8601 (without offset UTC), or 90s, 30m, 12h, 7d. Default: all.",
    ),
]


@dead_letters.command("list")
def list_dead_letters(
    config: ConfigOption,
    *,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="LETTERS", help="At most so many, the newest.")] = 50,
    form: Annotated[Format, typer.Option("--format", help="How to show them.")] = Format.TABLE,
) -> None:
    """List dead letters, those that came last first."""
    import asyncio

    from esp_ingestd.dead_letters import SHOWN, list_letters
    from esp_ingestd.table import show_rows

    which = _to_filter([], reason, topic, since)
    show_rows(asyncio.run(list_letters(_load(config), which, limit)), SHOWN, form)


@dead_letters.command("show")
def show_dead_letters(
    config: ConfigOption,
    ids: Annotated[list[int], typer.Argument(metavar="ID...", help="Their numbers, as `list` shows them.")],
) -> None:
    """Show dead letters whole: the payload as text if it is UTF-8, else in hex."""
    import asyncio

    from esp_ingestd.dead_letters import show_letters

    try:
        typer.echo("\n\n".join(asyncio.run(show_letters(_load(config), ids))))
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@dead_letters.command("replay")
def replay_dead_letters(
    config: ConfigOption,
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID...]", help="Their numbers, as `list` shows them.")
    ] = None,
    *,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    since: SinceOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every one: needed where neither numbers nor filters are given.")
    ] = False,
) -> None:
    """Try dead letters again with the configuration of today.

    What is good now is stored, and its letter dropped; of the others it says why they are still refused. It is safe
    to repeat. It is history: no alarms are raised by it.
    """
    import asyncio

    from esp_ingestd.config import load_wells
    from esp_ingestd.dead_letters import replay

    which = _to_filter(ids or [], reason, topic, since)
    if not every and not any((ids, reason, topic is not None, since)):
        typer.echo("which? give their numbers, --reason, --topic, --since, or --all", err=True)
        raise typer.Exit(1)
    settings = _load(config)
    wells = load_wells(settings.diagnosis.wells_file)
    typer.echo(str(asyncio.run(replay(settings, wells, which, lambda line: typer.echo(line, err=True)))))


def _to_filter(ids: list[int], reason: str | None, topic: str | None, since: str | None) -> "LetterFilter":
    from datetime import UTC, datetime

    from esp_ingestd.dead_letters import to_filter

    try:
        return to_filter(ids, reason, topic, since, datetime.now(UTC))
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@app.command()
def diagnose(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[INPUT ... | -]", help="JSON lines or CSV (.csv); - reads JSON lines. Without any: the database."
        ),
    ] = None,
    *,
    wells: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The wells file; else that of --config, else all on defaults.")
    ] = None,
    tree: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The decision tree; by default that of --config, else the shipped one."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A second tree on the same readings: both in the table, and what only one told. Default: none.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The daemon's configuration: its database, wells and tree. Default: none."),
    ] = None,
    dsn: Annotated[
        str | None,
        typer.Option(
            metavar="DSN", help="A database; leave the password to PGPASSWORD or ~/.pgpass. Default: --config's."
        ),
    ] = None,
    well: Annotated[
        list[str] | None,
        typer.Option(metavar="WELL", help="From the database only this well. Repeatable. Default: all."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="From the database only from then on: ISO 8601 (without offset UTC), or 90d. Default: all.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="From the database only before then, likewise. Default: all.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="For each reading, the questions asked, to standard error.")] = False,
    summary: Annotated[bool, typer.Option(help="A table of the diagnoses at the end, to standard error.")] = True,
) -> None:
    """Back-test: telemetry in, oldest first; alert events out as JSON lines.

    Telemetry comes from files or standard input, or, with --config or --dsn and no INPUT, from the database, in order
    of its timestamps. Nothing is written anywhere but to standard output and standard error.
    """
    import asyncio
    import json
    from functools import partial

    from esp_ingestd.config import database_at, load_wells
    from esp_ingestd.core.decode import Decoder
    from esp_ingestd.diagnose import BackTest, Trial, lines_of
    from esp_ingestd.service import load_tree

    settings = _load(config) if config else None
    from_database = dsn is not None or (config is not None and not inputs)
    if from_database and inputs:
        _refuse("either INPUT or --dsn, not both")
    if not from_database and (well or since or until):
        _refuse("--well, --since and --until choose from the database: give --config or --dsn, and no INPUT")
    say = partial(print, file=sys.stderr)
    settings_of = load_wells(wells or (settings.diagnosis.wells_file if settings else None))
    tree = tree or (settings.diagnosis.tree_file if settings else None)
    trees = [tree, against] if against else [tree]
    test = BackTest(
        [Trial(str(each or "the shipped tree"), load_tree(each), settings_of) for each in trees],
        tell=lambda event: sys.stdout.write(json.dumps(event.payload(), separators=(",", ":")) + "\n"),
        explain=say if explain else None,
    )
    if from_database:
        database = database_at(dsn or "") if dsn is not None or settings is None else settings.database
        span = _to_moment("--since", since), _to_moment("--until", until)
        asyncio.run(test.take_stored(database, well or [], *span))
    else:
        naive = settings.mqtt.naive_timestamps if settings else "refuse"
        decoder = Decoder([], units_of=settings_of.units_of, naive_timestamps=naive)
        test.take_lines(lines_of(inputs or [Path("-")]), decoder, sys.stderr)
    test.finish()
    if summary:
        for line in test.lines():
            say(line)


class Drawing(StrEnum):
    """What can be drawn."""

    TREE = "tree"
    ALARM = "alarm"
    SHELF = "shelf"


@app.command()
def diagram(
    what: Annotated[Drawing, typer.Argument(help="The decision tree, the life of an alarm, or how one is shelved.")],
    *,
    tree: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The decision tree. Default: the shipped one.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE", help="Draw it anew in this Markdown page, in place of standard output. Default: none."
        ),
    ] = None,
) -> None:
    """Draw a tree from its file, or an alarm's life from its table, in Mermaid: GitHub and GitLab show the picture."""
    from esp_ingestd.core.alarm import SHELF, TABLE
    from esp_ingestd.diagram import alarm_diagram, redraw, tree_diagram
    from esp_ingestd.service import load_tree

    drawing = {
        Drawing.TREE: lambda: tree_diagram(load_tree(tree)),
        Drawing.ALARM: lambda: alarm_diagram(TABLE),
        Drawing.SHELF: lambda: alarm_diagram(SHELF),
    }[what]()
    if into is None:
        sys.stdout.write(drawing)
        return
    try:
        into.write_text(redraw(into.read_text("utf-8"), what.value, drawing), "utf-8")
    except ValueError as error:
        _refuse(f"{into}: {error}")


archive = typer.Typer(no_args_is_help=True, help="Closed days as Parquet files, in archive.url.")
app.add_typer(archive, name="archive")
SinceDayOption = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only days from this one on: ISO 8601, UTC, or an age such as 7d. Default: all."
    ),
]
UntilDayOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only days before this moment, likewise. Default: all.")
]


@archive.command("run")
def run_archive(config: ConfigOption, *, since: SinceDayOption = None, until: UntilDayOption = None) -> None:
    """Archive every closed day that is not in the archive as it is in the database, and read each back.

    Of a day that is archived again, for late rows, everything is kept that was archived before. Safe to repeat, and to
    end at any moment.
    """
    _require_archive()
    from esp_ingestd.archive.archiving import archive_days

    days = _to_days(since, until)
    _report(archive_days(_load(config), since=days[0], until=days[1], show_progress=True), "nothing to archive")


@archive.command("verify")
def verify_archive(config: ConfigOption, *, since: SinceDayOption = None, until: UntilDayOption = None) -> None:
    """Read archived days back; compare them with their manifests and, while they are there, the database's rows."""
    _require_archive()
    from esp_ingestd.archive.archiving import verify

    days = _to_days(since, until)
    _report(verify(_load(config), since=days[0], until=days[1], show_progress=True), "nothing is archived")


@archive.command("list")
def list_archive(
    config: ConfigOption,
    *,
    url: Annotated[str | None, typer.Option("--from", metavar="URL", help="Default: archive.url.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to show them.")] = Format.TABLE,
) -> None:
    """List the days that the archive or the database has, and the state of each; the database may be away."""
    import asyncio

    from esp_ingestd.archive import ArchiveError
    from esp_ingestd.archive.listing import COLUMNS, list_days
    from esp_ingestd.table import show_rows

    settings = _load(config)
    try:
        rows, away = asyncio.run(list_days(settings, url or settings.archive.url))
    except ArchiveError as error:
        _refuse(str(error))
    show_rows(rows, COLUMNS, form)
    if away:
        _refuse(away)


@app.command()
def restore(
    config: ConfigOption,
    *,
    url: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="The archive: a directory or URL. Default: archive.url.")
    ] = None,
    wells: Annotated[
        list[str] | None,
        typer.Option("--wells", metavar="WELL", help="Only these, separated by commas. Repeatable. Default: all."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only rows from this moment on: ISO 8601, UTC, or an age such as 7d. Default: all."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only rows before this moment, likewise. Default: all.")
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", help="esp_telemetry or diagnostic_results. Repeatable. Default: both."),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="Into another table, which is created where it is missing; of one --table, by default esp_telemetry.",
        ),
    ] = None,
) -> None:
    """Bring archived days back into the database. Rows that it has change nothing; safe to repeat."""
    _require_archive()
    from esp_ingestd.archive.restoring import restore, tables_of

    settings = _load(config)
    span = _to_moment("--since", since), _to_moment("--until", until)
    chosen = frozenset(well for given in wells or () for well in given.split(",") if well)
    try:
        which = tables_of(tables or (), into)
    except ValueError as error:
        _refuse(str(error))
    work = restore(
        settings,
        url=url or settings.archive.url,
        tables=which,
        wells=chosen,
        since_us=span[0],
        until_us=span[1],
        into=into,
        show_progress=True,
    )
    _report(work, "nothing was restored")


def _require_archive() -> None:
    from importlib.util import find_spec

    if not find_spec("pyarrow"):
        _refuse("the archive needs the extra `archive`: pip install 'esp-ingestd[archive]'")


def _to_days(since: str | None, until: str | None) -> "tuple[date | None, date | None]":
    """The first and the last day of what two options say."""
    from esp_ingestd.core.reading import to_datetime

    first, past = _to_moment("--since", since), _to_moment("--until", until)
    return None if first is None else to_datetime(first).date(), None if past is None else to_datetime(past - 1).date()


def _report(work: "Coroutine[object, object, Report]", nothing: str) -> None:
    """Do it, say what became of each day, and end with 1 if one failed."""
    import asyncio

    from esp_ingestd.archive import ArchiveError, Outcome

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            report = runner.run(work)
    except ArchiveError as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        _refuse("stopped; the same command goes on from here")
    for day in report.days:
        typer.echo(str(day), err=day.what is Outcome.FAILED)
    if not report.days:
        typer.echo(nothing)
    if report.faults:
        raise typer.Exit(1)


def _to_moment(option: str, text: str | None) -> int | None:
    from datetime import UTC, datetime

    from esp_ingestd.moment import to_moment_us

    try:
        return None if text is None else to_moment_us(option, text, datetime.now(UTC))
    except ValueError as error:
        return _refuse(str(error))


def _refuse(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(1)


WellsArgument = Annotated[list[str] | None, typer.Argument(metavar="WELL", help="Only these. Default: all.")]
WellOption = Annotated[
    list[str] | None, typer.Option("--well", metavar="WELL", help="Only this well. Repeatable. Default: all.")
]
FormatOption = Annotated[
    Format, typer.Option("--format", help="A table for people; csv and json hold every value as it is stored.")
]
ChannelsOption = Annotated[
    str | None, typer.Option(metavar="NAME,NAME", help="Only these channels, by their names. Default: all.")
]


@app.command()
def wells(config: ConfigOption, *, form: FormatOption = Format.TABLE) -> None:
    """List the wells: last reading and its age, running, off or silent, and the alarms that stand.

    Silent is a well that has sent nothing for longer than three of its intervals, and for 5 min at least.
    """
    from esp_ingestd.queries import wells

    settings, settings_of = _load_with_wells(config)
    _show(_ask(settings, lambda database: wells(database, settings_of)), form)


@app.command()
def latest(
    config: ConfigOption,
    names: WellsArgument = None,
    *,
    channels: ChannelsOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show the last reading of each well; in a table with the units, and what there is room for."""
    from esp_ingestd.queries import latest

    settings, settings_of = _load_with_wells(config)
    chosen = _to_channels(channels)
    answer = _ask(settings, lambda database: latest(database, settings_of, names or (), chosen))
    _show(answer, form, chosen="--channels chooses, ")


@app.command()
def history(
    config: ConfigOption,
    well: Annotated[str, typer.Argument(metavar="WELL", help="Of this well.")],
    *,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="From then on: ISO 8601 (without offset UTC), or 90s, 30m, 12h, 7d ago.")
    ] = "24h",
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Before then, given as --since is. Default: now.")
    ] = None,
    every: Annotated[
        Every | None,
        typer.Option(
            help="Readings as they came, or what they came to by the hour or day. Default: raw for up to a day, "
            "hourly for up to 60 days, else daily.",
        ),
    ] = None,
    channels: ChannelsOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MOST_ROWS, metavar="ROWS", help="At most so many, the newest.")
    ] = 1000,
    chart: Annotated[bool, typer.Option("--chart", help="Draw each channel in place of a table.")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what a well measured, oldest first: readings, or least, mean and greatest by the hour or day."""
    import time

    from esp_ingestd.answer import Period
    from esp_ingestd.queries import every_for, history
    from esp_ingestd.table import terminal_width

    until_us = _to_moment("--until", until) or time.time_ns() // 1_000
    period = Period(since_us=_to_moment("--since", since) or 0, until_us=until_us)
    if period.since_us >= period.until_us:
        _refuse(f"--since {since}: is not before the end, {until or 'now'}")
    if chart and form is not Format.TABLE:
        _refuse("--chart draws for people: leave out --format")
    settings, settings_of = _load_with_wells(config)
    by, chosen = every or every_for(period), _to_channels(channels)
    found = _ask(
        settings,
        lambda database: history(database, settings_of, well, period, by, chosen, MOST_ROWS if chart else limit),
    )
    if chart:
        typer.echo("\n".join(found.charts(terminal_width())))
        _note(found.notes)
    else:
        _show(found.answer, form, chosen="--channels chooses, ")


@app.command()
def summary(
    config: ConfigOption,
    *,
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="From then on: ISO 8601 (without offset UTC), or 12h, 7d ago; from the beginning of that hour, of "
            "that day if it is more than 3 days ago.",
        ),
    ] = "24h",
    form: FormatOption = Format.TABLE,
) -> None:
    """Sum up each well, and the field: readings, uptime, mean flow, alarms by severity, dead letters."""
    from esp_ingestd.queries import summary

    settings, since_us = _load(config), _to_moment("--since", since) or 0
    _show(_ask(settings, lambda database: summary(database, settings.mqtt.topics, since_us)), form)


@app.command()
def alarms(
    config: ConfigOption,
    *,
    past: Annotated[
        bool,
        typer.Option("--history/--standing", help="Every transition since --since, or the alarms that stand now."),
    ] = False,
    critical: Annotated[bool, typer.Option("--critical", help="Only those of severity critical.")] = False,
    well: WellOption = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only those since then: ISO 8601 (without offset UTC), or 90s, 30m, 12h, 7d ago. "
            "Default: all that stand; with --history 24h.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MOST_ROWS, metavar="ROWS", help="With --history: at most so many, the newest.")
    ] = 1000,
    form: FormatOption = Format.TABLE,
) -> None:
    """List the alarms that stand, worst first, or with --history what became of each, oldest first."""
    from esp_ingestd.queries import alarm_history, standing_alarms

    severity = "critical" if critical else None
    settings, names = _load(config), well or ()
    if past:
        since_us = _to_moment("--since", since or "24h") or 0
        _show(_ask(settings, lambda database: alarm_history(database, names, severity, since_us, limit)), form)
    else:
        from_us = _to_moment("--since", since)
        _show(_ask(settings, lambda database: standing_alarms(database, names, severity, from_us)), form)


def _ask(settings: "Settings", question: "Callable[[Database], Awaitable[T]]") -> "T":
    import asyncio

    from esp_ingestd.queries import ask

    try:
        return asyncio.run(ask(settings, question))
    except ValueError as error:  # there is no such well
        _refuse(str(error))


def _show(answer: "Answer", form: Format, *, chosen: str = "") -> None:
    from esp_ingestd.table import show_rows

    left_out = show_rows(answer.rows, answer.columns, form)
    if answer.headline and form is Format.TABLE:
        typer.echo(answer.headline)
    _note(answer.notes)
    if left_out:
        _note([f"no room for {len(left_out)} more columns: {chosen}--format csv has all"])


def _note(notes: "Sequence[str]") -> None:
    for note in notes:
        typer.echo(note, err=True)


def _to_channels(text: str | None) -> "Sequence[str]":
    from esp_ingestd.core.reading import CHANNEL_NAMES

    names = CHANNEL_NAMES if text is None else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in CHANNEL_NAMES]:
        _refuse(f"--channels {', '.join(unknown)}: there is none; allowed are {', '.join(CHANNEL_NAMES)}")
    return names


def _load_with_wells(config: Path) -> "tuple[Settings, Wells]":
    from esp_ingestd.config import load_wells

    settings = _load(config)
    return settings, load_wells(settings.diagnosis.wells_file)


@app.command()
def maintenance(config: ConfigOption) -> None:
    """One pass over the store, as the daemon's maintenance does it: rollups, archive, verification, retention.

    For cron or a timer; safe beside the daemon and beside itself. What another one is at is left to it.
    """
    import asyncio

    from esp_ingestd.maintenance import EVERYTHING, run_steps
    from esp_ingestd.telemetry import set_up_log

    settings = _load(config)
    set_up_log("warning", settings.log.format)
    steps = asyncio.run(run_steps(settings, EVERYTHING))
    for step in steps:
        for line in step.lines():
            typer.echo(line)
    if any(step.faults for step in steps):
        raise typer.Exit(1)


def _load(config: Path) -> "Settings":
    from esp_ingestd.config import load_settings

    return load_settings(config)
