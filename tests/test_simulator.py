"""The simulated field: physics that agree with what is known of real wells, and faults that look as they should."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from statistics import fmean, median, pstdev
from typing import Any

import pytest

from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.reading import CHANNEL_NAMES, SECOND_US
from esp_ingestd.core.well import WellSettings
from esp_ingestd.simulator import FAULT_KINDS, Fault, Field, parse_fault
from esp_ingestd.simulator.design import design_well, shaft_speed

START_US = 1_790_000_000 * SECOND_US
HOUR_S = 3600.0
BEGIN_S = 2 * HOUR_S
MINUTE_S = 60.0
WELLS = 9

# CONTRACT §5.
DIAGNOSES = re.findall(
    r"[A-Z_]+",
    """STALL MOTOR_OVERTEMP OVERLOAD VIBRATION ELECTRICAL_FAULT BROKEN_SHAFT DEADHEAD PUMP_OFF GAS_LOCK
    REVERSE_ROTATION NO_FLOW GAS_INTERFERENCE SOLIDS TUBING_LEAK INTAKE_RESTRICTION FLOWLINE_RESTRICTION SCALE
    PUMP_WEAR LOW_FLOW UNCLASSIFIED TRIP SENSOR_FAULT UNIT_SUSPECT CLOCK_FAULT COMM_LOSS""",
)

Series = dict[str, list[dict[str, Any]]]


def record(field: Field, until_s: float) -> Series:
    """The readings of each well until `until_s` after the start, that instant included."""
    series: Series = {well_id: [] for well_id in field.well_ids}
    while field.now_us <= START_US + until_s * SECOND_US:
        for well_id, payload in field.step():
            series[well_id].append(json.loads(payload))
    return series


def field_of(*faults: Fault, wells: int = WELLS, interval_s: float = MINUTE_S, seed: int = 1) -> Field:
    return Field(wells, start_us=START_US, seed=seed, faults=faults, interval_s=interval_s)


def with_fault(kind: str, **how: float) -> list[Fault]:
    return [Fault(kind, well=number, at_s=BEGIN_S, **how) for number in range(1, WELLS + 1)]


def features(series: list[dict[str, Any]], after_s: float, interval_s: float = MINUTE_S) -> dict[str, float]:
    """DIAGNOSIS §1: a well's channels over the quarter hour before `after_s`, against those before the fault."""
    begin = int(BEGIN_S / interval_s)
    end = int((BEGIN_S + after_s) / interval_s) + 1
    now = series[max(begin, end - int(900 / interval_s)) : end]

    def mean(name: str, readings: list[dict[str, Any]]) -> float:
        return fmean(reading[name] for reading in readings)

    def ratio(name: str) -> float:
        return mean(name, now) / mean(name, series[:begin])

    def head(readings: list[dict[str, Any]]) -> float:
        return mean("discharge_pressure", readings) - mean("pip", readings)

    currents = [reading["motor_current"] for reading in series[end - int(1800 / interval_s) : end]]
    return {
        "q": ratio("flow_rate"),
        "p": ratio("pip"),
        "a": ratio("motor_current"),
        "h": head(now) / head(series[:begin]),
        "t": mean("motor_temp", now) - mean("motor_temp", series[:begin]),
        "v": ratio("vibration"),
        "w": ratio("wellhead_pressure"),
        "torque": ratio("torque"),
        "gor": ratio("gor"),
        "cv": 100 * pstdev(currents) / fmean(currents),
        "unbalance": mean("current_unbalance", now),
        "insulation": mean("insulation_resistance", now),
    }


def medians(of_wells: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(well[name] for well in of_wells) for name in of_wells[0]}


