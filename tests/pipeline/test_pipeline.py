"""The pipeline on fakes, its time driven by hand: each test holds an invariant of its design."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from fakes import FakeBroker, FakeStore, settled, stepped

from esp_ingestd.config import Settings, SpoolSettings, Wells
from esp_ingestd.core.batch import Batch, Trigger
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.well import WellSettings
from esp_ingestd.errors import Unavailable
from esp_ingestd.pipeline import Pipeline
from esp_ingestd.shipped import load_tree
from esp_ingestd.spool import Spool
from esp_ingestd.telemetry import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

T0 = 1_700_000_000_000_000
TREE = load_tree(None)
WELLS = Wells(WellSettings(nameplate_current_a=50.0))


class FakeMemory:
    """On a disk that may be full."""

    def __init__(self) -> None:
        self.is_full = False
        self.kept: dict[str, bytes] = {}

    async def save(self, snapshots: Mapping[str, bytes], _states: Mapping[str, bytes]) -> None:
        if self.is_full:
            raise Unavailable("wells.sqlite: database or disk is full", kind="spool_full")
        self.kept |= snapshots


class Rig:
    """A pipeline between fakes, and the deliveries that a broker would hold until they are acknowledged."""

    def __init__(
        self,
        store: FakeStore | None = None,
        *,
        accepts: bool = True,
        max_wells: int = 100,
        overflow: Spool | None = None,
        memory: FakeMemory | None = None,
        **batch: int,
    ) -> None:
        self.store = store or FakeStore()
        self.overflow = overflow
        self.broker = FakeBroker(accepts=accepts)
        self.broker.on_acknowledge = self._check_durable
        self.metrics = Metrics()
        self.reports: list[tuple[str, str]] = []
        settings = Settings.model_validate({"batch": batch, "diagnosis": {"max_wells": max_wells}})
        topics = settings.mqtt.topics
        self.pipeline = Pipeline(
            settings,
            decoder=Decoder(topics, max_payload_bytes=10_000_000),
            diagnostician=Diagnostician(TREE, WELLS),
            store=self.store,
            drain_store=self.store,
            overflow=overflow,
            memory=memory,
            intake=self.broker,
            alerts=self.broker,
            metrics=self.metrics,
            report=lambda name, why: self.reports.append((name, why)),
            clock=self.now_us,
        )
        self.clock_is_off_us = 0
        self.keys: dict[int, Sequence[tuple[str, int]]] = {}
        """Of each delivery, the readings that must be stored before it is acknowledged."""

    def now_us(self) -> int:
        return T0 + self.clock_is_off_us + int(asyncio.get_running_loop().time() * 1e6)

    def _check_durable(self, deliveries: Sequence[int]) -> None:
        """I1, at the only place where it can be broken."""
        for delivery in deliveries if self.overflow is None else ():
            assert all(key in self.store.rows for key in self.keys.get(delivery, ()))

    def deliver(self, delivery: int, second: int | None = None, well_id: str = "W1", **channels: float) -> None:
        """A delivery with one reading, at `second` of its well's time."""
        at_us = T0 - 86_400_000_000 + (delivery if second is None else second) * 1_000_000
        document = {"timestamp": at_us / 1e6, **(channels or {"pip": float(delivery)})}
        self.keys[delivery] = [(well_id, at_us)]
        self.send(f"esp/{well_id}/telemetry", json.dumps(document).encode(), delivery)

    def send(self, topic: str, payload: bytes, delivery: int) -> None:
        self.pipeline.receive(topic, payload, delivery, self.now_us(), len(payload))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.pipeline.write()), asyncio.create_task(self.pipeline.settle())]
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"esp_ingestd_{name}", labels) or 0.0

    def rejected(self) -> float:
        family = next(each for each in self.metrics.registry.collect() if each.name == "esp_ingestd_readings_rejected")
        return sum(sample.value for sample in family.samples)


# ------------------------------------------------------------------------------------- I1: not before it is durable


@stepped
async def test_nothing_is_acknowledged_while_the_write_is_under_way() -> None:
    rig = Rig()
    rig.store.gate.clear()
    async with rig.running():
        rig.deliver(1)
        await settled(lambda: rig.store.attempts)
        await asyncio.sleep(60)
        assert rig.broker.acknowledged == []
        rig.store.gate.set()
        await settled(lambda: rig.broker.acknowledged == [1])


