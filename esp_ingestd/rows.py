"""Readings as the rows of a binary COPY, and back.

What waits on disk for the database is kept in the form that it goes there in: it is made when there is time for it,
and the backlog of an outage drains without one look at its values. Source: PostgreSQL's manual, COPY, "Binary Format":
a row is its number of columns, then for each column a length in bytes, -1 for NULL, and the value as the type sends it.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, overload

from esp_ingestd.core.reading import CHANNELS, Reading
from esp_ingestd.rollup import Stale, stale_with

POSTGRES_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01 UTC, where PostgreSQL's timestamps begin
HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, flags, length of an extension
TAIL: Final = b"\xff\xff"

_COLUMNS: Final = struct.pack(">h", len(Reading._fields))
_NULL: Final = struct.pack(">i", -1)
_JSONB_VERSION: Final = b"\x01"
_TEXT_ARRAY: Final = struct.pack(">iii", 1, 0, 25)  # dimensions, has NULLs, the elements' type (text)
_length: Final = struct.Struct(">i")
_eight_bytes: Final = struct.Struct(">iq").pack
_number: Final = struct.Struct(">id").pack


@dataclass(frozen=True, slots=True)
class CopyRows(Sequence[Reading]):
    """Readings in the form of COPY; who looks at one takes all of them apart, which is slow."""

    data: bytes
    rows: int
    earliest_us: int
    """The smallest of their timestamps, microseconds since 1970 UTC."""
    arrived_us: int
    """When the last of them arrived, likewise."""
    stale: Stale
    """What of the rollups they make stale."""

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> "CopyRows":
        """These readings, at least one."""
        earliest_us = min(map(itemgetter(1), readings))
        data = b"".join(map(_encode, readings))
        return cls(data, len(readings), earliest_us, readings[-1].received_us, stale_with(readings))

    @classmethod
    def join(cls, parts: "Sequence[CopyRows]") -> "CopyRows":
        """All of them in this order; at least one."""
        return cls(
            b"".join([part.data for part in parts]),
            sum(part.rows for part in parts),
            min(part.earliest_us for part in parts),
            parts[-1].arrived_us,
            Stale(
                frozenset().union(*(part.stale.hours for part in parts)),
                frozenset().union(*(part.stale.of_wells for part in parts)),
            ),
        )

    def __len__(self) -> int:
        """How many."""
        return self.rows

    def __iter__(self) -> Iterator[Reading]:
        """Each of them."""
        return _decode_rows(self.data)

    @overload
    def __getitem__(self, index: int) -> Reading: ...
    @overload
    def __getitem__(self, index: slice) -> list[Reading]: ...
    def __getitem__(self, index: int | slice) -> Reading | list[Reading]:
        """One or some of them."""
        return list(self)[index]


def _encode(reading: Reading) -> bytes:
    well_id, timestamp_us, *channels, extra, bad_channels, received_us = reading
    return b"".join(
        [
            _COLUMNS,
            _sized(well_id.encode()),
            _eight_bytes(8, timestamp_us - POSTGRES_EPOCH_US),
            *[_NULL if value is None else _number(8, value) for value in channels],
            _NULL if extra is None else _sized(_JSONB_VERSION + extra.encode()),
            _sized(_encode_texts(bad_channels)) if bad_channels else _NULL,
            _eight_bytes(8, received_us - POSTGRES_EPOCH_US),
        ]
    )


def _sized(value: bytes) -> bytes:
    return _length.pack(len(value)) + value


def _encode_texts(texts: Sequence[str]) -> bytes:
    return _TEXT_ARRAY + struct.pack(">ii", len(texts), 1) + b"".join(_sized(text.encode()) for text in texts)


def _decode_rows(data: bytes) -> Iterator[Reading]:
    at = 0
    while at < len(data):
        at += len(_COLUMNS)
        values = []
        for decode in _DECODERS:
            length = _length.unpack_from(data, at)[0]
            at += _length.size
            values.append(None if length < 0 else decode(data[at : at + length]))
            at += max(length, 0)
        yield Reading._make(values)


def _decode_time(value: bytes) -> int:
    return int(struct.unpack(">q", value)[0]) + POSTGRES_EPOCH_US


def _decode_number(value: bytes) -> float:
    return float(struct.unpack(">d", value)[0])


def _decode_texts(value: bytes) -> tuple[str, ...]:
    texts = []
    at = len(_TEXT_ARRAY) + 8
    while at < len(value):
        end = at + _length.size + _length.unpack_from(value, at)[0]
        texts.append(value[at + _length.size : end].decode())
        at = end
    return tuple(texts)


_DECODERS: Final[Sequence[Callable[[bytes], object]]] = (
    bytes.decode,
    _decode_time,
    *(_decode_number for _ in CHANNELS),
    lambda value: value[1:].decode(),
    _decode_texts,
    _decode_time,
)
