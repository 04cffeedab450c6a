"""Scales: by what the means of a well are divided to become features, and within what they read as normal.

They follow from the baseline of the present frequency, and are worked out once for each frame that it learns, not for
each reading that is set against it.
"""

from typing import Final

from esp_ingestd.core.baseline import (
    AMPERES,
    DOUBTS,
    FLOW,
    HALF_DAY_SPREADS,
    HEAD,
    PIP,
    RATIOS,
    SHAKE,
    SPREADS,
    TEMP,
    TEMP_DOUBT_K,
    Baseline,
)
from esp_ingestd.core.feature import NAN

REFERRED: Final = (FLOW, PIP, AMPERES, TEMP, SHAKE, HEAD)
"""What is held against its reference."""
SPIKE: Final = 1.1


class Scales:
    """What turns means into features; NaN where nothing is known."""

    __slots__ = ("high", "inverse", "low", "reference", "spike_a", "temp")

    def __init__(
        self,
        inverse: list[float],
        low: list[float],
        high: list[float],
        temp: float,
        reference: list[tuple[int, float, float]],
        spike_a: float,
    ) -> None:
        self.inverse = inverse
        """By what a mean is multiplied, in the order of the quantities."""
        self.low = low
        self.high = high
        """Between these a mean reads 1 (of TEMP: 0)."""
        self.temp = temp
        """What is taken from a motor temperature, degC."""
        self.reference = reference
        """In the order of REFERRED: the quantity, its reference, and within what its ratio (of TEMP: rise) is sound."""
        self.spike_a = spike_a
        """A current above it is a spike."""

    @property
    def known(self) -> bool:
        """A baseline stands behind them."""
        return self is not UNKNOWN_SCALES

    def ratios(self, means: list[float]) -> list[float]:
        """The means over what is normal for each, the temperature less what is normal for it."""
        found = [
            1.0 if least < value < most else value * one
            for value, one, least, most in zip(means, self.inverse, self.low, self.high)  # noqa: B905  (RATIOS of each)
        ]
        temp = means[TEMP]
        found[TEMP] = 0.0 if self.low[TEMP] < temp < self.high[TEMP] else temp - self.temp
        return found


_UNKNOWN: Final = [NAN] * RATIOS
UNKNOWN_SCALES: Final = Scales(_UNKNOWN, _UNKNOWN, _UNKNOWN, NAN, [(place, NAN, NAN) for place in REFERRED], NAN)


def scales_of(usual: Baseline) -> Scales:
    """The scales that follow from a baseline; unknown ones while it may not be judged by."""
    if not usual.ready:
        return UNKNOWN_SCALES
    doubt, noise, far = usual.doubt, usual.noise(), max(usual.reference_doubt, usual.doubt)
    inverse: list[float] = []
    low: list[float] = []
    high: list[float] = []
    for centre, one, own in zip(usual.centre, noise, DOUBTS):  # noqa: B905  (RATIOS of each)
        stray = centre * (SPREADS * one + own * doubt)
        inverse.append(1.0 / centre if centre > 0 else NAN)
        low.append(centre - stray)
        high.append(centre + stray)
    temp, stray = usual.centre[TEMP], SPREADS * noise[TEMP] + TEMP_DOUBT_K * doubt
    low[TEMP], high[TEMP] = temp - stray, temp + stray
    first = usual.reference
    reference = [(at, first[at] or NAN, HALF_DAY_SPREADS * noise[at] + own * far) for at, own in _REFERRED_DOUBTS]
    return Scales(inverse, low, high, temp, reference, SPIKE * usual.centre[AMPERES])


_REFERRED_DOUBTS: Final = tuple((place, TEMP_DOUBT_K if place == TEMP else DOUBTS[place]) for place in REFERRED)
