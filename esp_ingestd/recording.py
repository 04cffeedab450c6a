"""Recordings: telemetry kept in files, read back one reading at a time, in the order of the file.

A CSV has a header: `well_id`, `timestamp`, and channels by their names in CONTRACT §3; any other column is a key
like any other, an empty cell is an absent one. JSON lines hold one payload object a line, with its `well_id`.
Only what pacing needs is judged here (well and time, the latter by the same validator as in decoding); whether
a reading is good is decided by decoding, as it is for those off the broker.
"""

import csv
import json
import re
from codecs import iterdecode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from esp_ingestd.core.reading import CHANNEL_NAMES, WELL_ID_PATTERN, to_microseconds

CSV_SUFFIXES: Final = (".csv",)
JSON_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
_DATETIME: Final = TypeAdapter(datetime)
_WELL_ID: Final = re.compile(WELL_ID_PATTERN)


class RecordingError(ValueError):
    """What cannot be read; the text begins with file and line."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}" if line else f"{path}: {why}")
        self.path = path
        self.line = line
        """From 1; 0 where it is the file as a whole."""


class Recorded(NamedTuple):
    """One reading of a recording."""

    well_id: str
    timestamp_us: int
    """Event time, microseconds since 1970 UTC."""
    values: Mapping[str, object]
    """The payload: `well_id`, `timestamp` as the file has it, channels, and whatever else there was."""
    line: int
    raw: bytes | None = None
    """The payload's own bytes, where the file holds it as JSON."""

    @property
    def payload(self) -> bytes:
        """The payload as JSON; of JSON lines the very bytes of the line."""
        return self.raw if self.raw is not None else json.dumps(self.values, separators=(",", ":")).encode()


def read_recording(
    path: Path, *, naive_is_utc: bool = False, on_error: Callable[[RecordingError], None] | None = None
) -> Iterator[Recorded]:
    """The readings of a file, one at a time; the file is never held in memory.

    Args:
        path: a `.csv` file, or one of JSON lines: `.jsonl`, `.ndjson`, `.json`.
        naive_is_utc: take a timestamp without an offset as UTC; else it is an error.
        on_error: called for each line that is no reading, which is then passed over; None raises it.

    Raises:
        RecordingError: a file of another kind, no UTF-8, a header without `well_id`, `timestamp` or any channel;
            with no `on_error` also a line that is no reading.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        lines, parse = _open(path, file)
        for line, content in lines:
            try:
                values, raw = parse(content)
                moment_us = to_timestamp_us(values.get("timestamp"), naive_is_utc=naive_is_utc)
                reading = Recorded(_well_id(values), moment_us, values, line, raw)
            except (ValueError, RecursionError) as error:
                fault = RecordingError(path, line, str(error))
                if on_error is None:
                    raise fault from None
                on_error(fault)
            else:
                yield reading


def to_timestamp_us(value: object, *, naive_is_utc: bool = False) -> int:
    """Microseconds since 1970 UTC of a payload's timestamp: ISO 8601 with an offset, or epoch s or ms.

    Raises:
        ValueError: it is none of these; the text says what is wrong.
    """
    if value is None or isinstance(value, bool):
        raise ValueError("it has no timestamp")
    try:
        moment = _DATETIME.validate_python(value)
    except ValidationError as error:
        raise ValueError(f"timestamp {value!r}: {error.errors()[0]['msg']}") from None
    if moment.tzinfo is None:
        if not naive_is_utc:
            raise ValueError(f"timestamp {value!r} has no offset from UTC")
        moment = moment.replace(tzinfo=UTC)
    return to_microseconds(moment)


_Values = dict[str, object]
_Lines = Iterable[tuple[int, Any]]
_Parse = Callable[[Any], tuple[_Values, bytes | None]]


def _open(path: Path, file: BinaryIO) -> tuple[_Lines, _Parse]:
    """The lines of a file with their numbers, and what makes values of one."""
    suffix = path.suffix.lower()
    if suffix in JSON_SUFFIXES:
        return ((line, text) for line, text in enumerate(file, 1) if not text.isspace()), _from_json
    if suffix not in CSV_SUFFIXES:
        allowed = ", ".join((*CSV_SUFFIXES, *JSON_SUFFIXES))
        raise RecordingError(path, 0, f"files of this kind are not read; allowed are {allowed}")
    rows = _rows(path, iterdecode(file, "utf-8-sig"))
    line, header = next(rows, (1, []))
    missing = {"well_id", "timestamp"}.difference(header)
    if missing or not set(header) & set(CHANNEL_NAMES) or len(set(header)) < len(header):
        why = "the header must name well_id, timestamp and at least one channel, each once"
        raise RecordingError(path, line, f"{why}; it is {','.join(header)[:200]!r}")
    return rows, partial(_from_row, header)


def _rows(path: Path, text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(text)
    try:
        yield from ((rows.line_num, row) for row in rows if row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise RecordingError(path, rows.line_num + 1, str(error)) from None


def _from_row(header: Sequence[str], row: Sequence[str]) -> tuple[_Values, None]:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} cells under {len(header)} columns")
    return {name: _cell(name, text) for name, text in zip(header, row, strict=True) if text}, None


def _cell(name: str, text: str) -> str | float:
    """A number where JSON has it; everything else stays text for decoding to judge."""
    if name in {"well_id", "timestamp"}:
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return number if isfinite(number) else text


def _from_json(line: bytes) -> tuple[_Values, bytes]:
    raw = line.strip()
    values = json.loads(raw)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - bad data, not a wrong call
    return values, raw


def _well_id(values: Mapping[str, object]) -> str:
    well_id = values.get("well_id")
    if not isinstance(well_id, str) or not _WELL_ID.fullmatch(well_id):
        raise ValueError(f"well_id {well_id!r} is none: 1 to 64 of A-Z, a-z, 0-9, _ and -")
    return well_id
