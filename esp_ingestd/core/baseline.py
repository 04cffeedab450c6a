"""Baselines: what is normal for one well at one drive frequency, learned from the well itself.

Rules:
    1. There is one baseline for each whole Hz at which the well has run. One seen for the first time starts from its
       neighbour's, moved by exponents of the operating point (not of the pump curve: static head dominates), and is
       doubted in proportion to how far it was moved, until the well has shown its own value there.
    2. `centre` follows the well over some days; `reference` is what it was over its first week and then stays.
    3. Both follow 15-minute means of settled running. Outliers are clipped, so one bad frame moves nothing far. The
       spread is that about the centre and its steady lag: else a slow illness would hide in the noise that it makes.
    4. A frame counts only after it has waited for `baseline_lag_h` and no alarm came meanwhile: an illness that
       creeps in must not be learned as health. Only while a baseline is new it takes frames at once.

Source: the median of three days in DIAGNOSIS is replaced by a recursive, clipped mean: it needs no memory of days.
"""

from array import array
from collections.abc import Sequence
from typing import Any, Final

FLOW, PIP, AMPERES, TEMP, SHAKE, TORQUE, GOR, HEAD, WELLHEAD, CASING, AMPERES_CV, FLOW_CV = range(12)
QUANTITIES: Final = 12
RATIOS: Final = 10
"""The first ten are what ratios are formed of."""

# Exponent of frequency by which the operating point moves, and how little that is known.
EXPONENTS: Final = (1.4, -0.7, 0.7, 0.0, 1.0, 1.0, 0.0, 0.2, 0.5, 0.0, 0.0, 0.0)
DOUBTS: Final = (2.2, 2.0, 1.2, 0.8, 2.0, 2.0, 1.0, 1.0, 2.0, 0.5, 2.0, 2.0)
TEMP_DOUBT_K: Final = 60.0
"""Doubt about a temperature, K for each unit of the logarithm of frequency."""

READY_FRAMES: Final = 24
FRAMES_DOUBTED: Final = 16
REFERENCE_DOUBTED: Final = 96
"""A reservoir follows a change of speed for a day; what it loses by then is no wear."""
CLIP_SPREADS: Final = 4.0
SPREADS: Final = 4.0
HALF_DAY_SPREADS: Final = 2.0
DRIFT_SHARE: Final = 0.005
SETTLED_FRAMES: Final = 192
ROUSED: Final = 0.0015
CALMED: Final = 0.0008
"""By how much of itself a spread may grow or shrink in a frame once two days of them are known: an illness that takes
a day or three must not widen what is normal for as long as it grows; a habit that has changed does, within weeks."""
LEAST_SPREAD: Final = 0.004
LEAST_SPREAD_K: Final = 0.4


