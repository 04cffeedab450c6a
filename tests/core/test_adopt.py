"""Another tree, other settings of the wells, while alarms stand: what goes on, what ends, what takes effect when."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from core.test_diagnosis import SETTINGS, Run, reading, told
from core.test_tree import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from esp_ingestd.core.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from esp_ingestd.core.alarm import AlarmEvent
    from esp_ingestd.core.well import WellSettings

WHOLE = tomllib.loads(TEXT)
CHOSEN = ("STALL", "MOTOR_OVERTEMP", "OVERLOAD", "ELECTRICAL_FAULT", "SENSOR_FAULT")


def changed(change: Callable[[dict[str, Any]], object] = lambda _diagnoses: None) -> Tree:
    """Some diagnoses of the shipped tree, by name, after a change."""
    copy = json.loads(json.dumps(WHOLE))
    diagnoses = {each["name"]: each for each in copy["diagnosis"] if each["name"] in CHOSEN}
    change(diagnoses)
    return Tree.parse({**copy, "diagnosis": list(diagnoses.values())})


def limit(diagnosis: str, number: int, condition: str) -> Callable[[dict[str, Any]], None]:
    def change(diagnoses: dict[str, Any]) -> None:
        diagnoses[diagnosis]["question"][number]["when"] = [condition]

    return change


@pytest.fixture
def run() -> Run:
    made = Run(tree=changed())
    made.then(3600)
    return made


def adopt(run: Run, tree: Tree | None = None, well: WellSettings = SETTINGS) -> list[AlarmEvent]:
    return list(run.diagnostician.adopt(tree or changed(), lambda _: well))


def standing(run: Run) -> int:
    return sum(run.diagnostician.standing().values())


def test_a_standing_alarm_goes_on_under_its_id(run: Run) -> None:
    (raised,) = run.then(90, motor_current=120)
    tree = changed(limit("OVERLOAD", 1, "load > 1.18"))
    assert not adopt(run, tree)
    assert not run.then(600, motor_current=120)
    assert standing(run) == 1
    (cleared,) = run.then(900, motor_current=70)
    assert (cleared.alarm_id, cleared.tree_version) == (raised.alarm_id, tree.version)


def test_a_limit_takes_effect_with_the_next_reading(run: Run) -> None:
    assert not run.then(600, motor_current=110)
    adopt(run, changed(limit("OVERLOAD", 1, "load > 1.05")))
    assert told(run.then(90, motor_current=110)) == ["raised OVERLOAD high"]


def test_a_nameplate_takes_effect_with_the_next_reading(run: Run) -> None:
    run.then(90, motor_current=120)
    adopt(run, well=dataclasses.replace(SETTINGS, nameplate_current_a=130.0))
    assert told(run.then(600, motor_current=120)) == ["cleared OVERLOAD high returned"]
    adopt(run, well=dataclasses.replace(SETTINGS, nameplate_current_a=90.0))
    assert told(run.then(90, motor_current=120)) == ["raised OVERLOAD critical"]


def test_an_alarm_whose_diagnosis_has_gone_ends_as_reset(run: Run) -> None:
    (raised,) = run.then(90, motor_current=120)
    (cleared,) = adopt(run, changed(lambda diagnoses: diagnoses.pop("OVERLOAD")))
    assert told([cleared]) == ["cleared OVERLOAD high reset"]
    assert (cleared.alarm_id, cleared.state) == (raised.alarm_id, "cleared")
    assert standing(run) == 0
    assert not run.then(3600, motor_current=120)


def test_a_latched_one_too(run: Run) -> None:
    run.then(30, motor_current=300, vsd_frequency=60.0)
    run.then(3600)
    assert standing(run) == 1
    assert told(adopt(run, changed(lambda diagnoses: diagnoses.pop("STALL")))) == ["cleared STALL critical reset"]
    assert standing(run) == 0


def test_a_latched_one_that_is_asked_still_stays(run: Run) -> None:
    run.then(30, motor_current=300)
    run.then(3600)
    assert not adopt(run, changed(limit("STALL", 0, "load >= 2.6")))
    assert standing(run) == 1


@pytest.mark.parametrize(
    "well",
    [
        dataclasses.replace(SETTINGS, enabled_rules=("STALL", "ELECTRICAL_FAULT")),
        dataclasses.replace(SETTINGS, nameplate_current_a=None),
    ],
)
def test_an_alarm_whose_rule_is_put_out_of_service_ends_as_reset(run: Run, well: WellSettings) -> None:
    run.then(90, motor_current=120)
    assert told(adopt(run, well=well)) == ["cleared OVERLOAD high reset"]


def test_an_alarm_whose_question_has_gone_ends_as_reset_and_one_of_another_question_stays(run: Run) -> None:
    run.then(90, motor_current=120)
    (unbalanced,) = run.then(90, motor_current=120, current_unbalance=7.0)

    def without(diagnoses: dict[str, Any]) -> None:
        del diagnoses["OVERLOAD"]["question"][1]
        del diagnoses["ELECTRICAL_FAULT"]["question"][0]

    assert told(adopt(run, changed(without))) == ["cleared OVERLOAD high reset"]
    assert standing(run) == 1
    assert not run.then(900, motor_current=120, current_unbalance=7.0)
    (cleared,) = run.then(1200, motor_current=120)
    assert cleared.alarm_id == unbalanced.alarm_id


def test_a_question_that_is_worded_anew_is_the_same(run: Run) -> None:
    run.then(90, motor_current=120)

    def word(diagnoses: dict[str, Any]) -> None:
        diagnoses["OVERLOAD"]["question"][1]["ask"] = "Too much current?"

    assert not adopt(run, changed(word))
    assert standing(run) == 1


def test_an_on_delay_goes_on(run: Run) -> None:
    assert not run.then(40, motor_current=120)
    adopt(run, changed(limit("STALL", 0, "load >= 2.6")))
    (raised,) = run.then(40, motor_current=120)
    assert raised.diagnosis == "OVERLOAD"
    assert not run.then(40, current_unbalance=7.0)
    adopt(run, changed(lambda diagnoses: diagnoses.pop("ELECTRICAL_FAULT")))
    assert not run.then(40, current_unbalance=7.0), "what was pending of a diagnosis that has gone is forgotten"


def test_alarms_and_their_past_follow_their_names_to_another_place(run: Run) -> None:
    for _ in range(2):
        run.then(90, motor_current=120)
        run.then(900)

    def reorder(diagnoses: dict[str, Any]) -> None:
        diagnoses["STALL"] = diagnoses.pop("STALL")
        diagnoses["MOTOR_OVERTEMP"] = diagnoses.pop("MOTOR_OVERTEMP")
        del diagnoses["SENSOR_FAULT"]

    adopt(run, changed(reorder))
    (third,) = run.then(90, motor_current=120)
    assert (third.diagnosis, third.count, third.recurring) == ("OVERLOAD", 3, True)


def test_only_other_units_make_a_well_learn_its_normal_anew() -> None:
    run = Run(step_s=60)
    run.then(3 * 86_400)
    well = run.diagnostician._patients["W"].well
    known = str(well.remember()["baselines"])
    assert known != "{}"
    adopt(run, Tree.parse(TEXT), dataclasses.replace(SETTINGS, nameplate_current_a=90.0))
    assert str(well.remember()["baselines"]) == known
    adopt(run, Tree.parse(TEXT), dataclasses.replace(SETTINGS, units={"pip": "kPa"}))
    assert not well.remember()["baselines"]


COURSES = st.lists(
    st.tuples(
        st.sampled_from([{}, {"motor_current": 120.0}, {"motor_current": 300.0}, {"current_unbalance": 12.0}]),
        st.integers(1, 20),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=30)
@given(COURSES, st.integers(0, 100))
def test_adopting_what_is_in_force_already_changes_nothing(course: list[tuple[dict[str, float], int]], at: int) -> None:
    runs = Run(tree=changed()), Run(tree=changed())
    steps = [channels for channels, count in course for _ in range(count)]
    for number, channels in enumerate(steps):
        one, other = (
            run.diagnostician.observe(reading(number * 10.0, **channels))  # type: ignore[arg-type]
            for run in runs
        )
        assert one == other
        if number == at:
            assert not adopt(runs[1])
    assert runs[0].diagnostician.snapshot("W") == runs[1].diagnostician.snapshot("W")