MINUTES_AND_SIGNATURE: dict[str, tuple[float, float, Mapping[str, tuple[float, float]]]] = {
    # kind: sampling in s, minutes until looked at, feature -> range of the median well (DIAGNOSIS §1 and §7)
    "broken_shaft": (
        60,
        45,
        {"q": (0, 0), "a": (0.40, 0.50), "h": (-0.1, 0.2), "p": (1.1, 2), "cv": (0, 3), "v": (0, 0.5)},
    ),
    "deadhead": (
        60,
        45,
        {"q": (0, 0.05), "a": (0.6, 0.72), "h": (1.1, 1.45), "p": (1.1, 2), "w": (1.3, 9), "cv": (0, 3)},
    ),
    "pump_off": (60, 120, {"q": (0.4, 0.9), "a": (0.6, 0.95), "h": (1.06, 1.18), "p": (0.2, 0.8), "w": (0.4, 0.9)}),
    "gas_lock": (60, 30, {"q": (0, 0.3), "a": (0.45, 0.75), "h": (0.3, 0.7), "p": (1, 2), "gor": (1.5, 9)}),
    "gas_interference": (60, 120, {"q": (0.7, 1), "a": (0.75, 1), "h": (0.85, 1), "p": (1.06, 1.15), "cv": (8, 25)}),
    "tubing_leak": (
        60,
        120,
        {"q": (0.5, 0.85), "a": (0.97, 1.15), "h": (0.75, 0.95), "p": (1.03, 2), "w": (0.5, 0.9), "cv": (0, 4)},
    ),
    "no_flow": (60, 60, {"q": (0, 0), "a": (0.97, 1.2), "h": (0.5, 0.9), "p": (1.3, 2.3)}),
    "flowline_restriction": (
        60,
        300,
        {"q": (0.5, 0.85), "a": (0.8, 1), "h": (1.06, 1.19), "p": (1.02, 1.6), "w": (1.15, 5)},
    ),
    "intake_restriction": (60, 780, {"q": (0.5, 0.9), "a": (0.8, 0.97), "h": (0.7, 0.92), "p": (1.08, 1.6)}),
    "solids": (60, 60, {"q": (0.9, 1), "a": (1.08, 1.3), "torque": (1.1, 1.4), "v": (1.5, 6), "cv": (2.5, 15)}),
    "overload": (60, 60, {"q": (0.95, 1.02), "a": (1.3, 1.7), "p": (0.95, 1.06), "t": (10, 40)}),
    "motor_overtemp": (60, 60, {"q": (0.98, 1.02), "a": (0.97, 1.03), "t": (20, 35)}),
    "vibration": (60, 90, {"q": (0.98, 1.02), "a": (0.97, 1.06), "v": (2, 12)}),
    "electrical_fault": (60, 30, {"q": (0.98, 1.02), "unbalance": (8, 14), "insulation": (0, 2)}),
    "reverse_rotation": (60, 180, {"q": (0, 0.65), "a": (0.5, 0.95), "h": (0.65, 0.78), "p": (1.3, 2.3), "cv": (0, 5)}),
    "low_flow": (60, 300, {"q": (0.6, 0.8), "a": (0.85, 0.99), "h": (0.92, 1.0), "p": (0.9, 1.06)}),
    "unclassified": (60, 240, {"q": (1.1, 1.4), "p": (1.3, 2.2), "h": (0.7, 0.95), "a": (1, 1.15)}),
    "scale": (
        600,
        100 * 60,
        {"q": (0.7, 0.92), "a": (1.05, 1.2), "h": (0.85, 0.97), "p": (1.05, 1.4), "v": (1.2, 2.5)},
    ),
    "pump_wear": (600, 245 * 60, {"q": (0.7, 0.9), "a": (0.85, 1), "h": (0.8, 0.95), "p": (1, 1.4), "cv": (0, 5)}),
}


@pytest.mark.parametrize("kind", MINUTES_AND_SIGNATURE)
def test_fault_looks_as_it_does_on_real_wells(kind: str) -> None:
    interval_s, minutes, signature = MINUTES_AND_SIGNATURE[kind]
    after_s = minutes * 60
    series = record(field_of(*with_fault(kind), interval_s=interval_s), BEGIN_S + after_s)
    seen = medians([features(readings, after_s, interval_s) for readings in series.values()])
    out = {name: seen[name] for name, (low, high) in signature.items() if not low <= seen[name] <= high}
    assert not out, f"{kind}: {out} of {signature}"


