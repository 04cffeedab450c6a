"""How the stages are joined: intake, alerts and commands, batches made durable (`storing`), acknowledgement.

    receive   decode, diagnose, publish the alerts, put it all into the open batch          (called by the broker)
    receive_command  heed or refuse it, publish what changed and the answer, into the same batch        (likewise)
    write     close a batch when it is due, make it durable                                            (task)
    drain_overflow  what the spool holds goes to the database when that is back              (task of `storing`)
    settle    once a batch is durable and its alerts are answered, acknowledge its deliveries          (task)

Rules:
    1. No acknowledgement before durability: a batch carries its deliveries through all stages (I1).
    2. Intake stops when `max_in_flight_rows` or `max_in_flight_bytes` are under way, and goes on at half of that
       (I3): the broker keeps what is to come.
    3. At rest: received + recovered = stored + duplicate + rejected + spooled (I2).
    4. An alert that the broker refuses, as its access control list may, stops nothing: the event is durable and not
       marked as published, so that it is told once the broker takes it.
    5. A command is acknowledged as a reading is: once what it changed is durable and told. At most MOST_COMMANDS are
       under way; beyond that they are dropped and counted, since nothing else bounds what the broker sends at QoS 0.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog

from esp_ingestd.config import Settings
from esp_ingestd.core import command as commands
from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.batch import WINDOW_DELIVERIES, Batch, Batcher, Trigger
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.flood import FloodGuard
from esp_ingestd.core.reading import Reading, to_iso
from esp_ingestd.core.tree import Tree
from esp_ingestd.core.well import WellSettings
from esp_ingestd.remembering import Memory, Remembering
from esp_ingestd.storing import RETRY_MAX_S, Overflow, Store, Storing
from esp_ingestd.telemetry import WINDOWS_MIN, Annunciations, Metrics

HOUR_US = 3_600_000_000
MOST_COMMANDS = 100  # under way: each waits for its answer to be accepted
REFUSALS_LOGGED_US = 60_000_000  # a flood of nonsense is one line a minute
ANNUNCIATIONS = ("raised", "escalated", "unshelved")
ASLEEP_US = 60_000_000  # no pause of ours is as long
RESTATED = 100  # states that are published again at once: what is new waits behind no more

_log = structlog.stdlib.get_logger(__name__)


class Intake(Protocol):
    """Where deliveries come from."""

    @property
    def is_listening(self) -> bool:
        """Whether what is sent now would arrive."""

    def pause(self) -> None:
        """Take nothing more."""

    def resume(self) -> None:
        """Go on."""

    def acknowledge(self, deliveries: Sequence[int]) -> int:
        """Acknowledge, in this order; how many were."""


class Alerts(Protocol):
    """Where alerts go, and commands come from."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[str]:
        """Publish; the result is "" once the broker has accepted it, or why it refuses it."""

    def acknowledge(self, deliveries: Sequence[int]) -> int:
        """Acknowledge commands, in this order; how many were."""


