"""Publishes readings to the broker, simulated ones or a recording, at a pace or as fast as the broker takes them.

Rules:
    1. A reading counts once the broker has accepted it (QoS 1). At most `window` publications wait for that; while
       the broker is slow or away nothing more is made, and what it missed follows when it is back.
    2. Simulated event time never runs ahead of the clock: a field that begins in the past and runs fast goes on at
       the clock's pace once it has caught up.
"""

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import inf
from pathlib import Path
from typing import Final, NamedTuple

from esp_ingestd.config import MqttSettings
from esp_ingestd.core.reading import SECOND_US, to_iso
from esp_ingestd.mqtt import Mqtt
from esp_ingestd.recording import read_recording
from esp_ingestd.simulator import Field

WINDOW: Final = 100
HISTORY_S: Final = 30 * 86_400.0
PROGRESS_S: Final = 5.0
DRAIN_S: Final = 10.0  # that the end waits for the broker to accept what was sent
EARLY_S: Final = 0.002  # what is due as soon is sent now: fewer, larger writes
STAND_IN: Final = "simulated"


class Outgoing(NamedTuple):
    """A reading to be published."""

    well_id: str
    payload: bytes
    due_us: int
    """Event time at which it is due, microseconds since 1970 UTC."""


class Message(NamedTuple):
    """One publication to be: a reading, or an array of readings of one well."""

    topic: str
    payload: bytes
    readings: int
    due_us: int


@dataclass(slots=True)
class Tally:
    """What was sent, and what of it the broker has accepted."""

    sent_messages: int = 0
    sent_readings: int = 0
    accepted_messages: int = 0
    accepted_readings: int = 0
    due_us: int = 0
    """Of the last message that was sent."""
    elapsed_s: float = 0.0
    reached: bool = False
    """Whether there was a broker at all, at any time."""

    @property
    def complete(self) -> bool:
        """Whether the broker has accepted all."""
        return self.reached and self.accepted_messages == self.sent_messages

    def __str__(self) -> str:
        if not self.reached:
            return "nothing was sent: the broker was never reached"
        rate = self.accepted_readings / self.elapsed_s if self.elapsed_s else 0.0
        return (
            f"the broker accepted {self.accepted_readings} of {self.sent_readings} readings"
            f" in {self.accepted_messages} messages, {self.elapsed_s:.1f} s, {rate:.0f} readings/s"
        )


def topic_for(pattern: str, well_id: str) -> str:
    """A topic of one well that `pattern` (one of `mqtt.topics`) is subscribed to; STAND_IN where it takes anything."""
    levels = pattern.split("/")
    if levels[0] == "$share":
        levels = levels[2:]
    fill = {"{well_id}": well_id, "{field}": STAND_IN, "+": STAND_IN, "#": STAND_IN}
    return "/".join(fill.get(level, level) for level in levels)


def history_s(speed: float, duration_s: float) -> float:
    """How long before now a simulated field is to begin so that it does not overtake the clock, s.

    At the clock's own pace not at all; faster, so that it reaches the clock at the end, but at most HISTORY_S.
    """
    return min(HISTORY_S, (speed - 1) * duration_s) if speed > 1 else 0.0


def from_field(field: Field) -> Iterator[Outgoing]:
    """The readings of a field, without end, those of an instant spread over the interval that follows it."""
    spread_us = field.interval_s * SECOND_US / len(field.well_ids)
    places = {well_id: round(place * spread_us) for place, well_id in enumerate(field.well_ids)}
    while True:
        now_us = field.now_us
        for well_id, payload in field.step():
            yield Outgoing(well_id, payload, now_us + places[well_id])


def from_recordings(paths: Sequence[Path], *, naive_is_utc: bool = False) -> Iterator[Outgoing]:
    """The readings of recordings, file after file, in their order.

    Raises:
        RecordingError: at the first line that is no reading.
        OSError: a file cannot be read.
    """
    for recorded in chain.from_iterable(read_recording(path, naive_is_utc=naive_is_utc) for path in paths):
        yield Outgoing(recorded.well_id, recorded.payload, recorded.timestamp_us)


def to_messages(readings: Iterable[Outgoing], pattern: str, array: int = 1) -> Iterator[Message]:
    """Messages of `readings`: single objects, or arrays of up to `array` consecutive readings of one well."""
    waiting: defaultdict[str, list[Outgoing]] = defaultdict(list)
    for reading in readings:
        if array == 1:
            yield Message(topic_for(pattern, reading.well_id), reading.payload, 1, reading.due_us)
            continue
        together = waiting[reading.well_id]
        together.append(reading)
        if len(together) >= array:
            yield _join(waiting.pop(reading.well_id), pattern)
    yield from (_join(together, pattern) for together in waiting.values())


