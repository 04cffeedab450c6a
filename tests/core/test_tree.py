"""The decision tree is refused whole with all its faults, and answers in three values."""

import copy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esp_ingestd.core.condition import Condition, ConditionError, predicate
from esp_ingestd.core.feature import FEATURE_INDEX, FEATURES, NAN, TURNING
from esp_ingestd.core.tree import Tree, TreeError
from esp_ingestd.core.well import DIAGNOSES, WellSettings

TEXT = (Path(__file__).parents[2] / "config" / "decision_tree.toml").read_text()


def features(**known: float) -> list[float]:
    return [known.get(feature.name, NAN) for feature in FEATURES]


def shipped() -> dict[str, Any]:
    return copy.deepcopy(tomllib.loads(TEXT))


def faults(source: dict[str, Any] | str) -> str:
    with pytest.raises(TreeError) as refused:
        Tree.parse(source)
    return "\n".join(refused.value.faults)


@pytest.mark.parametrize(
    ("text", "known", "answer"),
    [
        ("load > 1", {"load": 1.1}, (True, False)),
        ("load > 1", {"load": 1.0}, (False, True)),
        ("load > 1", {}, (False, False)),
        ("0.9 <= load < 1.1", {"load": 1.0}, (True, False)),
        ("0.9 <= load < 1.1", {"load": 1.1}, (False, True)),
        ("load > 1 or motor_temp > 100", {"load": 2}, (True, False)),
        ("load > 1 or motor_temp > 100", {"load": 0}, (False, False)),
        ("load > 1 and motor_temp > 100", {"load": 0}, (False, True)),
        ("not (load > 1 and motor_temp > 100)", {"load": 0}, (True, False)),
        ("motor_temp > max(100, 2 * flow_rate)", {"motor_temp": 110, "flow_rate": 40}, (True, False)),
        ("motor_temp > max(100, 2 * flow_rate)", {"motor_temp": 110}, (False, False)),
        ("unknown(load) or load > 1", {}, (True, False)),
        ("unknown(load) or load > 1", {"load": 1}, (False, True)),
        ("not unknown(load)", {"load": 1}, (True, False)),
        ("motor_temp - 1 > -flow_rate / 2", {"motor_temp": 0, "flow_rate": 4}, (True, False)),
    ],
)
def test_logic_has_three_values(text: str, known: dict[str, float], answer: tuple[bool, bool]) -> None:
    condition = Condition(text)
    met, not_met = (predicate(text, condition.features) for text in (condition.met, condition.not_met))
    assert (met(features(**known)), not_met(features(**known))) == answer


@pytest.mark.parametrize("value", [1.0, 0.96, 0.95])
def test_return_needs_the_deadband(value: float) -> None:
    condition = Condition("load > 1")
    cleared = predicate(condition.cleared({"load": 0.05}), condition.features)(features(load=value))
    assert cleared == (value == 0.95)


