"""Archiving closed days, and reading them back.

COPY --> block of messages --> rows --> merged with the old file --> Parquet file and checksums --> read back
(the event loop, some blocks ahead) (a thread)
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from esp_ingestd import __version__
from esp_ingestd.archive import ArchiveError, DayResult, Outcome, Pace, Report
from esp_ingestd.archive.copied import from_copy
from esp_ingestd.archive.form import Content, Rows, Tally, Writer, hash_of_nulls, read_file
from esp_ingestd.archive.ledger import (
    Known,
    Stored,
    count_rows,
    export,
    fingerprint,
    first_open_day,
    known_days,
    mark,
    marked_days,
    present_days,
    record,
    require_columns,
    settle,
    snapshot,
    unsettle,
    working,
)
from esp_ingestd.archive.merge import Merger
from esp_ingestd.archive.place import (
    FORMAT,
    Manifest,
    Place,
    days_of,
    fetched_whole,
    hash_of,
    manifest_name,
    open_place,
    read_manifest,
)
from esp_ingestd.archive.tables import TABLES, Table
from esp_ingestd.config import Settings
from esp_ingestd.core.reading import to_iso
from esp_ingestd.database import Session
from esp_ingestd.progress import Progress

BLOCK_BYTES: Final = 4 * 1024 * 1024  # about 17 000 readings
BLOCKS_AHEAD: Final = 3
"""Of blocks begun or waiting. A row group is written with every eighth block, which takes as long as five others: so
the server, which is the slowest, needs not wait for that."""
SMALL_BYTES: Final = 128 * 1024
MEND: Final = "while the database has that day, `archive run` makes it anew; else bring the file back from a copy"
NAP_S: Final = 0.001
"""The server sends 8 KB at a time, and each that wakes us costs 90 us; after a nap there are ten and more to be had."""
Days = Callable[[date], bool]
Finished = TypeVar("Finished")


def between(since: date | None, until: date | None) -> Days:
    """Which days: from `since` to `until`, both of them too."""
    return lambda day: (since is None or day >= since) and (until is None or day <= until)


async def archive_days(
    settings: Settings,
    *,
    since: date | None = None,
    until: date | None = None,
    pace: Pace | None = None,
    show_progress: bool = False,
) -> Report:
    """Archive every closed day that is not in the archive as it is in the database; read each back.

    A day that fails is reported, and the others go on.

    Raises:
        ArchiveError: there is no archive, it is away, or another run is at work on it (Busy).
        Unavailable: the database is away.

    Cancel: the day that was under way stays as it was.
    """
    place = open_place(settings.archive.url)
    results: list[DayResult] = []
    async with working(settings) as (session, edition):
        past = await first_open_day(session, settings.archive.closes_after_s)
        for table in TABLES:
            archiver = _Archiver(session, place, table, await known_days(session, table), pace or Pace())
            days = filter(between(since, until), await present_days(session, edition, table, past))
            due = await archiver.due(days)
            with _Steps(table.name, sum(due.values()), show=show_progress) as steps:
                results += [await archiver.archive(day, rows, steps) for day, rows in due.items()]
    return Report(results)


async def verify(
    settings: Settings,
    *,
    since: date | None = None,
    until: date | None = None,
    pace: Pace | None = None,
    show_progress: bool = False,
) -> Report:
    """Read archived days back and compare file, manifest and, while they are there, the rows of the database.

    Raises:
        ArchiveError: there is no archive, it is away, or another run is at work on it (Busy).
        Unavailable: the database is away.
    """
    place = open_place(settings.archive.url)
    results: list[DayResult] = []
    async with working(settings) as (session, _):
        for table in TABLES:
            archiver = _Archiver(session, place, table, await known_days(session, table), pace or Pace())
            found = await asyncio.to_thread(place.sizes, table.name)
            days = sorted({*days_of(found), *archiver.known})
            days = [day for day in days if between(since, until)(day)]
            with _Steps(table.name, sum(map(archiver.rows_of, days)), show=show_progress) as steps:
                results += [await archiver.verify(day, steps) for day in days]
    return Report(results)


class _Steps:
    """Progress over days, if it is to be shown."""

    def __init__(self, name: str, rows: int, *, show: bool) -> None:
        self._progress = Progress(name, rows) if show and rows else None
        self._rows = 0

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.__exit__(None, None, None)

    def add(self, rows: int) -> None:
        """So many rows more."""
        self._rows += rows
        if self._progress:
            self._progress.update(self._rows, self._rows)


@dataclass(slots=True)
class _DayMerge:
    """One day on its way: blocks of the database in, merged with an old file; where it goes, and what it was."""

    table: Table
    old: Iterator[Rows]
    writer: Writer | None
    steps: _Steps
    old_tally: Tally = field(init=False)
    tally: Tally = field(init=False)
    _merger: Merger = field(init=False)

    def __post_init__(self) -> None:
        self.tally, self.old_tally = Tally(self.table), Tally(self.table)
        self._merger = Merger(self.table, self._counted())

    def _counted(self) -> Iterator[Rows]:
        for rows in self.old:
            self.old_tally.add(rows)
            yield rows

    def add(self, block: bytes) -> None:
        """Rows of the database."""
        new = from_copy(self.table, block)
        self._take(self._merger.push(new))
        self.steps.add(new.num_rows)

    def finish(self) -> Content:
        """The rest of the old file."""
        self._take(self._merger.finish())
        if self.writer:
            self.writer.close()
        return self.tally.content()

    def _take(self, merged: Iterator[Rows]) -> None:
        for rows in merged:
            self.tally.add(rows)
            if self.writer:
                self.writer.add(rows)


class _Blocks:
    """What COPY sends, cut into blocks of whole messages; a thread works on them in their order while more arrive.

    The server sends a row a message (its manual, 55.2.6), and asyncpg hands on whole messages.
    """

    def __init__(self, work: Callable[[bytes], None], pace: Pace) -> None:
        self._work = work
        self._pace = pace
        self._held = bytearray()
        self._thread = ThreadPoolExecutor(1, "archive")
        self._begun: deque[asyncio.Future[Any]] = deque()

    async def add(self, data: bytes) -> None:
        """More messages."""
        self._held += data
        if len(self._held) >= BLOCK_BYTES:
            await self._flush()
            await self._pace.pause()
        elif len(data) < SMALL_BYTES:
            await asyncio.sleep(NAP_S)

    async def finish(self, work: Callable[[], Finished]) -> "asyncio.Future[Finished]":
        """Nothing more comes: begin what is to be done once all of it is worked on."""
        await self._flush()
        await self._wait(0)
        return self._start(work)

    async def settle(self) -> None:
        """Wait until no thread works on it, whatever came of that."""
        for begun in self._begun:
            if not begun.cancel() and not begun.cancelled():
                begun.exception()  # so that nobody says it was never looked at
        await asyncio.to_thread(self._thread.shutdown)

    async def _flush(self) -> None:
        block, self._held = bytes(self._held), bytearray()
        await self._wait(BLOCKS_AHEAD - 1)
        self._start(lambda: self._work(block))

    async def _wait(self, most: int) -> None:
        """Until no more than so many are under way; with the fault of the first that has one."""
        while len(self._begun) > most:
            await asyncio.shield(self._begun[0])
            self._begun.popleft()

    def _start(self, work: Callable[[], Finished]) -> "asyncio.Future[Finished]":
        begun = asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._begun.append(begun)
        return begun


@dataclass(frozen=True, slots=True)
class _Old:
    """The version of a day that is in the archive; nothing of it where there is none."""

    manifest: Manifest | None = None
    name: str | None = None
    """Its file, which goes once the new version is in its place."""
    path: Path | None = None
    """A local copy of that, if it is whole."""


class _Archiver:
    """Archives and verifies days of one table."""

    def __init__(self, session: Session, place: Place, table: Table, known: dict[date, Known], pace: Pace) -> None:
        self._session = session
        self._pace = pace
        self._place = place
        self._table = table
        self.known = known

    def rows_of(self, day: date) -> int:
        """How many rows the archive has of a day, as far as the database knows."""
        return self.known[day].rows if day in self.known else 0

    async def due(self, days: Iterable[date]) -> dict[date, int]:
        """Those that are not in the archive as they are in the database, and how many rows that has of each.

        Only days that may have changed are counted: those that are new, or were touched, or whose file is not there.
        """
        marked = await marked_days(self._session)
        sizes = await asyncio.to_thread(self._place.sizes, self._table.name)
        suspects = [day for day in days if day in marked or not self._is_settled(day, sizes)]
        return {day: rows for day in suspects if (rows := await self._rows_due(day))}

    def _is_settled(self, day: date, sizes: Mapping[str, int]) -> bool:
        """Whether nothing can have changed, by what the database and a list of the archive say."""
        known = self.known.get(day)
        if known is None or known.verified_us is None or known.stored.rows < 0 or known.touched_us is not None:
            return False
        manifest, file = manifest_name(self._table.name, day), known.file
        return Path(manifest).name in sizes and sizes.get(Path(file).name) == known.size_bytes

    async def _rows_due(self, day: date) -> int:
        """How many rows the database has of a day that is not in the archive as it is there; else 0."""
        rows = await count_rows(self._session, self._table, day)
        known = self.known.get(day)
        if known is None or known.verified_us is None or known.stored.rows != rows:
            return rows
        # Events are changed after they were written, when the broker accepts them; readings never are.
        if self._table.received is None and await fingerprint(self._session, self._table, day) != known.stored:
            return rows
        try:
            manifest = await asyncio.to_thread(read_manifest, self._place, self._table.name, day)
        except ArchiveError:
            return rows
        if manifest.sha256 != known.sha256:
            return rows
        await settle(self._session, self._table, known)
        return 0

    async def archive(self, day: date, stored_rows: int, steps: _Steps) -> DayResult:
        """Bring a day into the archive as it is now."""
        try:
            await require_columns(self._session, self._table)
            with ExitStack() as stack:
                old = await asyncio.to_thread(self._old_version, day, stored_rows, stack)
                return await self._archive(day, old, stack, steps)
        except (ArchiveError, OSError) as error:
            return DayResult(self._table.name, day, stored_rows, Outcome.FAILED, str(error))

    def _old_version(self, day: date, stored_rows: int, stack: ExitStack) -> _Old:
        """The version that the archive has.

        Raises:
            ArchiveError: it is damaged, and had rows that the database may not have.
        """
        known = self.known.get(day)
        # Only while nothing of the day was ever dropped here does the database have all of it.
        has_all = known is not None and known.dropped_us is None and stored_rows >= known.rows
        sizes = self._place.sizes(self._table.name)
        manifest = None
        try:
            if f"{day.isoformat()}.json" not in sizes and (known is None or has_all):
                return self._lost_version(sizes, day, stack)
            manifest = read_manifest(self._place, self._table.name, day)
            return _Old(manifest, manifest.path, stack.enter_context(fetched_whole(self._place, manifest)))
        except ArchiveError as error:
            if has_all:
                return _Old(manifest, manifest.path if manifest else None)
            raise ArchiveError(
                f"{error}; the archive may hold rows that the database has no more: bring the file back from a copy"
            ) from error

    def _lost_version(self, sizes: Mapping[str, int], day: date, stack: ExitStack) -> _Old:
        """A file without a manifest, of a run that was killed or of a day whose manifest is lost: it is merged too."""
        for version in sorted(_versions(sizes, day), reverse=True):
            name = f"{self._table.name}/{_file_name(day, version)}"
            with suppress(ArchiveError):
                path = stack.enter_context(self._place.fetched(name))
                for _ in read_file(self._table, path):
                    pass
                return _Old(None, name, path)
        return _Old()

    async def _archive(self, day: date, old: _Old, stack: ExitStack, steps: _Steps) -> DayResult:
        sizes = await asyncio.to_thread(self._place.sizes, self._table.name)
        # Never a version that there was: what a reader has open, or what is removed at the end, is another file.
        version = max([0, *_versions(sizes, day), old.manifest.version if old.manifest else 0]) + 1
        name = f"{self._table.name}/{_file_name(day, version)}"
        draft = await asyncio.to_thread(self._place.draft, name)
        stack.callback(draft.unlink, missing_ok=True)
        writer = stack.enter_context(Writer(self._table, draft))
        merge = _DayMerge(self._table, read_file(self._table, old.path) if old.path else iter(()), writer, steps)
        stored, made = await self._merge(day, merge, lambda: self._finish(day, version, draft, old, merge))
        if made is old.manifest:
            await self._record(day, made, stored)
            return DayResult(self._table.name, day, made.rows, Outcome.VERIFIED, "the archive had all of it")
        # Whoever lost the lock with its connection must not replace what another has made since.
        await self._session.fetchval("SELECT 1")
        await asyncio.to_thread(self._place.write, manifest_name(self._table.name, day), made.to_json())
        await self._record(day, made, stored)
        if old.name:
            await asyncio.to_thread(self._place.remove, old.name)
        return DayResult(self._table.name, day, made.rows, Outcome.MERGED if old.path else Outcome.ARCHIVED)

    async def _merge(self, day: date, merge: _DayMerge, finish: Callable[[], Finished]) -> tuple[Stored, Finished]:
        """Send the rows of a day through `merge`; what they were, in one snapshot, and what `finish` makes of it.

        The database finds out what they were while we finish: neither waits for the other.
        """
        blocks = _Blocks(merge.add, self._pace)
        try:
            async with snapshot(self._session):
                await export(self._session, self._table, day, blocks.add)
                finished = await blocks.finish(finish)
                stored = await fingerprint(self._session, self._table, day)
            return stored, await asyncio.shield(finished)
        finally:
            await blocks.settle()

    def _finish(self, day: date, version: int, draft: Path, old: _Old, merge: _DayMerge) -> Manifest:
        """Put the new version in its place, unless the old one is the same; the manifest of that which counts."""
        content = merge.finish()
        if old.manifest and old.path and merge.old_tally.content() == content:
            return old.manifest
        made = _describe(self._table, day, version, draft, content)
        self._publish(draft, made)
        return made

    def _publish(self, draft: Path, made: Manifest) -> None:
        """Put a file in its place and read it back.

        Raises:
            ArchiveError: it is not what went in.
        """
        self._place.put(draft, made.path)
        tally = Tally(self._table)
        with fetched_whole(self._place, made) as path:
            for rows in read_file(self._table, path):
                tally.add(rows)
        _compare(self._table, tally.content(), made, "the file", "what was written")

    async def _record(self, day: date, manifest: Manifest, stored: Stored) -> None:
        now_us = time.time_ns() // 1_000
        known = Known(
            day, manifest.path, manifest.sha256, manifest.size_bytes, manifest.rows, stored, now_us, now_us, None, None
        )
        await record(self._session, self._table, known)

    async def verify(self, day: date, steps: _Steps) -> DayResult:
        """Compare file and manifest, then the rows that the database has of the day with both."""
        known = self.known.get(day)
        try:
            with ExitStack() as stack:
                manifest, path = await asyncio.to_thread(self._fetch, day, stack)
                merge = _DayMerge(self._table, read_file(self._table, path), None, steps)
                stored, content = await self._merge(day, merge, merge.finish)
            _compare(self._table, merge.old_tally.content(), manifest, "the file", "its manifest")
            is_stale = stored.rows > 0 and (known is None or stored != known.stored)
            if not is_stale:
                _compare(self._table, content, manifest, "the database", "the archive")
        except (ArchiveError, OSError) as error:
            if known:
                await mark(self._session, self._table, day, known.sha256, None)
            return DayResult(self._table.name, day, self.rows_of(day), Outcome.FAILED, str(error))
        await mark(self._session, self._table, day, manifest.sha256, time.time_ns() // 1_000)
        if is_stale:
            await unsettle(self._session, self._table, day)
        why = "the database has other rows than were archived; the next run archives them" if is_stale else ""
        return DayResult(self._table.name, day, manifest.rows, Outcome.VERIFIED, why)

    def _fetch(self, day: date, stack: ExitStack) -> tuple[Manifest, Path]:
        """The manifest of a day and its file, local and whole until `stack` is closed.

        Raises:
            ArchiveError: one of them is missing or damaged.
        """
        try:
            manifest = read_manifest(self._place, self._table.name, day)
            return manifest, stack.enter_context(fetched_whole(self._place, manifest))
        except ArchiveError as error:
            raise ArchiveError(f"{error}; {MEND}") from error


def _file_name(day: date, version: int) -> str:
    return f"{day.isoformat()}.v{version}.parquet"


def _versions(sizes: Iterable[str], day: date) -> list[int]:
    """The versions of a day of which there is a file, named by a manifest or not."""
    found = (re.fullmatch(rf"{day.isoformat()}\.v(\d+)\.parquet", name) for name in sizes)
    return [int(match[1]) for match in found if match]


def _describe(table: Table, day: date, version: int, path: Path, content: Content) -> Manifest:
    """The manifest of a file."""
    return Manifest(
        format=FORMAT,
        table=table.name,
        day=day.isoformat(),
        version=version,
        file=_file_name(day, version),
        size_bytes=path.stat().st_size,
        sha256=hash_of(path),
        rows=content.rows,
        first=_iso(content.first_us),
        last=_iso(content.last_us),
        wells=content.wells,
        columns=content.columns,
        archived_at=to_iso(time.time_ns() // 1_000),
        program=__version__,
    )


def _iso(moment_us: int | None) -> str | None:
    return None if moment_us is None else to_iso(moment_us)


def _compare(table: Table, content: Content, manifest: Manifest, which: str, other: str) -> None:
    """See that rows are those of a manifest; of a column that came with a later version it says nothing: null.

    Raises:
        ArchiveError: with everything that differs.
    """
    faults = []
    if content.rows != manifest.rows:
        faults.append(f"{which} has {content.rows} rows, {other} {manifest.rows}")
    if content.wells != manifest.wells:
        faults.append(f"{which} has {content.wells} wells, {other} {manifest.wells}")
    if (_iso(content.first_us), _iso(content.last_us)) != (manifest.first, manifest.last):
        faults.append(f"{which} and {other} begin or end at another time")
    expected = {name: manifest.columns.get(name) or hash_of_nulls(table, name, manifest.rows) for name in table.names}
    if differ := [name for name, found in content.columns.items() if expected[name] != found]:
        faults.append(f"{which} and {other} differ in {', '.join(differ)}")
    if faults:
        raise ArchiveError("; ".join(faults))
