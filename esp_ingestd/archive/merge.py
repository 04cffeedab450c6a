"""What two versions of a day are together: the rows of both in their order, of each key one.

Of two rows with one key the one counts that was received first, as everywhere; received at the same moment, the
database's is the later version of it. Where a table does not say when a row was received, the database's counts.
"""

from bisect import bisect_right
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import compute

from esp_ingestd.archive.form import Rows
from esp_ingestd.archive.tables import Table

Key = tuple[object, ...]
AGE = "#age"  # no column of a table is named so


class Merger:
    """Merges an old version, read as needed, with new rows that are pushed in. Both are sorted; memory is a batch."""

    def __init__(self, table: Table, old: Iterator[Rows]) -> None:
        self._table = table
        self._old = old
        self._next = self._read()

    def push(self, new: Rows) -> Iterator[Rows]:
        """Everything up to the last of `new`, which goes behind what was pushed before."""
        while new.num_rows:
            old = self._next
            if old is None:
                yield new
                return
            last_old, last_new = self._key(old, -1), self._key(new, -1)
            if last_old <= last_new:
                part, new = self._divide(new, last_old)
                self._next = self._read()
                yield self._together(old, part)
            else:
                part, self._next = self._divide(old, last_new)
                yield self._together(part, new)
                return

    def finish(self) -> Iterator[Rows]:
        """What is left of the old version."""
        while self._next is not None:
            yield self._next
            self._next = self._read()

    def _read(self) -> Rows | None:
        return next((rows for rows in self._old if rows.num_rows), None)

    def _key(self, rows: Rows, index: int) -> Key:
        index = index if index >= 0 else rows.num_rows + index
        values = (rows.column(name)[index] for name in self._table.order)
        return tuple(each.value if pa.types.is_timestamp(each.type) else each.as_py() for each in values)

    def _divide(self, rows: Rows, key: Key) -> tuple[Rows, Rows]:
        """What is not behind `key`, and what is."""
        count = bisect_right(range(rows.num_rows), key, key=lambda index: self._key(rows, index))
        return rows.slice(0, count), rows.slice(count)

    def _together(self, old: Rows, new: Rows) -> Rows:
        if not (old.num_rows and new.num_rows):
            return new if new.num_rows else old
        if old.equals(new):  # as nearly always when a day is verified; of equals the new one counts
            return new
        ages = pa.repeat(pa.scalar(0, pa.int8()), old.num_rows), pa.repeat(pa.scalar(1, pa.int8()), new.num_rows)
        both = pa.Table.from_batches([old, new]).append_column(AGE, pa.chunked_array(ages))
        both = both.sort_by([(name, "ascending") for name in (*self._table.order, AGE)]).combine_chunks()
        (rows,) = both.filter(self._counts(both)).drop_columns(AGE).combine_chunks().to_batches()
        return rows

    def _counts(self, both: pa.Table) -> pa.Array:
        """Of each row whether it counts; of one key the old row stands right before the new one."""
        before, behind = both.slice(0, both.num_rows - 1), both.slice(1)
        same = pa.array([True]).take(pa.array([0] * before.num_rows))
        for name in self._table.order:
            same = compute.and_(same, compute.equal(before.column(name), behind.column(name)))
        new_counts = same
        if received := self._table.received:
            new_counts = compute.and_(same, compute.less_equal(behind.column(received), before.column(received)))
        old_counts = compute.and_not(same, new_counts)
        none = pa.chunked_array([pa.array([False])])
        dropped = compute.or_(
            pa.chunked_array([*new_counts.chunks, *none.chunks], pa.bool_()).combine_chunks(),
            pa.chunked_array([*none.chunks, *old_counts.chunks], pa.bool_()).combine_chunks(),
        )
        return compute.invert(dropped)
