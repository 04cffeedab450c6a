"""The database: batches made durable, and everything that is asked of what is kept.

Read in this order: `verdict`, what an answer of PostgreSQL means; `schema`, the editions and the tables; `connection`,
one that is opened again after it broke; `writing`, how a batch is made durable; then what is asked, here.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from esp_ingestd.core.decode import Reason
from esp_ingestd.core.reading import DAY_US, HOUR_US, Reading, to_datetime
from esp_ingestd.database.connection import EPOCH_US, Session
from esp_ingestd.database.schema import Edition, migrate
from esp_ingestd.database.verdict import refuses_rows
from esp_ingestd.database.writing import COLUMN_LIST, COLUMNS, LoadMark, Writing, copy_lines, to_dead_letter
from esp_ingestd.errors import Refused, Unavailable
from esp_ingestd.rollup import (
    COUNT_ALARMS,
    COUNT_DAY,
    COUNT_HOUR,
    LEAVE_MARK,
    LONGEST_US,
    MERGE_MARKS,
    SELECT_HOURS,
    SELECT_WELLS,
    TAKE_MARK,
    TAKE_MARKS,
    TOUCH_DAY,
)
from esp_ingestd.rows import POSTGRES_EPOCH_US

__all__ = (
    "COLUMNS",
    "Database",
    "Edition",
    "LetterFilter",
    "LoadMark",
    "Session",
    "StoreHealth",
    "StoredLetter",
    "TableHealth",
    "Untold",
    "copy_lines",
    "migrate",
    "to_dead_letter",
)

FOREVER_US: Final = 253_402_300_799_000_000  # the end of the year 9999
READ_ROWS: Final = 5_000  # of history, at once
READ_TIMEOUT_S: Final = 300.0  # for one block of it: its first one waits for a sort
UNPUBLISHED_US: Final = 7 * DAY_US  # an event waits for the broker for seconds; compressed are those of 14 days
ROLLUP_WELLS: Final = 100  # of one transaction, so that none of them takes long
ROLLUP_TIMEOUT_S: Final = 3600.0  # for one hour of readings: millions, where wells send every second


class Untold(NamedTuple):
    """An alarm event that no broker is known to have accepted."""

    at_us: int
    event_id: str
    event: Mapping[str, Any]
    """As it is to be published."""


class LetterFilter(NamedTuple):
    """Which dead letters; what is empty or None leaves it open."""

    ids: tuple[int, ...] = ()
    reason: str | None = None
    topic: str | None = None
    """A pattern of SQL's LIKE."""
    since_us: int | None = None
    """Came at or after, microseconds since 1970 UTC."""


class StoredLetter(NamedTuple):
    """A dead letter as it stands in the database; times in microseconds since 1970 UTC."""

    dead_letter_id: int
    first_received_us: int
    received_us: int
    times: int
    topic: str
    payload: bytes
    payload_bytes: int
    """The size of the whole payload that is kept."""
    reason: str
    detail: Mapping[str, Any]


class TableHealth(NamedTuple):
    """How a table is stored."""

    chunks: int
    """0 where tables have none."""
    size_bytes: int
    """With its indexes, in all chunks."""
    compression_ratio: float
    """Of the compressed chunks: their size before to that after; 0 where there are none."""


@dataclass(slots=True)
class StoreHealth:
    """How the store is; times in microseconds since 1970 UTC, 0 where there is none."""

    tables: Mapping[str, TableHealth]
    rolled_up_us: int
    """What was stored before is in the rollups."""
    failed_jobs: int
    """Jobs of the database whose last run failed."""
    damaged_days: int
    """Archived days that were found damaged when they were read back."""
    overdue_days: int = 0
    """Days that are older than retention keeps them, and are still here."""
    unarchived_days: int = 0
    unarchived_since_us: int = 0
    """The end of the oldest closed day that is not archived."""
    verified_us: int = 0
    """When an archived day was last read back and found whole."""
    archived_bytes: int = 0


class _Left(NamedTuple):
    """The wells of an hour that are to be counted yet, and since when they are."""

    well_ids: list[str]
    marked_us: int


