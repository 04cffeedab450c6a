"""What instruments send that no pump does: bursts of a downhole tool, full scale, zeros, a meter that is bypassed."""

import json
from math import isnan
from typing import Any

import pytest
from core.test_diagnosis import Run
from core.test_well import DAY_S, HOUR_S, raised

from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.quality import AMPERES_AT, DISCHARGE_AT, FAR_TIMES, FLOW_AT, PIP_AT

MAD: dict[str, Any] = {
    "pip": 2500.0,
    "discharge_pressure": 5800.0,
    "motor_temp": 4300.0,
    "bad_channels": ("motor_temp",),
}
HOT: dict[str, Any] = {"motor_temp": 4300.0, "bad_channels": ("motor_temp",)}


def held(run: Run, place: int) -> float:
    return run.diagnostician._patients["W"].well._quality.held[place]


@pytest.mark.parametrize("flow", [None, 2000.0])
@pytest.mark.parametrize("restart", [False, True])
def test_a_tool_whose_temperature_cannot_be_is_not_believed_in_its_pressures(
    flow: float | None,
    restart: bool,  # noqa: FBT001
) -> None:
    """Nor is the one that hardly moves; and nothing of it is left in the means when it is sound again."""
    run = Run(step_s=300)
    run.then(2 * DAY_S, flow_rate=flow)
    run.then(300, flow_rate=flow, **MAD)
    run = run.restarted() if restart else run
    for _ in range(60):
        run.then(300, flow_rate=flow, **(MAD | {"discharge_pressure": 3900.0}))
    assert raised(run) == ["SENSOR_FAULT"]
    assert held(run, DISCHARGE_AT) != 3900.0
    run.then(DAY_S, flow_rate=flow)
    assert raised(run) == ["SENSOR_FAULT"]


def test_a_temperature_that_has_been_broken_for_long_takes_no_word_from_the_pressures() -> None:
    run = Run(step_s=300)
    run.then(2 * DAY_S, **HOT)
    run.then(600, pip=1400.0, **HOT)
    assert held(run, PIP_AT) == 1400.0


@pytest.mark.parametrize("restart", [False, True])
def test_full_scale_is_no_pressure_until_it_was_sent_six_times(restart: bool) -> None:  # noqa: FBT001
    run = Run(step_s=300)
    run.then(2 * DAY_S)
    for time in range(FAR_TIMES - 1):
        assert time == 0 or isnan(held(run, DISCHARGE_AT))
        run.then(300, discharge_pressure=9999.0, flow_rate=0.0, motor_current=66.0)
        run = run.restarted() if restart else run
    assert "DEADHEAD" not in raised(run)
    run.then(300, discharge_pressure=9999.0, flow_rate=0.0, motor_current=66.0)
    assert held(run, DISCHARGE_AT) == 9999.0


def test_full_scale_between_sound_readings_is_counted_anew() -> None:
    run = Run(step_s=300)
    run.then(2 * DAY_S)
    for _ in range(4):
        run.then(600, discharge_pressure=9999.0)
        run.then(300)
    assert held(run, DISCHARGE_AT) < 4000


def test_a_pressure_that_doubles_with_the_load_gone_is_believed_when_the_next_one_says_so() -> None:
    """So does the intake of a pump that stopped lifting."""
    run = Run(step_s=1200)
    run.then(2 * DAY_S, pip=200.0)
    run.then(2400, pip=700.0, motor_current=31.0, flow_rate=0.0)
    assert held(run, PIP_AT) == 700.0


@pytest.mark.parametrize("times", [2, 3, 4, 6])
def test_a_return_to_what_was_usual_is_no_other_unit(times: int) -> None:
    """650 psi is to 9999 psi what a psi is to a bar."""
    run = Run(step_s=300)
    run.then(2 * DAY_S, pip=650.0)
    run.then(300 * times, pip=9999.0)
    run.restarted().then(DAY_S, pip=650.0)
    assert raised(run) == []


def amperes(run: Run, *values: float) -> list[float]:
    believed = []
    for value in values:
        run.then(300, motor_current=value)
        believed.append(held(run, AMPERES_AT))
    return believed


def test_a_current_that_is_gone_once_is_not_gone_and_one_that_is_back_is_back() -> None:
    run = Run(step_s=300)
    run.then(2 * DAY_S)
    assert amperes(run, 45.0, 45.0, 71.0, 0.0, 70.0, 70.0) == [70.0, 45.0, 45.0, 45.0, 70.0, 70.0]
    assert amperes(run, 0.0, 0.0, 72.0) == [70.0, 0.0, 72.0]
    run.then(300, motor_current=0.0)
    run.then(300, motor_current=0.0)
    run = run.restarted()
    assert amperes(run, 71.0) == [71.0]


def test_a_flow_that_ends_in_two_steps_is_gone_when_it_is() -> None:
    run = Run(step_s=1200)
    run.then(2 * DAY_S)
    run.then(1200, flow_rate=1200.0)
    run.then(1200, flow_rate=0.0)
    assert held(run, FLOW_AT) == 0.0


