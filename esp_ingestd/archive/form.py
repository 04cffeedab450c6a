"""How rows look in a file: Parquet with one schema, the units in its fields' metadata, and a checksum a column.

Between database and file rows are Arrow record batches of plain columns: JSON as PostgreSQL's text of it, arrays of
names as JSON text too. Numbers are the table's, bit by bit: out of it as they are, into it as the shortest text that
gives them back.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import pyarrow as pa
from pyarrow import compute, csv
from pyarrow import parquet as pq

from esp_ingestd.archive import ArchiveError
from esp_ingestd.archive.tables import Kind, Table

FORMAT: Final = 1
ROW_GROUP_ROWS: Final = 131_072  # about 25 MB in memory
_TYPES: Final = {
    Kind.TEXT: pa.string(),
    Kind.TIME: pa.timestamp("us", "UTC"),
    Kind.NUMBER: pa.float64(),
    Kind.JSON: pa.string(),
    Kind.NAMES: pa.string(),
}
_NAMES: Final = pa.list_(pa.string())
Rows: TypeAlias = pa.RecordBatch


def plain_schema(table: Table) -> pa.Schema:
    """The columns between database and file."""
    return pa.schema([(column.name, _TYPES[column.kind]) for column in table.columns])


def file_schema(table: Table) -> pa.Schema:
    """The columns of a file, each with its unit in the field's metadata."""
    fields = [
        pa.field(
            column.name,
            _NAMES if column.kind is Kind.NAMES else _TYPES[column.kind],
            metadata={"unit": column.unit, **({"content": "JSON"} if column.kind is Kind.JSON else {})},
        )
        for column in table.columns
    ]
    return pa.schema(fields, metadata={"esp_ingestd_format": str(FORMAT), "esp_ingestd_table": table.name})


def canonical(table: Table, rows: Rows) -> Rows:
    """The same rows, arrays of names in one notation, whoever wrote them as JSON."""
    for name in table.of(Kind.NAMES):
        rows = _with(rows, name, _map_distinct(rows.column(name), _canonical))
    return rows


def to_csv(table: Table, rows: Rows) -> bytes:
    """Lines that COPY ... (FORMAT csv) takes, in a session whose time zone is UTC."""
    for name in table.of(Kind.TIME):  # a zone would be looked up for every value
        rows = _with(rows, name, rows.column(name).cast(pa.timestamp("us")))
    for name in table.of(Kind.NAMES):
        rows = _with(rows, name, _map_distinct(rows.column(name), _to_array))
    out = BytesIO()
    csv.write_csv(rows, out, csv.WriteOptions(include_header=False))
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Content:
    """What rows in their order are: the same rows always give the same."""

    rows: int
    first_us: int | None
    last_us: int | None
    wells: int
    columns: dict[str, str]
    """Column -> SHA-256 over SHA-256 of which of its values are null, of their lengths if text, and of the values."""


@dataclass(slots=True)
class Tally:
    """Finds out the `Content` of rows that pass, however they are divided."""

    table: Table
    rows: int = 0
    _first_us: int | None = None
    _last_us: int | None = None
    _wells: int = 0
    _last_well: str | None = None
    _hashes: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._hashes = {name: _begin_hash() for name in self.table.names}

    def add(self, rows: Rows) -> None:
        """Take in the next rows."""
        if not rows.num_rows:
            return
        self.rows += rows.num_rows
        times = compute.min_max(rows.column("timestamp").cast(pa.int64())).as_py()
        self._first_us = min(times["min"], self._first_us or times["min"])
        self._last_us = max(times["max"], self._last_us or times["max"])
        wells = rows.column("well_id")
        self._wells += compute.count_distinct(wells).as_py() - (wells[0].as_py() == self._last_well)
        self._last_well = wells[-1].as_py()
        for name, hashes in self._hashes.items():
            _hash(rows.column(name), *hashes)

    def content(self) -> Content:
        """What has passed."""
        columns = {name: _end_hash(hashes) for name, hashes in self._hashes.items()}
        return Content(self.rows, self._first_us, self._last_us, self._wells, columns)


