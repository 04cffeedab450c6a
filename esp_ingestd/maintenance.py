"""Maintenance of the store: hours and days rolled up, closed days archived, archives read back, old days dropped.

Rules:
    1. Each step stands for itself: one that fails is told and counted, the others go on, and the next pass tries again.
       Nothing that ingest needs rests on it, so a failure is no reason to end the service (I7 is about tasks that end).
    2. Rollups hold an advisory lock of the database on a connection of their own, the archive one of its own: however
       many daemons there are, one of them does it. It goes with its holder.
    3. Every step may be killed anywhere: what it had not committed is as if it had never begun.
    4. In the daemon the archive's work is done by a child process with a low priority: it compresses and hashes, and
       ingest shares neither its interpreter nor its memory. Rollups are the database's work; they need no process.
    5. The database has one priority for all: work in it is done a little at a time, with long rests between.
"""

import asyncio
import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from esp_ingestd.archive import ArchiveError, Busy, Pace, require_extra
from esp_ingestd.config import Settings
from esp_ingestd.core.reading import SECOND_US
from esp_ingestd.database import Database, StoreHealth
from esp_ingestd.errors import Unavailable
from esp_ingestd.telemetry import StoreMetrics, set_up_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from esp_ingestd.archive import Report
    from esp_ingestd.archive.retention import Status