def _join(readings: Sequence[Outgoing], pattern: str) -> Message:
    payload = b"[" + b",".join(reading.payload for reading in readings) + b"]"
    return Message(topic_for(pattern, readings[0].well_id), payload, len(readings), readings[-1].due_us)


class Publisher:
    """Publishes messages over a connection of its own, until they end or it is told to stop."""

    def __init__(self, settings: MqttSettings, *, window: int = WINDOW, tell: Callable[[str], None]) -> None:
        """Publish to the broker of `settings`; `tell` hears of progress and of a broker that is away, in lines."""
        client_id = f"{settings.client_id}-simulate-{os.getpid()}"
        self._mqtt = Mqtt(settings, client_id=client_id, keep_session=False, window=window)
        self._window = window
        self._tell = tell
        self._room = asyncio.Event()
        self._why_away = ""
        self._is_refused = False
        self._began_s = time.monotonic()
        self.tally = Tally()

    async def run(
        self, messages: Iterable[Message], *, speed: float = inf, duration_s: float = inf, live: bool = False
    ) -> Tally:
        """Publish `messages` and wait until the broker has accepted them.

        Args:
            messages: in the order in which they are due; the first is due at once.
            speed: of event time against the clock; inf: as fast as the broker takes them.
            duration_s: after which it ends by itself.
            live: nothing is published before its own event time.

        Raises:
            whatever `messages` raises, after what was sent before is accepted.

        Cancel: ends at once; what the broker has not accepted is lost.
        """
        stop = asyncio.Event()
        with _signals(stop):
            connection = asyncio.create_task(self._mqtt.run(self._on_change), name="connection")
            progress = asyncio.create_task(self._report(), name="progress")
            sending = asyncio.create_task(self._send(messages, speed, live=live), name="sending")
            stopping = asyncio.create_task(stop.wait(), name="stopping")
            try:
                timeout = None if duration_s == inf else duration_s
                tasks = {sending, stopping, connection}
                await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                sending.cancel()
                await self._drain()
                with suppress(asyncio.CancelledError):
                    await sending
            finally:
                for task in (sending, stopping, progress, connection):
                    task.cancel()
                await self._mqtt.close()
        return self.tally

    async def _send(self, messages: Iterable[Message], speed: float, *, live: bool) -> None:
        await self._mqtt.connected.wait()
        began_s = self._began_s = time.monotonic()
        first_us: int | None = None
        for message in messages:
            first_us = message.due_us if first_us is None else first_us
            wait_s = began_s + (message.due_us - first_us) / SECOND_US / speed - time.monotonic()
            if live:
                wait_s = max(wait_s, message.due_us / SECOND_US - time.time())
            if wait_s > EARLY_S:
                await asyncio.sleep(wait_s)
            if self._mqtt.waiting >= self._window:
                self._room.clear()
                await self._room.wait()
            self.tally.sent_messages += 1
            self.tally.sent_readings += message.readings
            self.tally.due_us = message.due_us
            answer = self._mqtt.publish(message.topic, message.payload)
            answer.add_done_callback(partial(self._on_answer, message.readings))

    def _on_answer(self, readings: int, answer: asyncio.Future[str]) -> None:
        if answer.cancelled():
            return
        if refused := answer.result():
            self._on_refused(refused)
        else:
            self.tally.accepted_messages += 1
            self.tally.accepted_readings += readings
        self.tally.elapsed_s = time.monotonic() - self._began_s
        if self._mqtt.waiting <= self._window // 2:
            self._room.set()

    async def _drain(self) -> None:
        deadline_s = time.monotonic() + DRAIN_S
        while self._mqtt.waiting and time.monotonic() < deadline_s:
            self._room.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), 0.1)

    async def _report(self) -> None:
        while True:
            before = self.tally.accepted_readings
            await asyncio.sleep(PROGRESS_S)
            accepted = self.tally.accepted_readings
            self._tell(
                f"{accepted} readings accepted, {(accepted - before) / PROGRESS_S:.0f}/s, "
                f"event time {to_iso(self.tally.due_us)}"
            )

    def _on_refused(self, why: str) -> None:
        if not self._is_refused:
            self._tell(f"{why}; see its access control list")
        self._is_refused = True

    def _on_change(self, why: str) -> None:
        self.tally.reached |= not why
        if why != self._why_away:
            self._tell(f"{why}; trying again" if why else f"broker {self._mqtt.address}: connected again")
        self._why_away = why


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set `stop`; a second one interrupts as usual."""
    loop = asyncio.get_running_loop()
    both = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        stop.set()
        for each in both:
            loop.remove_signal_handler(each)

    for each in both:
        loop.add_signal_handler(each, on_signal)
    try:
        yield
    finally:
        for each in both:
            loop.remove_signal_handler(each)
