"""I10 in the core: a well that is taken back from its snapshot goes on as if nothing had happened."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from core.test_diagnosis import HEALTHY, SETTINGS, STANDING, TREE, Run, reading, told
from core.test_tree import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.tree import SEVERITIES, Tree

if TYPE_CHECKING:
    from esp_ingestd.core.reading import Reading

CONDITIONS = (
    HEALTHY,
    STANDING,
    {"motor_current": 120.0},
    {"motor_current": 130.0},
    {"motor_current": 300.0},
    {"motor_temp": 149.0},
    {"current_unbalance": 12.0},
    {"insulation_resistance": None, "vsd_frequency": None},
)
episodes = st.lists(st.tuples(st.integers(0, len(CONDITIONS) - 1), st.integers(1, 30)), min_size=1, max_size=12)


def known(diagnostician: Diagnostician, well_id: str) -> str:
    return json.dumps(json.loads(diagnostician.snapshot(well_id)), sort_keys=True)


@settings(deadline=None)
@given(episodes, st.integers(0, 200))
def test_i10_interrupted_anywhere_equals_not_interrupted(course: list[tuple[int, int]], interrupted_at: int) -> None:
    readings: list[Reading] = []
    for which, samples in [(0, 10), *course]:
        readings += [reading(20.0 * (len(readings) + k), **CONDITIONS[which]) for k in range(samples)]
    whole = Diagnostician(TREE, lambda _: SETTINGS)
    expected = [event for each in readings for event in whole.observe(each)]

    first = Diagnostician(TREE, lambda _: SETTINGS)
    before = [event for each in readings[:interrupted_at] for event in first.observe(each)]
    second = Diagnostician(TREE, lambda _: SETTINGS)
    for well_id in first.well_ids():
        second.restore(well_id, first.snapshot(well_id))
    assert dict(second.standing()) == dict(first.standing())
    after = [event for each in readings[interrupted_at:] for event in second.observe(each)]
    assert before + after == expected
    assert [known(second, well_id) for well_id in second.well_ids()] == [
        known(whole, well_id) for well_id in whole.well_ids()
    ]


def test_a_well_that_stopped_or_started_is_remembered_with_that_reading() -> None:
    """Else a kill within minutes of a planned stop makes it a trip: nobody saw the drive ramp down."""
    ramp = [{**HEALTHY, "vsd_frequency": hertz} for hertz in (50.0, 40.0, 30.0, 20.0, 10.0)]
    course: list[dict[str, Any]] = [HEALTHY, HEALTHY, *ramp, STANDING, STANDING, STANDING, HEALTHY, HEALTHY]
    diagnostician = Diagnostician(TREE, lambda _: SETTINGS)
    follow = []
    for number, condition in enumerate(course):
        each = reading(20.0 * number, **condition)
        diagnostician.observe(each)
        if due := diagnostician.unsettled([each.well_id, "unknown"]):
            follow.append(number)
        if due or number == 1:
            diagnostician.snapshot(each.well_id)
    assert follow == [7, 10]
    again = Diagnostician(TREE, lambda _: SETTINGS)
    again.restore(each.well_id, diagnostician.snapshot(each.well_id))
    assert again.unsettled([each.well_id]) == set()


def changed(name: str, **keys: object) -> Tree:
    """The shipped tree with one diagnosis otherwise."""
    source = tomllib.loads(TEXT)
    (diagnosis,) = (each for each in source["diagnosis"] if each["name"] == name)
    diagnosis |= keys
    return Tree.parse(source)


def after_restart(run: Run, tree: Tree) -> Run:
    """What goes on, under another tree."""
    after = Run(tree=tree)
    after.at_s = run.at_s
    after.diagnostician.restore("W", run.diagnostician.snapshot("W"))
    return after


@pytest.mark.parametrize(("channels", "reason"), [(HEALTHY, "returned"), (STANDING, "well_off")])
def test_an_alarm_that_latched_ends_where_its_diagnosis_latches_no_more(
    channels: dict[str, float], reason: str
) -> None:
    run = Run()
    run.then(3600)
    run.then(80, motor_temp=146)
    assert "MOTOR_OVERTEMP" not in {event.diagnosis for event in run.then(7200, **channels)}
    (cleared,) = after_restart(run, changed("MOTOR_OVERTEMP", latched=False)).then(60, **channels)
    assert told([cleared]) == [f"cleared MOTOR_OVERTEMP critical {reason}"]
    assert cleared.alarm_id == run.events[0].alarm_id


def test_an_alarm_outlives_a_change_in_the_number_of_its_questions() -> None:
    run = Run()
    run.then(3600)
    run.then(90, motor_current=120)
    (overload,) = (each for each in tomllib.loads(TEXT)["diagnosis"] if each["name"] == "OVERLOAD")
    after = after_restart(run, changed("OVERLOAD", question=overload["question"][1:]))
    assert dict(after.diagnostician.standing()) == dict(run.diagnostician.standing())
    assert not after.then(600, motor_current=120)
    assert not after.then(300)
    assert told(after.then(20)) == ["cleared OVERLOAD high returned"]


@pytest.mark.parametrize(
    "snapshot", [b"", b"x", b"{}", b'{"form":99}', b'{"form":2,"well":[],"alarms":{},"raised":{}}']
)
def test_what_is_no_snapshot_is_refused_and_the_well_is_new(snapshot: bytes) -> None:
    diagnostician = Diagnostician(TREE, lambda _: SETTINGS)
    with pytest.raises(ValueError, match="W1"):
        diagnostician.restore("W1", snapshot)
    assert list(diagnostician.well_ids()) == []
    assert dict(diagnostician.standing()) == dict.fromkeys(SEVERITIES, 0)
