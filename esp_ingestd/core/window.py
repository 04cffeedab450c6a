"""Windows: means, variation and sudden changes over time, whatever the sampling, in a fixed amount of memory.

Rules:
    1. Readings are summed into *steps* of a minute; at slower sampling each reading is a step.
    2. Steps are summed into *blocks* of five minutes; at slower sampling each reading is a block. The *window* is the
       last six blocks: half an hour, or two hours at one reading every twenty minutes. It says something only with
       four readings or more.
    3. A change of the motor current by a tenth from one step to the next is a *break*. Two in a row are one, since a
       change may fall into the middle of a step. Level and variation before and after tell a shaft that broke from a
       pump that gasped, and so does whether the pressures had begun to move before the current did.
"""

from collections.abc import Mapping
from math import sqrt
from operator import add
from typing import Any, Final

from esp_ingestd.core.feature import NAN
from esp_ingestd.core.reading import SECOND_US

# Places in the sums of a step, a block and the window.
(S_FLOW, S_PIP, S_AMPERES, S_TEMP, S_SHAKE, S_TORQUE, S_GOR, S_HEAD, S_WELLHEAD, S_CASING) = range(10)
S_AMPERES2, S_FLOW2, S_SPIKES, S_COUNT = range(10, 14)
SUMS: Final = 14

STEP_US: Final = 60 * SECOND_US
BLOCK_US: Final = 300 * SECOND_US
BLOCKS: Final = 6
WINDOW_LEAST: Final = 4
BREAK: Final = 0.10
BREAK_STEPS: Final = 60
KEPT: Final = 1 - 1 / BREAK_STEPS
"""Of the square, at each step beyond those."""
BREAK_CHAIN: Final = 2
LEAST_PARTS: Final = 3


_KEPT: Final = (
    "_block",
    "_break_mean",
    "_break_square",
    "_break_steps",
    "_chain",
    "_closed",
    "block_us",
    "break_us",
    "cv_before",
    "level_before",
    "means",
    "moved_before",
    "newest_us",
    "step",
    "step_us",
)
"""Of a window, what outlives a restart as it is."""


