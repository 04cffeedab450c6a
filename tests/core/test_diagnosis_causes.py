"""A cause entered into a physics model gets its own name, first and in time; a healthy well gets none.

Golden series: lives of simulated wells, drawn from fixed seeds (bench/lives.py), and what is told of them.
docs/diagnosis.md has the tables of many more wells.
"""

import pytest
from confusion import TREE, Outcome, outcome
from lives import CAUSES, draw_life

from esp_ingestd.core.tree import Tree

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


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree.parse(TREE.read_text())


def lived(tree: Tree, model: str, cause: str, number: int) -> Outcome:
    return outcome(tree, draw_life(model, cause, number, SEED, CAUSES))


@pytest.mark.parametrize(("model", "cause"), NAMED)
def test_a_cause_gets_its_name_first_and_in_time(tree: Tree, model: str, cause: str) -> None:
    life = lived(tree, model, cause, 4)
    assert (life.first in CAUSES[cause].right, life.in_time) == (True, True), (life.told, life.right_h, life.allowed_h)


@pytest.mark.parametrize(
    ("model", "cause"), [("field", "healthy"), ("field", "planned stop"), ("bench", "planned stop")]
)
def test_a_healthy_well_stays_silent(tree: Tree, model: str, cause: str) -> None:
    life = lived(tree, model, cause, 5)
    assert life.early + life.told == []
