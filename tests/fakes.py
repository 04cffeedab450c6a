"""Fakes of what the pipeline talks to, held to the contracts of the real parts; a loop whose time is stepped."""

from __future__ import annotations

import asyncio
import functools
import heapq
from collections import deque
from typing import TYPE_CHECKING, Any, ParamSpec

from esp_ingestd.core.batch import Written
from esp_ingestd.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from esp_ingestd.core.alarm import AlarmEvent
    from esp_ingestd.core.batch import Batch
    from esp_ingestd.core.command import CommandRecord
    from esp_ingestd.core.reading import Reading

_Parameters = ParamSpec("_Parameters")


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop whose clock stands still while there is work, and jumps to the next timer when there is none."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            heapq.heappop(timers)._scheduled = False  # type: ignore[attr-defined]
        if timers and not self._ready:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, timers[0].when())
        super()._run_once()  # type: ignore[misc]


def stepped(test: Callable[_Parameters, Awaitable[None]]) -> Callable[_Parameters, None]:
    """Run an async test on a `SteppedLoop`: a pause of an hour takes no time."""

    @functools.wraps(test)
    def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        async def main() -> None:
            await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=SteppedLoop) as runner:
            runner.run(main())

    return run


class FakeStore:
    """A database in a dict. `gate` holds writes back, `faults` are raised by the next ones, before anything is kept."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Reading] = {}
        self.letters: dict[bytes, int] = {}
        self.events: dict[str, AlarmEvent] = {}
        self.commands: dict[str, CommandRecord] = {}
        self.published: dict[str, int] = {}
        self.batches: list[Batch] = []
        self.faults: deque[Exception] = deque()
        self.refuses: Callable[[Reading], bool] = lambda _reading: False
        self.is_away = False
        self.faults_of_marking = 0
        self.most_rows = 1_000_000
        """More at once it does not take in time."""
        self.row_s = 0.0
        """How long a row takes; a write may take ten seconds."""
        self.attempts = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.passes_one = False
        """The gate lets one write through and shuts again."""

    async def write(self, batch: Batch) -> Written:
        self.attempts += 1
        await self.gate.wait()
        if self.passes_one:
            self.gate.clear()
        await self._take_time(batch.kept_rows)
        refused = [reading for reading in batch.readings if self.refuses(reading)]
        before = len(self.rows)
        for reading in batch.readings:
            if reading not in refused:
                self.rows.setdefault((reading.well_id, reading.timestamp_us), reading)
        for key, letter in batch.dead_letters.items():
            self.letters[key] = self.letters.get(key, 0) + letter.times
        for event in batch.events:
            if event.transition:
                self.events.setdefault(event.event_id, event)
        for command in batch.commands:
            self.commands.setdefault(command.command_id, command)
        self.published |= batch.published
        self.batches.append(batch)
        stored = len(self.rows) - before
        await asyncio.sleep(0)  # committed, and the answer is on its way
        return Written(stored, len(batch.readings) - stored - len(refused), [(each, "no") for each in refused])

    async def _take_time(self, rows: int) -> None:
        if self.faults:
            raise self.faults.popleft()
        if self.is_away or rows > self.most_rows:
            raise Unavailable("store is away or slow", kind="connection" if self.is_away else "timeout")
        if self.row_s:
            await asyncio.sleep(min(self.row_s * rows, 10.0))
            if self.row_s * rows > 10.0:
                raise Unavailable("store is slow", kind="timeout")

    async def mark_published(self, event_ids: Sequence[str], at_us: int) -> None:
        await asyncio.sleep(0)
        if self.is_away or self.faults_of_marking:
            self.faults_of_marking = max(self.faults_of_marking - 1, 0)
            raise Unavailable("store is away", kind="connection")
        self.published |= dict.fromkeys(event_ids, at_us)


class FakeBroker:
    """Takes acknowledgements and alerts; `accepts` says whether these are accepted as they come.

    Those on topics that `refuses` names are refused.
    """

    def __init__(self, *, accepts: bool = True) -> None:
        self.paused = False
        self.is_connected = True
        self.pauses = 0
        self.acknowledged: list[int] = []
        self.on_acknowledge: Callable[[Sequence[int]], None] = lambda _deliveries: None
        self.published: list[tuple[str, bytes, bool]] = []
        self.accepts = accepts
        self.unanswered: list[tuple[str, asyncio.Future[str]]] = []
        self.refuses: Callable[[str], bool] = lambda _topic: False

    @property
    def is_listening(self) -> bool:
        return self.is_connected and not self.paused

    def pause(self) -> None:
        self.pauses += not self.paused
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def acknowledge(self, deliveries: Sequence[int]) -> int:
        self.on_acknowledge(deliveries)
        self.acknowledged += deliveries
        return len(deliveries)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[str]:
        self.published.append((topic, payload, retain))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.unanswered.append((topic, answer))
        if self.accepts:
            self.answer_all()
        return answer

    def answer_all(self) -> None:
        """Accept, or refuse, what was published so far."""
        for topic, answer in self.unanswered:
            if not answer.done():
                answer.set_result(f"broker refuses {topic}" if self.refuses(topic) else "")
        self.unanswered.clear()


async def settled(until: Callable[[], Any]) -> None:
    """Wait, a millisecond at a time, until something holds; on a `SteppedLoop` that takes no time."""
    for _ in range(100_000):
        if until():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not come to hold")
