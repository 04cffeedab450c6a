"""I10 in the core: a well that is taken back from its snapshot goes on as if nothing had happened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from core.test_diagnosis import HEALTHY, SETTINGS, STANDING, TREE, reading
from hypothesis import given, settings
from hypothesis import strategies as st

from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.tree import SEVERITIES

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


@pytest.mark.parametrize(
    "snapshot", [b"", b"x", b"{}", b'{"form":99}', b'{"form":1,"well":[],"alarms":{},"raised":{}}']
)
def test_what_is_no_snapshot_is_refused_and_the_well_is_new(snapshot: bytes) -> None:
    diagnostician = Diagnostician(TREE, lambda _: SETTINGS)
    with pytest.raises(ValueError, match="W1"):
        diagnostician.restore("W1", snapshot)
    assert list(diagnostician.well_ids()) == []
    assert dict(diagnostician.standing()) == dict.fromkeys(SEVERITIES, 0)
