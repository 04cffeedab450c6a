"""A cause entered into a physics model gets its own name, first and in time; a healthy well gets none.

Golden series: lives of simulated wells, drawn from fixed seeds (bench/lives.py), and what is told of them.
docs/diagnosis.md has the tables of many more wells.
"""

import pytest
from confusion import TREE, Outcome, outcome
from core.signals import play, raised
from lives import CAUSES, draw_life

from esp_ingestd.core.tree import Tree
from esp_ingestd.simulator import Fault

SEED = "golden"
DAYS = {"wear", "scale"}
"""Causes that take so long that one model must do here."""
OTHERS = {"bearing", "trip", "locked rotor", "wrong unit", "gauge frozen", "gauge dead", "clock ahead"}
"""Protection and data have tests of their own."""
NAMED = [
    (model, name)
    for name, cause in CAUSES.items()
    for model, enters in (("bench", cause.bench), ("field", cause.kind))
    if cause.right and enters is not None and name not in OTHERS and (model == "field" or name not in DAYS)
]

FIRST_EVENT = {
    "BROKEN_SHAFT": ("production", "critical", {"current_ratio", "current_step", "current_cv_after"}),
    "DEADHEAD": ("production", "critical", {"current_ratio", "pip_ratio"}),
    "PUMP_OFF": ("production", "high", {"pip_ratio", "current_ratio"}),
    "REVERSE_ROTATION": ("production", "high", {"healthy_run", "current_ratio", "current_cv"}),
    "GAS_LOCK": ("production", "high", {"current_ratio", "pip_ratio", "current_cv_usual"}),
    "NO_FLOW": ("production", "high", {"flow_ratio"}),
    "SOLIDS": ("degradation", "high", {"current_mean", "vibration_mean", "current_cv"}),
    "GAS_INTERFERENCE": ("degradation", "medium", {"current_cv_usual"}),
    "TUBING_LEAK": ("degradation", "medium", {"flow_mean", "current_hour", "pip_mean"}),
    "FLOWLINE_RESTRICTION": ("degradation", "medium", {"current_hour", "pip_hour"}),
    "INTAKE_RESTRICTION": ("degradation", "medium", {"pip_hour", "current_hour", "healthy_run"}),
    "SCALE": ("degradation", "medium", {"current_reference"}),
    "PUMP_WEAR": ("degradation", "medium", {"current_reference", "current_cv"}),
    "LOW_FLOW": ("degradation", "low", {"flow_mean"}),
    "UNCLASSIFIED": ("degradation", "low", set[str]()),
    "OVERLOAD": ("protection", "high or critical", {"load"}),
    "MOTOR_OVERTEMP": ("protection", "high", set[str]()),
    "ELECTRICAL_FAULT": ("protection", "high or critical", set[str]()),
}
"""Of the first event of each diagnosis: group, severity, and what it must have looked at. What grows quickly may have
become critical between two readings."""


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree.parse(TREE.read_text())


def lived(tree: Tree, model: str, cause: str, number: int) -> Outcome:
    return outcome(tree, draw_life(model, cause, number, SEED, CAUSES))


RARE = [("field", "tubing parted", 5)]
"""At readings every 20 min a question that waits for ten of them comes after what the fault does to the motor."""


@pytest.mark.parametrize(("model", "cause", "number"), [*((*each, 4) for each in NAMED), *RARE])
def test_a_cause_gets_its_name_first_and_in_time(tree: Tree, model: str, cause: str, number: int) -> None:
    life = lived(tree, model, cause, number)
    assert (life.first in CAUSES[cause].right, life.in_time) == (True, True), (life.told, life.right_h, life.allowed_h)
    event = life.event
    assert event is not None
    group, severity, seen = FIRST_EVENT[life.first]
    assert (event.transition, event.state, event.role) == ("raised", "active", "primary")
    assert (event.group, event.severity in severity) == (group, True)
    assert seen <= event.evidence.keys()
    assert event.timestamp_us == event.raised_at_us
    diagnosis = next(each for each in tree.diagnoses if each.name == life.first)
    assert (event.category, event.actions, event.resolution_time) == (
        diagnosis.category,
        diagnosis.actions,
        diagnosis.resolution_time,
    )
    assert any(question.ask in event.path[-1] for question in diagnosis.questions)
    assert event.message
    assert "{" not in event.message


@pytest.mark.parametrize(
    ("model", "cause"), [("field", "healthy"), ("field", "planned stop"), ("bench", "planned stop")]
)
def test_a_healthy_well_stays_silent(tree: Tree, model: str, cause: str) -> None:
    life = lived(tree, model, cause, 5)
    assert life.early + life.told == []


@pytest.mark.parametrize(
    ("kind", "right", "interval_s", "hours", "without"),
    [
        ("tubing_leak", "TUBING_LEAK", 300.0, 58, ()),
        ("tubing_leak", "TUBING_LEAK", 1200.0, 1, ("flow_rate",)),
        ("intake_restriction", "INTAKE_RESTRICTION", 1200.0, 45, ()),
    ],
)
def test_what_takes_days_to_grow_is_named_too(
    kind: str, right: str, interval_s: float, hours: float, without: tuple[str, ...]
) -> None:
    days_s, ramp_s = 4 * 86_400.0, hours * 3600.0
    fault = Fault(kind, ramp_s=ramp_s)
    for well in play(fault, interval_s, settled_s=days_s, after_s=ramp_s + 43_200, without=without):
        assert raised(well)[:1] == [right]
        assert well[0].after_s <= ramp_s + 6 * 3600


NO_PRESSURE_ABOVE = ("discharge_pressure", "wellhead_pressure")


@pytest.mark.parametrize("interval_s", [300.0, 1200.0])
def test_a_closed_valve_that_no_pressure_shows_is_known_by_the_load_that_it_leaves(interval_s: float) -> None:
    for well in play(
        "deadhead", interval_s, wells=4, settled_s=3 * 86_400.0, after_s=6 * 3600.0, without=NO_PRESSURE_ABOVE
    ):
        assert raised(well)[0] in {"DEADHEAD", "NO_FLOW"}
        assert not {"GAS_LOCK", "BROKEN_SHAFT", "PUMP_OFF"} & {*raised(well)}


@pytest.mark.parametrize("cause", ["gas_lock", "broken_shaft", "pump_off"])
def test_what_takes_the_load_is_no_closed_valve_where_no_pressure_shows_it(cause: str) -> None:
    for well in play(cause, 300.0, wells=4, settled_s=2 * 86_400.0, after_s=6 * 3600.0, without=NO_PRESSURE_ABOVE):
        assert "DEADHEAD" not in raised(well)
