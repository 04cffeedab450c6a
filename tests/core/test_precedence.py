"""Which of several alarms is told, how sure it is, and what it says; on a small tree of the test's own."""

from collections.abc import Callable
from typing import Any

import pytest
from core.test_diagnosis import SETTINGS, START_US, TREE, Run, reading, told

from esp_ingestd.core.reading import SECOND_US
from esp_ingestd.core.tree import Tree

HOT = {"motor_temp": 130.0}
SLOW = {"flow_rate": 400.0}


def diagnosis(name: str, group: str, when: str, severity: str, **keys: object) -> dict[str, Any]:
    question = {"ask": f"{name}?", "when": [when], "severity": severity, "off_delay_s": 30}
    texts = {
        "category": "LOW_FLOW",
        "message": f"{name} at {{motor_temp:.0f}} degC, {{motor_current:.1f}} A",
        "actions": ["Look."],
        "resolution_time": "1 h",
    }
    return {"name": name, "group": group, **texts, "question": [question | keys]}


def run_on(deadhead: str = "high", pump_off: str = "high", *, live: bool = False, **keys: object) -> Run:
    """A hot motor is DEADHEAD, a low flow PUMP_OFF and LOW_FLOW, a low current UNCLASSIFIED."""
    groups: list[dict[str, Any]] = [{"name": name, "ask": f"{name}?"} for name in ("protection", "data")]
    production = {"name": "production", "ask": "production?", "exclusive": True}
    degradation = {"name": "degradation", "ask": "degradation?", "yields_to": ["production"]}
    diagnoses = [
        diagnosis("DEADHEAD", "production", "motor_temp > 120", deadhead, **keys),
        diagnosis("PUMP_OFF", "production", "flow_rate < 500", pump_off),
        diagnosis("LOW_FLOW", "degradation", "flow_rate < 1000", "low"),
        diagnosis("UNCLASSIFIED", "data", "motor_current < 60", "low"),
    ]
    run = Run(tree=Tree.parse({"group": [*groups, production, degradation], "diagnosis": diagnoses}), live=live)
    assert not run.then(3600)
    return run


@pytest.mark.parametrize("severity", ["high", "medium"])
def test_what_an_earlier_one_of_its_group_explains_is_told_when_it_outlives_it(severity: str) -> None:
    run = run_on(pump_off=severity)
    assert told(run.then(60, **HOT)) == ["raised DEADHEAD high"]
    assert not run.then(600, **HOT, **SLOW)
    assert told(run.then(60, **SLOW)) == ["cleared DEADHEAD high returned", f"raised PUMP_OFF {severity}"]


def test_one_that_is_long_gone_explains_nothing_while_its_off_delay_runs() -> None:
    run = run_on(off_delay_s=6 * 3600)
    assert told(run.then(60, **HOT)) == ["raised DEADHEAD high"]
    assert not run.then(600, **HOT, **SLOW)
    assert not run.then(1800, **SLOW)
    assert told(run.then(60, **SLOW)) == ["raised PUMP_OFF high"]
    assert run.events[-1].role == "primary"
    assert told(run.then(60, **HOT, **SLOW)) == []


def test_names_that_take_turns_are_told_three_times_each_and_one_is_primary() -> None:
    run = run_on(live=True)
    found = [event for _ in range(20) for event in run.then(300, **HOT) + run.then(300, **SLOW)]
    raised = [e.diagnosis for e in found if e.transition == "raised"]
    assert (raised.count("DEADHEAD"), raised.count("PUMP_OFF")) == (3, 3)
    assert not [e for e in found[-10:] if e.transition]
    last = {e.diagnosis: (e.role, e.present, e.recurring) for e in found}
    assert last == {"DEADHEAD": ("secondary", False, True), "PUMP_OFF": ("primary", True, True)}
    last = {e.diagnosis: (e.role, e.present, e.recurring) for e in run.then(60, **HOT)}
    assert last == {"DEADHEAD": ("primary", True, True), "PUMP_OFF": ("secondary", False, True)}


def keeps_coming_back() -> Run:
    run = run_on()
    found = [event for _ in range(3) for event in run.then(60, **SLOW) + run.then(600)]
    assert told(found) == ["raised PUMP_OFF high", "cleared PUMP_OFF high returned"] * 2 + ["raised PUMP_OFF high"]
    return run


