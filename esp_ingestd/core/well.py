"""One well: what it is set to, and what its readings have said so far.

Operating state, from drive frequency and motor current:

    off --> starting --> warm-up --> running <--> transient
     ^          |           |           |             |
     +----------+-----------+-----------+-------------+--> trip (a stop that nobody asked for), then as off

    1. A pump turns if the drive puts out 5 Hz or the motor draws more than a tenth of its current. Both must say
       no before the well counts as stopped; where one channel is not known the other decides, and where neither is
       the state stays as it was.
    2. A start is `starting` for a minute, then `warm-up` until the well has settled.
    3. A change of frequency by 1 Hz or 2 % within a quarter of an hour is `transient` for as long as the well takes to
       follow. A slower one, of a drive that holds pressure or current, the well follows as it goes.
    4. One reading that shows a stopped pump between two that show it turning was no stop, unless the intake had filled
       meanwhile: at rare readings a stop may be seen but once.
    5. A drive that is told to stop ramps down, or was slowed by a fifth in the two hours before. A stop is surely a
       trip where readings are so close that a ramp would have been seen, and nearly so where an alarm stood, or was
       about to on a well that seldom stops so. Where no drive reports, or a ramp could have been missed, it may be one
       if the pump ran settled and at full speed ten minutes before and has not stopped without a ramp for ten days: a
       well that does does so by habit. How sure is sure enough, the tree says.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Literal

from esp_ingestd.core.baseline import (
    AMPERES,
    AMPERES_CV,
    DOUBTS,
    FLOW,
    FLOW_CV,
    HEAD,
    PIP,
    ROOM,
    SHAKE,
    TEMP,
)
from esp_ingestd.core.cadence import Cadence
from esp_ingestd.core.clock import AHEAD_US, LAG_US, Clock
from esp_ingestd.core.feature import (
    FEATURE_INDEX,
    FEATURES,
    INSTANT_COUNT,
    NAN,
    OFF,
    RUNNING,
    STARTING,
    TRANSIENT,
    TRIP,
    UNKNOWN,
    WARM_UP,
)
from esp_ingestd.core.learning import Learning
from esp_ingestd.core.quality import (
    AMPERES_AT,
    FLOW_AT,
    HERTZ_AT,
    INSULATION_AT,
    PIP_AT,
    TEMP_AT,
    UNBALANCE_A_AT,
    UNBALANCE_V_AT,
    Quality,
    without,
    without_zeros,
)
from esp_ingestd.core.reading import DAY_US, MINUTE_US, SECOND_US, VALUES, Reading, Values
from esp_ingestd.core.shift import Shifts
from esp_ingestd.core.trend import Trend
from esp_ingestd.core.window import STEP_US, Window

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
LONG_GAP_US: Final = 1800 * SECOND_US
COOLED_K: Final = 2.0
"""A real motor cools by that in minutes, and needs half an hour to an hour to be as warm again."""
RAMP_US: Final = 600 * SECOND_US
RAMP_READINGS: Final = 3.0
RAMPED: Final = 0.97
RAMPED_CURRENT: Final = 0.9
"""Of its speed, or of its current where no drive reports: below that a pump was on its way down."""
RAMP_END_HZ: Final = 0.5
"""What a standing drive still puts out where the ramp is seen at its end; one that tripped puts out nothing."""
RAMP_LEAST_US: Final = 15 * SECOND_US
"""No drive ramps a pump down faster than that."""
HELD_SPEED: Final = 0.6
"""Of base frequency: nobody lifts at that, so that a settled pump was brought there to be stopped."""
SURGE: Final = 1.2
"""Of the usual current."""
SURE_READINGS: Final = 2
"""So many readings make a stop sure."""
FILLS: Final = 1.05
FINE_US: Final = 75 * SECOND_US
"""Readings at least this close show whether a drive was ramped down before it stopped."""
SPARSE_US: Final = 660 * SECOND_US
"""Readings at least this close show most ramps; at rarer ones a stop by itself says nothing."""
HABIT_US: Final = 864_000 * SECOND_US
"""A well that stops twice within this without a ramp does so by habit; where one could have been missed, at all."""
SURE: Final = 1.0
AILING: Final = 0.9
CLOSE: Final = 0.8
LIKELY: Final = 0.6
HABITUAL: Final = 0.3
"""How sure it is that nobody asked for a stop: a ramp would have been seen; the pump ailed; its current showed none,
where no drive reports; a ramp could have been missed; and so it was before."""
DRIFT_US: Final = 900 * SECOND_US
"""A change of speed that took longer is no step."""
LOST_FLOW: Final = 0.5
LOST_HEAD: Final = 0.5
LOST_CURRENT: Final = 0.65
LOST_PIP: Final = 0.6
"""Of what is expected at a speed that is new to the well: no speed does that, an illness does."""
FALLING: Final = 0.10
"""Of what is left of intake pressure, in an hour: the well still follows a change of speed, or fails to."""
UNREST: Final = 3.0
UNREST_LEAST: Final = 5.0
"""Times its usual variation of the current, and in %: with an intake that empties, a pump that runs dry."""
FOLLOWED_US: Final = DAY_US
"""By then a reservoir has followed."""
LOWERED: Final = 0.8
LOWERED_US: Final = 7_200 * SECOND_US
"""A pump that was slowed by so much, not longer ago than this, was on its way to be stopped."""
STEADY_US: Final = 300 * SECOND_US
FULL_STEP_US: Final = STEP_US - 5 * SECOND_US
"""From then on a step may end: readings come a little early or late."""
NOTHING: Final = 0.05
"""Of the usual flow."""
HEALTHY_FLOW: Final = 0.8
HEALTHY_HEAD: Final = 0.85
HEALTHY_PIP: Final = 1.2
"""A pump that lifts against a full annulus has not shown yet that it draws it down."""
LIFTING_US: Final = 1800 * SECOND_US
PROVEN_US: Final = 10_800 * SECOND_US
"""From its settling on, a run that does not lift as it should teaches nothing for so long: it may turn backwards."""
NEAR_DOUBT: Final = 0.035
"""Of a baseline moved by two hertz. Of one moved further nobody knows what the pump should lift."""
ASTRAY: Final = 0.15
SHAKE_FLOOR: Final = {"g": 0.5, "mm/s": 2.5, "in/s": 0.1}
_STRAYING: Final = [FLOW, HEAD, PIP, AMPERES]
_RATIO: Final = FEATURE_INDEX["flow_ratio"]
_MEAN: Final = FEATURE_INDEX["flow_mean"]
_REFERENCE: Final = FEATURE_INDEX["flow_reference"]
_REST: Final = FEATURE_INDEX["current_cv"]

LATE: Final = 0
TAKEN: Final = 1
WORKED: Final = 2
"""What became of a reading: it was late; its instant is known; the windows were worked out too."""


_REMEMBERED: Final = (
    "last_us",
    "received_us",
    "_cadence.interval_us",
    "_cadence.step_us",
    "_cadence.longest_quiet_us",
    "_cadence.usual_quiet_us",
    "_cadence.gap",
    "alarmed",
    "troubled",
    "state",
    "started_us",
    "_changed_us",
    "_steady_hz",
    "_before_hz",
    "_hertz_doubted",
    "_speed",
    "_peak_speed",
    "_peak_us",
    "_stopped_us",
    "_off_readings",
    "_resume_us",
    "_learning.frame_us",
    "_learning.frames",
    "features",
    "_stopped_before_us",
    "_cadence.lost",
    "_cadence.missed",
    "_mark_hz",
    "_mark_us",
    "_earlier_hz",
    "_peak_before",  # an earlier version kept a count here; it is in the next place
    "_peak_before",
)
"""Of a well, what outlives a restart as it is; the rest follows from its settings. New ones at the end, so that what an
earlier version remembered can be taken back."""


class Well:
    """What is known of one well after the readings seen so far.

    `take` works a reading in; `features` are then what the tree may ask about. Readings older than the newest are not
    taken: they are late, and nothing here goes back in time.
    """

    __slots__ = (
        "_base_hz",
        "_before_hz",
        "_cadence",
        "_changed_us",
        "_clock",
        "_earlier_hz",
        "_hertz_doubted",
        "_hold_us",
        "_idle_a",
        "_learning",
        "_least_psi",
        "_mark_hz",
        "_mark_us",
        "_nameplate_a",
        "_off_readings",
        "_peak_before",
        "_peak_speed",
        "_peak_us",
        "_quality",
        "_resume_us",
        "_settle_us",
        "_shake_floor",
        "_speed",
        "_steady_hz",
        "_stopped_before_us",
        "_stopped_us",
        "_trend",
        "_trip_c",
        "_window",
        "alarmed",
        "features",
        "last_us",
        "learns",
        "received_us",
        "settings",
        "started_us",
        "state",
        "troubled",
        "well_id",
    )

    def __init__(self, well_id: str, settings: WellSettings) -> None:
        self.well_id = well_id
        self.features = [NAN] * len(FEATURES)
        """In the order of FEATURES; one list for the well's life."""
        self.last_us = 0
        self.received_us = 0
        self.alarmed = False
        """A process alarm stands. Set by the diagnostician."""
        self.troubled = False
        """A process alarm is pending or stands: nothing is learned meanwhile. Set by the diagnostician."""
        self.state = UNKNOWN
        self.started_us = 0
        self._changed_us = 0
        self._steady_hz = NAN
        self._before_hz = NAN
        """What it turned at before it was changed, or lowered step by step."""
        self._hertz_doubted = NAN
        self._mark_hz = NAN
        """What it turned at at `_mark_us`, less than a quarter of an hour or one reading ago."""
        self._mark_us = 0
        self._earlier_hz = NAN
        """The mark before that."""
        self._speed = NAN
        """Of the last reading that turned, Hz; where no drive reports, its current, A."""
        self._peak_speed = 0.0
        """Its highest speed since `_peak_us`: ten minutes, or three readings."""
        self._peak_us = 0
        self._peak_before = 0.0
        """Its highest speed in the ten minutes before those."""
        self._stopped_us = 0
        self._stopped_before_us = 0
        """The last two stops for which no ramp was seen."""
        self._off_readings = 0
        self._resume_us = 0
        self._clock = Clock()
        self._cadence = Cadence()
        self._learning = Learning()
        self._quality = Quality()
        self._window = Window()
        self._trend = Trend()
        self.learns = True
        """Whether windows and baselines are kept; not where all that is asked can be judged at an instant."""
        self.configure(settings)

    def configure(self, settings: WellSettings) -> None:
        """Take new settings; what was learned stays."""
        self.settings = settings
        nameplate, trip = settings.nameplate_current_a, settings.trip_temperature_c
        self._nameplate_a = NAN if nameplate is None else nameplate
        self._trip_c = NAN if trip is None else trip
        self._shake_floor = SHAKE_FLOOR[settings.vibration_unit]
        self._least_psi = settings.minimum_intake_pressure_psi
        self._idle_a = IDLE_A if nameplate is None else max(IDLE_A, IDLE_LOAD * nameplate)
        self._base_hz = settings.base_frequency_hz
        self._settle_us = int(settings.settle_s * SECOND_US)
        self._hold_us = int(settings.transient_hold_s * SECOND_US)
        self._learning.configure(settings.baseline_lag_h, settings.baseline_days)
        self._cadence.give(settings.expected_interval_s)

    @property
    def gap(self) -> bool:
        """The reading before the present one was too long ago to continue from."""
        return self._cadence.gap

    @property
    def stopped(self) -> bool:
        """The pump stands, and more than one reading has said so."""
        return self._off_readings > 1

    def remember(self) -> dict[str, Any]:
        """All that was learned, as JSON values; `recall` takes it back."""
        return {
            "values": [attrgetter(path)(self) for path in _REMEMBERED],
            "clock": self._clock.remember(),
            "quality": self._quality.remember(),
            "window": self._window.remember(),
            "trend": self._trend.remember(),
            **self._learning.remember(),
        }

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Take back what `remember` gave."""
        for path, value in zip(_REMEMBERED, remembered["values"], strict=False):
            part, _, name = path.rpartition(".")
            setattr(getattr(self, part) if part else self, name, value)
        if len(self.features) != len(FEATURES):  # of another version: unknown until they are worked out again
            self.features = [NAN] * len(FEATURES)
        self._clock.recall(remembered["clock"])
        self._quality.recall(remembered["quality"])
        self._window.recall(remembered["window"])
        self._trend.recall(remembered["trend"])
        self._learning.recall(remembered, self._steady_hz)
        self._know_idle()

    def suspects(self, asked: Iterable[int]) -> Iterator[tuple[str, str, float]]:
        """What is wrong with which channel, (channel, what, how much), as far as the features `asked` are about it."""
        if _FROZEN in asked:
            yield from self._quality.found(self.last_us, self._cadence.interval_us)
        if _SHIFTS in asked:
            yield from self._quality.shifts.found()

    def silence_us(self) -> int:
        """How long the well may be silent."""
        return self._cadence.silence_us()

    def distrust(self) -> None:
        """Do not learn what still waits to be learned: an alarm says that it may be part of an illness."""
        self._learning.distrust()

    def relearn(self) -> None:
        """Forget what was normal, and begin to learn it: the well is another one, after a workover for example."""
        self._learning.forget()
        self._quality.shifts = Shifts()
        for place, feature in enumerate(FEATURES):
            if feature.is_relative:
                self.features[place] = NAN

    def take(self, reading: Reading) -> int:
        """Work in a reading: LATE, TAKEN or WORKED."""
        now_us = reading[1]
        received_us = reading[-1]
        last_us = self.last_us
        clock = self._clock
        if received_us:
            self.received_us = received_us
            if not -AHEAD_US <= received_us - now_us <= LAG_US or clock.doubted:
                now_us = clock.read(now_us, received_us, last_us)
        else:
            self.received_us = now_us
        if now_us <= last_us:
            return LATE
        sent: Any = reading[VALUES]
        raw: Values = list(sent)
        values = raw
        quality = self._quality
        if reading[-2] is not None or quality.shifts.places:
            values = quality.heard(values, reading[-2] or (), now_us)
        if last_us:
            self._keep_time(now_us - last_us, values[TEMP_AT])
        held, frequency, current = quality.held, values[HERTZ_AT], values[AMPERES_AT]
        hertz = self._hertz_for(current) if frequency is None else frequency
        self._operate(now_us, hertz, held[AMPERES_AT] if current is None else current)
        self.last_us = now_us
        if not self._off_readings:
            values = without_zeros(values)
        features, flow = self.features, values[FLOW_AT]
        amperes, temperature = _known(current), _known(values[TEMP_AT])
        features[:INSTANT_COUNT] = (
            hertz,
            amperes,
            temperature,
            held[FLOW_AT] if flow is None else flow,
            amperes / self._nameplate_a,
            self._trip_c - temperature,
            _known(values[UNBALANCE_A_AT]),
            _known(values[UNBALANCE_V_AT]),
            _known(values[INSULATION_AT]),
            clock.ahead_us / SECOND_US,
            0.0,
        )
        if self._off_readings:
            return self._rest(values, raw, last_us, now_us)
        if not self.learns:
            quality.held = _latest(held, values)
            return TAKEN
        together = quality.take(values, raw, last_us, now_us, self._cadence.interval_us)
        self._confirm(now_us, hertz, together=together)
        if self._sum(amperes, now_us):
            self._work(now_us, raw)
            return WORKED
        return TAKEN

    def _keep_time(self, step_us: int, temp: float | None) -> None:
        self._cadence.take(step_us)
        if self._cadence.gap:
            self._window.restart()
            if step_us > LONG_GAP_US and not _known(temp) > self._quality.held[TEMP_AT] - COOLED_K:
                # It may have been stopped and started again meanwhile; a motor that is as warm as before was not.
                self._changed_us = self.last_us + step_us

    def _hertz_for(self, amperes: float | None) -> float:
        """The frequency where it is not sent: as it last was, but not against a motor that draws nothing."""
        return NAN if amperes is not None and amperes <= self._idle_a else self._quality.held[HERTZ_AT]

    def _operate(self, now_us: int, hertz: float, amperes: float) -> None:
        """Follow the operating state."""
        if hertz >= TURNING_HZ or amperes > self._idle_a:
            if self._off_readings:
                self._start(now_us)
            # A current that is the mean of the minute in which the drive went off shows no ramp.
            if not hertz < RAMP_END_HZ or now_us - self.last_us > FINE_US:
                self._follow_speed(now_us, hertz if hertz == hertz else amperes)  # noqa: PLR0124  (NaN: no drive)
            steady = self._steady_hz
            if not abs(hertz - steady) < max(1.0, 0.02 * steady):
                self._change(now_us, hertz)
            else:
                if now_us - self._mark_us >= DRIFT_US:
                    self._earlier_hz, self._mark_hz, self._mark_us = self._mark_hz, hertz, now_us
                if self._hertz_doubted == self._hertz_doubted:
                    self._hertz_doubted = NAN
                elif self.state == RUNNING and now_us - self._changed_us > self._hold_us:
                    return
            self._settle(now_us)
        elif hertz < TURNING_HZ or amperes <= self._idle_a:
            self._stand(now_us, hertz)

    def _follow_speed(self, now_us: int, speed: float) -> None:
        """Follow how fast the pump turned lately, and whether it is being ramped down."""
        self._speed = speed
        since_us = now_us - self._peak_us
        if since_us > RAMP_US and since_us > RAMP_READINGS * self._cadence.interval_us:
            self._peak_before, self._peak_speed, self._peak_us = self._peak_speed, speed, now_us
        elif speed > self._peak_speed:
            self._peak_speed = speed

    def _change(self, now_us: int, hertz: float) -> None:
        """The frequency is another one, if a second reading, or flow and current, say so too; at a start, at once."""
        steady, doubted = self._steady_hz, self._hertz_doubted
        self._hertz_doubted = hertz
        least = max(1.0, 0.02 * steady)
        if hertz != hertz or (steady == steady and not abs(doubted - steady) >= least):  # noqa: PLR0124  (NaN)
            return
        past = self._mark_hz if now_us - self._mark_us >= DRIFT_US else self._earlier_hz
        if abs(hertz - past) < least:
            self._steady_hz = hertz
            self._hertz_doubted = NAN
            self._learning.leave()
            return
        if not hertz < steady or now_us - self._changed_us > LOWERED_US:
            self._before_hz = steady
        self._steady_hz = self._mark_hz = self._earlier_hz = hertz
        self._hertz_doubted = NAN
        self._changed_us = self._mark_us = now_us
        self._window.restart()
        self._learning.leave()

    def _confirm(self, now_us: int, hertz: float, *, together: bool) -> None:
        """Where flow and current have jumped together, and the frequency did so too, it is another one."""
        if together and self._hertz_doubted == self._hertz_doubted:
            self._change(now_us, hertz)
            self._settle(now_us)

    def _settle(self, now_us: int) -> None:
        if self.state in (UNKNOWN, OFF, TRIP) and not self.started_us:
            self.started_us = now_us  # seen turning at first sight, it may have started just now
        since_us = now_us - self.started_us
        if since_us < STARTING_US:
            self.state = STARTING
        elif since_us < self._settle_us:
            self.state = WARM_UP
        elif now_us - self._changed_us < self._hold_us:
            self.state = TRANSIENT
        else:
            self.state = RUNNING

    def _start(self, now_us: int) -> None:
        if self._off_readings == 1:
            self.started_us = self._resume_us
        else:
            self.started_us = now_us
            self._window.restart()
            self._steady_hz = self._mark_hz = self._earlier_hz = NAN
            self._mark_us = 0
            self._peak_speed = self._peak_before = 0.0
            self._learning.leave()
            self.features[_HEALTHY] = NAN
        self._off_readings = 0
        self.features[_STOP] = 0.0

    def _stand(self, now_us: int, hertz: float) -> None:
        self._off_readings += 1
        if self._off_readings == 1:
            self._resume_us = self.started_us
            turned = self.state not in (UNKNOWN, OFF, TRIP)
            asked = not turned or (hertz > RAMP_END_HZ and now_us - self.last_us > RAMP_LEAST_US)
            unplanned = 0.0 if asked else self._unplanned(now_us - self.last_us)
            self.features[_BEFORE:] = (self.features[_LOAD], self.features[_CURRENT], self.features[_MARGIN])
            self.state = TRIP if unplanned > HABITUAL else OFF
            self.features[_STOP] = unplanned
        elif self._off_readings == SURE_READINGS:
            self._note_stop(now_us)

    def _note_stop(self, now_us: int) -> None:
        """Now it is a stop: remember it if no ramp was seen."""
        if self.started_us and self.features[_STOP]:
            self._stopped_before_us, self._stopped_us = self._stopped_us, now_us

    def _unplanned(self, step_us: int) -> float:
        """How sure it is that nobody asked for a stop; `step_us` since the pump was last seen turning."""
        settled = self.state in (TRANSIENT, RUNNING)
        drive = self._steady_hz == self._steady_hz
        held = drive and settled and self._speed < HELD_SPEED * self._base_hz
        lowered = self._steady_hz < LOWERED * self._before_hz and self.last_us - self._changed_us < LOWERED_US
        if (
            held
            or lowered
            or self._speed < (RAMPED if drive else RAMPED_CURRENT) * max(self._peak_speed, self._peak_before)
        ):
            return 0.0
        if drive and step_us <= FINE_US:
            return SURE
        doubted = self._hertz_doubted == self._hertz_doubted
        full = not doubted if drive else self.features[_CURRENT] >= RAMPED_CURRENT
        habit_us = self.last_us - HABIT_US
        if self.alarmed or (self._stopped_before_us < habit_us and (self.troubled or self._surged())):
            return AILING
        seldom = self._stopped_us < habit_us
        if not (self.state == RUNNING and full and seldom) or step_us > SPARSE_US or self._cadence.gap:
            return HABITUAL
        return CLOSE if step_us <= FINE_US else LIKELY

    def _surged(self) -> bool:
        """The last reading of the turning motor showed a current far beyond its habit: the drive cut an overload."""
        scale, amperes = self._learning.scales.of[AMPERES], self.features[_AMPERES]
        return amperes > scale.high and amperes * scale.inverse > SURGE

    def _rest(self, values: Values, raw: Values, last_us: int, now_us: int) -> int:
        """A reading of a pump that stands; no feature of its working is known."""
        quality = self._quality
        if self._off_readings == 1 and not self._fills(values[PIP_AT]):
            for place in (HERTZ_AT, AMPERES_AT):  # sent by exception, they stay so until they are sent again
                if (value := values[place]) is not None:
                    quality.held[place] = value
            return TAKEN
        if self._off_readings == 1:
            self._off_readings = SURE_READINGS
            self._note_stop(now_us)
        quality.rest(values, last_us, now_us)
        quality.shifts.look(raw, turning=False, gap=self._cadence.gap)
        self.features[_RATIO:_STOP] = _NOTHING
        self.features[_STOP + 1 : _BEFORE] = (0.0, 0.0, float(quality.shifts.count()))
        self._window.step_us = now_us
        return WORKED

    def _fills(self, pip: float | None) -> bool:
        """The intake has filled since the pump was last seen turning, as it does when the pump stands."""
        return pip is not None and pip > FILLS * self._quality.held[PIP_AT]

    def _sum(self, amperes: float, now_us: int) -> bool:
        """Add what is believed to the step; True if that ended it."""
        flow, pip, believed, temp, shake, _, _, torque, gor, discharge, _, wellhead, casing, _, _, _ = (
            self._quality.held
        )
        window = self._window
        step = window.step
        step.flow += flow
        step.pip += pip
        step.amperes += believed
        step.temp += temp
        step.shake += shake
        step.torque += torque
        step.gor += gor
        step.head += discharge - pip
        step.wellhead += wellhead
        step.casing += casing
        step.amperes2 += believed * believed
        step.flow2 += flow * flow
        step.spikes += 1.0 if amperes > self._learning.scales.spike_a else 0.0
        step.count += 1.0
        return now_us - window.step_us >= FULL_STEP_US

    def _work(self, now_us: int, raw: Values) -> None:
        """Work out the windowed features at the end of a step."""
        window, features = self._window, self.features
        lifted = features[_RATIO]
        block_ended = window.close_step(now_us)
        if not self._learning.is_found:
            self._learning.find(self._steady_hz)
            self._know_idle()
        scales, means = self._learning.scales, window.means
        temp, trip_c = scales.temp, self._trip_c
        scales.ratios(means, features, _RATIO)
        if block_ended:
            self._work_block(now_us)
        if features[_HEALTHY] != 1.0:
            self._judge_lift(now_us)
        broke_us, least_psi = window.break_us, self._least_psi
        astray = features[_ASTRAY]
        features[_STEP:_HEALTHY] = (
            window.level_after / (window.level_before or NAN),
            (now_us - broke_us) / MINUTE_US if broke_us else NAN,
            window.cv_after,
            window.cv_before,
            window.moved_before,
            float(self._astray()) if block_ended or astray != astray else astray,  # noqa: PLR0124  (NaN: not known)
            (means[TEMP] - temp) / (trip_c - temp) if temp < trip_c else NAN,
            means[SHAKE] / self._shake_floor,
            means[PIP] - least_psi if least_psi > 0 else NAN,
            (now_us - self.started_us) / MINUTE_US,
        )
        features[_INTERVAL] = self._cadence.interval_us / MINUTE_US
        quality = self._quality
        # A flow that has all but gone jumps by any factor on its way.
        changing = now_us - self._changed_us < RAMP_US or self._hertz_doubted > 0 or lifted < LOST_FLOW
        sent = without(raw, quality.erratic) if quality.erratic else raw
        filling = self.state in (STARTING, WARM_UP)
        quality.shifts.look(sent, turning=True, gap=self._cadence.gap, changing=changing, filling=filling)
        features[_FROZEN:_BEFORE] = (
            float(len(quality.frozen(now_us))),
            float(len(quality.dead(now_us, self._cadence.interval_us))),
            float(quality.shifts.count()),
        )

    def _judge_lift(self, now_us: int) -> None:
        """See whether the pump has lifted as it should since its start; once it has, that stays so."""
        features = self.features
        flow, head = features[_RATIO], features[_RATIO + HEAD]
        changing = now_us - self._changed_us < STEADY_US or self._hertz_doubted > 0
        known = flow == flow or head == head  # noqa: PLR0124  (NaN: not known)
        if known and not changing and now_us - self.started_us >= LIFTING_US:
            full = head < HEALTHY_HEAD or features[_RATIO + PIP] > HEALTHY_PIP
            poorly = flow < HEALTHY_FLOW or (full and not flow >= 1)
            features[_HEALTHY] = 0.0 if poorly else 1.0

    def _work_block(self, now_us: int) -> None:
        """The features of the half hour."""
        window, features, learning = self._window, self.features, self._learning
        scales, means, running = learning.scales, window.window_means(), self.state == RUNNING
        scales.ratios(means, features, _MEAN)
        if features[_MEAN] < NOTHING:
            means[FLOW] = NAN  # nothing at all is lost production or a faulty meter, and no trend
        usual = learning.usual
        known = usual.ready
        current_cv = window.current_cv
        flow_cv = window.flow_cv
        self._trend.take(means, current_cv, scales, now_us, features, running=running)
        features[_REST:_STEP] = (
            current_cv,
            flow_cv,
            usual.of[AMPERES_CV].centre if known else NAN,
            usual.of[FLOW_CV].centre if known else NAN,
            window.spikes,
            window.pip_slope * scales.of[PIP].inverse,
            window.temp_slope / 6,
            means[SHAKE] / self._shake_floor,
        )
        teaches = running and not self.troubled and self._is_sound(now_us)
        if teaches and learning.is_due(now_us):
            learning.take(now_us, self._steady_hz, [*means, current_cv, flow_cv])
            self._know_idle()

    def _know_idle(self) -> None:
        """No motor that turns draws a tenth of its current, however small the motor or however coarse the meter."""
        usual = self._learning.usual
        if self.settings.nameplate_current_a is None and usual.ready:
            self._idle_a = max(IDLE_A, IDLE_LOAD * usual.of[AMPERES].centre)

    def _is_sound(self, now_us: int) -> bool:
        """What the well shows may be normal for it: it has not lost what a new speed cannot take away, and lifts."""
        features, usual = self.features, self._learning.usual
        flow, head, amperes = features[_RATIO], features[_RATIO + HEAD], features[_RATIO + AMPERES]
        if usual.doubt > 0:
            if flow < LOST_FLOW or head < LOST_HEAD or amperes < LOST_CURRENT:
                return False
            if now_us - self._changed_us < FOLLOWED_US and self._empties(usual.of[AMPERES_CV].centre):
                return False
        doubtful = features[_HEALTHY] == 0.0 and flow < HEALTHY_FLOW and usual.doubt < NEAR_DOUBT
        return not doubtful or self._is_proven(now_us)

    def _empties(self, usual_cv: float) -> bool:
        """The pump takes out more than the well gives, at a speed of which that is not known yet."""
        features = self.features
        pip = features[_MEAN + PIP]
        if pip < LOST_PIP or features[_PIP_SLOPE] < -FALLING * min(pip, 1.0):
            return True
        return features[_PIP_HOUR] < 1.0 and features[_REST] > max(UNREST_LEAST, UNREST * usual_cv)

    def _is_proven(self, now_us: int) -> bool:
        """A run that never lifted as it should has lasted long enough to be called ill if it is."""
        return now_us - self.started_us > PROVEN_US + self._settle_us

    def _astray(self) -> int:
        """How many of flow, intake pressure, current and head left their place over the half hour.

        At a speed that is new to the well, by more than a change of speed can lead them.
        """
        features, astray, room = self.features, 0, ROOM * self._learning.scales.doubt
        for place in _STRAYING:
            if abs(features[_MEAN + place] - 1) > ASTRAY + room * DOUBTS[place]:
                astray += 1
        return astray


_STEP: Final = FEATURE_INDEX["current_step"]
_ASTRAY: Final = FEATURE_INDEX["channels_astray"]
_HEALTHY: Final = FEATURE_INDEX["healthy_run"]
_PIP_SLOPE: Final = FEATURE_INDEX["pip_slope"]
_INTERVAL: Final = FEATURE_INDEX["interval_min"]
_PIP_HOUR: Final = FEATURE_INDEX["pip_hour"]
_STOP: Final = FEATURE_INDEX["unplanned_stop"]
_BEFORE: Final = FEATURE_INDEX["load_before_stop"]
_AMPERES: Final = FEATURE_INDEX["motor_current"]
_LOAD: Final = FEATURE_INDEX["load"]
_MARGIN: Final = FEATURE_INDEX["trip_margin"]
_CURRENT: Final = FEATURE_INDEX["current_ratio"]
_FROZEN: Final = FEATURE_INDEX["frozen_channels"]
_SHIFTS: Final = FEATURE_INDEX["unit_shifts"]
_NOTHING: Final[Sequence[float]] = (NAN,) * (_STOP - _RATIO)


def _known(value: float | None) -> float:
    """The value, NaN where there is none."""
    return NAN if value is None else value


def _latest(held: list[float], values: Values) -> list[float]:
    """Each channel as it was last known."""
    return [old if value is None else value for old, value in zip(held, values, strict=True)]
