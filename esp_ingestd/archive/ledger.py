"""What the database knows of the archive, and the rows of a day out of it and into it.

Every function takes a session of `Database.session`: times are microseconds since 1970 UTC.
"""

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from esp_ingestd.archive import ArchiveError, Busy
from esp_ingestd.archive.tables import Kind, Table
from esp_ingestd.config import Settings
from esp_ingestd.core.reading import SECOND_US, to_datetime, to_microseconds
from esp_ingestd.database import Database, Edition, Session

ARCHIVE_LOCK: Final = 0x65737032  # any constant of our own: "esp2"
DAY: Final = timedelta(days=1)


class Stored(NamedTuple):
    """What the database holds of a day, in one snapshot."""

    rows: int
    fingerprint: Decimal


class Known(NamedTuple):
    """A row of archived_days."""

    day: date
    file: str
    sha256: str
    size_bytes: int
    rows: int
    stored: Stored
    archived_us: int
    verified_us: int | None
    dropped_us: int | None
    touched_us: int | None
    """When it may have got rows that are not archived; None: not since it was last looked at."""


@asynccontextmanager
async def looking(settings: Settings) -> AsyncIterator[tuple[Session, Edition]]:
    """A session on a connection of the archive's own, and which edition it speaks with.

    Raises:
        Unavailable: the database is away.
    """
    database = Database(settings.database, name="esp-ingestd archive")
    try:
        edition = await database.connect()
        async with database.session() as session:
            yield session, edition
    finally:
        await database.close()


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[tuple[Session, Edition]]:
    """Likewise, a session that is the only one at work on the archive.

    Raises:
        Busy: another one is.
        Unavailable: the database is away.
    """
    async with looking(settings) as (session, edition):
        if not await session.fetchval("SELECT pg_try_advisory_lock($1)", ARCHIVE_LOCK):
            raise Busy("another run is at work on the archive of this database")
        try:
            yield session, edition
        finally:
            if not session.is_closed():
                await session.execute("SELECT pg_advisory_unlock($1)", ARCHIVE_LOCK)


def start_us(day: date) -> int:
    """When a day begins, UTC."""
    return to_microseconds(datetime(day.year, day.month, day.day, tzinfo=UTC))


