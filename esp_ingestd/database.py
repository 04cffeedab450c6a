"""The database: the schema, the editions, and batches made durable.

Rules:
    1. A batch goes in by COPY, with its dead letters and alarm events, in one transaction.
    2. A batch that meets a key that is there already goes, alone, down a slower road: COPY into a temporary table,
       then INSERT ... ON CONFLICT DO NOTHING. The first delivery of a (well_id, timestamp) counts.
    3. A batch in which the database refuses a row for good is divided until the row stands alone; it becomes a dead
       letter, its neighbours are stored (I5).
    4. Readings of days that are compressed go first, alone, some at a time, each time in a transaction of its own: the
       database looks each of them up in blocks of a thousand, and what takes longer than a batch may would never end.
       Twice equals once, so a batch that is cut in between is simply written again.
    5. What the database cannot do now raises Unavailable: the same call may succeed later. `REFUSES_ROWS` is the
       whole of what counts as refused for good; everything else is kept and tried again.
    6. An internal error (XX000) says either: some extensions refuse a row so, and a server says so of what passes by
       itself. It is a verdict on a row that met it DOUBTS times in a row, each time alone among others that went in.
    7. Dead letters and alarm events that a rule of the site's own refuses are left out, and told: readings go in.
"""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO
from itertools import starmap
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from esp_ingestd.config import DatabaseSettings, mask_dsn
from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.batch import Batch, DeadLetter, Written
from esp_ingestd.core.command import CommandRecord
from esp_ingestd.core.decode import Reason
from esp_ingestd.core.reading import CHANNEL_NAMES, Reading, to_datetime
from esp_ingestd.errors import Refused, SchemaOutdated, Unavailable, in_words
from esp_ingestd.rollup import (
    COUNT_ALARMS,
    COUNT_DAY,
    COUNT_HOUR,
    DAY_US,
    HOUR_US,
    LEAVE_MARK,
    LONGEST_US,
    MERGE_MARKS,
    SELECT_HOURS,
    SELECT_WELLS,
    TAKE_MARK,
    TAKE_MARKS,
    TOUCH_DAY,
    Mark,
    marks_of,
    stale_with,
)
from esp_ingestd.rows import HEAD, POSTGRES_EPOCH_US, TAIL, CopyRows
from esp_ingestd.shipped import shipped

if TYPE_CHECKING:
    from asyncpg import Connection

Session: TypeAlias = "Connection[Any]"
COLUMNS: Final = ("well_id", "timestamp", *CHANNEL_NAMES, "extra", "bad_channels", "received_at")
EPOCH_US: Final = 0
FOREVER_US: Final = 253_402_300_799_000_000  # the end of the year 9999
MIGRATION_LOCK: Final = 0x65737031  # any constant of our own: "esp1"
READ_ROWS: Final = 5_000  # of history, at once
READ_TIMEOUT_S: Final = 300.0  # for one block of it: its first one waits for a sort
LATE_US: Final = DAY_US  # what is younger nobody compresses
LATE_ROWS: Final = 500  # into compressed days at once: a millisecond each where they lie among others
UNPUBLISHED_US: Final = 7 * DAY_US  # an event waits for the broker for seconds; compressed are those of 14 days
ROLLUP_WELLS: Final = 100  # of one transaction, so that none of them takes long
ROLLUP_TIMEOUT_S: Final = 3600.0  # for one hour of readings: millions, where wells send every second

# PostgreSQL's error classes and codes (its manual, appendix A) that are a verdict on a row.
REFUSES_ROWS: Final = re.compile(
    "22...|"  # data exception: a value that the column cannot hold
    "23...|"  # integrity constraint violation: NOT NULL, CHECK, foreign key, exclusion
    "44000|"  # WITH CHECK OPTION violation
    "54...|"  # program limit exceeded: a row or a key too long
    "P0001|P0004|"  # raised or asserted by a trigger of the site's own
    "0A000"  # not supported, as TimescaleDB says of some rows for compressed chunks
)
INTERNAL_ERROR: Final = "XX000"
DOUBTS: Final = 5
UNAVAILABLE_KINDS: Final = {
    "08": "connection",
    "25": "read_only",
    "28": "authentication",
    "3D": "no_database",
    "40": "conflict",
    "42": "schema",
    "53": "resources",
    "55": "not_ready",
    "57": "shutdown",
    "58": "io",
    "XX": "internal",
}