MAINTENANCE_LOCK: Final = 0x65737033  # any constant of our own: "esp3"; "esp1" is migrate's, "esp2" the archive's
FIRST_PASS: Final = 0.1  # of an interval after the start: not at once, and not never where it is started often
NICENESS: Final = 10
REST: Final = 19
"""Of the time that some wells of an hour, or a block of the archive, took: it has a twentieth of the time."""
LONGEST_REST_S: Final = 3600.0
_PROGRAM: Final = (sys.executable, "-c", "from esp_ingestd.maintenance import work_for_parent; work_for_parent()")

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a pass did."""

    name: str
    done: str
    faults: Sequence[str] = ()
    """What failed, a plain line each."""
    kept: str = ""
    """Why retention keeps what is older than it should; nothing failed."""

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.done or not self.faults:
            yield f"{self.name}: {self.done or 'nothing to do'}" + (f": {self.kept}" if self.kept else "")
        yield from (f"{self.name}: failed: {fault}" for fault in self.faults)


Work = Callable[[Settings], Awaitable[Step]]


async def run_steps(settings: Settings, works: Mapping[str, Work]) -> list[Step]:
    """Do these, one after the other, whatever becomes of each."""
    return [await _attempt(name, work, settings) for name, work in works.items()]


async def _attempt(name: str, work: Work, settings: Settings) -> Step:
    try:
        return await work(settings)
    except Busy as busy:
        return Step(name, str(busy))
    except ArchiveError as error:
        return Step(name, "", error.faults)
    except (Unavailable, OSError) as error:
        return Step(name, "", [str(error)])
    except Exception as error:  # noqa: BLE001 - a fault of ours is told with its place; readings are taken all the same
        _log.exception("maintenance failed", step=name)
        return Step(name, "", [f"{type(error).__name__}: {error}"])


# ---------------------------------------------------------------------------------------------------------- the steps


async def roll_up(settings: Settings, pace: Pace | None = None) -> Step:
    """Count every hour again that got readings or alarm events.

    Args:
        settings: of the database.
        pace: how hard it may be worked; None is as hard as it can be.

    Raises:
        Unavailable: the database is away; what was counted by then stays.
    """
    database = Database(settings.database, name="esp-ingestd rollups")
    began = time.monotonic()
    try:
        async with _alone(settings) as is_alone:
            if not is_alone:
                return Step("rollups", "another one is at it")
            await database.merge_marks()  # also where counting fails again and again, they are few
            hours = await database.stale_hours()
            pace = pace or Pace()
            rows = sum([await database.roll_up(hour, pace.pause) for hour in hours])
    finally:
        await database.close()
    if not hours:
        return Step("rollups", "")
    return Step("rollups", f"{len(hours)} hours, {rows} readings counted in {time.monotonic() - began:.1f} s")


async def roll_up_gently(settings: Settings) -> Step:
    """`roll_up` beside ingest: for an hour at most it rests between transactions, then it makes haste."""
    return await roll_up(settings, Pace(REST, LONGEST_REST_S))


async def _merge_marks(settings: Settings) -> Step:
    database = Database(settings.database, name="esp-ingestd marks")
    try:
        await database.merge_marks()
    finally:
        await database.close()
    return Step("marks", "")


@asynccontextmanager
async def _alone(settings: Settings) -> "AsyncIterator[bool]":
    """Whether nobody else holds the lock; it is held meanwhile, by a connection that does nothing else."""
    database = Database(settings.database, name="esp-ingestd maintenance lock")
    try:
        async with database.session() as session:
            yield bool(await session.fetchval("SELECT pg_try_advisory_lock($1)", MAINTENANCE_LOCK))
    finally:
        await database.close()


async def archive(settings: Settings, pace: Pace | None = None) -> Step:
    """Archive closed days.

    Args:
        settings: of archive and database.
        pace: how hard the database may be worked; None is as hard as it can be.

    Raises:
        ArchiveError, Unavailable: as `archive_days`.
    """
    if not settings.archive.url:
        return Step("archive", "none (archive.url is empty)")
    require_extra(settings.archive.url)
    from esp_ingestd.archive.archiving import archive_days  # noqa: PLC0415 - slow to import

    return _summarize("archive", await archive_days(settings, pace=pace))


async def verify(settings: Settings, pace: Pace | None = None) -> Step:
    """Read one archived day back, that which was not looked at for the longest time.

    Args:
        settings: of archive and database.
        pace: as of `archive`.

    Raises:
        ArchiveError, Unavailable: as `archive.archiving.verify`.
    """
    if not settings.archive.url or (day := await _least_recently_verified(settings)) is None:
        return Step("verify", "")
    require_extra(settings.archive.url)
    from esp_ingestd.archive import archiving  # noqa: PLC0415 - slow to import

    return _summarize("verify", await archiving.verify(settings, since=day, until=day, pace=pace))


async def _least_recently_verified(settings: Settings) -> date | None:
    database = Database(settings.database, name="esp-ingestd maintenance")
    try:
        async with database.session() as session:
            found = await session.fetchval(
                "SELECT day FROM archived_days WHERE verified_at IS NOT NULL ORDER BY verified_at, day LIMIT 1"
            )
            return found if isinstance(found, date) else None
    finally:
        await database.close()


async def retain(settings: Settings) -> Step:
    """Drop what is older than retention keeps it and may be dropped.

    Raises:
        ArchiveError, Unavailable: as `archive.retention.retain`.
    """
    from esp_ingestd.archive import retention  # noqa: PLC0415 - the daemon starts without it

    if not settings.retention.require_verified_archive:
        _log.warning("retention drops what is not archived", why="retention.require_verified_archive is false")
    return _summarize("retention", await retention.retain(settings))


ARCHIVING: Final[Mapping[str, Work]] = {"archive": archive, "verify": verify, "retention": retain}
EVERYTHING: Final[Mapping[str, Work]] = {"rollups": roll_up, **ARCHIVING}


async def archive_gently(settings: Settings) -> list[Step]:
    """`ARCHIVING` beside ingest: for an hour at most it rests between blocks, then it makes haste."""
    pace = Pace(REST, LONGEST_REST_S)
    gently: Mapping[str, Work] = {"archive": partial(archive, pace=pace), "verify": partial(verify, pace=pace)}
    return await run_steps(settings, {**ARCHIVING, **gently})


def _summarize(name: str, report: "Report") -> Step:
    """How many days became what, and why some were kept."""
    counts = Counter(each.what for each in report.days)
    done = ", ".join(f"{count} {what}" for what, count in counts.items() if what != "failed")
    kept = list(dict.fromkeys(each.why for each in report.days if each.what == "kept"))
    return Step(
        name, done, report.faults, kept[0] + (f", and {len(kept) - 1} more" if kept[1:] else "") if kept else ""
    )


# -------------------------------------------------------------------------------------------------------- the daemon


class Maintenance:
    """Maintenance as two tasks of the daemon: `keep_rollups` and `keep_archive`."""

    def __init__(self, settings: Settings, metrics: StoreMetrics, note: Callable[[str, str], None]) -> None:
        """Prepare.

        Args:
            settings: of the daemon.
            metrics: where it is counted.
            note: takes the name of a step and what failed in it, or "" when nothing did.
        """
        self._settings = settings
        self._metrics = metrics
        self._note = note

    async def keep_rollups(self) -> None:
        """Roll up, and look at the store, until cancelled."""
        interval_s = self._settings.maintenance.interval_s
        await asyncio.sleep(FIRST_PASS * interval_s)
        while True:
            steps = await run_steps(self._settings, {"rollups": roll_up_gently, "health": self._look})
            self._count(steps)
            if not any(step.faults for step in steps):
                self._metrics.kept.set_to_current_time()
            await asyncio.sleep(interval_s)

    async def keep_marks(self) -> None:
        """Where maintenance is another's, see that what it is to do stays small if it never comes, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.maintenance.interval_s)
            for step in await run_steps(self._settings, {"marks": _merge_marks}):
                if step.faults:
                    _log.warning("marks of the rollups cannot be merged", why=list(step.faults))

    async def keep_archive(self) -> None:
        """Archive, read back and drop, in a child process, until cancelled."""
        interval_s = self._settings.maintenance.archive_interval_s
        await asyncio.sleep(FIRST_PASS * interval_s)
        while True:
            self._count(await run_steps_in_child(self._settings))
            await asyncio.sleep(interval_s)

    async def _look(self, settings: Settings) -> Step:
        pace = Pace(REST, LONGEST_REST_S)
        _tell(self._metrics, await look(settings))
        await pace.pause()
        return Step("health", "")

    def _count(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._metrics.runs.labels(step.name, "failed" if step.faults else "done").inc()
            self._note(step.name, "; ".join(step.faults) or step.kept)
            if step.faults:
                _log.warning("maintenance failed", step=step.name, why=list(step.faults))
            elif step.kept:
                _log.warning("retention keeps what is overdue", done=step.done, why=step.kept)
            elif step.done:
                _log.info("maintenance", step=step.name, done=step.done)


def _tell(metrics: StoreMetrics, health: StoreHealth) -> None:
    for name, table in health.tables.items():
        metrics.chunks.labels(name).set(table.chunks)
        metrics.table_bytes.labels(name).set(table.size_bytes)
        metrics.compression_ratio.labels(name).set(table.compression_ratio)
    metrics.rolled_up.set(health.rolled_up_us / SECOND_US)
    metrics.jobs_failed.set(health.failed_jobs)
    metrics.archive_bytes.set(health.archived_bytes)
    metrics.damaged_days.set(health.damaged_days)
    metrics.unarchived_days.set(health.unarchived_days)
    metrics.unarchived_since.set(health.unarchived_since_us / SECOND_US)
    metrics.verified.set(health.verified_us / SECOND_US)
    metrics.overdue_days.set(health.overdue_days)


async def run_steps_in_child(settings: Settings) -> list[Step]:
    """`ARCHIVING` in a process of its own.

    Cancel: the process is killed.
    """
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*_PROGRAM, stdin=pipe, stdout=pipe)
    try:
        said, _ = await child.communicate(pickle.dumps(settings))
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode:
        return [Step("archive", "", [f"its process ended with status {child.returncode}"])]
    steps: list[Step] = pickle.loads(said)  # noqa: S301 - our own child's
    return steps


