"""The field as a whole: whether wells that fell silent fell silent together.

When the link to the field is cut, every well is silent, and an alarm each would bury what is to be known: that it is
the link. But wells send at their own intervals, so they are not overdue at the same moment. A well that is overdue
shares its silence if more than TOGETHER of the wells that ought to have been heard by now are missing: those that may
be silent no longer than it may, and have been for half of what they may. That is one and a half of their intervals, and
a cut that made this well overdue was at least two ago.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

TOGETHER: Final = 0.8
LEAST_WELLS: Final = 2


class Silence(NamedTuple):
    """How long a well has been silent, and how long it may be; microseconds."""

    well_id: str
    silent_us: int
    allowed_us: int

    @property
    def is_overdue(self) -> bool:
        """Longer than it may."""
        return self.silent_us > self.allowed_us


def fell_silent_together(silences: Sequence[Silence]) -> set[str]:
    """The overdue wells that share their silence with more than TOGETHER of those that would have been heard."""
    if not any(each.is_overdue for each in silences):
        return set()
    ordered = sorted(silences, key=lambda each: each.allowed_us)
    allowed_us = [each.allowed_us for each in ordered]
    missing = list(accumulate(int(2 * each.silent_us > each.allowed_us) for each in ordered))
    together = set()
    for each in ordered:
        heard_of = bisect_right(allowed_us, each.allowed_us)
        if each.is_overdue and heard_of >= LEAST_WELLS and missing[heard_of - 1] > TOGETHER * heard_of:
            together.add(each.well_id)
    return together


def are_back(back: int, wells: int) -> bool:
    """Whether so many of the wells are heard again that those that are not must answer for themselves."""
    return wells - back <= TOGETHER * wells
