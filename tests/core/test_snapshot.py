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

from esp_ingestd.core.alarm import outline, outlined
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.tree import SEVERITIES, Tree

if TYPE_CHECKING:
    from esp_ingestd.core.alarm import AlarmEvent
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


def without(*names: str) -> Tree:
    """The shipped tree, less these diagnoses."""
    source = tomllib.loads(TEXT)
    source["diagnosis"] = [each for each in source["diagnosis"] if each["name"] not in names]
    return Tree.parse(source)


def restart(run: Run, tree: Tree, forget: str = "") -> tuple[Run, list[AlarmEvent]]:
    """What goes on under another tree, and what is told of it; without what an older version did not remember."""
    after = Run(tree=tree)
    after.at_s = run.at_s
    document = json.loads(run.diagnostician.snapshot("W"))
    for alarm in document["alarms"].values():
        alarm.pop(forget, None)
    return after, list(after.diagnostician.restore("W", json.dumps(document).encode()))


@pytest.mark.parametrize("hours", [0, 2])
def test_an_alarm_whose_diagnosis_has_gone_is_cleared_at_the_restart(hours: int) -> None:
    """As at a reload: else it would stand for ever, at the broker and in the table. A latched one too."""
    run = Run()
    run.then(3600)
    (raised,) = run.then(30, motor_current=300, vsd_frequency=60.0)
    run.then(3600 * hours)
    after, (cleared,) = restart(run, without("STALL"))
    assert told([cleared]) == ["cleared STALL critical reset"]
    same = ("alarm_id", "group", "category", "actions", "resolution_time", "message", "evidence", "raised_at_us")
    assert [getattr(cleared, name) for name in same] == [getattr(raised, name) for name in same]
    assert (cleared.state, cleared.tree_version) == ("cleared", without("STALL").version)
    assert cleared.seq > raised.seq
    assert cleared.comment == "not asked any more: decision tree or wells file have changed"
    assert cleared.path[1:] == (raised.path[-1].removesuffix("yes") + "asked no more",)
    assert set(after.diagnostician.standing().values()) == {0}
    assert restart(run, without("STALL"))[1] == [cleared], "killed before it was kept, it is told by the same id"
    assert restart(after, without("STALL"))[1] == []
    assert not after.then(3600, motor_current=300)


def test_an_alarm_whose_question_was_replaced_is_cleared_at_the_restart() -> None:
    run = Run()
    run.then(3600)
    run.then(90, motor_current=120)
    (overload,) = (each for each in tomllib.loads(TEXT)["diagnosis"] if each["name"] == "OVERLOAD")
    replaced = [{**each, "ask": f"{each['ask'][:-1]} now?", "when": ["load > 1.9"]} for each in overload["question"]]
    after, cleared = restart(run, changed("OVERLOAD", question=replaced))
    assert told(cleared) == ["cleared OVERLOAD high reset"]
    assert set(after.diagnostician.standing().values()) == {0}


def test_what_was_only_pending_of_a_diagnosis_that_has_gone_is_forgotten() -> None:
    run = Run()
    run.then(3600)
    assert not run.then(40, motor_current=120)
    after, cleared = restart(run, without("OVERLOAD"))
    assert not cleared
    assert "OVERLOAD" not in json.loads(after.diagnostician.snapshot("W"))["alarms"]


def test_what_an_older_version_remembered_goes_on_or_is_cleared_as_far_as_it_is_known() -> None:
    run = Run()
    run.then(3600)
    (raised,) = run.then(90, motor_current=120)
    (overload,) = (each for each in tomllib.loads(TEXT)["diagnosis"] if each["name"] == "OVERLOAD")
    for tree in (TREE, changed("OVERLOAD", question=overload["question"][1:])):
        after, cleared = restart(run, tree, forget="outline")
        assert (sum(after.diagnostician.standing().values()), cleared) == (1, [])
    _, (cleared_one,) = restart(run, without("OVERLOAD"), forget="outline")
    assert (cleared_one.alarm_id, cleared_one.severity, cleared_one.category) == (raised.alarm_id, "high", "UNKNOWN")


def test_questions_that_share_their_text_keep_their_own_answers_over_a_restart() -> None:
    source = next(each for each in tomllib.loads(TEXT)["diagnosis"] if each["name"] == "OVERLOAD")
    tree = changed("OVERLOAD", question=[{**each, "ask": "Too much?"} for each in source["question"]])
    run = Run(tree=tree)
    run.then(3600)
    run.then(90, motor_current=120)
    after, cleared = restart(run, tree)
    assert not cleared
    assert known(after.diagnostician, "W") == known(run.diagnostician, "W")


def test_of_a_diagnosis_that_has_gone_nothing_is_asked() -> None:
    (diagnosis,) = (each for each in TREE.diagnoses if each.name == "STALL")
    left = outlined("STALL", json.loads(json.dumps(outline(diagnosis))))
    assert [(q.ask, q.when) for q in left.questions] == [(q.ask, q.when) for q in diagnosis.questions]
    assert not any(ask([]) for q in left.questions for ask in (q.met, q.not_met, q.cleared))


@pytest.mark.parametrize(
    "snapshot", [b"", b"x", b"{}", b'{"form":99}', b'{"form":2,"well":[],"alarms":{},"raised":{}}']
)
def test_what_is_no_snapshot_is_refused_and_the_well_is_new(snapshot: bytes) -> None:
    diagnostician = Diagnostician(TREE, lambda _: SETTINGS)
    with pytest.raises(ValueError, match="W1"):
        diagnostician.restore("W1", snapshot)
    assert list(diagnostician.well_ids()) == []
    assert dict(diagnostician.standing()) == dict.fromkeys(SEVERITIES, 0)
