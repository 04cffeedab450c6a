"""The decision tree on trial, without a daemon: telemetry in, alarm events out; and the tree as a drawing."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esp_ingestd.cli.options import load, refuse, to_moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from esp_ingestd.core.well import WellSettings


def diagnose(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[INPUT ... | -]",
            help="JSON lines or CSV (.csv); - reads JSON lines from standard input. Without any: the database of "
            "--config or --dsn, else standard input.",
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
        typer.Option(metavar="WELL", help="Judge only this well. Repeatable. Default: all."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Judge only readings from then on: ISO 8601 (without offset UTC), or 90d ago. Default: all.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Judge only readings before then, likewise. Default: all.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="For each reading, the questions asked, to standard error.")
    ] = False,
    explain_since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="--explain, but only from then on; what came before is judged all the same, since it says what is "
            "normal for a well. Default: every reading that is judged.",
        ),
    ] = None,
    summary: Annotated[bool, typer.Option(help="A table of the diagnoses at the end, to standard error.")] = True,
) -> None:
    """Back-test: telemetry in, oldest first; alert events out as JSON lines.

    Telemetry comes from files or standard input, or, with --config or --dsn and no INPUT, from the database, in order
    of its timestamps. Nothing is written anywhere but to standard output and standard error.
    """
    import json
    from functools import partial

    from esp_ingestd.core.decode import Decoder
    from esp_ingestd.diagnose import BackTest, Choice, Trial, lines_of
    from esp_ingestd.recording import RecordingError
    from esp_ingestd.shipped import load_tree

    settings = load(config) if config else None
    from_database = dsn is not None or (config is not None and not inputs)
    if from_database and inputs:
        refuse("either INPUT or --dsn, not both")
    if not inputs and not from_database and sys.stdin.isatty():
        refuse("nothing to judge: name files, - for standard input, or a database by --config or --dsn")
    choice = Choice(wells=well or (), since_us=to_moment("--since", since), until_us=to_moment("--until", until))
    if choice.is_empty:
        refuse(f"--since {since}: is not before --until {until}")
    say = partial(print, file=sys.stderr)
    settings_of = _settings_of(wells or (settings.diagnosis.wells_file if settings else None))
    tree = tree or (settings.diagnosis.tree_file if settings else None)
    trees = [tree, against] if against else [tree]
    test = BackTest(
        [Trial(str(each or "the shipped tree"), load_tree(each), settings_of) for each in trees],
        tell=lambda event: sys.stdout.write(json.dumps(event.payload(), separators=(",", ":")) + "\n"),
        choice=choice,
        explain=say if explain or explain_since else None,
        explain_since_us=to_moment("--explain-since", explain_since) or 0,
    )
    if from_database:
        import asyncio

        from esp_ingestd.config import database_at

        database = database_at(dsn or "") if dsn is not None or settings is None else settings.database
        try:
            asyncio.run(test.take_stored(database))
        except ValueError as error:  # there is no such well
            refuse(str(error))
    else:
        naive = settings.mqtt.naive_timestamps if settings else "refuse"
        decoder = Decoder([], units_of=lambda well_id: settings_of(well_id).units, naive_timestamps=naive)
        try:
            test.take_lines(lines_of(inputs or [Path("-")]), decoder, sys.stderr)
        except RecordingError as error:
            refuse(str(error))
    test.finish()
    if summary:
        for line in test.lines():
            say(line)


def _settings_of(wells: Path | None) -> "Callable[[str], WellSettings]":
    """The settings of a well by its id, as the wells file has them; without one all wells run on the defaults."""
    from esp_ingestd.core.well import WellSettings

    if wells is None:
        defaults = WellSettings()
        return lambda _well_id: defaults
    from esp_ingestd.config import load_wells  # its parser takes a fifth of a second to import

    return load_wells(wells)


class Drawing(StrEnum):
    """What can be drawn."""

    TREE = "tree"
    ALARM = "alarm"
    SHELF = "shelf"
    QUESTIONS = "questions"
    TERMS = "terms"
    FEATURES = "features"


def diagram(
    what: Annotated[
        Drawing,
        typer.Argument(
            help="The decision tree, the life of an alarm, how one is shelved; as tables the tree's questions, its "
            "terms, and the features that they may ask about."
        ),
    ],
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
    from esp_ingestd.diagram import alarm_diagram, feature_table, question_table, redraw, term_table, tree_diagram
    from esp_ingestd.shipped import load_tree

    drawing = {
        Drawing.TREE: lambda: tree_diagram(load_tree(tree)),
        Drawing.ALARM: lambda: alarm_diagram(TABLE),
        Drawing.SHELF: lambda: alarm_diagram(SHELF),
        Drawing.QUESTIONS: lambda: question_table(load_tree(tree)),
        Drawing.TERMS: lambda: term_table(load_tree(tree)),
        Drawing.FEATURES: feature_table,
    }[what]()
    if into is None:
        sys.stdout.write(drawing)
        return
    try:
        into.write_text(redraw(into.read_text("utf-8"), what.value, drawing), "utf-8")
    except ValueError as error:
        refuse(f"{into}: {error}")
