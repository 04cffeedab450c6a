"""Trends: where a well stands over an hour and over half a day, against what is normal for it.

A half hour of a well varies by some percent; so a limit on it must lie beyond that, and what creeps is seen late.
Averaged over longer, the same well varies less: small changes can be told from its habit, and which quantity moved
more than which. Of vibration against its reference it is an hour: it is told when it has doubled, and half a day late
is late. Running only; a pump that stands neither moves a trend nor lets it be forgotten.
"""

from collections.abc import Sequence
from math import exp
from typing import Any, Final

from esp_ingestd.core.baseline import AMPERES, DOUBTS, FLOW, HEAD, PIP, SHAKE, TEMP
from esp_ingestd.core.feature import FEATURE_INDEX, NAN
from esp_ingestd.core.reading import HOUR_US
from esp_ingestd.core.scale import REFERRED, Bound, Scales

HOURLY: Final = [FLOW, PIP, AMPERES, HEAD]
"""What is followed over an hour; besides these the variation of the current."""
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
        self,
        means: list[float],
        current_cv: float,
        scales: Scales,
        now_us: int,
        features: list[float],
        *,
        running: bool,
    ) -> None:
        """Work in the half hour that ends now and put its features; NaN where not known.

        Args:
            means: of the half hour, in the order of the quantities.
            current_cv: its variation of the current, %.
            scales: what it is set against.
            now_us: when it ended.
            features: where to put those from `flow_reference` and from `flow_hour` on.
            running: the pump runs; else nothing follows.
        """
        slow = quick = 0.0
        if running:
            step_us = min(LONGEST_US, now_us - self._at_us)
            self._at_us = now_us
            slow, quick = 1 - exp(-step_us / HALF_DAY_US), 1 - exp(-step_us / HOUR_US)
        self._refer(means, scales.bounds, slow, quick, features)
        hour, doubt = self.hour, scales.doubt
        for at, place in enumerate(HOURLY):
            value = means[place]
            hour[at] = _followed(hour[at], value * scales.of[place].inverse, quick)
            strays, doubted = hour[at] - 1.0, DOUBTS[place] * doubt
            if -doubted - (scales.flow_doubt if place == FLOW else 0.0) < strays < doubted:
                strays = 0.0  # what a change of speed may have done
            features[_HOUR + at] = 1.0 + strays if value == value else NAN  # noqa: PLR0124  (known)
        hour[-1] = features[_CV_HOUR] = _followed(hour[-1], current_cv, quick)

    def _refer(self, means: list[float], bounds: list[Bound], slow: float, quick: float, features: list[float]) -> None:
        """The half day over its reference; of flow, pressures and current the half hour over the half day too."""
        half_day = self.half_day
        for at, bound in enumerate(bounds):
            value, stands, sound = means[bound.place], half_day[at], 1.0
            if at == _TEMP:
                value, sound = value - bound.reference, 0.0
            else:
                value /= bound.reference
            # One bad reading makes a half hour of any shaking: none counts for more than a doubling.
            stands = (
                _followed(stands, min(value, 2 * stands), quick) if at == _SHAKE else _followed(stands, value, slow)
            )
            half_day[at] = stands
            if value != value:  # noqa: PLR0124  (NaN: not known)
                stands = NAN
            features[_REFERENCE + at] = sound if abs(stands - sound) < bound.far else stands
            if (turn := _TURNS.get(at)) is not None:
                features[turn] = value / (stands or NAN)

    def remember(self) -> list[Any]:
        """As JSON values."""
        return [self._at_us, list(self.hour), list(self.half_day)]

    def recall(self, remembered: Sequence[Any]) -> None:
        """Take back what `remember` gave."""
        self._at_us, self.hour, self.half_day = remembered


def _followed(stands: float, value: float, share: float) -> float:
    """A mean that has followed a value by a share of the way; the first value known is where it begins."""
    if not share or value != value:  # noqa: PLR0124  (NaN: not known)
        return stands
    return stands + share * (value - stands) if stands == stands else value  # noqa: PLR0124  (NaN)


_TEMP: Final = REFERRED.index(TEMP)
_SHAKE: Final = REFERRED.index(SHAKE)
_REFERENCE: Final = FEATURE_INDEX["flow_reference"]
_HOUR: Final = FEATURE_INDEX["flow_hour"]
_CV_HOUR: Final = FEATURE_INDEX["current_cv_hour"]
_TURNS: Final = {
    REFERRED.index(quantity): FEATURE_INDEX[turn]
    for quantity, turn in ((FLOW, "flow_turn"), (PIP, "pip_turn"), (AMPERES, "current_turn"), (HEAD, "head_turn"))
}