class Edition(StrEnum):
    """What kind of server it is."""

    COMMUNITY = "timescaledb-community"
    APACHE = "timescaledb-apache"
    POSTGRESQL = "postgresql"

    @property
    def has_hypertables(self) -> bool:
        """Both TimescaleDB editions have them."""
        return self is not Edition.POSTGRESQL


class Migration(NamedTuple):
    """One file of sql/: `0002_hypertables.timescaledb.sql` has number, name, and for which editions it is."""

    version: int
    name: str
    only: str
    path: Path

    def fits(self, edition: Edition) -> bool:
        """Whether this edition gets it."""
        return self.only in {"", edition.value} or (self.only == "timescaledb" and edition.has_hypertables)


class LoadMark(NamedTuple):
    """How far a file is loaded, and which file it is: a changed one has another size or time of change."""

    file: str
    size_bytes: int
    modified_ns: int
    offset: int
    line: int


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


@dataclass(slots=True)
class _Outcome:
    stored: int = 0
    refused: list[tuple[Reading, str]] = field(default_factory=list)
    doubted: list[tuple[Reading, str]] = field(default_factory=list)
    """Those that met an internal error alone."""


class Database:
    """One connection, opened on first use and again after it broke."""

    def __init__(self, settings: DatabaseSettings, *, name: str = "esp-ingestd", read_only: bool = False) -> None:
        self._settings = settings
        self._name = name
        self._read_only = read_only
        self._connection: Connection[Any] | None = None
        self._lock = asyncio.Lock()
        self._doubts: dict[tuple[str, int], int] = {}  # (well_id, timestamp) -> internal errors in a row
        self.edition: Edition | None = None

    @property
    def address(self) -> str:
        """Where it is, without secrets."""
        return mask_dsn(self._settings.dsn.get_secret_value())

    async def connect(self) -> Edition:
        """Connect if need be, and see that it answers and has the schema.

        Raises:
            SchemaOutdated: `esp-ingestd migrate` is due.
            Unavailable: it cannot be reached or cannot be written to now.
        """
        async with self._using(timeout_s=self._settings.connect_timeout_s) as connection:
            await connection.fetchval("SELECT 1")
        assert self.edition is not None  # noqa: S101 - set by _open
        return self.edition

    async def write(
        self,
        batch: Batch,
        *,
        mark: "LoadMark | None" = None,
        letter_of: "Callable[[Reading, str], DeadLetter | None] | None" = None,
    ) -> Written:
        """Make a batch durable: readings, dead letters and alarm events in one transaction.

        Args:
            batch: what is to be durable.
            mark: how far its file is loaded with it, committed in the same transaction.
            letter_of: the dead letter of a reading that the database refuses, and why it did; None keeps none.
                By default it is the payload that the reading would have been.

        Raises:
            Unavailable: it cannot be written now; nothing of it was, or it will be found as duplicates.

        Cancel: the connection is dropped; the batch may or may not have been committed.
        """
        readings, late = await self._set_apart_compressed(batch.readings)
        outcome = _Outcome()
        for start in range(0, len(late), LATE_ROWS):
            await self._write_late(late[start : start + LATE_ROWS], outcome)
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            if not outcome.refused and not outcome.doubted:
                try:
                    async with connection.transaction():
                        await self._copy(connection, "esp_telemetry", readings)
                        unkept = await self._write_rest(connection, batch.dead_letters.values(), batch, mark)
                    return Written(outcome.stored + len(readings), len(late) - outcome.stored, unkept=unkept)
                except (asyncpg.PostgresError, ValueError, TypeError) as error:
                    if not _refuses_rows(error) and not _is_doubtful(error):
                        raise
            async with connection.transaction():
                await connection.execute(_CREATE_INCOMING)
                await self._write_dividing(connection, readings, outcome)
                self._judge_doubted(outcome, len(batch.readings))
                refused = starmap(letter_of or to_dead_letter, outcome.refused)
                letters = [*batch.dead_letters.values(), *filter(None, refused)]
                unkept = await self._write_rest(connection, letters, batch, mark)
            duplicates = len(batch.readings) - outcome.stored - len(outcome.refused)
            return Written(outcome.stored, duplicates, outcome.refused, unkept)

    def _judge_doubted(self, outcome: _Outcome, rows: int) -> None:
        """Refuse what met internal errors often enough while its neighbours went in.

        Raises:
            Unavailable: not yet.
        """
        if not outcome.doubted:
            return
        met = {reading[:2]: self._doubts.get(reading[:2], 0) + 1 for reading, _ in outcome.doubted}
        if rows == len(outcome.doubted) + len(outcome.refused) or min(met.values()) < DOUBTS:
            self._doubts = met
            why = f"database {self.address}: {outcome.doubted[0][1]}; row {outcome.doubted[0][0][:2]}"
            raise Unavailable(why, kind=UNAVAILABLE_KINDS["XX"])
        self._doubts = {}
        outcome.refused += outcome.doubted

    async def _set_apart_compressed(self, readings: Sequence[Reading]) -> tuple[Sequence[Reading], Sequence[Reading]]:
        """What belongs to no compressed day, and what does, a well's together."""
        if not readings or _earliest_us(readings) >= _arrived_us(readings) - LATE_US:
            return readings, ()
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            if self.edition is not Edition.COMMUNITY:
                return readings, ()
            until_us = await connection.fetchval(_COMPRESSED_UNTIL) or EPOCH_US
        if _earliest_us(readings) >= until_us:
            return readings, ()
        readings = list(readings)
        late = sorted((reading for reading in readings if reading[1] < until_us), key=lambda reading: reading[:2])
        return [reading for reading in readings if reading[1] >= until_us], late

    async def _write_late(self, readings: Sequence[Reading], outcome: _Outcome) -> None:
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection, connection.transaction():
            await connection.execute(_CREATE_INCOMING)
            await self._write_dividing(connection, readings, outcome, insert=_INSERT_ABSENT)
            await connection.executemany(_INSERT_MARK, marks_of(stale_with(readings), ()))

    async def mark_published(self, event_ids: Sequence[str], at_us: int) -> None:
        """Note when the broker accepted these events.

        Raises:
            Unavailable: not now.
            Refused: a rule of the site's own forbids it.
        """
        try:
            await self._mark_published(event_ids, at_us)
        except Unavailable as unavailable:
            if unavailable.__cause__ is not None and _refuses_rows(unavailable.__cause__):
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

    async def unpublished_events(self, after: "Untold | None", limit: int) -> "list[Untold]":
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

    async def load_mark(self, file: str) -> "LoadMark | None":
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
        self, which: "LetterFilter", *, limit: int, payload_bytes: int, after_id: int | None = None
    ) -> list["StoredLetter"]:
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

    async def roll_up(self, hour_us: int, pause: "Callable[[], Awaitable[None]] | None" = None) -> int:
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

    async def _take_marks(self, connection: "Connection[Any]", hour_us: int, left: "_Left | None") -> "_Left | None":
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
    async def _leave_marks(connection: "Connection[Any]", hour_us: int, some: "_Left") -> "_Left":
        left = _Left(some.well_ids[ROLLUP_WELLS:], some.marked_us)
        if left.well_ids:
            await connection.execute(LEAVE_MARK, hour_us, left.well_ids, left.marked_us)
        return left

    @staticmethod
    async def _count(connection: "Connection[Any]", hour_us: int, well_ids: list[str]) -> int:
        rows = await connection.fetch(COUNT_HOUR, hour_us, well_ids, hour_us + HOUR_US, hour_us - LONGEST_US)
        await connection.execute(COUNT_ALARMS, hour_us, well_ids, hour_us + HOUR_US)
        await connection.execute(COUNT_DAY, hour_us // DAY_US * DAY_US, well_ids)
        return sum(row[0] for row in rows)

    @asynccontextmanager
    async def session(self, *, timeout_s: float | None = None) -> AsyncIterator[Session]:
        """The connection itself, for longer work than a batch; times go in and out as microseconds since 1970 UTC.

        Args:
            timeout_s: the work as a whole may take so long; None is as long as it takes.

        Raises:
            Unavailable: from inside too, whatever the database or the network said.

        Cancel: the connection is dropped, and what was not committed with it.
        """
        async with self._using(timeout_s=timeout_s) as connection:
            yield connection

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

    async def close(self) -> None:
        """Close the connection, politely if the server answers within a second."""
        if (connection := self._connection) is not None:
            self._connection = None
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await connection.close(timeout=1.0)

    @asynccontextmanager
    async def _using(self, *, timeout_s: float | None) -> AsyncIterator["Connection[Any]"]:
        """The connection; whatever breaks it inside becomes Unavailable, and the next use opens another."""
        async with self._lock, self._guarded(timeout_s) as connection:
            yield connection

    @asynccontextmanager
    async def _guarded(self, timeout_s: float | None) -> AsyncIterator["Connection[Any]"]:
        if timeout_s is not None and not self._connection:
            timeout_s += self._settings.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._open()
                yield self._connection
        except BaseException as error:
            # Whatever it was: the next use connects anew, perhaps to the host that has become the primary.
            self._drop()
            if unavailable := _to_unavailable(error, self.address):
                raise unavailable from error
            raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _open(self) -> "Connection[Any]":
        connection = await _connect(self._settings, self._name, read_only=self._read_only)
        try:
            self.edition = await detect_edition(connection)
            await _require_schema(connection, self.edition)
            await connection.set_type_codec(
                "timestamptz", schema="pg_catalog", encoder=_encode_us, decoder=_decode_us, format="tuple"
            )
            if self.edition is Edition.COMMUNITY:
                # A late row must be looked for in blocks of a thousand; a limit on how many would refuse it for ever.
                await connection.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
            # A server set to answer before the WAL is on disk would break our promise; stricter settings stay.
            await connection.execute(
                "SELECT set_config('synchronous_commit', 'local', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
            if self._read_only:
                await connection.execute(_ONLY_READ)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _copy(self, connection: "Connection[Any]", table: str, readings: Sequence[Reading]) -> None:
        if isinstance(readings, CopyRows):
            stream: Any = memoryview(b"".join((HEAD, readings.data, TAIL)))  # as bytes it would be a file's name
            await connection.copy_to_table(table, source=stream, columns=COLUMNS, format="binary")
        elif readings:
            await connection.copy_records_to_table(table, records=readings, columns=COLUMNS)

    async def _write_dividing(
        self,
        connection: "Connection[Any]",
        readings: Sequence[Reading],
        outcome: _Outcome,
        insert: str = "",
    ) -> None:
        """Store what can be stored; halve what is refused until the offending rows stand alone."""
        if not readings:
            return
        try:
            async with connection.transaction():  # a savepoint
                await connection.execute("TRUNCATE esp_incoming")
                await self._copy(connection, "esp_incoming", readings)
                tag = await connection.execute(insert or _INSERT_INCOMING)
        except (asyncpg.PostgresError, ValueError, TypeError) as error:
            is_doubtful = _is_doubtful(error)
            if not is_doubtful and not _refuses_rows(error):
                raise
            if len(readings) == 1:
                (outcome.doubted if is_doubtful else outcome.refused).append((readings[0], _describe(error)))
                return
            middle = len(readings) // 2
            await self._write_dividing(connection, readings[:middle], outcome, insert)
            await self._write_dividing(connection, readings[middle:], outcome, insert)
        else:
            outcome.stored += int(tag.rpartition(" ")[2])

    async def _write_rest(
        self,
        connection: "Connection[Any]",
        letters: Collection[DeadLetter],
        batch: Batch,
        mark: "LoadMark | None",
    ) -> list[str]:
        """What goes with the readings; what of it the site's own rules refuse, and why."""
        if mark:
            await connection.execute(_UPSERT_LOAD_MARK, *mark)
        letter_rows = [_dead_letter_row(letter) for letter in letters]
        new = await self._new_events(connection, batch.events)
        event_rows = [(*_event_row(event), batch.published.get(event.event_id)) for event in new]
        alarm_rows = [_alarm_row(event) for event in batch.events]
        command_rows = [_command_row(each) for each in batch.commands]
        unkept = [
            *[f"dead letter: {why}" for why in await self._write_each(connection, _UPSERT_DEAD_LETTER, letter_rows)],
            *[f"alarm event: {why}" for why in await self._write_each(connection, _INSERT_EVENT, event_rows)],
            *[f"alarm state: {why}" for why in await self._write_each(connection, _UPSERT_ALARM, alarm_rows)],
            *[f"command: {why}" for why in await self._write_each(connection, _INSERT_COMMAND, command_rows)],
        ]
        readings = batch.readings
        stale = readings.stale if isinstance(readings, CopyRows) else stale_with(readings)
        if marks := list(marks_of(stale, batch.events)):
            await connection.executemany(_INSERT_MARK, marks)
        return unkept

    @staticmethod
    async def _write_each(
        connection: "Connection[Any]", statement: str, rows: Sequence[tuple[object, ...]]
    ) -> list[str]:
        """Run a statement for all rows, or, where one is refused, for each that is not; why they are."""
        refused = []
        try:
            if rows:
                async with connection.transaction():  # a savepoint
                    await connection.executemany(statement, rows)
        except asyncpg.PostgresError as error:
            if not _refuses_rows(error):
                raise
            for row in rows:
                try:
                    async with connection.transaction():
                        await connection.execute(statement, *row)
                except asyncpg.PostgresError as of_row:
                    if not _refuses_rows(of_row):
                        raise
                    refused.append(_describe(of_row))
        return refused

    @staticmethod
    async def _new_events(connection: "Connection[Any]", events: Sequence[AlarmEvent]) -> Sequence[AlarmEvent]:
        """The transitions that are not stored yet; a command that is delivered again has its event at another time."""
        told = {event.event_id: event for event in reversed(events) if event.transition}
        if not told:
            return ()
        since_us = min(event.raised_at_us for event in told.values())
        wells = list({event.well_id for event in told.values()})  # an alarm may stand since days that are compressed
        stored = {row[0] for row in await connection.fetch(_STORED_EVENTS, list(told), since_us, wells)}
        return [event for event_id, event in reversed(told.items()) if event_id not in stored]


async def copy_lines(
    session: Session, table: str, incoming: str, columns: Sequence[str], lines: bytes, marks: Sequence[Mark]
) -> int:
    """COPY lines of CSV into a table; where it has one of the keys, around what is there. One transaction.

    Args:
        session: of `Database.session`.
        table: where they go.
        incoming: a temporary table of the same columns, empty at the start of each transaction.
        columns: what each line has, in this order.
        lines: all of them.
        marks: the hours to be rolled up again with them.

    Returns:
        How many rows were not there.
    """
    names = ", ".join(f'"{column}"' for column in columns)
    try:
        async with session.transaction():
            tag = await session.copy_to_table(table, source=BytesIO(lines), columns=columns, format="csv")
            await session.executemany(_INSERT_MARK, marks)
    except asyncpg.UniqueViolationError:
        async with session.transaction():
            await session.copy_to_table(incoming, source=BytesIO(lines), columns=columns, format="csv")
            tag = await session.execute(
                f"INSERT INTO {table} ({names}) SELECT {names} FROM {incoming} ON CONFLICT DO NOTHING"  # noqa: S608 - our own names
            )
            await session.executemany(_INSERT_MARK, marks)
    return int(tag.rpartition(" ")[2])


async def detect_edition(connection: "Connection[Any]") -> Edition:
    """Which edition this database is: by the extension that it has, and the licence that the server runs it under."""
    installed = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    if installed is None:
        return Edition.POSTGRESQL
    licence = await connection.fetchval("SELECT current_setting('timescaledb.license', true)")
    return Edition.COMMUNITY if licence == "timescale" else Edition.APACHE


async def migrate(settings: DatabaseSettings) -> tuple[Edition, list[str]]:
    """Create or upgrade the schema; safe to run twice and by two at once.

    Returns:
        The edition, and the names of the migrations that were applied now.

    Raises:
        Unavailable: the database cannot be reached, or this role may not.
    """
    try:
        connection = await _connect(settings, "esp-ingestd migrate")
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
            await _create_extension(settings)
            edition = await detect_edition(connection)
            return edition, [each.path.name for each in await _apply(connection, edition)]
        finally:
            await connection.close(timeout=5.0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        address = mask_dsn(settings.dsn.get_secret_value())
        raise _to_unavailable(error, address) or Unavailable(_describe(error), kind="schema") from error


def shipped_migrations() -> list[Migration]:
    """The files of sql/ in order of their numbers."""
    found = []
    for path in sorted(shipped("sql").glob("[0-9]*.sql")):
        number, _, rest = path.name.removesuffix(".sql").partition("_")
        name, _, only = rest.partition(".")
        found.append(Migration(int(number), name, only, path))
    return found


async def _connect(settings: DatabaseSettings, name: str, *, read_only: bool = False) -> "Connection[Any]":
    dsn = settings.dsn.get_secret_value()
    attributes = SessionAttribute.any if read_only else SessionAttribute.read_write
    connection: Connection[Any] = await asyncpg.connect(
        dsn,
        timeout=settings.connect_timeout_s,
        server_settings={"application_name": name},
        # Of several hosts the one that can be written to; what the DSN itself says goes first.
        target_session_attrs=None if "target_session_attrs" in dsn else attributes,
    )
    return connection


async def _create_extension(settings: DatabaseSettings) -> None:
    """Create TimescaleDB where the server has it and this role may; else it is a PostgreSQL to us.

    On a connection of its own: a server that has the extension but does not preload it hangs up.
    """
    connection = await _connect(settings, "esp-ingestd migrate")
    try:
        available = "SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb' AND installed_version IS NULL"
        if await connection.fetchval(available):
            await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        pass
    finally:
        connection.terminate()


async def _apply(connection: "Connection[Any]", edition: Edition) -> list[Migration]:
    applied = []
    for migration in await _missing(connection, edition):
        async with connection.transaction():
            await connection.execute(migration.path.read_text("utf-8"))
            await connection.execute(
                "INSERT INTO esp_schema_migrations (version, name) VALUES ($1, $2)",
                migration.version,
                migration.path.name,
            )
        applied.append(migration)
    return applied


async def _missing(connection: "Connection[Any]", edition: Edition) -> list[Migration]:
    known = await connection.fetchval("SELECT to_regclass('esp_schema_migrations') IS NOT NULL")
    have = {row[0] for row in await connection.fetch("SELECT version FROM esp_schema_migrations")} if known else set()
    return [each for each in shipped_migrations() if each.version not in have and each.fits(edition)]


async def _require_schema(connection: "Connection[Any]", edition: Edition) -> None:
    if missing := await _missing(connection, edition):
        names = ", ".join(each.path.name for each in missing)
        raise SchemaOutdated(f"the schema lacks {names}: run `esp-ingestd migrate --config FILE`")


async def _all_wells(connection: "Connection[Any]") -> list[str]:
    return [row[0] for row in await connection.fetch(_ALL_WELLS)]


def _to_reading(row: Sequence[Any]) -> Reading:
    reading = Reading._make(row)
    return reading if reading.bad_channels is None else reading._replace(bad_channels=tuple(reading.bad_channels))


def _earliest_us(readings: Sequence[Reading]) -> int:
    return readings.earliest_us if isinstance(readings, CopyRows) else min(map(itemgetter(1), readings))


def _arrived_us(readings: Sequence[Reading]) -> int:
    return readings.arrived_us if isinstance(readings, CopyRows) else readings[-1].received_us


def _encode_us(microseconds: int) -> tuple[int]:
    return (microseconds - POSTGRES_EPOCH_US,)


def _decode_us(value: tuple[int]) -> int:
    return value[0] + POSTGRES_EPOCH_US


def _refuses_rows(error: BaseException) -> bool:
    """Whether the error is a verdict on a row; one of ours that no encoder takes is."""
    if isinstance(error, asyncpg.PostgresError):
        return REFUSES_ROWS.fullmatch(error.sqlstate or "") is not None
    return not isinstance(error, (asyncpg.InterfaceError, OSError))


def _is_doubtful(error: BaseException) -> bool:
    """Whether the error may be a verdict on a row, or may pass."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate == INTERNAL_ERROR


def _to_unavailable(error: BaseException, address: str) -> Unavailable | None:
    """What the error means to who called, or None where it is none of the database's."""
    if isinstance(error, Unavailable):
        return None
    if isinstance(error, asyncpg.PostgresError):
        kind = UNAVAILABLE_KINDS.get((error.sqlstate or "")[:2], "other")
        return Unavailable(f"database {address}: {_describe(error)}", kind=kind)
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return Unavailable(f"database {address}: no host can be written to", kind="read_only")
    if isinstance(error, TimeoutError):
        return Unavailable(f"database {address}: no answer in time", kind="timeout")
    if isinstance(error, (OSError, ssl.SSLError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return Unavailable(f"database {address}: {in_words(error)}", kind="connection")
    return None


def _describe(error: BaseException) -> str:
    if isinstance(error, asyncpg.PostgresError):
        detail = getattr(error, "detail", None)
        return f"{error.sqlstate} {error}" + (f" ({detail})" if detail else "")
    return f"{type(error).__name__}: {error}"


def to_dead_letter(reading: Reading, why: str) -> DeadLetter:
    """A reading that the database refuses, as the payload it would have been; the delivery itself is not kept."""
    payload = json.dumps(dict(rebuild_payload(reading)), ensure_ascii=False).encode()
    detail = {"why": why, "payload": "rebuilt from the reading"}
    return DeadLetter("", payload, Reason.REFUSED_BY_DATABASE, detail, reading.received_us, reading.received_us)


def rebuild_payload(reading: Reading) -> Iterator[tuple[str, object]]:
    """The payload of CONTRACT §3 that decodes to this reading, key by key."""
    yield "well_id", reading.well_id
    yield "timestamp", to_datetime(reading.timestamp_us).isoformat()
    for name in CHANNEL_NAMES:
        if (value := getattr(reading, name)) is not None:
            yield name, value
    yield from (json.loads(reading.extra) if reading.extra else {}).items()


def _dead_letter_row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.first_received_us,
        letter.received_us,
        letter.times,
        letter.topic.replace("\0", "\ufffd"),  # no broker should let NUL pass, and PostgreSQL cannot hold it
        letter.payload,
        letter.reason.value,
        json.dumps(letter.detail),
        letter.fingerprint,
    )


def _event_row(event: AlarmEvent) -> tuple[object, ...]:
    return (
        event.event_id,
        event.alarm_id,
        event.well_id,
        event.timestamp_us,
        event.diagnosis,
        event.category,
        event.severity,
        event.transition,
        event.state,
        event.confidence,
        json.dumps(event.actions),
        event.resolution_time,
        json.dumps(event.telemetry_snapshot),
        json.dumps(event.evidence),
        event.tree_version,
        json.dumps(event.payload()),
    )


def _alarm_row(event: AlarmEvent) -> tuple[object, ...]:
    return (
        event.well_id,
        event.diagnosis,
        event.alarm_id,
        event.state,
        event.severity,
        event.raised_at_us,
        event.timestamp_us,
        json.dumps(event.payload()),
        event.seq,
    )


def _command_row(command: CommandRecord) -> tuple[object, ...]:
    return (
        command.command_id,
        command.received_us,
        command.well_id,
        command.alarm_id,
        command.command,
        command.by,
        command.comment,
        command.duration_s,
    )


_LIST: Final = ", ".join(f'"{column}"' for column in COLUMNS)
# Questions read a few rows each: compiling a plan, or starting workers for it, takes longer than running it.
_ONLY_READ: Final = """
    SELECT set_config('default_transaction_read_only', 'on', false), set_config('jit', 'off', false),
        set_config('max_parallel_workers_per_gather', '0', false)
"""
_CREATE_INCOMING: Final = """
    CREATE TEMPORARY TABLE IF NOT EXISTS esp_incoming (LIKE esp_telemetry) ON COMMIT DELETE ROWS
"""
_INSERT_INCOMING: Final = f"""
    INSERT INTO esp_telemetry ({_LIST}) SELECT {_LIST} FROM esp_incoming ON CONFLICT (well_id, "timestamp") DO NOTHING
"""  # noqa: S608 - our own column names
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
    SELECT {_LIST} FROM esp_telemetry
    WHERE well_id = ANY ($1::text[]) AND "timestamp" >= $2 AND "timestamp" < $3 ORDER BY "timestamp", well_id
"""  # noqa: S608 - our own column names
# INSERT unpacks a block anew for each row that may be in it; a join first finds what is there ten times as fast.
_INSERT_ABSENT: Final = f"""
    INSERT INTO esp_telemetry ({_LIST})
    SELECT {_LIST} FROM esp_incoming AS new LEFT JOIN LATERAL (
        SELECT true AS is_there FROM esp_telemetry AS old
        WHERE old.well_id = new.well_id AND old."timestamp" = new."timestamp" LIMIT 1
    ) AS old ON true
    WHERE is_there IS NULL ON CONFLICT (well_id, "timestamp") DO NOTHING
"""  # noqa: S608 - our own column names
_COMPRESSED_UNTIL: Final = """
    SELECT max(range_end) FROM timescaledb_information.chunks
    WHERE hypertable_schema = current_schema() AND hypertable_name = 'esp_telemetry' AND is_compressed
"""
# A row of a file did not come once more when the file is loaded again.
_UPSERT_DEAD_LETTER: Final = """
    INSERT INTO dead_letters AS old (first_received_at, received_at, times, topic, payload, reason, detail, fingerprint)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (fingerprint) DO UPDATE
    SET times = old.times + excluded.times, received_at = greatest(old.received_at, excluded.received_at)
    WHERE NOT excluded.detail ? 'file'
"""
_INSERT_EVENT: Final = """
    INSERT INTO diagnostic_results (event_id, alarm_id, well_id, "timestamp", diagnosis, category, severity, transition,
        state, confidence, actions, resolution_time, telemetry_snapshot, evidence, tree_version, event, published_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
    ON CONFLICT (event_id, "timestamp") DO NOTHING
"""
_STORED_EVENTS: Final = """
    SELECT event_id FROM diagnostic_results WHERE well_id = ANY ($3) AND event_id = ANY ($1) AND "timestamp" >= $2
"""
_UPSERT_ALARM: Final = """
    INSERT INTO alarm_states AS old
        (well_id, diagnosis, alarm_id, state, severity, raised_at, "timestamp", event, seq)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (well_id, diagnosis) DO UPDATE
    SET alarm_id = excluded.alarm_id, state = excluded.state, severity = excluded.severity,
        raised_at = excluded.raised_at, "timestamp" = excluded."timestamp", event = excluded.event, seq = excluded.seq
    WHERE (excluded.raised_at, excluded.seq, excluded."timestamp") >= (old.raised_at, old.seq, old."timestamp")
"""
_INSERT_COMMAND: Final = """
    INSERT INTO alarm_commands (command_id, received_at, well_id, alarm_id, command, "by", comment, duration_s)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (command_id) DO NOTHING
"""
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
_INSERT_MARK: Final = "INSERT INTO esp_rollup_marks (bucket, well_ids) VALUES ($1, $2)"
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
_UPSERT_LOAD_MARK: Final = """
    INSERT INTO esp_backfills (file, size_bytes, modified_ns, "offset", line) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (file) DO UPDATE SET size_bytes = excluded.size_bytes, modified_ns = excluded.modified_ns,
        "offset" = excluded."offset", line = excluded.line, updated_at = now()
"""
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
