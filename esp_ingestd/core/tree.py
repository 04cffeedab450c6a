"""The decision tree: questions on features, read from TOML, checked whole, compiled once.

Rules:
    1. A question asks whether all its conditions hold. A condition is a comparison of features and numbers with
       `<  <=  >  >=`, `+ - * /`, `min(...)`, `max(...)`, joined with `and`, `or`, `not`; or the name of a *term*,
       which is a condition of its own.
    2. Logic has three values. A feature that is not known is NaN; it makes a comparison neither true nor false, so
       a question is *met*, *not met* or *not assessable*. `met` is the condition as written; `not met` is its
       negation pushed down to the comparisons: of both, a comparison with NaN is false.
    3. Return needs more than the limit: a question that was met is only `cleared` when it is not met even with each
       limit moved by its deadband.
    4. All questions that need only features of the instant are compiled into one function, all others into a
       second one, each returning the questions met as bits. No names are looked up while the daemon runs.
    5. The file is refused whole, with every fault and its place.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esp_ingestd.core.condition import Condition, ConditionError, MetBits, Predicate, met_bits, predicate
from esp_ingestd.core.feature import FEATURE_INDEX, FEATURES, INSTANT_COUNT, STATES, TURNING
from esp_ingestd.core.well import DIAGNOSES, WellSettings

SEVERITIES: Final = ("info", "low", "medium", "high", "critical")
CATEGORIES: Final = (
    "GAS_LOCK",
    "PUMP_WEAR",
    "MOTOR_ISSUE",
    "VSD_ISSUE",
    "VIBRATION_ISSUE",
    "LOW_FLOW",
    "DATA_QUALITY",
    "UNKNOWN",
)
RECURS_S: Final = 86_400.0
GROUPS: Final = ("protection", "production", "degradation", "data")
# A feature that is only known where the wells file gives a setting -> that setting.
NEEDED_SETTING: Final = {
    "load": "nameplate_current_a",
    "trip_margin": "trip_temperature_c",
    "temp_halfway": "trip_temperature_c",
    "intake_margin": "minimum_intake_pressure_psi",
}


class TreeError(ValueError):
    """A tree that is refused; `faults` names each place and what is wrong with it."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of the tree, and how long its answer must stand."""

    index: int
    bit: int
    diagnosis: int
    ask: str
    when: tuple[str, ...]
    confirm: tuple[str, ...]
    message: str
    """What is told where it was met; empty: what is told of its diagnosis."""
    states: int
    """The operating states in which it is asked, as bits."""
    severity: int
    on_delay_us: int
    off_delay_us: int
    min_samples: int
    asks: tuple[int, ...]
    """What its conditions read, as places in FEATURES."""
    features: tuple[int, ...]
    """The same and what its confirmers read: its evidence."""
    instant: bool
    met: Predicate
    not_met: Predicate
    cleared: Predicate
    confirms: tuple[tuple[Predicate, Predicate], ...]
    """Per confirmer: it holds; it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a condition is called, and what the operator is told about it."""

    index: int
    name: str
    category: str
    group: str
    latched: bool
    message: str
    actions: tuple[str, ...]
    resolution_time: str
    outlasts_stop: bool
    """As its group says."""
    waits_us: int
    """For how long beyond its on-delay it is held back while one that would explain it is pending."""
    recurs_us: int
    """Raised for the third time within so long it keeps coming back: it stands until it was gone for as long."""
    questions: tuple[Question, ...]

    @property
    def severity(self) -> int:
        """The highest that its questions give."""
        return max(question.severity for question in self.questions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Diagnoses that compete: of an exclusive group the first one found is announced alone."""

    name: str
    ask: str
    exclusive: bool
    yields_to: tuple[str, ...]
    """Groups whose alarms explain this one's."""
    outlasts_stop: bool
    """Its alarms are not about what the pump does: they stand on when it stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The compiled tree. `version` changes whenever its content does."""

    version: str
    terms: Mapping[str, str]
    """Conditions by the names that others use them by."""
    groups: Mapping[str, Group]
    diagnoses: tuple[Diagnosis, ...]
    """In order of precedence: by group, then as they stand in the file."""
    questions: tuple[Question, ...]
    met: MetBits
    """Of all questions."""
    met_instant: MetBits
    """Of those that are asked at each reading."""
    instant_bits: int
    """Those."""
    all_bits: int
    relative_bits: int
    """The questions that compare the well with its own normal."""
    place: Mapping[str, int]
    """Diagnosis by name -> its place in `diagnoses`."""
    akin: Sequence[Sequence[int]]
    """By place: which diagnoses' coming counts as its coming back, itself included; names of one category compete."""

    @staticmethod
    def parse(source: str | Mapping[str, Any]) -> "Tree":
        """Read, check and compile a tree.

        Args:
            source: the text of the TOML file, or what it parses to.

        Raises:
            TreeError: naming every fault, each with its place.
        """
        if isinstance(source, str):
            try:
                source = tomllib.loads(source)
            except (tomllib.TOMLDecodeError, RecursionError) as error:
                raise TreeError([f"decision tree: not TOML: {error}"]) from error
        return _Reader(source).tree()

    def off_for(self, settings: WellSettings) -> dict[str, str]:
        """The diagnoses that a well does without -> why: not enabled, or a setting that they need is not given."""
        reasons: dict[str, str] = {}
        for diagnosis in self.diagnoses:
            if settings.enabled_rules is not None and diagnosis.name not in settings.enabled_rules:
                reasons[diagnosis.name] = "not in enabled_rules"
                continue
            missing = [_missing_settings(question, settings) for question in diagnosis.questions]
            if missing and all(missing):
                reasons[diagnosis.name] = "not given: " + ", ".join(sorted(set().union(*missing)))
        return reasons

    def enabled_bits(self, settings: WellSettings) -> int:
        """The questions that a well is asked, as bits."""
        off = self.off_for(settings)
        return sum(q.bit for q in self.questions if self.diagnoses[q.diagnosis].name not in off)


def _missing_settings(question: Question, settings: WellSettings) -> set[str]:
    """Settings that it cannot do without: it asks for what they tell, and not whether that is unknown."""
    names = {FEATURES[index].name for index in question.features} & NEEDED_SETTING.keys()
    asked = {name for name in names if not any(f"unknown({name})" in text for text in question.when)}
    return {NEEDED_SETTING[name] for name in asked if not getattr(settings, NEEDED_SETTING[name])}


def _akin(one: Diagnosis, other: Diagnosis, groups: Mapping[str, Group]) -> bool:
    """Whether they are names for one malady, which may take turns."""
    compete = groups[one.group].exclusive and groups[other.group].exclusive
    return one is other or (compete and one.category == other.category)


@dataclass(slots=True)
class _Draft:
    """A question while the file is read: its conditions still as text."""

    diagnosis: str
    place: str
    group: str
    severity: int
    states: int
    conditions: list[Condition]


class _Reader:
    """Reads one tree; collects the faults of the whole file before it refuses."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._source = source
        self._faults: list[str] = []
        self._questions: list[Question] = []
        self._compiled: list[tuple[int, int, str, bool]] = []
        self._drafts: list[_Draft] = []
        self._deadbands = self._read_deadbands(source.get("deadband", {}), "deadband")
        self._terms: dict[str, Condition] = {}
        self._read_terms(source.get("term", {}))

    def tree(self) -> Tree:
        self._unknown_keys(self._source, {"deadband", "term", "group", "diagnosis"}, "decision tree")
        groups = {group.name: group for group in self._groups()}
        entries = self._tables(self._source, "diagnosis", "decision tree")
        rank = {name: place for place, name in enumerate(groups)}
        ordered = sorted(entries, key=lambda entry: rank.get(str(entry.get("group")), len(rank)))
        diagnoses = [self._diagnosis(index, entry, groups) for index, entry in enumerate(ordered)]
        self._unreachable()
        if self._faults:
            raise TreeError(list(dict.fromkeys(self._faults)))
        compiled = [(bit, states, text) for bit, states, text, _ in self._compiled]
        instant = [(bit, states, text) for bit, states, text, is_instant in self._compiled if is_instant]
        content = json.dumps(self._source, sort_keys=True, default=str).encode()
        return Tree(
            version=hashlib.sha256(content).hexdigest()[:12],
            terms={name: condition.text for name, condition in self._terms.items()},
            groups=groups,
            diagnoses=tuple(diagnoses),
            questions=tuple(self._questions),
            met_instant=met_bits(instant, INSTANT_COUNT),
            met=met_bits(compiled, len(FEATURES)),
            instant_bits=sum(question.bit for question in self._questions if question.instant),
            all_bits=(1 << len(self._questions)) - 1,
            relative_bits=sum(q.bit for q in self._questions if any(FEATURES[i].is_relative for i in q.asks)),
            place={diagnosis.name: diagnosis.index for diagnosis in diagnoses},
            akin=[[one.index for one in diagnoses if _akin(one, other, groups)] for other in diagnoses],
        )

    def _fault(self, place: str, fault: str) -> None:
        self._faults.append(f"{place}: {fault}")

    def _unknown_keys(self, table: Mapping[str, Any], known: set[str], place: str) -> None:
        for key in table:
            if key not in known:
                self._fault(place, f"unknown key {key!r}; known are {', '.join(sorted(known))}")

    def _tables(self, table: Mapping[str, Any], key: str, place: str) -> list[Mapping[str, Any]]:
        value = table.get(key, [])
        if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
            return value
        self._fault(place, f"{key} must be an array of tables, [[{key}]]")
        return []

    def _text(self, table: Mapping[str, Any], key: str, place: str, allowed: Sequence[str] = ()) -> str:
        value = table.get(key)
        if not isinstance(value, str) or not value.strip():
            self._fault(place, f"{key} is missing; a text is needed")
            return ""
        if allowed and value not in allowed:
            self._fault(place, f"{key} = {value!r}; allowed are {', '.join(allowed)}")
        return value

    def _message(self, entry: Mapping[str, Any], place: str) -> str:
        message = self._text(entry, "message", place)
        try:
            message.format_map({**dict.fromkeys(FEATURE_INDEX, 0.0), "channels": ""})
        except (LookupError, ValueError, AttributeError) as error:
            self._fault(
                place,
                f"message = {message!r}: only features and {{channels}} go into braces, as {{load:.1f}}: {error!r}",
            )
        return message

    def _texts(self, table: Mapping[str, Any], key: str, place: str, *, needed: bool) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            self._fault(place, f"{key} must be an array of texts")
            return ()
        if needed and not value:
            self._fault(place, f"{key} is missing; at least one text is needed")
        return tuple(value)

    def _number(self, table: Mapping[str, Any], key: str, place: str, default: float) -> float:
        value = table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MONTH_S:
            self._fault(place, f"{key} = {value!r}; a number from 0 to {_MONTH_S} is needed")
            return default
        return float(value)

    def _flag(self, table: Mapping[str, Any], key: str, place: str, *, default: bool = False) -> bool:
        value = table.get(key, default)
        if not isinstance(value, bool):
            self._fault(place, f"{key} = {value!r}; true or false is needed")
            return default
        return value

    def _read_deadbands(self, table: object, place: str) -> dict[str, float]:
        if not isinstance(table, dict):
            self._fault(place, "must be a table: feature = amount")
            return {}
        for name in table:
            if name not in FEATURE_INDEX:
                self._fault(place, f"unknown feature {name!r}")
        return {name: self._number(table, name, place, 0.0) for name in table}

    def _read_terms(self, table: object) -> None:
        """Each may use those above it."""
        if not isinstance(table, dict):
            self._fault("term", "must be a table: name = condition")
            return
        for name, text in table.items():
            if name in FEATURE_INDEX or not name.isidentifier():
                what = "a feature" if name in FEATURE_INDEX else "no name"
                self._fault("term", f"{name!r} is {what}; call it otherwise")
            elif not isinstance(text, str):
                self._fault(f"term {name}", "must be a condition, as a text")
            else:
                try:
                    self._terms[name] = Condition(text, self._terms)
                except ConditionError as error:
                    self._fault(f"term {name}", str(error))

    def _groups(self) -> list[Group]:
        entries = self._tables(self._source, "group", "decision tree")
        groups = []
        for number, entry in enumerate(entries, 1):
            place = f"group {number}"
            self._unknown_keys(entry, {"name", "ask", "exclusive", "yields_to", "outlasts_stop"}, place)
            yields_to = self._texts(entry, "yields_to", place, needed=False)
            for name in set(yields_to) - set(GROUPS):
                self._fault(place, f"yields_to names {name!r}; allowed are {', '.join(GROUPS)}")
            groups.append(
                Group(
                    name=self._text(entry, "name", place, GROUPS),
                    ask=self._text(entry, "ask", place),
                    exclusive=self._flag(entry, "exclusive", place),
                    yields_to=yields_to,
                    outlasts_stop=self._flag(entry, "outlasts_stop", place),
                )
            )
        for name in sorted(set(GROUPS) - {group.name for group in groups}):
            self._fault(f'group "{name}"', "is missing")
        return groups

    def _diagnosis(self, index: int, entry: Mapping[str, Any], groups: Mapping[str, Group]) -> Diagnosis:
        place = f'diagnosis "{entry.get("name", index + 1)}"'
        known = {"name", "category", "group", "latched", "message", "actions", "resolution_time", "question"}
        self._unknown_keys(entry, known | {"waits_s", "recurs_s"}, place)
        name = self._text(entry, "name", place, DIAGNOSES)
        if sum(other.get("name") == name for other in self._source["diagnosis"]) > 1:
            self._fault(place, "stands more than once")
        group = self._text(entry, "group", place, tuple(groups))
        tables = self._tables(entry, "question", place)
        if not tables:
            self._fault(place, "has no [[diagnosis.question]]")
        questions = [
            self._question(index, table, f"{place}, question {number}", name, group)
            for number, table in enumerate(tables, 1)
        ]
        return Diagnosis(
            index=index,
            name=name,
            category=self._text(entry, "category", place, CATEGORIES),
            group=group,
            latched=self._flag(entry, "latched", place),
            message=self._message(entry, place),
            actions=self._texts(entry, "actions", place, needed=True),
            resolution_time=self._text(entry, "resolution_time", place),
            outlasts_stop=group in groups and groups[group].outlasts_stop,
            waits_us=int(self._number(entry, "waits_s", place, 0.0) * 1e6),
            recurs_us=int(self._number(entry, "recurs_s", place, RECURS_S) * 1e6),
            questions=tuple(question for question in questions if question),
        )

    def _question(self, diagnosis: int, table: Mapping[str, Any], place: str, name: str, group: str) -> Question | None:
        self._unknown_keys(table, _QUESTION_KEYS, place)
        when = self._conditions(table, "when", place, needed=True)
        confirm = self._conditions(table, "confirm", place, needed=False)
        severity = self._text(table, "severity", place, SEVERITIES)
        states = self._states(table, place)
        deadband = {
            **self._deadbands,
            **self._read_deadbands(table.get("deadband", {}), f"{place}, deadband"),
        }
        ask = self._text(table, "ask", place)
        delays = [self._number(table, key, place, 0.0) for key in ("on_delay_s", "off_delay_s")]
        min_samples = int(self._number(table, "min_samples", place, 2))
        if not when or severity not in SEVERITIES:
            return None
        names = tuple(dict.fromkeys(n for condition in (*when, *confirm) for n in condition.features))
        asked = tuple(dict.fromkeys(n for condition in when for n in condition.features))
        index = len(self._questions)
        met = " and ".join(condition.met for condition in when)
        instant = all(FEATURE_INDEX[n] < INSTANT_COUNT for n in asked)
        self._compiled.append((1 << index, states, met, instant))
        self._drafts.append(_Draft(name, place, group, SEVERITIES.index(severity), states, when))
        question = Question(
            index=index,
            bit=1 << index,
            diagnosis=diagnosis,
            ask=ask,
            when=tuple(condition.text for condition in when),
            confirm=tuple(condition.text for condition in confirm),
            message=self._message(table, place) if "message" in table else "",
            states=states,
            severity=SEVERITIES.index(severity),
            on_delay_us=int(delays[0] * 1e6),
            off_delay_us=int(delays[1] * 1e6),
            min_samples=max(1, min_samples),
            asks=tuple(FEATURE_INDEX[n] for n in asked),
            features=tuple(FEATURE_INDEX[n] for n in names),
            instant=instant,
            met=predicate(met, asked),
            not_met=predicate(" or ".join(c.not_met for c in when), asked),
            cleared=predicate(" or ".join(c.cleared(deadband) for c in when), asked),
            confirms=tuple((predicate(c.met, c.features), predicate(c.not_met, c.features)) for c in confirm),
        )
        self._questions.append(question)
        return question

    def _conditions(self, table: Mapping[str, Any], key: str, place: str, *, needed: bool) -> list[Condition]:
        conditions = []
        for text in self._texts(table, key, place, needed=needed):
            try:
                conditions.append(Condition(text, self._terms))
            except ConditionError as error:
                self._fault(f"{place}, {key}", str(error))
        return conditions

    def _states(self, table: Mapping[str, Any], place: str) -> int:
        names = self._texts(table, "states", place, needed=False)
        unknown = [name for name in names if name not in STATES]
        if unknown:
            self._fault(place, f"states: unknown {', '.join(unknown)}; known are {', '.join(STATES)}")
        return sum(STATES[name] for name in set(names) - set(unknown)) or TURNING

    def _unreachable(self) -> None:
        """A question that nothing can meet, or that an earlier one of its exclusive group always hides."""
        entries = self._tables(self._source, "group", "decision tree")
        exclusive = {str(entry.get("name")) for entry in entries if entry.get("exclusive") is True}
        for number, draft in enumerate(self._drafts):
            own = _box(draft.conditions)
            for name, (low, high) in own.items():
                if low > high:
                    self._fault(draft.place, f"unreachable: no {name} is above {low:g} and below {high:g}")
            for earlier in self._drafts[:number] if draft.group in exclusive else ():
                if earlier.group == draft.group and _hides(earlier, draft, own):
                    self._fault(draft.place, f"unreachable: whenever it is met, {earlier.place} was met before")


_MONTH_S: Final = 2_678_400
_QUESTION_KEYS: Final = {
    "ask",
    "message",
    "when",
    "confirm",
    "states",
    "severity",
    "on_delay_s",
    "off_delay_s",
    "min_samples",
    "deadband",
}


def _box(conditions: Sequence[Condition]) -> dict[str, tuple[float, float]]:
    """The range that plain limits leave to each feature."""
    box: dict[str, tuple[float, float]] = {}
    for condition in conditions:
        for name, sign, number in condition.limits()[0]:
            low, high = box.get(name, (float("-inf"), float("inf")))
            box[name] = (max(low, number), high) if sign[0] == ">" else (low, min(high, number))
    return box


def _hides(earlier: _Draft, later: _Draft, own: Mapping[str, tuple[float, float]]) -> bool:
    """True if `later` cannot be met without `earlier`, at no lower severity, being met too."""
    if earlier.diagnosis == later.diagnosis or earlier.severity < later.severity:
        return False
    if later.states & ~earlier.states:
        return False
    texts = {condition.text for condition in later.conditions}
    for condition in earlier.conditions:
        if condition.text in texts:
            continue
        limits, plain = condition.limits()
        if not plain or not all(_implied(own, *limit) for limit in limits):
            return False
    return True


def _implied(box: Mapping[str, tuple[float, float]], name: str, sign: str, number: float) -> bool:
    low, high = box.get(name, (float("-inf"), float("inf")))
    return low >= number if sign[0] == ">" else high <= number
