"""What COPY sends in binary, taken apart: rows laid out alike at once, others one by one, never one for another."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esp_ingestd.archive import ArchiveError
from esp_ingestd.archive.copied import ALIKE_ROWS, HEADER_BYTES, ODD_ROWS, SIGNATURE, TRAILER, from_copy
from esp_ingestd.archive.form import plain_schema
from esp_ingestd.archive.tables import NO_UNIT, TIME_UNIT, Column, Kind, Table
from esp_ingestd.rows import POSTGRES_EPOCH_US

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = Table(
    "rows",
    (
        Column("well_id", Kind.TEXT, NO_UNIT),
        Column("timestamp", Kind.TIME, TIME_UNIT),
        Column("pip", Kind.NUMBER, "psi"),
        Column("extra", Kind.JSON, NO_UNIT),
        Column("flow_rate", Kind.NUMBER, "bbl/d"),
    ),
    ("well_id", "timestamp"),
    None,
)
Cell = str | int | float | None
Values = tuple[Cell, ...]
LAST_US = (1 << 63) - 1
HEADER = SIGNATURE.ljust(HEADER_BYTES, b"\0")

texts = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
numbers = st.none() | st.floats(width=64)
rows = st.tuples(texts, st.integers(-(10**15), 10**15) | st.none(), numbers, texts, numbers)
stretches = st.tuples(rows, st.sampled_from([1, 2, ALIKE_ROWS - 1, ALIKE_ROWS, 5 * ALIKE_ROWS + 1]))


def encode(values: Values) -> bytes:
    """A row as the server sends it."""
    sent = [len(values).to_bytes(2, "big")]
    for value in values:
        if isinstance(value, str):
            found = value.encode()
        else:
            found = b"" if value is None else struct.pack(">d" if isinstance(value, float) else ">q", value)
        sent.append(b"\xff\xff\xff\xff" if value is None else len(found).to_bytes(4, "big") + found)
    return b"".join(sent)


def bits(columns: list[pa.Array]) -> list[list[Any]]:
    """Every value; numbers by their bits, so that NaN and the sign of zero count."""
    return [
        [struct.pack(">d", cell) if isinstance(cell, float) else cell for cell in column.to_pylist()]
        for column in columns
    ]


def expected(values: Sequence[Values]) -> list[list[Any]]:
    columns = [list(column) for column in zip(*values, strict=True)]
    columns[1] = [None if isinstance(us, str | None) else us + POSTGRES_EPOCH_US for us in columns[1]]
    return [[struct.pack(">d", cell) if isinstance(cell, float) else cell for cell in column] for column in columns]


def decoded(block: bytes) -> list[list[Any]]:
    columns = list(from_copy(TABLE, block).columns)
    columns[1] = columns[1].cast(pa.int64())
    return bits(columns)


@given(st.lists(stretches, min_size=1, max_size=5), st.sampled_from([b"", HEADER]), st.sampled_from([b"", TRAILER]))
@example([(("", 0, -0.0, None, None), ALIKE_ROWS), (("\uffff", 1, None, "", 1.5), 1)], HEADER, TRAILER)
def test_rows_of_any_layout_are_what_was_sent(parts: list[tuple[Values, int]], header: bytes, trailer: bytes) -> None:
    values = [row for row, times in parts for _ in range(times)]
    assert decoded(header + b"".join(map(encode, values)) + trailer) == expected(values)


def test_neighbours_that_are_laid_out_alike_keep_their_own_values() -> None:
    values = [(f"WELL-{number % 10}", number, number / 7, f"{number % 10}", None) for number in range(5 * ALIKE_ROWS)]
    assert decoded(b"".join(map(encode, values))) == expected(values)


def test_more_odd_rows_than_are_taken_at_once_come_in_their_order() -> None:
    values = [("W" * (number % 3), number, (None, 1.0)[number % 2], None, 0.1) for number in range(3 * ODD_ROWS)]
    assert decoded(b"".join(map(encode, values))) == expected(values)


def test_no_rows_are_none() -> None:
    assert from_copy(TABLE, HEADER + TRAILER).num_rows == from_copy(TABLE, b"").num_rows == 0
    assert from_copy(TABLE, b"").schema == plain_schema(TABLE)


@pytest.mark.parametrize("times", [1, 2 * ALIKE_ROWS])
@pytest.mark.parametrize("moment_us", [LAST_US, -LAST_US - 1])
def test_an_infinite_time_is_refused(moment_us: int, times: int) -> None:
    with pytest.raises(ArchiveError, match="infinite timestamp"):
        from_copy(TABLE, times * encode(("WELL", moment_us, None, None, None)))


def test_what_is_no_row_is_refused() -> None:
    with pytest.raises(ArchiveError, match="no row"):
        from_copy(TABLE, encode(("WELL", 1, 1.0, None, None))[:-3])
