"""What COPY ... (FORMAT binary) sends, as rows.

A row is how many columns it has, and of each its length, -1 for null, and its value, all of it big-endian (PostgreSQL's
manual, COPY, "Binary Format"). Its width depends on what is null and on how long texts are. A sensor is there or is
not, so most rows are laid out as the one before: those are taken a column at once, thousands of rows together. Rows
that differ one from the next are taken apart one by one, at ten times the cost.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute

from esp_ingestd.archive import ArchiveError
from esp_ingestd.archive.form import Rows, canonical, plain_schema
from esp_ingestd.archive.tables import Column, Kind, Table
from esp_ingestd.rows import POSTGRES_EPOCH_US

SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
HEADER_BYTES: Final = len(SIGNATURE) + 8  # behind it flags, and the length of an extension that nobody has
TRAILER: Final = b"\xff\xff"
ALIKE_ROWS: Final = 32  # as many cost the same at once as one by one
ODD_ROWS: Final = 1024  # one by one, before it is tried again
_LENGTH: Final = struct.Struct(">i").unpack_from
_NUMBER_PATTERN: Final = rb"(?:\xff{4}|\0\0\0\x08(.{8}))"
_TEXT_PATTERN: Final = rb"(?:\xff{4}|\0.{3}([^\0\xff]*))"
_INFINITE: Final = frozenset({-(1 << 63), (1 << 63) - 1})
_SENT: Final = {Kind.NUMBER: (">f8", "<f8"), Kind.TIME: (">i8", "<i8")}


class _Layout(NamedTuple):
    """Where in a row its values are."""

    lengths: Sequence[int]
    """Of each column, bytes; -1 where it is null."""
    offsets: Sequence[int]
    """Of each column's value from the beginning of the row, bytes."""
    width: int
    """Of the row, bytes."""


def from_copy(table: Table, block: bytes) -> Rows:
    """The rows of whole messages; header and trailer may be among them.

    Raises:
        ArchiveError: a time is infinite, which no file could say; or these are no rows.
    """
    schema = plain_schema(table)
    try:
        parts = [pa.RecordBatch.from_arrays(columns, schema=schema) for columns in _parts(table, block)]
    except struct.error:
        raise ArchiveError("the database sent something that is no row") from None
    if not parts:
        return pa.RecordBatch.from_pylist([], schema=schema)
    return canonical(table, parts[0] if len(parts) == 1 else pa.concat_batches(parts))


def _parts(table: Table, block: bytes) -> Iterator[list[pa.Array]]:
    """Columns of stretches of rows."""
    place = HEADER_BYTES if block.startswith(SIGNATURE) else 0
    while place < len(block) and not block.startswith(TRAILER, place):
        layout = _lay_out(block, place, len(table.columns))
        count = _count_alike(block, place, layout)
        if count >= ALIKE_ROWS:
            yield [
                _column(column, block, place + offset, count, layout.width, length)
                for column, length, offset in zip(table.columns, layout.lengths, layout.offsets, strict=True)
            ]
            place += count * layout.width
        else:
            columns, place = _one_by_one(table, block, place)
            yield columns


def _lay_out(block: bytes, place: int, columns: int) -> _Layout:
    lengths, offsets, at = [], [], place + 2
    for _ in range(columns):
        (length,) = _LENGTH(block, at)
        at += 4
        lengths.append(length)
        offsets.append(at - place)
        at += max(length, 0)
    return _Layout(lengths, offsets, at - place)


def _count_alike(block: bytes, place: int, layout: _Layout) -> int:
    """How many rows from here on have the same layout as the first."""
    most = (len(block) - place) // layout.width
    count, step = 1, ALIKE_ROWS
    while count < most:
        some = min(step, most - count)
        alike = np.ones(some, np.bool_)
        for length, offset in zip(layout.lengths, layout.offsets, strict=True):
            alike &= _strided(">i4", block, place + count * layout.width + offset - 4, some, layout.width) == length
        if not alike.all():
            return count + int(alike.argmin())
        count += some
        step *= 4
    return count


def _strided(kind: str, block: bytes, start: int, count: int, width: int) -> "np.ndarray[Any, Any]":
    """One field of rows of the same width."""
    return np.ndarray((count,), kind, block, start, (width,))


def _column(column: Column, block: bytes, start: int, count: int, width: int, length: int) -> pa.Array:
    """A column of rows that are laid out alike."""
    if length < 0:
        return _to_array(column, [None] * count)
    if column.kind in _SENT:
        sent, kept = _SENT[column.kind]
        return _to_plain(column, pa.array(_strided(sent, block, start, count, width).astype(kept)))
    text = _strided(f"V{length}", block, start, count, width).tobytes() if length else b""
    ends = np.arange(count + 1, dtype="<i4") * length
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(ends), pa.py_buffer(text)])


def _one_by_one(table: Table, block: bytes, place: int) -> tuple[list[pa.Array], int]:
    """The columns of the next rows, whatever their layouts, and where they end."""
    row = re.compile(_row_pattern(table), re.DOTALL)
    rows: list[tuple[bytes | None, ...]] = []
    while len(rows) < ODD_ROWS and (found := row.match(block, place)):
        rows.append(found.groups())
        place = found.end()
    if not rows:
        raise struct.error
    return [
        _to_array(column, found) for column, found in zip(table.columns, zip(*rows, strict=True), strict=True)
    ], place


def _row_pattern(table: Table) -> bytes:
    """A row; no text has a byte 0 or 255, with which every length begins that follows one."""
    kinds = (_NUMBER_PATTERN if column.kind in _SENT else _TEXT_PATTERN for column in table.columns)
    return re.escape(len(table.columns).to_bytes(2, "big")) + b"".join(kinds)


def _to_array(column: Column, values: Sequence[bytes | None]) -> pa.Array:
    """Values as they were sent."""
    if column.kind not in _SENT:
        return pa.array(values, pa.string())
    sent, kept = _SENT[column.kind]
    numbers = np.frombuffer(b"".join(value or bytes(8) for value in values), sent).astype(kept)
    nulls = np.fromiter((value is None for value in values), np.bool_, len(values))
    return _to_plain(column, pa.array(numbers, mask=nulls))


def _to_plain(column: Column, values: pa.Array) -> pa.Array:
    """Numbers as they are; times from microseconds since PostgreSQL's epoch."""
    if column.kind is Kind.NUMBER:
        return values
    if {bound.as_py() for bound in compute.min_max(values).values()} & _INFINITE:
        raise ArchiveError(f"has an infinite {column.name}, which no file can hold")
    return compute.add(values, POSTGRES_EPOCH_US).cast(pa.timestamp("us", "UTC"))
