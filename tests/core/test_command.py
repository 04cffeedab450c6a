"""Commands from SCADA: what is refused, what is heeded, and what each does to a well and its alarms."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from core.test_diagnosis import HEALTHY, SETTINGS, STANDING, START_US, TREE, Run, told
from core.test_precedence import HOT, diagnosis, run_on
from hypothesis import given
from hypothesis import strategies as st

from esp_ingestd.core.command import (
    LONGEST_BY,
    LONGEST_COMMENT,
    MOST_BYTES,
    Answer,
    Command,
    CommandRecord,
    Refusal,
    RefusedError,
    heed,
    parse,
    said_of,
)
from esp_ingestd.core.diagnosis import RESETS_KEPT, Diagnostician
from esp_ingestd.core.reading import SECOND_US
from esp_ingestd.core.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esp_ingestd.core.alarm import AlarmEvent

GOOD = {"command": "shelve", "alarm_id": "a1", "by": "ann", "comment": "crew on site", "duration_s": 3600}


def parsed(well_id: str = "W", **keys: object) -> Command:
    payload = json.dumps({key: value for key, value in {**GOOD, **keys}.items() if value is not ...}).encode()
    return parse(well_id, payload, len(payload))


def test_a_command_is_taken_apart() -> None:
    assert parsed() == Command("W", "shelve", "a1", "ann", "crew on site", 3600.0)
    assert parsed(command="acknowledge", by=" ann ", comment=None, duration_s="ignored", more=[1]) == Command(
        "W", "acknowledge", "a1", "ann", "", 0.0
    )
    assert parsed(command="reset", alarm_id=..., comment=...).alarm_id == ""


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"well_id": "no such/well"}, Refusal.UNKNOWN_WELL),
        ({"command": "explode"}, Refusal.UNKNOWN_COMMAND),
        ({"command": ["shelve"]}, Refusal.UNKNOWN_COMMAND),
        ({"command": ...}, Refusal.UNKNOWN_COMMAND),
        ({"alarm_id": ...}, Refusal.BAD_ALARM_ID),
        ({"alarm_id": "", "command": "acknowledge"}, Refusal.BAD_ALARM_ID),
        ({"alarm_id": 7}, Refusal.BAD_ALARM_ID),
        ({"alarm_id": "x" * 101}, Refusal.BAD_ALARM_ID),
        ({"by": ...}, Refusal.BAD_BY),
        ({"by": "  "}, Refusal.BAD_BY),
        ({"by": "x" * (LONGEST_BY + 1)}, Refusal.BAD_BY),
        ({"by": "a\0b"}, Refusal.BAD_BY),
        ({"by": "\ud800"}, Refusal.BAD_BY),
        ({"comment": "x" * (LONGEST_COMMENT + 1)}, Refusal.BAD_COMMENT),
        ({"comment": {"deep": 1}}, Refusal.BAD_COMMENT),
        ({"duration_s": ...}, Refusal.BAD_DURATION),
        ({"duration_s": None}, Refusal.BAD_DURATION),
        ({"duration_s": True}, Refusal.BAD_DURATION),
        ({"duration_s": "60"}, Refusal.BAD_DURATION),
        ({"duration_s": 0}, Refusal.BAD_DURATION),
        ({"duration_s": -1}, Refusal.BAD_DURATION),
        ({"duration_s": 86_401}, Refusal.BAD_DURATION),
        ({"duration_s": float("nan")}, Refusal.BAD_DURATION),
        ({"duration_s": 1e-9}, Refusal.BAD_DURATION),
    ],
)
def test_what_is_wrong_with_a_command_is_said(keys: dict[str, object], reason: Refusal) -> None:
    with pytest.raises(RefusedError) as refused:
        parsed(**keys)  # type: ignore[arg-type]
    assert refused.value.reason is reason
    assert str(refused.value)


@pytest.mark.parametrize(
    ("payload", "size", "reason"),
    [
        (b"", None, Refusal.NOT_JSON),
        (b"\xff\xfe", None, Refusal.NOT_JSON),
        (b"[" * 5_000, None, Refusal.NOT_JSON),
        (b"[]", None, Refusal.NOT_AN_OBJECT),
        (b"{}", MOST_BYTES + 1, Refusal.TOO_LARGE),
    ],
)
def test_what_is_no_command_is_refused(payload: bytes, size: int | None, reason: Refusal) -> None:
    with pytest.raises(RefusedError) as refused:
        parse("W", payload, size or len(payload))
    assert refused.value.reason is reason


@given(st.binary() | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_taking_apart_is_total(payload: bytes) -> None:
    with pytest.raises(RefusedError):
        parse("W", payload, len(payload))
    json.dumps(said_of(payload))


def test_the_answer_repeats_short_texts_only() -> None:
    assert said_of(json.dumps({**GOOD, "by": "x" * 200}).encode()) == {"command": "shelve", "alarm_id": "a1"}
    assert said_of(b'{"command": "\\u0000", "alarm_id": 1}') == {}
    assert said_of(b"x" * (MOST_BYTES + 1)) == said_of(b"[]") == said_of(b"{") == {}


def test_every_answer_has_the_same_keys_of_the_same_types() -> None:
    heeded = Answer(well_id="W", command="reset", detail="done", at_us=START_US).payload()
    refused = Answer(well_id="W", reason=Refusal.NOT_JSON, at_us=START_US).payload()
    assert {k: type(v) for k, v in heeded.items()} == {k: type(v) for k, v in refused.items()}
    assert (heeded["accepted"], heeded["reason"]) == (True, "")
    assert (refused["accepted"], refused["reason"]) == (False, "not_json")


# ------------------------------------------------------------------------------------------- what commands do


class Desk:
    """An operator of one well."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.alarm_id = ""
        self.retained = False

    def says(self, word: str, *, for_s: float = 0.0, comment: str = "", later_s: float = 0.0) -> Sequence[AlarmEvent]:
        at_us = START_US + int((self.run.at_s + later_s) * SECOND_US)
        payload = json.dumps(
            {
                "command": word,
                "alarm_id": self.alarm_id,
                "by": "ann",
                "comment": comment,
                "duration_s": for_s,
            }
        ).encode()
        self.answer, events, self.record = heed(
            self.run.diagnostician.obey, "W", payload, len(payload), at_us, retained=self.retained
        )
        return events


