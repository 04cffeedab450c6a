"""Silence of a whole field is one alarm, that of some wells one each, and our own deafness none."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import pytest
from core.test_command import parsed
from core.test_diagnosis import HEALTHY, START_US, TREE
from hypothesis import given
from hypothesis import strategies as st

from esp_ingestd.core.diagnosis import FIELD_ACTIONS, FIELD_MESSAGE, Diagnostician
from esp_ingestd.core.fleet import Silence, fell_silent_together
from esp_ingestd.core.reading import SECOND_US, Reading
from esp_ingestd.core.well import WellSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from esp_ingestd.core.alarm import AlarmEvent

HOUR_S = 3600
MIXED = {f"W{n:03}": (10, 30, 60, 100, 101, 300, 1200)[n % 7] for n in range(105)}


class Field:
    """Wells that send at their own intervals, and the clock that is looked at every `tick_s`."""

    def __init__(self, interval_s: dict[str, int], *, live: bool = False, tick_s: int = 1) -> None:
        self.live = live
        self.tick_s = tick_s
        self.diagnostician = self.anew()
        self.interval_s = interval_s
        self.now_s = 0
        self.due = [(1 + n * 7 % each, well) for n, (well, each) in enumerate(interval_s.items())]
        heapq.heapify(self.due)

    def anew(self) -> Diagnostician:
        return Diagnostician(TREE, lambda _: WellSettings(), field_id="daemon-1", live=self.live)

    def restart(self) -> None:
        second = self.anew()
        for well_id in self.diagnostician.well_ids():
            second.restore(well_id, self.diagnostician.snapshot(well_id))
        self.diagnostician = second

    def run(
        self, seconds: int, silent: Callable[[str], bool] = lambda _: False, *, deaf: bool = False
    ) -> list[AlarmEvent]:
        events: list[AlarmEvent] = []
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += self.tick_s
            while self.due[0][0] <= self.now_s:
                at_s, well = self.due[0]
                heapq.heapreplace(self.due, (at_s + self.interval_s[well], well))
                if not silent(well) and not deaf:
                    at_us = START_US + at_s * SECOND_US
                    events += self.diagnostician.observe(
                        Reading(well, at_us, vsd_frequency=60.0, pip=HEALTHY["pip"] + at_s % 11, received_us=at_us)
                    )
            events += self.diagnostician.pass_time(START_US + self.now_s * SECOND_US, deaf=deaf)
        return [event for event in events if event.diagnosis == "COMM_LOSS"]


def told(events: Iterable[AlarmEvent]) -> list[str]:
    return [f"{event.transition} {event.well_id}" for event in events]


@pytest.fixture
def field() -> Field:
    made = Field(MIXED)
    assert not made.run(2 * HOUR_S), "a field at work"
    return made


def test_a_field_that_falls_silent_is_one_alarm_and_so_is_its_return(field: Field) -> None:
    raised = field.run(3 * HOUR_S, lambda _: True)
    assert told(raised) == ["raised daemon-1"]
    (event,) = raised
    cut_us = START_US + 2 * HOUR_S * SECOND_US
    assert 150 * SECOND_US < event.timestamp_us - cut_us <= 305 * SECOND_US
    assert event.message == "Nothing comes from the field: its wells fell silent together."
    assert event.evidence["wells_known"] == len(MIXED)
    assert event.path == ("Is the field heard? no",)
    (cleared,) = field.run(3 * HOUR_S)
    assert (cleared.transition, cleared.reason, cleared.alarm_id) == ("cleared", "returned", event.alarm_id)
    assert cleared.timestamp_us > event.timestamp_us


def test_wells_that_do_not_come_back_with_the_others_answer_for_themselves(field: Field) -> None:
    field.run(HOUR_S, lambda _: True)
    gone = {"W000", "W006", "W050"}
    events = field.run(3 * HOUR_S, gone.__contains__)
    assert told(events)[0] == "cleared daemon-1"
    assert sorted(told(events)[1:]) == [f"raised {well}" for well in sorted(gone)]
    silent_s = {event.well_id: event.evidence["silence_s"] for event in events[1:]}
    assert silent_s == {"W000": 300.0, "W006": 3_900.0, "W050": 300.0}
    assert sorted(told(field.run(HOUR_S))) == [f"cleared {well}" for well in sorted(gone)]


def test_a_backlog_ends_a_silence_not_before_it_was_told(field: Field) -> None:
    """An RTU that keeps what it could not send: its first reading after an hour is from the beginning of that hour."""
    (raised,) = field.run(HOUR_S, {"W000"}.__contains__)
    now_us = START_US + field.now_s * SECOND_US
    kept = Reading(
        "W000", now_us - (HOUR_S - 10) * SECOND_US, vsd_frequency=60.0, pip=HEALTHY["pip"], received_us=now_us
    )
    (cleared,) = field.diagnostician.observe(kept)
    assert (cleared.transition, cleared.alarm_id) == ("cleared", raised.alarm_id)
    assert cleared.timestamp_us == raised.timestamp_us > kept.timestamp_us


def test_a_well_of_which_nothing_is_asked_any_more_is_gone_for_good(field: Field) -> None:
    """As operators retire one: no rule enabled in the wells file."""
    gone = {"W000", "W006"}
    raised = {event.well_id: event for event in field.run(2 * HOUR_S, gone.__contains__)}
    assert raised.keys() == gone
    ended = field.diagnostician.adopt(TREE, lambda well: WellSettings(enabled_rules=() if well in gone else None))
    assert sorted(told(ended)) == [f"cleared {well}" for well in sorted(gone)]
    assert all(event.timestamp_us == raised[event.well_id].timestamp_us for event in ended), "no reading came since"
    assert not field.run(2 * HOUR_S, gone.__contains__)
    (event,) = field.run(2 * HOUR_S, lambda _: True)
    assert event.evidence["wells_known"] == len(MIXED) - len(gone)


def test_some_wells_are_no_field(field: Field) -> None:
    gone = set(sorted(MIXED)[:80])  # fewer than 80 of 100, of each interval
    events = field.run(2 * HOUR_S, gone.__contains__)
    assert sorted(told(events)) == [f"raised {well}" for well in sorted(gone)]


def test_wells_that_were_lost_long_before_do_not_count(field: Field) -> None:
    lost = set(sorted(MIXED)[70:])
    assert len(field.run(2 * HOUR_S, lost.__contains__)) == len(lost)
    assert told(field.run(2 * HOUR_S, lambda _: True)) == ["raised daemon-1"]
    assert told(field.run(HOUR_S, lost.__contains__)) == ["cleared daemon-1"]


@pytest.mark.parametrize("wells", [2, 3])
def test_a_small_field_is_one_too(wells: int) -> None:
    field = Field({f"W{n}": 60 for n in range(wells)})
    assert not field.run(HOUR_S)
    assert told(field.run(HOUR_S, lambda _: True)) == ["raised daemon-1"]
    assert told(field.run(HOUR_S)) == ["cleared daemon-1"]
    assert told(field.run(HOUR_S, lambda well: well == "W0")) == ["raised W0"]


def test_one_well_is_no_field() -> None:
    field = Field({"W0": 60})
    field.run(HOUR_S)
    assert told(field.run(HOUR_S, lambda _: True)) == ["raised W0"]


def test_a_restart_announces_nothing_again_and_forgets_nothing(field: Field) -> None:
    (raised,) = field.run(HOUR_S, lambda _: True)
    field.restart()
    assert not field.run(HOUR_S, lambda _: True)
    assert sum(field.diagnostician.standing().values()) == 1
    (cleared,) = field.run(HOUR_S)
    assert cleared.alarm_id == raised.alarm_id


def test_while_we_are_deaf_nobody_is_silent_and_afterwards_all_have_their_time(field: Field) -> None:
    assert not field.run(5 * HOUR_S, deaf=True)
    assert not field.run(180, lambda _: True)
    assert not field.run(HOUR_S)
    field.run(HOUR_S, deaf=True)
    assert told(field.run(2 * HOUR_S, lambda _: True)) == ["raised daemon-1"]


def test_a_backlog_of_readings_is_no_silence(field: Field) -> None:
    """An hour with the broker away; then what it kept comes all at once, in order, its timestamps long past."""
    field.run(HOUR_S, deaf=True)
    now_us = START_US + field.now_s * SECOND_US
    kept = sorted((-ago_s, well) for well, each in MIXED.items() for ago_s in range(each, HOUR_S, each))
    for at_s, well in kept:
        at_us = now_us + at_s * SECOND_US
        told_now = field.diagnostician.observe(Reading(well, at_us, vsd_frequency=60.0, received_us=now_us))
        assert "COMM_LOSS" not in {event.diagnosis for event in told_now}
    assert not field.run(HOUR_S)


def test_people_may_acknowledge_it(field: Field) -> None:
    (raised,) = field.run(HOUR_S, lambda _: True)
    acknowledge = parsed("daemon-1", command="acknowledge", alarm_id=raised.alarm_id, by="x")
    _, (event,), _ = field.diagnostician.obey(acknowledge, START_US + field.now_s * SECOND_US)
    assert (event.transition, event.state) == ("acknowledged", "acknowledged")
    assert told(field.run(HOUR_S)) == ["cleared daemon-1"]


RECURS_S = TREE.diagnoses[TREE.place["COMM_LOSS"]].recurs_us // SECOND_US
FEW = {"W0": 600, "W1": 600, "W2": 600}


def failing(silent: Callable[[str], bool], *, live: bool = False) -> tuple[Field, list[AlarmEvent]]:
    """A field whose link, or that of one well, has failed for the third time, and is back for two hours."""
    field = Field(FEW, live=live, tick_s=60)
    field.run(6 * HOUR_S)
    events = [event for _ in range(3) for wells in (silent, lambda _: False) for event in field.run(2 * HOUR_S, wells)]
    return field, events


def test_a_link_to_the_field_that_keeps_failing_is_one_alarm_that_ends() -> None:
    field, events = failing(lambda _: True)
    assert told(events) == ["raised daemon-1", "cleared daemon-1"] * 2 + ["raised daemon-1"]
    assert (events[-1].recurring, events[-1].count) == (True, 3)
    field.restart()
    (again,) = field.run(9 * HOUR_S, lambda _: True)
    assert (again.transition, again.alarm_id, again.message) == ("raised", events[-1].alarm_id, FIELD_MESSAGE)
    assert (again.path, again.actions) == (("Is the field heard? no",), FIELD_ACTIONS)
    field.restart()
    assert not field.run(2 * HOUR_S, lambda _: True)
    back_us = START_US + field.now_s * SECOND_US
    assert not field.run(RECURS_S - HOUR_S)
    (cleared,) = field.run(2 * HOUR_S)
    assert (cleared.transition, cleared.reason, cleared.count) == ("cleared", "returned", 4)
    assert cleared.alarm_id == events[-1].alarm_id
    assert 0 <= cleared.timestamp_us - back_us - RECURS_S * SECOND_US < 1200 * SECOND_US
    assert not any(field.diagnostician.standing().values())
    assert told(field.run(2 * HOUR_S, lambda _: True)) == ["raised daemon-1"]


@pytest.mark.parametrize("step_s", [60, HOUR_S, RECURS_S])
def test_when_that_alarm_ends_does_not_depend_on_how_often_it_is_looked_for(step_s: int) -> None:
    field, before = failing(lambda _: True, live=True)
    events: list[AlarmEvent] = []
    now_s = field.now_s
    while now_s < field.now_s + RECURS_S:
        now_s += step_s
        for well in FEW:
            at_us = START_US + now_s * SECOND_US
            field.diagnostician.observe(Reading(well, at_us, vsd_frequency=60.0, received_us=at_us))
        events += field.diagnostician.pass_time(START_US + now_s * SECOND_US)
    (cleared,) = (event for event in events if event.well_id == "daemon-1")
    assert cleared.timestamp_us == before[-1].timestamp_us + RECURS_S * SECOND_US


@pytest.mark.parametrize("silent", [{"W1"}.__contains__, lambda _: True])
def test_of_a_link_that_keeps_failing_its_state_says_whether_it_is_down_now(silent: Callable[[str], bool]) -> None:
    field, events = failing(silent, live=True)
    assert [(e.transition, e.present, e.count) for e in events[-2:]] == [("raised", True, 3), ("", False, 3)]
    down, again = field.run(9 * HOUR_S, silent)
    (up,) = field.run(2 * HOUR_S)
    all_three = (down, again, up)
    assert [e.transition for e in all_three] == ["", "raised", ""]
    assert {(e.alarm_id, e.count) for e in all_three} == {(events[-2].alarm_id, 4)}
    assert [e.state_payload()["present"] for e in all_three] == [True, True, False]
    (cleared,) = field.run(RECURS_S)
    assert (cleared.transition, cleared.present) == ("cleared", False)


def test_a_tree_and_wells_read_anew_leave_it_as_it_is(field: Field) -> None:
    (raised,) = field.run(HOUR_S, lambda _: True)
    assert not field.diagnostician.adopt(TREE, lambda _: WellSettings())
    (cleared,) = field.run(HOUR_S)
    assert cleared.alarm_id == raised.alarm_id


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50)), max_size=12))
def test_only_overdue_wells_fall_silent_and_all_do_where_all_are(pairs: list[tuple[int, int]]) -> None:
    silences = [Silence(f"W{n}", silent, allowed) for n, (silent, allowed) in enumerate(pairs)]
    overdue = {each.well_id for each in silences if each.is_overdue}
    together = fell_silent_together(silences)
    assert together <= overdue
    if len(overdue) == len(silences) > 1 and len({allowed for _, allowed in pairs}) == 1:
        assert together == overdue
