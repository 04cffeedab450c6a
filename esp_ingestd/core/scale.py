"""Scales: by what the means of a well are divided to become features, and within what they read as normal.

They follow from the baseline of the present frequency, and are worked out once for each frame that it learns, not for
each reading that is set against it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

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
_UNKNOWN: Final = (NAN,) * RATIOS


class Scales(NamedTuple):
    """What turns means into features; NaN where nothing is known."""

    inverse: Sequence[float]
    """By what a mean is multiplied, in the order of the quantities."""
    low: Sequence[float]
    high: Sequence[float]
    """Between these a mean reads 1."""
    temp: float
    """What is taken from a motor temperature, and within how much of it the rest reads 0; degC, K."""
    temp_stray: float
    reference: Sequence[tuple[int, float, float]]
    """In the order of REFERRED: the quantity, its reference, and within what the ratio (of TEMP: the rise) is sound."""
    spike_a: float
    """A current above it is a spike."""

    @property
    def known(self) -> bool:
        """A baseline stands behind them."""
        return self is not UNKNOWN_SCALES

    def ratios(self, means: Sequence[float]) -> list[float]:
        """The means over what is normal for each, the temperature less what is normal for it."""
        found = [
            1.0 if least < value < most else value * one
            for value, one, least, most in zip(means, self.inverse, self.low, self.high, strict=False)
        ]
        rise = means[TEMP] - self.temp
        found[TEMP] = 0.0 if abs(rise) < self.temp_stray else rise
        return found


UNKNOWN_SCALES: Final = Scales(
    _UNKNOWN, _UNKNOWN, _UNKNOWN, NAN, NAN, tuple((place, NAN, NAN) for place in REFERRED), NAN
)


def scales_of(usual: Baseline) -> Scales:
    """The scales that follow from a baseline; unknown ones while it may not be judged by."""
    if not usual.ready:
        return UNKNOWN_SCALES
    centres, noise, doubt = usual.centre[:RATIOS], usual.noise(), usual.doubt
    strays = [centre * (SPREADS * one + own * doubt) for centre, one, own in zip(centres, noise, DOUBTS, strict=False)]
    far = max(usual.reference_doubt, doubt)
    reference = [
        (place, usual.reference[place] or NAN, HALF_DAY_SPREADS * noise[place] + DOUBTS[place] * far)
        for place in REFERRED
    ]
    place, centre, _ = reference[REFERRED.index(TEMP)]
    reference[REFERRED.index(TEMP)] = place, centre, HALF_DAY_SPREADS * noise[TEMP] + TEMP_DOUBT_K * far
    return Scales(
        [1.0 / centre if centre > 0 else NAN for centre in centres],
        [centre - stray for centre, stray in zip(centres, strays, strict=True)],
        [centre + stray for centre, stray in zip(centres, strays, strict=True)],
        centres[TEMP],
        SPREADS * noise[TEMP] + TEMP_DOUBT_K * doubt,
        reference,
        SPIKE * centres[AMPERES],
    )