def test_a_healthy_well_runs_steadily() -> None:
    series = record(field_of(interval_s=300), 3 * 24 * HOUR_S)
    for readings in series.values():
        flow = fmean(reading["flow_rate"] for reading in readings)
        pip = fmean(reading["pip"] for reading in readings)
        warmest = max(reading["motor_temp"] for reading in readings)
        assert all(0.9 < reading["flow_rate"] / flow < 1.1 for reading in readings)
        assert all(0.85 < reading["pip"] / pip < 1.15 for reading in readings)
        assert warmest - min(reading["motor_temp"] for reading in readings) < 6


def test_the_current_of_a_healthy_well_varies_as_measured() -> None:
    series = record(field_of(wells=20), 6 * HOUR_S)
    spreads = [
        100 * pstdev(window) / fmean(window)
        for readings in series.values()
        for at in range(0, 360, 30)
        if (window := [reading["motor_current"] for reading in readings[at : at + 30]])
    ]
    assert 1.0 < median(spreads) < 2.2  # DIAGNOSIS §1.3: 1.5 to 2.0 % on steady wells


def test_wells_vary_in_size() -> None:
    sizes = sorted(well.design.flow_bpd / 2000 for well in field_of(wells=200).wells)
    assert 0.3 <= sizes[0] < 0.4
    assert 3 < sizes[-1] <= 4


def test_torque_agrees_with_a_known_pump() -> None:
    # DIAGNOSIS §7: about 270 N.m for 2000 bbl/d at 3000 psi; shaft power is proportional to both.
    torques = []
    for number in range(100):
        design = design_well(f"torque/{number}")
        at_60_hz = design.pump.torque_nm(design.flow_bpd, design.hz) * shaft_speed(design.hz) / shaft_speed(60)
        torques.append(at_60_hz * (2000 / design.flow_bpd) * (3000 / design.head_psi))
    assert 255 < median(torques) < 295


def test_loss_of_cooling_warms_by_half_a_kelvin_a_minute() -> None:
    series = record(field_of(*with_fault("motor_overtemp", severity=2, ramp_s=0)), BEGIN_S + 600)
    rates = [(readings[130]["motor_temp"] - readings[120]["motor_temp"]) / 10 for readings in series.values()]
    assert 0.5 <= median(rates) <= 0.7


def test_a_motor_without_cooling_comes_to_its_trip_temperature() -> None:
    field = field_of(*with_fault("motor_overtemp"))
    record(field, BEGIN_S + 8 * HOUR_S)
    assert all(well.motor_c > well.design.motor.trip_c - 5 for well in field.wells)


def test_a_broken_shaft_warms_the_motor() -> None:
    series = record(field_of(*with_fault("broken_shaft")), BEGIN_S + 6 * HOUR_S)
    warming = [features(readings, 6 * HOUR_S)["t"] for readings in series.values()]
    assert 5 < median(warming) < 17


def test_a_choke_that_leaves_seven_tenths_of_the_flow() -> None:
    # DIAGNOSIS §7: h of 1.14 to 1.19 and wellhead pressure 3 to 4 times normal at q = 0.7.
    series = record(field_of(*with_fault("flowline_restriction", severity=1.02, ramp_s=0)), BEGIN_S + 4 * HOUR_S)
    seen = [features(readings, 4 * HOUR_S) for readings in series.values()]
    near = medians([well for well in seen if 0.62 < well["q"] < 0.78])
    assert 1.12 <= near["h"] <= 1.20
    assert 2.8 <= near["w"] <= 4.4


def test_wear_takes_more_flow_than_head() -> None:
    series = record(field_of(*with_fault("pump_wear", ramp_s=0), interval_s=300), BEGIN_S + 6 * HOUR_S)
    seen = medians([features(readings, 6 * HOUR_S, 300) for readings in series.values()])
    assert 1.5 < (1 - seen["q"]) / (1 - seen["h"]) < 3


