"""A batch: what is made durable together, with the deliveries that may then be acknowledged.

Rules:
    1. The deliveries travel inside the batch whose rows they are (I1); there is no second list.
    2. Everything that came of one message is in one batch, rejections too, so acknowledgements keep the order of
       arrival (I6).
    3. A batch is closed when it is full, when its oldest row is old enough, or when waiting longer is pointless:
       a broker that holds back after a few unacknowledged deliveries (20 is usual, 10 the smallest default known)
       sends nothing more until we acknowledge, so a pause with that many waiting ends the wait.
    4. Nothing in here waits or reads a clock; time comes in microseconds. A clock that is set back closes the batch:
       nobody knows its age then.
    5. What the store did not take in time it is given in parts, a quarter as large after each failure, until they go
       in; they grow again only as far as the store's own pace says that they will still go in.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.command import CommandRecord
from esp_ingestd.core.decode import KEPT_BYTES, Reason, Rejection
from esp_ingestd.core.reading import Reading

WINDOW_DELIVERIES: Final = 10  # a broker may hold back from here on; RabbitMQ's default, Mosquitto's is 20
QUIET_US: Final = 2_000  # no delivery for so long is a pause: a few round trips on a local network
_OVERHEAD_BYTES: Final = 1_000  # what a reading takes in memory beside its payload


class Trigger(StrEnum):
    """Why a batch was closed."""

    ROWS = "rows"
    AGE = "age"
    QUIET = "quiet"
    DRAIN = "drain"


@dataclass(slots=True)
class DeadLetter:
    """A message of which something was refused, untouched; `times` it came in this batch.

    Units: `first_received_us` and `received_us` in microseconds since 1970 UTC.
    """

    topic: str
    payload: bytes
    reason: Reason
    detail: Mapping[str, object]
    first_received_us: int
    received_us: int
    times: int = 1

    @property
    def fingerprint(self) -> bytes:
        """The same for the same payload on the same topic; of a cut one, the size counts too."""
        size = self.detail.get("size_bytes", len(self.payload))
        return hashlib.sha256(f"{self.topic}\0{size}\0".encode(errors="replace") + self.payload).digest()


@dataclass(slots=True)
class Batch:
    """What came of some deliveries, in order of arrival."""

    readings: Sequence[Reading] = field(default_factory=list)
    dead_letters: dict[bytes, DeadLetter] = field(default_factory=dict)
    events: list[AlarmEvent] = field(default_factory=list)
    commands: list[CommandRecord] = field(default_factory=list)
    """Commands that changed something."""
    told: dict[str, Any] = field(default_factory=dict)
    """Event identity -> done once the broker has accepted or refused the event."""
    stated: list[Any] = field(default_factory=list)
    """The same of the states."""
    replies: list[Any] = field(default_factory=list)
    """The same of the answers to commands."""
    states: dict[str, bytes] = field(default_factory=dict)
    """Topic -> the state of an alarm that it is to hold, as of this batch."""
    published: dict[str, int] = field(default_factory=dict)
    """Event identity -> when the broker accepted it, where that is known before the event is stored; microseconds."""
    snapshots: dict[str, bytes] = field(default_factory=dict)
    """Well -> what the diagnosis knew of it when the batch was closed."""
    deliveries: list[int] = field(default_factory=list)
    command_deliveries: list[int] = field(default_factory=list)
    """Those that were commands, which come over a connection of their own."""
    rejected: dict[Reason, int] = field(default_factory=dict)
    rows: int = 0
    size_bytes: int = 0
    opened_us: int = 0
    newest_us: int = 0
    """When its newest delivery arrived."""
    trigger: Trigger = Trigger.DRAIN
    spooled_as: int = 0
    """The number of its events in the spool, where they are in there and not in the database."""

    def __bool__(self) -> bool:
        """Whether anything came."""
        return bool(self.deliveries or self.events or self.command_deliveries)

    @property
    def kept_rows(self) -> int:
        """How many rows of it are to be durable; of commands that are refused none is."""
        return len(self.readings) + len(self.dead_letters) + len(self.events) + len(self.commands)

    def split(self, rows: int) -> "tuple[Batch, Batch]":
        """The first so many rows that are to be durable, readings before what came of them, and the rest."""
        first, rest = [Batch(published=self.published, opened_us=self.opened_us) for _ in range(2)]
        readings, letters = list(self.readings), list(self.dead_letters.items())
        first.readings, rest.readings = readings[:rows], readings[rows:]
        rows -= len(first.readings)
        first.dead_letters, rest.dead_letters = dict(letters[:rows]), dict(letters[rows:])
        rows -= len(first.dead_letters)
        first.events, rest.events = self.events[:rows], self.events[rows:]
        rows -= len(first.events)
        first.commands, rest.commands = self.commands[:rows], self.commands[rows:]
        return first, rest


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch's readings in the database."""

    stored: int
    duplicates: int
    refused: Sequence[tuple[Reading, str]] = ()
    """Readings that the database refuses for good, and why; they are dead letters now."""
    unkept: Sequence[str] = ()
    """Which dead letters and alarm events a rule of the site's own refuses; they are in no table."""


