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

REFERRED: Final = [FLOW, PIP, AMPERES, TEMP, SHAKE, HEAD]
"""What is held against its reference."""
SPIKE: Final = 1.1


class Scale:
    """Of one quantity: by what a mean is multiplied, and between what it reads 1 (of TEMP: 0)."""

    __slots__ = ("high", "inverse", "low")

    def __init__(self, inverse: float, low: float, high: float) -> None:
        self.inverse = inverse
        self.low = low
        self.high = high


class Bound:
    """Of one quantity that has a reference: what that is, and within what its ratio (of TEMP: rise) is sound."""

    __slots__ = ("far", "place", "reference")

    def __init__(self, place: int, reference: float, far: float) -> None:
        self.place = place
        self.reference = reference
        self.far = far


class Scales:
    """What turns means into features; NaN where nothing is known."""

    __slots__ = ("bounds", "doubt", "flow_doubt", "of", "spike_a", "temp")

    def __init__(
        self, of: list[Scale], doubt: float, flow_doubt: float, temp: float, bounds: list[Bound], spike_a: float
    ) -> None:
        self.of = of
        """In the order of the quantities."""
        self.doubt, self.flow_doubt = doubt, flow_doubt
        """Those of the baseline."""
        self.temp = temp
        """What is taken from a motor temperature, degC."""
        self.bounds = bounds
        """In the order of REFERRED."""
        self.spike_a = spike_a
        """A current above it is a spike."""

    @property
    def known(self) -> bool:
        """A baseline stands behind them."""
        return self is not UNKNOWN_SCALES

    def ratios(self, means: list[float], into: list[float], at: int) -> None:
        """Put the means over what is normal for each, the temperature less that, into places from `at` on."""
        for place, scale in enumerate(self.of):
            value = means[place]
            into[at + place] = 1.0 if scale.low < value < scale.high else value * scale.inverse
        temp, scale = means[TEMP], self.of[TEMP]
        into[at + TEMP] = 0.0 if scale.low < temp < scale.high else temp - self.temp


UNKNOWN_SCALES: Final = Scales(
    [Scale(NAN, NAN, NAN) for _ in range(RATIOS)], 0.0, 0.0, NAN, [Bound(place, NAN, NAN) for place in REFERRED], NAN
)


def scales_of(usual: Baseline) -> Scales:
    """The scales that follow from a baseline; unknown ones while it may not be judged by."""
    if not usual.ready:
        return UNKNOWN_SCALES
    doubt, noise, far = usual.doubt, usual.noise(), max(usual.reference_doubt, usual.doubt)
    of: list[Scale] = []
    for place in range(RATIOS):
        centre = usual.of[place].centre
        stray = centre * (SPREADS * noise[place] + DOUBTS[place] * doubt)
        below = centre * usual.flow_doubt if place == FLOW else 0.0
        of.append(Scale(1.0 / centre if centre > 0 else NAN, centre - stray - below, centre + stray))
    temp, stray = usual.of[TEMP].centre, SPREADS * noise[TEMP] + TEMP_DOUBT_K * doubt
    of[TEMP].low, of[TEMP].high = temp - stray, temp + stray
    bounds: list[Bound] = []
    for place in REFERRED:
        doubted = TEMP_DOUBT_K if place == TEMP else DOUBTS[place]
        bounds.append(Bound(place, usual.of[place].reference or NAN, HALF_DAY_SPREADS * noise[place] + doubted * far))
    return Scales(of, doubt, usual.flow_doubt, temp, bounds, SPIKE * usual.of[AMPERES].centre)