@stepped
async def test_nothing_is_acknowledged_while_the_database_is_away_and_all_is_once_it_is_back() -> None:
    rig = Rig()
    rig.store.is_away = True
    async with rig.running():
        rig.deliver(1)
        await asyncio.sleep(3600)
        assert rig.broker.acknowledged == []
        assert rig.store.attempts > 3600 / 2 / 2, "no more than two seconds between attempts"
        assert rig.counted("store_errors_total", kind="connection") == rig.store.attempts
        rig.store.is_away = False
        await settled(lambda: rig.broker.acknowledged == [1])
    assert len(rig.store.rows) == 1


@stepped
async def test_nothing_is_acknowledged_before_the_broker_has_its_alerts() -> None:
    rig = Rig(accepts=False)
    async with rig.running():
        for delivery in range(1, 4):
            rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: len(rig.store.rows) == 3)
        await asyncio.sleep(60)
        assert rig.broker.published
        assert rig.broker.acknowledged == []
        rig.broker.answer_all()
        await settled(lambda: rig.broker.acknowledged == [1, 2, 3])


@pytest.mark.parametrize("steps", range(30))
def test_cancelled_at_any_await_it_has_acknowledged_nothing_that_is_not_durable(steps: int) -> None:
    """And what was not acknowledged is delivered again to the next run, which makes all of it durable once."""

    async def scenario() -> None:
        first = Rig(max_rows=2, max_age_ms=1)
        async with first.running():
            for delivery in range(1, 6):
                first.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
                await asyncio.sleep(0)
            for _ in range(steps):
                await asyncio.sleep(0)
        second = Rig(first.store, max_rows=2, max_age_ms=1)
        again = [each for each in range(1, 6) if each not in first.broker.acknowledged]
        async with second.running():
            for delivery in again:
                second.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
            await settled(lambda: second.broker.acknowledged == again)
        assert len(second.store.rows) == 5

    stepped(scenario)()


# -------------------------------------------------------------------------------------------- I2: conservation


@stepped
async def test_at_rest_what_was_received_is_stored_duplicate_or_rejected() -> None:
    rig = Rig()
    rig.store.refuses = lambda reading: reading.pip == 13.0
    async with rig.running():
        for delivery in range(1, 21):
            rig.deliver(delivery)
        rig.deliver(21, second=5)
        rig.send("esp/W1/telemetry", b"no json", 22)
        rig.send("esp/W1/telemetry", b'[{"timestamp": 1, "pip": 1}, 7, {"timestamp": "2023-11-14T00:00:00Z"}]', 23)
        rig.keys[13] = ()
        await settled(lambda: len(rig.broker.acknowledged) == 23)
    assert rig.counted("readings_received_total") == 25
    assert rig.counted("readings_stored_total") == 19
    assert rig.counted("readings_duplicate_total") == 1
    assert rig.counted("readings_rejected_total", reason="refused_by_database") == 1
    assert rig.rejected() == 5
    assert rig.counted("readings_in_flight") == 0
    assert rig.counted("deliveries_acknowledged_total") == 23


@stepped
async def test_what_is_under_way_is_counted_as_in_flight() -> None:
    rig = Rig()
    rig.store.gate.clear()
    async with rig.running():
        for delivery in range(1, 8):
            rig.deliver(delivery)
        await asyncio.sleep(1)
        assert rig.counted("readings_in_flight") == rig.pipeline.in_flight == 7


# ------------------------------------------------------------------------------------------ I3: bounded memory