def test_one_that_keeps_coming_back_stands_while_another_name_of_it_does() -> None:
    run = keeps_coming_back()
    assert not run.then(20 * 3600)
    assert told(run.then(60, **HOT) + run.then(600)) == ["raised DEADHEAD high"], "the fourth time for both"
    assert not told(run.then(20 * 3600))
    assert told(run.then(5 * 3600)) == ["cleared PUMP_OFF high returned", "cleared DEADHEAD high returned"]


def test_one_that_keeps_coming_back_is_told_once_more_each_time_that_it_stays_for_hours() -> None:
    run = keeps_coming_back()
    before = run.events[-1]
    for _ in range(2):
        began_us = START_US + int(run.at_s * SECOND_US)
        (again,) = run.then(7 * 3600, **SLOW)
        assert (again.transition, again.alarm_id) == ("raised", before.alarm_id)
        assert 6 * 3600 <= (again.timestamp_us - began_us) / SECOND_US < 6.1 * 3600
        run.then(600)
    assert not run.then(5 * 3600, **SLOW) + run.then(600) + run.then(5 * 3600, **SLOW), "each time counts by itself"


def test_what_was_explained_and_is_gone_is_never_told() -> None:
    run = run_on(off_delay_s=10)
    assert told(run.then(60, **HOT)) == ["raised DEADHEAD high"]
    run.then(600, **HOT, **SLOW)
    assert told(run.then(20)) == ["cleared DEADHEAD high returned"]  # while PUMP_OFF's own off-delay runs
    assert told(run.then(5, **SLOW)) == ["raised PUMP_OFF high"]  # it stood before, and is there again
    run.then(60)
    assert not run.then(600)


def test_a_mild_one_never_hides_a_severe_one() -> None:
    run = run_on(deadhead="medium")
    run.then(60, **HOT)
    assert told(run.then(60, **HOT, **SLOW)) == ["raised PUMP_OFF high"]
    assert run.events[-1].role == "secondary"
    assert (run.diagnostician.standing()["medium"], run.diagnostician.standing()["high"]) == (1, 1)


def test_a_mild_one_that_precedes_ends_no_severe_one() -> None:
    run = run_on(deadhead="medium")
    run.then(60, **SLOW)
    assert told(run.then(60, **HOT, **SLOW)) == ["raised DEADHEAD medium"]


def test_one_that_precedes_supersedes_and_what_outlives_it_is_a_new_alarm() -> None:
    run = run_on()
    assert told(run.then(60, **SLOW)) == ["raised PUMP_OFF high"]
    assert told(run.then(60, **HOT, **SLOW)) == ["raised DEADHEAD high", "cleared PUMP_OFF high superseded"]
    assert dict(run.diagnostician.standing()) == {"info": 0, "low": 0, "medium": 0, "high": 1, "critical": 0}
    assert told(run.then(60, **SLOW)) == ["cleared DEADHEAD high returned", "raised PUMP_OFF high"]
    first, *_, second = run.events
    assert first.alarm_id != second.alarm_id
    assert second.count == 2


def test_a_group_yields_to_another_and_to_no_third() -> None:
    run = run_on()
    assert told(run.then(60, flow_rate=900)) == ["raised LOW_FLOW low"]
    assert told(run.then(60, **SLOW)) == ["raised PUMP_OFF high", "cleared LOW_FLOW low superseded"]
    assert told(run.then(60, motor_current=50, **SLOW)) == ["raised UNCLASSIFIED low"]
    run.then(6.1 * 3600)  # what it left behind would be told later
    assert told(run.then(60, motor_current=50)) == ["raised UNCLASSIFIED low"]
    assert told(run.then(60, motor_current=50, flow_rate=900)) == ["raised LOW_FLOW low"]


def run_waiting(on_delay_s: float) -> Run:
    """A low flow is LOW_FLOW, which for 5 min leaves the word to DEADHEAD, a hot motor for `on_delay_s`."""
    groups = [{"name": name, "ask": f"{name}?"} for name in ("protection", "production", "data")]
    degradation = {"name": "degradation", "ask": "degradation?", "yields_to": ["production"]}
    diagnoses = [
        diagnosis("DEADHEAD", "production", "motor_temp > 120", "high", on_delay_s=on_delay_s),
        diagnosis("LOW_FLOW", "degradation", "flow_rate < 1000", "low") | {"waits_s": 300},
    ]
    run = Run(tree=Tree.parse({"group": [*groups, degradation], "diagnosis": diagnoses}))
    assert not run.then(3600)
    return run