class Baseline:
    """Normal at one frequency: centre, spread and reference of each quantity."""

    __slots__ = ("centre", "doubt", "drift", "frames", "reference", "reference_doubt", "reference_frames", "spread")

    def __init__(self) -> None:
        self.frames = 0
        self.reference_frames = 0
        self.doubt = 0.0
        """Logarithm of frequency over which it was moved, falling to 0 as the well shows its own values."""
        self.reference_doubt = 0.0
        """The same for the reference."""
        self.centre = array("d", [float("nan")] * QUANTITIES)
        self.drift = array("d", [0.0] * QUANTITIES)
        """By how much the centre lags behind: what moves steadily does not vary."""
        self.spread = array("d", [0.0] * QUANTITIES)
        self.reference = array("d", [float("nan")] * QUANTITIES)

    @property
    def ready(self) -> bool:
        """It may be judged by."""
        return self.frames >= READY_FRAMES or self.doubt > 0

    def learn(self, frame: Sequence[float], memory_frames: float, *, young: bool) -> None:
        """Take in one 15-minute frame.

        Args:
            frame: the means, in the order of the quantities; NaN where not known.
            memory_frames: over how many frames it forgets.
            young: the well is still in its first week, so the reference learns too.
        """
        self.frames += 1
        share = max(1.0 / self.frames, 1.0 / memory_frames)
        follow = max(share, 0.02)
        centre, spread, drift = self.centre, self.spread, self.drift
        doubted = self.doubt > 0 or self.reference_doubt > 0
        clipping = self.frames > FRAMES_DOUBTED // 2
        places = zip(range(QUANTITIES), frame, centre, spread, drift)  # noqa: B905  (all of QUANTITIES)
        for place, value, known, stray, lag in places:
            if value != value:  # noqa: PLR0124  (NaN: not known)
                continue
            if known != known:  # noqa: PLR0124  (NaN: first sight)
                centre[place] = value
                spread[place] = 0.02 * abs(value)
                continue
            error = value - known
            if clipping:
                least = 0.005 * abs(known)
                limit = CLIP_SPREADS * (max(least, stray))
                if not -limit <= error <= limit:
                    error = limit if error > 0 else -limit
                drift[place] = lag + DRIFT_SHARE * (error - lag)
            centre[place] = known + share * error
            found = stray + follow * (1.25 * abs(error - lag) - stray)
            if self.frames > SETTLED_FRAMES:
                least = max(stray, 0.005 * abs(known))
                found = max((1 - CALMED) * stray, min(found, (1 + ROUSED) * least))
            spread[place] = found
            if doubted:
                self._shift_reference(place, centre[place], known)
        if doubted:
            self._settle_doubts()
        if young:
            self._learn_reference()

    def _shift_reference(self, place: int, new: float, old: float) -> None:
        """While the guess is set right: what the well has lost since it was new, it has lost at this frequency too."""
        if place == TEMP:
            self.reference[place] += new - old
        elif old > 0:
            self.reference[place] *= new / old

    def _settle_doubts(self) -> None:
        if self.frames >= FRAMES_DOUBTED:
            self.doubt = 0.0
        if self.frames >= REFERENCE_DOUBTED:
            self.reference_doubt = 0.0

    def _learn_reference(self) -> None:
        """Follow the centre while the well is new; the centre is a mean of its own first days by then."""
        self.reference_frames += 1
        self.reference_doubt = 0.0
        share = 1.0 / self.reference_frames
        for place, value in enumerate(self.centre):
            old = self.reference[place]
            self.reference[place] = value if old != old else old + share * (value - old)  # noqa: PLR0124  (NaN)

    def remember(self) -> list[Any]:
        """As JSON values."""
        counts = [self.frames, self.reference_frames, self.doubt, self.reference_doubt]
        return [*counts, list(self.centre), list(self.drift), list(self.spread), list(self.reference)]

    @staticmethod
    def recalled(remembered: Sequence[Any]) -> "Baseline":
        """What `remember` gave."""
        known = Baseline()
        known.frames, known.reference_frames, known.doubt, known.reference_doubt, *arrays = remembered
        known.centre, known.drift, known.spread, known.reference = (array("d", values) for values in arrays)
        return known

    def moved(self, ratio: float, distance: float) -> "Baseline":
        """The guess for another frequency, `ratio` times this one's, `distance` its logarithm without sign."""
        other = Baseline()
        other.doubt = distance
        other.reference_doubt = self.reference_doubt + distance
        for place in range(QUANTITIES):
            factor = ratio ** EXPONENTS[place]
            other.centre[place] = self.centre[place] * factor
            other.spread[place] = self.spread[place] * factor
            other.reference[place] = self.reference[place] * factor
        return other

    def noise(self) -> list[float]:
        """One spread of each ratio as a share of its centre (of TEMP in K), and no less than is ever believed."""
        found = [
            1.0 if not centre else LEAST_SPREAD if (share := spread / abs(centre)) < LEAST_SPREAD else share
            for centre, spread in zip(self.centre[:RATIOS], self.spread)  # noqa: B905  (only of the ratios)
        ]
        found[TEMP] = max(self.spread[TEMP], LEAST_SPREAD_K)
        return found
