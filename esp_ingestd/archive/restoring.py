"""Bringing archived days back: by COPY, and where a row is there already, around it. Safe to repeat."""

import asyncio
import re
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
from pyarrow import compute

from esp_ingestd.archive import ArchiveError, DayResult, Outcome, Report
from esp_ingestd.archive.form import Rows, read_file, to_csv
from esp_ingestd.archive.ledger import looking, start_us, today
from esp_ingestd.archive.place import Manifest, Place, days_of, fetched_whole, open_place, read_manifest
from esp_ingestd.archive.retention import first_kept
from esp_ingestd.archive.tables import TABLES, TELEMETRY, Table
from esp_ingestd.config import Settings, mask_url
from esp_ingestd.core.reading import DAY_US, HOUR_US
from esp_ingestd.database import Session, copy_lines
from esp_ingestd.progress import Progress
from esp_ingestd.rollup import Mark

TABLE_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


async def restore(
    settings: Settings,
    *,
    url: str,
    tables: Sequence[Table] = TABLES,
    wells: frozenset[str] = frozenset(),
    since_us: int | None = None,
    until_us: int | None = None,
    into: str | None = None,
    show_progress: bool = False,
) -> Report:
    """Bring archived rows back into the database; a row of which it has the key changes nothing.

    A day that fails is reported, and the others go on.

    Args:
        settings: where the database is, and what its retention is.
        url: where the archive is.
        tables: rows of which tables.
        wells: only rows of these; empty is all.
        since_us: only rows at or after this moment, microseconds since 1970 UTC.
        until_us: only rows before this moment, likewise.
        into: another table, of one of the tables; it is created where it is missing.
        show_progress: on standard error.

    Raises:
        ArchiveError: the archive cannot be opened, or there is nothing in it; or `into` is no name for a table.
        Unavailable: the database is away; what was restored stays, and the same call goes on.
    """
    if into is not None and not TABLE_NAME.fullmatch(into):
        raise ArchiveError(f"--into {into}: a table's name has letters a to z, digits and _, at most 63")
    place = open_place(url)
    since_us, until_us = since_us or 0, until_us or start_us(date.max)
    results: list[DayResult] = []
    async with looking(settings) as (session, _):
        for table in tables:
            await _prepare(session, table, into or table.name)
            found = days_of(await asyncio.to_thread(place.sizes, table.name))
            days = [day for day in found if start_us(day) < until_us and start_us(day) + DAY_US > since_us]
            manifests, faults = await asyncio.to_thread(_read_manifests, place, table, days)
            results += faults
            total = sum(each.rows for each in manifests.values())
            with Progress(table.name, total) if show_progress else nullcontext() as progress:
                restorer = _Restorer(session, place, table, into or table.name, progress)
                for day, manifest in manifests.items():
                    results.append(await restorer.restore(day, manifest, wells, since_us, until_us))
        if into is None:
            results = _warned(results, settings, await today(session))
    if not results:
        raise ArchiveError(f"there is nothing of that in {mask_url(url)}")
    return Report(results)


def tables_of(names: Sequence[str], into: str | None) -> tuple[Table, ...]:
    """The tables of these names; without any all, or of those the readings where they go into another table.

    Raises:
        ValueError: no such table, or several for one.
    """
    known = {table.name: table for table in TABLES}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--table {unknown[0]}: allowed are {', '.join(known)}")
    if into and len(names) > 1:
        raise ValueError("--into takes the rows of one --table")
    if not names:
        return (TELEMETRY,) if into else TABLES
    return tuple(known[name] for name in dict.fromkeys(names))


async def _prepare(session: Session, table: Table, target: str) -> None:
    """Make the table where it is missing, with the columns, key and comments of its like; and room to insert from."""
    if not await session.fetchval("SELECT to_regclass($1) IS NOT NULL", target):
        await session.execute(f"CREATE TABLE {target} (LIKE {table.name} INCLUDING ALL)")
    await session.execute(
        f"CREATE TEMPORARY TABLE esp_restoring_{table.name} (LIKE {table.name}) ON COMMIT DELETE ROWS"
    )
    await session.execute("SET TimeZone = 'UTC'")  # as `to_csv` writes times
    # A bound on what one statement may decompress; setting what no extension knows does no harm.
    await session.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")


