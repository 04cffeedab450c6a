"""One well: what it is set to, and what its readings have said so far.

Operating state, from drive frequency and motor current:

    off --> starting --> warm-up --> running <--> transient
     ^          |           |           |             |
     +----------+-----------+-----------+-------------+--> trip (a stop that nobody asked for), then as off

    1. A pump turns if the drive puts out 5 Hz or the motor draws more than a tenth of its current. Both must say
       no before the well counts as stopped; where one channel is not known the other decides, and where neither is
       the state stays as it was.
    2. A start is `starting` for a minute, then `warm-up` until the well has settled.
    3. A change of frequency by 1 Hz or 2 % is `transient` for as long as the well takes to follow.
    4. One reading that shows a stopped pump between two that show it turning was no stop.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from esp_ingestd.core.feature import NAN, OFF, RUNNING, STARTING, TRANSIENT, TRIP, UNKNOWN, WARM_UP
from esp_ingestd.core.reading import CHANNEL_NAMES, SECOND_US, Reading

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


TURNING_HZ: Final = 5.0
IDLE_A: Final = 2.0
IDLE_LOAD: Final = 0.10
STARTING_US: Final = 60 * SECOND_US
CLOCK_AHEAD_US: Final = 120 * SECOND_US
SILENCE_US: Final = 300 * SECOND_US
HOLD_US: Final = 900 * SECOND_US
"""A channel that is missing keeps its last value this long at least: RTUs report by exception."""
_CHANNEL_PLACE: Final = {name: place for place, name in enumerate(CHANNEL_NAMES)}
_FLOW: Final = _CHANNEL_PLACE["flow_rate"]
_HERTZ: Final = _CHANNEL_PLACE["vsd_frequency"]
_CHANNELS: Final = slice(2, 2 + len(CHANNEL_NAMES))


_REMEMBERED: Final = (
    "last_us",
    "received_us",
    "interval_us",
    "gap",
    "state",
    "started_us",
    "changed_us",
    "_steady_hz",
    "_running_a",
    "_off_samples",
    "_resume_us",
)
"""Of a well, what outlives a restart; the rest follows from its settings."""


class Well:
    """What is known of one well after the readings seen so far.

    `take` works it in and returns the features of that instant. Readings older than the newest are not taken: they
    are late, and nothing here goes back in time.
    """

    __slots__ = (
        "_held",
        "_idle_a",
        "_missing_since",
        "_nameplate_a",
        "_off_samples",
        "_resume_us",
        "_running_a",
        "_steady_hz",
        "_trip_c",
        "changed_us",
        "gap",
        "interval_us",
        "last_us",
        "received_us",
        "settings",
        "started_us",
        "state",
        "well_id",
    )

    def __init__(self, well_id: str, settings: WellSettings) -> None:
        self.well_id = well_id
        self.last_us = 0
        self.received_us = 0
        self.interval_us = 0
        """The usual time between two readings; 0 until two were seen."""
        self.gap = False
        """The reading before the present one was too long ago to continue from."""
        self.state = UNKNOWN
        self.started_us = 0
        self.changed_us = 0
        self._steady_hz = NAN
        self._running_a = NAN
        self._off_samples = 0
        self._resume_us = 0
        self._held: tuple[float, ...] = (NAN,) * len(CHANNEL_NAMES)
        self._missing_since: dict[int, int] = {}
        self.configure(settings)

    def configure(self, settings: WellSettings) -> None:
        """Take new settings; what was learned stays."""
        self.settings = settings
        nameplate, trip = settings.nameplate_current_a, settings.trip_temperature_c
        self._nameplate_a = NAN if nameplate is None else nameplate
        self._trip_c = NAN if trip is None else trip
        self._idle_a = IDLE_A if nameplate is None else max(IDLE_A, IDLE_LOAD * nameplate)
        if settings.expected_interval_s:
            self.interval_us = int(settings.expected_interval_s * SECOND_US)

    @property
    def stopped(self) -> bool:
        """The pump stands, and more than one reading has said so."""
        return self._off_samples > 1

    def remember(self) -> list[Any]:
        """All that was learned, as JSON values; `recall` takes it back."""
        missing = {str(place): since_us for place, since_us in self._missing_since.items()}
        return [*(getattr(self, name) for name in _REMEMBERED), list(self._held), missing]

    def recall(self, remembered: Sequence[Any]) -> None:
        """Take back what `remember` gave."""
        *values, held, missing = remembered
        for name, value in zip(_REMEMBERED, values, strict=True):
            setattr(self, name, value)
        self._held = tuple(held)
        self._missing_since = {int(place): since_us for place, since_us in missing.items()}

    def silence_us(self) -> int:
        """How long the well may be silent."""
        return max(3 * self.interval_us, SILENCE_US)

    def take(self, reading: Reading) -> list[float] | None:
        """Work in a reading; its instant features in the order of FEATURES, or None if it is late."""
        now_us = reading[1]
        received_us = reading[-1]
        if received_us:
            self.received_us = received_us
            if now_us > received_us + CLOCK_AHEAD_US:
                now_us = received_us
        else:
            self.received_us = now_us
        if now_us <= self.last_us:
            return None
        values: Any = reading[_CHANNELS]
        if reading[-2] is not None:
            values = _without(values, reading[-2])
        if None in values:
            self._held, values = self._fill(values, now_us)
        else:
            self._held = values
        self._keep_time(now_us)
        flow, _, amperes, temperature, _, hertz, _, _, _, _, _, _, _, amperes_off, volts_off, insulation = values
        self._operate(now_us, hertz, amperes)
        self.last_us = now_us
        return [
            hertz,
            amperes,
            temperature,
            flow,
            amperes / self._nameplate_a,
            self._trip_c - temperature,
            amperes_off,
            volts_off,
            insulation,
        ]

    def _fill(self, values: tuple[float | None, ...], now_us: int) -> tuple[tuple[float, ...], list[float]]:
        """Where a channel is missing: its last value, if not too old, to remember; NaN, to judge this instant by.

        Drive frequency and flow, which only say in what circumstances the others were measured, are judged by as
        they were last known.
        """
        hold_us = max(3 * self.interval_us, HOLD_US)
        held, since = self._held, self._missing_since
        filled = []
        for place, value in enumerate(values):
            if value is not None:
                if place in since:
                    del since[place]
                filled.append(value)
                continue
            last = held[place]
            if last == last and now_us - since.setdefault(place, self.last_us) > hold_us:  # noqa: PLR0124  (not NaN)
                last = NAN
            filled.append(last)
        fresh = [NAN if value is None else value for value in values]
        fresh[_FLOW], fresh[_HERTZ] = filled[_FLOW], filled[_HERTZ]
        return tuple(filled), fresh

    def _keep_time(self, now_us: int) -> None:
        if not self.last_us:
            self.gap = False
            return
        step_us = now_us - self.last_us
        self.gap = step_us > self.silence_us() and self.interval_us > 0
        if self.settings.expected_interval_s:
            return
        if not self.interval_us:
            self.interval_us = step_us
        else:
            # A tenth of the way, and never far at once: a gap is no change of the sampling rate.
            self.interval_us += (min(step_us, 3 * self.interval_us) - self.interval_us) // 10

    def _operate(self, now_us: int, hertz: float, amperes: float) -> None:
        state = self.state
        if hertz >= TURNING_HZ or amperes > self._idle_a:
            if state == RUNNING and not abs(hertz - self._steady_hz) >= max(1.0, 0.02 * self._steady_hz):
                return
            self._turn(now_us, hertz)
        elif hertz < TURNING_HZ or amperes <= self._idle_a:
            self._stand()

    def _turn(self, now_us: int, hertz: float) -> None:
        if self.state in (UNKNOWN, OFF, TRIP):
            self._start(now_us)
        if not abs(hertz - self._steady_hz) < max(1.0, 0.02 * self._steady_hz) and hertz == hertz:  # noqa: PLR0124
            self._steady_hz = hertz
            self.changed_us = now_us
        since_us = now_us - self.started_us
        if since_us < STARTING_US:
            self.state = STARTING
        elif since_us < self.settings.settle_s * SECOND_US:
            self.state = WARM_UP
        elif now_us - self.changed_us < self.settings.transient_hold_s * SECOND_US:
            self.state = TRANSIENT
        else:
            self.state = RUNNING

    def _start(self, now_us: int) -> None:
        # Seen turning at first sight, it may have started just now.
        self.started_us = self._resume_us if self._off_samples == 1 else now_us
        self._off_samples = 0

    def _stand(self) -> None:
        if self.state not in (UNKNOWN, OFF, TRIP):
            self._resume_us = self.started_us
            self._off_samples = 0
        self._off_samples += 1
        self.state = OFF


def _without(values: tuple[float | None, ...], bad_channels: tuple[str, ...]) -> tuple[float | None, ...]:
    """The values but for the channels named bad, which no rule may read."""
    kept = list(values)
    for name in bad_channels:
        kept[_CHANNEL_PLACE[name]] = None
    return tuple(kept)