def test_overload_goes_over_nameplate() -> None:
    field = field_of(*with_fault("overload"))
    record(field, BEGIN_S + HOUR_S)
    assert all(well.current_a > 1.15 * well.design.motor.nameplate_a for well in field.wells)


def test_a_stalled_motor_draws_the_stall_current_at_each_start() -> None:
    field = field_of(*with_fault("stall"), interval_s=10)
    series = record(field, BEGIN_S + HOUR_S)
    for readings, well in zip(series.values(), field.wells, strict=True):
        tries = [
            reading for reading in readings[720:] if reading["motor_current"] > 2.5 * well.design.motor.nameplate_a
        ]
        assert len(tries) == 5 * 9
        assert all(reading["flow_rate"] == 0 for reading in tries)
        assert readings[-1]["motor_current"] == 0


def test_gas_lock_is_preceded_by_instability() -> None:
    series = record(field_of(*with_fault("gas_lock"), interval_s=10), BEGIN_S + HOUR_S)
    for readings in series.values():
        currents = [reading["motor_current"] for reading in readings[720:]]
        spreads = [100 * pstdev(part) / fmean(part) for at in range(0, 360, 30) if (part := currents[at : at + 30])]
        assert max(spreads[:6]) > 8


def test_a_locked_pump_stays_locked_under_gas_that_it_would_else_lift() -> None:
    slugs = with_fault("gas_interference", ramp_s=0)
    lock = with_fault("gas_lock", ramp_s=0, duration_s=HOUR_S)
    flows = []
    for faults in (slugs, slugs + lock):
        series = record(field_of(*faults), BEGIN_S + 1.75 * HOUR_S)
        flows.append(median(features(readings, 1.75 * HOUR_S)["q"] for readings in series.values()))
    assert flows[0] > 0.7
    assert flows[1] < 0.3


def test_a_trip_is_sudden_and_a_planned_stop_a_ramp() -> None:
    faults = (Fault("trip", well=1, at_s=600), Fault("planned_stop", well=2, at_s=600))
    series = record(field_of(*faults, interval_s=1, wells=2), 900)
    before, at_trip = series["WELL-001"][599:601]
    assert before["vsd_frequency"] > 40
    assert (at_trip["vsd_frequency"], at_trip["motor_current"], at_trip["flow_rate"]) == (0, 0, 0)
    ramp = [reading["vsd_frequency"] for reading in series["WELL-002"][600:]]
    assert ramp[-1] == 0
    assert 60 < sum(frequency > 0 for frequency in ramp) < 200
    assert all(later <= earlier + 0.1 for earlier, later in pairwise(ramp))


def test_a_trip_is_sudden_too_after_a_planned_stop() -> None:
    faults = (Fault("planned_stop", well=1, at_s=600), Fault("trip", well=1, at_s=4 * HOUR_S))
    (readings,) = record(field_of(*faults, interval_s=60, wells=1), 4.1 * HOUR_S).values()
    assert [readings[at]["vsd_frequency"] > 40 for at in (239, 240)] == [True, False]
    assert readings[240]["vsd_frequency"] == 0


def test_a_well_that_stands_goes_to_static_and_starts_again() -> None:
    field = field_of(Fault("planned_stop", at_s=BEGIN_S), wells=1)
    (readings,) = record(field, BEGIN_S + 8 * HOUR_S).values()
    (well,) = field.wells
    standing, running = readings[120 + 115], readings[-1]
    assert standing["pip"] > 0.9 * well.design.reservoir_psi
    assert standing["motor_temp"] < readings[0]["motor_temp"] - 5
    assert running["flow_rate"] == pytest.approx(readings[0]["flow_rate"], rel=0.08)
    assert running["pip"] == pytest.approx(readings[0]["pip"], rel=0.12)