@pytest.mark.parametrize(("first", "goes_on_after"), [(5, 1), (4, 2)])
def test_intake_pauses_at_the_limit_of_rows_and_goes_on_at_half(first: int, goes_on_after: int) -> None:
    """Ten rows in two batches: it goes on after the first only if that leaves five."""

    async def scenario() -> None:
        rig = Rig(max_in_flight_rows=10)
        rig.store.gate.clear()
        rig.store.passes_one = True
        async with rig.running():
            for delivery in range(1, first + 1):
                rig.deliver(delivery)
            await settled(lambda: rig.store.attempts)
            for delivery in range(first + 1, 11):
                assert not rig.broker.paused
                rig.deliver(delivery)
            assert rig.broker.paused
            assert rig.counted("intake_paused") == 1
            for written in (1, 2):
                rig.store.gate.set()
                await settled(lambda: len(rig.store.batches) == written)  # noqa: B023 - called before it changes
                await asyncio.sleep(1)
                assert rig.broker.paused == (written < goes_on_after)
        assert rig.counted("intake_paused") == 0
        assert rig.broker.acknowledged == list(range(1, 11))

    stepped(scenario)()


@stepped
async def test_intake_pauses_at_the_limit_of_bytes_and_goes_on_once_they_are_durable() -> None:
    rig = Rig(max_in_flight_bytes=1_048_576)
    rig.store.gate.clear()
    async with rig.running():
        rig.send("esp/W1/telemetry", b"x" * 600_000, 1)
        assert rig.broker.pauses == 0
        rig.send("esp/W1/telemetry", b"y" * 600_000, 2)
        assert rig.broker.paused
        rig.store.gate.set()
        await settled(lambda: not rig.broker.paused)
    assert rig.broker.acknowledged == [1, 2]


@stepped
async def test_wells_beyond_max_wells_are_stored_and_not_diagnosed() -> None:
    rig = Rig(max_wells=1)
    async with rig.running():
        for delivery in range(1, 4):
            rig.deliver(delivery, well_id="W1")
        for delivery in range(4, 8):
            rig.deliver(delivery, 10 * delivery, "W2", motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: len(rig.broker.acknowledged) == 7)
        assert rig.broker.published == [], "the stranger's stall is not told"
        for delivery in range(8, 12):
            rig.deliver(delivery, 10 * delivery, "W1", motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: len(rig.broker.acknowledged) == 11)
    assert rig.broker.published, "that of the known well is"
    assert len(rig.store.rows) == 11
    assert rig.counted("wells_active") == 1


# ---------------------------------------------------------------------------------------- I6: order of arrival


@stepped
async def test_deliveries_are_acknowledged_in_order_of_arrival_rejections_and_duplicates_too() -> None:
    rig = Rig(max_rows=3)
    async with rig.running():
        for delivery in range(1, 40):
            if delivery % 3 == 0:
                rig.send("esp/W1/telemetry", b"\xff", delivery)
            else:
                rig.deliver(delivery, second=delivery % 7)
            if delivery % 5 == 0:
                await asyncio.sleep(0.05)
        await settled(lambda: len(rig.broker.acknowledged) == 39)
    assert rig.broker.acknowledged == list(range(1, 40))


@stepped
async def test_a_batch_that_waits_for_its_alerts_holds_later_ones_back() -> None:
    rig = Rig(accepts=False)
    async with rig.running():
        for delivery in range(1, 4):
            rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: len(rig.store.rows) == 3)
        rig.deliver(4, well_id="W2")
        await settled(lambda: len(rig.store.rows) == 4)
        await asyncio.sleep(10)
        assert rig.broker.acknowledged == []
        rig.broker.answer_all()
        await settled(lambda: rig.broker.acknowledged == [1, 2, 3, 4])


# ----------------------------------------------------------------------------------------------------- alerts


@stepped
async def test_alerts_do_not_wait_for_the_database() -> None:
    """They are at the broker before anything else had its turn, whatever the database does."""
    rig = Rig()
    rig.store.is_away = True
    async with rig.running():
        for delivery in range(1, 4):
            rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
        assert rig.store.attempts == 0
    topics = [(topic, retain) for topic, _, retain in rig.broker.published]
    assert topics[:2] == [("esp/alerts/W1/events", False), ("esp/alerts/W1/state/STALL", True)]


@stepped
async def test_events_that_the_broker_accepted_are_marked_as_published() -> None:
    rig = Rig()
    async with rig.running():
        for delivery in range(1, 4):
            rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: len(rig.broker.acknowledged) == 3)
        await rig.pipeline.drain()
    assert rig.store.events
    assert rig.store.published.keys() == rig.store.events.keys()
    assert rig.counted("alerts_published_total", severity="critical") == len(rig.store.events)