def stalled(*, live: bool = True) -> Desk:
    desk = Desk(Run(live=live))
    desk.run.then(3600)
    (raised,) = desk.run.then(80, motor_temp=146)
    desk.alarm_id = raised.alarm_id
    return desk


def test_a_command_to_a_well_nobody_knows_is_refused() -> None:
    diagnostician = Diagnostician(TREE, lambda _: SETTINGS)
    with pytest.raises(RefusedError) as refused:
        diagnostician.obey(parsed(), START_US)
    assert refused.value.reason is Refusal.UNKNOWN_WELL


def test_a_command_that_the_broker_had_kept_is_refused() -> None:
    desk = stalled()
    desk.retained = True
    assert not desk.says("acknowledge")
    assert (desk.answer.reason, desk.answer.command, desk.record) == (Refusal.RETAINED, "acknowledge", None)


def test_an_alarm_that_does_not_stand_here_is_refused() -> None:
    desk = stalled()
    desk.alarm_id = "another"
    assert not desk.says("acknowledge")
    assert desk.answer.reason is Refusal.UNKNOWN_ALARM


def test_what_was_told_stays_as_it_was_when_the_alarm_was_raised() -> None:
    desk = Desk(Run())
    desk.run.then(3600)
    (raised,) = desk.run.then(80, motor_temp=146)
    desk.alarm_id = raised.alarm_id
    desk.run.then(30)
    (acknowledged,) = desk.says("acknowledge")
    assert raised.evidence["trip_margin"] < 5
    assert (acknowledged.message, acknowledged.evidence) == (raised.message, raised.evidence)


def test_a_latched_alarm_is_reset_once_its_condition_is_gone() -> None:
    desk = stalled()
    assert not desk.says("reset")
    assert desk.answer.reason is Refusal.CONDITION_HOLDS
    assert [(e.transition, e.state) for e in desk.run.then(7200)] == [("", "latched")]
    (acknowledged,) = desk.says("acknowledge", comment="seen")
    assert (acknowledged.state, acknowledged.acknowledged, acknowledged.comment) == ("latched", True, "seen")
    (cleared,) = desk.says("reset", comment="cable mended")
    assert (cleared.transition, cleared.reason, cleared.state, cleared.by) == ("cleared", "reset", "cleared", "ann")
    assert cleared.alarm_id == desk.alarm_id
    assert desk.record == CommandRecord(
        command_id=cleared.event_id,
        received_us=cleared.timestamp_us,
        well_id="W",
        alarm_id=desk.alarm_id,
        command="reset",
        by="ann",
        comment="cable mended",
        duration_s=0.0,
    )
    assert desk.answer.event_id == cleared.event_id
    assert set(desk.run.diagnostician.standing().values()) == {0}
    assert not desk.says("reset")  # delivered twice
    assert desk.answer.payload()["accepted"] is True
    assert desk.answer.detail == "it was reset already"
    assert not desk.run.then(3600)


