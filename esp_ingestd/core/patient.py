"""Patients: the wells under diagnosis, each with its alarms, and one reading of one of them being looked at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from esp_ingestd.core.alarm import HABIT_TIMES, NEVER, RECURRING_COUNT, Alarm, AlarmEvent
from esp_ingestd.core.command import Command
from esp_ingestd.core.feature import OFF, TRIP
from esp_ingestd.core.reading import DAY_US, SECOND_US, Reading
from esp_ingestd.core.tree import SEVERITIES
from esp_ingestd.core.well import Well

STANDING_STILL: Final = OFF | TRIP
STOPS_A_PUMP: Final = SEVERITIES.index("high")
"""A drive cuts what is so severe. For what is milder, or long gone and only latched, people stop a pump."""
APART_US: Final = 6 * 3600 * SECOND_US
"""What comes of two names within so long is one illness that went from the one to the other."""
REPEATED_US: Final = 300 * SECOND_US
"""A command that says the same within so long is the one before, delivered again."""


class Patient:
    """One well under diagnosis: what is known of it, its alarms, and when earlier ones were raised."""

    __slots__ = ("alarms", "enabled", "ended", "heeded", "raised", "relearned", "resets", "stood", "well")

    def __init__(self, well: Well, enabled: int) -> None:
        self.well = well
        self.enabled = enabled
        """The questions that it is asked, as bits."""
        self.alarms: dict[int, Alarm] = {}
        """By the diagnosis's place in the tree, whose order is precedence."""
        self.raised: dict[int, list[int]] = {}
        """When each diagnosis last came, as far back as it may count as coming back."""
        self.ended: dict[int, int] = {}
        """When the alarm of each diagnosis last ended because its conditions were gone."""
        self.heeded: tuple[str, int] = ("", 0)
        """The command that was heeded last, by its identity, and when."""
        self.relearned = 0
        """How often its baseline was reset."""
        self.resets: list[str] = []
        """The alarms that commands reset last, by their ids."""
        self.stood: bool | None = None
        """Whether the pump stood at the last snapshot; None before the first."""

    @property
    def stands(self) -> bool:
        """By its last reading the pump stands."""
        return bool(self.well.state & STANDING_STILL)

    def came(self, alarm: Alarm, now_us: int, akin: Iterable[int]) -> int:
        """Note that an alarm's condition came; how often it, or one of those akin to it, did of late.

        What came of the others within hours of it was one malady that changed its name. Twice within the time in which
        it recurs, and now again within HABIT_TIMES that, is three times.
        """
        place, recurs_us = alarm.diagnosis.index, alarm.diagnosis.recurs_us
        known_us = HABIT_TIMES * recurs_us if recurs_us > DAY_US else recurs_us
        own = [*(t for t in self.raised.get(place, ()) if now_us - t < known_us), now_us][-RECURRING_COUNT:]
        self.raised[place] = own
        if len(own) < RECURRING_COUNT or own[-2] - own[0] >= recurs_us:
            own = [t for t in own if now_us - t < recurs_us]
        others = [t for other in akin if other != place for t in self.raised.get(other, ()) if now_us - t < recurs_us]
        return len(own) + sum(all(abs(other - t) > APART_US for t in own) for other in others)

    def role(self, alarm: Alarm, now_us: int) -> str:
        """What a standing alarm is in its group: one is primary, all others are secondary.

        That is the first in the tree of those that hold, or were gone for no longer than explains others; else the
        first of all.
        """
        own = (not alarm.explains(now_us), alarm.diagnosis.index)
        is_first = all(
            own <= (not other.explains(now_us), other.diagnosis.index)
            for other in self.alarms.values()
            if other.stands and other.diagnosis.group == alarm.diagnosis.group
        )
        return "primary" if is_first else "secondary"

    def standing_alarm(self, alarm_id: str) -> Alarm | None:
        """The standing alarm of this identity."""
        return next((a for a in self.alarms.values() if a.stands and a.alarm_id == alarm_id), None)

    def repeats(self, command: Command, at_us: int) -> bool:
        """Whether a command is the one heeded last, delivered again; the next one is compared with this."""
        identity, heeded_us = self.heeded
        same = identity == command.identity and 0 <= at_us - heeded_us < REPEATED_US
        if not same:
            self.heeded = (command.identity, at_us)
        return same

    def has_lost(self, place: int) -> bool:
        """Whether its alarm with this place stands, and its condition with it."""
        alarm = self.alarms.get(place)
        return alarm is not None and alarm.returned_us == NEVER

    def sweep(self) -> None:
        """Let go of alarms that have ended and that nothing announces again."""
        for place in [place for place, a in self.alarms.items() if not a.stands and not a.hopeful()]:
            del self.alarms[place]

    def follow(self, events: Sequence[AlarmEvent]) -> None:
        """Tell the well what its alarms mean for learning: nothing is learned from an ailing well."""
        well = self.well
        well.alarmed = any(
            a.diagnosis.group != "data" and a.is_present and a.severity >= STOPS_A_PUMP for a in self.alarms.values()
        )
        well.troubled = any(a.diagnosis.group != "data" and a.hopeful() for a in self.alarms.values())
        if any(event.transition == "raised" and event.group != "data" for event in events):
            well.distrust()


@dataclass(frozen=True, slots=True)
class Visit:
    """One reading of one patient, being looked at."""

    patient: Patient
    reading: Reading
    met: int
    """The questions met, as bits."""
    asked: int
    """The questions asked, as bits."""

    @property
    def now_us(self) -> int:
        """The event time."""
        return self.patient.well.last_us

    @property
    def features(self) -> Sequence[float]:
        """What the questions see."""
        return self.patient.well.features
