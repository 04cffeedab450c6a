"""Diagnosis: from readings to alarm events, for every well, by the decision tree.

Rules:
    1. Event time only. A reading no newer than its well's newest is late: it changes nothing and raises nothing.
    2. All questions are asked at each reading; which answer is told is decided afterwards, by precedence within the
       group, so that no question makes another one unreachable.
    3. In an exclusive group an alarm is told unless one that precedes it, at no lower severity, stands. One that
       comes later and ranks higher ends the other as superseded.
    4. A channel that is missing or bad makes a question not assessable: it neither raises nor clears.
    5. A healthy well costs one pass over its channels and one compiled function; nothing is built for it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esp_ingestd.core.alarm import (
    DAY_US,
    NEVER,
    RECURRING_COUNT,
    Alarm,
    AlarmEvent,
    Signal,
    State,
    alarm_id_of,
    event_id_of,
)
from esp_ingestd.core.feature import FEATURE_INDEX, FEATURES, OFF, STATE_NAMES, TRIP
from esp_ingestd.core.reading import CHANNEL_NAMES, SECOND_US, Reading, to_iso
from esp_ingestd.core.tree import SEVERITIES, Diagnosis, Question, Tree
from esp_ingestd.core.well import LATE, WORKED, Well, WellSettings

STANDING_STILL: Final = OFF | TRIP
SNAPSHOT_FORM: Final = 2
LOOK_US: Final = 5 * SECOND_US
_SILENCE: Final = FEATURE_INDEX["silence_s"]


class Patient:
    """One well under diagnosis: what is known of it, its alarms, and when earlier ones were raised."""

    __slots__ = ("alarms", "enabled", "raised", "well")

    def __init__(self, well: Well, enabled: int) -> None:
        self.well = well
        self.enabled = enabled
        """The questions that it is asked, as bits."""
        self.alarms: dict[int, Alarm] = {}
        """By the diagnosis's place in the tree, whose order is precedence."""
        self.raised: dict[int, list[int]] = {}
        """When each diagnosis was raised within the last day."""

    def follow(self, events: Sequence[AlarmEvent]) -> None:
        """Tell the well what its alarms mean for learning: nothing is learned from an ailing well."""
        well = self.well
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


