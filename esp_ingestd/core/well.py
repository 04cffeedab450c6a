"""One well: what it is set to, and what its readings have said so far."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

# CONTRACT §5, in order of precedence.
DIAGNOSES: Final = (
    "STALL",
    "MOTOR_OVERTEMP",
    "OVERLOAD",
    "VIBRATION",
    "ELECTRICAL_FAULT",
    "BROKEN_SHAFT",
    "DEADHEAD",
    "PUMP_OFF",
    "GAS_LOCK",
    "REVERSE_ROTATION",
    "NO_FLOW",
    "GAS_INTERFERENCE",
    "SOLIDS",
    "TUBING_LEAK",
    "INTAKE_RESTRICTION",
    "FLOWLINE_RESTRICTION",
    "SCALE",
    "PUMP_WEAR",
    "LOW_FLOW",
    "UNCLASSIFIED",
    "TRIP",
    "SENSOR_FAULT",
    "UNIT_SUSPECT",
    "CLOCK_FAULT",
    "COMM_LOSS",
)
VibrationUnit = Literal["g", "mm/s", "in/s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WellSettings:
    """What the wells file says of one well (CONTRACT §2); every key has the default of a well not listed.

    A value of None means not given: rules that need it are off for that well.
    """

    field: str = ""
    nameplate_current_a: float | None = None
    trip_temperature_c: float | None = None
    base_frequency_hz: float = 60.0
    vibration_unit: VibrationUnit = "g"
    expected_interval_s: float | None = None
    """None: learned from the readings."""
    settle_s: float = 10_800.0
    transient_hold_s: float = 3_600.0
    baseline_days: float = 3.0
    baseline_lag_h: float = 6.0
    minimum_intake_pressure_psi: float = 0.0
    """0 = off."""
    flow_range_bpd: tuple[float, float] | None = None
    """Least and greatest flow at base frequency."""
    enabled_rules: tuple[str, ...] | None = None
    """None: every rule."""
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Channel -> the unit in which this well's RTU sends it."""