class Writer:
    """A Parquet file in the making; it is one only after `close`."""

    def __init__(self, table: Table, path: Path) -> None:
        self._schema = file_schema(table)
        self._table = table
        self._held: list[Rows] = []
        self._file = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=[*table.of(Kind.TEXT), *table.of(Kind.NUMBER), *table.of(Kind.JSON)],
            column_encoding=dict.fromkeys(table.of(Kind.TIME), "DELTA_BINARY_PACKED"),
            write_page_checksum=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(pa.ArrowException, OSError):  # what went wrong before is what is told
            self._file.close()

    def add(self, rows: Rows) -> None:
        """The next rows; they are written a row group at a time."""
        self._held.append(rows)
        if sum(each.num_rows for each in self._held) >= ROW_GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the footer.

        Raises:
            OSError: the disk is full, or worse.
        """
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._held:
            rows = pa.Table.from_batches(self._held)
            for name in self._table.of(Kind.NAMES):
                rows = _with(rows, name, _to_names(rows.column(name)))
            self._file.write_table(rows.cast(self._schema), row_group_size=2 * ROW_GROUP_ROWS)
            self._held = []


def read_file(table: Table, path: Path, *, wells: frozenset[str] = frozenset()) -> Iterator[Rows]:
    """The rows of a file in their order; a column that it has not got is null.

    Args:
        table: what it is a file of.
        path: where it is.
        wells: only row groups that may have rows of these; empty is all.

    Raises:
        ArchiveError: it is none of ours, or damaged.
    """
    schema = plain_schema(table)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if unknown := sorted({*file.schema_arrow.names} - {*schema.names}):
                raise ArchiveError(f"has columns that are not known here: {', '.join(unknown)}")
            groups = [each for each in range(file.num_row_groups) if _may_have(file.metadata.row_group(each), wells)]
            for rows in file.iter_batches(65_536, row_groups=groups, use_threads=False):
                yield _to_plain(table, schema, rows)
    except (pa.ArrowException, OSError) as error:
        raise ArchiveError(f"cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _may_have(group: Any, wells: frozenset[str]) -> bool:  # noqa: ANN401 - pyarrow has no types
    """Whether a row group may have rows of these wells, by the range of its well_id."""
    for index in range(group.num_columns):
        column = group.column(index)
        if wells and column.path_in_schema == "well_id" and (range_ := column.statistics) and range_.has_min_max:
            return any(range_.min <= well <= range_.max for well in wells)
    return True


def _to_plain(table: Table, schema: pa.Schema, rows: Rows) -> Rows:
    columns = []
    for column, field_ in zip(table.columns, schema, strict=True):
        if column.name not in rows.schema.names:
            columns.append(pa.nulls(rows.num_rows, field_.type))
            continue
        values = rows.column(column.name)
        columns.append(_from_names(values) if column.kind is Kind.NAMES else values.cast(field_.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def hash_of_nulls(table: Table, name: str, rows: int) -> str:
    """What `Content.columns` says of a column of which so many rows have nothing."""
    hashes = _begin_hash()
    for first in range(0, rows, ROW_GROUP_ROWS):
        _hash(pa.nulls(min(rows - first, ROW_GROUP_ROWS), plain_schema(table).field(name).type), *hashes)
    return _end_hash(hashes)


def _begin_hash() -> tuple[Any, ...]:
    return hashlib.sha256(), hashlib.sha256(), hashlib.sha256()


def _end_hash(hashes: tuple[Any, ...]) -> str:
    return hashlib.sha256(b"".join(each.digest() for each in hashes)).hexdigest()


def _hash(values: pa.Array, nulls: Any, lengths: Any, out: Any) -> None:  # noqa: ANN401 - hashlib's types are private
    """Which are null, a byte each; the values in little-endian, null as 0; of text the lengths and the text.

    Each into a hash of its own, so that it does not matter how rows are divided into batches.
    """
    nulls.update(values.is_null().cast(pa.uint8()).buffers()[1] if values.null_count else bytes(len(values)))
    if not pa.types.is_string(values.type):
        zero = pa.scalar(0, pa.int64()).cast(values.type)
        out.update(_slice(values.fill_null(zero) if values.null_count else values, 8))
        return
    filled = values.fill_null("") if values.null_count else values
    sizes = compute.binary_length(filled)
    lengths.update(_slice(sizes, 4))
    first = memoryview(filled.buffers()[1]).cast("i")[filled.offset]
    out.update(memoryview(filled.buffers()[2] or b"")[first : first + compute.sum(sizes).as_py()])


def _slice(values: pa.Array, size_bytes: int) -> memoryview:
    return memoryview(values.buffers()[1])[values.offset * size_bytes : (values.offset + len(values)) * size_bytes]


def _with(rows: Any, name: str, values: Any) -> Any:  # noqa: ANN401 - a batch or a table, and its column
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def _map_distinct(values: pa.Array, change: Any) -> pa.Array:  # noqa: ANN401 - text to text
    """Change each of few distinct texts once."""
    if values.null_count == len(values):
        return values
    encoded = values.dictionary_encode()
    changed = pa.array([change(each) for each in encoded.dictionary.to_pylist()], pa.string())
    return changed.take(encoded.indices)


def _canonical(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def _to_array(text: str) -> str:
    """PostgreSQL's text of an array."""
    quoted = (each.replace("\\", "\\\\").replace('"', '\\"') for each in json.loads(text))
    return "{" + ",".join(f'"{each}"' for each in quoted) + "}"


def _to_names(values: pa.ChunkedArray) -> pa.Array:
    """JSON text of arrays as arrays."""
    plain = values.combine_chunks()
    if plain.null_count == len(plain):
        return pa.nulls(len(plain), _NAMES)
    encoded = plain.dictionary_encode()
    return pa.array(map(json.loads, encoded.dictionary.to_pylist()), _NAMES).take(encoded.indices)


def _from_names(values: pa.Array) -> pa.Array:
    if values.null_count == len(values):
        return pa.nulls(len(values), pa.string())
    return pa.array(
        (
            None if each is None else json.dumps(each, ensure_ascii=False, separators=(",", ":"))
            for each in values.to_pylist()
        ),
        pa.string(),
    )
