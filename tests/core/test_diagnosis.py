"""Protection by absolute limits: delays, deadbands, operating state, and what must stay silent."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import SECOND_US, Reading
from esp_ingestd.core.tree import Tree
from esp_ingestd.core.well import WellSettings

TREE = Tree.parse((Path(__file__).parents[2] / "config" / "decision_tree.toml").read_text())
SETTINGS = WellSettings(nameplate_current_a=100.0, trip_temperature_c=150.0, settle_s=600, transient_hold_s=60)
START_US = 1_760_000_000 * SECOND_US
HEALTHY = {
    "flow_rate": 2000.0,
    "pip": 900.0,
    "motor_current": 70.0,
    "motor_temp": 110.0,
    "vibration": 0.2,
    "vsd_frequency": 60.0,
    "discharge_pressure": 3200.0,
    "current_unbalance": 1.0,
    "voltage_unbalance": 0.5,
    "insulation_resistance": 500.0,
}
STANDING = HEALTHY | {"flow_rate": 0.0, "motor_current": 0.0, "vsd_frequency": 0.0}


def reading(at_s: float, well_id: str = "W", **channels: float | None) -> Reading:
    at_us = START_US + int(at_s * SECOND_US)
    wobble = 0.001 * (at_s * 7 % 13)  # no gauge of a turning pump says the same twice
    gauges = ("pip", "motor_temp", "vibration", "discharge_pressure")
    channels = {**{name: HEALTHY[name] * (1 + wobble) for name in gauges}, **channels}
    return Reading(well_id, at_us, received_us=at_us, **{**HEALTHY, **channels})  # type: ignore[arg-type]


class Run:
    """One well, read every `step_s`; `then` goes on for a while with some channels changed."""

    def __init__(
        self, settings: WellSettings = SETTINGS, step_s: float = 10, tree: Tree = TREE, *, live: bool = False
    ) -> None:
        self.diagnostician = Diagnostician(tree, lambda _: settings, live=live)
        self.step_s = step_s
        self.at_s = 0.0
        self.events: list[AlarmEvent] = []

    def then(self, for_s: float, **channels: float | None) -> list[AlarmEvent]:
        found: list[AlarmEvent] = []
        until_s = self.at_s + for_s
        while self.at_s < until_s:
            found += self.diagnostician.observe(reading(self.at_s, **channels))  # type: ignore[arg-type]
            self.at_s += self.step_s
        self.events += found
        return found

    def restarted(self) -> "Run":
        """The same well, by what a snapshot tells of it."""
        after = Run(step_s=self.step_s, tree=self.diagnostician._tree)
        after.at_s, after.events = self.at_s, self.events
        after.diagnostician.restore("W", self.diagnostician.snapshot("W"))
        return after


def told(events: Iterable[AlarmEvent]) -> list[str]:
    return [f"{e.transition} {e.diagnosis} {e.severity}" + (f" {e.reason}" if e.reason else "") for e in events]


@pytest.fixture
def run() -> Run:
    settled = Run()
    assert not settled.then(3600)
    return settled


def test_overload_is_raised_after_its_delay_escalates_and_clears_behind_its_deadband(run: Run) -> None:
    assert not run.then(60, motor_current=120)
    assert told(run.then(10, motor_current=120)) == ["raised OVERLOAD high"]
    assert told(run.then(60, motor_current=130)) == ["escalated OVERLOAD critical"]
    assert not run.then(3600, motor_current=112)
    assert not run.then(300, motor_current=105)
    assert told(run.then(20, motor_current=105)) == ["cleared OVERLOAD critical returned"]


def test_one_noisy_sample_raises_nothing(run: Run) -> None:
    for channels in ({"motor_current": 900.0}, {"motor_temp": 240.0}, {"current_unbalance": 60.0}):
        assert not run.then(10, **channels)
        assert not run.then(600)


def test_motor_overtemp_waits_for_its_reset(run: Run) -> None:
    assert told(run.then(80, motor_temp=146)) == ["raised MOTOR_OVERTEMP critical"]
    assert not run.then(7200)
    assert run.diagnostician.standing()["critical"] == 1


def test_stall_at_the_start(run: Run) -> None:
    run.then(30, vsd_frequency=20.0)
    run.then(600, **STANDING)
    assert told(run.then(30, motor_current=300, flow_rate=0)) == ["raised STALL critical"]


def test_stall_seen_once_without_flow_when_readings_are_rare() -> None:
    run = Run(step_s=1200)
    run.then(12_000)
    assert told(run.then(1200, motor_current=300, flow_rate=0)) == ["raised STALL critical"]


@pytest.mark.parametrize(
    ("channels", "severity"),
    [
        ({"current_unbalance": 6.0}, "high"),
        ({"current_unbalance": 12.0}, "critical"),
        ({"voltage_unbalance": 6.0}, "critical"),
        ({"insulation_resistance": 0.5}, "high"),
        ({"motor_current": 1.0}, "high"),
        ({"vsd_frequency": 0.0}, "high"),
    ],
)
def test_electrical_fault(run: Run, channels: dict[str, float], severity: str) -> None:
    assert told(run.then(90, **channels)) == [f"raised ELECTRICAL_FAULT {severity}"]
    assert told(run.then(660)) == [f"cleared ELECTRICAL_FAULT {severity} returned"]


def test_a_stop_clears_as_well_off_and_a_standing_pump_raises_nothing(run: Run) -> None:
    run.then(90, motor_current=120)
    run.then(30, motor_current=120, vsd_frequency=20.0)
    assert told(run.then(30, **STANDING)) == ["cleared OVERLOAD high well_off"]
    assert not run.then(86_400, **STANDING)


def test_a_stop_without_a_ramp_is_a_trip_until_the_next_start(run: Run) -> None:
    assert told(run.then(30, **STANDING)) == ["raised TRIP high"]
    assert not run.then(3600, **STANDING)
    assert told(run.then(60)) == ["cleared TRIP high returned"]


def test_a_planned_stop_is_no_fault(run: Run) -> None:
    for hertz in (50.0, 40.0, 30.0, 20.0, 10.0):
        assert not run.then(10, vsd_frequency=hertz, motor_current=hertz)
    assert not run.then(3600, **STANDING)
    assert not run.then(3600)


def test_silence_of_one_well_is_told_and_cleared(run: Run) -> None:
    diagnostician, quiet_us = run.diagnostician, START_US + int((run.at_s - run.step_s) * SECOND_US)
    diagnostician.pass_time(quiet_us)
    for second in range(0, 400, 10):
        diagnostician.observe(reading(run.at_s + second, "OTHER"))
    assert not diagnostician.pass_time(quiet_us + 299 * SECOND_US)
    (event,) = diagnostician.pass_time(quiet_us + 400 * SECOND_US)
    assert (event.diagnosis, event.well_id, event.timestamp_us) == ("COMM_LOSS", "W", quiet_us + 300 * SECOND_US)
    assert not diagnostician.pass_time(quiet_us + 500 * SECOND_US)
    run.at_s += 600
    assert told(run.then(10)) == ["cleared COMM_LOSS medium returned"]


@pytest.mark.parametrize("steps_s", [(400,), tuple(range(0, 401, 7)), (299, 301, 400)])
def test_what_is_told_of_silence_does_not_depend_on_how_often_it_is_looked_for(
    run: Run, steps_s: tuple[int, ...]
) -> None:
    diagnostician, quiet_us = run.diagnostician, START_US + int((run.at_s - run.step_s) * SECOND_US)
    diagnostician.pass_time(quiet_us)
    found: list[AlarmEvent] = []
    at_s = 0
    for step_s in steps_s:
        for second in range(at_s, min(step_s, 320), 10):  # then the other one too, and falls overdue much later
            diagnostician.observe(reading(run.at_s + second, "OTHER"))
            at_s = second + 10
        found += diagnostician.pass_time(quiet_us + step_s * SECOND_US)
    (event,) = found
    assert (event.well_id, event.timestamp_us) == ("W", quiet_us + 300 * SECOND_US)


def test_a_well_is_asked_only_what_is_enabled_for_it() -> None:
    run = Run(dataclasses.replace(SETTINGS, enabled_rules=("OVERLOAD",)))
    run.then(3600)
    assert {line.split(":")[0] for line in list(run.diagnostician.explain("W"))[1:]} == {"  no  OVERLOAD"}
    run.diagnostician.pass_time(START_US + int(run.at_s * SECOND_US))
    later = START_US + int((run.at_s + 3600) * SECOND_US)
    run.diagnostician.observe(reading(run.at_s + 3590, "OTHER"))
    assert not run.diagnostician.pass_time(later)
    assert told(run.then(80, motor_temp=148, motor_current=120)) == ["raised OVERLOAD high"]


def test_one_sample_of_zeros_is_no_stop(run: Run) -> None:
    run.then(90, motor_current=120)
    assert not run.then(10, **STANDING)
    assert not run.then(60, motor_current=120)


def test_questions_can_be_read_back(run: Run) -> None:
    lines = list(run.diagnostician.explain("W"))
    assert lines[0].endswith("W: running")
    assert "  no  OVERLOAD: Does the motor draw more than its nameplate allows? load 0.7" in lines
    assert any(re.search("trip temperature. trip_margin [0-9.]+ K$", line) for line in lines)
    (low,) = (line for line in lines if line.startswith("  ?   LOW_FLOW: Is flow a fifth lower than usual? "))
    assert re.search("not known: flow_mean, .*$", low)


def test_alarms_and_how_far_they_are_can_be_read_back(run: Run) -> None:
    run.then(30, motor_current=120)
    assert list(run.diagnostician.explain("W"))[-1] == (
        "  OVERLOAD is pending: question 2 met for 20 of 60 s, in 3 readings of 2 at least"
    )
    (event,) = run.then(60, motor_current=120)
    assert list(run.diagnostician.explain("W"))[-1] == (
        f"  OVERLOAD is active since {event.payload()['raised_at']}, alarm {event.alarm_id}"
    )


@pytest.mark.parametrize(
    ("known", "missing", "bad"),
    [("current_unbalance", "voltage_unbalance", 7.0), ("voltage_unbalance", "current_unbalance", 4.0)],
)
def test_of_two_unbalances_the_one_that_is_sent_decides(run: Run, known: str, missing: str, bad: float) -> None:
    for _ in range(3):  # one noisy sample now and then
        assert not run.then(3600, **{missing: None})
        assert not run.then(10, **{known: bad, missing: None})
    assert not run.then(3600, **{missing: None})
    assert told(run.then(120, **{known: bad, missing: None})) == ["raised ELECTRICAL_FAULT high"]
    assert told(run.then(900, **{missing: None})) == ["cleared ELECTRICAL_FAULT high returned"]


def test_one_current_spike_before_the_flow_has_come_is_no_stall(run: Run) -> None:
    run.then(3600)
    run.then(1800, **STANDING)
    run.then(600, flow_rate=0.0)
    assert not run.then(10, flow_rate=0.0, motor_current=270.0)
    assert not run.then(600, flow_rate=0.0)


def test_a_missing_channel_neither_raises_nor_clears(run: Run) -> None:
    run.then(90, motor_current=120)
    assert told(run.then(86_400, motor_current=None)) == ["raised SENSOR_FAULT low"]
    assert "cleared OVERLOAD high returned" in told(run.then(320))


def test_a_value_seen_once_and_then_no_more_raises_nothing(run: Run) -> None:
    assert not run.then(10, current_unbalance=60)
    assert not run.then(1700, current_unbalance=None)


@pytest.mark.parametrize(("unknown_s", "found"), [(1800, ["raised ELECTRICAL_FAULT high"]), (7200, [])])
def test_what_was_met_once_lapses_when_nobody_can_assess_it_for_an_hour(
    run: Run, unknown_s: float, found: list[str]
) -> None:
    run.then(10, current_unbalance=7.0)
    run.then(unknown_s, current_unbalance=None)
    assert [e for e in told(run.then(10, current_unbalance=7.0)) if "ELECTRICAL" in e] == found


def test_a_bad_channel_is_not_read(run: Run) -> None:
    found: list[AlarmEvent] = []
    for _ in range(200):
        run.at_s += 10
        bad = reading(run.at_s, motor_temp=900.0)._replace(bad_channels=("motor_temp",))
        found += run.diagnostician.observe(bad)
    assert told(found) == ["raised SENSOR_FAULT low"]


def test_late_readings_are_not_read(run: Run) -> None:
    late = [reading(s, motor_current=300, flow_rate=0) for s in range(0, 3600, 10)]
    assert not [event for r in late for event in run.diagnostician.observe(r)]
    assert not run.then(600)


def test_late_readings_between_others_change_neither_delay_nor_alarm(run: Run) -> None:
    """I9: with and without them the same events, ids and evidence, from the delay to the end of the alarm."""
    alone = Run()
    alone.then(3600)
    for amperes, for_s in ((120, 90), (130, 90), (100, 600)):
        for _ in range(0, for_s, 10):
            alone.then(10, motor_current=amperes)
            run.then(10, motor_current=amperes)
            assert not run.diagnostician.observe(reading(run.at_s - 25, motor_current=300, flow_rate=0))
    assert [event.transition for event in alone.events] == ["raised", "escalated", "cleared"]
    assert run.events == alone.events


def test_a_clock_that_runs_ahead_is_set_to_the_time_of_arrival(run: Run) -> None:
    ahead = reading(run.at_s)
    told_of = run.diagnostician.observe(ahead._replace(timestamp_us=ahead.timestamp_us + 80_000 * SECOND_US))
    assert told(told_of) == ["raised CLOCK_FAULT low"]
    run.at_s += 10
    assert told(run.then(80, motor_current=120)) == ["raised OVERLOAD high"]


def test_an_on_delay_begins_anew_after_a_gap(run: Run) -> None:
    run.then(30, motor_current=120)
    run.at_s += 7200
    assert not run.then(60, motor_current=120)


def test_a_gap_ends_no_alarm(run: Run) -> None:
    run.then(90, motor_current=120)
    run.at_s += 7200
    assert not run.then(60, motor_current=120)
    assert run.diagnostician.standing()["high"] == 1


@pytest.mark.parametrize(("expected_interval_s", "found"), [(None, []), (60.0, []), (600.0, ["raised OVERLOAD high"])])
def test_what_is_a_gap_follows_from_the_interval_that_is_expected(
    expected_interval_s: float | None, found: list[str]
) -> None:
    run = Run(dataclasses.replace(SETTINGS, expected_interval_s=expected_interval_s))
    run.then(3600)
    run.then(10, motor_current=120)
    run.at_s += 1200
    assert told(run.then(10, motor_current=120)) == found


def test_what_the_pump_does_stays_as_it_was_where_neither_drive_nor_current_is_known(run: Run) -> None:
    assert not run.then(1800, vsd_frequency=None, motor_current=None)
    hot = run.then(80, vsd_frequency=None, motor_current=None, motor_temp=148)
    (event,) = (each for each in hot if each.diagnosis != "SENSOR_FAULT")
    assert told([event]) == ["raised MOTOR_OVERTEMP critical"]
    assert event.path[0] == "What does the pump do? running"


def test_nothing_is_asked_of_a_pump_that_nobody_knows_to_turn() -> None:
    run = Run()
    assert not run.then(3600, vsd_frequency=None, motor_current=None, motor_temp=148)
    assert told(run.then(80, motor_temp=148)) == ["raised MOTOR_OVERTEMP critical"]


def test_the_later_of_two_in_a_group_is_secondary(run: Run) -> None:
    found = run.then(90, motor_current=120) + run.then(90, motor_current=120, current_unbalance=6)
    assert [(event.diagnosis, event.role) for event in found] == [
        ("OVERLOAD", "primary"),
        ("ELECTRICAL_FAULT", "secondary"),
    ]


@pytest.mark.parametrize(("days", "known"), [(20, True), (29, False)])
def test_what_came_twice_in_a_week_is_known_to_come_back_for_four(days: int, known: bool) -> None:  # noqa: FBT001
    run = Run(step_s=300)
    for quiet_s in (3600, days * 86_400):
        run.then(900, motor_current=120)
        run.then(quiet_s)
    assert [event.recurring for event in run.events] == [False] * 4
    (again,) = run.then(900, motor_current=120)
    assert (again.transition, again.recurring, again.count) == ("raised", known, 3 if known else 1)


def test_what_comes_three_times_in_a_week_is_one_standing_alarm(run: Run) -> None:
    for _ in range(5):
        run.then(90, motor_current=120)
        run.then(600)
    assert told(run.events) == [
        "raised OVERLOAD high",
        "cleared OVERLOAD high returned",
        "raised OVERLOAD high",
        "cleared OVERLOAD high returned",
        "raised OVERLOAD high",
    ]
    assert (run.events[-1].recurring, run.events[-1].count) == (True, 3)
    run.step_s = 60
    assert not run.then(6.9 * 86_400)
    (cleared,) = run.then(0.2 * 86_400)
    assert (cleared.transition, cleared.count) == ("cleared", 5)


def test_twice_the_same_readings_give_the_same_ids() -> None:
    runs = [Run(), Run()]
    for run in runs:
        run.then(3600)
        run.then(90, motor_current=120)
        run.then(600)
    first, second = ([(e.event_id, e.alarm_id) for e in run.events] for run in runs)
    assert first == second
    assert len(set(first)) == 2


def test_wells_do_not_mix() -> None:
    diagnostician = Diagnostician(TREE, lambda _: SETTINGS)
    found = [
        event
        for second in range(0, 4000, 10)
        for well, amperes in (("A", 70.0), ("B", 130.0))
        for event in diagnostician.observe(reading(second, well, motor_current=amperes))
    ]
    assert {event.well_id for event in found} == {"B"}
    assert len(diagnostician) == 2


def test_the_event_says_what_was_seen_and_asked(run: Run) -> None:
    (event,) = run.then(80, motor_current=120, current_unbalance=None)
    assert event.evidence == {"load": 1.2}
    assert event.message == "The motor draws 1.20 times its nameplate current."
    assert event.path[0] == "What does the pump do? running"
    assert event.path[-1].endswith("more than its nameplate allows? yes")
    assert any(step.endswith("a quarter more than its nameplate allows? no") for step in event.path)
    assert event.telemetry_snapshot["motor_current"] == 120.0
    payload = event.payload()
    assert payload["timestamp"] == payload["raised_at"]
    assert payload["priority"] == 3
    assert all(isinstance(value, (str, int, float, bool)) for value in event.state_payload().values())


def test_without_a_nameplate_its_rules_are_off() -> None:
    run = Run(WellSettings(settle_s=600))
    run.then(3600)
    assert not run.then(600, motor_current=900, motor_temp=240)
