from __future__ import annotations

import pytest

from esp_ingestd.core.reading import CHANNEL_NAMES, CHANNELS, Reading, to_datetime, to_iso, to_microseconds
from esp_ingestd.core.unit import CHANNEL_CONVERSIONS, CONVERSIONS


@pytest.mark.parametrize(
    ("channel", "unit", "sent", "expected"),
    [
        ("pip", "Pa", 101_325, 14.69594878),
        ("pip", "kPa", 101.325, 14.69594878),
        ("discharge_pressure", "MPa", 20, 2_900.75476),
        ("wellhead_pressure", "bar", 1, 14.5037738),
        ("casing_pressure", "kgf/cm2", 1, 14.22334331),
        ("motor_temp", "degF", -40, -40),
        ("motor_temp", "degF", 212, 100),
        ("intake_temp", "K", 273.15, 0),
        ("flow_rate", "m3/d", 1, 6.289810770),
        ("flow_rate", "m3/h", 1, 150.9554585),
        ("flow_rate", "l/s", 1, 543.4396505),
        ("torque", "lbf.ft", 1, 1.3558179483),
        ("torque", "kN.m", 1, 1_000),
        ("gor", "m3/m3", 1, 5.614583333),
        ("insulation_resistance", "Ohm", 1e6, 1),
        ("insulation_resistance", "kOhm", 1e3, 1),
        ("insulation_resistance", "GOhm", 1, 1_000),
        ("motor_current", "mA", 1_000, 1),
        ("vsd_frequency", "rpm", 3_600, 60),
        ("current_unbalance", "1", 0.02, 2),
    ],
)
def test_conversions(channel: str, unit: str, sent: float, expected: float) -> None:
    assert CHANNEL_CONVERSIONS[channel][unit].apply(sent) == pytest.approx(expected, rel=1e-8)


def test_the_contracts_own_unit_changes_nothing() -> None:
    for channel in CHANNELS:
        if channel.unit in CONVERSIONS:
            assert CHANNEL_CONVERSIONS[channel.name][channel.unit].apply(0.1) == 0.1


def test_vibration_is_in_the_wells_own_unit_and_is_not_converted() -> None:
    assert [name for name, units in CHANNEL_CONVERSIONS.items() if not units] == ["vibration"]


def test_a_reading_has_the_channels_in_their_order() -> None:
    assert Reading._fields == ("well_id", "timestamp_us", *CHANNEL_NAMES, "extra", "bad_channels", "received_us")


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_795_000_000_250_000, "2026-11-18T11:06:40.250000Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_exact_there_and_back(microseconds: int, text: str) -> None:
    assert to_iso(microseconds) == text
    assert to_microseconds(to_datetime(microseconds)) == microseconds