class Window:
    """The last half hour of one well while its pump turns."""

    __slots__ = (
        "_block",
        "_blocks",
        "_break_mean",
        "_break_square",
        "_break_steps",
        "_chain",
        "_closed",
        "_ends_us",
        "block_us",
        "break_us",
        "cv_before",
        "level_before",
        "means",
        "moved_before",
        "newest_us",
        "step",
        "step_us",
    )

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything: the pump stopped or started."""
        self.step: list[float] = [0.0] * SUMS
        """Sums of the step that is being filled; the well adds to it."""
        self.step_us = 0
        self.block_us = 0
        self.newest_us = 0
        self._block = [0.0] * SUMS
        self._blocks: list[list[float]] = []
        self._ends_us: list[int] = []
        self._closed = [0.0] * SUMS
        self.means = [NAN] * SUMS
        """Of the newest step."""
        self.break_us = 0
        self.level_before = NAN
        self.cv_before = NAN
        self.moved_before = NAN
        self._break_mean = NAN
        self._break_square = 0.0
        self._break_steps = 0
        self._chain = 0

    def remember(self) -> dict[str, Any]:
        """As JSON values; NaN where not known."""
        kept = {name: getattr(self, name) for name in _KEPT}
        blocks = zip(self._ends_us, self._blocks, strict=True)
        return {**kept, "blocks": [[at_us, list(sums)] for at_us, sums in blocks]}

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Take back what `remember` gave."""
        for name in _KEPT:
            setattr(self, name, remembered.get(name, NAN))  # moved_before came later than the others
        self._ends_us = [at_us for at_us, _ in remembered["blocks"]]
        self._blocks = [sums for _, sums in remembered["blocks"]]

    def close_step(self, now_us: int) -> bool:
        """End the step at `now_us`; True if that ended a block too."""
        step, block = self.step, self._block
        count = step[S_COUNT]
        self.means = means = step if count == 1.0 else [total / count for total in step]
        self._block = list(map(add, block, step)) if block[S_COUNT] else step
        self.step = [0.0] * SUMS  # a new one: the means and the block may be the one that ended
        self._follow(means[S_AMPERES], now_us)
        self.newest_us = self.step_us = now_us
        if now_us - self.block_us < BLOCK_US - STEP_US // 2:
            return False
        self._close_block(now_us)
        return True

    def _close_block(self, now_us: int) -> None:
        blocks, ends_us = self._blocks, self._ends_us
        blocks.append(self._block)
        ends_us.append(now_us)
        if len(blocks) > BLOCKS:
            del blocks[0], ends_us[0]
        self._closed = list(map(sum, zip(*blocks)))  # noqa: B905  (all of SUMS; a check costs a third)
        self._block = [0.0] * SUMS
        self.block_us = now_us

    def _follow(self, amperes: float, now_us: int) -> None:
        """Look for a break in the motor current."""
        mean = self._break_mean
        if mean != mean or not abs(amperes - mean) > BREAK * mean:  # noqa: PLR0124  (NaN: nothing to break with)
            if mean != mean:  # noqa: PLR0124
                self._break_steps, self._break_mean, self._break_square = 1, amperes, 0.0
                return
            # Welford's running mean and square; it forgets beyond an hour of steps, so that drift is no break.
            error, steps = amperes - mean, self._break_steps + 1
            if steps >= BREAK_STEPS:
                steps = BREAK_STEPS
                self._break_square *= KEPT
            self._break_steps = steps
            self._break_mean = mean = mean + error / steps
            self._break_square += error * (amperes - mean)
            self._chain = 0
            return
        self._chain += 1
        if self._chain != BREAK_CHAIN:
            self._chain = 1
            self.level_before = mean
            self.cv_before = self.cv(S_AMPERES, S_AMPERES2)
            self.moved_before = max(self._moved(S_PIP), self._moved(S_HEAD), key=_known)
            self.break_us = now_us
        self._break_steps, self._break_mean, self._break_square = 1, amperes, 0.0

    def window_means(self) -> list[float]:
        """The means over the window, of all but squares and counts; NaN with too few readings."""
        closed = self._closed
        count = closed[S_COUNT]
        return [total / count for total in closed[:S_AMPERES2]] if count >= WINDOW_LEAST else [NAN] * S_AMPERES2

    def cv(self, place: int, square: int) -> float:
        """Coefficient of variation of the readings in the window, %."""
        count = self._closed[S_COUNT]
        if count < WINDOW_LEAST:
            return NAN
        mean = self._closed[place] / count
        if not mean > 0:
            return NAN
        square_mean = self._closed[square] / count - mean * mean
        return 100 * sqrt(square_mean) / mean if square_mean > 0 else 0.0

    def spikes(self) -> float:
        """How many readings of the window were current spikes."""
        return self._closed[S_SPIKES] if self._closed[S_COUNT] >= WINDOW_LEAST else NAN

    def slope(self, place: int) -> float:
        """Change an hour over the window, in the quantity's unit; NaN with fewer than three blocks."""
        if len(self._blocks) < LEAST_PARTS:
            return NAN
        first, last = self._blocks[0], self._blocks[-1]
        change = last[place] / last[S_COUNT] - first[place] / first[S_COUNT]
        return change * 3600 * SECOND_US / (self._ends_us[-1] - self._ends_us[0])

    def _moved(self, place: int) -> float:
        """How far a pressure moved over the window but for its newest block, % of its mean; NaN with too few blocks.

        The newest is left out: a jump of the current is believed one reading later than a small one of a pressure.
        """
        parts = [sums[place] / sums[S_COUNT] for sums in self._blocks[:-1]]
        if len(parts) < LEAST_PARTS:
            return NAN
        return 100 * (max(parts) - min(parts)) / max(sum(parts) / len(parts), 1.0)

    @property
    def cv_after(self) -> float:
        """Variation of the current since the last break, %; NaN with fewer than three steps."""
        if self._break_steps < LEAST_PARTS:
            return NAN
        return 100 * sqrt(self._break_square / self._break_steps) / max(self._break_mean, 1e-9)

    @property
    def level_after(self) -> float:
        """Mean current since the last break, A."""
        return self._break_mean


def _known(value: float) -> float:
    """The value, or what is less than any where it is not known."""
    return value if value == value else -1.0  # noqa: PLR0124  (NaN: not known)
