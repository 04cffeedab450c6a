"""Trends: where a well stands over an hour and over half a day, against what is normal for it.

A half hour of a well varies by some percent; so a limit on it must lie beyond that, and what creeps is seen late.
Averaged over longer, the same well varies less: small changes can be told from its habit, and which quantity moved
more than which. Running only; a pump that stands neither moves a trend nor lets it be forgotten.
"""

from array import array
from collections.abc import Sequence
from math import exp
from typing import Any, Final

from esp_ingestd.core.baseline import AMPERES, FLOW, HEAD, PIP, TEMP
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
        self.hour = array("d", [NAN] * (len(HOURLY) + 1))
        """Over its baseline, in the order of HOURLY; the last one is the variation of the current, %."""
        self.half_day = array("d", [NAN] * len(REFERRED))
        """Over its reference (of TEMP: less it, in K), in the order of REFERRED."""

    def take(
        self, means: Sequence[float], current_cv: float, scales: Scales, now_us: int, *, running: bool
    ) -> tuple[list[float], list[float]]:
        """Work in the half hour that ends now, of a pump that runs; NaN where not known.

        Returns:
            The features from `flow_reference` on, and those from `flow_hour` on.
        """
        shares = self._shares(now_us) if running else None
        return self._follow_half_day(means, scales, shares), self._follow_hour(means, current_cv, scales, shares)

    def _shares(self, now_us: int) -> tuple[float, float]:
        """For how much the newest half hour counts in an hour's mean, and in half a day's."""
        step_us = min(now_us - self._at_us, LONGEST_US)
        self._at_us = now_us
        return 1 - exp(-step_us / HOUR_US), 1 - exp(-step_us / HALF_DAY_US)

    def _follow_half_day(
        self, means: Sequence[float], scales: Scales, shares: tuple[float, float] | None
    ) -> list[float]:
        half_day = self.half_day
        found = [NAN] * len(REFERRED)
        for at, (place, centre, stray) in enumerate(scales.reference):
            value, sound = (means[place] - centre, 0.0) if place == TEMP else (means[place] / centre, 1.0)
            if value != value:  # noqa: PLR0124  (NaN: not known)
                continue
            stands = half_day[at]
            if shares is not None:
                stands = half_day[at] = stands + shares[1] * (value - stands) if stands == stands else value  # noqa: PLR0124
            found[at] = sound if abs(stands - sound) < stray else stands
        return found

    def _follow_hour(
        self, means: Sequence[float], current_cv: float, scales: Scales, shares: tuple[float, float] | None
    ) -> list[float]:
        hour, half_day, inverse, reference = self.hour, self.half_day, scales.inverse, scales.reference
        if shares is not None:
            values = [means[place] * inverse[place] for place in HOURLY]
            for at, value in enumerate((*values, current_cv)):
                if value == value:  # noqa: PLR0124
                    stands = hour[at]
                    hour[at] = stands + shares[0] * (value - stands) if stands == stands else value  # noqa: PLR0124
        found = [hour[at] if means[place] == means[place] else NAN for at, place in enumerate(HOURLY)]
        turns = [means[reference[at][0]] / reference[at][1] / (half_day[at] or NAN) for at in _TURNS]
        return [*found, hour[-1], *turns]

    def remember(self) -> list[Any]:
        """As JSON values."""
        return [self._at_us, list(self.hour), list(self.half_day)]

    def recall(self, remembered: Sequence[Any]) -> None:
        """Take back what `remember` gave."""
        self._at_us, hour, half_day = remembered
        self.hour, self.half_day = array("d", hour), array("d", half_day)


_TURNS: Final = (REFERRED.index(FLOW), REFERRED.index(HEAD))
