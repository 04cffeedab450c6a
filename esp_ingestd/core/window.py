"""Windows: means, variation and sudden changes over time, whatever the sampling, in a fixed amount of memory.

Rules:
    1. Readings are summed into *steps* of a minute; at slower sampling each reading is a step.
    2. Steps are summed into *blocks* of five minutes; at slower sampling each reading is a block. The *window* is the
       last six blocks: half an hour, or two hours at one reading every twenty minutes. It says something only with
       four readings or more.
    3. A change of the motor current by a tenth from one step to the next is a *break*. Two in a row are one, since a
       change may fall into the middle of a step, or of what the RTU takes the mean of; so are two with a value between
       them that was held back, and a break and what goes on the same way by less. Level and variation before and
       after tell a shaft that broke from a pump that gasped, and so does whether the pressures had begun to move
       before the current did.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Final

from esp_ingestd.core.baseline import AMPERES, RATIOS
from esp_ingestd.core.feature import NAN
from esp_ingestd.core.reading import HOUR_US, SECOND_US

STEP_US: Final = 60 * SECOND_US
BLOCK_US: Final = 300 * SECOND_US
BLOCKS: Final = 6
WINDOW_LEAST: Final = 4
BREAK: Final = 0.10
BREAK_STEPS: Final = 60
KEPT: Final = 1 - 1 / BREAK_STEPS
"""Of the square, at each step beyond those."""
BREAK_CHAIN: Final = 2
CHAIN_US: Final = 2 * BLOCK_US
"""What falls at two readings that are farther apart fell twice: a shaft breaks at once, gas comes over minutes. Where
an RTU sends means of so long, nothing tells them apart."""
GOES_ON: Final = 0.03
"""Of the current: by so much it goes on where the first step after a break lay in its middle."""
LEAST_PARTS: Final = 3


class Sums:
    """Of some readings, the sum of each quantity, of two squares and of current spikes, and how many they are."""

    __slots__ = (
        "amperes",
        "amperes2",
        "casing",
        "count",
        "flow",
        "flow2",
        "gor",
        "head",
        "pip",
        "shake",
        "spikes",
        "temp",
        "torque",
        "wellhead",
    )

    def __init__(self) -> None:
        self.flow = 0.0
        self.pip = 0.0
        self.amperes = 0.0
        self.temp = 0.0
        self.shake = 0.0
        self.torque = 0.0
        self.gor = 0.0
        self.head = 0.0
        self.wellhead = 0.0
        self.casing = 0.0
        self.amperes2 = 0.0
        self.flow2 = 0.0
        self.spikes = 0.0
        self.count = 0.0

    def add(self, other: "Sums") -> None:
        """Add those of other readings."""
        self.flow += other.flow
        self.pip += other.pip
        self.amperes += other.amperes
        self.temp += other.temp
        self.shake += other.shake
        self.torque += other.torque
        self.gor += other.gor
        self.head += other.head
        self.wellhead += other.wellhead
        self.casing += other.casing
        self.amperes2 += other.amperes2
        self.flow2 += other.flow2
        self.spikes += other.spikes
        self.count += other.count

    def means(self) -> list[float]:
        """The mean of each quantity, in the order of core/baseline.py."""
        count = self.count
        return [
            self.flow / count,
            self.pip / count,
            self.amperes / count,
            self.temp / count,
            self.shake / count,
            self.torque / count,
            self.gor / count,
            self.head / count,
            self.wellhead / count,
            self.casing / count,
        ]

    def remember(self) -> list[float]:
        """As JSON values; NaN where not known."""
        quantities = [self.flow, self.pip, self.amperes, self.temp, self.shake, self.torque, self.gor, self.head]
        return [*quantities, self.wellhead, self.casing, self.amperes2, self.flow2, self.spikes, self.count]

    @staticmethod
    def recalled(remembered: Sequence[float]) -> "Sums":
        """What `remember` gave."""
        known = Sums()
        known.flow, known.pip, known.amperes, known.temp, known.shake, known.torque, known.gor, *later = remembered
        known.head, known.wellhead, known.casing, known.amperes2, known.flow2, known.spikes, known.count = later
        return known


_KEPT: Final = (
    "_break_mean",
    "_break_square",
    "_break_steps",
    "_chain",
    "block_us",
    "break_us",
    "cv_before",
    "level_before",
    "means",
    "moved_before",
    "newest_us",
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
        self.step = Sums()
        """Of the step that is being filled; the well adds to it."""
        self.step_us = 0
        self.block_us = 0
        self.newest_us = 0
        self._block = Sums()
        self._blocks: list[Sums] = []
        self._ends_us: list[int] = []
        self._closed = Sums()
        """Of all blocks."""
        self.means = [NAN] * RATIOS
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
        blocks = [[at_us, sums.remember()] for at_us, sums in zip(self._ends_us, self._blocks, strict=True)]
        return {**kept, "step": self.step.remember(), "_block": self._block.remember(), "blocks": blocks}

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Take back what `remember` gave."""
        for name in _KEPT:
            setattr(self, name, remembered.get(name, NAN))  # moved_before came later than the others
        self.means = self.means[:RATIOS]  # there were more once
        self.step, self._block = Sums.recalled(remembered["step"]), Sums.recalled(remembered["_block"])
        self._ends_us = [at_us for at_us, _ in remembered["blocks"]]
        self._blocks = [Sums.recalled(sums) for _, sums in remembered["blocks"]]
        self._close()

    def close_step(self, now_us: int) -> bool:
        """End the step at `now_us`; True if that ended a block too."""
        step = self.step
        self.means = step.means()
        if self._block.count:
            self._block.add(step)
        else:  # at slow sampling each step is a block
            self._block = step
        self.step = Sums()
        self._follow(self.means[AMPERES], now_us)
        self.newest_us = self.step_us = now_us
        if now_us - self.block_us < BLOCK_US - STEP_US // 2:
            return False
        self._blocks.append(self._block)
        self._ends_us.append(now_us)
        if len(self._blocks) > BLOCKS:
            del self._blocks[0], self._ends_us[0]
        self._close()
        self._block = Sums()
        self.block_us = now_us
        return True

    def _close(self) -> None:
        # Summed anew each time: what is taken off a sum leaves its rounding behind, and of NaN all.
        self._closed = closed = Sums()
        for block in self._blocks:
            closed.add(block)

    def _follow(self, amperes: float, now_us: int) -> None:
        """Look for a break in the motor current."""
        mean = self._break_mean
        if mean != mean or not abs(amperes - mean) > BREAK * mean:  # noqa: PLR0124  (NaN: nothing to break with)
            if mean != mean:  # noqa: PLR0124
                self._break_steps, self._break_mean, self._break_square = 1, amperes, 0.0
                return
            # Welford's running mean and square; it forgets beyond an hour of steps, so that drift is no break.
            error, steps = amperes - mean, self._break_steps + 1
            newly = self._chain > 0 and steps == BREAK_CHAIN
            if newly and abs(error) > GOES_ON * mean and (error > 0) == (mean > self.level_before):
                self._break_mean, self._chain = amperes, 0
                return
            if steps >= BREAK_STEPS:
                steps = BREAK_STEPS
                self._break_square *= KEPT
            self._break_steps = steps
            self._break_mean = mean = mean + error / steps
            self._break_square += error * (amperes - mean)
            if not newly or error:
                self._chain = 0
            return
        self._chain += 1
        goes_on, apart = self._chain == BREAK_CHAIN, now_us - self.newest_us > CHAIN_US
        if apart or not goes_on:
            self._chain = 1
            self.level_before = mean
            self.break_us = now_us
        if not goes_on:  # else what was before is the fall itself
            self.cv_before = self.current_cv
            blocks = self._blocks[:-1]
            pip, head = [each.pip / each.count for each in blocks], [each.head / each.count for each in blocks]
            self.moved_before = max(_moved(pip), _moved(head), key=_known)
        self._break_steps, self._break_mean, self._break_square = 1, amperes, 0.0

    def window_means(self) -> list[float]:
        """The means over the window; NaN with too few readings."""
        return self._closed.means() if self._closed.count >= WINDOW_LEAST else [NAN] * RATIOS

    @property
    def current_cv(self) -> float:
        """Coefficient of variation of the motor current in the window, %."""
        return _cv(self._closed.amperes, self._closed.amperes2, self._closed.count)

    @property
    def flow_cv(self) -> float:
        """Coefficient of variation of the flow in the window, %."""
        return _cv(self._closed.flow, self._closed.flow2, self._closed.count)

    @property
    def spikes(self) -> float:
        """How many readings of the window were current spikes."""
        return self._closed.spikes if self._closed.count >= WINDOW_LEAST else NAN

    @property
    def pip_slope(self) -> float:
        """Change of intake pressure over the window, psi/h; NaN with fewer than three blocks."""
        first, last = self._blocks[0], self._blocks[-1]
        return (last.pip / last.count - first.pip / first.count) / self._hours()

    @property
    def temp_slope(self) -> float:
        """Change of motor temperature over the window, K/h; NaN with fewer than three blocks."""
        first, last = self._blocks[0], self._blocks[-1]
        return (last.temp / last.count - first.temp / first.count) / self._hours()

    def _hours(self) -> float:
        """From the end of the first block to that of the last."""
        if len(self._blocks) < LEAST_PARTS:
            return NAN
        return (self._ends_us[-1] - self._ends_us[0]) / HOUR_US

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


def _cv(total: float, square: float, count: float) -> float:
    """Coefficient of variation of `count` values, %; NaN where they are too few."""
    mean = total / count if count >= WINDOW_LEAST else NAN
    if not mean > 0:
        return NAN
    square_mean = square / count - mean * mean
    return 100 * sqrt(square_mean) / mean if square_mean > 0 else 0.0


def _moved(parts: list[float]) -> float:
    """How far a pressure moved, % of its mean, over all blocks but the newest; NaN with too few of them.

    The newest is left out: a jump of the current is believed one reading later than a small one of a pressure.
    """
    if len(parts) < LEAST_PARTS:
        return NAN
    return 100 * (max(parts) - min(parts)) / max(sum(parts) / len(parts), 1.0)


def _known(value: float) -> float:
    """The value, or what is less than any where it is not known."""
    return value if value == value else -1.0  # noqa: PLR0124  (NaN: not known)
