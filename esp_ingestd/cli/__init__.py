"""What you can do: the commands, in the order in which `--help` lists them, and how the program ends.

One module a group of commands, one function a command; each takes its arguments apart and leaves the work to another
module. What a command needs is imported inside it: the program must start in a fraction of a second.
"""

import atexit
import os
import sys
from contextlib import suppress
from typing import Annotated, Final, TextIO

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
        from esp_ingestd.shipped import core_form

        typer.echo(f"esp-ingestd {__version__}, core {core_form()}")
        raise typer.Exit


def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say which version it is."),
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
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed before we came
        atexit.register(_let_go, stream)
    sys.exit(_run())


def _run() -> int | str | None:
    """Run the command; the status that the program is to end with."""
    from esp_ingestd.errors import ConfigurationError, Unavailable, in_words

    try:
        try:
            app()
        finally:
            if sys.stdout:
                sys.stdout.flush()  # an answer that cannot be written is an error, and can be told here
    except SystemExit as end:
        return 1 if end.code == EX_USAGE else end.code  # CONTRACT §1 knows 0, 78 and 1
    except ConfigurationError as error:
        _say(*error.faults)
        return EX_CONFIG
    except (Unavailable, OSError) as error:
        _say(f"esp-ingestd: {in_words(error)}")
        return 1
    return 0


def _say(*lines: str) -> None:
    with suppress(OSError):  # who cannot read it still gets the status
        print(*lines, sep="\n", file=sys.stderr)  # noqa: T201 - plain lines, whatever the terminal


def _let_go(stream: TextIO) -> None:
    """Forget what cannot be written: for that Python would end with 120, whatever status was meant."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
