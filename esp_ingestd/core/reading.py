"""A reading: the validated values of one well at one time, and the channels that it may have.

A reading is a tuple in the order of the columns of `esp_telemetry`, so that it goes into COPY as it is.
Times are whole microseconds since 1970-01-01 UTC: exact, comparable, and what PostgreSQL stores.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

WELL_ID_PATTERN: Final = "^[A-Za-z0-9_-]{1,64}$"
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60_000_000
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 86_400_000_000


class Channel(NamedTuple):
    """One measured quantity: its name in payload and table, its unit, and what a working sensor can say."""

    name: str
    unit: str
    low: float
    high: float
    describes: str


# CONTRACT §3, in the order of the table's columns.
CHANNELS: Final = (
    Channel("flow_rate", "bbl/d", 0, 50_000, "liquid rate at surface"),
    Channel("pip", "psi", 0, 10_000, "pump intake pressure"),
    Channel("motor_current", "A", 0, 1_000, "motor current"),
    Channel("motor_temp", "degC", -20, 250, "motor winding temperature"),
    Channel("vibration", "g, mm/s or in/s (the well's vibration_unit)", 0, 50, "vibration"),
    Channel("vsd_frequency", "Hz", 0, 120, "output frequency of the variable speed drive"),
    Channel("flow_variance", "%", 0, 500, "variation of the flow as the RTU computes it"),
    Channel("torque", "N.m", 0, 10_000, "shaft torque"),
    Channel("gor", "scf/bbl", 0, 100_000, "gas-oil ratio"),
    Channel("discharge_pressure", "psi", 0, 15_000, "pump discharge pressure"),
    Channel("intake_temp", "degC", -20, 250, "fluid temperature at the intake"),
    Channel("wellhead_pressure", "psi", 0, 15_000, "wellhead (tubing) pressure"),
    Channel("casing_pressure", "psi", 0, 15_000, "casing pressure"),
    Channel("current_unbalance", "%", 0, 100, "unbalance of the phase currents"),
    Channel("voltage_unbalance", "%", 0, 100, "unbalance of the phase voltages"),
    Channel("insulation_resistance", "MOhm", 0, 10_000, "insulation resistance to ground"),
)
CHANNEL_NAMES: Final = tuple(channel.name for channel in CHANNELS)
VALUES: Final = slice(2, 2 + len(CHANNEL_NAMES))
"""Where the channels stand in a reading."""
Values = list[float | None]
"""Of one reading, in the order of CHANNELS; None where a channel was not sent. Nobody changes one in place."""


class Reading(NamedTuple):
    """One reading, ready for diagnosis and for COPY.

    A channel is None when it was absent, null, or no finite number. A channel that is named in `bad_channels`
    may still hold a number (one outside its plausible range, stored as sent): rules must not read it, except
    those on data quality.

    Units: as CHANNELS; `timestamp_us` and `received_us` in microseconds since 1970-01-01 UTC.
    """

    well_id: str
    timestamp_us: int
    flow_rate: float | None = None
    pip: float | None = None
    motor_current: float | None = None
    motor_temp: float | None = None
    vibration: float | None = None
    vsd_frequency: float | None = None
    flow_variance: float | None = None
    torque: float | None = None
    gor: float | None = None
    discharge_pressure: float | None = None
    intake_temp: float | None = None
    wellhead_pressure: float | None = None
    casing_pressure: float | None = None
    current_unbalance: float | None = None
    voltage_unbalance: float | None = None
    insulation_resistance: float | None = None
    extra: str | None = None
    """Keys that the contract does not name, and values that were no number, as JSON text."""
    bad_channels: tuple[str, ...] | None = None
    received_us: int = 0


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime, exact."""
    return (moment - EPOCH) // MICROSECOND


def to_datetime(microseconds: int) -> datetime:
    """The aware UTC datetime of `microseconds` since 1970, exact.

    Raises:
        OverflowError: outside the years 1 to 9999.
    """
    return EPOCH + timedelta(microseconds=microseconds)


def to_iso(microseconds: int) -> str:
    """ISO 8601 in UTC with a Z, as alerts carry it: `2026-11-21T03:08:00.250000Z`, no fraction where it is 0."""
    return to_datetime(microseconds).isoformat().replace("+00:00", "Z")