@pytest.mark.parametrize(("over_psi", "found"), [(2300.0, []), (1200.0, ["ELECTRICAL_FAULT"])])
def test_at_rare_readings_no_current_shows_in_the_pressures(over_psi: float, found: list[str]) -> None:
    run = Run(step_s=300)
    run.then(2 * DAY_S)
    for step in range(4):
        pip = 900.0 + step
        run.then(300, motor_current=0.0, pip=pip, discharge_pressure=pip + over_psi)
    run.then(HOUR_S)
    assert [name for name in raised(run) if name == "ELECTRICAL_FAULT"] == found


BYPASSED = {"flow_rate": 0.0}


@pytest.mark.parametrize(
    ("witness", "name"),
    [
        ({"pip": None, "wellhead_pressure": 170.0}, "SENSOR_FAULT"),
        ({"pip": 945.0, "discharge_pressure": 3245.0}, "SENSOR_FAULT"),
        ({"pip": 970.0, "discharge_pressure": 3270.0, "wellhead_pressure": 170.0}, "SENSOR_FAULT"),
        ({"pip": 970.0, "discharge_pressure": 3270.0}, "NO_FLOW"),
        ({"pip": None, "wellhead_pressure": 80.0}, "NO_FLOW"),
        ({"pip": 945.0, "discharge_pressure": 3000.0}, "NO_FLOW"),
        ({"pip": None, "discharge_pressure": None}, "NO_FLOW"),
    ],
)
def test_a_meter_that_shows_nothing_is_bypassed_if_no_witness_moved(
    witness: dict[str, float | None], name: str
) -> None:
    """A test separator takes the flow for hours; a tubing that parts, or a valve, moves a pressure."""
    run = Run(step_s=300)
    sound: dict[str, float | None] = {"wellhead_pressure": 170.0} if "wellhead_pressure" in witness else {}
    sound |= dict.fromkeys((each for each in ("pip", "discharge_pressure") if witness.get(each, 1) is None), None)
    run.then(2 * DAY_S, **sound)
    for step in range(36):
        steady = 1 + 0.001 * (step % 5)
        seen = {channel: value and value * steady for channel, value in witness.items()}
        run.then(300, **BYPASSED, **seen)
    assert raised(run)[:1] == [name]


def test_a_meter_that_is_back_leaves_no_low_flow_behind() -> None:
    run = Run(step_s=1200)
    run.then(3 * DAY_S)
    run.then(5 * HOUR_S, **BYPASSED)
    run.then(DAY_S)
    assert raised(run) == ["SENSOR_FAULT"]


def test_what_an_earlier_version_stored_knows_nothing_of_all_this() -> None:
    run = Run(step_s=300)
    run.then(2 * DAY_S)
    document = json.loads(run.diagnostician.snapshot("W"))
    del document["well"]["quality"][-1], document["well"]["quality"][5][-1], document["ended"]
    again = Diagnostician(run.diagnostician._tree, run.diagnostician._wells)
    again.restore("W", json.dumps(document).encode())
    assert str(again._patients["W"].well._quality.remember()) == str(
        run.diagnostician._patients["W"].well._quality.remember()
    )


@pytest.mark.parametrize(("away_min", "found"), [(55, []), (80, ["SENSOR_FAULT"])])
@pytest.mark.parametrize("every", [1, 4])
def test_a_gauge_that_is_sent_by_exception_may_be_still_for_an_hour(
    every: int, away_min: int, found: list[str]
) -> None:
    """It came every few minutes until then; of one that came with each reading a quarter of an hour is enough."""
    run = Run(step_s=60)
    for step in range(4 * 60):
        run.then(60, motor_temp=110 + 0.1 * (step % 17) if step % every == 0 else None)
    run.then(away_min * 60, motor_temp=None)
    assert raised(run) == (found if every > 1 else ["SENSOR_FAULT"])


def test_a_row_sent_twice_before_an_outage_is_no_habit_of_standing_still() -> None:
    run = Run(step_s=1200)

    def lives(readings: int, *psi: float) -> None:
        for step in range(readings):
            run.then(1200, discharge_pressure=psi[step % len(psi)], motor_current=70 + 0.1 * (step % 3))

    lives(144, *range(3200, 3207))
    lives(2, 3207)
    run.at_s += 7 * HOUR_S
    lives(72, *range(3200, 3207))
    lives(8, 3207)
    assert raised(run) == ["SENSOR_FAULT"]


@pytest.mark.parametrize(("shows", "found"), [(400.0, "SENSOR_FAULT"), (394.2, "UNIT_SUSPECT")])
def test_full_scale_is_no_temperature_in_kelvin(shows: float, found: str) -> None:
    run = Run(step_s=60)
    run.then(DAY_S, motor_temp=121.0)
    for step in range(30):
        run.then(60, **(HOT | {"motor_temp": shows + 0.1 * (step % 5)}))
    assert raised(run) == [found]
