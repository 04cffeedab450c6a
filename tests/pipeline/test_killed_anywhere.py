"""I1, I4, I8, I10 over thousands of kills: a world that outlives the daemon, and lives that end at any await.

SCADA acknowledges what it is told of meanwhile; its commands are delivered again like readings.

What is durable is kept: rows, spool, memory, and at the broker every delivery that was not acknowledged. A life ends
after some turns of the loop, wherever the tasks are then: before and after decode, COPY, commit, fsync, alert, ack.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
from fakes import FakeBroker, FakeStore, stepped

from esp_ingestd.config import Settings, Wells
from esp_ingestd.core.alarm import event_id_of
from esp_ingestd.core.batch import Batch
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.well import WellSettings
from esp_ingestd.errors import Unavailable
from esp_ingestd.pipeline import Pipeline
from esp_ingestd.rows import CopyRows
from esp_ingestd.shipped import load_tree
from esp_ingestd.spool import _merge
from esp_ingestd.telemetry import Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T0_US = 1_700_000_000_000_000
TREE = load_tree(None)
WELLS = Wells(WellSettings(nameplate_current_a=50.0))
SETTINGS = Settings.model_validate({"batch": {"max_rows": 7, "max_age_ms": 5, "max_in_flight_rows": 40}})
READINGS = 420
FIRST_COMMAND = 1_000_000  # deliveries from here on are commands


def amperes_at(second: int) -> float:
    """Overload for five minutes in every fifteen: raised, and cleared five minutes after it is gone."""
    return 65.0 if 300 <= second % 900 < 600 else 45.0


class Spool:
    """A spool in a list; kept once `append` has passed its middle."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.filled = asyncio.Event()
        if world.spooled:
            self.filled.set()

    async def append(self, batch: Batch) -> int:
        await asyncio.sleep(0)
        if self.world.chance(0.05):
            raise Unavailable("spool is full", kind="spool_full")
        rows = CopyRows.of(batch.readings) if batch.readings else ()
        kept = Batch(readings=rows, events=list(batch.events), commands=list(batch.commands))
        self.world.spooled.append(kept)
        self.filled.set()
        await asyncio.sleep(0)
        return self.world.removed + len(self.world.spooled)

    async def oldest(self, max_rows: int) -> tuple[Batch, int] | None:
        await asyncio.sleep(0)
        if not self.world.spooled:
            return None
        rows = upto = 0
        for each in self.world.spooled[:3]:
            rows += len(each.readings)
            upto += 1
            if rows >= max_rows:
                break
        merged = _merge(self.world.spooled[:upto])
        events = {event.event_id for event in merged.events}
        merged.published = {key: at_us for key, at_us in self.world.marked.items() if key in events}
        return merged, self.world.removed + upto

    async def remove(self, upto: int) -> None:
        await asyncio.sleep(0)
        del self.world.spooled[: upto - self.world.removed]
        self.world.removed = upto
        if not self.world.spooled:
            self.world.marked.clear()
            self.filled.clear()

    async def mark_published(self, event_ids: Sequence[str], at_us: int) -> None:
        await asyncio.sleep(0)
        self.world.marked |= dict.fromkeys(event_ids, at_us)


