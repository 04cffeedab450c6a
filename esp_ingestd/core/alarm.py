"""Alarms: a diagnosis that stands for a well, its life, and the events that tell of it.

Theory of operation. There is at most one alarm for a well and a diagnosis. Its questions (core/diagnosis.py) decide
when it comes and goes; the delays and deadbands are theirs. What happens to an alarm is a signal, and TABLE says
what a signal does in each state: the next state, and the transition that is told, if any.

    1. An alarm is born PENDING, when a question is first met, and is told of only once that has stood for the
       question's on-delay. What falls back before that leaves no trace.
    2. An alarm that latches, at the highest severity of a latching diagnosis, is LATCHED once its condition is gone,
       without an event: it goes on standing, and is ACTIVE again when its condition is. It ends only where its
       diagnosis latches no more.
    3. Severity only rises, and says so once (`escalated`).
    4. When the well stops, the alarms end (`well_off`) whose questions are not asked of a pump that stands. An alarm
       that another one explains ends as `superseded` and is PENDING again: it is told once more if it outlives its
       explanation.
    5. Three times within a day is one alarm that keeps coming back: it then stands (`recurring`) until its condition
       has been gone for a day, through stops of the well too, and counts.
    6. Identity is derived: an alarm from well, diagnosis and the time it was raised; an event from the alarm, its
       transition and its time. Processing a reading twice yields the same ids.

Suppressed and out of service are not states of an alarm: a question is not asked in an operating state that is not
its own, and one that the wells file does not enable is never asked. Nobody can acknowledge, shelve or reset an alarm
yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from uuid import UUID, uuid5

from esp_ingestd.core.reading import SECOND_US, to_iso
from esp_ingestd.core.tree import SEVERITIES, Diagnosis, Question


class State(Enum):
    """Where an alarm stands."""

    NORMAL = "normal"
    PENDING = "pending"
    ACTIVE = "active"
    LATCHED = "latched"


class Signal(Enum):
    """What can happen to an alarm."""

    MET = "condition met"
    LOST = "condition lost before its on-delay"
    DUE = "on-delay over"
    WORSE = "a question of higher severity is met"
    RETURNED = "condition gone for its off-delay"
    RETURNED_LATCHING = "condition gone, and it latches"
    WELL_OFF = "well stopped"
    SUPERSEDED = "explained by another alarm"


# (state, signal) -> (next state, transition told or ""). What is not listed does nothing.
TABLE: Final[Mapping[tuple[State, Signal], tuple[State, str]]] = {
    (State.NORMAL, Signal.MET): (State.PENDING, ""),
    (State.PENDING, Signal.LOST): (State.NORMAL, ""),
    (State.PENDING, Signal.DUE): (State.ACTIVE, "raised"),
    (State.ACTIVE, Signal.WORSE): (State.ACTIVE, "escalated"),
    (State.ACTIVE, Signal.RETURNED): (State.NORMAL, "cleared"),
    (State.ACTIVE, Signal.RETURNED_LATCHING): (State.LATCHED, ""),
    (State.ACTIVE, Signal.WELL_OFF): (State.NORMAL, "cleared"),
    (State.ACTIVE, Signal.SUPERSEDED): (State.PENDING, "cleared"),
    (State.LATCHED, Signal.MET): (State.ACTIVE, ""),
    # These two reach an alarm that latched under an earlier tree.
    (State.LATCHED, Signal.RETURNED): (State.NORMAL, "cleared"),
    (State.LATCHED, Signal.WELL_OFF): (State.NORMAL, "cleared"),
}
DAY_US: Final = 86_400 * SECOND_US
RECURRING_COUNT: Final = 3
NEVER: Final = -1
_NAMESPACE: Final = UUID("6f2b3c1e-5a0d-5d0e-9a6e-0e5b7c0de5b1")


def alarm_id_of(well_id: str, diagnosis: str, raised_us: int) -> str:
    """The identity of an alarm: the same whenever the same readings are processed."""
    return str(uuid5(_NAMESPACE, f"{well_id}/{diagnosis}/{raised_us}"))


def event_id_of(alarm_id: str, transition: str, at_us: int) -> str:
    """The identity of one transition of one alarm."""
    return str(uuid5(_NAMESPACE, f"{alarm_id}/{transition}/{at_us}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmEvent:
    """One transition of one alarm: what is published, and what `diagnostic_results` keeps (CONTRACT §5, §4)."""

    event_id: str
    alarm_id: str
    well_id: str
    timestamp_us: int
    transition: str
    reason: str
    """Why it was cleared; empty for every other transition."""
    state: str
    role: str
    group: str
    diagnosis: str
    category: str
    severity: str
    confidence: float
    raised_at_us: int
    message: str
    evidence: Mapping[str, float]
    path: tuple[str, ...]
    actions: tuple[str, ...]
    resolution_time: str
    recurring: bool
    count: int
    tree_version: str
    telemetry_snapshot: Mapping[str, Any]
    """The reading at which it happened, as JSON values: for the table, not on the topic."""

    @property
    def priority(self) -> int:
        """0 (info) to 4 (critical)."""
        return SEVERITIES.index(self.severity)

    def payload(self) -> dict[str, object]:
        """The JSON object of the events topic."""
        return {
            "event_id": self.event_id,
            "alarm_id": self.alarm_id,
            "well_id": self.well_id,
            "timestamp": to_iso(self.timestamp_us),
            "transition": self.transition,
            "reason": self.reason,
            "state": self.state,
            "role": self.role,
            "group": self.group,
            "diagnosis": self.diagnosis,
            "category": self.category,
            "severity": self.severity,
            "priority": self.priority,
            "confidence": self.confidence,
            "raised_at": to_iso(self.raised_at_us),
            "message": self.message,
            "evidence": dict(self.evidence),
            "path": list(self.path),
            "actions": list(self.actions),
            "resolution_time": self.resolution_time,
            "recurring": self.recurring,
            "count": self.count,
            "tree_version": self.tree_version,
        }

    def state_payload(self) -> dict[str, object]:
        """The JSON object of the retained state topic: flat scalars only, since SCADA makes each key a tag."""
        flat = self.payload()
        for key in ("evidence", "path"):
            del flat[key]
        flat["actions"] = "; ".join(self.actions)
        flat["active"] = self.state != "cleared"
        return flat


@dataclass(slots=True)
class Watch:
    """One question's answer over time, for one alarm."""

    met_us: int = NEVER
    """Since when it is met; NEVER while it is not."""
    samples: int = 0
    standing: bool = False
    """Met for its on-delay, and not gone for its off-delay."""
    gone_us: int = NEVER
    """Since when a standing one is cleared."""

    def forget(self) -> None:
        """As if it had never been met."""
        self.met_us, self.samples, self.standing, self.gone_us = NEVER, 0, False, NEVER

    def met(self, question: Question, now_us: int) -> None:
        """The question is met by a reading at `now_us`."""
        if self.met_us == NEVER:
            self.met_us = now_us
        self.samples += 1
        self.gone_us = NEVER
        if self.samples >= question.min_samples and now_us - self.met_us >= question.on_delay_us:
            self.standing = True

    def not_met(self, question: Question, features: Sequence[float], now_us: int) -> None:
        """The question is asked and not met, or not assessable: then nothing changes."""
        if not self.standing:
            if question.not_met(features):
                self.forget()
        elif question.cleared(features):
            if self.gone_us == NEVER:
                self.gone_us = now_us
            if now_us - self.gone_us >= question.off_delay_us:
                self.forget()
        elif question.not_met(features):
            self.gone_us = NEVER


