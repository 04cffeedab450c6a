"""Questions that people ask the database: which wells there are, how they do, what they measured, what stands."""

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from esp_ingestd.cli.options import ConfigOption, FormatOption, load, load_with_wells, refuse, to_moment
from esp_ingestd.moment import Every
from esp_ingestd.table import Format, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from esp_ingestd.answer import Answer
    from esp_ingestd.config import Settings
    from esp_ingestd.database import Database

LEAST_ID = 4  # characters of an alarm's id that may name it
FEW = 3  # columns, that are named where there is no room for them
MOST_ROWS = 100_000  # of a history at once: a day at a reading a second
T = TypeVar("T")
WellsArgument = Annotated[list[str] | None, typer.Argument(metavar="WELL", help="Only these. Default: all.")]
WellOption = Annotated[
    list[str] | None, typer.Option("--well", metavar="WELL", help="Only this well. Repeatable. Default: all.")
]
ChannelsOption = Annotated[
    str | None, typer.Option(metavar="NAME,NAME", help="Only these channels, by their names. Default: all.")
]


def wells(config: ConfigOption, *, form: FormatOption = Format.TABLE) -> None:
    """List the wells: last reading and its age, running, off or silent, and the alarms that stand.

    Silent is a well that has sent nothing for three and a quarter of its intervals, and for 5 min at least.
    """
    from esp_ingestd.queries import wells

    settings, settings_of = load_with_wells(config)
    _show(_ask(settings, lambda database: wells(database, settings_of)), form)


def latest(
    config: ConfigOption,
    names: WellsArgument = None,
    *,
    channels: ChannelsOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show the last reading of each well; in a table with the units, and what there is room for."""
    from esp_ingestd.queries import latest

    settings, settings_of = load_with_wells(config)
    chosen = _to_channels(channels)
    answer = _ask(settings, lambda database: latest(database, settings_of, names or (), chosen))
    _show(answer, form, chosen="--channels chooses, ")


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

    until_us = to_moment("--until", until) or time.time_ns() // 1_000
    period = Period(since_us=to_moment("--since", since) or 0, until_us=until_us)
    if period.since_us >= period.until_us:
        refuse(f"--since {since}: is not before the end, {until or 'now'}")
    if chart and form is not Format.TABLE:
        refuse("--chart draws for people: leave out --format")
    settings, settings_of = load_with_wells(config)
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

    settings, since_us = load(config), to_moment("--since", since) or 0
    _show(_ask(settings, lambda database: summary(database, settings.mqtt.topics, since_us)), form)


def alarms(
    config: ConfigOption,
    *,
    alarm: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="All that was told of this alarm, with the questions that led to it: its alarm_id, or how that "
            "begins, as tables show it. Default: none.",
        ),
    ] = None,
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
    """List the alarms that stand, worst first, or with --history what became of each, oldest first.

    With --alarm tell the story of one: what was told of it, and the questions that led to it.
    """
    from esp_ingestd.queries import alarm_history, standing_alarms

    severity = "critical" if critical else None
    settings, names = load(config), well or ()
    if alarm is not None:
        _tell(settings, config, alarm, names, to_moment("--since", since), form)
        return
    if past:
        since_us = to_moment("--since", since or "24h") or 0
        found = _ask(settings, lambda database: alarm_history(database, names, severity, since_us, limit))
    else:
        from_us = to_moment("--since", since)
        found = _ask(settings, lambda database: standing_alarms(database, names, severity, from_us))
    _show(found, form)
    if found.rows and form is Format.TABLE:
        typer.echo("--alarm ID tells the story of one, with the questions that led to it")


def _tell(
    settings: "Settings", config: "Path", alarm: str, names: "Sequence[str]", since_us: int | None, form: Format
) -> None:
    """Tell the story of one alarm."""
    from esp_ingestd.queries import alarm_story

    if len(alarm) < LEAST_ID:
        refuse(f"--alarm {alarm}: at least {LEAST_ID} characters of an alarm_id")
    story = _ask(settings, lambda database: alarm_story(database, alarm, names, since_us))
    if form is not Format.TABLE:
        _show(story.answer, form)
        return
    for line in story.lines():
        typer.echo(printable(line))
    if command := story.explain(str(config)):
        _note(["", "what every question saw when it was raised:", f"  {command}"])


def _ask(settings: "Settings", question: "Callable[[Database], Awaitable[T]]") -> "T":
    import asyncio

    from esp_ingestd.queries import ask

    try:
        return asyncio.run(ask(settings, question))
    except ValueError as error:  # there is no such well
        refuse(str(error))


def _show(answer: "Answer", form: Format, *, chosen: str = "") -> None:
    from esp_ingestd.table import show_rows

    left_out = show_rows(answer.rows, answer.columns, form)
    if answer.headline and form is Format.TABLE:
        typer.echo(answer.headline)
    _note(answer.notes)
    if left_out:
        which = f": {', '.join(left_out)}" if len(left_out) <= FEW else f" {len(left_out)} more columns"
        _note([f"no room for{which}; {chosen}--format csv has all"])


def _note(notes: "Sequence[str]") -> None:
    for note in notes:
        typer.echo(note, err=True)


def _to_channels(text: str | None) -> "Sequence[str]":
    from esp_ingestd.core.reading import CHANNEL_NAMES

    names = CHANNEL_NAMES if text is None else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in CHANNEL_NAMES]:
        refuse(f"--channels {', '.join(unknown)}: there is none; allowed are {', '.join(CHANNEL_NAMES)}")
    return names
