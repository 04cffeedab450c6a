"""Baselines: what is normal for one well at one drive frequency, learned from the well itself.

Rules:
    1. There is one baseline for each whole Hz at which the well has run. One seen for the first time starts from its
       neighbour's, moved by exponents of the operating point (not of the pump curve: static head dominates), and is
       doubted in proportion to how far it was moved, less with each frame, until the well has shown its own there. By
       then it follows no farther than a change of speed can lead: what is lost beyond that is an illness.
    2. `centre` follows the well over some days; `reference` is what it was over its first week and then stays.
    3. Both follow 15-minute means of settled running. Outliers are clipped, so one bad frame moves nothing far. The
       spread is that about the centre and its steady lag: else a slow illness would hide in the noise that it makes.
    4. A frame counts only after it has waited for `baseline_lag_h` and no alarm came meanwhile: an illness that
       creeps in must not be learned as health. Only while a baseline is new it takes frames at once.

Source: the median of three days in DIAGNOSIS is replaced by a recursive, clipped mean: it needs no memory of days.
"""

from collections.abc import Sequence
from itertools import chain
from struct import Struct
from typing import Any, Final

from esp_ingestd.core.feature import NAN

FLOW: Final = 0
PIP: Final = 1
AMPERES: Final = 2
TEMP: Final = 3
SHAKE: Final = 4
TORQUE: Final = 5
GOR: Final = 6
HEAD: Final = 7
WELLHEAD: Final = 8
CASING: Final = 9
AMPERES_CV: Final = 10
FLOW_CV: Final = 11
QUANTITIES: Final = 12
RATIOS: Final = 10
"""The first ten are what ratios are formed of."""

# Exponent of frequency by which the operating point moves, and how little that is known.
EXPONENTS: Final = [1.4, -0.7, 0.7, 0.0, 1.0, 1.0, 0.0, 0.2, 0.5, 0.0, 0.0, 0.0]
DOUBTS: Final = [2.2, 2.0, 1.2, 0.8, 2.0, 2.0, 1.0, 1.0, 2.0, 0.5, 2.0, 2.0]
FLOW_DOUBT: Final = 22.0
"""Doubt about a flow that falls with the speed, for each squared unit more: the less head a pump has to spare, the more
flow goes."""
TEMP_DOUBT_K: Final = 60.0
"""Doubt about a temperature, K for each unit of the logarithm of frequency."""

ROOM: Final = 2.0
"""How many doubts a guess may be wrong by: of 673 means at 94 changes of speed of strangers' wells 95 % were less."""
PRIOR_FRAMES: Final = 8
"""How many frames a neighbour's spread counts for."""
READY_FRAMES: Final = 24
CLIPPED_FRAMES: Final = 8
"""From then on one bad frame moves nothing far."""
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
COUNTS: Final = 5
_PACKED: Final = Struct(f"{COUNTS + 4 * QUANTITIES}d")


class Normal:
    """Of one quantity at one frequency: what is normal."""

    __slots__ = ("centre", "drift", "reference", "spread")

    def __init__(self, centre: float = NAN, drift: float = 0.0, spread: float = 0.0, reference: float = NAN) -> None:
        self.centre = centre
        self.drift = drift
        """By how much the centre lags behind: what moves steadily does not vary."""
        self.spread = spread
        self.reference = reference

    def learn(self, value: float, share: float, follow: float, *, guessed: bool, clipping: bool, settled: bool) -> None:
        """Follow the mean of a frame.

        Args:
            value: the mean, in its own unit.
            share: by how much of the way the centre follows.
            follow: by how much of the way the spread does.
            guessed: it began as a guess: by how much that was wrong is no spread.
            clipping: nothing counts for more than some spreads.
            settled: the spread changes but slowly.
        """
        known, stray, lag = self.centre, self.spread, self.drift
        if known != known:  # noqa: PLR0124  (NaN: first sight)
            self.centre, self.spread = value, 0.02 * abs(value)
            return
        error, least = value - known, max(0.005 * abs(known), stray)
        if clipping:
            limit = CLIP_SPREADS * least
            if not -limit <= error <= limit:
                error = limit if error > 0 else -limit
            self.drift = lag + DRIFT_SHARE * (error - lag)
        self.centre = known + share * error
        strayed = abs((1 - share) * error if guessed else error - lag)
        found = stray + follow * (1.25 * strayed - stray)
        self.spread = max((1 - CALMED) * stray, min(found, (1 + ROUSED) * least)) if settled else found