def test_one_that_says_little_waits_for_one_that_is_pending() -> None:
    run = run_waiting(200)
    assert not run.then(180, **HOT, **SLOW)
    assert told(run.then(600, **HOT, **SLOW)) == ["raised DEADHEAD high"]


def test_it_waits_no_longer_than_that_one_is_met() -> None:
    run = run_waiting(200)
    assert not run.then(180, **HOT, **SLOW)
    assert told(run.then(60, **SLOW)) == ["raised LOW_FLOW low"]


def test_it_does_not_wait_for_one_that_would_come_too_late() -> None:
    run = run_waiting(1000)
    assert told(run.then(60, **HOT, **SLOW)) == ["raised LOW_FLOW low"]


def test_a_tree_that_does_not_ask_for_silence_tells_of_none() -> None:
    run = run_on()
    at_us = reading(run.at_s).timestamp_us
    run.diagnostician.pass_time(at_us)
    run.diagnostician.observe(reading(run.at_s + 7190, "OTHER"))
    assert not run.diagnostician.pass_time(at_us + 7200 * SECOND_US)


@pytest.mark.parametrize(
    ("channels", "confidence", "message"),
    [
        ({"motor_current": 80.0, "insulation_resistance": 500.0}, 0.9, "DEADHEAD at 130 degC, 80.0 A"),
        ({"motor_current": 70.0, "insulation_resistance": 500.0}, 0.765, "DEADHEAD at 130 degC, 70.0 A"),
        ({"motor_current": None, "insulation_resistance": 500.0}, 0.837, "DEADHEAD at 130 degC, ? A"),
        ({"motor_current": 70.0, "insulation_resistance": None}, 0.711, "DEADHEAD at 130 degC, 70.0 A"),
    ],
)
def test_confirmers_that_fail_or_are_not_known_make_it_less_sure(
    channels: dict[str, float | None], confidence: float, message: str
) -> None:
    run = run_on(confirm=["motor_current > 75", "insulation_resistance > 100"])
    (event,) = run.then(60, **HOT, **channels)
    assert (event.confidence, event.message) == (confidence, message)
    assert event.evidence == {"motor_temp": 130.0} | {name: x for name, x in channels.items() if x is not None}


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({}, "130 degC, 70 A, 2000 bbl/d."),
        ({"motor_current": None}, "130 degC, 2000 bbl/d."),
    ],
)
def test_what_is_not_known_is_left_out_of_a_message(channels: dict[str, float | None], message: str) -> None:
    run = run_on(message="{motor_temp:.0f} degC[, {motor_current:.0f} A][, {flow_rate:.0f} bbl/d].")
    (event,) = run.then(60, **HOT, **channels)
    assert event.message == message


def test_an_answer_that_stands_longer_is_surer() -> None:
    found = []
    for delay_s in (0, 60, 300):
        run = run_on(on_delay_s=delay_s)
        (event,) = run.then(600, **HOT)
        found.append(event.confidence)
    assert found == [0.9, 0.855, 0.855]  # 1 - exp(-3) of it at the end of an on-delay


def test_an_answer_without_a_channel_says_so_and_is_less_sure() -> None:
    when = "motor_temp > 120 and (unknown(head_ratio) or head_ratio < 0.5)"
    source = [diagnosis("NO_FLOW", "production", when, "high")]
    groups = [{"name": name, "ask": f"{name}?"} for name in ("protection", "production", "degradation", "data")]
    run = Run(tree=Tree.parse({"group": groups, "diagnosis": source}))
    run.then(3600)
    (event,) = run.then(300, **HOT)
    assert event.path[-1] == "NO_FLOW? yes, without head"
    assert event.confidence == 0.75


