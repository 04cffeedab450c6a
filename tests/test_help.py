"""What `--help` says of every command: each option explained, with its default (CONTRACT §1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from esp_ingestd import cli

if TYPE_CHECKING:
    from collections.abc import Iterator


def options(command: Any, path: str = "esp-ingestd") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - click's, vendored by typer
    """Every option of a command and of those below it, by where it stands."""
    for name, below in getattr(command, "commands", {}).items():
        yield from options(below, f"{path} {name}")
    yield from ((f"{path} {each.opts[0]}", each) for each in command.params if each.opts[0].startswith("--"))


OPTIONS = dict(options(typer.main.get_command(cli.app)))


def test_every_command_is_looked_at() -> None:
    assert {"esp-ingestd run --config", "esp-ingestd archive run --since"} <= OPTIONS.keys()


@pytest.mark.parametrize("where", OPTIONS)
def test_an_option_says_what_it_is_and_its_default(where: str) -> None:
    option = OPTIONS[where]
    shown = option.is_flag or option.default not in {None, ()}
    assert option.help
    assert option.required or shown or "efault" in option.help