def test_faults_end_with_their_duration() -> None:
    (readings,) = record(field_of(Fault("deadhead", at_s=600, duration_s=600), wells=1), 1800).values()
    assert readings[15]["flow_rate"] < 0.05 * readings[0]["flow_rate"]
    assert readings[21]["flow_rate"] > 0.95 * readings[0]["flow_rate"]


def test_severity_scales_a_fault() -> None:
    faults = [Fault("tubing_leak", well=1, at_s=60, ramp_s=0, severity=severity) for severity in (0, 0.5, 1)]
    flows = [record(field_of(fault, wells=1), 120)["WELL-001"][2]["flow_rate"] for fault in faults]
    assert flows[0] > flows[1] > flows[2]


@pytest.mark.parametrize("kind", ["broken_shaft", "deadhead", "pump_off", "tubing_leak"])
def test_the_sampling_interval_does_not_change_the_physics(kind: str) -> None:
    ends = []
    for interval_s in (10, 60, 1200):
        field = field_of(*with_fault(kind), interval_s=interval_s)
        record(field, BEGIN_S + 4 * HOUR_S)
        ends.append([(well.pip_psi / well.design.pip_psi, well.motor_c) for well in field.wells])
    for others in ends[1:]:
        for (pip, motor_c), (other_pip, other_c) in zip(ends[0], others, strict=True):
            assert other_pip == pytest.approx(pip, abs=0.08)
            assert other_c == pytest.approx(motor_c, abs=2)


def test_a_frozen_gauge_repeats_while_the_drive_moves() -> None:
    (readings,) = record(field_of(Fault("sensor_fault", at_s=600), wells=1), 1800).values()
    gauge = ("pip", "motor_temp", "vibration", "discharge_pressure", "intake_temp")
    assert len({tuple(reading[name] for name in gauge) for reading in readings[10:]}) == 1
    assert len({reading["motor_current"] for reading in readings[10:]}) > 10


def test_a_dead_gauge_sends_nonsense() -> None:
    (readings,) = record(field_of(Fault("sensor_dead", at_s=60), wells=1), 120).values()
    assert (readings[1]["pip"], readings[1]["motor_temp"], readings[1]["discharge_pressure"]) == (0, 6361, None)


def test_a_unit_mistake_sends_kilopascals() -> None:
    (readings,) = record(field_of(Fault("unit_suspect", at_s=60), wells=1), 120).values()
    for name in ("pip", "discharge_pressure", "wellhead_pressure"):
        assert readings[1][name] / readings[0][name] == pytest.approx(6.895, rel=0.05)


def test_a_wrong_clock_runs_ahead() -> None:
    (readings,) = record(field_of(Fault("clock_fault", at_s=60), wells=1), 120).values()
    assert readings[0]["timestamp"] == "2026-09-21T14:13:20Z"
    assert readings[1]["timestamp"] == "2026-09-21T15:14:20Z"


def test_a_lost_link_says_nothing() -> None:
    series = record(field_of(Fault("comm_loss", well=1, at_s=60, duration_s=120), wells=2), 240)
    assert [len(readings) for readings in series.values()] == [3, 5]


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_every_kind_does_something_and_only_to_its_well(kind: str) -> None:
    healthy = record(field_of(wells=2), HOUR_S)
    ill = record(field_of(Fault(kind, well=1, at_s=300, ramp_s=0), wells=2), HOUR_S)
    assert ill["WELL-001"][:5] == healthy["WELL-001"][:5]
    assert ill["WELL-001"] != healthy["WELL-001"]
    assert ill["WELL-002"] == healthy["WELL-002"]


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_payloads_are_what_the_contract_says(kind: str) -> None:
    decoder = Decoder(["esp/{well_id}/telemetry"])
    field = field_of(Fault(kind, well=1, at_s=0, severity=1.5), wells=1, interval_s=30)
    for _ in range(240):
        received_us = field.now_us
        for well_id, payload in field.step():
            (reading,) = decoder.decode(f"esp/{well_id}/telemetry", payload, received_us).readings
            assert reading.extra is None
            if kind not in {"sensor_dead", "unit_suspect"}:
                assert reading.bad_channels is None
                assert None not in reading[2 : 2 + len(CHANNEL_NAMES)]


