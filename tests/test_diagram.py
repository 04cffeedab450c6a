"""The diagrams in the documents are those of the code and the files that they show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from core.test_diagnosis import Run
from typer.testing import CliRunner

from esp_ingestd.cli import app
from esp_ingestd.core.alarm import SHELF, TABLE, AlarmEvent
from esp_ingestd.core.feature import FEATURE_INDEX
from esp_ingestd.core.tree import Tree
from esp_ingestd.diagram import alarm_diagram, drawn, feature_table, question_table, term_table, tree_diagram

ROOT = Path(__file__).parents[1]
TREE = (ROOT / "config" / "decision_tree.toml").read_text()
PAGE = (ROOT / "docs" / "decision-tree.md").read_text()


def test_the_page_shows_the_tree_that_ships() -> None:
    assert drawn(PAGE, "tree") == tree_diagram(Tree.parse(TREE)), (
        "run `esp-ingestd diagram tree --into docs/decision-tree.md`"
    )


@pytest.mark.parametrize(("name", "diagram"), [("alarm", alarm_diagram(TABLE)), ("shelf", alarm_diagram(SHELF))])
def test_the_page_shows_the_life_of_an_alarm_as_its_tables_have_it(name: str, diagram: str) -> None:
    page = (ROOT / "docs" / "diagnosis.md").read_text()
    assert drawn(page, name) == diagram, f"run `esp-ingestd diagram {name} --into docs/diagnosis.md`"


def test_the_page_lists_every_feature_with_its_unit() -> None:
    assert drawn(PAGE, "features") == feature_table(), "run `esp-ingestd diagram features --into docs/decision-tree.md`"
    assert "| `trip_margin` | K | trip temperature less motor temperature |\n" in PAGE
    for name in FEATURE_INDEX:
        assert f"| `{name}` |" in PAGE


def test_the_page_says_when_each_diagnosis_is_met() -> None:
    page = (ROOT / "docs" / "diagnosis.md").read_text()
    table = question_table(Tree.parse(TREE))
    assert drawn(page, "questions") == table, "run `esp-ingestd diagram questions --into docs/diagnosis.md`"
    assert "| STALL | `2.5 <= load < 10` | turning | critical | 5 s, 2 | 1 min |\n" in page
    assert "| SENSOR_FAULT | `frozen_channels > 0.5 or dead_channels > 0.5` | warm-up, transient, running |" in page


def test_the_page_lists_every_term_with_its_condition() -> None:
    tree = Tree.parse(TREE)
    assert drawn(PAGE, "terms") == term_table(tree), "run `esp-ingestd diagram terms --into docs/decision-tree.md`"
    for name, text in tree.terms.items():
        assert f"| `{name}` | `{text}` |\n" in PAGE


def test_every_transition_is_drawn() -> None:
    diagram = alarm_diagram(TABLE)
    for (state, signal), (after, told) in TABLE.items():
        ends = ["[*]" if each.name == "NORMAL" else each.name for each in (state, after)]
        (line,) = (line for line in diagram.splitlines() if line.startswith(f"    {ends[0]} --> {ends[1]}: "))
        assert (f"{signal.value} <b>{told}</b>" if told else signal.value) in line


def test_every_question_and_answer_of_the_tree_is_in_it() -> None:
    tree = Tree.parse(TREE)
    diagram = tree_diagram(tree)
    plain = re.sub(r"<[^>]*>", " ", diagram).replace("&lt;", "<").replace("&gt;", ">")
    plain = " ".join(plain.split())
    for question in tree.questions:
        assert question.ask in plain
        assert " and ".join(question.when) in plain
    assert diagram.count("-- yes -->") == len(tree.questions)
    for diagnosis in tree.diagnoses:
        assert f'["{diagnosis.name}<br/>' in diagram


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Is there no flow?", "Does nothing flow?"),
        ('when = ["channels_astray >= 2"]', 'when = ["channels_astray >= 3"]'),
        ('severity = "low"', 'severity = "medium"'),
        ("exclusive = true", "exclusive = false"),
    ],
)
def test_a_change_of_the_tree_changes_it(before: str, after: str) -> None:
    assert before in TREE
    assert tree_diagram(Tree.parse(TREE.replace(before, after, 1))) != tree_diagram(Tree.parse(TREE))


def test_no_text_of_an_engineer_ends_a_label() -> None:
    diagram = tree_diagram(Tree.parse(TREE.replace("Is there no flow?", 'Is \\"flow\\" <b>0</b> & ]?', 1)))
    assert "&quot;flow&quot; &lt;b&gt;0&lt;/b&gt; &amp; ]?" in diagram
    assert all(line.count('"') <= 4 and line.count('"') % 2 == 0 for line in diagram.splitlines())


def test_a_page_is_drawn_anew_in_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- esp-ingestd diagram tree -->\n```mermaid\nold\n```\nafter\n")
    assert CliRunner().invoke(app, ["diagram", "tree", "--into", str(page)]).exit_code == 0
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("```\nafter\n")
    assert drawn(page.read_text(), "tree") == CliRunner().invoke(app, ["diagram", "tree"]).stdout
    page.write_text("<!-- esp-ingestd diagram features -->\n| old |\n\nafter\n")
    assert CliRunner().invoke(app, ["diagram", "features", "--into", str(page)]).exit_code == 0
    assert page.read_text().endswith("|\n\nafter\n")
    assert drawn(page.read_text(), "features") == CliRunner().invoke(app, ["diagram", "features"]).stdout
    page.write_text("```mermaid\n```\n")
    result = CliRunner().invoke(app, ["diagram", "tree", "--into", str(page)])
    assert result.exit_code == 1
    assert "no block fenced as mermaid" in result.stderr


def test_the_path_of_an_alert_is_in_its_explanation_and_in_the_picture() -> None:
    """A new user follows from an alert back to the questions that led to it, by their words."""
    run = Run()
    run.then(3600)
    told = [*run.then(100, motor_current=120), *run.then(900, motor_temp=149, motor_current=130)]
    assert {event.diagnosis for event in told} >= {"OVERLOAD", "MOTOR_OVERTEMP"}
    for event in told:
        does, group, *asked = event.path
        assert does == "What does the pump do? running"
        assert group.removesuffix(" yes") in PAGE
        for text in asked:
            assert re.split(r" (?:yes|no|not assessable)\b", text)[0].replace("<", "&lt;") in PAGE, text
    again = Run()
    again.then(3600)
    found: list[AlarmEvent] = []
    while not found:  # one reading at a time: an explanation is of the newest
        found = again.then(1, motor_current=120)
    (raised,) = found
    lines = list(again.diagnostician.explain("W"))
    assert any(raised.alarm_id in line for line in lines)
    for text in raised.path[2:]:
        ask, answered = re.fullmatch(r"(.*\?) (yes|not assessable|no).*", text).groups()  # type: ignore[union-attr]
        word = {"not assessable": "?"}.get(answered, answered)
        assert any(line.startswith(f"  {word:<4}{line.split()[1]} {ask}") for line in lines), text
