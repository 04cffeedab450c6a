"""Dead letters: what was refused, why, and trying it again."""

from typing import TYPE_CHECKING, Annotated

import typer

from esp_ingestd.cli.options import ConfigOption, FormatOption, load
from esp_ingestd.table import Format

if TYPE_CHECKING:
    from esp_ingestd.database import LetterFilter

letters = typer.Typer(name="dead-letters", no_args_is_help=True, help="What was refused, why, and trying it again.")
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


@letters.command("list")
def list_dead_letters(
    config: ConfigOption,
    *,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="LETTERS", help="At most so many, the newest.")] = 50,
    form: FormatOption = Format.TABLE,
) -> None:
    """List dead letters, those that came last first."""
    import asyncio

    from esp_ingestd.dead_letters import SHOWN, list_letters
    from esp_ingestd.table import show_rows

    which = _to_filter([], reason, topic, since)
    show_rows(asyncio.run(list_letters(load(config), which, limit)), SHOWN, form, nothing="no dead letters")


@letters.command("show")
def show_dead_letters(
    config: ConfigOption,
    ids: Annotated[list[int], typer.Argument(metavar="ID...", help="Their numbers, as `list` shows them.")],
) -> None:
    """Show dead letters whole: the payload as text if it is UTF-8, else in hex."""
    import asyncio

    from esp_ingestd.dead_letters import show_letters

    try:
        typer.echo("\n\n".join(asyncio.run(show_letters(load(config), ids))))
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@letters.command("replay")
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
    settings = load(config)
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