def test_the_same_field_gives_the_same_bytes() -> None:
    first, again, other = (field_of(Fault("solids", at_s=5), seed=seed, interval_s=1) for seed in (1, 1, 2))
    for _ in range(20):
        readings = list(first.step())
        assert readings == list(again.step())
        assert readings != list(other.step())


def test_event_time_advances_by_the_interval() -> None:
    field = field_of(wells=1, interval_s=0.1)
    stamps = [json.loads(payload)["timestamp"] for _ in range(3) for _, payload in field.step()]
    assert stamps == ["2026-09-21T14:13:20Z", "2026-09-21T14:13:20.100000Z", "2026-09-21T14:13:20.200000Z"]


def test_ids_are_as_long_as_the_field_needs() -> None:
    assert field_of(wells=3).well_ids == ("WELL-001", "WELL-002", "WELL-003")
    assert field_of(wells=1000).well_ids[0] == "WELL-0001"


def test_the_wells_file_names_every_well() -> None:
    field = field_of(wells=3)
    settings = tomllib.loads(field.wells_toml())
    allowed = {field.name for field in fields(WellSettings)}
    assert set(settings["defaults"]) <= allowed
    assert tuple(settings["wells"]) == field.well_ids
    for well, keys in zip(field.wells, settings["wells"].values(), strict=True):
        assert set(keys) <= allowed
        assert keys["nameplate_current_a"] == well.design.motor.nameplate_a
        assert keys["trip_temperature_c"] == well.design.motor.trip_c
        low, high = keys["flow_range_bpd"]
        assert low < well.design.flow_bpd * well.design.pump.base_hz / well.design.hz < high


def test_every_diagnosis_can_be_entered() -> None:
    assert {name.lower() for name in DIAGNOSES} | {"planned_stop", "sensor_dead"} == set(FAULT_KINDS)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("gas_lock", Fault("gas_lock")),
        ("GAS_LOCK:WELL-003@600", Fault("gas_lock", well="WELL-003", at_s=600)),
        ("scale:3@2h*1.5", Fault("scale", well=3, at_s=7200, severity=1.5)),
        (" trip@1.5m ", Fault("trip", at_s=90)),
        ("deadhead*0.5", Fault("deadhead", severity=0.5)),
        ("pump_wear@2d", Fault("pump_wear", at_s=172_800)),
    ],
)
def test_faults_are_read_from_text(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize("text", ["", "gaslock", "gas_lock@", "gas_lock@soon", "gas_lock:WELL 3", "gas_lock*-1"])
def test_a_fault_that_is_none_is_answered_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"gas_lock.*planned_stop"):
        parse_fault(text)


@pytest.mark.parametrize("well", ["WELL-004", 0, 4])
def test_a_fault_of_a_well_that_is_not_there(well: str | int) -> None:
    with pytest.raises(ValueError, match="this field has WELL-001 to WELL-003"):
        field_of(Fault("trip", well=well), wells=3)


def test_faults_that_name_no_well_go_to_different_wells() -> None:
    series = record(field_of(Fault("trip"), Fault("trip"), wells=3), 0)
    assert [readings[0]["motor_current"] > 0 for readings in series.values()] == [False, False, True]


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_fault_with_a_number_that_makes_no_sense(value: float) -> None:
    with pytest.raises(ValueError, match="at_s of fault trip"):
        Fault("trip", at_s=value)
    with pytest.raises(ValueError, match="severity of fault trip"):
        Fault("trip", severity=value)
    with pytest.raises(ValueError, match="duration_s of fault trip"):
        Fault("trip", duration_s=value)


@pytest.mark.parametrize(("wells", "interval_s"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_a_field_that_cannot_be(wells: int, interval_s: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        field_of(wells=wells, interval_s=interval_s)
