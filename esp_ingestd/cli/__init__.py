"""What you can do: the commands, in the order in which `--help` lists them, and how the program ends.

One module a group of commands, one function a command; each takes its arguments apart and leaves the work to another
module. What a command needs is imported inside it: the program must start in a fraction of a second.
"""

import sys
from typing import Annotated, Final

import typer

from esp_ingestd.cli import backtest, daemon, data, field, letters, questions

EX_CONFIG = 78  # sysexits.h
EX_USAGE = 2  # click's own, for options that it refuses
COMMANDS: Final = {
    "The daemon": (daemon.run, daemon.check, daemon.migrate, daemon.maintenance, daemon.spool),
    "Questions to the database": (
        questions.wells,
        questions.latest,
        questions.history,
        questions.summary,
        questions.alarms,
        letters.letters,
    ),
    "Data in, out and back": (data.backfill, data.archive, data.restore),
    "Trying it": (field.demo, field.simulate, backtest.diagnose, backtest.diagram),
}


def _version(value: bool) -> None:  # noqa: FBT001 - typer's signature
    if value:
        from esp_ingestd import __version__

        typer.echo(f"esp-ingestd {__version__}")
        raise typer.Exit


def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    del version


def _program() -> typer.Typer:
    program = typer.Typer(
        name="esp-ingestd",
        help="Ingest telemetry of electrical submersible pumps from MQTT into TimescaleDB, and name what ails a pump.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        callback=_options,
    )
    for panel, commands in COMMANDS.items():
        for command in commands:
            if isinstance(command, typer.Typer):
                for each in command.registered_commands:
                    each.help = _flowing(each.callback)
                program.add_typer(command, rich_help_panel=panel)
            else:
                program.command(help=_flowing(command), rich_help_panel=panel)(command)
    return program


def _flowing(command: object) -> str:
    """What a command says of itself, a line a paragraph: the terminal breaks it where it ends."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (command.__doc__ or "").split("\n\n"))


app = _program()


def main() -> None:
    """The console script."""
    from esp_ingestd.errors import ConfigurationError, Unavailable, in_words

    try:
        app()
    except SystemExit as end:
        sys.exit(1 if end.code == EX_USAGE else end.code)  # CONTRACT §1 knows 0, 78 and 1
    except ConfigurationError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 - plain lines, whatever the terminal
        sys.exit(EX_CONFIG)
    except (Unavailable, OSError) as error:
        print(f"esp-ingestd: {in_words(error)}", file=sys.stderr)  # noqa: T201 - likewise
        sys.exit(1)
