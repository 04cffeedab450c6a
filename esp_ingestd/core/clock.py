"""The RTU's clock, judged by when its readings arrive.

Rules:
    1. A timestamp more than two minutes ahead of its arrival is wrong: the reading happened when it arrived.
    2. A timestamp behind its arrival may be a slow link, a backlog, or history. A backlog catches up and a link's delay
       comes and goes; a clock that is an hour slow is an hour slow at each reading. So a delay of more than ten minutes
       is the clock's if it stays the same within a minute for ten minutes and five readings, and nothing else comes.
    3. After a clock was set back all readings are late: older than what the well has already said. They stay so,
       stored and not diagnosed, until rule 2 knows better. From then on the delay is added to them, so that a well is
       not blind until its clock has reached the old time again, which may take a day or a year.
    4. The first reading on time ends it: the clock is right again.
"""

from typing import Any, Final

from esp_ingestd.core.reading import SECOND_US

AHEAD_US: Final = 120 * SECOND_US
LAG_US: Final = 600 * SECOND_US
SAME_US: Final = 60 * SECOND_US
PROOF_US: Final = 600 * SECOND_US
PROOF_READINGS: Final = 5


_REMEMBERED: Final = ("_delay_us", "_readings", "_since_us", "added_us", "ahead_us")


class Clock:
    """What is known of one RTU's clock."""

    __slots__ = _REMEMBERED

    def __init__(self) -> None:
        self.ahead_us = 0
        """How far it is ahead; below 0: behind. 0 as long as it is not known to be wrong."""
        self.added_us = 0
        """What is added to its timestamps."""
        self._delay_us = 0
        self._readings = 0
        self._since_us = 0

    @property
    def doubted(self) -> bool:
        """The reading before was not on time."""
        return self._readings > 0 or self.ahead_us != 0

    def read(self, stamp_us: int, received_us: int, last_us: int) -> int:
        """When a reading with this timestamp happened; before `last_us` it is late.

        Args:
            stamp_us: what the RTU says.
            received_us: when it arrived.
            last_us: when the well's newest reading happened.
        """
        delay_us = received_us - stamp_us
        if delay_us <= LAG_US:
            self._readings = self.added_us = 0
            self.ahead_us = -delay_us if delay_us < -AHEAD_US else 0
            return received_us if self.ahead_us else stamp_us
        if self._readings and abs(delay_us - self._delay_us) <= SAME_US:
            self._readings += 1
        else:
            self._delay_us, self._readings, self._since_us = delay_us, 1, received_us
            self.ahead_us = 0
        if self._readings >= PROOF_READINGS and received_us - self._since_us >= PROOF_US:
            self.ahead_us = -self._delay_us
            if stamp_us + self.added_us <= last_us:
                self.added_us = self._delay_us
        return stamp_us + self.added_us

    def remember(self) -> list[Any]:
        """As JSON values."""
        return [getattr(self, name) for name in _REMEMBERED]

    def recall(self, remembered: list[Any]) -> None:
        """Take back what `remember` gave."""
        for name, value in zip(_REMEMBERED, remembered, strict=True):
            setattr(self, name, value)