@stepped
async def test_what_could_not_be_marked_is_marked_later_though_nothing_comes() -> None:
    rig = Rig()
    async with rig.running():
        for delivery in range(1, 4):
            rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: rig.store.events)
        rig.store.faults_of_marking = 3
        await settled(lambda: rig.store.published.keys() == rig.store.events.keys())
        assert rig.store.faults_of_marking == 0


@stepped
async def test_events_that_no_broker_accepted_are_not_counted_as_published() -> None:
    rig = Rig(accepts=False)
    async with rig.running():
        for delivery in range(1, 4):
            rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: len(rig.store.rows) == 3)
        await asyncio.sleep(1)
    assert rig.broker.unanswered
    assert rig.counted("alerts_published_total", severity="critical") == 0
    assert not rig.store.published


@stepped
async def test_alerts_that_the_broker_refuses_stop_nothing_and_are_not_marked() -> None:
    rig = Rig()
    rig.broker.refuses = lambda topic: topic.endswith("/events")
    async with rig.running():
        for delivery in range(1, 4):
            rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: rig.broker.acknowledged == [1, 2, 3])
        await rig.pipeline.drain()
        assert rig.store.events
        assert not rig.store.published
        refused = [why for name, why in rig.reports if name == "alerts"]
        assert refused == ["broker refuses esp/alerts/W1/events"] * len(rig.store.events)
        assert rig.counted("alerts_refused_total") == len(rig.store.events)
        assert rig.counted("alerts_published_total", severity="critical") == 0
        rig.broker.refuses = lambda _topic: False
        rig.pipeline.announce_again(event.payload() for event in rig.store.events.values())
        rig.deliver(4)
        await settled(lambda: rig.store.published.keys() == rig.store.events.keys())


@stepped
async def test_events_that_are_on_their_way_or_not_marked_yet_are_not_told_again() -> None:
    rig = Rig(accepts=False)
    async with rig.running():
        for delivery in range(1, 4):
            rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: rig.store.events)
        events = [event.payload() for event in rig.store.events.values()]
        assert rig.pipeline.announce_again(events) == []
        rig.store.is_away = True
        rig.broker.answer_all()
        await settled(lambda: rig.broker.acknowledged)
        assert rig.pipeline.announce_again(events) == []


@stepped
async def test_states_are_published_again_as_they_stand_until_the_broker_refuses_one() -> None:
    rig = Rig()
    rig.pipeline.recall_states({f"esp/alerts/W{number}/state/STALL": b"%d" % number for number in range(250)})
    assert await rig.pipeline.restate() == ""
    assert rig.broker.published == [(f"esp/alerts/W{n}/state/STALL", b"%d" % n, True) for n in range(250)]
    rig.broker.published.clear()
    rig.broker.refuses = lambda topic: "W150" in topic
    assert await rig.pipeline.restate() == "broker refuses esp/alerts/W150/state/STALL"
    assert len(rig.broker.published) == 200


@stepped
async def test_events_of_an_earlier_run_are_published_again_and_then_marked() -> None:
    rig = Rig(accepts=False)
    async with rig.running():
        rig.pipeline.announce_again(
            [
                {"event_id": "e1", "well_id": "W7", "transition": "raised"},
                {"event_id": "e2", "well_id": "W7", "transition": ""},
            ]
        )
        assert [topic for topic, _, _ in rig.broker.published] == ["esp/alerts/W7/events"]
        rig.deliver(1)
        await settled(lambda: rig.broker.acknowledged == [1])
        assert not rig.store.published
        rig.broker.answer_all()
        rig.deliver(2)
        await settled(lambda: rig.broker.acknowledged == [1, 2])
        await settled(lambda: "e1" in rig.store.published)


# ----------------------------------------------------------------------------------------- retries and the end


@stepped
async def test_a_fault_that_is_not_unavailable_ends_the_task() -> None:
    """I7: what nobody foresaw is not retried; the service ends and the broker keeps the delivery."""
    rig = Rig()
    rig.store.faults.append(ZeroDivisionError())
    writing = asyncio.create_task(rig.pipeline.write())
    rig.deliver(1)
    with pytest.raises(ZeroDivisionError):
        await writing
    assert rig.broker.acknowledged == []


