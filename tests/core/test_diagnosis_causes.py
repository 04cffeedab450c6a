"""A cause entered into the physics model gets its own name, and a healthy well none."""

import pytest
from confusion import CAUSES, TREE, first_told

from esp_ingestd.core.tree import Tree

# In the confusion table only: weeks of simulated time, not named at every sampling, or not asked yet.
ELSEWHERE = {"wear", "scale", "bearing", "trip", "reverse rotation", "broken shaft"}
NAMED = sorted(name for name, (_, _, right) in CAUSES.items() if right and name not in ELSEWHERE)
SILENT = sorted(name for name, (_, _, right) in CAUSES.items() if not right)


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree.parse(TREE.read_text())


@pytest.mark.parametrize("cause", NAMED)
def test_a_cause_gets_its_name_first(tree: Tree, cause: str) -> None:
    told, delay_h, early = first_told(tree, cause, 2, 300)
    assert (told[0] in CAUSES[cause][2], early) == (True, 0), told
    assert delay_h < CAUSES[cause][1] * 24


@pytest.mark.parametrize("cause", SILENT)
def test_a_healthy_well_stays_silent(tree: Tree, cause: str) -> None:
    for interval_s in (300, 1200):
        assert first_told(tree, cause, 3, interval_s)[0] == []


def test_a_broken_shaft_is_no_flow_while_its_own_question_is_not_asked(tree: Tree) -> None:
    assert first_told(tree, "broken shaft", 2, 300)[0] == ["NO_FLOW"]


def test_a_trip_is_told_where_readings_show_that_there_was_no_ramp(tree: Tree) -> None:
    assert first_told(tree, "trip", 1, 60)[0] == ["TRIP"]
