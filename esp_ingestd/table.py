"""Rows shown to people and programs: a table, CSV, or JSON, on standard output."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

WIDTH: Final = 200  # characters of a table where there is no terminal


class Format(StrEnum):
    """How rows are shown."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def show_rows(rows: Sequence[Mapping[str, object]], names: Sequence[str], form: Format) -> None:
    """Show rows, each with these names; JSON is one array, a row a line."""
    if form is Format.JSON:
        lines = (json.dumps({name: row[name] for name in names}, ensure_ascii=False) for row in rows)
        sys.stdout.write("[" + ",\n ".join(lines) + "]\n")
    elif form is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_to_text(row[name]) for name in names] for row in rows)
    else:
        _show_table(rows, names)


def _show_table(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> None:
    from rich import box  # noqa: PLC0415 - slow to import, and for tables only
    from rich.console import Console  # noqa: PLC0415 - likewise
    from rich.table import Table  # noqa: PLC0415 - likewise
    from rich.text import Text  # noqa: PLC0415 - likewise

    table = Table(box=box.SIMPLE_HEAD)
    for name in names:
        is_number = bool(rows) and isinstance(rows[0][name], (int, float))
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(_to_text(row[name]))) for name in names))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _to_text(value: object) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def _printable(text: str) -> str:
    """Text that strangers sent, without what a terminal would act on."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
