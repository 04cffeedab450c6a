"""Recordings: telemetry kept in files, read back one reading at a time, in the order of the file.

A CSV has a header: `well_id`, `timestamp`, and channels by their names in CONTRACT §3; any other column is a key
like any other, an empty cell is an absent one. JSON lines hold one payload a line, with its `well_id`. Parquet has
columns as CSV has; a null is an absent value.

`open_recording` judges nothing but the header, and can begin where an earlier reader left off. `read_recording` judges
what pacing needs (well and time, the latter by the same validator as in decoding). Whether a reading is good is
decided by decoding, as it is for those off the broker.
"""

import csv
import json
import os
import re
from abc import ABC, abstractmethod
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC
from itertools import chain
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from pydantic_core import SchemaValidator, ValidationError, core_schema

from esp_ingestd.core.decode import Reason, Rejection
from esp_ingestd.core.reading import CHANNEL_NAMES, WELL_ID_PATTERN, to_microseconds

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch, Table

CSV_SUFFIXES: Final = (".csv",)
JSON_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIXES: Final = (".parquet", ".pq")
BLOCK_BYTES: Final = 1_048_576
PARQUET_BLOCK_ROWS: Final = 10_000
LAST_EPOCH_S: Final = 20_000_000_000  # a greater epoch is in ms, as to decoding
_DATETIME: Final = SchemaValidator(core_schema.datetime_schema())
_WELL_ID: Final = re.compile(WELL_ID_PATTERN)
_EPOCH: Final = re.compile(rb'"timestamp"\s*:\s*\d')
_UTF_16: Final = "is UTF-16; save it as UTF-8, or: iconv -f UTF-16 -t UTF-8"
_FOREIGN: Final = {
    b"\x1f\x8b": "is compressed; gunzip it first",
    b"PK": "is a zip archive or a spreadsheet; allowed are CSV and JSON lines",
    b"PAR1": "is Parquet; `esp-ingestd backfill` reads that, if the file's name ends in .parquet",
    BOM_UTF16_LE: _UTF_16,
    BOM_UTF16_BE: _UTF_16,
}
"""How files begin that are no lines of text, and what to do with them."""


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
        path: a `.csv` file, one of JSON lines (`.jsonl`, `.ndjson`, `.json`), or `.parquet`.
        naive_is_utc: take a timestamp without an offset as UTC; else it is an error.
        on_error: called for each line that is no reading, which is then passed over; None raises it.

    Raises:
        RecordingError: a file of another kind, or a header without `well_id`, `timestamp` or any channel; with no
            `on_error` also a line that is no reading.
        OSError: the file cannot be read.
    """
    with closing(open_recording(path)) as file:
        for line, row in chain.from_iterable(block.rows() for block in file.blocks()):
            try:
                values = _to_values(row)
                moment_us = to_timestamp_us(values.get("timestamp"), naive_is_utc=naive_is_utc)
                raw = row if isinstance(row, bytes) else None
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


class Position(NamedTuple):
    """How far a file was read."""

    offset: int = 0
    """Bytes from its start; in Parquet rows."""
    line: int = 0
    """Lines; in Parquet rows."""


class Unreadable(NamedTuple):
    """A row that cannot be taken apart."""

    raw: bytes
    reason: Reason
    why: str

    @property
    def rejection(self) -> Rejection:
        """What decoding would say of it."""
        return Rejection(self.reason, {self.reason: 1}, {"why": self.why})


Values = dict[str, object]
Row = Values | bytes | Unreadable
"""The values of a row, or the bytes of a JSON document, not judged yet."""


class Block(ABC):
    """Some rows of a file, one after the other."""

    position: Position
    """Behind its last row, once its rows were read."""

    @abstractmethod
    def rows(self, only: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        """Its rows, each with its line from 1; `only` those of these places in the block, from 0, if given."""

    def columns(self, *, naive_is_utc: bool) -> "RecordBatch | None":
        """Its rows as columns `well_id` (text), `timestamp` (with a zone) and channels (double precision).

        None where that cannot be had, for whatever reason: without pyarrow, with other columns, with a cell that is
        of another type. Nothing is judged but the types.
        """
        del naive_is_utc
        return None


class Recording(ABC):
    """An open file, a block at a time; it is never held in memory."""

    size: int
    """What `position.offset` is at the end."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """What is left of it. The rows of a block, or its columns, are to be read before the next."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