class Baseline:
    """Normal at one frequency, quantity by quantity."""

    __slots__ = ("doubt", "frames", "of", "reference_doubt", "reference_frames", "slowed")

    def __init__(self) -> None:
        self.frames = 0
        self.reference_frames = 0
        self.doubt = 0.0
        """Logarithm of frequency over which it was moved, falling to 0 as the well shows its own values."""
        self.reference_doubt = 0.0
        """The same for the reference."""
        self.slowed = False
        """It was moved from a higher frequency."""
        self.of = [Normal() for _ in range(QUANTITIES)]

    @property
    def ready(self) -> bool:
        """It may be judged by."""
        return self.frames >= READY_FRAMES or self.doubt > 0

    @property
    def flow_doubt(self) -> float:
        """By how much more than `DOUBTS` says a flow may lie below the guess, as a share of it."""
        return FLOW_DOUBT * self.doubt * self.doubt if self.slowed else 0.0

    def learn(self, frame: tuple[float, ...], memory_frames: float, *, young: bool) -> None:
        """Take in one 15-minute frame.

        Args:
            frame: the means, in the order of the quantities; NaN where not known.
            memory_frames: over how many frames it forgets.
            young: the well is still in its first week, so the reference learns too.
        """
        self.frames += 1
        self._settle_doubts()
        share = max(1.0 / self.frames, 1.0 / memory_frames)
        doubted = self.doubt > 0 or self.reference_doubt > 0
        follow = max(1.0 / (self.frames + PRIOR_FRAMES) if doubted else share, 0.02)
        clipping = self.frames > CLIPPED_FRAMES
        settled = self.frames > SETTLED_FRAMES
        for place, normal in enumerate(self.of):
            value, known = frame[place], normal.centre
            if value != value:  # noqa: PLR0124  (NaN: not known)
                continue
            normal.learn(value, share, follow, guessed=doubted, clipping=clipping, settled=settled)
            if self.reference_doubt > 0 and known == known:  # noqa: PLR0124
                # While the guess is set right: what the well has lost since new, it has lost at this frequency too.
                if place == TEMP:
                    normal.reference += normal.centre - known
                elif known > 0:
                    normal.reference *= normal.centre / known
        if young:
            self._learn_reference()

    def _settle_doubts(self) -> None:
        """A guess is doubted less with each frame of its own, in a straight line until it is ready without."""
        if self.doubt > 0:
            self.doubt *= (READY_FRAMES - self.frames) / (READY_FRAMES + 1 - self.frames)
        if self.frames >= REFERENCE_DOUBTED:
            self.reference_doubt = 0.0

    def _learn_reference(self) -> None:
        """Follow the centre while the well is new; the centre is a mean of its own first days by then."""
        self.reference_frames += 1
        self.reference_doubt = 0.0
        share = 1.0 / self.reference_frames
        for normal in self.of:
            value, old = normal.centre, normal.reference
            normal.reference = value if old != old else old + share * (value - old)  # noqa: PLR0124  (NaN)

    def packed(self) -> bytes:
        """The same in few bytes: a well that ran at many frequencies uses one at a time."""
        counts = (self.frames, self.reference_frames, self.doubt, self.reference_doubt, self.slowed)
        rows = [(each.centre, each.drift, each.spread, each.reference) for each in self.of]
        return _PACKED.pack(*counts, *chain(*zip(*rows, strict=True)))

    @staticmethod
    def unpacked(packed: bytes) -> "Baseline":
        """What `packed` gave."""
        known = Baseline()
        *counts, centres, drifts, spreads, references, known.slowed = remembered(packed)
        known.frames, known.reference_frames, known.doubt, known.reference_doubt = counts
        known.of = [Normal(*each) for each in zip(centres, drifts, spreads, references, strict=True)]
        return known

    def moved(self, ratio: float, distance: float) -> "Baseline":
        """The guess for another frequency, `ratio` times this one's, `distance` its logarithm without sign."""
        other = Baseline()
        other.doubt = distance
        other.slowed = ratio < 1
        other.reference_doubt = self.reference_doubt + distance
        for place, each in enumerate(self.of):
            factor = ratio ** EXPONENTS[place]
            other.of[place] = Normal(each.centre * factor, 0.0, each.spread * factor, each.reference * factor)
        return other

    def within(self, frame: tuple[float, ...]) -> tuple[float, ...]:
        """A frame, with nothing farther from this guess than a change of speed can lead."""
        found = list(frame)
        for place, each in enumerate(self.of):
            doubt = TEMP_DOUBT_K if place == TEMP else DOUBTS[place] * abs(each.centre)
            room = ROOM * doubt * self.doubt + CLIP_SPREADS * each.spread
            below = ROOM * self.flow_doubt * each.centre if place == FLOW else 0.0
            # In this order what is not known, of either, leaves the value as it is.
            found[place] = min(max(found[place], each.centre - room - below), each.centre + room)
        return tuple(found)

    def noise(self) -> list[float]:
        """One spread of each ratio as a share of its centre (of TEMP in K), and no less than is ever believed."""
        found = [max(each.spread / abs(each.centre), LEAST_SPREAD) if each.centre else 1.0 for each in self.of[:RATIOS]]
        found[TEMP] = max(self.of[TEMP].spread, LEAST_SPREAD_K)
        return found


def remembered(packed: bytes) -> list[Any]:
    """A packed baseline as JSON values; NaN where not known."""
    numbers = _PACKED.unpack(packed)
    lists = [list(numbers[at : at + QUANTITIES]) for at in range(COUNTS, len(numbers), QUANTITIES)]
    return [int(numbers[0]), int(numbers[1]), *numbers[2:4], *lists, bool(numbers[4])]


def recalled(values: Sequence[Any]) -> bytes:
    """What `remembered` gave, packed."""
    lists, slowed = values[4:8], any(values[8:])  # which came later
    return _PACKED.pack(*values[:4], slowed, *chain(*lists))