async def today(session: Session) -> date:
    """The day that it is by both clocks, ours and the database's: by that which is behind."""
    theirs_us = int(await session.fetchval("SELECT clock_timestamp()"))
    return to_datetime(min(time.time_ns() // 1_000, theirs_us)).date()


async def first_open_day(session: Session, closes_after_s: float) -> date:
    """The first day that is not closed yet."""
    theirs_us = int(await session.fetchval("SELECT clock_timestamp()"))
    now_us = min(time.time_ns() // 1_000, theirs_us)
    return to_datetime(now_us - round(closes_after_s * SECOND_US)).date()


async def known_days(session: Session, table: Table) -> dict[date, Known]:
    """What archived_days says of a table."""
    rows = await session.fetch(_KNOWN, table.name)
    return {row[0]: Known._make((*row[:5], Stored(row[5], row[6]), *row[7:])) for row in rows}


async def present_days(session: Session, edition: Edition, table: Table, past: date) -> list[date]:
    """The days before `past` of which the database has rows."""
    if not edition.has_hypertables:
        return sorted(row[0] for row in await session.fetch(_DAYS.format(table=table.name)) if row[0] < past)
    chunks = await session.fetch(_CHUNKS, table.name)
    days = sorted({day for first_us, past_us in chunks for day in days_between(first_us, past_us) if day < past})
    some = _SOME.format(table=table.name)
    return [day for day in days if await session.fetchval(some, start_us(day), start_us(day + DAY))]


async def count_rows(session: Session, table: Table, day: date) -> int:
    """How many rows the database has of a day."""
    return int(await session.fetchval(_COUNT.format(table=table.name), start_us(day), start_us(day + DAY)))


def days_between(first_us: int, past_us: int) -> list[date]:
    """The days that have a moment from `first_us` until `past_us`."""
    first, last = to_datetime(first_us).date(), to_datetime(past_us - 1).date()
    return [first + index * DAY for index in range((last - first).days + 1)]


@asynccontextmanager
async def snapshot(session: Session) -> AsyncIterator[None]:
    """What is asked within sees the database as it was at the first question."""
    async with session.transaction(isolation="repeatable_read", readonly=True):
        yield


async def fingerprint(session: Session, table: Table, day: date) -> Stored:
    """What the database holds of a day."""
    (found,) = await session.fetch(_FINGERPRINT, table.name, start_us(day), start_us(day + DAY))
    return Stored._make(found)


async def export(session: Session, table: Table, day: date, sink: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
    """Send the rows of a day, in order, to `sink` by COPY ... (FORMAT binary), whole messages; JSON, names as text."""
    columns = ", ".join(_AS_SENT.get(column.kind, '"{}"').format(column.name) for column in table.columns)
    order = ", ".join(f'"{name}"' + (' COLLATE "C"' if name == "event_id" else "") for name in table.order)
    query = (
        f"SELECT {columns} FROM {table.name} WHERE \"timestamp\" >= '{day} 00:00Z'"  # noqa: S608 - our own names
        f" AND \"timestamp\" < '{day + DAY} 00:00Z' ORDER BY {order}"
    )
    await session.copy_from_query(query, output=sink, format="binary")


async def require_columns(session: Session, table: Table) -> None:
    """See that a table has no columns but those that are archived.

    Raises:
        ArchiveError: it has.
    """
    if strange := sorted({row[0] for row in await session.fetch(_COLUMNS, table.name)} - set(table.names)):
        raise ArchiveError(
            f"has columns that would not be archived: {', '.join(strange)}; move them to a table of their own"
        )


async def marked_days(session: Session) -> set[date]:
    """The days of which hours got rows and are not rolled up yet."""
    return {row[0] for row in await session.fetch(_MARKED)}


async def settle(session: Session, table: Table, known: Known) -> None:
    """Note that a day was looked at and is archived as it is, unless it was touched since `known` was read."""
    await session.execute(_SETTLE, table.name, known.day, known.touched_us)


async def record(session: Session, table: Table, known: Known) -> None:
    """Note what was archived; a drop that was noted before stays noted.

    The day counts as touched: who took a mark while there was no note, or an older one, had nobody to tell.
    """
    await session.execute(
        _RECORD,
        table.name,
        known.day,
        known.file,
        known.sha256,
        known.size_bytes,
        known.rows,
        *known.stored,
        known.archived_us,
        known.verified_us,
    )


async def mark(session: Session, table: Table, day: date, sha256: str, verified_us: int | None) -> None:
    """Note when a file was found whole, or that it no longer is."""
    await session.execute(_MARK, table.name, day, sha256, verified_us)


async def unsettle(session: Session, table: Table, day: date) -> None:
    """Note that the database holds something else than was archived: the day is due, whatever a count says."""
    await session.execute(_UNSETTLE, table.name, day)


async def drop_days(
    session: Session, edition: Edition, table: Table, first_us: int, past_us: int, *, guarded: bool
) -> str | None:
    """Drop what is from first until past, if it is archived, or `guarded` is False.

    Returns:
        None, or why it is kept.
    """
    isolation: Literal["read_committed", "repeatable_read"]
    isolation = "read_committed" if edition.has_hypertables else "repeatable_read"
    async with session.transaction(isolation=isolation):
        await session.execute("SET LOCAL lock_timeout = '2s'")  # who reads a chunk keeps it, and nobody waits behind us
        kept: str | None = await session.fetchval(_DROP, table.name, first_us, past_us, guarded)
    return kept


async def droppable(session: Session, edition: Edition, table: Table, cutoff: date) -> list[tuple[int, int]]:
    """What can be dropped as one, from and until: chunks that end before `cutoff`; of a plain table days."""
    if not edition.has_hypertables:
        days = await present_days(session, edition, table, cutoff)
        return [(start_us(day), start_us(day + DAY)) for day in days]
    chunks = await session.fetch(_CHUNKS, table.name)
    return [(first_us, past_us) for first_us, past_us in chunks if past_us <= start_us(cutoff)]


_AS_SENT: Final = {Kind.JSON: '"{}"::text', Kind.NAMES: 'array_to_json("{}")::text'}
_FINGERPRINT: Final = "SELECT rows, fingerprint FROM esp_fingerprint($1, $2, $3)"
_DROP: Final = "SELECT esp_drop_days($1, $2, $3, $4)"
_KNOWN: Final = """
    SELECT day, file, sha256, bytes, rows, stored_rows, fingerprint, archived_at, verified_at, dropped_at, touched_at
    FROM archived_days WHERE table_name = $1 ORDER BY day
"""
_RECORD: Final = """
    INSERT INTO archived_days
        (table_name, day, file, sha256, bytes, rows, stored_rows, fingerprint, archived_at, verified_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    ON CONFLICT (table_name, day) DO UPDATE SET file = excluded.file, sha256 = excluded.sha256, bytes = excluded.bytes,
        rows = excluded.rows, stored_rows = excluded.stored_rows, fingerprint = excluded.fingerprint,
        archived_at = excluded.archived_at, verified_at = excluded.verified_at, touched_at = now()
"""
_MARK: Final = """
    UPDATE archived_days SET verified_at = $4 WHERE table_name = $1 AND day = $2 AND sha256 = $3
"""
_MARKED: Final = "SELECT DISTINCT (bucket AT TIME ZONE 'UTC')::date FROM esp_rollup_marks"
_SETTLE: Final = """
    UPDATE archived_days SET touched_at = NULL WHERE table_name = $1 AND day = $2 AND touched_at = $3
"""
_UNSETTLE: Final = "UPDATE archived_days SET stored_rows = -1 WHERE table_name = $1 AND day = $2"
_CHUNKS: Final = """
    SELECT range_start, range_end FROM timescaledb_information.chunks
    WHERE hypertable_schema = current_schema() AND hypertable_name = $1 ORDER BY range_start
"""
_COUNT: Final = """
    SELECT count(*) FROM {table} WHERE "timestamp" >= $1 AND "timestamp" < $2
"""
_COLUMNS: Final = """
    SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""
_SOME: Final = """
    SELECT EXISTS (SELECT FROM {table} WHERE "timestamp" >= $1 AND "timestamp" < $2)
"""
# Along the index (well_id, "timestamp"), from one day of a well to its next: a few pages for each.
_DAYS: Final = """
    WITH RECURSIVE wells AS (
        SELECT min(well_id) AS well_id FROM {table}
        UNION ALL
        SELECT (SELECT min(well_id) FROM {table} WHERE well_id > wells.well_id) FROM wells WHERE well_id IS NOT NULL
    ), firsts AS (
        SELECT well_id, (SELECT min("timestamp") FROM {table} t WHERE t.well_id = wells.well_id) AS first
        FROM wells WHERE well_id IS NOT NULL
        UNION ALL
        SELECT well_id, (
            SELECT min("timestamp") FROM {table} t WHERE t.well_id = firsts.well_id
                AND "timestamp" >= (date_trunc('day', first AT TIME ZONE 'UTC') + interval '1 day') AT TIME ZONE 'UTC')
        FROM firsts WHERE first IS NOT NULL
    )
    SELECT DISTINCT (first AT TIME ZONE 'UTC')::date FROM firsts WHERE first IS NOT NULL
"""
