"""Data quality: what of a reading can be believed, channel by channel.

Rules:
    1. A channel that is missing keeps its last value for a while, since RTUs report by exception; then it is unknown.
       One that stays away longer than it ever did is dead.
    2. A jump by three tenths is believed when a second reading confirms it; until then the last value stands.
    3. Pressure or temperature of exactly 0 while the pump turns is a gauge's way to say that it does not know.
    4. A gauge that repeats one value much longer than it ever did, while the motor current moves, is frozen. Each
       channel's own habit of repeating is learned first: quantised channels do so all day long.
    5. A value that stands to its baseline as one unit to another, while the motor runs as ever, was sent in the
       wrong unit.
    6. Frozen and wrongly scaled channels are unknown to all other rules.
"""

from collections.abc import Sequence
from typing import Any, Final

from esp_ingestd.core.feature import NAN
from esp_ingestd.core.reading import CHANNEL_NAMES, SECOND_US

PLACE: Final = {name: place for place, name in enumerate(CHANNEL_NAMES)}
FLOW_AT, PIP_AT, AMPERES_AT, TEMP_AT, SHAKE_AT, HERTZ_AT = range(6)
DISCHARGE_AT: Final = PLACE["discharge_pressure"]
INTAKE_AT: Final = PLACE["intake_temp"]
WELLHEAD_AT: Final = PLACE["wellhead_pressure"]
CASING_AT: Final = PLACE["casing_pressure"]

HOLD_US: Final = 900 * SECOND_US
DEAD_US: Final = 1800 * SECOND_US
FROZEN_US: Final = 1800 * SECOND_US
FROZEN_READINGS: Final = 6
HABIT_READINGS: Final = 200
HABIT_MOST: Final = 12
JUMP: Final = 0.3
_JUMPING: Final = (FLOW_AT, PIP_AT, AMPERES_AT, DISCHARGE_AT)
_GAUGES: Final = (PIP_AT, TEMP_AT, SHAKE_AT, DISCHARGE_AT, INTAKE_AT)
_ZERO_IS_BAD: Final = (PIP_AT, TEMP_AT, DISCHARGE_AT)

_PRESSURE_FACTORS: Final = (6.894757, 6894.757, 0.06894757, 0.006894757, 14.50377, 0.1450377, 0.000145038)
_FLOW_FACTORS: Final = (0.1589873, 6.289811, 0.00662447, 0.02916667, 0.00184)


