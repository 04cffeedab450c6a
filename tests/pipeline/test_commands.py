"""Commands in the pipeline: when they are acknowledged, and what a flood of them may cost."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from fakes import settled, stepped
from pipeline.test_pipeline import T0, Rig

from esp_ingestd.core.command import MOST_BYTES
from esp_ingestd.pipeline import MOST_COMMANDS

if TYPE_CHECKING:
    from typing import Any

FIRST = 1_000


class Scada(Rig):
    """A pipeline with an overload at W1, and somebody who commands."""

    alarm_id = ""

    async def overload(self) -> None:
        for delivery in range(1, 20):
            self.deliver(delivery, second=10 * delivery, motor_current=60.0, vsd_frequency=50.0)
        await settled(lambda: len(self.broker.acknowledged) == 19)
        (raised,) = self.told("events")
        self.alarm_id = raised["alarm_id"]

    def told(self, leaf: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload, _ in self.broker.published if topic.split("/")[3] == leaf]

    def says(self, delivery: int, payload: bytes | None = None, *, retained: bool = False, **keys: object) -> None:
        body = {"command": "acknowledge", "alarm_id": self.alarm_id, "by": "ann", **keys}
        payload = json.dumps(body).encode() if payload is None else payload
        take = self.pipeline.refuse_retained if retained else self.pipeline.receive_command
        take("esp/alerts/W1/command", payload, delivery, self.now_us(), len(payload))


@stepped
async def test_a_command_is_acknowledged_once_it_is_durable_and_its_event_and_answer_are_accepted() -> None:
    rig = Scada()
    async with rig.running():
        await rig.overload()
        rig.store.gate.clear()
        rig.broker.accepts = False
        rig.says(FIRST, comment="seen")
        await asyncio.sleep(60)
        event, answer = rig.told("events")[-1], rig.told("answers")[-1]
        assert (event["transition"], event["by"], event["comment"]) == ("acknowledged", "ann", "seen")
        assert answer["accepted"] is True
        assert answer["event_id"] == event["event_id"]
        assert FIRST not in rig.broker.acknowledged
        rig.store.gate.set()
        await settled(lambda: rig.store.commands)
        await asyncio.sleep(60)
        assert FIRST not in rig.broker.acknowledged
        rig.broker.answer_all()
        await settled(lambda: FIRST in rig.broker.acknowledged)
    (command,) = rig.store.commands.values()
    assert (command.by, command.comment, command.alarm_id) == ("ann", "seen", rig.alarm_id)
    assert json.loads(rig.broker.published[-2][1])["state"] == "acknowledged"
    assert rig.counted("commands_total", command="acknowledge", outcome="heeded") == 1


@stepped
async def test_a_refused_command_waits_for_no_database() -> None:
    rig = Scada()
    async with rig.running():
        await rig.overload()
        rig.store.is_away = True
        rig.says(FIRST, b"nonsense")
        rig.says(FIRST + 1, retained=True)
        rig.says(FIRST + 2, b"x" * (MOST_BYTES + 1))
        await settled(lambda: rig.broker.acknowledged[-3:] == [FIRST, FIRST + 1, FIRST + 2])
    assert [each["reason"] for each in rig.told("answers")] == ["not_json", "retained", "too_large"]
    assert not rig.store.commands
    assert rig.counted("commands_total", command="acknowledge", outcome="retained") == 1
    assert rig.counted("commands_total", command="unknown", outcome="not_json") == 1


@stepped
async def test_a_broker_that_refuses_the_answer_still_gets_the_alert() -> None:
    rig = Scada()
    async with rig.running():
        await rig.overload()
        rig.broker.refuses = lambda topic: topic.endswith("/answers")
        rig.says(FIRST)
        rig.says(FIRST + 1)
        await settled(lambda: FIRST + 1 in rig.broker.acknowledged)
    assert rig.counted("alerts_refused_total") == 2
    assert rig.store.published.keys() == rig.store.events.keys()
    assert rig.told("events")[-1]["transition"] == "acknowledged"


@stepped
async def test_a_flood_of_commands_is_bounded_and_acknowledged_in_order() -> None:
    rig = Scada()
    async with rig.running():
        await rig.overload()
        rig.broker.accepts = False
        for number in range(10 * MOST_COMMANDS):
            rig.says(FIRST + number, b"nonsense")
            rig.says(0, b"nonsense")
        assert len(rig.told("answers")) == MOST_COMMANDS
        await asyncio.sleep(1)
        rig.broker.answer_all()
        await settled(lambda: len(rig.broker.acknowledged) > 9 * MOST_COMMANDS)
        heeded = [each for each in rig.broker.acknowledged if each >= FIRST]
        assert heeded == sorted(heeded)
        rig.says(1, command="shelve", duration_s=60)
        await settled(lambda: rig.told("answers")[-1]["accepted"])
    assert rig.counted("commands_total", command="unknown", outcome="dropped") == 20 * MOST_COMMANDS - MOST_COMMANDS


@stepped
async def test_what_time_ends_is_told_and_counted() -> None:
    rig = Scada()
    async with rig.running():
        await rig.overload()
        assert rig.now_us() - T0 < 60_000_000
        rig.pipeline.pass_time()
        assert rig.counted("annunciations", window="10m") == 1
        rig.says(FIRST, command="shelve", duration_s=1800)
        rig.pipeline.pass_time()
        assert rig.counted("alarms_treated", how="shelved") == 1
        await asyncio.sleep(1801)
        for _ in range(12):  # after such a pause silence counts anew
            rig.pipeline.pass_time()
            await asyncio.sleep(30)
        assert [each["transition"] for each in rig.told("events")] == ["raised", "shelved", "unshelved", "raised"]
        assert rig.told("events")[-1]["diagnosis"] == "COMM_LOSS"
        assert (rig.counted("annunciations", window="10m"), rig.counted("annunciations", window="1h")) == (2, 3)
        assert rig.counted("alarms_treated", how="shelved") == 0
        await asyncio.sleep(90_000)
        rig.pipeline.pass_time()
        assert rig.counted("annunciations", window="1h") == 0
        assert rig.counted("alarms_treated", how="stale") == 2


@stepped
async def test_while_it_stops_commands_stay_with_the_broker() -> None:
    rig = Scada()
    async with rig.running():
        await rig.overload()
        await rig.pipeline.drain()
        rig.says(FIRST)
        await asyncio.sleep(60)
    assert not rig.told("answers")
    assert FIRST not in rig.broker.acknowledged
