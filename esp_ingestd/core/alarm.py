"""Alarms: a diagnosis that stands for a well, its life, and the events that tell of it.

Theory of operation. There is at most one alarm for a well and a diagnosis. Its questions (core/diagnosis.py) decide
when it comes and goes; the delays and deadbands are theirs. What people do with it comes as commands
(core/command.py). Either is a signal, and TABLE says what a signal does in each state: the next state, and the
transition that is told, if any. SHELF does the same for shelving, which lies across the states. The diagrams in
docs/diagnosis.md are drawn from both.

    1. An alarm is born PENDING, when a question is first met, and is told of only once that has stood for the
       question's on-delay. What falls back before that leaves no trace; nor does what nobody can assess for an hour, or
       for the on-delay where that is longer.
    2. Severity only rises, and says so once (`escalated`). Whoever acknowledged it acknowledged something milder: it
       is ACTIVE again.
    3. ACKNOWLEDGED outlives everything but that: the condition may go and come back.
    4. An alarm that latches, at the highest severity of a latching diagnosis, is LATCHED once its condition is gone,
       and ACTIVE again, or ACKNOWLEDGED, when the condition is. It ends by a reset.
    5. When the well stops, the alarms end (`well_off`) whose questions are not asked of a pump that stands; latched
       ones wait, and those of a group that outlasts a stop, since it is not about what the pump does. An alarm that
       another one explains ends as `superseded` and is PENDING again: it is told once more if it outlives its
       explanation; one that keeps coming back stands on, or names that take turns would be told for ever. One whose
       rule was put out of service, or that compares with a baseline that was reset, ends as `reset`.
    6. Three times within a day, or what else the tree says of a diagnosis (`recurs_s`), is one alarm that keeps coming
       back: it then stands (`recurring`) until its condition has been gone for as long, and counts; its state
       says whether its condition holds (`present`). A stop of the well does not end that one: it cures nothing, and
       each start would tell of it anew. What is told by the week, came twice within one, and comes again within four
       is known to come back. Names that compete, and are of one category, are one malady: what came of one
       of them, hours from the other, counts for both, and ends neither.
    7. A shelved alarm is silent. Its condition may go and come back meanwhile, which counts and is not told; it does
       not end by that until it is unshelved, and is then told as it stands. Growing worse ends the shelving, since
       what was shelved was milder; so does whatever else ends the alarm.
    8. A critical alarm that nobody acknowledged is `raised` again after an hour, once, with the same alarm_id. So is
       what keeps coming back, if it is COMM_LOSS, or of high severity and the pump runs on, each time that it stays
       for six hours: a link that was known to fail may have died, a pump that gasped may be locked for good.
    9. Identity is derived: an alarm from well, diagnosis and the time it was raised; an event from the alarm, its
       transition and its time, or, of a command, how many commands the alarm had heeded. Processing a reading or a
       command twice yields the same ids.

Suppressed and out of service are not states of an alarm: a question is not asked in an operating state that is not
its own, and one that the wells file does not enable is never asked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from esp_ingestd.core.reading import SECOND_US, to_iso
from esp_ingestd.core.tree import SEVERITIES, Diagnosis, Question


class State(Enum):
    """Where an alarm stands."""

    NORMAL = "normal"
    PENDING = "pending"
    ACTIVE = "active"
    ACKNOWLEDGED = "acknowledged"
    LATCHED = "latched"
    LATCHED_ACKNOWLEDGED = "latched, acknowledged"


class Shelf(Enum):
    """Whether an alarm is shelved."""

    OFF = "not shelved"
    ON = "shelved"


class Signal(Enum):
    """What can happen to an alarm."""

    MET = "condition met"
    LOST = "condition lost before its on-delay"
    DUE = "on-delay over"
    WORSE = "a question of higher severity is met"
    RETURNED = "condition gone for its off-delay"
    RETURNED_LATCHING = "condition gone, and it latches"
    RELEASED = "condition gone, and a new tree latches it no more"
    WELL_OFF = "well stopped"
    SUPERSEDED = "explained by another alarm"
    WITHDRAWN = "rule gone or out of service, or baseline reset"
    OVERDUE = "nobody acknowledged it for an hour, or it stays for six"
    ACKNOWLEDGE = "acknowledge"
    RESET = "reset"
    SHELVE = "shelve"
    UNSHELVE = "unshelve"
    EXPIRED = "its time on the shelf is over"


# (state, signal) -> (next state, transition told or ""). What is not listed does nothing.
TABLE: Final[Mapping[tuple[State, Signal], tuple[State, str]]] = {
    (State.NORMAL, Signal.MET): (State.PENDING, ""),
    (State.PENDING, Signal.LOST): (State.NORMAL, ""),
    (State.PENDING, Signal.DUE): (State.ACTIVE, "raised"),
    (State.ACTIVE, Signal.WORSE): (State.ACTIVE, "escalated"),
    (State.ACTIVE, Signal.OVERDUE): (State.ACTIVE, "raised"),
    (State.ACTIVE, Signal.ACKNOWLEDGE): (State.ACKNOWLEDGED, "acknowledged"),
    (State.ACTIVE, Signal.RETURNED): (State.NORMAL, "cleared"),
    (State.ACTIVE, Signal.RETURNED_LATCHING): (State.LATCHED, ""),
    (State.ACTIVE, Signal.WELL_OFF): (State.NORMAL, "cleared"),
    (State.ACTIVE, Signal.SUPERSEDED): (State.PENDING, "cleared"),
    (State.ACTIVE, Signal.WITHDRAWN): (State.NORMAL, "cleared"),
    (State.ACKNOWLEDGED, Signal.WORSE): (State.ACTIVE, "escalated"),
    (State.ACKNOWLEDGED, Signal.RETURNED): (State.NORMAL, "cleared"),
    (State.ACKNOWLEDGED, Signal.RETURNED_LATCHING): (State.LATCHED_ACKNOWLEDGED, ""),
    (State.ACKNOWLEDGED, Signal.WELL_OFF): (State.NORMAL, "cleared"),
    (State.ACKNOWLEDGED, Signal.SUPERSEDED): (State.PENDING, "cleared"),
    (State.ACKNOWLEDGED, Signal.WITHDRAWN): (State.NORMAL, "cleared"),
    (State.LATCHED, Signal.MET): (State.ACTIVE, ""),
    (State.LATCHED, Signal.OVERDUE): (State.LATCHED, "raised"),
    (State.LATCHED, Signal.ACKNOWLEDGE): (State.LATCHED_ACKNOWLEDGED, "acknowledged"),
    (State.LATCHED, Signal.RESET): (State.NORMAL, "cleared"),
    (State.LATCHED, Signal.RELEASED): (State.NORMAL, "cleared"),
    (State.LATCHED, Signal.WITHDRAWN): (State.NORMAL, "cleared"),
    (State.LATCHED_ACKNOWLEDGED, Signal.MET): (State.ACKNOWLEDGED, ""),
    (State.LATCHED_ACKNOWLEDGED, Signal.RESET): (State.NORMAL, "cleared"),
    (State.LATCHED_ACKNOWLEDGED, Signal.RELEASED): (State.NORMAL, "cleared"),
    (State.LATCHED_ACKNOWLEDGED, Signal.WITHDRAWN): (State.NORMAL, "cleared"),
}
# The same for shelving, of an alarm that stands; one that ends is not shelved.
SHELF: Final[Mapping[tuple[Shelf, Signal], tuple[Shelf, str]]] = {
    (Shelf.OFF, Signal.SHELVE): (Shelf.ON, "shelved"),
    (Shelf.ON, Signal.SHELVE): (Shelf.ON, "shelved"),
    (Shelf.ON, Signal.UNSHELVE): (Shelf.OFF, "unshelved"),
    (Shelf.ON, Signal.EXPIRED): (Shelf.OFF, "unshelved"),
    (Shelf.ON, Signal.WORSE): (Shelf.OFF, ""),
}
STANDING: Final = frozenset(State) - {State.NORMAL, State.PENDING}
ACKNOWLEDGED: Final = frozenset({State.ACKNOWLEDGED, State.LATCHED_ACKNOWLEDGED})
LATCHED: Final = frozenset({State.LATCHED, State.LATCHED_ACKNOWLEDGED})
RECURRING_COUNT: Final = 3
HABIT_TIMES: Final = 4
"""So many times the time in which it recurs stands what came back after that."""
GONE_US: Final = 1800 * SECOND_US
"""An alarm whose condition has been gone for longer explains no other, however long its off-delay."""
LAPSE_US: Final = 3600 * SECOND_US
"""What is pending, and not assessable for so long or for its on-delay, is forgotten: it was met too long ago."""
NEVER: Final = -1
_NAMESPACE: Final = UUID("6f2b3c1e-5a0d-5d0e-9a6e-0e5b7c0de5b1")


def alarm_id_of(well_id: str, diagnosis: str, raised_us: int) -> str:
    """The identity of an alarm: the same whenever the same readings are processed."""
    return str(uuid5(_NAMESPACE, f"{well_id}/{diagnosis}/{raised_us}"))


def event_id_of(alarm_id: str, transition: str, number: int) -> str:
    """The identity of one transition of one alarm: `number` is its time, or how many commands were heeded by then."""
    return str(uuid5(_NAMESPACE, f"{alarm_id}/{transition}/{number}"))


class Order(NamedTuple):
    """Why an alarm changes without a reading: a command, or time that is over."""

    at_us: int
    """When, by the clock of the daemon; microseconds since 1970 UTC."""
    number: int
    """What the event's identity is derived from: how many commands the alarm has heeded, this one included."""
    by: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmEvent:
    """One transition of one alarm: what is published, and what `diagnostic_results` keeps (CONTRACT §5, §4)."""

    event_id: str
    alarm_id: str
    well_id: str
    timestamp_us: int
    transition: str
    """Empty where the alarm stands otherwise than before and no transition says so: then only its state is told."""
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
    present: bool = True
    """It stands, and its condition holds just now."""
    acknowledged: bool = False
    shelved_until_us: int = 0
    """Until when it is shelved; 0 if it is not."""
    by: str = ""
    """Who commanded this transition; empty where nobody did."""
    comment: str = ""
    seq: int = 0
    """The place of this event among those of its alarm, from 1; of events of an older version 0."""

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
            "present": self.present,
            "acknowledged": self.acknowledged,
            "shelved_until": to_iso(self.shelved_until_us) if self.shelved_until_us else "",
            "by": self.by,
            "comment": self.comment,
            "seq": self.seq,
        }

    def state_payload(self) -> dict[str, object]:
        """The JSON object of the retained state topic: flat scalars only, since SCADA makes each key a tag."""
        flat = self.payload()
        for key in ("evidence", "path"):
            del flat[key]
        flat["actions"] = "; ".join(action.removesuffix(".") for action in self.actions)
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
    """Since when a standing one is cleared, or nobody can say whether a pending one is met."""

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
        """The question is asked and not met, or not assessable: then nothing changes until it lapses."""
        if not self.standing:
            if question.not_met(features):
                self.forget()
            elif self.met_us != NEVER:
                if self.gone_us == NEVER:
                    self.gone_us = now_us
                if now_us - self.gone_us >= max(question.on_delay_us, LAPSE_US):
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
        "evidence",
        "habitual",
        "heeded",
        "message",
        "question",
        "raised_us",
        "recurring",
        "reminded",
        "returned_us",
        "role",
        "seq",
        "severity",
        "shelved_until_us",
        "shown",
        "state",
        "told_us",
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
        self.message = ""
        """As it was told when it was raised, or grew worse: what people read must not change under their hands."""
        self.evidence: Mapping[str, float] = {}
        self.role = "primary"
        self.count = 0
        self.recurring = False
        self.habitual = False
        """It came back after the time in which it recurs was over."""
        self.returned_us = NEVER
        """Since when its condition is gone; NEVER while it holds."""
        self.shelved_until_us = 0
        self.seq = 0
        """How many events told of it."""
        self.heeded = 0
        """How many commands changed it."""
        self.reminded = False
        self.told_us = 0
        """When people were last told that it needs them, by the daemon's clock; 0: before its start."""
        self.shown = self.seen
        """What people saw of it when it was last told."""

    @property
    def stands(self) -> bool:
        """It was told and has not ended."""
        return self.state in STANDING

    @property
    def is_shelved(self) -> bool:
        """It is silent for a while."""
        return self.shelved_until_us > 0

    def explains(self, now_us: int, for_us: int = 0) -> bool:
        """It may explain another alarm: its condition holds, or was gone for no longer than GONE_US, or `for_us`."""
        holds = self.state in (State.ACTIVE, State.ACKNOWLEDGED) and self.returned_us == NEVER
        return holds and self.gone_for_us(now_us) <= max(for_us, GONE_US)

    @property
    def is_present(self) -> bool:
        """It stands, and its condition holds."""
        return self.stands and self.returned_us == NEVER

    @property
    def seen(self) -> tuple[str, str, bool]:
        """What people see of it: its state, its role, whether its condition holds; of a shelved one only its state."""
        return self.told_state, "" if self.is_shelved else self.role, self.is_shelved or self.is_present

    @property
    def recurs_us(self) -> int:
        """For how long its condition must be gone before one that keeps coming back ends."""
        return HABIT_TIMES * self.diagnosis.recurs_us if self.habitual else self.diagnosis.recurs_us

    @property
    def told_state(self) -> str:
        """Its state in the words of CONTRACT §5."""
        if not self.stands:
            return "cleared"
        if self.is_shelved:
            return "shelved"
        return "latched" if self.state in LATCHED else self.state.value

    @property
    def latches(self) -> bool:
        """It waits for a reset when its condition is gone."""
        return self.diagnosis.latched and self.severity == self.diagnosis.severity

    def signal(self, signal: Signal, until_us: int = 0) -> str | None:
        """Apply a signal; the transition to tell, "" for none, None where the tables have nothing for it.

        Args:
            signal: what happened.
            until_us: of a shelving, its end.
        """
        found = TABLE.get((self.state, signal))
        shelved = SHELF.get((Shelf.ON if self.is_shelved else Shelf.OFF, signal)) if self.stands else None
        if found is None and shelved is None:
            return None
        self.state, transition = found or (self.state, "")
        shelf, told = shelved or (Shelf.ON, "")
        if shelf is Shelf.OFF or not self.stands:
            self.shelved_until_us = 0
        elif shelved:
            self.shelved_until_us = until_us
        return transition or told

    def begin(self, well_id: str, at_us: int) -> None:
        """It is raised at `at_us`, as an alarm of its own identity."""
        self.raised_us = at_us
        self.alarm_id = alarm_id_of(well_id, self.diagnosis.name, at_us)
        self.returned_us = NEVER
        self.seq = self.heeded = 0
        self.reminded = False

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

    def forget_those(self, bits: int) -> None:
        """Forget the answers of the questions with these bits."""
        for question, watch in zip(self.diagnosis.questions, self.watches, strict=True):
            if question.bit & bits:
                watch.forget()

    def met_for_us(self, question: Question, now_us: int) -> int:
        """How long one of its questions has been met; 0 if it is not."""
        met_us = self.watches[self.diagnosis.questions.index(question)].met_us
        return 0 if met_us == NEVER else now_us - met_us

    def gone_for_us(self, now_us: int) -> int:
        """For how long its condition has been gone while its off-delay runs; 0 if it holds."""
        if self.strongest(holding=True) is not None:
            return 0
        return now_us - max((watch.gone_us for watch in self.watches if watch.standing), default=now_us)

    def due_us(self) -> float:
        """When the first of its questions that are met will have been for its on-delay; never if none is."""
        watched = zip(self.diagnosis.questions, self.watches, strict=True)
        return min((w.met_us + q.on_delay_us for q, w in watched if w.met_us != NEVER), default=math.inf)

    def strongest(self, *, holding: bool = False) -> Question | None:
        """The standing question of highest severity; None if none stands.

        Args:
            holding: leave out those whose conditions are gone, and whose off-delay runs.
        """
        watched = zip(self.diagnosis.questions, self.watches, strict=True)
        standing = [q for q, watch in watched if watch.standing and not (holding and watch.gone_us != NEVER)]
        return max(standing, key=lambda question: question.severity, default=None)

    def describe(self, now_us: int) -> str:
        """How it stands, in words: since when, or how far its on-delays are."""
        if self.stands:
            return f"is {self.state.value} since {to_iso(self.raised_us)}, alarm {self.alarm_id}"
        waits = [
            f"question {number} met for {(now_us - watch.met_us) // SECOND_US} of {question.on_delay_us // SECOND_US}"
            f" s, in {watch.samples} readings of {question.min_samples} at least"
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

    def carry_over(self, diagnosis: Diagnosis, enabled: int) -> bool:
        """Go on under another tree's diagnosis of the same name, asked the questions `enabled`.

        A question that asks the same, or has the same conditions, keeps its answers. False if the one that was told is
        asked no more and no other one stands, or if nothing was told and none is met: then the alarm is at its end.
        """
        asked = [question for question in diagnosis.questions if question.bit & enabled]
        watches = {new.index: Watch() for new in diagnosis.questions}
        told: Question | None = None
        for old, watch in zip(self.diagnosis.questions, self.watches, strict=True):
            new = _the_same(old, asked)
            if new is not None:
                watches[new.index] = watch
                told = new if old is self.question else told
        before = self.diagnosis, self.watches
        self.diagnosis, self.watches = diagnosis, list(watches.values())
        told = told or self.strongest()
        if told is None if self.stands else not self.hopeful():
            self.diagnosis, self.watches = before
            return False
        self.question = told or diagnosis.questions[0]
        return True

    def remember(self) -> dict[str, Any]:
        """All of it as JSON values; `recall` takes it back."""
        values = {name: getattr(self, name) for name in (*_REMEMBERED, *_REMEMBERED_SINCE_3)}
        watches = [[watch.met_us, watch.samples, watch.standing, watch.gone_us] for watch in self.watches]
        question = self.diagnosis.questions.index(self.question)
        told = {**values, "state": self.state.value, "question": question, "watches": watches}
        return told | {"outline": outline(self.diagnosis)}

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Take back what `remember` gave.

        The diagnosis is that of `outlined`; of a snapshot without an outline it is the tree's, and where that asks more
        questions or fewer, only the alarm's own stands.
        """
        for name in _REMEMBERED:
            setattr(self, name, remembered[name])
        for name in _REMEMBERED_SINCE_3:
            setattr(self, name, remembered.get(name, getattr(self, name)))
        self.state = State(remembered["state"])
        questions = self.diagnosis.questions
        self.question = questions[min(remembered["question"], len(questions) - 1)]
        if len(remembered["watches"]) == len(questions):
            self.watches = [Watch(*values) for values in remembered["watches"]]
        else:
            self.watches[questions.index(self.question)].standing = self.state in (State.ACTIVE, State.ACKNOWLEDGED)
        self.shown = self.seen


def _the_same(old: Question, questions: Sequence[Question]) -> Question | None:
    """The question that goes on asking what `old` asked: by its text and its conditions, else by either."""
    alike = [question for question in questions if question.ask == old.ask or question.when == old.when]
    return max(alike, key=lambda question: (question.ask == old.ask, question.when == old.when), default=None)


def outline(diagnosis: Diagnosis) -> dict[str, Any]:
    """Of a diagnosis what tells its alarm's end should the tree have lost it meanwhile; JSON values."""
    texts = {name: getattr(diagnosis, name) for name in _OUTLINED}
    return texts | {"questions": [[q.ask, q.when, q.severity] for q in diagnosis.questions]}


def outlined(name: str, outline: Mapping[str, Any]) -> Diagnosis:
    """A diagnosis of which only its outline is left: nothing is asked for it any more."""
    questions = [
        _unasked(index, ask, tuple(when), severity) for index, (ask, when, severity) in enumerate(outline["questions"])
    ]
    return Diagnosis(
        index=NOWHERE,
        name=name,
        category=outline["category"],
        group=outline["group"],
        latched=False,
        message="",
        actions=tuple(outline["actions"]),
        resolution_time=outline["resolution_time"],
        outlasts_stop=False,
        waits_us=0,
        recurs_us=0,
        questions=tuple(questions),
    )


def _unasked(index: int, ask: str, when: tuple[str, ...], severity: int) -> Question:
    return Question(
        index=index,
        bit=0,
        diagnosis=NOWHERE,
        ask=ask,
        when=when,
        confirm=(),
        message="",
        states=0,
        severity=severity,
        on_delay_us=0,
        off_delay_us=0,
        min_samples=0,
        asks=(),
        features=(),
        instant=False,
        met=_never,
        not_met=_never,
        cleared=_never,
        confirms=(),
    )


def _never(_features: Sequence[float]) -> bool:
    return False


NOWHERE: Final = -1
"""The place of a diagnosis that is in no tree."""
_OUTLINED: Final = ("category", "group", "actions", "resolution_time")
NO_OUTLINE: Final = {
    "category": "UNKNOWN",
    "group": "data",
    "actions": (),
    "resolution_time": "",
    "questions": (("", (), 0),),
}
"""Of a snapshot that an older version took."""
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
_REMEMBERED_SINCE_3: Final = ("shelved_until_us", "seq", "heeded", "reminded", "message", "evidence", "habitual")
"""And what a snapshot of form 2 does not know."""