class Pipeline:
    """From deliveries to durable rows and accepted alerts."""

    def __init__(
        self,
        settings: Settings,
        *,
        decoder: Decoder,
        diagnostician: Diagnostician,
        store: Store,
        drain_store: Store,
        overflow: Overflow | None,
        memory: Memory | None,
        intake: Intake,
        alerts: Alerts,
        metrics: Metrics,
        report: Callable[[str, str], None] = lambda _name, _why: None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        """Join the stages.

        `drain_store` is a second way into the store, so that what is live never waits behind a backlog. Without
        `overflow`, batches wait here and intake stops; without `memory`, the wells are learned anew at each start.
        `report` hears why the `database` takes no batches, or "" when it does, and why the broker refuses `alerts`.
        """
        self._decoder = decoder
        self._diagnostician = diagnostician
        self._wake = asyncio.Event()
        self._storing = Storing(
            settings,
            store=store,
            drain_store=drain_store,
            overflow=overflow,
            metrics=metrics,
            report=partial(report, "database"),
            clock=clock,
            wake=self._wake.set,
        )
        self.drain_overflow = self._storing.drain_overflow
        """A task: bring what overflowed into the store, for ever."""
        self._remembering = Remembering(diagnostician, memory, metrics, clock)
        self._intake = intake
        self._alerts = alerts
        self._alert_prefix = settings.alerts.topic_prefix
        self._flood = FloodGuard(settings.alerts.flood_starts, settings.alerts.flood_ends)
        self._flood_topic = f"{self._alert_prefix}/{diagnostician.field_id}/flood"
        self._max_wells = settings.diagnosis.max_wells
        self._metrics = metrics
        self._report = report
        self._clock = clock
        self._max_rows = settings.batch.max_in_flight_rows
        self._max_bytes = settings.batch.max_in_flight_bytes
        self._batcher = Batcher(max_rows=settings.batch.max_rows, max_age_ms=settings.batch.max_age_ms)
        self._batch_rows = settings.batch.max_rows
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed: deque[Batch] = deque()
        self._durable: asyncio.Queue[Batch] = asyncio.Queue()
        self._under_way = 0  # batches, the open one included, that are not settled
        self._states: dict[str, bytes] = {}  # topic -> what it is to hold
        self._draining = False
        self._rows = self._bytes = 0  # of closed batches that are not settled
        self._now_us = 0  # when time was last passed
        self._last_seen_us: dict[str, int] = {}
        self._undiagnosed = 0
        self._commands = 0  # under way
        self._refusals = 0  # that are not logged yet
        self._refusals_logged_us = 0
        self._replies_refused = False
        self._annunciations = Annunciations()
        metrics.readings_in_flight.set_function(lambda: self.in_flight)
        metrics.wells_active.set_function(self._count_active_wells)

    def receive(self, topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
        """Take one delivery in; the hot path, never raises on any input."""
        readings, rejection = self._decoder.decode(topic, payload, received_us, size_bytes)
        batch = self._batcher.open
        if not (batch.deliveries or batch):
            self._begin_batch()
        self._batcher.add_message(topic, payload, readings, rejection, delivery, received_us)
        observe = self._diagnostician.observe
        seen = self._last_seen_us
        for reading in readings:
            if reading[0] in seen or self._admit(reading):
                seen[reading[0]] = received_us
                if events := observe(reading):
                    self._announce(events, received_us)
        if batch.rows >= self._batch_rows:
            self._closed.append(self._close(Trigger.ROWS))
            self._wake.set()
        elif len(batch.deliveries) == WINDOW_DELIVERIES:
            self._wake.set()  # from now on a pause closes the batch
        batch = self._batcher.open
        if self._rows + batch.rows >= self._max_rows or self._bytes + batch.size_bytes >= self._max_bytes:
            self._pause()

    def receive_command(self, topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
        """Heed a command from SCADA, or refuse it, and answer; never raises on any input."""
        self._take_command(topic, payload, delivery, received_us, size_bytes, retained=False)

    def refuse_retained(self, topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
        """Refuse a command that the broker had kept: it would be given again at each start."""
        self._take_command(topic, payload, delivery, received_us, size_bytes, retained=True)

    def pass_time(self) -> None:
        """Let the diagnosis know what time it is, every second or so: silence is news too."""
        now_us = self._clock()
        passed_us, self._now_us = now_us - self._now_us, now_us
        # While we hear nobody, silence is ours and not the wells'; nor is it theirs where our machine slept, or its
        # clock was set.
        deaf = not (self._intake.is_listening and 0 <= passed_us < ASLEEP_US)
        if events := self._diagnostician.pass_time(now_us, deaf=deaf):
            self._announce(events, now_us)
        self._flood.pass_time(now_us)
        self._sum_up()
        for severity, count in self._diagnostician.standing().items():
            self._metrics.alarms_active.labels(severity).set(count)
        for how, alarms in self._diagnostician.figures(now_us)._asdict().items():
            self._metrics.alarms_treated.labels(how).set(alarms)
        for window, minutes in WINDOWS_MIN.items():
            self._metrics.annunciations.labels(window).set(self._annunciations.within(minutes, now_us))

    def adopt(self, tree: Tree, wells: Callable[[str], WellSettings]) -> int:
        """Judge by another tree and other settings from the next reading on; how many alarms that ended."""
        events = self._diagnostician.adopt(tree, wells)
        self._decoder.forget_sources()
        self.tell(events)
        self._remembering.make_due()  # so that a restart finds the alarms of this tree
        return len(events)

    def tell(self, events: Sequence[AlarmEvent]) -> None:
        """Publish and store what no reading brought."""
        if events:
            self._announce(events, self._clock())

    def announce_again(self, events: Iterable[Mapping[str, object]]) -> list[asyncio.Future[str]]:
        """Publish events that no broker is known to have accepted (I8); the broker's answers.

        Those that are on their way, or accepted and not marked yet, are left out.
        """
        answers = []
        storing = self._storing
        for event in events:
            event_id = str(event["event_id"])
            if event["transition"] and not storing.is_telling(event_id):  # a state alone is restated
                storing.begin_telling(event_id)
                answer = self._alerts.publish(
                    f"{self._alert_prefix}/{event['well_id']}/events", json.dumps(event).encode()
                )
                answer.add_done_callback(partial(self._note_published, event_id))
                answers.append(answer)
        return answers

    def recall_states(self, states: Mapping[str, bytes]) -> None:
        """Take back what an earlier run published on the state topics; its flood is over."""
        self._states |= states
        summary = json.loads(states.get(self._flood_topic, b"{}"))
        if summary.get("flood"):
            self._state_flood(summary | {"flood": False, "until": to_iso(self._clock())})

    async def restate(self) -> str:
        """Publish the state of every alarm again: a broker that was killed or replaced may have lost them.

        Returns:
            "" once the broker has accepted all, else why it refuses one; it is not asked further then.
        """
        topics = list(self._states)
        for at in range(0, len(topics), RESTATED):  # and what is new goes in between
            chunk = [(topic, self._states[topic]) for topic in topics[at : at + RESTATED]]
            answers = [self._alerts.publish(topic, state, retain=True) for topic, state in chunk]
            await asyncio.wait(answers)
            if refused := self._count_refused(answers):
                return refused
        return ""

    async def write(self) -> None:
        """Close batches when they are due and make them durable, for ever.

        Cancel: the batch at hand may or may not be durable; it is not acknowledged, so the broker keeps it.
        """
        while True:
            batch = await self._next_batch()
            self._count_closed(batch)
            await self._storing.make_durable(batch)
            self._metrics.reading_delay.observe([reading[-1] for reading in batch.readings], self._clock())
            self._durable.put_nowait(batch)
            await self._storing.mark_told()

    async def settle(self) -> None:
        """Acknowledge what is durable, in order, once its alerts are answered, for ever.

        Cancel: what was not acknowledged the broker keeps.
        """
        while True:
            batch = await self._durable.get()
            if answers := [*batch.told.values(), *batch.stated, *batch.replies]:
                await asyncio.wait(answers)  # cancelled, it leaves them to the broker: they are not accepted
            await self._remembering.keep(batch.snapshots, batch.states)
            if batch.events:
                self._count_refused([*batch.told.values(), *batch.stated])
                told = [event_id for event_id, answer in batch.told.items() if not answer.result()]
                await self._storing.note_told_with(batch, told)
            self._metrics.acknowledged.inc(self._intake.acknowledge(batch.deliveries))
            self._alerts.acknowledge(batch.command_deliveries)
            self._commands -= len(batch.command_deliveries)
            self._rows -= batch.rows
            self._bytes -= batch.size_bytes
            bytes_left = self._bytes + self._batcher.open.size_bytes
            if 2 * self.in_flight <= self._max_rows and 2 * bytes_left <= self._max_bytes:
                self._resume()
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def drain(self) -> None:
        """Take nothing more in, and return when everything that was taken in is acknowledged.

        Cancel: the broker keeps what was not acknowledged.
        """
        self._draining = True
        self._intake.pause()
        self._wake.set()
        await self._idle.wait()
        await self._storing.mark_told()
        await self._remembering.keep_all()

    @property
    def is_away(self) -> bool:
        """Whether the store takes no batches now."""
        return self._storing.is_away

    @property
    def progress(self) -> int:
        """Rises with every batch written or tried."""
        return self._storing.progress

    @property
    def in_flight(self) -> int:
        """Readings taken in and not acknowledged."""
        return self._rows + self._batcher.open.rows

    def _admit(self, reading: Reading) -> bool:
        """Whether a well not seen before is diagnosed: strangers' must not fill the memory, nor pass for the field."""
        if reading.well_id == self._diagnostician.field_id:
            return False
        if len(self._last_seen_us) < self._max_wells:
            self._remembering.meet(reading.well_id)
            return True
        if not self._undiagnosed:
            _log.warning(
                "more wells than diagnosis.max_wells: further ones are stored, not diagnosed",
                max_wells=self._max_wells,
                well_id=reading.well_id,
            )
        self._undiagnosed += 1
        return False

    def _announce(self, events: Sequence[AlarmEvent], arrived_us: int) -> None:
        """Publish alerts at once, and let the open batch wait for the broker's answers."""
        batch = self._open_batch(arrived_us)
        for event in events:
            batch.events.append(event)
            well = f"{self._alert_prefix}/{event.well_id}"
            told = None
            if event.transition:
                self._storing.begin_telling(event.event_id)
                if self._flood.holds(event, arrived_us, len(self._diagnostician)):
                    self._metrics.alerts_held_back.inc()
                else:
                    told = self._alerts.publish(f"{well}/events", json.dumps(event.payload()).encode())
                    told.add_done_callback(partial(self._count_told, event, arrived_us))
            if event.transition in ANNUNCIATIONS and event.state == "active":
                self._annunciations.count(arrived_us)
            topic, state = f"{well}/state/{event.diagnosis}", json.dumps(event.state_payload()).encode()
            self._states[topic] = batch.states[topic] = state
            stated = self._alerts.publish(topic, state, retain=True)
            batch.stated.append(stated)
            if event.transition:
                batch.told[event.event_id] = told or stated  # what is held back is told by its state

    def _sum_up(self) -> None:
        """Publish the summary of a flood where it has changed; retained, and kept with the next batch."""
        if (summary := self._flood.news()) is not None:
            self._metrics.alarm_flood.set(self._flood.is_flood)
            self._state_flood(summary)

    def _state_flood(self, summary: Mapping[str, object]) -> None:
        state = self._states[self._flood_topic] = json.dumps(summary).encode()
        self._batcher.open.states[self._flood_topic] = state
        self._alerts.publish(self._flood_topic, state, retain=True)

    def _take_command(
        self, topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int, *, retained: bool
    ) -> None:
        if self._draining:
            return  # the broker keeps it
        if self._commands >= MOST_COMMANDS and not delivery:
            self._metrics.commands.labels("unknown", "dropped").inc()
            return
        batch = self._open_batch(received_us)
        batch.command_deliveries.append(delivery)
        self._commands += 1
        if self._commands > MOST_COMMANDS:
            self._metrics.commands.labels("unknown", "dropped").inc()
            return
        well_id = topic[len(self._alert_prefix) + 1 :].partition("/")[0]
        heeded = commands.heed(self._diagnostician.obey, well_id, payload, size_bytes, received_us, retained=retained)
        if heeded.record:
            batch.commands.append(heeded.record)
        self._announce(heeded.events, received_us)
        reply = self._alerts.publish(
            f"{self._alert_prefix}/{well_id}/answers", json.dumps(heeded.answer.payload()).encode()
        )
        reply.add_done_callback(self._note_reply)
        batch.replies.append(reply)
        self._report_command(heeded, received_us)

    def _report_command(self, heeded: commands.Heeded, now_us: int) -> None:
        """Count a command, and log what people will ask about; of refusals one line a minute."""
        answer, record = heeded.answer, heeded.record
        word = answer.command if answer.command in commands.WORDS else "unknown"
        outcome = answer.reason.value if answer.reason else "heeded" if record else "unchanged"
        self._metrics.commands.labels(word, outcome).inc()
        if record:
            _log.info("command heeded", well_id=record.well_id, command=word, alarm_id=record.alarm_id, by=record.by)
        elif answer.reason:
            self._refusals += 1
            if now_us - self._refusals_logged_us >= REFUSALS_LOGGED_US:
                said = {"well_id": answer.well_id[:64], "command": answer.command, "by": answer.by}
                _log.warning("commands refused", count=self._refusals, last=said, why=answer.detail)
                self._refusals, self._refusals_logged_us = 0, now_us

    def _close(self, trigger: Trigger) -> Batch:
        batch = self._batcher.take(trigger)
        self._rows += batch.rows
        self._bytes += batch.size_bytes
        self._remembering.attend(batch)
        return batch

    def _open_batch(self, now_us: int) -> Batch:
        """The open batch, begun if nothing is in it."""
        batch = self._batcher.open
        if not batch:
            batch.opened_us = now_us
            self._begin_batch()
        return batch

    def _begin_batch(self) -> None:
        self._under_way += 1
        self._idle.clear()
        self._wake.set()

    def _pause(self) -> None:
        self._metrics.intake_paused.set(1)
        self._intake.pause()

    def _resume(self) -> None:
        if not self._draining:
            self._metrics.intake_paused.set(0)
            self._intake.resume()

    async def _next_batch(self) -> Batch:
        while True:
            if self._closed:
                return self._closed.popleft()
            now_us = self._clock()
            if trigger := self._batcher.due(now_us):
                return self._close(trigger)
            if self._draining and self._batcher.open:
                return self._close(Trigger.DRAIN)
            self._wake.clear()
            wait_s: float | None = None
            if self._batcher.open:
                wait_s = self._batcher.wait_us(now_us) / 1e6
            else:
                await self._storing.mark_told()
                if self._storing.has_told:
                    wait_s = RETRY_MAX_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    def _count_closed(self, batch: Batch) -> None:
        metrics = self._metrics
        metrics.messages_received.inc(len(batch.deliveries))
        metrics.readings_received.inc(batch.rows)
        metrics.batch_rows.observe(batch.rows)
        metrics.batches.labels(batch.trigger.value).inc()

    def _note_published(self, event_id: str, answer: asyncio.Future[str]) -> None:
        if self._count_refused([answer]):
            self._storing.note_refused(event_id)
        else:
            self._storing.note_told(event_id)

    def _count_told(self, event: AlarmEvent, arrived_us: int, answer: asyncio.Future[str]) -> None:
        if answer.result():
            self._storing.note_refused(event.event_id)
        else:
            self._metrics.alerts_published.labels(event.severity).inc()
            self._metrics.alert_delay.observe([arrived_us], self._clock())

    def _note_reply(self, answer: asyncio.Future[str]) -> None:
        """A broker that refuses an answer to a command costs the answer, not the alerts."""
        if answer.result():
            self._metrics.alerts_refused.inc()
            if not self._replies_refused:
                _log.error("broker refuses answers to commands", why=answer.result())
            self._replies_refused = True

    def _count_refused(self, answers: Sequence[asyncio.Future[str]]) -> str:
        """Count and tell what the broker refuses; why it refuses the first, or ""."""
        refused = [why for answer in answers if (why := answer.result())]
        self._metrics.alerts_refused.inc(len(refused))
        if refused:
            self._report("alerts", refused[0])
        return refused[0] if refused else ""

    def _count_active_wells(self) -> int:
        since_us = self._clock() - HOUR_US
        return sum(seen_us >= since_us for seen_us in list(self._last_seen_us.values()))