class Batcher:
    """The open batch, and when it is to be closed."""

    def __init__(self, *, max_rows: int, max_age_ms: int) -> None:
        self._max_rows = max_rows
        self._max_age_us = max_age_ms * 1_000
        self._readings: list[Reading] = []  # of the open batch
        self.open = Batch(self._readings)

    def add_message(
        self,
        topic: str,
        payload: bytes,
        readings: Sequence[Reading],
        rejection: Rejection | None,
        delivery: int,
        received_us: int,
    ) -> None:
        """Take what came of one message."""
        batch = self.open
        if not (batch.deliveries or batch):
            batch.opened_us = received_us
        batch.newest_us = received_us
        self._readings += readings
        rows = len(readings)
        if rejection:
            rows += sum(rejection.counts.values())
            self._add_rejection(topic, payload, rejection, received_us)
        batch.rows += rows
        batch.size_bytes += len(payload) + _OVERHEAD_BYTES * len(readings)
        batch.deliveries.append(delivery)

    def _add_rejection(self, topic: str, payload: bytes, rejection: Rejection, received_us: int) -> None:
        batch = self.open
        for reason, count in rejection.counts.items():
            batch.rejected[reason] = batch.rejected.get(reason, 0) + count
        if rejection.reason is Reason.TOO_LARGE:
            payload = payload[:KEPT_BYTES]
        letter = DeadLetter(topic, payload, rejection.reason, rejection.detail, received_us, received_us)
        if same := batch.dead_letters.get(key := letter.fingerprint):
            same.times += 1
            same.received_us = received_us
        else:
            batch.dead_letters[key] = letter

    def due(self, now_us: int) -> Trigger | None:
        """Why the open batch is to be closed now, or None."""
        batch = self.open
        if batch.rows >= self._max_rows:
            return Trigger.ROWS
        if not batch:
            return None
        if not 0 <= now_us - batch.opened_us < self._max_age_us:
            return Trigger.AGE
        if len(batch.deliveries) >= WINDOW_DELIVERIES and now_us - batch.newest_us >= QUIET_US:
            return Trigger.QUIET
        return None

    def wait_us(self, now_us: int) -> int:
        """How long until `due` can change its answer by time alone; asked of an open batch that is not due."""
        left_us = self.open.opened_us + self._max_age_us - now_us
        if len(self.open.deliveries) >= WINDOW_DELIVERIES:
            left_us = min(left_us, self.open.newest_us + QUIET_US - now_us)
        return left_us

    def take(self, trigger: Trigger) -> Batch:
        """Close the open batch and open the next."""
        self._readings = []
        batch, self.open = self.open, Batch(self._readings)
        batch.trigger = trigger
        return batch


class Portion:
    """How many rows a store is given at once: whatever there is, until that took too long."""

    def __init__(self, *, whole_rows: int, timeout_s: float) -> None:
        """`whole_rows` is what all is well again at; a write may take `timeout_s`."""
        self._whole_rows = whole_rows
        self.timeout_s = timeout_s
        self.rows = sys.maxsize

    @property
    def is_whole(self) -> bool:
        """Whether it is given batches as they are."""
        return self.rows == sys.maxsize

    def cut(self, rows: int) -> None:
        """So many took too long."""
        self.rows = max(min(rows, self.rows) // 4, 1)

    def grow(self, rows: int, took_s: float) -> None:
        """So many took so long: give four times as many, if at this pace they take half of the time allowed.

        What took a hundredth of it is no sign of a slow store, however few rows it was.
        """
        more = 4 * self.rows
        is_quick = took_s <= self.timeout_s / 100
        if not self.is_whole and (is_quick or more * took_s <= rows * self.timeout_s / 2):
            self.rows = more if more < self._whole_rows else sys.maxsize