def test_few_resets_are_remembered() -> None:
    desk = stalled()
    first = desk.alarm_id
    for _ in range(RESETS_KEPT + 1):
        desk.run.then(7200)
        assert told(desk.says("reset")) == ["cleared MOTOR_OVERTEMP critical reset"]
        desk.run.then(80, motor_temp=146)
        desk.alarm_id = desk.run.events[-1].alarm_id
    desk.alarm_id = first
    desk.says("reset")
    assert desk.answer.reason is Refusal.UNKNOWN_ALARM


def test_what_does_not_latch_cannot_be_reset() -> None:
    desk = Desk(Run())
    desk.run.then(3600)
    (raised,) = desk.run.then(90, motor_current=120)
    desk.alarm_id = raised.alarm_id
    assert not desk.says("reset")
    assert desk.answer.reason is Refusal.NOT_LATCHED


def test_the_same_command_twice_does_no_more_than_once() -> None:
    desk = stalled()
    (shelved,) = desk.says("shelve", for_s=600, comment="crew")
    assert shelved.payload()["shelved_until"] > shelved.payload()["timestamp"]  # type: ignore[operator]
    assert not desk.says("shelve", for_s=600, comment="crew", later_s=20)
    assert desk.answer.detail.startswith("it is shelved already, until ")
    (longer,) = desk.says("shelve", for_s=900, comment="crew", later_s=30)
    assert longer.shelved_until_us > shelved.shelved_until_us
    assert desk.says("shelve", for_s=900, comment="crew", later_s=400)  # long after: it is meant
    assert desk.says("unshelve")
    assert not desk.says("unshelve")
    assert desk.answer.detail == "it is not shelved"
    assert desk.says("acknowledge")
    assert not desk.says("acknowledge")
    assert desk.answer.detail == "it is acknowledged already"
    assert desk.answer.payload()["accepted"] is True


def test_offline_nobody_is_reminded_and_only_transitions_are_told() -> None:
    desk = stalled(live=False)
    assert not desk.run.then(7200)
    assert not desk.run.diagnostician.pass_time(START_US + int(desk.run.at_s * SECOND_US))
    later = desk.run.diagnostician.pass_time(START_US + int(desk.run.at_s + 7200) * SECOND_US)
    assert told(later) == ["raised COMM_LOSS medium"]


def test_resetting_a_well_learns_its_normal_anew_and_ends_what_was_told_by_it() -> None:
    run = Run(step_s=60)
    run.then(30 * 3600)
    assert told(run.then(180, current_unbalance=6)) == ["raised ELECTRICAL_FAULT high"]
    found = run.then(6 * 3600, flow_rate=1000.0, current_unbalance=6)
    (relative,) = (e for e in found if e.transition == "raised" and e.group == "degradation")
    desk = Desk(run)
    (cleared,) = desk.says("reset", comment="new pump")
    assert (cleared.alarm_id, cleared.reason, cleared.by) == (relative.alarm_id, "reset", "ann")
    assert (desk.answer.reason, desk.answer.event_id) == (None, "")
    assert run.diagnostician.standing()["high"] == 1  # what compares with no baseline stands
    assert desk.record is not None
    assert (desk.record.alarm_id, desk.record.comment) == ("", "new pump")
    first = desk.record
    for comment, is_new in [("new pump", False), ("another pump", True)]:
        assert not desk.says("reset", comment=comment, later_s=60)
        assert bool(desk.record) is is_new
    assert desk.record.command_id != first.command_id
    assert not [e for e in run.then(3 * 3600, flow_rate=1000.0) if e.transition == "raised"]
    # Once learned, half of what it was is normal, and the old normal is none.
    assert not [e for e in run.then(30 * 3600, flow_rate=1000.0) if e.transition == "raised"]
    assert {e.group for e in run.then(6 * 3600, flow_rate=500.0)} == {"degradation"}


