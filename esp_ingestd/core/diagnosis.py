"""Diagnosis: from readings to alarm events, for every well, by the decision tree.

Rules:
    1. Event time only. A reading no newer than its well's newest is late: it changes nothing and raises nothing.
    2. All questions are asked at each reading; which answer is told is decided afterwards, by precedence within the
       group, so that no question makes another one unreachable.
    3. In an exclusive group an alarm is told unless one that precedes it, at no lower severity, stands. One that
       comes later and ranks higher ends the other as superseded. A diagnosis that says little waits for a while, as
       the tree says, while one that precedes it is pending.
    4. A channel that is missing or bad makes a question not assessable: it neither raises nor clears.
    5. A healthy well costs one pass over its channels and one compiled function; nothing is built for it.
    6. What people do, and when they were told, goes by the daemon's clock: shelving, the reminder of a critical alarm,
       the times of what commands changed; silence too, which has no other. All else is event time.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from esp_ingestd.core.alarm import (
    ACKNOWLEDGED,
    LATCHED,
    NEVER,
    NO_OUTLINE,
    NOWHERE,
    RECURRING_COUNT,
    Alarm,
    AlarmEvent,
    Order,
    Signal,
    event_id_of,
    outlined,
)
from esp_ingestd.core.cadence import SILENCE_US
from esp_ingestd.core.command import Command, Heeded, Refusal, RefusedError, heeded
from esp_ingestd.core.feature import FEATURE_INDEX, STATE_NAMES
from esp_ingestd.core.fleet import Silence, are_back, fell_silent_together
from esp_ingestd.core.patient import STANDING_STILL, Patient, Visit
from esp_ingestd.core.reading import DAY_US, SECOND_US, Reading, to_iso
from esp_ingestd.core.telling import answer, confidence, evidence, message, snapshot, with_units
from esp_ingestd.core.tree import NEEDED_SETTING, SEVERITIES, Diagnosis, Question, Tree
from esp_ingestd.core.well import LATE, WORKED, Well, WellSettings

SNAPSHOT_FORM: Final = 3
READABLE_FORMS: Final = (2, SNAPSHOT_FORM)
"""2: without commands."""
LOOK_US: Final = 5 * SECOND_US
LOOK_MOST_US: Final = SILENCE_US
"""No well that is heard after a look, be it new or faster than before, may be overdue sooner than that."""
REMIND_US: Final = 3600 * SECOND_US
LASTS_US: Final = 6 * 3600 * SECOND_US
"""So long a silence is more than a link that fails now and then: such links are away for an hour, or for three. And a
pump that gasps several times a day does not do so for hours."""
RESETS_KEPT: Final = 8
NOT_ASKED: Final = "not asked any more: decision tree or wells file have changed"
HIGH: Final = SEVERITIES.index("high")
CRITICAL: Final = SEVERITIES.index("critical")
FIELD_SETTINGS: Final = WellSettings(enabled_rules=("COMM_LOSS",))
FIELD_MESSAGE: Final = "Nothing comes from the field: its wells fell silent together."
FIELD_ACTIONS: Final = (
    "Check the link between the field and the broker.",
    "Check the broker and its access control list.",
    "Check power and network at the field's gateway.",
)
_SILENCE: Final = FEATURE_INDEX["silence_s"]


class Figures(NamedTuple):
    """How the standing alarms are treated, over all wells; each a number of alarms."""

    acknowledged: int
    shelved: int
    latched: int
    recurring: int
    stale: int
    """Standing for more than a day."""


class Diagnostician:
    """Diagnoses all wells; bounded memory per well.

    Args:
        tree: the compiled decision tree.
        wells: the settings of a well by its id; asked once, when a well is first seen.
        field_id: under which name the field as a whole raises COMM_LOSS, when its wells fall silent together.
        live: people and their SCADA are on the other side. Then a critical alarm that nobody acknowledged is raised
            again, and a change of an alarm's state that is no transition is told too, as an event without one.
    """

    def __init__(
        self,
        tree: Tree,
        wells: Callable[[str], WellSettings],
        *,
        field_id: str = "esp-ingestd",
        live: bool = False,
    ) -> None:
        self._tree = tree
        self.field_id = field_id
        """Under which name the field as a whole raises alarms."""
        self._wells = wells
        self._patients: dict[str, Patient] = {}
        self._since_us = 0
        self._look_us = 0
        self._live = live
        self._due_us = 0.0
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
        if taken == WORKED:
            met, asked = tree.met(well.state, well.features), tree.all_bits
        else:
            met, asked = tree.met_instant(well.state, well.features), tree.instant_bits
        met &= patient.enabled
        if not met and not patient.alarms:
            return ()
        events = tuple(self._advance(Visit(patient, reading, met, asked & patient.enabled)))
        patient.follow(events)
        return events

    def pass_time(self, now_us: int, *, at_once: bool = False, deaf: bool = False) -> Sequence[AlarmEvent]:
        """What falls due by time alone, at `now_us`: wells that have gone silent, shelvings that are over, reminders.

        Silence counts from the first call on, so that a backlog after a restart is no silence. Wells are looked at as
        of the moments at which one falls overdue, LOOK_US apart at least, so that what is told does not depend on how
        often this is called; besides, where asked `at_once`, now. While we are `deaf`, cut off from the wells
        ourselves, no silence is theirs; it counts anew from when we hear again.
        """
        if deaf or not self._since_us:
            self._since_us = self._look_us = now_us
        events = [*self._fall_due(now_us)] if now_us >= self._due_us else []
        place = self._tree.place.get("COMM_LOSS")
        if deaf or place is None:
            return events
        while self._look_us <= now_us:
            events += self._listen(self._look_us, now_us, place)
        if at_once:
            events += self._listen(now_us, now_us, place)
        return events

    def _listen(self, at_us: int, now_us: int, place: int) -> Iterator[AlarmEvent]:
        """Tell of wells that have been silent for too long: each by itself, or, where it is the field, all in one."""
        bit = self._tree.diagnoses[place].questions[0].bit
        for patient in self._patients.values():
            if patient.has_lost(place):
                yield from self._still_silent(patient, place, at_us)
        field = self._patients.get(self.field_id)
        heard = [
            p
            for p in self._patients.values()
            if p is not field and p.enabled & bit and not (p.alarms and p.has_lost(place))
        ]
        if field is not None and field.has_lost(place):
            self._look_us = now_us + LOOK_US
            lost_us = field.raised[place][-1]  # of one that keeps coming back, this time
            back = sum(patient.well.received_us > lost_us for patient in heard)
            if are_back(back, len(heard)):
                self._since_us = now_us  # those that are still missing have their own time to return from now on
                yield from self._tell_field(field, place, now_us, heard, 0)
            return
        if field is not None and (kept := field.alarms.get(place)) and at_us - kept.returned_us >= kept.recurs_us:
            # No reading comes from the field: of one that kept failing, time alone says that it has not failed since.
            yield from self._tell_field(field, place, kept.returned_us + kept.recurs_us, heard, 0)
        left_us = [p.well.silence_us() - at_us + max(p.well.received_us, self._since_us) for p in heard]
        soonest_us = min(left_us, default=LOOK_MOST_US) + 1
        if soonest_us <= 0:
            yield from self._tell_silent(at_us, place, heard, field)
            soonest_us = min((left + 1 for left in left_us if left >= 0), default=LOOK_MOST_US)
        self._look_us = at_us + min(max(soonest_us, LOOK_US), LOOK_MOST_US)

    def _tell_silent(
        self, at_us: int, place: int, heard: Sequence[Patient], field: Patient | None
    ) -> Iterator[AlarmEvent]:
        """Tell of the wells that are overdue at `at_us`."""
        silences = [
            Silence(p.well.well_id, at_us - max(p.well.received_us, self._since_us), p.well.silence_us()) for p in heard
        ]
        together = fell_silent_together(silences)
        if together:
            begun_us = at_us - max(each.silent_us - each.allowed_us for each in silences if each.well_id in together)
            field = field or self._admit(self.field_id)
            yield from self._tell_field(field, place, begun_us, heard, len(together))
        for each in silences:
            if each.is_overdue and each.well_id not in together:
                yield from self._silent(self._patients[each.well_id], place)

    def _tell_field(
        self, field: Patient, place: int, at_us: int, heard: Sequence[Patient], silent: int
    ) -> Iterator[AlarmEvent]:
        """Let the field's own COMM_LOSS come or go at `at_us`, in words that fit a field."""
        question = self._tree.diagnoses[place].questions[0]
        well = field.well
        well.last_us = max(at_us, well.last_us + 1)
        well.state = question.states & -question.states  # any in which it is asked
        well.features[_SILENCE] = float(bool(silent))
        visit = Visit(field, Reading(well.well_id, well.last_us), question.bit if silent else 0, question.bit)
        events = tuple(self._advance(visit))
        found = {"wells_silent": float(silent), "wells_known": float(len(heard))}
        if silent:
            alarm = field.alarms[place]
            alarm.message, alarm.evidence, alarm.reminded = FIELD_MESSAGE, found, False
        for event in events:
            yield replace(event, message=FIELD_MESSAGE if silent else "The field is heard again.", evidence=found)

    def _still_silent(self, patient: Patient, place: int, at_us: int) -> Iterator[AlarmEvent]:
        """Raise an alarm that keeps coming back once more, when a silence that it did not tell of has lasted.

        A link that fails now and then is one alarm for weeks; that it died meanwhile must not go unsaid.
        """
        alarm = patient.alarms[place]
        begun_us = patient.raised[place][-1]
        due_us = max(begun_us, self._since_us) + LASTS_US
        if due_us <= at_us and _came_unsaid(patient, alarm) and alarm.signal(Signal.OVERDUE):
            alarm.reminded = True
            yield self._event(_unread(patient), alarm, "raised", order=Order(due_us, begun_us))

    def _silent(self, patient: Patient, place: int) -> Sequence[AlarmEvent]:
        """Raise COMM_LOSS as of the moment when the silence grew too long."""
        well = patient.well
        question = self._tree.diagnoses[place].questions[0]
        well.features[_SILENCE] = well.silence_us() / SECOND_US
        last_us, well.last_us = well.last_us, well.last_us + well.silence_us()
        try:
            reading = Reading(well.well_id, well.last_us)
            events = tuple(self._advance(Visit(patient, reading, question.bit, question.bit)))
            patient.alarms[place].reminded = False
            return events
        finally:
            well.last_us = last_us
            well.features[_SILENCE] = 0.0

    def obey(self, command: Command, at_us: int) -> Heeded:
        """Heed a command that arrived at `at_us`.

        Raises:
            RefusedError: it cannot be done.
        """
        patient = self._patients.get(command.well_id)
        if patient is None:
            raise RefusedError(Refusal.UNKNOWN_WELL, "no reading of this well was ever seen")
        events: list[AlarmEvent] = []
        work = self._treat if command.alarm_id else self._relearn
        command_id, detail = work(patient, command, at_us, events)
        patient.sweep()
        patient.follow(events)
        return heeded(command, at_us, events, command_id, detail)

    def figures(self, now_us: int) -> Figures:
        """How the standing alarms are treated, at `now_us`."""
        standing = [a for patient in self._patients.values() for a in patient.alarms.values() if a.stands]
        return Figures(
            acknowledged=sum(a.state in ACKNOWLEDGED for a in standing),
            shelved=sum(a.is_shelved for a in standing),
            latched=sum(a.state in LATCHED for a in standing),
            recurring=sum(a.recurring for a in standing),
            stale=sum(now_us - a.raised_us > DAY_US for a in standing),
        )

    def explain(self, well_id: str) -> Iterator[str]:
        """The questions asked of a well at its newest reading, each with its answer and what it saw; its alarms."""
        patient = self._patients[well_id]
        well = patient.well
        yield f"{to_iso(well.last_us)} {well_id}: {STATE_NAMES[well.state]}"
        for question in self._tree.questions:
            if question.states & well.state and question.bit & patient.enabled:
                name = self._tree.diagnoses[question.diagnosis].name
                word, _, unknown = answer(question, well.features).partition(" without ")
                mark = "?" if word == "not assessable" else word.removesuffix(",")
                saw = [", ".join(with_units(evidence(question, well.features)))]
                saw += [f"not known: {unknown}"] if unknown else []
                yield f"  {mark:<4}{name}: {question.ask} {'; '.join(filter(None, saw))}"
        for alarm in patient.alarms.values():
            yield f"  {alarm.diagnosis.name} {alarm.describe(well.last_us)}"

    def standing(self) -> Mapping[str, int]:
        """How many alarms stand, by severity."""
        return self._standing

    def well_ids(self) -> Iterable[str]:
        """The wells that are known."""
        return self._patients.keys()

    def unsettled(self, well_ids: Iterable[str]) -> set[str]:
        """Those of the wells whose memory must be as new as their readings.

        They have an alarm whose delay is running, or have stopped or started since the last snapshot: to a memory
        from before a planned stop, a pump that stands has tripped.
        """
        patients = self._patients
        return {
            well_id
            for well_id in well_ids
            if (patient := patients.get(well_id)) is not None
            and (
                (patient.stood is not None and patient.stood != patient.stands)
                or (patient.alarms and any(alarm.unsettled for alarm in patient.alarms.values()))
            )
        }

    def snapshot(self, well_id: str) -> bytes:
        """What is known of a well and its alarms, for `restore`; JSON, its form named by `form`."""
        patient = self._patients[well_id]
        patient.stood = patient.stands
        names = self._tree.diagnoses
        document = {
            "form": SNAPSHOT_FORM,
            "well": patient.well.remember(),
            "alarms": {names[place].name: alarm.remember() for place, alarm in patient.alarms.items()},
            "raised": {names[place].name: times for place, times in patient.raised.items()},
            "ended": {names[place].name: at_us for place, at_us in patient.ended.items()},
            "heeded": patient.heeded,
            "relearned": patient.relearned,
            "resets": patient.resets,
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def restore(self, well_id: str, snapshot: bytes) -> Sequence[AlarmEvent]:
        """Take a well back as it was; what tells of alarms that ended by it.

        As with `adopt`, a standing alarm ends as `reset` whose question is asked no more.

        Raises:
            ValueError: it is no snapshot that this version can read; the well is then as if never seen.
        """
        lost: list[Alarm] = []
        try:
            document = _read_snapshot(snapshot)
            patient = self._admit(well_id)
            patient.well.recall(document["well"])
            for name, remembered in document["alarms"].items():
                if not self._recall_alarm(patient, name, remembered):
                    lost.append(_recalled(name, remembered))
            for place, diagnosis in enumerate(self._tree.diagnoses):
                if times := document["raised"].get(diagnosis.name):
                    patient.raised[place] = times
                if at_us := document.get("ended", {}).get(diagnosis.name):
                    patient.ended[place] = at_us
            identity, heeded_us = document.get("heeded", patient.heeded)
            patient.heeded = str(identity), int(heeded_us)
            patient.relearned = int(document.get("relearned", 0))
            patient.resets = list(document.get("resets", ()))
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            self._patients.pop(well_id, None)
            raise ValueError(f"well {well_id}: no snapshot that can be read: {error!r}") from error
        self._due_us = 0.0
        patient.stood = patient.stands
        for alarm in (*patient.alarms.values(), *lost):
            if alarm.stands:
                self._count(alarm, +1)
        return [event for alarm in lost for event in self._withdraw(patient, alarm)]

    def _recall_alarm(self, patient: Patient, name: str, remembered: Mapping[str, Any]) -> bool:
        """Take an alarm back; False if nothing is asked for it any more."""
        place = self._tree.place.get(name)
        if place is None:
            return False
        diagnosis = self._tree.diagnoses[place]
        alarm = _recalled(name, remembered) if "outline" in remembered else _recalled(name, remembered, diagnosis)
        if is_asked := alarm.carry_over(diagnosis, patient.enabled):
            patient.alarms[place] = alarm
        return is_asked

    def adopt(self, tree: Tree, wells: Callable[[str], WellSettings]) -> Sequence[AlarmEvent]:
        """Judge by another tree and other settings from the next reading on; what is known of the wells stays.

        Standing alarms go on under their ids. One ends as `reset` whose question is asked no more: it has gone from the
        tree, or the wells file has put it out of service. A well whose channels come in other units learns its normal
        anew.
        """
        events: list[AlarmEvent] = []
        enabled: dict[tuple[object, ...], int] = {}
        for patient in self._patients.values():
            well = patient.well
            settings = FIELD_SETTINGS if well.well_id == self.field_id else wells(well.well_id)
            asked = (settings.enabled_rules, *(bool(getattr(settings, name)) for name in NEEDED_SETTING.values()))
            if asked not in enabled:
                enabled[asked] = tree.enabled_bits(settings)
            events += self._carry_over(patient, tree, enabled[asked])
            if (settings.units, settings.vibration_unit) != (well.settings.units, well.settings.vibration_unit):
                well.relearn()
            well.configure(settings)
            well.learns = bool(patient.enabled & ~tree.instant_bits)
            patient.follow(())
        self._tree, self._wells = tree, wells
        return events

    def _carry_over(self, patient: Patient, tree: Tree, enabled: int) -> Iterator[AlarmEvent]:
        """Bring a well's alarms under another tree; end those of which nothing is asked any more."""
        kept: dict[int, Alarm] = {}
        for alarm in patient.alarms.values():
            place = tree.place.get(alarm.diagnosis.name)
            if place is not None and alarm.carry_over(tree.diagnoses[place], enabled):
                kept[place] = alarm
            else:
                yield from self._withdraw(patient, alarm)
        names = {place: self._tree.diagnoses[place].name for place in patient.raised}
        patient.raised = {tree.place[name]: patient.raised[at] for at, name in names.items() if name in tree.place}
        ended = {self._tree.diagnoses[place].name: at_us for place, at_us in patient.ended.items()}
        patient.ended = {tree.place[name]: at_us for name, at_us in ended.items() if name in tree.place}
        patient.alarms = kept
        patient.enabled = enabled

    def __len__(self) -> int:
        """How many wells are known."""
        return len(self._patients)

    def _admit(self, well_id: str) -> Patient:
        settings = FIELD_SETTINGS if well_id == self.field_id else self._wells(well_id)
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
        yield from self._tell_changes(visit)

    def _look(self, visit: Visit, alarm: Alarm) -> None:
        """Let an alarm's questions be asked again."""
        well = visit.patient.well
        if well.gap:
            alarm.forget_pending()
        alarm.look(visit.met, visit.asked, well.state, visit.features, visit.now_us)
        if well.stopped and not (alarm.stands and alarm.diagnosis.outlasts_stop):
            alarm.forget_unless(STANDING_STILL)

    def _settle(self, visit: Visit, alarm: Alarm) -> Iterator[AlarmEvent]:
        """Give an alarm the signals that follow from its questions, and tell what comes of them."""
        # One that another explained until now is told only if it is still so: nobody saw it come.
        question = alarm.strongest(holding=not alarm.stands)
        if question is None:
            if alarm.stands:
                yield from self._return(visit, alarm)
        elif alarm.stands:
            yield from self._stay(visit, alarm, question)
        elif not (
            self._explained(visit, alarm, question)
            or self._waits(visit, alarm, question)
            or self._eases(visit, alarm, question)
        ):
            self._raise(visit, alarm, question)
            yield self._event(visit, alarm, "raised")
            yield from self._supersede(visit, alarm)

    def _stay(self, visit: Visit, alarm: Alarm, question: Question) -> Iterator[AlarmEvent]:
        """A told alarm's condition stands, perhaps again, perhaps worse."""
        if alarm.returned_us != NEVER:
            alarm.returned_us = NEVER
            alarm.count += 1
            came = visit.patient.came(alarm, visit.now_us, self._tree.akin[alarm.diagnosis.index])
            alarm.recurring |= came >= RECURRING_COUNT
            alarm.reminded &= alarm.severity == CRITICAL
            alarm.signal(Signal.MET)
            yield from self._supersede(visit, alarm)
        elif alarm.severity == HIGH and _came_unsaid(visit.patient, alarm):
            yield from self._last(visit, alarm)
        if question.severity > alarm.severity:
            self._count(alarm, -1)
            alarm.severity, alarm.question = question.severity, question
            self._count(alarm, +1)
            alarm.signal(Signal.WORSE)
            alarm.told_us = visit.reading[-1]
            yield self._event(visit, alarm, "escalated")

    def _last(self, visit: Visit, alarm: Alarm) -> Iterator[AlarmEvent]:
        """Raise an alarm that keeps coming back once more, when it stays this time and the pump runs on."""
        begun_us = visit.patient.raised[alarm.diagnosis.index][-1]
        holds = not (visit.patient.stands or alarm.gone_for_us(visit.now_us))
        if holds and visit.now_us - begun_us >= LASTS_US and alarm.signal(Signal.OVERDUE):
            alarm.reminded = True
            yield self._event(visit, alarm, "raised", order=Order(visit.now_us, begun_us))

    def _raise(self, visit: Visit, alarm: Alarm, question: Question) -> None:
        patient, now_us = visit.patient, visit.now_us
        alarm.signal(Signal.MET)  # one that ended while another of its questions was met is NORMAL still
        alarm.signal(Signal.DUE)
        alarm.begin(patient.well.well_id, now_us)
        alarm.told_us = visit.reading[-1]
        alarm.severity, alarm.question = question.severity, question
        alarm.count = patient.came(alarm, now_us, self._tree.akin[alarm.diagnosis.index])
        alarm.recurring = alarm.count >= RECURRING_COUNT
        before_us = patient.raised[alarm.diagnosis.index][-2:][0]
        late = now_us - before_us >= alarm.diagnosis.recurs_us
        alarm.habitual = alarm.recurring and late and self._tree.groups[alarm.diagnosis.group].exclusive
        alarm.role = patient.role(alarm, now_us)
        self._count(alarm, +1)

    def _return(self, visit: Visit, alarm: Alarm) -> Iterator[AlarmEvent]:
        """None of a told alarm's questions stands any more."""
        if alarm.returned_us == NEVER:
            alarm.returned_us = visit.now_us
        ends = not (alarm.question.states & STANDING_STILL or alarm.diagnosis.outlasts_stop)
        off = visit.patient.well.stopped and ends and not alarm.recurring
        if alarm.latches:
            alarm.signal(Signal.RETURNED_LATCHING)
        elif off or not (alarm.is_shelved or (alarm.recurring and self._may_recur(visit, alarm))):
            signal = Signal.WELL_OFF if off else Signal.RETURNED
            signal = Signal.RELEASED if alarm.state in LATCHED else signal
            visit.patient.ended[alarm.diagnosis.index] = visit.now_us
            yield from self._end(visit, alarm, signal, "well_off" if off else "returned")

    def _may_recur(self, visit: Visit, alarm: Alarm) -> bool:
        """Neither its condition nor one akin to it has been gone for long enough."""
        came = (t for place in self._tree.akin[alarm.diagnosis.index] for t in visit.patient.raised.get(place, ()))
        return visit.now_us - max((alarm.returned_us, *came)) < alarm.recurs_us

    def _tell_changes(self, visit: Visit) -> Iterator[AlarmEvent]:
        """Of each group one standing alarm is primary. What SCADA sees otherwise than it was told last, is told."""
        for _, alarm in sorted(visit.patient.alarms.items()):
            if alarm.stands:
                alarm.role = visit.patient.role(alarm, visit.now_us)
                if alarm.seen != alarm.shown:
                    told = self._event(visit, alarm, "")
                    if self._live:
                        yield told

    def _end(
        self, visit: Visit, alarm: Alarm, signal: Signal, reason: str, order: Order | None = None
    ) -> Iterator[AlarmEvent]:
        """End a standing alarm, if its state has an end by this signal."""
        if alarm.signal(signal):
            self._count(alarm, -1)
            yield self._event(visit, alarm, "cleared", reason, order)

    def _withdraw(self, patient: Patient, alarm: Alarm) -> Iterator[AlarmEvent]:
        """End an alarm, if it stands, for which nothing is asked any more: not before it was raised."""
        at_us = max(patient.well.last_us, alarm.raised_us)
        yield from self._end(_unread(patient), alarm, Signal.WITHDRAWN, "reset", Order(at_us, at_us, comment=NOT_ASKED))

    def _fall_due(self, now_us: int) -> Sequence[AlarmEvent]:
        """Unshelve what was shelved long enough, remind of what nobody acknowledged, and see when that is due next."""
        events: list[AlarmEvent] = []
        self._due_us = math.inf
        for patient in self._patients.values():
            for _, alarm in sorted(patient.alarms.items()):
                due_us = self._due_at(alarm)
                if due_us <= now_us:
                    events += self._time_over(_unread(patient), alarm, now_us)
                    due_us = self._due_at(alarm)
                self._due_us = min(self._due_us, due_us)
            patient.sweep()
        return events

    def _due_at(self, alarm: Alarm) -> float:
        """When time alone changes an alarm."""
        if alarm.is_shelved:
            return alarm.shelved_until_us
        told = alarm.stands and alarm.state not in ACKNOWLEDGED
        if self._live and told and alarm.severity == CRITICAL and not alarm.reminded:
            return max(alarm.told_us, self._since_us) + REMIND_US
        return math.inf

    def _time_over(self, visit: Visit, alarm: Alarm, now_us: int) -> Iterator[AlarmEvent]:
        if alarm.is_shelved:
            order = Order(alarm.shelved_until_us, alarm.heeded)
            yield from self._unshelve(visit, alarm, Signal.EXPIRED, order)
        else:
            alarm.reminded = True
            alarm.signal(Signal.OVERDUE)
            yield self._event(visit, alarm, "raised", order=Order(now_us, 1))

    def _unshelve(self, visit: Visit, alarm: Alarm, signal: Signal, order: Order) -> Iterator[AlarmEvent]:
        """Tell of an alarm as it stands; if its condition went while it was shelved, that it ended."""
        alarm.signal(signal)
        alarm.told_us = order.at_us
        yield self._event(visit, alarm, "unshelved", order=order)
        if alarm.returned_us != NEVER and not alarm.latches:
            yield from self._return(visit, alarm)

    def _treat(self, patient: Patient, command: Command, at_us: int, events: list[AlarmEvent]) -> tuple[str, str]:
        """Do to an alarm what a command asks: by what identity it is known, and what there is to say of it.

        Raises:
            RefusedError: it cannot be done.
        """
        alarm = patient.standing_alarm(command.alarm_id)
        if alarm is None:
            if command.word == "reset" and command.alarm_id in patient.resets:
                return "", "it was reset already"
            raise RefusedError(Refusal.UNKNOWN_ALARM, "no alarm with this alarm_id stands at this well")
        if done := self._done(patient, alarm, command, at_us):
            return "", done
        alarm.heeded += 1
        order = Order(at_us, alarm.heeded, command.by, command.comment)
        visit = _unread(patient)
        if command.word == "unshelve":
            events += self._unshelve(visit, alarm, Signal.UNSHELVE, order)
        elif command.word == "shelve":
            until_us = at_us + int(command.duration_s * SECOND_US)
            alarm.signal(Signal.SHELVE, until_us)
            events.append(self._event(visit, alarm, "shelved", order=order))
        elif command.word == "acknowledge":
            alarm.signal(Signal.ACKNOWLEDGE)
            events.append(self._event(visit, alarm, "acknowledged", order=order))
        else:
            patient.resets = [*patient.resets, alarm.alarm_id][-RESETS_KEPT:]
            events += self._end(visit, alarm, Signal.RESET, "reset", order)
        return events[0].event_id, ""

    @staticmethod
    def _done(patient: Patient, alarm: Alarm, command: Command, at_us: int) -> str:
        """Why a command finds nothing left to do; empty: it does.

        Raises:
            RefusedError: it cannot be done.
        """
        if command.word == "acknowledge" and alarm.state in ACKNOWLEDGED:
            return "it is acknowledged already"
        if command.word == "unshelve" and not alarm.is_shelved:
            return "it is not shelved"
        if command.word == "shelve" and patient.repeats(command, at_us) and alarm.is_shelved:
            return f"it is shelved already, until {to_iso(alarm.shelved_until_us)}"
        if command.word == "reset" and alarm.state not in LATCHED:
            if alarm.latches:
                raise RefusedError(Refusal.CONDITION_HOLDS, "its condition holds; it can be reset once that is gone")
            raise RefusedError(Refusal.NOT_LATCHED, "it is not latched; it ends by itself once its condition is gone")
        return ""

    def _relearn(self, patient: Patient, command: Command, at_us: int, events: list[AlarmEvent]) -> tuple[str, str]:
        """Learn a well's normal anew, and end what was told by comparison with the old one; as `_treat`."""
        if patient.repeats(command, at_us):
            return "", "its baseline was reset already"
        patient.relearned += 1
        patient.well.relearn()
        visit = _unread(patient)
        for _, alarm in sorted(patient.alarms.items()):
            alarm.forget_those(self._tree.relative_bits)
            if alarm.question.bit & self._tree.relative_bits:
                order = Order(at_us, alarm.heeded + 1, command.by, command.comment)
                events += self._end(visit, alarm, Signal.WITHDRAWN, "reset", order)
        command_id = event_id_of(command.well_id, "reset", patient.relearned)
        return command_id, f"the well's baseline is learned anew; alarms that ended by it: {len(events)}"

    def _explained(self, visit: Visit, alarm: Alarm, question: Question) -> bool:
        """True if an alarm that stands, precedes this one and is no milder, says it already.

        One whose own condition has been gone for half an hour, and for this one's on-delay, explains nothing any more.
        """
        return any(
            other.severity >= question.severity
            and self._precedes(other, alarm)
            and other.explains(visit.now_us, question.on_delay_us)
            for other in visit.patient.alarms.values()
        )

    def _waits(self, visit: Visit, alarm: Alarm, question: Question) -> bool:
        """True while one that would explain it is pending, and will be told in time if it is met for long enough."""
        left_us = question.on_delay_us + alarm.diagnosis.waits_us - alarm.met_for_us(question, visit.now_us)
        return left_us > 0 and any(
            not other.stands and other.due_us() <= visit.now_us + left_us and self._precedes(other, alarm)
            for other in visit.patient.alarms.values()
        )

    def _eases(self, visit: Visit, alarm: Alarm, question: Question) -> bool:
        """True while something worse, to which its group yields, has just ended: what that left is told if it stays."""
        yields_to = self._tree.groups[alarm.diagnosis.group].yields_to
        return any(
            visit.now_us - at_us < LASTS_US
            and (ended := self._tree.diagnoses[place]).group in yields_to
            and ended.severity > question.severity
            for place, at_us in visit.patient.ended.items()
        )

    def _precedes(self, one: Alarm, other: Alarm) -> bool:
        """True if `one` explains `other`."""
        first, second = one.diagnosis, other.diagnosis
        group = self._tree.groups[second.group]
        if first.group == second.group:
            return group.exclusive and first.index < second.index
        return first.group in group.yields_to

    def _supersede(self, visit: Visit, alarm: Alarm) -> Iterator[AlarmEvent]:
        """End the alarms that a newly raised one explains; one that keeps coming back would come back from that too."""
        for other in visit.patient.alarms.values():
            explained = other.severity <= alarm.severity and self._precedes(alarm, other)
            if explained and not other.recurring and other.signal(Signal.SUPERSEDED):
                self._count(other, -1)
                yield self._event(visit, other, "cleared", "superseded")

    def _count(self, alarm: Alarm, step: int) -> None:
        self._standing[SEVERITIES[alarm.severity]] += step

    def _event(
        self, visit: Visit, alarm: Alarm, transition: str, reason: str = "", order: Order | None = None
    ) -> AlarmEvent:
        """What is told of a transition, at the present reading or by an order."""
        diagnosis, question = alarm.diagnosis, alarm.question
        suspects = list(visit.patient.well.suspects(question.features))
        named = {f"{channel}_{what}": round(value, 4) for channel, what, value in suspects}
        found = evidence(question, visit.features) | named
        if transition in ("raised", "escalated") and order is None:
            alarm.confidence = confidence(question, visit.features, alarm.met_for_us(question, visit.now_us))
            channels = ", ".join(dict.fromkeys(channel for channel, *_ in suspects))
            alarm.message, alarm.evidence = message(diagnosis, question, visit.features, channels), found
        well_id = visit.patient.well.well_id
        path, actions = self._path(diagnosis, question, visit, stands=alarm.stands), diagnosis.actions
        if well_id == self.field_id:
            path, actions = (f"Is the field heard? {'no' if alarm.is_present else 'yes'}",), FIELD_ACTIONS
        # What ends a silence may be older than the moment at which that was told: a backlog begins where it began.
        at_us, number, by, comment = order or Order(max(visit.now_us, alarm.raised_us), visit.now_us)
        alarm.seq += 1
        alarm.shown = alarm.seen
        self._due_us = 0.0
        return AlarmEvent(
            event_id=event_id_of(alarm.alarm_id, transition, number),
            alarm_id=alarm.alarm_id,
            well_id=well_id,
            timestamp_us=at_us,
            transition=transition,
            reason=reason,
            state=alarm.told_state,
            role=alarm.role,
            group=diagnosis.group,
            diagnosis=diagnosis.name,
            category=diagnosis.category,
            severity=SEVERITIES[alarm.severity],
            confidence=alarm.confidence,
            raised_at_us=alarm.raised_us,
            message=alarm.message or message(diagnosis, question, visit.features, ""),
            evidence=found if order is None else alarm.evidence,
            path=path,
            actions=actions,
            resolution_time=diagnosis.resolution_time,
            recurring=alarm.recurring,
            count=alarm.count,
            tree_version=self._tree.version,
            telemetry_snapshot=snapshot(visit.reading),
            acknowledged=alarm.state in ACKNOWLEDGED,
            present=alarm.is_present,
            shelved_until_us=alarm.shelved_until_us,
            by=by,
            comment=comment,
            seq=alarm.seq,
        )

    def _path(self, diagnosis: Diagnosis, until: Question, visit: Visit, *, stands: bool) -> tuple[str, ...]:
        """The questions that lead to `until`, in the order asked, each with its answer.

        That of the group is what its diagnosis says: yes while its alarm stands, and while its question is met.
        """
        state = visit.patient.well.state
        if diagnosis.index == NOWHERE:
            return (f"What does the pump do? {STATE_NAMES[state]}", f"{until.ask} asked no more")
        asked = [
            f"{question.ask} {answer(question, visit.features)}"
            for question in self._tree.questions[: until.index + 1]
            if self._tree.diagnoses[question.diagnosis].group == diagnosis.group and question.states & state
        ]
        group = self._tree.groups[diagnosis.group]
        is_so = "yes" if stands or until.met(visit.features) else "no"
        return (f"What does the pump do? {STATE_NAMES[state]}", f"{group.ask} {is_so}", *asked)


def _came_unsaid(patient: Patient, alarm: Alarm) -> bool:
    """It keeps coming back, and that it came this time was told to nobody."""
    is_silent = alarm.recurring and not alarm.reminded and not alarm.is_shelved
    return is_silent and patient.raised[alarm.diagnosis.index][-1] > alarm.raised_us


def _unread(patient: Patient) -> Visit:
    """A visit without a reading: of a command, or of time that is over."""
    return Visit(patient, Reading(patient.well.well_id, patient.well.last_us), 0, 0)


def _recalled(name: str, remembered: Mapping[str, Any], diagnosis: Diagnosis | None = None) -> Alarm:
    """An alarm as it was, of this diagnosis, else of what is left of its own."""
    alarm = Alarm(diagnosis or outlined(name, remembered.get("outline", NO_OUTLINE)))
    alarm.recall(remembered)
    return alarm


def _read_snapshot(snapshot: bytes) -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads(snapshot)
    if document["form"] not in READABLE_FORMS:
        raise ValueError(f"form {document['form']}, expected one of {READABLE_FORMS}")
    return document