class Diagnostician:
    """Diagnoses all wells; bounded memory per well.

    Args:
        tree: the compiled decision tree.
        wells: the settings of a well by its id; asked once, when a well is first seen.
    """

    def __init__(self, tree: Tree, wells: Callable[[str], WellSettings]) -> None:
        self._tree = tree
        self._wells = wells
        self._patients: dict[str, Patient] = {}
        self._since_us = 0
        self._look_us = 0
        self._standing = dict.fromkeys(SEVERITIES, 0)

    def observe(self, reading: Reading) -> Sequence[AlarmEvent]:
        """What a reading changes; readings of one well in order of arrival. Empty in the common case."""
        patient = self._patients.get(reading[0])
        if patient is None:
            patient = self._admit(reading[0])
        well, tree = patient.well, self._tree
        taken = well.take(reading)
        if taken == LATE:
            return ()
        met, asked = tree.met_instant(well.state, well.features), tree.instant_bits
        if taken == WORKED:
            met |= tree.met_windowed(well.state, well.features)
            asked = tree.all_bits
        met &= patient.enabled
        if not met and not patient.alarms:
            return ()
        events = tuple(self._advance(Visit(patient, reading, met, asked & patient.enabled)))
        patient.follow(events)
        return events

    def pass_time(self, now_us: int, *, at_once: bool = False) -> Sequence[AlarmEvent]:
        """What falls due by time alone, at `now_us`: wells that have gone silent.

        Silence counts from the first call on, so that a backlog after a restart is no silence. All wells are looked at
        every LOOK_US, or `at_once`.
        """
        if not self._since_us:
            self._since_us = now_us
        if now_us < self._look_us and not at_once:
            return ()
        self._look_us = now_us + LOOK_US
        place = self._tree.place.get("COMM_LOSS")
        if place is None:
            return ()
        newest_us = max((p.well.received_us for p in self._patients.values()), default=0)
        events: list[AlarmEvent] = []
        for patient in self._patients.values():
            well = patient.well
            allowed_us = well.silence_us()
            silent_us = now_us - max(well.received_us, self._since_us) - allowed_us
            # Where nothing comes from any well the link to us is at fault: no well is blamed.
            fleet = len(self._patients) > 1 and now_us - newest_us > allowed_us // 2
            if silent_us > 0 and place not in patient.alarms and not fleet:
                events += self._silent(patient, place, silent_us)
        return events

    def _silent(self, patient: Patient, place: int, silent_us: int) -> Sequence[AlarmEvent]:
        """Raise COMM_LOSS as of the moment when the silence grew too long."""
        well = patient.well
        question = self._tree.diagnoses[place].questions[0]
        if not question.bit & patient.enabled:
            return ()
        well.features[_SILENCE] = silent_us / SECOND_US
        last_us, well.last_us = well.last_us, well.last_us + well.silence_us()
        try:
            reading = Reading(well.well_id, well.last_us)
            return tuple(self._advance(Visit(patient, reading, question.bit, question.bit)))
        finally:
            well.last_us = last_us
            well.features[_SILENCE] = 0.0

    def explain(self, well_id: str) -> Iterator[str]:
        """The questions asked of a well at its newest reading, each with its answer and what it saw; its alarms."""
        patient = self._patients[well_id]
        well = patient.well
        yield f"{to_iso(well.last_us)} {well_id}: {STATE_NAMES[well.state]}"
        for question in self._tree.questions:
            if question.states & well.state and question.bit & patient.enabled:
                name = self._tree.diagnoses[question.diagnosis].name
                word, _, missing = answer(question, well.features).partition("not assessable ")
                saw = [f"{name} {value:g}" for name, value in evidence(question, well.features).items()]
                yield f"  {word or '?':<4}{name}: {question.ask} {', '.join([*saw, missing] if missing else saw)}"
        for alarm in patient.alarms.values():
            yield f"  {alarm.diagnosis.name} {alarm.describe(well.last_us)}"

    def standing(self) -> Mapping[str, int]:
        """How many alarms stand, by severity."""
        return self._standing

    def well_ids(self) -> Iterable[str]:
        """The wells that are known."""
        return self._patients.keys()

    def unsettled(self, well_ids: Iterable[str]) -> set[str]:
        """Those of the wells with an alarm whose delay is running: their memory must be as new as their readings."""
        patients = self._patients
        return {
            well_id
            for well_id in well_ids
            if well_id in patients
            and patients[well_id].alarms
            and any(alarm.unsettled for alarm in patients[well_id].alarms.values())
        }

    def snapshot(self, well_id: str) -> bytes:
        """What is known of a well and its alarms, for `restore`; JSON, its form named by `form`."""
        patient = self._patients[well_id]
        names = self._tree.diagnoses
        document = {
            "form": SNAPSHOT_FORM,
            "well": patient.well.remember(),
            "alarms": {names[place].name: alarm.remember() for place, alarm in patient.alarms.items()},
            "raised": {names[place].name: times for place, times in patient.raised.items()},
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def restore(self, well_id: str, snapshot: bytes) -> None:
        """Take a well back as it was; alarms of diagnoses that the tree has no more are dropped.

        Raises:
            ValueError: it is no snapshot that this version can read; the well is then as if never seen.
        """
        try:
            document = _read_snapshot(snapshot)
            patient = self._admit(well_id)
            patient.well.recall(document["well"])
            for place, diagnosis in enumerate(self._tree.diagnoses):
                if (remembered := document["alarms"].get(diagnosis.name)) is not None:
                    patient.alarms[place] = alarm = Alarm(diagnosis)
                    alarm.recall(remembered)
                if times := document["raised"].get(diagnosis.name):
                    patient.raised[place] = times
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            self._patients.pop(well_id, None)
            raise ValueError(f"well {well_id}: no snapshot that can be read: {error!r}") from error
        for alarm in patient.alarms.values():
            if alarm.stands:
                self._count(alarm, +1)

    def __len__(self) -> int:
        """How many wells are known."""
        return len(self._patients)

    def _admit(self, well_id: str) -> Patient:
        settings = self._wells(well_id)
        enabled = self._tree.enabled_bits(settings)
        patient = self._patients[well_id] = Patient(Well(well_id, settings), enabled)
        patient.well.learns = bool(enabled & ~self._tree.instant_bits)
        return patient

    def _advance(self, visit: Visit) -> Iterator[AlarmEvent]:
        """Move the well's alarms on by one reading."""
        alarms = visit.patient.alarms
        for question in self._tree.questions:
            if question.bit & visit.met and question.diagnosis not in alarms:
                alarms[question.diagnosis] = alarm = Alarm(self._tree.diagnoses[question.diagnosis])
                alarm.signal(Signal.MET)
        for place in sorted(alarms):
            alarm = alarms[place]
            self._look(visit, alarm)
            yield from self._settle(visit, alarm)
            if not alarm.stands and not alarm.hopeful():
                alarm.signal(Signal.LOST)
                del alarms[place]

    def _look(self, visit: Visit, alarm: Alarm) -> None:
        """Let an alarm's questions be asked again."""
        well = visit.patient.well
        if well.gap:
            alarm.forget_pending()
        alarm.look(visit.met, visit.asked, well.state, visit.features, visit.now_us)
        if well.stopped:
            alarm.forget_unless(STANDING_STILL)

    def _settle(self, visit: Visit, alarm: Alarm) -> Iterator[AlarmEvent]:
        """Give an alarm the signals that follow from its questions, and tell what comes of them."""
        question = alarm.strongest()
        if question is None:
            if alarm.stands:
                yield from self._return(visit, alarm)
        elif alarm.stands:
            yield from self._stay(visit, alarm, question)
        elif not self._explained(visit.patient, alarm, question.severity):
            self._raise(visit, alarm, question)
            yield self._event(visit, alarm, "raised")
            yield from self._supersede(visit, alarm)

    def _stay(self, visit: Visit, alarm: Alarm, question: Question) -> Iterator[AlarmEvent]:
        """A told alarm's condition stands, perhaps again, perhaps worse."""
        if alarm.returned_us != NEVER:
            alarm.returned_us = NEVER
            alarm.count += 1
            alarm.signal(Signal.MET)
        if question.severity > alarm.severity:
            self._count(alarm, -1)
            alarm.severity, alarm.question = question.severity, question
            self._count(alarm, +1)
            alarm.signal(Signal.WORSE)
            yield self._event(visit, alarm, "escalated")

    def _raise(self, visit: Visit, alarm: Alarm, question: Question) -> None:
        patient, now_us = visit.patient, visit.now_us
        place = alarm.diagnosis.index
        earlier = [t for t in patient.raised.get(place, ()) if now_us - t < DAY_US]
        patient.raised[place] = [*earlier, now_us][-RECURRING_COUNT:]
        alarm.signal(Signal.MET)  # one that ended while another of its questions was met is NORMAL still
        alarm.signal(Signal.DUE)
        alarm.returned_us = NEVER
        alarm.raised_us = now_us
        alarm.alarm_id = alarm_id_of(patient.well.well_id, alarm.diagnosis.name, now_us)
        alarm.severity, alarm.question = question.severity, question
        alarm.count = len(patient.raised[place])
        alarm.recurring = alarm.count >= RECURRING_COUNT
        alarm.role = "secondary" if self._preceded(patient, alarm) else "primary"
        self._count(alarm, +1)

    def _return(self, visit: Visit, alarm: Alarm) -> Iterator[AlarmEvent]:
        """None of a told alarm's questions stands any more."""
        if alarm.returned_us == NEVER:
            alarm.returned_us = visit.now_us
        if alarm.diagnosis.latched and alarm.severity == alarm.diagnosis.severity:
            alarm.signal(Signal.RETURNED_LATCHING)
            return
        if alarm.recurring and visit.now_us - alarm.returned_us < DAY_US:
            return
        off = visit.patient.well.stopped
        alarm.signal(Signal.WELL_OFF if off else Signal.RETURNED)
        self._count(alarm, -1)
        yield self._event(visit, alarm, "cleared", "well_off" if off else "returned")

    def _explained(self, patient: Patient, alarm: Alarm, severity: int) -> bool:
        """True if an alarm that stands, precedes this one and is no milder, says it already."""
        return any(
            other.state is State.ACTIVE and other.severity >= severity and self._precedes(other, alarm)
            for other in patient.alarms.values()
        )

    def _precedes(self, one: Alarm, other: Alarm) -> bool:
        """True if `one` explains `other`."""
        first, second = one.diagnosis, other.diagnosis
        group = self._tree.groups[second.group]
        if first.group == second.group:
            return group.exclusive and first.index < second.index
        return first.group in group.yields_to

    @staticmethod
    def _preceded(patient: Patient, alarm: Alarm) -> bool:
        """True if an earlier diagnosis of the same group stands."""
        own = alarm.diagnosis
        return any(
            other.stands and other.diagnosis.group == own.group and other.diagnosis.index < own.index
            for other in patient.alarms.values()
        )

    def _supersede(self, visit: Visit, alarm: Alarm) -> Iterator[AlarmEvent]:
        """End the alarms that a newly raised one explains."""
        for other in visit.patient.alarms.values():
            explained = other.severity <= alarm.severity and self._precedes(alarm, other)
            if explained and other.signal(Signal.SUPERSEDED):
                self._count(other, -1)
                yield self._event(visit, other, "cleared", "superseded")

    def _count(self, alarm: Alarm, step: int) -> None:
        self._standing[SEVERITIES[alarm.severity]] += step

    def _event(self, visit: Visit, alarm: Alarm, transition: str, reason: str = "") -> AlarmEvent:
        """What is told of a transition at the present reading."""
        diagnosis, question = alarm.diagnosis, alarm.question
        if transition in ("raised", "escalated"):
            alarm.confidence = confidence(question, visit.features)
        return AlarmEvent(
            event_id=event_id_of(alarm.alarm_id, transition, visit.now_us),
            alarm_id=alarm.alarm_id,
            well_id=visit.patient.well.well_id,
            timestamp_us=visit.now_us,
            transition=transition,
            reason=reason,
            state="cleared" if transition == "cleared" else alarm.state.value,
            role=alarm.role,
            group=diagnosis.group,
            diagnosis=diagnosis.name,
            category=diagnosis.category,
            severity=SEVERITIES[alarm.severity],
            confidence=alarm.confidence,
            raised_at_us=alarm.raised_us,
            message=message(diagnosis, visit.features),
            evidence=evidence(question, visit.features),
            path=self._path(diagnosis, question, visit),
            actions=diagnosis.actions,
            resolution_time=diagnosis.resolution_time,
            recurring=alarm.recurring,
            count=alarm.count,
            tree_version=self._tree.version,
            telemetry_snapshot=snapshot(visit.reading),
        )

    def _path(self, diagnosis: Diagnosis, until: Question, visit: Visit) -> tuple[str, ...]:
        """The questions that lead to `until`, in the order asked, each with its answer."""
        state = visit.patient.well.state
        asked = [
            f"{question.ask} {answer(question, visit.features)}"
            for question in self._tree.questions[: until.index + 1]
            if self._tree.diagnoses[question.diagnosis].group == diagnosis.group and question.states & state
        ]
        group = self._tree.groups[diagnosis.group]
        return (f"What does the pump do? {STATE_NAMES[state]}", f"{group.ask} yes", *asked)


def _read_snapshot(snapshot: bytes) -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads(snapshot)
    if document["form"] != SNAPSHOT_FORM:
        raise ValueError(f"form {document['form']}, expected {SNAPSHOT_FORM}")
    return document


def answer(question: Question, features: Sequence[float]) -> str:
    """`yes`, `no`, or what is missing for an answer."""
    if question.met(features):
        return "yes"
    if question.not_met(features):
        return "no"
    unknown = [FEATURES[i].name for i in question.asks if features[i] != features[i]]
    return f"not assessable without {', '.join(unknown)}"


def confidence(question: Question, features: Sequence[float]) -> float:
    """0 to 0.99: 0.9 with all confirmers, less for each that fails, and less again for each not known.

    Source: a proposal of our own; weights to be confirmed in the field.
    """
    value = 0.9
    for holds, fails in question.confirms:
        if fails(features):
            value *= 0.85
        elif not holds(features):
            value *= 0.93
    return round(value, 3)


def evidence(question: Question, features: Sequence[float]) -> dict[str, float]:
    """The features that the question looked at and that were known, by name."""
    return {
        FEATURES[place].name: round(features[place], 4)
        for place in question.features
        if features[place] == features[place]
    }


def message(diagnosis: Diagnosis, features: Sequence[float]) -> str:
    """The diagnosis's text with the features it names filled in."""
    return diagnosis.message.format_map({FEATURES[place].name: _Figure(value) for place, value in enumerate(features)})


class _Figure(float):
    """A float that says in words when it is not known."""

    def __format__(self, spec: str) -> str:
        return "?" if self != self else super().__format__(spec)  # noqa: PLR0124  (NaN)


def snapshot(reading: Reading) -> dict[str, object]:
    """The channels of a reading that it has, as JSON values."""
    values = dict(zip(CHANNEL_NAMES, reading[2:], strict=False))
    return {name: value for name, value in values.items() if value is not None}
