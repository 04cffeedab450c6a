"""Trends: where a well stands over an hour and over half a day, against what is normal for it.

A half hour of a well varies by some percent; so a limit on it must lie beyond that, and what creeps is seen late.
Averaged over longer, the same well varies less: small changes can be told from its habit, and which quantity moved
more than which. Of vibration against its reference it is an hour: it is told when it has doubled, and half a day late
is late. Running only; a pump that stands neither moves a trend nor lets it be forgotten.
"""

from collections.abc import Sequence
from math import exp
from typing import Any, Final

from esp_ingestd.core.baseline import AMPERES, FLOW, HEAD, PIP, SHAKE, TEMP
from esp_ingestd.core.feature import NAN
from esp_ingestd.core.reading import SECOND_US
from esp_ingestd.core.scale import REFERRED, Scales

HOURLY: Final = (FLOW, PIP, AMPERES, HEAD)
"""What is followed over an hour; besides these the variation of the current."""
HOUR_US: Final = 3600 * SECOND_US
HALF_DAY_US: Final = 12 * HOUR_US
LONGEST_US: Final = HOUR_US
"""The most that one half hour may count for: after a stop or a gap it does not speak for all of that time."""


class Trend:
    """Means of one well that forget exponentially, as shares of its baseline and of its reference."""

    __slots__ = ("_at_us", "half_day", "hour")

    def __init__(self) -> None:
        self._at_us = 0
        self.hour = [NAN] * (len(HOURLY) + 1)
        """Over its baseline, in the order of HOURLY; the last one is the variation of the current, %."""
        self.half_day = [NAN] * len(REFERRED)
        """Over its reference (of TEMP: less it, in K), in the order of REFERRED."""

    def take(
        self, means: list[float], current_cv: float, scales: Scales, now_us: int, *, running: bool
    ) -> tuple[list[float], list[float]]:
        """Work in the half hour that ends now, of a pump that runs; NaN where not known.

        Returns:
            The features from `flow_reference` on, and those from `flow_hour` on.
        """
        half_day, reference = self.half_day, scales.reference
        values = [means[place] / centre for place, centre, _ in reference]
        values[_TEMP] = means[TEMP] - reference[_TEMP][1]
        if running:
            step_us = now_us - self._at_us
            step_us = min(LONGEST_US, step_us)
            self._at_us = now_us
            quick, shake, shook = 1 - exp(-step_us / HOUR_US), values[_SHAKE], half_day[_SHAKE]
            _follow(half_day, values, 1 - exp(-step_us / HALF_DAY_US))
            half_day[_SHAKE] = shook
            # One bad reading makes a half hour of any size: none counts for more than a doubling.
            _follow_one(half_day, _SHAKE, min(shake, 2 * shook), quick)
            inverse = scales.inverse
            hourly = [means[place] * inverse[place] for place in HOURLY]
            hourly.append(current_cv)
            _follow(self.hour, hourly, quick)
        referred = [
            value if value != value else sound if abs(stands - sound) < far else stands  # noqa: PLR0124  (NaN)
            for value, stands, sound, (_, _, far) in zip(values, half_day, _SOUND, reference)  # noqa: B905  (as REFERRED)
        ]
        turns = [values[at] / (half_day[at] or NAN) for at in _TURNS]
        stands = self.hour
        known = [stands[at] if means[place] == means[place] else NAN for at, place in _HOURLY]
        return referred, [*known, stands[-1], *turns]

    def remember(self) -> list[Any]:
        """As JSON values."""
        return [self._at_us, list(self.hour), list(self.half_day)]

    def recall(self, remembered: Sequence[Any]) -> None:
        """Take back what `remember` gave."""
        self._at_us, self.hour, self.half_day = remembered


def _follow(trend: list[float], values: list[float], share: float) -> None:
    """Let each mean follow its value by a share of the way; the first value known is where it begins."""
    for at, value in enumerate(values):
        _follow_one(trend, at, value, share)


def _follow_one(trend: list[float], at: int, value: float, share: float) -> None:
    if value == value:  # noqa: PLR0124  (NaN: not known)
        stands = trend[at]
        trend[at] = stands + share * (value - stands) if stands == stands else value  # noqa: PLR0124


_SHAKE: Final = REFERRED.index(SHAKE)
_TEMP: Final = REFERRED.index(TEMP)
_SOUND: Final = tuple(0.0 if place == TEMP else 1.0 for place in REFERRED)
_HOURLY: Final = tuple(enumerate(HOURLY))
_TURNS: Final = (REFERRED.index(FLOW), REFERRED.index(HEAD))
