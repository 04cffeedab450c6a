"""The data's life: history in, closed days to Parquet files and read back, archived days in again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esp_ingestd.cli.options import ConfigOption, FormatOption, load, loop_factory, refuse, to_moment
from esp_ingestd.table import Format

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import date

    from esp_ingestd.archive import Report

archive = typer.Typer(name="archive", no_args_is_help=True, help="Closed days as Parquet files, in archive.url.")
SinceDayOption = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only days from this one on: ISO 8601, UTC, or an age such as 7d. Default: all."
    ),
]
UntilDayOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only days before this moment, likewise. Default: all.")
]


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

    settings = load(config)
    wells = load_wells(settings.diagnosis.wells_file)
    work = backfill(settings, wells, inputs, max_refused=max_refused, restart=restart, say=typer.echo)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
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


@archive.command("run")
def run_archive(config: ConfigOption, *, since: SinceDayOption = None, until: UntilDayOption = None) -> None:
    """Archive every closed day that is not in the archive as it is in the database, and read each back.

    Of a day that is archived again, for late rows, everything is kept that was archived before. Safe to repeat, and to
    end at any moment.
    """
    settings = load(config)
    _require_archive(settings.archive.url)
    from esp_ingestd.archive.archiving import archive_days

    days = _to_days(since, until)
    _report(archive_days(settings, since=days[0], until=days[1], show_progress=True), "nothing to archive")


@archive.command("verify")
def verify_archive(config: ConfigOption, *, since: SinceDayOption = None, until: UntilDayOption = None) -> None:
    """Read archived days back; compare them with their manifests and, while they are there, the database's rows."""
    settings = load(config)
    _require_archive(settings.archive.url)
    from esp_ingestd.archive.archiving import verify

    days = _to_days(since, until)
    _report(verify(settings, since=days[0], until=days[1], show_progress=True), "nothing is archived")


@archive.command("list")
def list_archive(
    config: ConfigOption,
    *,
    url: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="The archive: a directory or URL. Default: archive.url.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List the days that the archive or the database has, and the state of each; the database may be away."""
    import asyncio

    from esp_ingestd.archive import ArchiveError
    from esp_ingestd.archive.listing import COLUMNS, list_days
    from esp_ingestd.table import show_rows

    settings = load(config)
    try:
        rows, away = asyncio.run(list_days(settings, url or settings.archive.url))
    except ArchiveError as error:
        refuse(str(error))
    show_rows(rows, COLUMNS, form, nothing="" if away else "no days, neither archived nor in the database")
    if away:
        refuse(away)


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
    settings = load(config)
    _require_archive(url or settings.archive.url)
    from esp_ingestd.archive.restoring import restore, tables_of

    span = to_moment("--since", since), to_moment("--until", until)
    chosen = frozenset(well for given in wells or () for well in given.split(",") if well)
    try:
        which = tables_of(tables or (), into)
    except ValueError as error:
        refuse(str(error))
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


def _require_archive(url: str) -> None:
    from esp_ingestd.archive import ArchiveError, require_extra

    try:
        require_extra(url)
    except ArchiveError as error:
        refuse(str(error))


def _to_days(since: str | None, until: str | None) -> "tuple[date | None, date | None]":
    """The first and the last day of what two options say."""
    from esp_ingestd.core.reading import to_datetime

    first, past = to_moment("--since", since), to_moment("--until", until)
    return None if first is None else to_datetime(first).date(), None if past is None else to_datetime(past - 1).date()


def _report(work: "Coroutine[object, object, Report]", nothing: str) -> None:
    """Do it, say what became of each day, and end with 1 if one failed."""
    import asyncio

    from esp_ingestd.archive import ArchiveError, Outcome

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            report = runner.run(work)
    except ArchiveError as error:
        refuse(str(error))
    except KeyboardInterrupt:
        refuse("stopped; the same command goes on from here")
    for day in report.days:
        typer.echo(str(day), err=day.what is Outcome.FAILED)
    if not report.days:
        typer.echo(nothing)
    if report.faults:
        raise typer.Exit(1)