def work_for_parent() -> None:
    """What the child process does: settings from standard input, steps to standard output."""
    settings: Settings = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own parent's
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no answer
    with suppress(OSError):  # where a sandbox forbids it
        os.nice(NICENESS)
    set_up_log(settings.log.level, settings.log.format)
    with answer:
        pickle.dump(asyncio.run(archive_gently(settings)), answer)


async def look(settings: Settings) -> StoreHealth:
    """How the store is, for metrics.

    Raises:
        Unavailable: the database is away.
    """
    from esp_ingestd.archive.retention import status  # noqa: PLC0415 - the daemon starts without it

    database = Database(settings.database, name="esp-ingestd maintenance")
    try:
        health = await database.store_health()
    finally:
        await database.close()
    return _with_archive(health, await status(settings), is_on=bool(settings.archive.url))


def _with_archive(health: StoreHealth, status: "Status", *, is_on: bool) -> StoreHealth:
    health.overdue_days = status.overdue_days
    if is_on:
        health.archived_bytes = status.archived_bytes
        health.unarchived_days = status.unarchived_days
        health.verified_us = status.newest_verified_us or 0
        if (oldest := status.oldest_unarchived_day) is not None:
            end = datetime(oldest.year, oldest.month, oldest.day, tzinfo=UTC) + timedelta(days=1)
            health.unarchived_since_us = round(end.timestamp()) * SECOND_US
    return health