def _read_manifests(place: Place, table: Table, days: Sequence[date]) -> tuple[dict[date, Manifest], list[DayResult]]:
    manifests, faults = {}, []
    for day in days:
        try:
            manifests[day] = read_manifest(place, table.name, day)
        except ArchiveError as error:
            faults.append(DayResult(table.name, day, 0, Outcome.FAILED, str(error)))
    return manifests, faults


def _warned(results: Sequence[DayResult], settings: Settings, now: date) -> list[DayResult]:
    """What retention will drop again, told."""
    first = {table.name: first_kept(settings.retention, table, now) for table in TABLES}
    return [
        replace(each, why=f"{each.why}; retention drops it again: raise its days, or restore --into another table")
        if each.what is Outcome.RESTORED and each.day < first[each.table]
        else each
        for each in results
    ]


class _Block(NamedTuple):
    """Rows as COPY takes them."""

    rows: int
    lines: bytes
    marks: list[Mark]
    """The hours that they fall into, which are rolled up again."""


@dataclass(slots=True)
class _Restorer:
    """Restores days of one table."""

    session: Session
    place: Place
    table: Table
    target: str
    progress: Progress | None
    _done: int = 0

    async def restore(
        self, day: date, manifest: Manifest, wells: frozenset[str], since_us: int, until_us: int
    ) -> DayResult:
        """Bring back the rows of a day, a block at a time; the next is read while one is written."""
        rows = stored = 0
        try:
            with ExitStack() as stack:
                path = await asyncio.to_thread(lambda: stack.enter_context(fetched_whole(self.place, manifest)))
                blocks = stack.enter_context(closing(_blocks(self.table, path, wells, since_us, until_us)))
                ahead = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
                try:
                    while block := await asyncio.shield(ahead):
                        ahead = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
                        stored += await self._copy(block)
                        rows += block.rows
                        self._step(block.rows)
                finally:
                    await asyncio.wait([ahead])
                    ahead.exception()
        except (ArchiveError, OSError) as error:
            return DayResult(self.table.name, day, stored, Outcome.FAILED, str(error))
        return DayResult(self.table.name, day, stored, Outcome.RESTORED, f"{rows - stored} were there already")

    async def _copy(self, block: _Block) -> int:
        incoming = f"esp_restoring_{self.table.name}"
        marks = block.marks if self.target == self.table.name else ()
        return await copy_lines(self.session, self.target, incoming, self.table.names, block.lines, marks)

    def _step(self, rows: int) -> None:
        self._done += rows
        if self.progress:
            self.progress.update(self._done, self._done)


def _blocks(table: Table, path: Path, wells: frozenset[str], since_us: int, until_us: int) -> Generator[_Block]:
    """The rows that are wanted, as lines for COPY."""
    for rows in read_file(table, path, wells=wells):
        wanted = _filter(rows, wells, since_us, until_us)
        if wanted.num_rows:
            yield _Block(wanted.num_rows, to_csv(table, wanted), _marks_of(wanted))


def _filter(rows: Rows, wells: frozenset[str], since_us: int, until_us: int) -> Rows:
    times = rows.column("timestamp").cast(pa.int64())
    is_wanted = compute.and_(compute.greater_equal(times, since_us), compute.less(times, until_us))
    if wells:
        is_wanted = compute.and_(is_wanted, compute.is_in(rows.column("well_id"), pa.array(sorted(wells))))
    return rows.filter(is_wanted)


def _marks_of(rows: Rows) -> list[Mark]:
    hours = compute.divide(rows.column("timestamp").cast(pa.int64()), HOUR_US).unique().to_pylist()
    wells = rows.column("well_id").unique().to_pylist()
    return [Mark(hour * HOUR_US, wells) for hour in hours]
