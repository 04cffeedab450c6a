"""Golden series for protection and for the quality of the data: raised when it should be, silent when it should be.

Most are played on the simulator, whose wells know nothing of the rules (0.3 to 4 times the usual size); the edges are
series made by hand.
"""

import dataclasses

import pytest
from core.signals import HOUR_S, play
from core.test_diagnosis import HEALTHY, SETTINGS, STANDING, Run, told

DAY_S = 24 * HOUR_S
SAMPLINGS = (1.0, 10.0, 60.0, 300.0, 600.0, 1200.0, 1800.0)


def settled_s(interval_s: float) -> float:
    """At 1 s the simulator takes too long for a baseline; what needs none is asked all the same."""
    return 0.5 * HOUR_S if interval_s < 10 else max(12 * HOUR_S, 40 * interval_s)


# ------------------------------------------------------------------------------------------------------------ TRIP


@pytest.mark.parametrize(
    ("interval_s", "without"),
    [
        (1.0, ()),
        *((interval_s, ()) for interval_s in (10.0, 60.0, 300.0, 600.0)),
        *((interval_s, ("vsd_frequency",)) for interval_s in (10.0, 60.0, 300.0, 600.0)),
        (300.0, ("flow_rate", "discharge_pressure", "motor_temp", "vibration")),
    ],
)
def test_a_trip_is_told_at_the_stop_and_ends_with_the_next_start(interval_s: float, without: tuple[str, ...]) -> None:
    wells = play("trip", interval_s, settled_s=settled_s(interval_s), after_s=HOUR_S, without=without)
    for well in wells:
        assert [str(each) for each in well] == ["raised TRIP", "cleared TRIP"]
        assert well[0].after_s <= 2 * interval_s
        assert 1800 <= well[1].after_s <= 1800 + 2 * interval_s


@pytest.mark.parametrize(
    ("interval_s", "without"),
    [(1.0, ()), (10.0, ()), (60.0, ()), (10.0, ("vsd_frequency",)), (60.0, ("vsd_frequency",))],
)
def test_a_drive_that_ramps_down_raises_nothing(interval_s: float, without: tuple[str, ...]) -> None:
    settled = settled_s(interval_s)
    assert play("planned_stop", interval_s, settled_s=settled, after_s=HOUR_S, without=without) == [[], []]


def ramped(run: Run, minutes: float, *, hertz: bool = True) -> list[str]:
    """The drive goes down in so many minutes, and stands for six hours."""
    found = []
    began_s = run.at_s
    while run.at_s - began_s < 60 * minutes:
        share = 1 - (run.at_s - began_s) / (60 * minutes)
        channels: dict[str, float | None] = {"motor_current": 70 * max(0.3, share), "vsd_frequency": 60 * share}
        found += run.then(run.step_s, **(channels if hertz else channels | {"vsd_frequency": None}))
    still: dict[str, float | None] = {**STANDING} if hertz else {**STANDING, "vsd_frequency": None}
    return told(found + run.then(6 * HOUR_S, **still))


@pytest.mark.parametrize("step_s", [10.0, 60.0, 300.0, 600.0, 1200.0])
@pytest.mark.parametrize("hertz", [True, False])
def test_a_ramp_of_a_quarter_of_an_hour_is_seen_at_any_sampling(step_s: float, hertz: bool) -> None:  # noqa: FBT001
    run = Run(step_s=step_s)
    channels: dict[str, float | None] = {} if hertz else {"vsd_frequency": None}
    assert not run.then(DAY_S, **channels)
    assert not ramped(run, 15, hertz=hertz)


@pytest.mark.parametrize(("habit_days", "found"), [(9, []), (11, ["raised TRIP high"])])
def test_where_a_ramp_could_be_missed_a_stop_is_told_of_a_well_that_seldom_stops(
    habit_days: float, found: list[str]
) -> None:
    run = Run(step_s=300)
    run.then(DAY_S)
    assert told(run.then(HOUR_S, **STANDING)) == ["raised TRIP high"]
    assert run.events[0].confidence < 0.8  # the ramp may have been missed
    assert told(run.then(habit_days * DAY_S)) == ["cleared TRIP high returned"]
    assert told(run.then(HOUR_S, **STANDING)) == found


def test_a_drive_that_is_held_at_low_speed_before_it_stops_raises_nothing() -> None:
    run = Run(step_s=10)
    run.then(HOUR_S)
    run.then(20 * 60, vsd_frequency=30.0, motor_current=30.0)
    assert not run.then(HOUR_S, **STANDING)


def test_a_stop_behind_a_gap_is_not_told_nobody_saw_it() -> None:
    run = Run(step_s=10)
    run.then(HOUR_S)
    run.at_s += HOUR_S
    assert not run.then(HOUR_S, **STANDING)


def test_an_ailing_pump_that_stops_has_tripped_at_any_sampling() -> None:
    run = Run(step_s=1200)
    run.then(DAY_S)
    run.then(HOUR_S, motor_current=122)
    found = told(run.then(HOUR_S, **STANDING))
    assert found == ["cleared OVERLOAD high well_off", "raised TRIP high"]
    assert run.events[-1].evidence["load_before_stop"] == pytest.approx(1.22)


def test_a_sound_pump_that_stops_between_readings_too_rare_for_a_ramp_is_not_called_tripped() -> None:
    run = Run(step_s=1200)
    run.then(DAY_S)
    assert not run.then(DAY_S, **STANDING)


def test_what_the_motor_did_before_it_tripped_makes_it_surer() -> None:
    idle, hot = Run(), Run()
    for run, temperature in ((idle, HEALTHY["motor_temp"]), (hot, 141.0)):
        run.then(HOUR_S)
        run.then(40, motor_temp=temperature)
        assert told(run.then(30, **STANDING)) == ["raised TRIP high"]
    assert idle.events[0].confidence < hot.events[0].confidence
    assert hot.events[0].evidence["margin_before_stop"] == pytest.approx(9)


def test_a_well_without_a_nameplate_trips_too() -> None:
    run = Run(dataclasses.replace(SETTINGS, nameplate_current_a=None, trip_temperature_c=None))
    run.then(HOUR_S)
    assert told(run.then(30, **STANDING)) == ["raised TRIP high"]