class Alarm:
    """One diagnosis of one well, from its first sign to its end."""

    __slots__ = (
        "alarm_id",
        "confidence",
        "count",
        "diagnosis",
        "question",
        "raised_us",
        "recurring",
        "returned_us",
        "role",
        "severity",
        "state",
        "watches",
    )

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis
        self.watches = [Watch() for _ in diagnosis.questions]
        self.state = State.NORMAL
        self.severity = 0
        self.raised_us = 0
        self.alarm_id = ""
        self.question = diagnosis.questions[0]
        self.confidence = 0.0
        self.role = "primary"
        self.count = 0
        self.recurring = False
        self.returned_us = NEVER

    @property
    def stands(self) -> bool:
        """It was told and has not ended."""
        return self.state not in (State.NORMAL, State.PENDING)

    def signal(self, signal: Signal) -> str | None:
        """Apply a signal; the transition to tell, "" for none, None where the table has nothing for it."""
        found = TABLE.get((self.state, signal))
        if found is None:
            return None
        self.state, transition = found
        return transition

    def look(self, met: int, asked: int, state: int, features: Sequence[float], now_us: int) -> None:
        """Take in the answers at `now_us`: of the questions `asked`, those `met`; both as bits."""
        for question, watch in zip(self.diagnosis.questions, self.watches, strict=True):
            if not question.bit & asked:
                continue
            if question.bit & met:
                watch.met(question, now_us)
            elif question.states & state:
                watch.not_met(question, features, now_us)
            elif not watch.standing:
                watch.forget()

    def forget_pending(self) -> None:
        """Let on-delays begin anew: after a gap in the data nobody knows what happened meanwhile."""
        for watch in self.watches:
            if not watch.standing:
                watch.forget()

    def forget_unless(self, states: int) -> None:
        """Forget the answers of questions that are not asked in `states`."""
        for question, watch in zip(self.diagnosis.questions, self.watches, strict=True):
            if not question.states & states:
                watch.forget()

    def strongest(self) -> Question | None:
        """The standing question of highest severity; None if none stands."""
        standing = [q for q, watch in zip(self.diagnosis.questions, self.watches, strict=True) if watch.standing]
        return max(standing, key=lambda question: question.severity, default=None)

    def describe(self, now_us: int) -> str:
        """How it stands, in words: since when, or how far its on-delays are."""
        if self.stands:
            return f"is {self.state.value} since {to_iso(self.raised_us)}, alarm {self.alarm_id}"
        waits = [
            f"question {number} met for {(now_us - watch.met_us) // SECOND_US} of {question.on_delay_us // SECOND_US}"
            f" s, {watch.samples} of {question.min_samples} readings"
            for number, (question, watch) in enumerate(zip(self.diagnosis.questions, self.watches, strict=True), 1)
            if watch.met_us != NEVER
        ]
        return f"is {self.state.value}: {'; '.join(waits)}"

    @property
    def unsettled(self) -> bool:
        """A delay of it is running: what comes next depends on when that began."""
        return any((watch.met_us != NEVER and not watch.standing) or watch.gone_us != NEVER for watch in self.watches)

    def hopeful(self) -> bool:
        """Some question is met, so that the alarm may still come."""
        return any(watch.met_us != NEVER for watch in self.watches)

    def remember(self) -> dict[str, Any]:
        """All of it as JSON values; `recall` takes it back."""
        values = {name: getattr(self, name) for name in _REMEMBERED}
        watches = [[watch.met_us, watch.samples, watch.standing, watch.gone_us] for watch in self.watches]
        question = self.diagnosis.questions.index(self.question)
        return {**values, "state": self.state.value, "question": question, "watches": watches}

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Take back what `remember` gave; where the tree asks more questions or fewer, only the alarm's own stands."""
        for name in _REMEMBERED:
            setattr(self, name, remembered[name])
        self.state = State(remembered["state"])
        questions = self.diagnosis.questions
        self.question = questions[min(remembered["question"], len(questions) - 1)]
        if len(remembered["watches"]) == len(questions):
            self.watches = [Watch(*values) for values in remembered["watches"]]
        else:
            self.watches[questions.index(self.question)].standing = self.state is State.ACTIVE


_REMEMBERED: Final = (
    "severity",
    "raised_us",
    "alarm_id",
    "confidence",
    "role",
    "count",
    "recurring",
    "returned_us",
)
"""Of an alarm, what is kept as it is."""
