"""The flood guard: when a flood begins and ends, and what is held back of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from core.test_diagnosis import START_US, Run
from hypothesis import given
from hypothesis import strategies as st

from esp_ingestd.core.flood import WINDOW_US, FloodGuard
from esp_ingestd.core.reading import SECOND_US

if TYPE_CHECKING:
    from esp_ingestd.core.alarm import AlarmEvent

WINDOW_S = WINDOW_US // SECOND_US


@pytest.fixture(scope="module")
def sample() -> AlarmEvent:
    run = Run()
    run.then(3600)
    (event,) = run.then(90, motor_current=120)
    return event


class Desk:
    """An operator who looks after some wells."""

    def __init__(self, sample: AlarmEvent, *, wells: int = 50, starts: int = 10, ends: int = 5) -> None:
        self.guard = FloodGuard(starts, ends)
        self._sample = sample
        self._wells = wells

    def in_flood(self) -> bool:
        return self.guard.is_flood

    def tell(self, at_s: float, severity: str = "low", transition: str = "raised", well_id: str = "W") -> bool:
        """Whether an event is told by itself."""
        at_us = START_US + int(at_s * SECOND_US)
        event = dataclasses.replace(
            self._sample, well_id=well_id, timestamp_us=at_us, severity=severity, transition=transition
        )
        return not self.guard.holds(event, at_us, self._wells)


def test_the_eleventh_within_ten_minutes_begins_a_flood_and_fewer_than_five_end_it(sample: AlarmEvent) -> None:
    desk = Desk(sample)
    assert all(desk.tell(second) for second in range(10))
    assert not desk.in_flood()
    assert desk.guard.news() is None
    assert not desk.tell(10, well_id="V")
    assert desk.in_flood()
    assert not desk.tell(WINDOW_S + 4.5), "six within ten minutes, and this one"
    assert desk.tell(WINDOW_S + 8.5), "four with this one"
    assert not desk.in_flood()
    summary = desk.guard.news()
    assert summary is not None
    assert (summary["flood"], summary["held_back"], summary["wells"]) == (False, 2, 2)
    assert summary["by_diagnosis"] == "OVERLOAD 2"
    assert str(summary["since"]) < str(summary["until"])
    assert desk.guard.news() is None


@pytest.mark.parametrize(
    ("severity", "passes"), [("info", False), ("low", False), ("medium", True), ("critical", True)]
)
def test_what_is_severe_always_passes(sample: AlarmEvent, severity: str, *, passes: bool) -> None:
    desk = Desk(sample)
    for second in range(11):
        desk.tell(second)
    assert desk.tell(12, severity) is passes
    assert desk.tell(13, severity, "cleared") is passes


def test_what_a_person_commanded_passes(sample: AlarmEvent) -> None:
    desk = Desk(sample)
    for second in range(12):
        desk.tell(second)
    acknowledged = dataclasses.replace(sample, severity="low", transition="acknowledged", by="ann")
    assert not desk.guard.holds(acknowledged, 0, 50)


@pytest.mark.parametrize("transition", ["acknowledged", "shelved", "unshelved"])
def test_what_people_do_now_ends_no_flood_of_a_backlog(sample: AlarmEvent, transition: str) -> None:
    desk = Desk(sample)
    for second in range(12):
        desk.tell(second)
    desk.tell(3600, "high", transition)
    assert desk.in_flood()
    assert not desk.tell(12)


def test_clearings_are_no_annunciations(sample: AlarmEvent) -> None:
    desk = Desk(sample)
    assert all(desk.tell(second, transition="cleared") for second in range(100))


def test_slow_alarms_are_no_flood(sample: AlarmEvent) -> None:
    desk = Desk(sample)
    assert all(desk.tell(61 * number) for number in range(100))


@pytest.mark.parametrize(("wells", "most"), [(0, 10), (200, 10), (201, 20), (10_000, 500)])
def test_a_larger_field_has_more_operators(sample: AlarmEvent, wells: int, most: int) -> None:
    desk = Desk(sample, wells=wells)
    assert all(desk.tell(number / 10) for number in range(most))
    assert not desk.tell(most / 10)


def test_zero_is_no_guard(sample: AlarmEvent) -> None:
    desk = Desk(sample, starts=0)
    assert all(desk.tell(number / 10) for number in range(1000))


def test_a_flood_after_which_nothing_comes_ends_by_the_clock(sample: AlarmEvent) -> None:
    desk = Desk(sample)
    for second in range(11):
        desk.tell(second)
    desk.guard.pass_time(START_US + (WINDOW_S + 9) * SECOND_US)
    assert desk.in_flood()
    desk.guard.pass_time(START_US + (WINDOW_S + 11) * SECOND_US)
    assert not desk.in_flood()
    desk.guard.pass_time(START_US + 9 * WINDOW_US)
    assert desk.tell(3 * WINDOW_S)


@given(st.lists(st.tuples(st.floats(0, 3 * WINDOW_S), st.sampled_from(["low", "high"])), max_size=60))
def test_told_and_held_back_are_all_and_memory_is_the_window(
    sample: AlarmEvent, course: list[tuple[float, str]]
) -> None:
    desk = Desk(sample)
    held = 0
    for at_s, severity in course:
        before = desk.in_flood()
        told = desk.tell(at_s, severity)
        assert told or (severity == "low" and desk.in_flood())
        held = (0 if desk.in_flood() and not before else held) + (not told)
        summary = desk.guard.news()
        assert summary is None or summary["held_back"] == held
        times = desk.guard._told_us
        assert times == sorted(times)
        assert not times or times[-1] - times[0] < WINDOW_US