def open_recording(path: Path, start: Position = Position()) -> Recording:  # noqa: B008 - immutable
    """Open a file by its suffix, see that its header is good, and go to `start`, behind a block read earlier.

    Raises:
        RecordingError: a file of another kind, or a header without `well_id`, `timestamp` or any channel.
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in PARQUET_SUFFIXES:
        return _ParquetFile(path, start)
    if suffix in {*CSV_SUFFIXES, *JSON_SUFFIXES}:
        return open_lines(path, start)
    allowed = ", ".join((*CSV_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES))
    raise RecordingError(path, 0, f"files of this kind are not read; allowed are {allowed}")


def open_lines(path: Path, start: Position = Position()) -> Recording:  # noqa: B008 - immutable
    """Open a file, or a pipe, as CSV by its suffix, else as JSON lines; else as `open_recording`."""
    return (_CsvFile if path.suffix.lower() in CSV_SUFFIXES else _JsonFile)(path, start)


class _LinesFile(Recording):
    """A file of lines, read as bytes: so that the place of each is known."""

    def __init__(self, path: Path, start: Position) -> None:
        self._file = path.open("rb")
        self._position = start
        self.size = os.fstat(self._file.fileno()).st_size
        begins = self._file.peek(4)
        if why := next((why for mark, why in _FOREIGN.items() if begins.startswith(mark)), ""):
            self.close()
            raise RecordingError(path, 0, why)
        if start.offset:
            self._file.seek(start.offset)
        elif begins.startswith(BOM_UTF8):
            self._position = Position(len(self._file.read(len(BOM_UTF8))))

    def close(self) -> None:
        self._file.close()


class _JsonFile(_LinesFile):
    """One JSON document a line."""

    def blocks(self) -> Iterator[Block]:
        while lines := self._file.readlines(BLOCK_BYTES):
            block = _JsonBlock(self._position, lines)
            self._position = block.position
            yield block


class _JsonBlock(Block):
    def __init__(self, start: Position, lines: Sequence[bytes]) -> None:
        self._start = start
        self._lines = lines
        self.position = Position(start.offset + sum(map(len, lines)), start.line + len(lines))

    def rows(self, only: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        found = ((line, raw.strip()) for line, raw in enumerate(self._lines, self._start.line + 1) if not raw.isspace())
        return (row for place, row in enumerate(found) if only is None or place in only)

    def columns(self, *, naive_is_utc: bool) -> "RecordBatch | None":
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
            from pyarrow import json as columnar  # noqa: PLC0415 - likewise
        except ImportError:
            return None
        content = b"".join(self._lines)
        time_type = pa.int64() if _EPOCH.search(self._lines[0]) else pa.string()
        types = [("well_id", pa.string()), ("timestamp", time_type)]
        types += [(name, pa.float64()) for name in CHANNEL_NAMES]
        try:
            table = columnar.read_json(
                pa.BufferReader(content),
                columnar.ReadOptions(use_threads=False, block_size=len(content) + 1),
                columnar.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="error"),
            )
        except pa.ArrowInvalid:
            return None
        # pyarrow takes several objects on one line, and one on several; the latter cannot be where every line is an
        # object in braces, and then the former shows in the count.
        lines = [line for raw in self._lines if (line := raw.strip())]
        is_one_each = len(lines) == table.num_rows and all(
            line[0] == ord("{") and line[-1] == ord("}") for line in lines
        )
        return _with_times(table, naive_is_utc=naive_is_utc) if is_one_each else None


class _Header(NamedTuple):
    """The columns of a CSV: names, and the places of `well_id`, `timestamp`, the channels, and the others."""

    names: Sequence[str]
    pick: Callable[[Sequence[str]], tuple[str, ...]]
    channels: Sequence[str]
    others: Sequence[tuple[str, int]]


def _read_header(names: Sequence[str]) -> _Header:
    channels = [name for name in names if name in CHANNEL_NAMES]
    known = ("well_id", "timestamp", *channels)
    others = [(name, place) for place, name in enumerate(names) if name not in known]
    return _Header(names, itemgetter(*map(names.index, known)), channels, others)


class _CsvFile(_LinesFile):
    """Comma-separated values under a header."""

    def __init__(self, path: Path, start: Position) -> None:
        super().__init__(path, Position())
        first = _CsvBlock(self, self._position, [], None)
        try:
            names = next(csv.reader(first.lines()), [])
            _check_header(path, 1, names)
        except (csv.Error, RecordingError) as error:
            self.close()
            raise error if isinstance(error, RecordingError) else RecordingError(path, 1, str(error)) from None
        self._header = _read_header(names)
        self._position = first.position
        if start.offset:
            self._position = start
            self._file.seek(start.offset)

    def blocks(self) -> Iterator[Block]:
        while lines := self._file.readlines(BLOCK_BYTES):
            block = _CsvBlock(self, self._position, lines, self._header)
            yield block
            self._position = block.position

    def next_line(self) -> bytes:
        """One line more than the block has: its last row goes on."""
        return self._file.readline()


class _CsvBlock(Block):
    def __init__(self, file: _CsvFile, start: Position, lines: Sequence[bytes], header: _Header | None) -> None:
        self._file = file
        self._start = start
        self._lines = lines
        self._header = header
        self._is_utf8 = True
        self._end = start.offset + sum(map(len, lines))
        self._more: list[bytes] = []
        self.position = Position(self._end, start.line + len(lines))

    def lines(self) -> Iterator[str]:
        """Lines as text: those of the block, and those after it for as long as a row goes on."""
        self.position = self._start
        for raw in chain(self._lines, self._more, self._pull()):
            offset, line = self.position
            self.position = Position(offset + len(raw), line + 1)
            try:
                yield raw.decode()
            except UnicodeDecodeError:
                self._is_utf8 = False
                yield raw.decode(errors="replace")

    def _pull(self) -> Iterator[bytes]:
        while raw := self._file.next_line():
            self._more.append(raw)
            yield raw

    def rows(self, only: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        cells = csv.reader(self.lines())
        began = self._start
        place = 0
        while began.offset < self._end:
            self._is_utf8 = True
            try:
                row: list[str] | csv.Error | None = next(cells, None)
            except csv.Error as error:
                row = error
            if row and (only is None or place in only):
                yield began.line + 1, self._to_row(row, began)
            place += bool(row)
            began = self.position

    def _to_row(self, row: list[str] | csv.Error, began: Position) -> Row:
        assert self._header is not None  # noqa: S101 - the header itself has no rows
        _, pick, channels, others = self._header
        if isinstance(row, csv.Error):
            return self._to_unreadable(began, Reason.NOT_AN_OBJECT, str(row))
        if not self._is_utf8:
            return self._to_unreadable(began, Reason.NOT_UTF8, "it is not all utf-8")
        if len(row) != len(self._header.names):
            why = f"{len(row)} cells under {len(self._header.names)} columns"
            return self._to_unreadable(began, Reason.NOT_AN_OBJECT, why)
        well_id, timestamp, *cells = pick(row)
        values: Values = {"well_id": well_id or None, "timestamp": timestamp or None}
        for name, text in zip(channels, cells, strict=True):
            if text:
                values[name] = _cell(text)
        for name, at in others:
            if text := row[at]:
                values[name] = _cell(text)
        return values

    def _to_unreadable(self, began: Position, reason: Reason, why: str) -> Unreadable:
        lines = [*self._lines, *self._more][began.line - self._start.line : self.position.line - self._start.line]
        return Unreadable(b"".join(lines).rstrip(b"\r\n"), reason, why)

    def columns(self, *, naive_is_utc: bool) -> "RecordBatch | None":
        if self._header is None or self._header.others:
            return None
        content = b"".join(self._lines)
        if b'"' in content or content.count(b"\r") != content.count(b"\r\n"):
            return None  # rows may go on over lines, and what a lone carriage return means is for csv to say
        table = _read_csv(content, self._header.names)
        return _with_times(table, naive_is_utc=naive_is_utc) if table else None


def _read_csv(content: bytes, names: Sequence[str]) -> "Table | None":
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
        from pyarrow import csv as columnar  # noqa: PLC0415 - likewise
    except ImportError:
        return None
    types = dict.fromkeys(names, pa.float64()) | {"well_id": pa.string(), "timestamp": pa.string()}
    try:
        return columnar.read_csv(
            pa.BufferReader(content),
            columnar.ReadOptions(use_threads=False, column_names=names, block_size=len(content) + 1),
            columnar.ParseOptions(quote_char=False),
            columnar.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
        )
    except pa.ArrowInvalid:
        return None


def _with_times(table: "Table", *, naive_is_utc: bool) -> "RecordBatch | None":
    """The rows, in `timestamp` times for texts or epochs; None where those are not all of one kind."""
    from pyarrow import ArrowInvalid  # noqa: PLC0415 - an extra, and slow to import

    try:
        times = _to_times(table.column("timestamp"), naive_is_utc=naive_is_utc) if table.num_rows else None
    except ArrowInvalid:
        times = None
    if times is None:
        return None
    table = table.set_column(table.schema.get_field_index("timestamp"), "timestamp", times)
    return table.combine_chunks().to_batches()[0]


def _to_times(column: "Array[Any]", *, naive_is_utc: bool) -> "Array[Any] | None":
    import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
    from pyarrow import compute  # noqa: PLC0415 - likewise

    if pa.types.is_timestamp(column.type):
        zone = column.type.tz and "UTC"
        return column.cast(pa.timestamp("us", zone), safe=False) if zone or naive_is_utc else None  # ns are cut
    if pa.types.is_string(column.type):
        if not (column[0].as_py() or "").isdecimal():
            try:
                return column.cast(pa.timestamp("us", "UTC"))
            except pa.ArrowInvalid:
                return column.cast(pa.timestamp("us")) if naive_is_utc else None
        column = column.cast(pa.int64())
    if not pa.types.is_int64(column.type) or column.null_count:
        return None
    least, most = (bound.as_py() for bound in compute.min_max(column).values())
    unit = "s" if most <= LAST_EPOCH_S else "ms"
    return column.cast(pa.timestamp(unit, "UTC")) if most <= LAST_EPOCH_S or least > LAST_EPOCH_S else None


class _ParquetFile(Recording):
    """Apache Parquet, by pyarrow (the extra `parquet`)."""

    def __init__(self, path: Path, start: Position) -> None:
        try:
            from pyarrow import ArrowInvalid, parquet  # noqa: PLC0415 - an extra, and slow to import
        except ImportError:
            raise RecordingError(path, 0, "Parquet needs pyarrow: pip install 'esp-ingestd[parquet]'") from None
        try:
            self._parquet = parquet.ParquetFile(path)
        except ArrowInvalid as error:
            raise RecordingError(path, 0, f"it is no Parquet: {error}") from None
        _check_header(path, 0, self._parquet.schema_arrow.names)
        self.size = self._parquet.metadata.num_rows
        self._row = start.offset

    def close(self) -> None:
        self._parquet.close()

    def blocks(self) -> Iterator[Block]:
        skip = self._row
        for group in range(self._parquet.num_row_groups):
            rows = self._parquet.metadata.row_group(group).num_rows
            if skip >= rows:
                skip -= rows
                continue
            for batch in self._parquet.iter_batches(PARQUET_BLOCK_ROWS, row_groups=[group]):
                left = batch.slice(skip)
                skip = max(skip - batch.num_rows, 0)
                if left.num_rows:
                    yield _ParquetBlock(self._row, left)
                    self._row += left.num_rows


class _ParquetBlock(Block):
    def __init__(self, row: int, batch: "RecordBatch") -> None:
        self._row = row
        self._batch = batch
        self.position = Position(row + batch.num_rows, row + batch.num_rows)

    def rows(self, only: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        places = range(self._batch.num_rows) if only is None else sorted(only)
        batch = self._batch if only is None else self._batch.take(places)
        names = batch.schema.names
        columns = [_to_list(name, batch.column(place)) for place, name in enumerate(names)]
        for place, cells in zip(places, zip(*columns, strict=True), strict=True):
            values = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}
            yield self._row + place + 1, values

    def columns(self, *, naive_is_utc: bool) -> "RecordBatch | None":
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import

        fields = {field.name: field.type for field in self._batch.schema}
        fields.pop("timestamp")
        has_well = pa.types.is_string(fields.pop("well_id"))
        if not has_well or not set(CHANNEL_NAMES).issuperset(fields):
            return None
        if not all(map(pa.types.is_float64, fields.values())):
            return None
        return _with_times(pa.Table.from_batches([self._batch]), naive_is_utc=naive_is_utc)


def _to_list(name: str, column: "Array[Any]") -> list[object]:
    """The cells as Python has them: a time as ISO 8601 text, cut to the microsecond, with an offset if it has one."""
    import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import

    if pa.types.is_timestamp(column.type):
        zone = column.type.tz and "UTC"
        column = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.string())
    elif name in CHANNEL_NAMES and pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return cast("list[object]", column.to_pylist())


def _check_header(path: Path, line: int, header: Sequence[str]) -> None:
    missing = {"well_id", "timestamp"}.difference(header)
    if missing or not set(header) & set(CHANNEL_NAMES) or len(set(header)) < len(header):
        why = "the header must name well_id, timestamp and at least one channel, each once, between commas"
        allowed = f"channels are {', '.join(CHANNEL_NAMES)}"
        raise RecordingError(path, line, f"{why}; it is {','.join(header)[:200]!r}; {allowed}")


def _cell(text: str) -> str | float:
    """A number where JSON has it; everything else stays text for decoding to judge."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if isfinite(number) and "_" not in text else text


def _to_values(row: Row) -> Mapping[str, object]:
    if isinstance(row, Unreadable):
        raise ValueError(row.why)  # noqa: TRY004 - bad data, not a wrong call
    values = row if isinstance(row, dict) else json.loads(row)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - likewise
    return {name: value for name, value in values.items() if value is not None}


def _well_id(values: Mapping[str, object]) -> str:
    well_id = values.get("well_id")
    if not isinstance(well_id, str) or not _WELL_ID.fullmatch(well_id):
        raise ValueError(f"well_id {well_id!r} is none: 1 to 64 of A-Z, a-z, 0-9, _ and -")
    return well_id
