"""The alarm machine against a small model of its own: every course of readings, commands, time and restarts.

The model knows nothing of tables, watches or bits. It is what docs/diagnosis.md says of the life of an alarm, for a
tree whose delays are all zero.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.test_diagnosis import HEALTHY, SETTINGS, START_US
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esp_ingestd.core.alarm import SHELF, TABLE, AlarmEvent
from esp_ingestd.core.command import Command, Refusal, RefusedError
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import SECOND_US, Reading
from esp_ingestd.core.tree import SEVERITIES, Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOUR, DAY = 3600, 86_400
HIGH, CRITICAL = 3, 4
TURNING = ["starting", "warm-up", "transient", "running"]
CHANNELS = {
    "STALL": "motor_temp",
    "DEADHEAD": "current_unbalance",
    "PUMP_OFF": "voltage_unbalance",
    "SENSOR_FAULT": "insulation_resistance",
}
VALUES: dict[str, tuple[float, ...]] = {  # by severity found: none, the first question's, the second's
    "STALL": (110.0, 125.0, 135.0),
    "DEADHEAD": (1.0, 60.0, 60.0),
    "PUMP_OFF": (1.0, 60.0, 60.0),
    "SENSOR_FAULT": (500.0, 1.0, 1.0),
}
FOUND = {"STALL": (0, 2, CRITICAL), "DEADHEAD": (0, HIGH, HIGH), "PUMP_OFF": (0, HIGH, HIGH), "SENSOR_FAULT": (0, 1, 1)}


def diagnosis(
    name: str, group: str, *questions: tuple[str, str], latched: bool = False, **keys: list[str]
) -> dict[str, Any]:
    texts = {"category": "UNKNOWN", "message": name, "actions": ["Look."], "resolution_time": "1 h"}
    asked = [{"ask": f"{name}?", "when": [when], "severity": s, "min_samples": 1, **keys} for when, s in questions]
    return {"name": name, "group": group, "latched": latched, **texts, "question": asked}


TREE = Tree.parse(
    {
        "group": [
            {"name": "protection", "ask": "?"},
            {"name": "production", "ask": "?", "exclusive": True},
            {"name": "degradation", "ask": "?"},
            {"name": "data", "ask": "?"},
        ],
        "diagnosis": [
            diagnosis(
                "STALL", "protection", ("motor_temp > 120", "medium"), ("motor_temp > 130", "critical"), latched=True
            ),
            diagnosis("DEADHEAD", "production", ("current_unbalance > 50", "high")),
            diagnosis("PUMP_OFF", "production", ("voltage_unbalance > 50", "high")),
            diagnosis("SENSOR_FAULT", "data", ("insulation_resistance < 2", "low"), states=["off", "trip", *TURNING]),
        ],
    }
)


@dataclass
class Told:
    """One standing alarm, as people see it."""

    severity: int
    count: int
    recurring: bool
    told_s: float
    raised_s: float
    acknowledged: bool = False
    shelved_until_s: float = 0.0
    gone_s: float | None = None
    reminded: bool = False
    role: str = "primary"
    shown: tuple[object, ...] = ()


class Model:
    """What is to be told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.since_s: float | None = None
        self.found = dict.fromkeys(CHANNELS, 0)
        self.told: dict[str, Told] = {}
        self.came: dict[str, list[float]] = {name: [] for name in CHANNELS}
        self.offs = 0
        self.out: list[tuple[object, ...]] = []

    def state(self, name: str) -> str:
        alarm = self.told[name]
        if alarm.shelved_until_s:
            return "shelved"
        if alarm.gone_s is not None and name == "STALL" and alarm.severity == CRITICAL:
            return "latched"
        return "acknowledged" if alarm.acknowledged else "active"

    def say(self, transition: str, name: str, reason: str = "") -> None:
        state = "cleared" if transition == "cleared" else self.state(name)
        alarm = self.told[name]
        told = (transition, name, reason, state, alarm.role, SEVERITIES[alarm.severity], alarm.count, alarm.recurring)
        self.out.append((*told, state != "cleared" and alarm.gone_s is None))
        alarm.shown = self.seen(name)

    def seen(self, name: str) -> tuple[object, ...]:
        """What SCADA sees of it; of one that is shelved no more than that."""
        alarm = self.told[name]
        return ("shelved",) if alarm.shelved_until_s else (self.state(name), alarm.role, alarm.gone_s is None)

    def read(self, levels: dict[str, int | None], *, off: bool) -> None:
        self.offs = self.offs + 1 if off else 0
        for name in CHANNELS:
            asked = not off or name == "SENSOR_FAULT"
            if self.offs > 1 and name != "SENSOR_FAULT":
                self.found[name] = 0
            level = levels[name]
            if asked and level is not None and not (self.offs == 1 and name != "SENSOR_FAULT"):
                self.found[name] = FOUND[name][level]
            self.settle(name)
        for name in CHANNELS:
            if name in self.told:
                self.told[name].role = self.role(name)
                if self.seen(name) != self.told[name].shown:
                    self.say("", name)

    def role(self, name: str) -> str:
        """DEADHEAD and PUMP_OFF are of one group: the one that is there is primary, else DEADHEAD."""
        other = self.told.get({"DEADHEAD": "PUMP_OFF", "PUMP_OFF": "DEADHEAD"}.get(name, ""))
        gone = self.told[name].gone_s is not None
        second = other is not None and (gone, name) > (
            other.gone_s is not None,
            "DEADHEAD" if name == "PUMP_OFF" else "PUMP_OFF",
        )
        return "secondary" if second else "primary"

    def settle(self, name: str) -> None:
        found, alarm = self.found[name], self.told.get(name)
        if found and alarm:
            self.stay(name, alarm, found)
        elif found and not self.explained(name):
            count = self.note(name)
            self.told[name] = Told(found, count, count >= 3, self.now_s, self.now_s)
            self.told[name].role = self.role(name)
            self.say("raised", name)
            self.supersede(name)
        elif not found and alarm:
            self.lose(name, alarm)

    def note(self, name: str) -> int:
        """It came: how often that, or its like, came within a day."""
        self.came[name] = [*(at for at in self.came[name] if self.now_s - at < DAY), self.now_s][-3:]
        own = self.came[name]
        others = [at for each in self.alike(name) if each != name for at in self.came[each] if self.now_s - at < DAY]
        return len(own) + sum(all(abs(at - each) > 6 * HOUR for each in own) for at in others)

    @staticmethod
    def alike(name: str) -> tuple[str, ...]:
        """DEADHEAD and PUMP_OFF compete for a name: what comes of one, hours from the other, counts for both."""
        return ("DEADHEAD", "PUMP_OFF") if name in ("DEADHEAD", "PUMP_OFF") else (name,)

    def stay(self, name: str, alarm: Told, found: int) -> None:
        if alarm.gone_s is not None:
            alarm.gone_s = None
            alarm.count += 1
            alarm.recurring |= self.note(name) >= 3
            alarm.reminded = alarm.reminded and alarm.severity == CRITICAL
            self.supersede(name)
        elif alarm.severity == HIGH and self.has_lasted(name, alarm):
            alarm.reminded = True
            self.say("raised", name)
        if found > alarm.severity:
            alarm.severity, alarm.acknowledged, alarm.shelved_until_s, alarm.told_s = found, False, 0.0, self.now_s
            self.say("escalated", name)

    def has_lasted(self, name: str, alarm: Told) -> bool:
        """It was folded when it came, nobody has dealt with it, and it has not gone for six hours."""
        folded = alarm.recurring and self.came[name][-1] > alarm.raised_s and not alarm.reminded
        lasted = not self.offs and self.now_s - self.came[name][-1] >= 6 * HOUR
        return folded and lasted and self.state(name) == "active"

    def lose(self, name: str, alarm: Told) -> None:
        alarm.gone_s = self.now_s if alarm.gone_s is None else alarm.gone_s
        latches = name == "STALL" and alarm.severity == CRITICAL
        quiet_s = self.now_s - max(alarm.gone_s, *(at for each in self.alike(name) for at in self.came[each]))
        if self.offs > 1 and name != "SENSOR_FAULT" and not (latches or alarm.recurring):
            self.end(name, "well_off")
        elif not (latches or alarm.shelved_until_s or (alarm.recurring and quiet_s < DAY)):
            self.end(name, "returned")

    def end(self, name: str, reason: str) -> None:
        self.say("cleared", name, reason)
        del self.told[name]

    def explained(self, name: str) -> bool:
        return name == "PUMP_OFF" and "DEADHEAD" in self.told and self.told["DEADHEAD"].gone_s is None

    def supersede(self, name: str) -> None:
        if name == "DEADHEAD" and "PUMP_OFF" in self.told and not self.told["PUMP_OFF"].recurring:
            self.end("PUMP_OFF", "superseded")

    def pass_time(self) -> None:
        if self.since_s is None:
            self.since_s = self.now_s
        for name, alarm in [(name, self.told[name]) for name in CHANNELS if name in self.told]:
            if alarm.shelved_until_s:
                if alarm.shelved_until_s <= self.now_s:
                    self.unshelve(name, alarm, alarm.shelved_until_s)
            elif alarm.severity == CRITICAL and not alarm.acknowledged and self.hour_is_over(alarm):
                alarm.reminded = True
                self.say("raised", name)

    def hour_is_over(self, alarm: Told) -> bool:
        return not alarm.reminded and max(alarm.told_s, self.since_s or 0.0) + HOUR <= self.now_s

    def unshelve(self, name: str, alarm: Told, at_s: float) -> None:
        alarm.shelved_until_s = 0.0
        alarm.told_s = at_s
        self.say("unshelved", name)
        if alarm.gone_s is not None:
            self.lose(name, alarm)

    def command(self, word: str, name: str, for_s: float) -> Refusal | None:
        alarm = self.told[name]
        if word == "acknowledge" and not alarm.acknowledged:
            alarm.acknowledged = True
            self.say("acknowledged", name)
        elif word == "shelve":
            alarm.shelved_until_s = self.now_s + for_s
            self.say("shelved", name)
        elif word == "unshelve" and alarm.shelved_until_s:
            self.unshelve(name, alarm, self.now_s)
        elif word == "reset":
            if name != "STALL" or alarm.severity < CRITICAL:
                return Refusal.NOT_LATCHED
            if alarm.gone_s is None:
                return Refusal.CONDITION_HOLDS
            self.end(name, "reset")
        return None


