"""Rows shown to people and programs: a table, CSV, or JSON, on standard output."""

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

WIDTH: Final = 200  # characters of a table where there is no terminal
PROSE_WIDTH: Final = 30  # characters that a column of prose wants at least
_GAP: Final = 3  # characters from a column to the next
_STYLES: Final[Mapping[str, str]] = {"critical": "bold white on red", "high": "bold red", "medium": "yellow"}


class Format(StrEnum):
    """How rows are shown."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Column:
    """One column; what is not its name is for tables alone, since programs want every value as it is."""

    name: str
    heading: str = ""
    """By default the name."""
    show: Callable[[Any], str] | None = None
    """The text of a value that is not None; by default the value as it is."""
    rank: int = 0
    """Above 0 a table leaves it out where it is empty, or has no room: the greatest rank first, then the last one."""
    is_prose: bool = False
    """It may be broken into lines, where there is no room for it in one."""
    in_table: bool = True
    only_in_table: bool = False


def show_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column | str], form: Format, nothing: str = ""
) -> list[str]:
    """Show rows, each with these columns; JSON is one array, a row a line.

    Args:
        rows: what to show.
        columns: in their order.
        form: how.
        nothing: what people are told in place of a table without rows.

    Returns:
        The names of the columns that a table had no room for.
    """
    every = [each if isinstance(each, Column) else Column(each) for each in columns]
    if form is Format.TABLE and not rows:
        sys.stdout.write(f"{nothing}\n" if nothing else "")
        return []
    if form is Format.TABLE:
        return _show_table(rows, [column for column in every if column.in_table])
    names = [column.name for column in every if not column.only_in_table]
    if form is Format.JSON:
        lines = (json.dumps({name: row[name] for name in names}, ensure_ascii=False) for row in rows)
        sys.stdout.write("[" + ",\n ".join(lines) + "]\n")
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_to_text(row[name]) for name in names] for row in rows)
    return []


def decimals(values: Iterable[float | None]) -> Callable[[float], str]:
    """How numbers of one column are shown: as many decimals for all as the greatest of them deserves."""
    numbers = [abs(value) for value in values if value is not None]
    most = max(numbers, default=0.0)
    digits = 0 if all(map(float.is_integer, map(float, numbers))) else 1 if most >= 100 else 2 if most >= 10 else 3  # noqa: PLR2004
    return lambda value: f"{value:.{digits}f}"


def terminal_width() -> int:
    """How many characters fit into a line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH


def _show_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[str]:
    from rich import box  # noqa: PLC0415 - slow to import, and for tables only
    from rich.console import Console  # noqa: PLC0415 - likewise
    from rich.table import Table  # noqa: PLC0415 - likewise
    from rich.text import Text  # noqa: PLC0415 - likewise

    columns = [each for each in columns if not each.rank or any(row[each.name] is not None for row in rows)]
    texts = {each.name: [_cell(row[each.name], each.show) for row in rows] for each in columns}
    shown, left_out = _fit(columns, texts)
    table = Table(box=box.SIMPLE_HEAD)
    for column in shown:
        values = [row[column.name] for row in rows]
        is_number = any(isinstance(value, (int, float)) for value in values)
        heading = column.heading or column.name
        table.add_column(
            heading, justify="right" if is_number else "left", overflow="fold", no_wrap=not column.is_prose
        )
    for row in zip(*(texts[column.name] for column in shown), strict=True):
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in row))
    Console(width=terminal_width()).print(table)
    return left_out


def _fit(columns: Sequence[Column], texts: Mapping[str, Sequence[str]]) -> tuple[list[Column], list[str]]:
    """The columns that there is room for, and the names of the others."""
    from rich.cells import cell_len  # noqa: PLC0415 - as above

    def width_of(column: Column) -> int:
        widest = max(map(cell_len, [*(column.heading or column.name).splitlines(), *texts[column.name]]))
        return (min(widest, PROSE_WIDTH) if column.is_prose else widest) + _GAP

    room = terminal_width() - 1
    left_out: list[str] = []
    for column in sorted(columns, key=lambda each: each.rank):
        room -= width_of(column)
        if column.rank and (room < 0 or left_out):
            left_out.append(column.name)
    return [column for column in columns if column.name not in left_out], left_out


def _cell(value: Any, show: Callable[[Any], str] | None) -> str:  # noqa: ANN401 - whatever a row holds
    return printable(show(value) if show and value is not None else _to_text(value))


def _to_text(value: object) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list, bool)) else str(value)


def printable(text: str) -> str:
    """Text that strangers sent, without what a terminal would act on."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