@stepped
async def test_each_kind_of_unavailability_is_retried_and_counted() -> None:
    rig = Rig()
    kinds = ["connection", "timeout", "read_only", "resources", "schema"]
    rig.store.faults.extend(Unavailable("not now", kind=kind) for kind in kinds)
    async with rig.running():
        rig.deliver(1)
        await settled(lambda: rig.broker.acknowledged == [1])
    assert [rig.counted("store_errors_total", kind=kind) for kind in kinds] == [1, 1, 1, 1, 1]


@stepped
async def test_a_memory_that_cannot_be_kept_stops_nothing_and_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each batch would fill what is left of a disk that is full."""
    memory = FakeMemory()
    rig = Rig(memory=memory)
    async with rig.running():
        for second, memory.is_full in enumerate([True] * 5 + [False] * 2 + [True] * 5):
            rig.deliver(second + 1, second, f"W{second}")
            await asyncio.sleep(400)
        assert rig.broker.acknowledged == list(range(1, 13))
    assert {"W5", "W6"} <= memory.kept.keys()
    assert rig.counted("store_errors_total", kind="spool_full") == 10
    said = capsys.readouterr().out
    assert said.count("memory of wells cannot be kept") == 2
    assert said.count("memory of wells is kept again") == 1


@stepped
async def test_i10_a_well_that_was_heard_twice_may_be_silent_no_longer_for_a_kill() -> None:
    """Its first reading says nothing of its interval, and the next regular memory of it is five minutes off."""
    memory = FakeMemory()
    rig = Rig(memory=memory)
    async with rig.running():
        for number in range(3):
            rig.deliver(number + 1, 10 * number)
            await asyncio.sleep(10)
        assert rig.broker.acknowledged == [1, 2, 3]
    diagnostician = Diagnostician(TREE, WELLS)
    diagnostician.restore("W1", memory.kept["W1"])
    began_us = T0 + 60_000_000
    diagnostician.pass_time(began_us, deaf=True)
    told = [each for s in range(400) for each in diagnostician.pass_time(began_us + s * 1_000_000)]
    assert [each.diagnosis for each in told] == ["COMM_LOSS"]


@stepped
async def test_draining_closes_the_open_batch_and_returns_when_all_is_acknowledged() -> None:
    rig = Rig(max_age_ms=60_000)
    rig.store.gate.clear()
    async with rig.running():
        for delivery in range(1, 6):
            rig.deliver(delivery)
        draining = asyncio.create_task(rig.pipeline.drain())
        await settled(lambda: rig.store.attempts)
        assert rig.broker.paused
        assert not draining.done()
        rig.store.gate.set()
        await draining
        assert rig.broker.acknowledged == [1, 2, 3, 4, 5]
        assert rig.broker.paused, "nothing more is taken in"
        assert asyncio.get_running_loop().time() < 60, "it does not wait for the batch's age"


@stepped
async def test_draining_waits_for_events_that_no_reading_brought() -> None:
    """Silence raises alarms too: a batch of events alone has no rows, and is drained all the same."""
    rig = Rig()
    for delivery in range(1, 3):
        rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
    events = tuple(rig.pipeline._batcher.take(Trigger.DRAIN).events)
    assert events
    quiet = Rig()
    quiet.store.gate.clear()
    async with quiet.running():
        quiet.pipeline._announce(events, quiet.now_us())
        await settled(lambda: quiet.store.attempts)
        draining = asyncio.create_task(quiet.pipeline.drain())
        await asyncio.sleep(5)
        assert not draining.done()
        quiet.store.gate.set()
        await draining
    assert quiet.store.events.keys() == {event.event_id for event in events}


@stepped
async def test_draining_returns_at_once_when_nothing_is_under_way() -> None:
    rig = Rig()
    async with rig.running():
        await asyncio.wait_for(rig.pipeline.drain(), 1)


@pytest.mark.parametrize("pause_s", [0.0, 0.001])
def test_a_batch_is_closed_by_quiet_when_a_broker_holds_back(pause_s: float) -> None:
    """Whether its deliveries come in one piece or one by one."""

    async def scenario() -> None:
        rig = Rig(max_age_ms=60_000)
        async with rig.running():
            for delivery in range(1, 21):
                rig.deliver(delivery)
                await asyncio.sleep(pause_s)
            await settled(lambda: len(rig.broker.acknowledged) == 20)
            assert rig.counted("batches_total", trigger="quiet") == 1
            assert asyncio.get_running_loop().time() < 60

    stepped(scenario)()


# ---------------------------------------------------------------------------------------------------------- silence


def send_from_two_wells(rig: Rig, first: int = 0) -> None:
    for second in (first, first + 10):
        rig.deliver(second + 1, second, "W1")
        rig.deliver(second + 2, second, "W2")


async def told_meanwhile(rig: Rig, seconds: int) -> list[str]:
    """The topics of the events of the next seconds."""
    before = len(rig.broker.published)
    for _ in range(seconds):
        await asyncio.sleep(1)
        rig.pipeline.pass_time()
    return [topic for topic, _, _ in rig.broker.published[before:] if topic.endswith("/events")]


@stepped
async def test_while_the_broker_is_away_no_well_is_silent() -> None:
    rig = Rig()
    async with rig.running():
        send_from_two_wells(rig)
        assert not await told_meanwhile(rig, 100)
        rig.broker.is_connected = False
        assert not await told_meanwhile(rig, 3600)
        rig.broker.is_connected = True
        assert not await told_meanwhile(rig, 299)
        assert await told_meanwhile(rig, 10) == ["esp/alerts/esp-ingestd/events"]


@stepped
async def test_a_well_that_is_called_as_the_field_is_says_nothing_of_the_field() -> None:
    """Such as a test client that publishes under our client id."""
    rig = Rig()
    async with rig.running():
        send_from_two_wells(rig)
        assert await told_meanwhile(rig, 400) == ["esp/alerts/esp-ingestd/events"]
        for second in range(410, 440, 10):
            rig.deliver(second, 86_400 + second, "esp-ingestd")
            await told_meanwhile(rig, 10)
        assert [topic for topic, _, _ in rig.broker.published].count("esp/alerts/esp-ingestd/events") == 1
    assert rig.counted("readings_stored_total") == 7


@pytest.mark.parametrize("hours", [-6, 6, 24 * 365 * 30])
@stepped
async def test_a_clock_that_was_set_or_a_machine_that_slept_makes_no_well_silent(hours: int) -> None:
    """A gateway without a battery starts in 1970; a virtual machine is moved, or wakes after hours."""
    rig = Rig()
    async with rig.running():
        send_from_two_wells(rig)
        assert not await told_meanwhile(rig, 100)
        rig.clock_is_off_us = hours * 3_600_000_000
        assert not await told_meanwhile(rig, 5)
        send_from_two_wells(rig, 20)
        assert not await told_meanwhile(rig, 299)
        assert await told_meanwhile(rig, 10) == ["esp/alerts/esp-ingestd/events"]


# ------------------------------------------------------------------------------------------- with a spool on disk


async def test_what_is_told_only_after_it_was_drained_is_marked_too_and_what_goes_with_it_does_not_pile_up(
    tmp_path: Path,
) -> None:
    """An outage of any length must not grow a list of what was told in it."""
    spool = Spool(SpoolSettings(directory=tmp_path))
    await spool.open()
    rig = Rig(accepts=False, overflow=spool)
    rig.store.is_away = True
    async with rig.running():
        draining = asyncio.create_task(rig.pipeline.drain_overflow())
        for delivery in range(1, 4):
            rig.deliver(delivery, second=10 * delivery, motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: spool.status.readings == 3)
        rig.broker.answer_all()
        await settled(lambda: len(rig.broker.acknowledged) == 3)
        assert not rig.pipeline._storing.has_told
        for delivery in range(4, 7):
            rig.deliver(delivery, 10 * delivery, "W2", motor_current=200.0, vsd_frequency=50.0)
        await settled(lambda: spool.status.readings == 6)
        rig.store.gate.clear()
        rig.store.is_away = False
        attempts = rig.store.attempts
        await settled(lambda: rig.store.attempts > attempts)
        for delivery in range(7, 10):
            rig.deliver(delivery, 10 * delivery, "W3", motor_current=200.0, vsd_frequency=50.0)
        rig.broker.answer_all()
        await settled(lambda: len(rig.broker.acknowledged) == 9)
        rig.store.gate.set()
        await settled(lambda: len(rig.store.events) == 3)
        await settled(lambda: rig.store.published.keys() == rig.store.events.keys())
        assert not rig.pipeline._storing.has_told
        assert rig.pipeline._storing._telling == set()
        draining.cancel()
    await spool.close()


# ------------------------------------------------------------------------------------------------------------ flood


@stepped
async def test_in_a_flood_low_alarms_are_summed_up_and_each_is_kept() -> None:
    """A wrong clock on thirty wells at once: ten are told, then a summary; an overload among them passes."""
    rig = Rig()
    async with rig.running():
        for number in range(30):
            rig.deliver(number + 1, 86_400 + 300 + number, f"W{number}", vsd_frequency=60.0)
        for minute in range(3):
            rig.deliver(31 + minute, 70 * minute, "BURNS", motor_current=60.0, vsd_frequency=60.0)
        rig.pipeline.pass_time()
        await asyncio.sleep(5)
        assert len(rig.broker.acknowledged) == 33
    events = [json.loads(payload) for topic, payload, _ in rig.broker.published if topic.endswith("/events")]
    assert [each["diagnosis"] for each in events] == ["CLOCK_FAULT"] * 10 + ["OVERLOAD"]
    assert len(rig.store.events) == 31
    assert rig.store.published.keys() == rig.store.events.keys(), "a restart tells none of them by itself"
    assert sum(topic.endswith("/state/CLOCK_FAULT") for topic, _, _ in rig.broker.published) == 30
    ((topic, payload, retained),) = [each for each in rig.broker.published if each[0].endswith("/flood")]
    assert (topic, retained) == ("esp/alerts/esp-ingestd/flood", True)
    summary = json.loads(payload)
    assert (summary["flood"], summary["held_back"], summary["wells"]) == (True, 20, 20)
    assert summary["by_diagnosis"] == "CLOCK_FAULT 20"
    assert rig.counted("alarm_flood") == 1
    assert rig.counted("alerts_held_back_total") == 20

    rig.pipeline.recall_states({topic: payload})
    summary = json.loads(rig.broker.published[-1][1])
    assert (summary["flood"], summary["held_back"]) == (False, 20), "a restart ends it"


# ------------------------------------------------------------------------------------------- a store that is slow


async def test_a_backlog_goes_into_a_slow_store_in_parts(tmp_path: Path) -> None:
    """What takes longer than a batch may, again at each attempt, would never end."""
    spool = Spool(SpoolSettings(directory=tmp_path))
    await spool.open()
    rig = Rig(overflow=spool)
    rig.store.is_away = True
    async with rig.running():
        for delivery in range(1, 41):
            rig.deliver(delivery)
            await settled(lambda: spool.status.readings == delivery)  # noqa: B023
        rig.store.is_away = False
        rig.store.most_rows = 12
        draining = asyncio.create_task(rig.pipeline.drain_overflow())
        await settled(lambda: len(rig.store.rows) == 40)
        draining.cancel()
    await spool.close()


async def test_a_batch_that_a_slow_store_does_not_take_in_time_goes_by_the_spool_in_parts(tmp_path: Path) -> None:
    """As one it would be tried for ever; and what comes meanwhile waits for none of it."""
    spool = Spool(SpoolSettings(directory=tmp_path))
    await spool.open()
    rig = Rig(overflow=spool)
    rig.store.most_rows = 12
    async with rig.running():
        for delivery in range(1, 41):
            rig.deliver(delivery)
        rig.send("esp/W1/telemetry", b"poison", 41)
        await settled(lambda: len(rig.broker.acknowledged) == 41)
        assert (spool.status.batches, spool.status.readings) == (1, 40), "all of it is in one piece on disk"
        assert rig.counted("database_rows_at_once") == 10
        draining = asyncio.create_task(rig.pipeline.drain_overflow())
        await settled(lambda: not spool.filled.is_set())
        draining.cancel()
        assert not rig.pipeline.is_away
        rig.pipeline._storing._portion.cut(40)
        assert rig.counted("database_rows_at_once") <= 10
        attempts = rig.store.attempts
        for delivery in range(42, 62):
            rig.deliver(delivery)
        await settled(lambda: spool.status.readings == 20)
        assert rig.store.attempts == attempts, "what is more than it takes it is not asked to take"
        draining = asyncio.create_task(rig.pipeline.drain_overflow())
        await settled(lambda: not spool.filled.is_set())
        assert len(rig.store.rows) == 60
        assert sum(rig.store.letters.values()) == 1
        assert max(batch.kept_rows for batch in rig.store.batches) <= 12
        # Counted once each, whatever was tried again.
        assert rig.counted("readings_stored_total") == 60
        assert rig.counted("readings_duplicate_total") == 0
        assert rig.rejected() == 1
        assert rig.counted("readings_received_total") == 61
        draining.cancel()
    await spool.close()


async def test_what_was_drained_is_counted_once_it_is_gone_from_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2, where a part of a batch is stored and the rest of it must wait, and where the spool fails then."""
    spool = Spool(SpoolSettings(directory=tmp_path))
    await spool.open()
    rig = Rig(overflow=spool)
    rig.store.is_away = True
    remove = spool.remove
    failures = [Unavailable("disk", kind="spool")]

    async def fail_once(upto: int) -> None:
        if failures:
            raise failures.pop()
        await remove(upto)

    monkeypatch.setattr(spool, "remove", fail_once)
    async with rig.running():
        for delivery in range(1, 41):
            rig.deliver(delivery)
        await settled(lambda: spool.status.readings == 40)
        rig.store.is_away = False
        rig.store.most_rows = 12
        draining = asyncio.create_task(rig.pipeline.drain_overflow())
        await settled(lambda: not spool.filled.is_set())
        await settled(lambda: rig.counted("readings_stored_total") + rig.counted("readings_duplicate_total") >= 40)
        assert (rig.counted("readings_stored_total"), rig.counted("readings_duplicate_total")) == (0, 40)
        assert len(rig.store.rows) == 40
        draining.cancel()
    await spool.close()