level = st.sampled_from([0, 0, 0, 1, 2, None])
levels = st.fixed_dictionaries(dict.fromkeys(CHANNELS, level))
steps = st.sampled_from([10.0, 10.0, 60.0, 1800.0, 7200.0, 90_000.0])


class AlarmMachine(RuleBasedStateMachine):
    """Readings, commands, time, restarts and kills in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.diagnostician = self.anew()
        self.events: list[AlarmEvent] = []
        self.ids: dict[str, str] = {}
        self.severities: dict[str, str] = {}
        self.saved = b""
        self.since_saved: list[tuple[Callable[[Diagnostician], Sequence[AlarmEvent]], Sequence[AlarmEvent]]] = []
        self.commands = 0

    def anew(self) -> Diagnostician:
        return Diagnostician(TREE, lambda _: dataclasses.replace(SETTINGS, settle_s=0), live=True)

    @property
    def now_us(self) -> int:
        return START_US + int(self.model.now_s * SECOND_US)

    def do(self, work: Callable[[Diagnostician], Sequence[AlarmEvent]]) -> None:
        """Do it, and see that it told what the model said."""
        events = work(self.diagnostician)
        self.since_saved.append((work, events))
        said = [
            (e.transition, e.diagnosis, e.reason, e.state, e.role, e.severity, e.count, e.recurring, e.present)
            for e in events
        ]
        assert said == self.model.out
        self.model.out = []
        self.take_in(events)

    def take_in(self, events: Sequence[AlarmEvent]) -> None:
        """What holds of any course of events."""
        for event in events:
            name = event.diagnosis
            first = event.transition == "raised" and name not in self.ids
            if first:
                assert event.alarm_id not in {each.alarm_id for each in self.events}
                self.ids[name] = event.alarm_id
                assert event.seq == 1
            else:
                assert event.alarm_id == self.ids[name]  # never two of a diagnosis, none that was not raised
                assert SEVERITIES.index(event.severity) >= SEVERITIES.index(self.severities[name])
            self.severities[name] = event.severity
            if event.transition == "cleared":
                del self.ids[name]
            assert event.event_id not in {each.event_id for each in self.events}
            self.events.append(event)

    @initialize()
    def begin(self) -> None:
        self.reading(dict.fromkeys(CHANNELS, 0), 10.0, off=False)
        self.save()

    @rule(found=levels, step_s=steps, off=st.sampled_from([False, False, False, True]))
    def reading(self, found: dict[str, int | None], step_s: float, *, off: bool) -> None:
        self.model.now_s += step_s
        channels: dict[str, Any] = dict(HEALTHY)
        for name, channel in CHANNELS.items():
            channels[channel] = None if (which := found[name]) is None else VALUES[name][which]
        if off:
            channels |= {"vsd_frequency": 0.0, "motor_current": 0.0, "flow_rate": 0.0}
        made = Reading("W", self.now_us, **channels, received_us=self.now_us)
        self.model.read(found, off=off)
        self.do(lambda d: d.observe(made))

    @rule(step_s=steps)
    def time(self, step_s: float) -> None:
        self.model.now_s += step_s
        now_us = self.now_us
        self.model.pass_time()
        self.do(lambda d: d.pass_time(now_us))

    @rule(
        name=st.sampled_from(list(CHANNELS)),
        word=st.sampled_from(["acknowledge", "shelve", "shelve", "unshelve", "reset"]),
        for_s=st.sampled_from([1.0, 600.0, 86_400.0]),
    )
    def command(self, name: str, word: str, for_s: float) -> None:
        self.commands += 1
        alarm_id = self.ids.get(name, "none")
        said = Command("W", word, alarm_id, "operator", f"no. {self.commands}", for_s if word == "shelve" else 0.0)
        refused = self.model.command(word, name, for_s) if name in self.ids else Refusal.UNKNOWN_ALARM
        found: list[Refusal | None] = []
        at_us = self.now_us

        def obey(diagnostician: Diagnostician) -> Sequence[AlarmEvent]:
            try:
                answer, events, record = diagnostician.obey(said, at_us)
            except RefusedError as refused:
                found.append(refused.reason)
                return ()
            found.append(None)
            assert answer.event_id == (events[0].event_id if events else "")
            assert (record.command_id if record else "") == answer.event_id
            assert all(e.by == "operator" and e.comment == said.comment for e in events[:1])
            return events

        self.do(obey)
        assert found[0] == refused

    @rule()
    def save(self) -> None:
        """A restart: what is known goes through JSON."""
        self.saved = self.diagnostician.snapshot("W")
        self.diagnostician = self.anew()
        self.diagnostician.restore("W", self.saved)
        self.since_saved = []
        self.model.since_s = None
        for alarm in self.model.told.values():
            alarm.told_s = float("-inf")

    @rule()
    def kill(self) -> None:
        """What came since the last save comes again: the same events, by the same ids."""
        self.diagnostician = self.anew()
        self.diagnostician.restore("W", self.saved)
        for work, events in self.since_saved:
            assert work(self.diagnostician) == events

    @invariant()
    def what_stands_is_what_was_told(self) -> None:
        standing = self.model.told
        assert set(self.ids) == set(standing)
        counted = {name: sum(SEVERITIES[a.severity] == name for a in standing.values()) for name in SEVERITIES}
        assert dict(self.diagnostician.standing()) == counted
        figures = self.diagnostician.figures(self.now_us)
        latched = [n for n, a in standing.items() if a.gone_s is not None and n == "STALL" and a.severity == CRITICAL]
        assert (figures.acknowledged, figures.shelved, figures.latched, figures.recurring) == (
            sum(a.acknowledged for a in standing.values()),
            sum(a.shelved_until_s > 0 for a in standing.values()),
            len(latched),
            sum(a.recurring for a in standing.values()),
        )
        for event in {e.diagnosis: e for e in self.events}.values():
            state = event.state_payload()
            assert state["active"] is (event.diagnosis in standing)
            assert state["state"] == (self.model.state(event.diagnosis) if state["active"] else "cleared")


AlarmMachine.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)
TestAlarmMachine = AlarmMachine.TestCase


def test_every_transition_is_one_of_the_contract() -> None:
    words = {"raised", "escalated", "acknowledged", "shelved", "unshelved", "cleared", ""}
    assert {told for _, told in (*TABLE.values(), *SHELF.values())} <= words
