"""How batches become durable: in the store, else in the overflow, which drains into it; the only retry policy.

Rules:
    1. While the store is away, batches go to the overflow at once; what drains is what finds out that it is back.
    2. What the store does not take in time it is given in smaller parts, by the overflow: live batches that are larger
       than such a part go there at once, so that intake and the watchdog wait for no slow store.
    3. What is drained is counted once it is gone from the overflow: what fails in between is found as duplicates.
    4. That the broker has accepted an event is marked in the store. Of an event in the overflow it is marked there, and
       goes to the store with it; what is told while its batch is on the way is marked after that. So nothing piles up
       here in an outage.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from esp_ingestd.config import Settings
from esp_ingestd.core.batch import Batch, Portion, Written
from esp_ingestd.core.decode import Reason
from esp_ingestd.errors import Refused, Unavailable
from esp_ingestd.telemetry import Metrics

RETRY_MAX_S: Final = 2.0  # the longest pause between two attempts: recovery must show within seconds

_log = structlog.stdlib.get_logger(__name__)


class Store(Protocol):
    """Where batches become durable."""

    async def write(self, batch: Batch) -> Written:
        """Make a batch durable, or raise Unavailable."""

    async def mark_published(self, event_ids: Sequence[str], at_us: int) -> None:
        """Note when the broker accepted these events, or raise Unavailable."""


class Overflow(Protocol):
    """Where batches become durable while the store is away."""

    filled: asyncio.Event

    async def append(self, batch: Batch) -> int:
        """Make a batch durable, or raise Unavailable; its number, which rises."""

    async def oldest(self, max_rows: int) -> tuple[Batch, int] | None:
        """The oldest batches as one, and the number to remove it by."""

    async def remove(self, upto: int) -> None:
        """The store has the batches up to this number."""

    async def mark_published(self, event_ids: Sequence[str], at_us: int) -> None:
        """Note that the broker accepted these events."""


class Storing:
    """Makes batches durable, and marks which of their events the broker has accepted."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        drain_store: Store,
        overflow: Overflow | None,
        metrics: Metrics,
        report: Callable[[str], None],
        clock: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        """Store through `store`, and through `drain_store` what waits in `overflow`.

        Without `overflow`, batches wait here. `report` hears why the store takes no batches, or "" when it does; `wake`
        that there is something to mark.
        """
        self._store = store
        self._drain_store = drain_store
        self._overflow = overflow
        self._metrics = metrics
        self._report = report
        self._clock = clock
        self._wake = wake
        self._batch_rows = settings.batch.max_rows
        self._portion = Portion(whole_rows=self._batch_rows, timeout_s=settings.database.write_timeout_s)
        self._published: list[str] = []  # events that the broker has accepted and that are not marked yet
        self._telling: set[str] = set()  # these, and those that it has not answered
        self._drained_upto = self._draining_upto = 0
        self._told_meanwhile: list[str] = []  # events told after their batch was read from the overflow
        self.is_away = False
        """Whether the store takes no batches now."""
        self.progress = 0
        """Rises with every batch written or tried."""
        metrics.rows_at_once.set_function(lambda: min(self._portion.rows, self._batch_rows))

    async def make_durable(self, batch: Batch) -> None:
        """In the store; while that is away or slow, in the overflow; while neither takes it, wait."""
        if not batch.kept_rows:
            return
        parts = [batch]
        async for attempt in self._attempts():
            with attempt:
                self.progress += 1
                if self._overflow is None:
                    await self._write_parts(self._store, parts, self._note_stored)
                    continue
                is_refused = attempt.retry_state.attempt_number > 1  # by the overflow: its disk is full, or fails
                if not self.is_away and (batch.kept_rows <= self._portion.rows or is_refused):
                    try:
                        await self._write_parts(self._store, parts, self._note_stored)
                    except Unavailable as unavailable:
                        self._count_unavailable(unavailable)
                await self._spill(self._overflow, batch, parts)
        self._count_rejected(batch)

    async def drain_overflow(self) -> None:
        """Bring what overflowed into the store, oldest first, for ever.

        Cancel: a batch that was stored and not yet removed is sent again, which the keys make harmless.
        """
        overflow = self._overflow
        while overflow is not None:
            await overflow.filled.wait()
            parts: list[Batch] = []
            written: list[Written] = []
            async for attempt in self._attempts():
                with attempt:
                    if not parts:
                        if (oldest := await overflow.oldest(min(self._portion.rows, self._batch_rows))) is None:
                            continue
                        batch, self._draining_upto = oldest
                        parts, written = [batch], []
                        self._telling.difference_update(self._told_meanwhile)
                        self._told_meanwhile = []  # of an attempt that failed: the spool has those marks
                    await self._write_parts(self._drain_store, parts, written.append)
                    self._drained_upto = upto = self._draining_upto
                    self._published += self._told_meanwhile
                    self._told_meanwhile = []
                    self._wake()
                    await overflow.remove(upto)
                    for each in written:  # only now: what is still in the overflow would be counted twice
                        self._count_written(each)

    @property
    def has_told(self) -> bool:
        """Whether there is something to mark."""
        return bool(self._published)

    def is_telling(self, event_id: str) -> bool:
        """Whether the event is on its way to the broker, or accepted and not marked yet."""
        return event_id in self._telling

    def begin_telling(self, event_id: str) -> None:
        """The event is published."""
        self._telling.add(event_id)

    def note_refused(self, event_id: str) -> None:
        """The broker has refused it."""
        self._telling.discard(event_id)

    def note_told(self, event_id: str) -> None:
        """The broker has accepted an event that is stored."""
        self._published.append(event_id)
        self._wake()

    async def note_told_with(self, batch: Batch, told: Sequence[str]) -> None:
        """The broker has accepted these events of a batch that is durable."""
        if batch.spooled_as and self._overflow is not None:
            try:
                await self._overflow.mark_published(told, self._clock())
            except Unavailable as unavailable:  # then they are published once more after a crash
                self._count_unavailable(unavailable)
            else:
                if batch.spooled_as > self._drained_upto:  # the marks go to the store with them: nothing piles up here
                    if batch.spooled_as <= self._draining_upto:
                        self._told_meanwhile += told
                    else:
                        self._telling.difference_update(told)
                    return
        self._published += told
        self._wake()

    async def mark_told(self) -> None:
        """Mark in the store what the broker has accepted, if the store is there and waits for no backlog."""
        if self._published and not self.is_away and not (self._overflow and self._overflow.filled.is_set()):
            event_ids = self._published.copy()
            try:
                await self._store.mark_published(event_ids, self._clock())
            except Unavailable as unavailable:  # of no batch: whether the store takes those is not known
                self._metrics.store_errors.labels(unavailable.kind).inc()
                return
            except Refused as refused:
                self._metrics.store_errors.labels("unkept").inc()
                _log.error("database refuses to mark alarm events as told", count=len(event_ids), why=str(refused))
            del self._published[: len(event_ids)]
            self._telling.difference_update(event_ids)

    async def _write_parts(self, store: Store, parts: list[Batch], note: Callable[[Written], None]) -> None:
        """Write them all, one that is more than the store takes in time in smaller parts, and note each.

        Raises:
            Unavailable: `parts` are what is left.
        """
        now_s = asyncio.get_running_loop().time
        portion = self._portion
        while parts:
            if (rows := parts[0].kept_rows) > portion.rows:
                parts[:1] = parts[0].split(portion.rows)
                continue
            began_s = now_s()
            was_whole = portion.is_whole
            try:
                written = await store.write(parts[0])
            except Unavailable as unavailable:
                if unavailable.kind == "timeout":
                    portion.cut(rows)
                    self._tell_portion(rows, was_whole=was_whole)
                raise
            took_s = now_s() - began_s
            self._metrics.batch_write_seconds.observe(took_s)
            del parts[0]
            note(written)
            self._set_away("")
            portion.grow(rows, took_s)
            self._tell_portion(rows, was_whole=was_whole)

    def _tell_portion(self, rows: int, *, was_whole: bool) -> None:
        if was_whole and not self._portion.is_whole:
            _log.warning(
                "database takes too long: it is given less at once",
                rows=rows,
                rows_at_once=self._portion.rows,
                write_timeout_s=self._portion.timeout_s,
                see="locks in pg_stat_activity; the load of its disk; if it is always so: database.write_timeout_s",
            )
        elif self._portion.is_whole and not was_whole:
            _log.info("database takes whole batches again")

    def _note_stored(self, written: Written) -> None:
        self.progress += 1
        self._count_written(written)

    async def _spill(self, overflow: Overflow, batch: Batch, parts: list[Batch]) -> None:
        while parts:
            try:
                number = await overflow.append(parts[0])
            except Unavailable:
                self.is_away = False  # the next attempt asks the store again
                raise
            if parts.pop(0).events:
                batch.spooled_as = batch.spooled_as or number  # of the first: what is told is marked by either road

    def _attempts(self) -> AsyncRetrying:
        """The only retry policy: for ever, with growing pauses and jitter."""
        return AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_random_exponential(multiplier=0.1, max=RETRY_MAX_S),
            before_sleep=self._count_failure,
        )

    def _count_failure(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Unavailable):
            self._count_unavailable(error)

    def _count_unavailable(self, unavailable: Unavailable) -> None:
        self._metrics.store_errors.labels(unavailable.kind).inc()
        if not unavailable.kind.startswith("spool"):
            self._set_away(str(unavailable))

    def _set_away(self, why: str) -> None:
        self.is_away = bool(why)
        self._report(why)

    def _count_rejected(self, batch: Batch) -> None:
        for reason, count in batch.rejected.items():
            self._metrics.readings_rejected.labels(reason.value).inc(count)

    def _count_written(self, written: Written) -> None:
        metrics = self._metrics
        metrics.readings_stored.inc(written.stored)
        metrics.readings_duplicate.inc(written.duplicates)
        if written.refused:
            metrics.readings_rejected.labels(Reason.REFUSED_BY_DATABASE.value).inc(len(written.refused))
            reading, why = written.refused[0]
            _log.warning("database refuses readings", count=len(written.refused), well_id=reading.well_id, why=why)
        if written.unkept:
            metrics.store_errors.labels("unkept").inc(len(written.unkept))
            _log.error("database refuses what goes with readings", count=len(written.unkept), why=written.unkept[0])