def eased_tree(last: str = "", group: str = "production", vague: str = "LOW_FLOW", **keys: object) -> Tree:
    """A hot motor is DEADHEAD, a low flow LOW_FLOW: lost production, and less of it."""
    groups: list[dict[str, Any]] = [{"name": name, "ask": f"{name}?"} for name in ("protection", "data")]
    groups += [{"name": name, "ask": f"{name}?", "exclusive": True} for name in ("production", "degradation")]
    groups[-1]["yields_to"] = ["production"]
    hot = diagnosis("DEADHEAD", group, "motor_temp > 120", "high") | keys
    low = diagnosis("LOW_FLOW", "degradation", "flow_rate < 1000", "low") | {"category": vague}
    calm = [diagnosis(f"STALL{other}", other, "motor_current > 900", "low") for other in ("protection", "data")]
    calm[0]["name"], calm[1]["name"] = "STALL", "SENSOR_FAULT"
    other = [] if group == "production" else [diagnosis("PUMP_OFF", "production", "motor_current > 900", "low")]
    groups.sort(key=lambda each: each["name"] == last)
    diagnoses = sorted([hot, low, *calm, *other], key=lambda each: each["name"])
    return Tree.parse({"group": groups, "diagnosis": diagnoses})


def eased_run(step_s: float = 60, tree: Tree | None = None) -> Run:
    run = Run(tree=tree or eased_tree(), step_s=step_s)
    assert not run.then(6 * 3600)
    return run


def under_a_tree_in_another_order(run: Run) -> Run:
    assert not list(run.diagnostician.adopt(eased_tree("data"), lambda _: SETTINGS))
    return run


@pytest.mark.parametrize("meanwhile", [lambda run: run, Run.restarted, under_a_tree_in_another_order])
def test_what_lost_production_grew_milder_to_is_told_when_it_stays_so(meanwhile: Callable[[Run], Run]) -> None:
    run = eased_run()
    assert told(run.then(600, **HOT, **SLOW)) == ["raised DEADHEAD high"]
    assert told(run.then(600, **SLOW)) == ["cleared DEADHEAD high returned"]
    run = meanwhile(run)
    assert not run.then(5.8 * 3600, **SLOW)
    assert told(run.then(1200, **SLOW)) == ["raised LOW_FLOW low"]


def test_what_is_over_within_hours_of_lost_production_is_never_told() -> None:
    run = eased_run()
    run.then(600, **HOT, **SLOW)
    assert told(run.then(5 * 3600, **SLOW) + run.then(7200)) == ["cleared DEADHEAD high returned"]
    assert told(run.then(600, **SLOW)) == ["raised LOW_FLOW low"]


@pytest.mark.parametrize(("group", "days"), [("production", 28), ("protection", 7)])
@pytest.mark.parametrize("restart", [False, True])
def test_what_came_back_after_its_time_stands_four_times_as_long(
    group: str,
    days: int,
    restart: bool,  # noqa: FBT001
) -> None:
    """A pump that gasps all year does so by habit; one that trips again is worth a word."""
    run = eased_run(600, eased_tree(group=group, recurs_s=604_800))
    for quiet in (3, 12):
        run.then(1200, **HOT)
        run.then(quiet * 86_400)
    assert told(run.events) == ["raised DEADHEAD high", "cleared DEADHEAD high returned"] * 2
    assert [event.recurring for event in run.then(1200, **HOT)] == [True]
    run = run.restarted() if restart else run
    assert not run.then((days - 0.2) * 86_400)
    assert told(run.then(0.4 * 86_400)) == ["cleared DEADHEAD high returned"]


def test_what_no_stop_heals_is_told_by_the_week() -> None:
    """Each start would tell of it anew: of a worn pump that is stopped every other day three times, not thirty."""
    week_us = 7 * 86_400 * SECOND_US
    slow = {diagnosis.name: diagnosis.recurs_us for diagnosis in TREE.diagnoses if diagnosis.category == "PUMP_WEAR"}
    assert slow == {"PUMP_WEAR": week_us, "SCALE": week_us, "TUBING_LEAK": week_us // 7, "BROKEN_SHAFT": week_us // 7}


def test_nor_is_a_vaguer_name_for_it_told_in_its_place() -> None:
    run = eased_run(tree=eased_tree(vague="UNKNOWN"))
    assert told(run.then(600, **HOT, **SLOW)) == ["raised DEADHEAD high"]
    assert told(run.then(5.8 * 3600, **SLOW)) == ["cleared DEADHEAD high returned"]
    assert told(run.then(1200, **SLOW)) == ["raised LOW_FLOW low"]