class Database(Writing):
    """What the program asks of the database, besides writing batches."""

    async def mark_published(self, event_ids: Sequence[str], at_us: int) -> None:
        """Note when the broker accepted these events.

        Raises:
            Unavailable: not now.
            Refused: a rule of the site's own forbids it.
        """
        try:
            await self._mark_published(event_ids, at_us)
        except Unavailable as unavailable:
            if unavailable.__cause__ is not None and refuses_rows(unavailable.__cause__):
                raise Refused(str(unavailable)) from unavailable
            raise

    async def _mark_published(self, event_ids: Sequence[str], at_us: int) -> None:
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            tag = await connection.execute(_MARK_PUBLISHED, list(event_ids), at_us, at_us - UNPUBLISHED_US)
            if tag != f"UPDATE {len(event_ids)}":
                # Few are so old, or known already: they are sought before they are changed, since changing a row of a
                # compressed chunk by anything but its well and time uncompresses all of it.
                found = await connection.fetch(_OLD_UNPUBLISHED, list(event_ids), at_us - UNPUBLISHED_US)
                await connection.executemany(_MARK_OLD_PUBLISHED, [(*row, at_us) for row in found])

    async def unpublished_events(self, after: Untold | None, limit: int) -> list[Untold]:
        """The events that no broker has accepted yet, oldest first, as they are to be published.

        Args:
            after: where an earlier answer ended; None: from the oldest.
            limit: at most so many.

        Raises:
            Unavailable: not now.
        """
        since = (after.at_us, after.event_id) if after else (POSTGRES_EPOCH_US, "")
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            rows = await connection.fetch(_UNPUBLISHED, *since, limit)
        return [Untold(row["timestamp"], row["event_id"], json.loads(row["event"])) for row in rows]

    async def span_of_readings(
        self, well_ids: Sequence[str], since_us: int | None = None, until_us: int | None = None
    ) -> tuple[int, int] | None:
        """The times of the first and the last reading, or None where there is none.

        Args:
            well_ids: of these wells; none means all.
            since_us: not before this.
            until_us: before this.

        Raises:
            Unavailable: not now.
        """
        async with self._using(timeout_s=READ_TIMEOUT_S) as connection:
            wells = list(well_ids) or await _all_wells(connection)
            bounds = (since_us or EPOCH_US, until_us or FOREVER_US)
            rows = await connection.fetch(_SPAN, wells, *bounds)
        return next(((first_us, last_us) for first_us, last_us in rows if first_us is not None), None)

    async def stream_readings(
        self, well_ids: Sequence[str], first_us: int, last_us: int
    ) -> AsyncIterator[list[Reading]]:
        """Readings from `first_us` to `last_us`, both included, in order of time and well, READ_ROWS at once.

        A server-side cursor a day, or less where there are many wells, each in a transaction of its own: neither side
        ever holds much, and a long read keeps no old row versions from being cleaned up.

        Args:
            well_ids: of these wells; none means all.
            first_us: microseconds since 1970 UTC.
            last_us: likewise.

        Raises:
            Unavailable: not now.
        """
        async with self._using(timeout_s=None) as connection:
            wells = list(well_ids) or await _all_wells(connection)
            step_us = DAY_US // (1 + len(wells) // 100)
            for begin_us in range(first_us, last_us + 1, step_us):
                end_us = min(begin_us + step_us, last_us + 1)
                async with connection.transaction(readonly=True):
                    cursor = await connection.cursor(_READINGS, wells, begin_us, end_us, timeout=READ_TIMEOUT_S)
                    while rows := await cursor.fetch(READ_ROWS, timeout=READ_TIMEOUT_S):
                        yield [_to_reading(row) for row in rows]

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """The rows of a query, by column; times in microseconds since 1970 UTC.

        Raises:
            Unavailable: not now.
        """
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            return [dict(row) for row in await connection.fetch(query, *arguments)]

    async def load_mark(self, file: str) -> LoadMark | None:
        """How far an unfinished load of this file came.

        Raises:
            Unavailable: not now.
        """
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            row = await connection.fetchrow(_LOAD_MARK, file)
        return LoadMark(*row) if row else None

    async def forget_loads(self, files: Sequence[str]) -> None:
        """Forget how far these files are loaded: they are finished, or are to be loaded from their start.

        Raises:
            Unavailable: not now.
        """
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            await connection.execute("DELETE FROM esp_backfills WHERE file = ANY ($1)", list(files))

    async def find_dead_letters(
        self, which: LetterFilter, *, limit: int, payload_bytes: int, after_id: int | None = None
    ) -> list[StoredLetter]:
        """Dead letters of which at most the first `payload_bytes` of the payload are read.

        Args:
            which: which ones.
            limit: at most so many.
            payload_bytes: how much of each payload.
            after_id: None gives those that came last, the newest first; else those of greater number, in their order.

        Raises:
            Unavailable: not now.
        """
        order = _NEWEST_LETTERS if after_id is None else _LETTERS_AFTER
        arguments = (list(which.ids) or None, which.reason, which.topic, which.since_us, payload_bytes, limit)
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            rows = await connection.fetch(_SELECT_LETTERS + order, *arguments, after_id or 0)
        return [StoredLetter._make((*tuple(row)[:-1], json.loads(row["detail"]))) for row in rows]

    async def settle_dead_letters(self, gone: Sequence[int], changed: Sequence[tuple[int, Reason, str]]) -> None:
        """Drop the letters of which everything is stored now, and note on others why they are refused now.

        Args:
            gone: their numbers.
            changed: number, reason, and detail as JSON text.

        Raises:
            Unavailable: not now.
        """
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection, connection.transaction():
            await connection.execute("DELETE FROM dead_letters WHERE dead_letter_id = ANY ($1)", list(gone))
            await connection.executemany(_CHANGE_LETTER, changed)

    async def merge_marks(self) -> None:
        """Make one mark of all that an hour has: a batch leaves one each, and nobody may be there to take them.

        Raises:
            Unavailable: not now.
        """
        async with self._using(timeout_s=ROLLUP_TIMEOUT_S) as connection:
            await connection.execute(MERGE_MARKS)

    async def stale_hours(self) -> list[int]:
        """The hours that must be rolled up again, the newest first; microseconds since 1970 UTC.

        Raises:
            Unavailable: not now.
        """
        async with self._using(timeout_s=ROLLUP_TIMEOUT_S) as connection:
            return [row[0] for row in await connection.fetch(SELECT_HOURS)]

    async def roll_up(self, hour_us: int, pause: Callable[[], Awaitable[None]] | None = None) -> int:
        """Count one hour again, and its day, for the wells that are marked: ROLLUP_WELLS in each transaction.

        Args:
            hour_us: one of `stale_hours`.
            pause: waited for after each transaction.

        Returns:
            How many readings were counted.

        Raises:
            Unavailable: not now; what is not counted is still marked.

        Cancel: likewise.
        """
        counted, left = 0, None
        while left is None or left.well_ids:
            async with self._using(timeout_s=ROLLUP_TIMEOUT_S) as connection, connection.transaction():
                # Compiling a statement of so many columns takes longer than running it.
                await connection.execute("SET LOCAL jit = off; SET LOCAL plan_cache_mode = force_custom_plan")
                if (some := await self._take_marks(connection, hour_us, left)) is None:
                    break
                left = await self._leave_marks(connection, hour_us, some)
                counted += await self._count(connection, hour_us, some.well_ids[:ROLLUP_WELLS])
            if pause:
                await pause()
        return counted

    async def _take_marks(self, connection: Session, hour_us: int, left: _Left | None) -> _Left | None:
        """All that an hour is marked with, or what we left of it; None where another has taken that."""
        if left is not None:
            tag = await connection.execute(TAKE_MARK, hour_us, left.well_ids, left.marked_us)
            return left if tag != "DELETE 0" else None
        marks = await connection.fetch(TAKE_MARKS, hour_us)
        await connection.execute(TOUCH_DAY, to_datetime(hour_us).date())
        well_ids = set[str]().union(*(mark["well_ids"] or () for mark in marks))
        if any(mark["well_ids"] is None for mark in marks):
            # A bound on time spares chunks; without chunks it only makes the steps from well to well longer.
            is_chunked = self.edition is not None and self.edition.has_hypertables
            since_us = hour_us // DAY_US * DAY_US if is_chunked else EPOCH_US
            until_us = since_us + DAY_US if is_chunked else FOREVER_US
            well_ids.update(row[0] for row in await connection.fetch(SELECT_WELLS, since_us, until_us))
        return _Left(sorted(well_ids), min((mark["marked_at"] for mark in marks), default=0))

    @staticmethod
    async def _leave_marks(connection: Session, hour_us: int, some: _Left) -> _Left:
        left = _Left(some.well_ids[ROLLUP_WELLS:], some.marked_us)
        if left.well_ids:
            await connection.execute(LEAVE_MARK, hour_us, left.well_ids, left.marked_us)
        return left

    @staticmethod
    async def _count(connection: Session, hour_us: int, well_ids: list[str]) -> int:
        rows = await connection.fetch(COUNT_HOUR, hour_us, well_ids, hour_us + HOUR_US, hour_us - LONGEST_US)
        await connection.execute(COUNT_ALARMS, hour_us, well_ids, hour_us + HOUR_US)
        await connection.execute(COUNT_DAY, hour_us // DAY_US * DAY_US, well_ids)
        return sum(row[0] for row in rows)

    async def store_health(self) -> StoreHealth:
        """How the store is, but for the archive.

        Raises:
            Unavailable: not now.
        """
        edition = await self.connect()
        statement = _TABLE_HEALTH if edition.has_hypertables else _PLAIN_TABLE_HEALTH
        async with self._using(timeout_s=ROLLUP_TIMEOUT_S) as connection:
            tables = {}
            for name in ("esp_telemetry", "diagnostic_results"):
                ratio = await connection.fetchval(_COMPRESSION, name) if edition is Edition.COMMUNITY else None
                chunks, size_bytes = await connection.fetchrow(statement, name) or (0, 0)
                tables[name] = TableHealth(chunks, size_bytes, ratio or 0.0)
            jobs = await connection.fetchval(_FAILED_JOBS) if edition is Edition.COMMUNITY else 0
            rolled_up_us, damaged = await connection.fetchrow(_ROLLED_UP) or (0, 0)
        return StoreHealth(tables, rolled_up_us, jobs, damaged)


async def _all_wells(connection: Session) -> list[str]:
    return [row[0] for row in await connection.fetch(_ALL_WELLS)]


def _to_reading(row: Sequence[Any]) -> Reading:
    reading = Reading._make(row)
    return reading if reading.bad_channels is None else reading._replace(bad_channels=tuple(reading.bad_channels))


# The wells, by steps through the key's index: reading every row would take minutes.
_ALL_WELLS: Final = """
    WITH RECURSIVE wells AS (
        (SELECT well_id FROM esp_telemetry ORDER BY well_id LIMIT 1)
        UNION ALL
        SELECT (SELECT well_id FROM esp_telemetry WHERE well_id > wells.well_id ORDER BY well_id LIMIT 1)
        FROM wells WHERE wells.well_id IS NOT NULL
    )
    SELECT well_id FROM wells WHERE well_id IS NOT NULL
"""
_SPAN: Final = """
    SELECT min(first), max(last) FROM unnest($1::text[]) AS well (id),
        LATERAL (SELECT min("timestamp") AS first, max("timestamp") AS last FROM esp_telemetry
                 WHERE well_id = well.id AND "timestamp" >= $2 AND "timestamp" < $3) AS span
"""
_READINGS: Final = f"""
    SELECT {COLUMN_LIST} FROM esp_telemetry
    WHERE well_id = ANY ($1::text[]) AND "timestamp" >= $2 AND "timestamp" < $3 ORDER BY "timestamp", well_id
"""  # noqa: S608 - our own column names
_TABLE_HEALTH: Final = """
    SELECT count(*), hypertable_size($1::text::regclass) FROM timescaledb_information.chunks
    WHERE hypertable_schema = current_schema() AND hypertable_name = $1::text
"""
_PLAIN_TABLE_HEALTH: Final = "SELECT 0, pg_total_relation_size($1::text::regclass)"
_COMPRESSION: Final = """
    SELECT (sum(before_compression_total_bytes) / nullif(sum(after_compression_total_bytes), 0))::double precision
    FROM chunk_compression_stats($1::text::regclass)
"""
_FAILED_JOBS: Final = "SELECT count(*) FROM timescaledb_information.job_stats WHERE last_run_status = 'Failed'"
_ROLLED_UP: Final = """
    SELECT coalesce(min(marked_at), now()), (SELECT count(*) FROM archived_days WHERE verified_at IS NULL)
    FROM esp_rollup_marks
"""
_MARK_PUBLISHED: Final = """
    UPDATE diagnostic_results SET published_at = $2
    WHERE event_id = ANY ($1) AND published_at IS NULL AND "timestamp" >= $3
"""
_OLD_UNPUBLISHED: Final = """
    SELECT well_id, "timestamp", event_id FROM esp_untold_events WHERE event_id = ANY ($1) AND "timestamp" < $2
"""
_MARK_OLD_PUBLISHED: Final = """
    UPDATE diagnostic_results SET published_at = $4 WHERE well_id = $1 AND "timestamp" = $2 AND event_id = $3
"""
_UNPUBLISHED: Final = """
    SELECT untold."timestamp", untold.event_id, event FROM esp_untold_events AS untold CROSS JOIN LATERAL (
        SELECT event FROM diagnostic_results
        WHERE well_id = untold.well_id AND "timestamp" = untold."timestamp" AND event_id = untold.event_id LIMIT 1
    ) AS stored
    WHERE (untold."timestamp", untold.event_id) > ($1, $2)
    ORDER BY untold."timestamp", untold.event_id LIMIT $3
"""
_LOAD_MARK: Final = 'SELECT file, size_bytes, modified_ns, "offset", line FROM esp_backfills WHERE file = $1'
_SELECT_LETTERS: Final = """
    SELECT dead_letter_id, first_received_at, received_at, times, topic, substring(payload FOR $5::integer),
        octet_length(payload), reason, detail
    FROM dead_letters
    WHERE ($1::bigint[] IS NULL OR dead_letter_id = ANY ($1)) AND ($2::text IS NULL OR reason = $2)
        AND ($3::text IS NULL OR topic LIKE $3) AND ($4::timestamptz IS NULL OR received_at >= $4)
        AND dead_letter_id > $7
"""
_NEWEST_LETTERS: Final = "ORDER BY received_at DESC, dead_letter_id DESC LIMIT $6"
_LETTERS_AFTER: Final = "ORDER BY dead_letter_id LIMIT $6"
_CHANGE_LETTER: Final = "UPDATE dead_letters SET reason = $2, detail = $3 WHERE dead_letter_id = $1"
