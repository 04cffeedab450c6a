"""Cadence: how often a well reports, learned from its readings, and how long it may be silent.

Rules:
    1. Two steps alike are a sampling rate; besides, the interval follows a tenth of the way, and never far at once.
    2. An RTU that reports by exception is silent for longer whenever nothing changes: silences that came back count as
       its habit, the longest one as an accident. What does not come back is forgotten.
    3. On a link that loses readings some get lost in a row, by chance: how many, follows from the share that gets lost.
"""

import math
from typing import Final

from esp_ingestd.core.reading import SECOND_US

SILENCE_US: Final = 300 * SECOND_US
MISSED: Final = 3.25
"""Intervals without a reading: two that got lost are no silence, however unsteady the clock of the RTU."""
LATE_INTERVALS: Final = 1.5
"""After so many a reading was lost."""
OTHER_RATE: Final = 2.0
"""An RTU that reports so many times less or more often has another sampling rate."""
LOST_READINGS: Final = 100
"""Over how many readings the share of those that get lost is learned."""
LOST_MOST: Final = 12
"""More in a row are an outage, not chance."""
CHANCE_LOG: Final = math.log(3e-5)
"""How seldom as many readings in a row may get lost by chance as are taken for silence: at 5 min once in 100 days."""
UNHEARD_US: Final = 7_200 * SECOND_US
QUIET_MOST_US: Final = 3_600 * SECOND_US
QUIET_KEPT: Final = 100
"""A silence is remembered for so many times as long as it was."""
SAME_STEP: Final = 0.2


class Cadence:
    """The times between the readings of one well."""

    __slots__ = ("gap", "interval_us", "is_given", "longest_quiet_us", "lost", "missed", "step_us", "usual_quiet_us")

    def __init__(self) -> None:
        self.interval_us = 0
        """The usual time between two readings; 0 until two were seen."""
        self.is_given = False
        """The wells file names the interval: it is not learned."""
        self.gap = False
        """The reading before the present one was too long ago to continue from."""
        self.step_us = 0
        self.longest_quiet_us = 0
        self.usual_quiet_us = 0
        self.lost = 0.0
        """Readings that do not arrive, for each that does."""
        self.missed = MISSED
        """Intervals that it may be silent for, as many as chance makes of that."""

    def give(self, interval_s: float | None) -> None:
        """Take the interval from the wells file; None: it is to be learned."""
        self.is_given = bool(interval_s)
        if interval_s:
            self.interval_us = int(interval_s * SECOND_US)

    def silence_us(self) -> int:
        """How long the well may be silent; where no interval is known yet, it may be any."""
        if not self.interval_us:
            return UNHEARD_US
        if self.is_given:
            return max(int(MISSED * self.interval_us), SILENCE_US)
        return max(int(self.missed * self.interval_us), SILENCE_US, self.usual_quiet_us * 3 // 2)

    def take(self, step_us: int) -> None:
        """Work in the time since the reading before."""
        interval_us = self.interval_us
        intervals = step_us / interval_us if interval_us else 0.0
        self.gap = step_us > SILENCE_US and intervals > MISSED
        if self.is_given:
            return
        if self.gap or self.longest_quiet_us:
            self._keep_quiet(step_us)
        if self.lost or intervals > LATE_INTERVALS:
            self._count_lost(intervals)
        before_us, self.step_us = self.step_us, step_us
        twice = abs(step_us - before_us) <= SAME_STEP * before_us
        if not interval_us or (twice and not 1 / OTHER_RATE < intervals < OTHER_RATE):
            self.interval_us = step_us  # the first, or twice the same: its sampling rate is another one
            self.lost, self.missed = 0.0, MISSED
        else:
            # A tenth of the way, and never far at once: a gap is no change of the sampling rate.
            self.interval_us += min(step_us - interval_us, interval_us + interval_us) // 10

    def _count_lost(self, intervals: float) -> None:
        lost = round(intervals) - 1
        if lost > LOST_MOST:
            return
        self.lost += (max(lost, 0) - self.lost) / LOST_READINGS
        if self.lost < 1 / LOST_READINGS**2:
            self.lost, self.missed = 0.0, MISSED
            return
        self.missed = max(MISSED, 1 + CHANCE_LOG / math.log(self.lost / (1 + self.lost)))

    def _keep_quiet(self, step_us: int) -> None:
        if self.gap:
            step_us = min(step_us, QUIET_MOST_US)
            self.usual_quiet_us = max(self.usual_quiet_us, min(step_us, self.longest_quiet_us))
            self.longest_quiet_us = max(self.longest_quiet_us, step_us)
        else:
            self.longest_quiet_us = max(0, self.longest_quiet_us - step_us // QUIET_KEPT)
            self.usual_quiet_us = max(0, self.usual_quiet_us - step_us // QUIET_KEPT)
