"""When each well is remembered, so that what is known of it outlives the process (I10).

Rules:
    1. What is known of a well is taken when a batch is closed, before any later reading is diagnosed, and kept once
       that batch is durable: it is as old as the batch.
    2. A well is remembered with each of its alarms and commands, and with every batch while a delay runs in it: a delay
       that a kill forgot, or its end, would tell the same alarm at another time, by another id.
    3. A well is remembered as soon as it is heard, since until then a kill makes it one that has just started, and with
       its next batch, since one that was heard once has no interval, and its silence is not seen.
    4. Each is remembered every five minutes besides, a few with a batch.
    5. A memory that cannot be kept stops nothing, and is told once.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from esp_ingestd.core.batch import Batch
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.errors import Unavailable
from esp_ingestd.telemetry import Metrics

REMEMBER_US: Final = 300_000_000
FEW: Final = 50
"""Wells with one batch that need not be: a few milliseconds."""

_log = structlog.stdlib.get_logger(__name__)


class Memory(Protocol):
    """Where what the diagnosis knows of each well outlives the process."""

    async def save(self, snapshots: Mapping[str, bytes], states: Mapping[str, bytes]) -> None:
        """Keep these wells' snapshots and these topics' states, or raise Unavailable."""


class Remembering:
    """Which wells are due, and keeping them."""

    def __init__(
        self, diagnostician: Diagnostician, memory: Memory | None, metrics: Metrics, clock: Callable[[], int]
    ) -> None:
        """Remember in `memory`; None: nothing is, and the wells are learned anew at each start."""
        self._diagnostician = diagnostician
        self._memory = memory
        self._metrics = metrics
        self._clock = clock
        self._remembered_us: dict[str, int] = {}
        self._rotation: deque[str] = deque()  # wells, the one longest not remembered first
        self._unsettled: set[str] | None = None  # in which a delay ran when they were last remembered
        self._new: set[str] = set()  # first heard with the open batch
        self._heard_once: set[str] = set()
        self._heard_again: deque[str] = deque()
        self._forgets = False  # the memory could not be kept

    def meet(self, well_id: str) -> None:
        """A well is heard for the first time in this process."""
        self._remembered_us[well_id] = 0
        self._rotation.appendleft(well_id)
        self._new.add(well_id)

    def make_due(self) -> None:
        """Remember all wells anew, soon."""
        for well_id in self._remembered_us:
            self._remembered_us[well_id] = 0

    def attend(self, batch: Batch) -> None:
        """Give a batch that is closed what is known now of the wells that are due."""
        if self._memory is None:
            return
        touched = {reading[0] for reading in batch.readings}
        wells = {event.well_id for event in batch.events} | {each.well_id for each in batch.commands}
        wells |= self._in_delay(touched)
        self._follow_beginners(touched)
        while self._heard_again and len(wells) < FEW:
            wells.add(self._heard_again.popleft())
        now_us, due = self._clock(), self._rotation
        # A time to come is one of before the clock was set.
        while due and len(wells) < FEW and not 0 <= now_us - self._remembered_us[due[0]] < REMEMBER_US:
            self._remembered_us[due[0]] = now_us
            wells.add(due[0])
            due.rotate(-1)
        batch.snapshots = {well_id: self._diagnostician.snapshot(well_id) for well_id in wells}

    async def keep_all(self) -> None:
        """Keep what is known of all wells."""
        snapshot = self._diagnostician.snapshot
        await self.keep({well_id: snapshot(well_id) for well_id in self._diagnostician.well_ids()}, {})

    async def keep(self, snapshots: Mapping[str, bytes], states: Mapping[str, bytes]) -> None:
        """Keep these, or go on without."""
        if self._memory is None or not (snapshots or states):
            return
        try:
            await self._memory.save(snapshots, states)
        except Unavailable as unavailable:
            self._metrics.store_errors.labels(unavailable.kind).inc()
            if not self._forgets:  # a line a batch would fill what is left of the disk
                _log.error("memory of wells cannot be kept: a kill now forgets some of it", why=str(unavailable))
            self._forgets = True
        else:
            if self._forgets:
                _log.info("memory of wells is kept again")
            self._forgets = False

    def _in_delay(self, touched: set[str]) -> set[str]:
        """Of the wells of a batch those in which a delay runs, or ran when they were last remembered."""
        unsettled = self._diagnostician.unsettled
        if self._unsettled is None:
            self._unsettled = unsettled(self._diagnostician.well_ids())
        now = unsettled(touched)
        follow = now | (self._unsettled & touched)
        self._unsettled = (self._unsettled - touched) | now
        return follow

    def _follow_beginners(self, touched: set[str]) -> None:
        """See which wells are heard in a second batch."""
        again = self._heard_once & touched
        self._heard_again.extend(again)
        self._heard_once = (self._heard_once - again) | self._new
        self._new = set()
