"""Trends: where a well stands over an hour and over half a day, against what is normal for it.

A half hour of a well varies by some percent; so a limit on it must lie beyond that, and what creeps is seen late.
Averaged over longer, the same well varies less: small changes can be told from its habit, and which quantity moved
more than which. Running only; a pump that stands neither moves a trend nor lets it be forgotten.
"""

from array import array
from collections.abc import Sequence
from math import exp
from typing import Any, Final

from esp_ingestd.core.baseline import AMPERES, FLOW, HEAD, PIP, SHAKE, TEMP
from esp_ingestd.core.feature import NAN
from esp_ingestd.core.reading import SECOND_US

REFERRED: Final = (FLOW, PIP, AMPERES, TEMP, SHAKE, HEAD)
"""What is held against its reference."""
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
        self.hour = array("d", [NAN] * (len(HOURLY) + 1))
        """Over its baseline, in the order of HOURLY; the last one is the variation of the current, %."""
        self.half_day = array("d", [NAN] * len(REFERRED))
        """Over its reference (of TEMP: less it, in K), in the order of REFERRED."""

    def take(self, hourly: Sequence[float], referred: Sequence[float], now_us: int) -> None:
        """Work in the half hour that ends now; NaN where not known."""
        step_us = min(now_us - self._at_us, LONGEST_US)
        self._at_us = now_us
        _follow(self.hour, hourly, 1 - exp(-step_us / HOUR_US))
        _follow(self.half_day, referred, 1 - exp(-step_us / HALF_DAY_US))

    def remember(self) -> list[Any]:
        """As JSON values."""
        return [self._at_us, list(self.hour), list(self.half_day)]

    def recall(self, remembered: Sequence[Any]) -> None:
        """Take back what `remember` gave."""
        self._at_us, hour, half_day = remembered
        self.hour, self.half_day = array("d", hour), array("d", half_day)


def _follow(means: "array[float]", values: Sequence[float], share: float) -> None:
    for place, value in enumerate(values):
        if value == value:  # noqa: PLR0124  (NaN: not known)
            old = means[place]
            means[place] = old + share * (value - old) if old == old else value  # noqa: PLR0124