class Quality:
    """What is believed of one well's channels."""

    __slots__ = (
        "_absent",
        "_doubted",
        "_habit",
        "_last",
        "_longest",
        "_moved_us",
        "_readings",
        "_repeats",
        "_since",
        "held",
    )

    def __init__(self) -> None:
        self.held: tuple[float, ...] = (NAN,) * len(CHANNEL_NAMES)
        """The last value believed of each channel, NaN where unknown."""
        self._last: Sequence[float | None] = self.held
        self._doubted: set[int] = set()
        self._absent: dict[int, int] = {}
        self._longest: dict[int, int] = {}
        self._moved_us = 0
        self._readings = 0
        self._repeats = [0] * len(_GAUGES)
        self._habit = [0] * len(_GAUGES)
        self._since = [0] * len(_GAUGES)

    def take(self, values: Sequence[float | None], last_us: int, now_us: int, hold_us: int) -> None:
        """Work in the values of one reading while the pump turns; `last_us` is the time of the one before."""
        believed: list[Any] = list(values)
        if None in values:
            self._fill(believed, last_us, now_us, hold_us)
        elif self._absent:
            self._present(now_us)
        self._believe(believed)
        self._readings += 1
        self._watch_gauges(values, believed, now_us)
        self._last = values
        self.held = tuple(believed)

    def _believe(self, believed: list[Any]) -> None:
        """Take out what a gauge does not know, and hold jumps until they are confirmed."""
        held = self.held
        for place in _ZERO_IS_BAD:
            if believed[place] == 0.0:
                believed[place] = NAN
        for place in _JUMPING:
            value, old = believed[place], held[place]
            if not abs(value - old) <= JUMP * old:
                believed[place] = self._doubt(place, value, old)
            elif self._doubted:
                self._doubted.discard(place)

    def _watch_gauges(self, values: Sequence[float | None], believed: list[Any], now_us: int) -> None:
        """Follow how long each gauge repeats one value; a frozen one is not believed."""
        last, repeats = self._last, self._repeats
        if values[AMPERES_AT] != last[AMPERES_AT]:
            self._moved_us = now_us
        for gauge, place in enumerate(_GAUGES):
            if values[place] == last[place] and values[place] is not None:
                repeats[gauge] += 1
                if repeats[gauge] >= FROZEN_READINGS and self._froze(gauge, now_us):
                    believed[place] = NAN
            elif repeats[gauge]:
                self._end(gauge)
            else:
                self._since[gauge] = now_us

    def rest(self, values: Sequence[float | None]) -> None:
        """Take the values of a pump that stands: nothing is learned from them."""
        self.held = tuple(NAN if value is None else value for value in values)
        self._last = (NAN,) * len(values)
        self._repeats = [0] * len(_GAUGES)
        self._absent.clear()
        self._doubted.clear()

    def remember(self) -> list[Any]:
        """As JSON values; NaN where not known."""
        places = [{str(place): value for place, value in known.items()} for known in (self._absent, self._longest)]
        gauges = [self._repeats, self._habit, self._since]
        return [self.held, self._last, sorted(self._doubted), *places, self._readings, self._moved_us, *gauges]

    def recall(self, remembered: Sequence[Any]) -> None:
        """Take back what `remember` gave."""
        held, last, doubted, absent, longest, self._readings, self._moved_us, *gauges = remembered
        self.held, self._last, self._doubted = tuple(held), tuple(last), set(doubted)
        self._absent = {int(place): value for place, value in absent.items()}
        self._longest = {int(place): value for place, value in longest.items()}
        self._repeats, self._habit, self._since = gauges

    def frozen(self, now_us: int) -> int:
        """How many gauges are frozen."""
        if max(self._repeats) < FROZEN_READINGS:
            return 0
        return sum(
            repeats >= FROZEN_READINGS and self._froze(gauge, now_us) for gauge, repeats in enumerate(self._repeats)
        )

    def dead(self, now_us: int, interval_us: int) -> int:
        """How many channels stay away, or out of their plausible range, longer than they ever did."""
        if not self._absent:
            return 0
        least = max(DEAD_US, 6 * interval_us)
        return sum(
            now_us - since >= max(least, 3 * self._longest.get(place, 0)) for place, since in self._absent.items()
        )

    def _fill(self, believed: list[float | None], last_us: int, now_us: int, hold_us: int) -> None:
        held, absent = self.held, self._absent
        for place, value in enumerate(believed):
            if value is not None:
                if place in absent:
                    self._longest[place] = max(self._longest.get(place, 0), now_us - absent.pop(place))
                continue
            last = held[place]
            if last == last and now_us - absent.setdefault(place, last_us) > hold_us:  # noqa: PLR0124  (known)
                last = NAN
            believed[place] = last

    def _present(self, now_us: int) -> None:
        for place, since in self._absent.items():
            self._longest[place] = max(self._longest.get(place, 0), now_us - since)
        self._absent.clear()

    def _doubt(self, place: int, value: float, old: float) -> float:
        """A jump: the old value at first, the new one when it is confirmed."""
        if old != old or place in self._doubted:  # noqa: PLR0124  (nothing known to hold on to)
            self._doubted.discard(place)
            return value
        self._doubted.add(place)
        return old

    def _froze(self, gauge: int, now_us: int) -> bool:
        habit = self._habit[gauge]
        return (
            self._readings >= HABIT_READINGS
            and habit <= HABIT_MOST
            and self._repeats[gauge] >= 5 * habit
            and now_us - self._since[gauge] >= FROZEN_US
            and now_us - self._moved_us < FROZEN_US
        )

    def _end(self, gauge: int) -> None:
        """A run of repeated values is over: that is habit now, so that a quantised channel is told of once at most."""
        self._habit[gauge] = max(self._habit[gauge], self._repeats[gauge])
        self._repeats[gauge] = 0


def other_unit(place: int, value: float, usual: float) -> bool:
    """True if `value` stands to `usual` as another unit would; within 4 %."""
    if place in (TEMP_AT, INTAKE_AT):
        guesses: tuple[float, ...] = (1.8 * usual + 32, (usual - 32) / 1.8, usual + 273.15)
    else:
        factors = _FLOW_FACTORS if place == FLOW_AT else _PRESSURE_FACTORS
        guesses = tuple(usual * factor for factor in factors)
    return any(abs(value - guess) <= 0.04 * abs(guess) for guess in guesses)