@pytest.mark.parametrize(
    "text",
    [
        "load >",
        "load",
        "load == 1",
        "lod > 1",
        "load > 'x'",
        "load > True",
        "abs(load) > 1",
        "max(load) > 1",
        "unknown(load, load)",
        "unknown(3)",
        "unknown(lod)",
        "load > flow_rate / 0",
        "load > flow_rate ** 2",
        "load > 1e999",
        f"load > {'9' * 400}",
        "__import__('os') > 1",
        "load > 1 if load else 2",
        "(" * 500 + "load > 1" + ")" * 500,
        "load > " + "max(" * 20 + "1" + ", load)" * 20,
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConditionError):
        Condition(text)


@pytest.mark.parametrize(
    ("known", "answer"),
    [
        ({"load": 2}, (True, False)),
        ({"motor_temp": 20, "load": 0}, (True, False)),
        ({"motor_temp": 5, "load": 0}, (False, True)),
        ({"motor_temp": 5}, (False, False)),
    ],
)
def test_a_term_is_what_stands_behind_it(known: dict[str, float], answer: tuple[bool, bool]) -> None:
    terms = {"heavy": Condition("load > 1")}
    terms["warm"] = Condition("not (motor_temp <= 10) or heavy", terms)
    condition = Condition("warm and (heavy or not heavy or motor_temp > 10)", terms)
    met, not_met = (predicate(text, condition.features) for text in (condition.met, condition.not_met))
    alone = [predicate(text, terms["warm"].features) for text in (terms["warm"].met, terms["warm"].not_met)]
    assert (met(features(**known)), not_met(features(**known))) == answer
    assert tuple(ask(features(**known)) for ask in alone) == answer
    assert Condition("heavy", terms).limits() == ([("load", ">", 1.0)], True)
    cleared = predicate(Condition("heavy", terms).cleared({"load": 0.05}), ("load",))
    assert [cleared(features(load=value)) for value in (0.96, 0.95)] == [False, True]


def test_a_term_is_refused_that_stands_for_nothing_or_for_something_else() -> None:
    source = shipped()
    source["term"] = {
        "early": "late",
        "late": "load > 1",
        "load": "load > 1",
        "not this": "load > 1",
        "number": 3,
        "wrong": "lod > 1",
    }
    source["diagnosis"][0]["question"][0]["when"] = ["late", "lat", "load > late"]
    said = faults(source)
    for part in (
        "term early: 'late': 'late' compares nothing, and is no term",
        "term: 'load' is a feature; call it otherwise",
        "term: 'not this' is no name; call it otherwise",
        "term number: must be a condition, as a text",
        "term wrong: 'lod > 1': unknown feature 'lod'",
        "'lat' compares nothing, and is no term",
        "unknown feature 'late'",
    ):
        assert part in said
    assert "must be a table" in faults({**shipped(), "term": ["load > 1"]})
    changed = shipped()
    changed["term"]["no_gas"] = "gor_ratio < 1.2"
    assert Tree.parse(changed).version != Tree.parse(TEXT).version


def test_the_shipped_tree_is_sound() -> None:
    tree = Tree.parse(TEXT)
    assert [question.index for question in tree.questions] == list(range(len(tree.questions)))
    assert all(diagnosis.questions for diagnosis in tree.diagnoses)


def test_version_follows_content_alone() -> None:
    changed = shipped()
    changed["diagnosis"][0]["question"][0]["on_delay_s"] = 6
    assert Tree.parse(TEXT).version == Tree.parse(shipped()).version != Tree.parse(changed).version


def test_every_fault_is_named_with_its_place() -> None:
    source = shipped()
    source["colour"] = 1
    source["deadband"]["lod"] = 1
    stall, overtemp = source["diagnosis"][:2]
    del stall["actions"]
    stall["latched"] = "yes"
    stall["question"][0] |= {"when": ["lod > 1"], "states": ["asleep"], "on_delay_s": -1, "severity": "bad"}
    overtemp["message"] = " "
    overtemp["question"] = []
    said = faults(source)
    for part in (
        "decision tree: unknown key 'colour'",
        "deadband: unknown feature 'lod'",
        'diagnosis "STALL": actions is missing',
        'diagnosis "STALL": latched',
        'diagnosis "STALL", question 1, when:',
        'diagnosis "STALL", question 1: on_delay_s',
        'diagnosis "STALL", question 1: severity',
        "unknown asleep",
        'diagnosis "MOTOR_OVERTEMP": message is missing',
        'diagnosis "MOTOR_OVERTEMP": has no',
    ):
        assert part in said


def test_other_shapes_are_refused() -> None:
    assert "not TOML" in faults("[[")
    assert "must be an array of tables" in faults({"diagnosis": 3, "deadband": 4, "group": []})
    source = shipped()
    source["diagnosis"].append(source["diagnosis"][0])
    source["group"][0] |= {"exclusive": 1, "yields_to": ["x"]}
    source["diagnosis"][1]["actions"] = "stop"
    said = faults(source)
    for part in ("stands more than once", "exclusive = 1", "yields_to names 'x'", "array of texts"):
        assert part in said


def question(when: list[str], severity: str = "high") -> dict[str, Any]:
    return {"ask": "?", "when": when, "severity": severity}


def competing(first: list[str], second: list[str], severity: str = "high") -> dict[str, Any]:
    source = shipped()
    texts = {key: source["diagnosis"][0][key] for key in ("message", "actions", "resolution_time", "category")}
    source["group"] = [{"name": g["name"], "ask": g["ask"], "exclusive": True} for g in source["group"]]
    source["diagnosis"] = [
        {"name": "DEADHEAD", "group": "production", "question": [question(first, severity)], **texts},
        {"name": "PUMP_OFF", "group": "production", "question": [question(second)], **texts},
    ]
    return source


def test_a_question_that_an_earlier_one_always_hides_is_refused() -> None:
    assert "unreachable" in faults(competing(["load > 1"], ["load > 1.5", "motor_temp > 3"]))
    assert "unreachable" in faults(competing(["load > flow_rate"], ["load > flow_rate"]))
    assert "unreachable" in faults(competing(["2 > load"], ["0 < load < 1"]))


def test_a_question_that_nothing_meets_is_refused() -> None:
    assert "unreachable" in faults(competing(["load > 1"], ["load > 2", "load < 1"]))


@pytest.mark.parametrize(
    ("first", "second", "severity"),
    [
        (["load > 2"], ["load > 1.5"], "high"),
        (["load > 1"], ["load > 1.5"], "medium"),
        (["load > 1 or motor_temp > 3"], ["load > 1.5"], "high"),
        (["load > flow_rate"], ["load > 1.5"], "high"),
    ],
)
def test_a_question_that_can_be_reached_is_not_refused(first: list[str], second: list[str], severity: str) -> None:
    assert Tree.parse(competing(first, second, severity))


def test_a_well_does_without_what_it_was_not_given() -> None:
    tree = Tree.parse(TEXT)
    off = tree.off_for(WellSettings())
    assert off["OVERLOAD"] == "not given: nameplate_current_a"
    assert off["STALL"] == "not given: nameplate_current_a"
    assert "MOTOR_OVERTEMP" not in off  # it can still tell how fast the motor warms
    assert "ELECTRICAL_FAULT" not in off
    only = WellSettings(enabled_rules=("STALL",), nameplate_current_a=50)
    assert "STALL" not in tree.off_for(only)
    assert tree.off_for(only)["OVERLOAD"] == "not in enabled_rules"
    assert "BROKEN_SHAFT" not in off  # it asks for the load, where that is known


@pytest.mark.parametrize("message", ["{lod}", "{load", "{}", "{load:d}", "{load.unit}"])
def test_a_message_that_could_not_be_filled_in_is_refused(message: str) -> None:
    source = shipped()
    source["diagnosis"][1]["message"] = message
    source["diagnosis"][1]["question"][1]["message"] = message
    assert f'diagnosis "MOTOR_OVERTEMP": message = {message!r}' in faults(source)
    assert f'diagnosis "MOTOR_OVERTEMP", question 2: message = {message!r}' in faults(source)


def test_the_page_says_what_latches_and_what_is_not_asked() -> None:
    page = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text()
    tree = Tree.parse(TEXT)
    latching = ", ".join(diagnosis.name for diagnosis in tree.diagnoses if diagnosis.latched)
    assert f"latch: {latching}." in " ".join(page.split())
    not_asked = set(DIAGNOSES) - {diagnosis.name for diagnosis in tree.diagnoses}
    assert not_asked == set()  # as the page says


def test_features_of_the_instant_come_first() -> None:
    instants = [feature.instant for feature in FEATURES]
    assert instants == sorted(instants, reverse=True)
    assert len(FEATURE_INDEX) == len(FEATURES)


def places(value: object, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every table, array and value of a document, by the keys that lead to it."""
    if place:
        yield place
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from places(value[key], (*place, key))  # type: ignore[index]


CUT = shipped() | {"diagnosis": shipped()["diagnosis"][:4]}
ODD = st.one_of(
    st.sampled_from(
        [0, -1, 1.5, float("inf"), float("nan"), True, "", "x", "{load", [], [1], [[]], {}, [{}], {"a": 1}]
    ),
    st.sampled_from(
        [
            "load",
            "load >",
            "load > 1e999",
            f"load > {'9' * 400}",
            "(" * 3000,
            "unknown()",
            "load == 1",
            "load > 1j",
            "\0",
        ]
    ).map(lambda text: [text]),
    st.text(max_size=20).map(lambda text: [text]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(list(places(CUT))), ODD), min_size=1, max_size=3))
def test_whatever_stands_in_the_file_it_is_a_tree_or_refused_in_words(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    source: Any = copy.deepcopy(CUT)
    for (*way, last), value in changes:
        table = source
        for key in way:
            holds = isinstance(table, dict) and key in table
            holds |= isinstance(table, list) and isinstance(key, int) and key < len(table)
            table = table[key] if holds else {}
        if isinstance(table, dict) or (isinstance(table, list) and isinstance(last, int) and last < len(table)):
            table[last] = value
    try:
        tree = Tree.parse(source)
    except TreeError as error:
        assert error.faults  # noqa: PT017 - or it is a tree
    else:
        assert tree.met_instant(TURNING, features()) | tree.met(TURNING, features()) >= 0