def test_a_rule_that_is_put_out_of_service_ends_its_alarm() -> None:
    desk = stalled()
    desk.run.then(7200)
    without = tuple(d.name for d in TREE.diagnoses if d.name != "MOTOR_OVERTEMP")
    after = Run(type(SETTINGS)(nameplate_current_a=100.0, trip_temperature_c=150.0, enabled_rules=without))
    after.at_s = desk.run.at_s
    cleared = after.diagnostician.restore("W", desk.run.diagnostician.snapshot("W"))
    assert told(cleared) == ["cleared MOTOR_OVERTEMP critical reset"]
    assert not after.then(3600, motor_temp=148)


def test_a_snapshot_of_form_2_is_read() -> None:
    """What 0.1 left on disk: no commands, no numbers of events."""
    desk = stalled()
    old = json.loads(desk.run.diagnostician.snapshot("W"))
    old["form"] = 2
    for key in ("heeded", "relearned", "resets"):
        del old[key]
    for key in ("shelved_until_us", "seq", "heeded", "reminded"):
        del old["alarms"]["MOTOR_OVERTEMP"][key]
    after = Desk(Run())
    after.run.at_s = desk.run.at_s
    after.alarm_id = desk.alarm_id
    after.run.diagnostician.restore("W", json.dumps(old).encode())
    assert not after.run.then(7200)
    assert told(after.says("reset")) == ["cleared MOTOR_OVERTEMP critical reset"]


def test_silence_that_returns_while_its_alarm_is_shelved_is_the_same_alarm() -> None:
    desk = Desk(Run())
    run, diagnostician = desk.run, desk.run.diagnostician
    run.then(3600)

    def now(later_s: float = 0.0) -> int:
        return START_US + int((run.at_s + later_s) * SECOND_US)

    diagnostician.pass_time(now())
    (raised,) = diagnostician.pass_time(now(1200))
    desk.alarm_id = raised.alarm_id
    assert told(desk.says("shelve", for_s=80_000)) == ["shelved COMM_LOSS medium"]
    run.at_s += 1200
    assert not run.then(60)
    assert not diagnostician.pass_time(now(1200))
    run.at_s += 1200
    assert not run.then(60)
    assert told(diagnostician.pass_time(now(100_000)))[:2] == [
        "unshelved COMM_LOSS medium",
        "cleared COMM_LOSS medium returned",
    ]


def test_a_shelved_alarm_explains_while_its_condition_holds() -> None:
    desk = Desk(run_on())
    (raised,) = desk.run.then(60, **HOT)
    desk.alarm_id = raised.alarm_id
    desk.says("shelve", for_s=86_400)
    assert not desk.run.then(600, **HOT, flow_rate=400.0)
    assert told(desk.run.then(60, flow_rate=400.0)) == ["raised PUMP_OFF high"]
    assert told(desk.run.then(60, **HOT, flow_rate=400.0)) == ["cleared PUMP_OFF high superseded"]


def test_a_stop_ends_no_alarm_that_keeps_coming_back() -> None:
    run = Run()
    run.then(3600)
    for _ in range(5):
        run.then(90, motor_current=120)
        run.then(600)
    before = run.events[-1]
    assert (before.recurring, before.count) == (True, 3)
    assert not [e for e in run.then(60, **STANDING) if e.diagnosis == "OVERLOAD"]
    run.then(3600, **HEALTHY)
    assert not told(run.then(90, motor_current=120))
    (alarm,) = run.diagnostician._patients["W"].alarms.values()
    assert (alarm.alarm_id, alarm.count) == (before.alarm_id, 6)
    run.step_s = 60
    assert not [e for e in run.then(6.9 * 86_400, **STANDING) if e.diagnosis == "OVERLOAD"]
    assert "cleared OVERLOAD high returned" in told(run.then(0.2 * 86_400, **STANDING))


def test_every_relative_question_is_known() -> None:
    tree = Tree.parse(
        {
            "group": [{"name": name, "ask": "?"} for name in ("protection", "production", "degradation", "data")],
            "diagnosis": [
                diagnosis("STALL", "data", "load > 2", "low"),
                diagnosis("LOW_FLOW", "data", "flow_mean < 0.8", "low"),
            ],
        }
    )
    assert tree.relative_bits == 2
