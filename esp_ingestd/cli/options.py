"""What the commands share: options, how they are read, and how a command refuses."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from esp_ingestd.table import Format

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from esp_ingestd.config import Settings, Wells

ConfigOption = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The configuration, TOML. See config/esp-ingestd.toml.")
]
FormatOption = Annotated[
    Format, typer.Option("--format", help="A table for people; csv and json hold every value as it is stored.")
]


def load(config: Path) -> "Settings":
    """The configuration, checked whole.

    Raises:
        ConfigurationError: with every fault.
    """
    from esp_ingestd.config import load_settings

    return load_settings(config)


def load_with_wells(config: Path) -> "tuple[Settings, Wells]":
    """The configuration, and the wells file that it names.

    Raises:
        ConfigurationError: with every fault.
    """
    from esp_ingestd.config import load_wells

    settings = load(config)
    return settings, load_wells(settings.diagnosis.wells_file)


def to_moment(option: str, text: str | None) -> int | None:
    """What an option says of time, microseconds since 1970 UTC; None if it says nothing. Ends with 1 if it is none."""
    from datetime import UTC, datetime

    from esp_ingestd.moment import to_moment_us

    try:
        return None if text is None else to_moment_us(option, text, datetime.now(UTC))
    except ValueError as error:
        return refuse(str(error))


def refuse(why: str) -> NoReturn:
    """End with 1, and say why on standard error."""
    typer.echo(why, err=True)
    raise typer.Exit(1)


def loop_factory() -> "Callable[[], AbstractEventLoop] | None":
    """The faster event loop, where there is one; None: the standard one."""
    try:
        import uvloop
    except ImportError:  # not on every platform
        return None
    return uvloop.new_event_loop