class Memory:
    """What the diagnosis knows, in a dict."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def save(self, snapshots: Mapping[str, bytes], states: Mapping[str, bytes]) -> None:
        await asyncio.sleep(0)
        self.world.memory |= snapshots
        self.world.states |= states
        await asyncio.sleep(0)


class World:
    """What outlives the daemon."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable, no secret
        self.store = FakeStore()
        self.spooled: list[Batch] = []
        self.removed = 0
        """The number of the last batch that was removed from it."""
        self.marked: dict[str, int] = {}
        self.memory: dict[str, bytes] = {}
        self.states: dict[str, bytes] = {}
        self.retained: dict[str, bytes] = {}
        self.unacknowledged: dict[int, tuple[str, bytes]] = {}
        self.sent = 0
        self.told: list[dict[str, str]] = []
        self.commands: dict[int, tuple[str, bytes]] = {}
        """Those that were not acknowledged."""
        self.commanded: dict[int, str] = {}
        """Command -> the alarm that it is to acknowledge."""
        self.answers: dict[int, dict[str, str]] = {}
        """Command -> what was said of it last."""
        self.lives = 0

    def chance(self, of: float) -> bool:
        return self.random.random() < of

    def publish(self) -> int:
        """The RTUs' next reading."""
        number = self.sent
        self.sent += 1
        well = f"W{number % 3}"
        second = number // 3 * 10
        body = {"timestamp": T0_US / 1e6 - 90_000 + second, "motor_current": amperes_at(second), "vsd_frequency": 50.0}
        self.unacknowledged[number + 1] = (f"esp/{well}/telemetry", json.dumps(body).encode())
        return number + 1

    def command(self, broker: FakeBroker) -> int | None:
        """SCADA acknowledges the alarm that it was told of last."""
        told = [*self.told, *events_of(broker)]
        raised = [each for each in told if each["transition"] == "raised"]
        if not raised:
            return None
        alarm = raised[-1]
        delivery = FIRST_COMMAND + len(self.commanded)
        body = {"command": "acknowledge", "alarm_id": alarm["alarm_id"], "by": f"no. {delivery}"}
        self.commands[delivery] = (f"esp/alerts/{alarm['well_id']}/command", json.dumps(body).encode())
        self.commanded[delivery] = alarm["alarm_id"]
        return delivery

    def hear(self, broker: FakeBroker) -> None:
        """What the daemon answered."""
        for topic, payload, _ in broker.published:
            if topic.endswith("/answers"):
                answer = json.loads(payload)
                self.answers[int(answer["by"].removeprefix("no. "))] = answer

    def check_obeyed(self, broker: FakeBroker, delivery: int) -> None:
        """A command is acknowledged once it was answered and what it changed is durable."""
        self.hear(broker)
        answer = self.answers[delivery]
        stored = {e.event_id for batch in self.spooled for e in batch.events} | self.store.events.keys()
        if answer["accepted"]:
            assert event_id_of(self.commanded[delivery], "acknowledged", 1) in stored
        else:
            assert answer["reason"] == "unknown_alarm"
        del self.commands[delivery]

    def check_durable(self, broker: FakeBroker, deliveries: Sequence[int]) -> None:
        """I1, at the only place where it can be broken."""
        for delivery in deliveries:
            if delivery >= FIRST_COMMAND:
                self.check_obeyed(broker, delivery)
        deliveries = [delivery for delivery in deliveries if delivery < FIRST_COMMAND]
        spooled = {(each.well_id, each.timestamp_us) for batch in self.spooled for each in batch.readings}
        for delivery in deliveries:
            number = delivery - 1
            key = (f"W{number % 3}", T0_US - 90_000_000_000 + number // 3 * 10_000_000)
            assert key in self.store.rows or key in spooled, delivery
            del self.unacknowledged[delivery]

    async def live(self, turns: int) -> None:
        """One life of the daemon; 0 turns: until everything is at rest."""
        self.lives += 1
        self.store.gate = asyncio.Event()
        self.store.gate.set()
        self.store.is_away = bool(turns) and self.chance(0.3)
        self.store.most_rows = self.random.choice((1, 3, 1_000_000))
        broker = FakeBroker()
        broker.on_acknowledge = partial(self.check_durable, broker)
        pipeline = self._build(broker)
        waiting = list(self.unacknowledged)
        ordered = list(self.commands)
        if self.chance(0.1):
            self.retained.clear()  # another broker
        works = (pipeline.write(), pipeline.settle(), pipeline.drain_overflow(), _restate(pipeline))
        tasks = [asyncio.create_task(each) for each in works]
        try:
            turn = 0
            while turn < turns or (not turns and (waiting or self.sent < READINGS or not self._is_at_rest(pipeline))):
                turn += 1
                self._command(pipeline, broker, ordered, hurry=not turns)
                await self._turn(pipeline, broker, waiting, hurry=not turns)
                for task in tasks:
                    if task.done():
                        task.result()
            if not turns:
                await pipeline.restate()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.told += events_of(broker)
            self.hear(broker)
            self.retained |= {topic: payload for topic, payload, retain in broker.published if retain}

    def _command(self, pipeline: Pipeline, broker: FakeBroker, ordered: list[int], *, hurry: bool) -> None:
        if not hurry and self.chance(0.06) and (fresh := self.command(broker)) is not None:
            ordered.append(fresh)
        if ordered and (hurry or self.chance(0.5)):
            topic, payload = self.commands[delivery := ordered.pop(0)]
            pipeline.receive_command(topic, payload, delivery, T0_US + delivery, len(payload))

    async def _turn(self, pipeline: Pipeline, broker: FakeBroker, waiting: list[int], *, hurry: bool) -> None:
        if not broker.paused and (hurry or self.chance(0.6)):
            if not waiting and self.sent < READINGS:
                waiting.append(self.publish())
            if waiting:
                topic, payload = self.unacknowledged[delivery := waiting.pop(0)]
                pipeline.receive(topic, payload, delivery, T0_US, len(payload))
        if not hurry and self.chance(0.05):
            self.store.is_away = not self.store.is_away
        await asyncio.sleep(0.004 if hurry or self.chance(0.3) else 0)

    def _build(self, broker: FakeBroker) -> Pipeline:
        diagnostician = Diagnostician(TREE, WELLS, live=True)
        for well_id, snapshot in self.memory.items():
            diagnostician.restore(well_id, snapshot)
        pipeline = Pipeline(
            SETTINGS,
            decoder=Decoder(SETTINGS.mqtt.topics),
            diagnostician=diagnostician,
            store=self.store,
            drain_store=self.store,
            overflow=Spool(self),
            memory=Memory(self),
            intake=broker,
            alerts=broker,
            metrics=Metrics(),
            clock=lambda: T0_US + int(asyncio.get_running_loop().time() * 1e6),
        )
        spooled = {event.event_id: event for batch in self.spooled for event in batch.events}
        untold = {key: event for key, event in spooled.items() if key not in self.marked}
        untold |= {key: event for key, event in self.store.events.items() if key not in self.store.published}
        pipeline.recall_states(self.states)
        pipeline.announce_again(event.payload() for event in untold.values())
        return pipeline

    def _is_at_rest(self, pipeline: Pipeline) -> bool:
        is_marked = self.store.published.keys() >= self.store.events.keys()
        under_way = pipeline.in_flight or self.spooled or self.unacknowledged or self.commands
        return not under_way and is_marked


async def _restate(pipeline: Pipeline) -> None:
    await pipeline.restate()
    await asyncio.Event().wait()


def events_of(broker: FakeBroker) -> list[dict[str, str]]:
    return [json.loads(payload) for topic, payload, _ in broker.published if topic.endswith("/events")]


@pytest.mark.parametrize("seed", range(20))
def test_i1_whenever_it_is_killed_nothing_is_lost_and_no_alarm_is_told_twice(seed: int) -> None:
    world = World(seed)
    random.seed(seed)  # the pauses between attempts

    @stepped
    async def run() -> None:
        while world.sent < READINGS and world.lives < 2_000:
            with contextlib.suppress(asyncio.CancelledError):
                await world.live(world.random.randrange(1, 16))
        await world.live(0)

    run()
    assert world.lives > 50
    assert len(world.store.rows) == READINGS  # nothing lost, nothing doubled
    for row in world.store.rows.values():
        second = (row.timestamp_us - T0_US) // 1_000_000 + 90_000
        assert row.motor_current == amperes_at(second)
    whole = Diagnostician(TREE, WELLS)
    in_order = sorted(world.store.rows.values(), key=lambda row: row.timestamp_us)
    events = [event for row in in_order for event in whole.observe(row)]
    expected = {event.event_id for event in events}
    assert len(expected) >= 6
    # As if it had never been killed; what people did besides, once each.
    acknowledged = {key for key, event in world.store.events.items() if event.transition == "acknowledged"}
    assert world.store.events.keys() == expected | acknowledged
    assert acknowledged == world.store.commands.keys()
    assert acknowledged <= {event_id_of(alarm_id, "acknowledged", 1) for alarm_id in world.commanded.values()}
    # Told, perhaps again, by the same ids.
    told = {event["event_id"] for event in world.told if event["transition"] != "acknowledged"}
    assert told == expected
    assert acknowledged <= {event["event_id"] for event in world.told}
    assert len(world.commanded) > 5
    # What SCADA was answered last holds. A kill may undo an acknowledgement that was told: then the command, delivered
    # again before the readings that raise the alarm, is refused.
    heeded = {world.commanded[delivery] for delivery, answer in world.answers.items() if answer["accepted"]}
    assert {event_id_of(alarm_id, "acknowledged", 1) for alarm_id in heeded} <= acknowledged
    states = {f"esp/alerts/{event.well_id}/state/{event.diagnosis}": event for event in events}
    expected_states = {
        topic: event_id_of(event.alarm_id, "acknowledged", 1)
        if event.alarm_id in heeded and event.transition != "cleared"
        else event.event_id
        for topic, event in states.items()
    }
    assert {topic: json.loads(state)["event_id"] for topic, state in world.retained.items()} == expected_states
