"""The guard against a flood of alarms: what an operator can still read is told by itself, the rest in one summary.

A flood begins with more than `starts` annunciations within ten minutes, and ends with fewer than `ends`: 10 and 5, for
one operator (ISA-18.2 as others quote it). One operator looks after some 200 wells, so a field of more has as many
times more before it is flooded. While it lasts, events of low and info severity are held back from the events topic;
what is more severe always passes. Nothing is lost by that: each alarm stands on its state topic and in the database.
Time is event time, as in all that alarms do; a flood after which nothing comes any more ends by the clock.
"""

from bisect import insort
from collections import Counter
from typing import Final

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.reading import SECOND_US, to_iso

WINDOW_US: Final = 600 * SECOND_US
WELLS_AN_OPERATOR: Final = 200
ANNUNCIATIONS: Final = frozenset({"raised", "escalated"})
BY_THE_CLOCK: Final = frozenset({"acknowledged", "shelved", "unshelved"})
"""What people do happens as it arrives: in the midst of a backlog that is no event time."""
HELD: Final = frozenset({"info", "low"})


class FloodGuard:
    """Decides event by event; holds the times of the last ten minutes, and what was held back in this flood.

    Args:
        starts: more annunciations than this within ten minutes begin a flood, for each 200 wells; 0: never.
        ends: fewer end it.
    """

    def __init__(self, starts: int, ends: int) -> None:
        self._starts = starts
        self._ends = min(ends, starts)
        self._told_us: list[int] = []
        self._newest_us = 0
        self._arrived_us = 0
        self._since_us = 0
        self._until_us = 0
        self._held: Counter[str] = Counter()
        self._wells: set[str] = set()
        self._is_news = False

    @property
    def is_flood(self) -> bool:
        """Whether one is under way."""
        return bool(self._since_us) and not self._until_us

    def holds(self, event: AlarmEvent, arrived_us: int, wells: int) -> bool:
        """Count an event of a field of so many wells; whether it is to be held back from the events topic."""
        if event.transition not in BY_THE_CLOCK:
            self._newest_us = max(self._newest_us, event.timestamp_us)
        if event.transition in ANNUNCIATIONS:
            self._arrived_us = arrived_us
            insort(self._told_us, event.timestamp_us)
        while self._told_us and self._told_us[0] <= self._newest_us - WINDOW_US:
            del self._told_us[0]
        self._judge(-(-wells // WELLS_AN_OPERATOR) or 1)
        if not self.is_flood or event.severity not in HELD or event.by:  # who commanded it wants to see it
            return False
        self._held[event.diagnosis] += 1
        self._wells.add(event.well_id)
        self._is_news = True
        return True

    def pass_time(self, now_us: int) -> None:
        """End a flood after which nothing was told for ten minutes of the clock."""
        if self.is_flood and now_us - self._arrived_us >= WINDOW_US:
            self._told_us.clear()
            self._judge(1)

    def news(self) -> dict[str, object] | None:
        """The summary, flat scalars only, if it has changed since it was last asked for."""
        if not self._is_news:
            return None
        self._is_news = False
        held = ", ".join(f"{name} {count}" for name, count in self._held.most_common())
        return {
            "flood": self.is_flood,
            "since": to_iso(self._since_us),
            "until": to_iso(self._until_us) if self._until_us else "",
            "annunciations": len(self._told_us),
            "held_back": self._held.total(),
            "wells": len(self._wells),
            "by_diagnosis": held,
        }

    def _judge(self, operators: int) -> None:
        """Begin or end a flood by the number of annunciations in the window."""
        told = len(self._told_us)
        if not self.is_flood and 0 < self._starts * operators < told:
            self._since_us, self._until_us = self._newest_us, 0
            self._held.clear()
            self._wells.clear()
            self._is_news = True
        elif self.is_flood and told < self._ends * operators:
            self._until_us = self._newest_us
            self._is_news = True