@stepped
async def test_without_a_spool_parts_go_in_at_the_pace_of_the_store_and_are_acknowledged_together() -> None:
    rig = Rig()
    rig.store.row_s = 3.0
    async with rig.running():
        for delivery in range(1, 21):
            rig.deliver(delivery)
        await settled(lambda: len(rig.store.rows) >= 19)
        assert rig.broker.acknowledged == []
        assert rig.counted("store_errors_total", kind="timeout") == 2, "20 and 5 at once; then never again"
        await settled(lambda: rig.broker.acknowledged)
        assert rig.broker.acknowledged == list(range(1, 21))
        assert rig.counted("readings_stored_total") == 20
        assert rig.counted("database_rows_at_once") == 1, "four would take 12 s of the 10 allowed"
        rig.store.row_s = 0.1
        rig.deliver(21)
        await settled(lambda: len(rig.broker.acknowledged) == 21)
        assert rig.counted("database_rows_at_once") == 4, "four take 0.4 s now"
        rig.store.row_s = 0.0
        for delivery in range(22, 28):
            rig.deliver(delivery)
            await settled(lambda: len(rig.broker.acknowledged) == delivery)  # noqa: B023
        assert rig.counted("database_rows_at_once") == 5_000, "whole batches again"


async def test_while_the_spool_fails_a_slow_store_is_asked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it took is not put on disk besides."""
    spool = Spool(SpoolSettings(directory=tmp_path))
    await spool.open()
    rig = Rig(overflow=spool)
    append = spool.append
    is_full = True

    async def fail(batch: Batch) -> int:
        if is_full:
            raise Unavailable("full", kind="spool_full")
        return await append(batch)

    monkeypatch.setattr(spool, "append", fail)
    rig.store.most_rows = 12
    async with rig.running():
        for delivery in range(1, 41):
            rig.deliver(delivery)
        await settled(lambda: rig.store.rows)
        rig.store.most_rows = 0
        is_full = False
        await settled(lambda: len(rig.broker.acknowledged) == 40)
        stored = len(rig.store.rows)
        assert stored > 0
        assert stored + spool.status.readings == 40
        assert rig.counted("readings_stored_total") == stored
    await spool.close()
