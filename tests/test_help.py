"""What `--help` says of every command: each option explained, with its default (CONTRACT §1)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
from typer.testing import CliRunner

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


def test_a_help_text_breaks_where_the_terminal_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    for arguments in (["backfill", "--help"], ["archive", "run", "--help"], ["dead-letters", "replay", "--help"]):
        shown = CliRunner().invoke(cli.app, arguments).output.partition("╭")[0]
        lines = [line.strip() for line in shown.splitlines() if line.strip()][1:]
        for line, following in pairwise(lines):
            full = len(f"{line} {following.split()[0]}") > 84
            assert full or line.endswith("."), line
