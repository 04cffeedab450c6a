"""Commands from SCADA (CONTRACT §5): what one says, what is wrong with it, and the answer.

Rules:
    1. A command is refused with a reason from a closed list, or heeded; either is answered, and only what changed
       something is stored.
    2. Who may command is the broker's business: its access control list says who may publish a command.
    3. A command carries no time of its own: it happened when it arrived.
    4. One that the broker had kept (`retained`) is refused: it would be given again at each start.
    5. What a command asks for and is the case already is heeded without effect, so that one delivered twice does no
       more than one delivered once.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.reading import SECOND_US, WELL_ID_PATTERN, to_iso

MOST_BYTES: Final = 8_192
LONGEST_BY: Final = 100
LONGEST_COMMENT: Final = 1_000
LONGEST_SHELVING_S: Final = 86_400
WORDS: Final = ("acknowledge", "shelve", "unshelve", "reset")
_LONGEST_ECHO: Final = 100
_WELL_ID: Final = re.compile(WELL_ID_PATTERN)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_NAMESPACE: Final = UUID("0d1c6a52-8f1e-5c0b-9f0e-b6a1d5a7c3e4")


class Refusal(StrEnum):
    """Why a command is refused."""

    RETAINED = "retained"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    UNKNOWN_COMMAND = "unknown_command"
    BAD_ALARM_ID = "bad_alarm_id"
    BAD_BY = "bad_by"
    BAD_COMMENT = "bad_comment"
    BAD_DURATION = "bad_duration"
    UNKNOWN_WELL = "unknown_well"
    UNKNOWN_ALARM = "unknown_alarm"
    NOT_LATCHED = "not_latched"
    CONDITION_HOLDS = "condition_holds"


class RefusedError(ValueError):
    """A command that is not heeded; its text says what is wrong and what is allowed."""

    def __init__(self, reason: Refusal, why: str) -> None:
        super().__init__(why)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is well formed."""

    well_id: str
    word: str
    """One of WORDS."""
    alarm_id: str
    """Empty: the well itself, which only `reset` can mean."""
    by: str
    comment: str
    duration_s: float
    """Of `shelve`; else 0."""

    @property
    def identity(self) -> str:
        """The same for a command that says the same."""
        said = [self.well_id, self.word, self.alarm_id, self.by, self.comment, self.duration_s]
        return str(uuid5(_NAMESPACE, json.dumps(said)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a command: told on the well's answers topic."""

    well_id: str
    command: str = ""
    alarm_id: str = ""
    by: str = ""
    reason: Refusal | None = None
    """Why it was refused; None: it was heeded."""
    detail: str = ""
    event_id: str = ""
    """Of the event that tells of it; empty where nothing changed."""
    at_us: int
    """When it arrived."""

    def payload(self) -> dict[str, object]:
        """The JSON object of the answers topic; flat, and no key ever changes its type."""
        return {
            "well_id": self.well_id,
            "command": self.command,
            "alarm_id": self.alarm_id,
            "by": self.by,
            "accepted": self.reason is None,
            "reason": self.reason.value if self.reason else "",
            "detail": self.detail,
            "event_id": self.event_id,
            "timestamp": to_iso(self.at_us),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """A command that changed something: who, when and why, for the table `alarm_commands`."""

    command_id: str
    """The event's identity; of a well's reset, which has no event, one of its own."""
    received_us: int
    well_id: str
    alarm_id: str
    command: str
    by: str
    comment: str
    duration_s: float


class Heeded(NamedTuple):
    """What came of a command."""

    answer: Answer
    events: Sequence[AlarmEvent] = ()
    record: CommandRecord | None = None
    """None: it changed nothing."""


def heed(
    obey: Callable[[Command, int], Heeded],
    well_id: str,
    payload: bytes,
    size_bytes: int,
    at_us: int,
    *,
    retained: bool = False,
) -> Heeded:
    """Take a command apart and have it obeyed; never raises on any input.

    Args:
        obey: does what a well-formed command asks; `Diagnostician.obey`.
        well_id: from its topic.
        payload: what came, perhaps cut.
        size_bytes: how much came.
        at_us: when, microseconds since 1970 UTC.
        retained: whether the broker had kept it from before we subscribed.
    """
    try:
        return obey(parse(well_id, payload, size_bytes, retained=retained), at_us)
    except RefusedError as refused:
        said = said_of(payload)
        return Heeded(Answer(well_id=well_id, **said, reason=refused.reason, detail=str(refused), at_us=at_us))


def heeded(command: Command, at_us: int, events: Sequence[AlarmEvent], command_id: str, detail: str) -> Heeded:
    """What came of a command that was not refused.

    Args:
        command: what it said.
        at_us: when it arrived.
        events: what it changed.
        command_id: by what identity it is stored; empty where it changed nothing.
        detail: what else there is to say.
    """
    well_id, word, alarm_id, by = command.well_id, command.word, command.alarm_id, command.by
    event_id = command_id if alarm_id else ""
    answer = Answer(
        well_id=well_id, command=word, alarm_id=alarm_id, by=by, detail=detail, event_id=event_id, at_us=at_us
    )
    if not command_id:
        return Heeded(answer, events)
    record = CommandRecord(
        command_id=command_id,
        received_us=at_us,
        well_id=well_id,
        alarm_id=alarm_id,
        command=word,
        by=by,
        comment=command.comment,
        duration_s=command.duration_s,
    )
    return Heeded(answer, events, record)


def parse(well_id: str, payload: bytes, size_bytes: int, *, retained: bool = False) -> Command:
    """Take a command apart; its arguments are those of `heed`.

    Raises:
        RefusedError: it is none that could be heeded.
    """
    if retained:
        raise RefusedError(Refusal.RETAINED, "a command must not be retained: it would be given again at each start")
    if not _WELL_ID.fullmatch(well_id):
        raise RefusedError(Refusal.UNKNOWN_WELL, f"no well is called {well_id[:_LONGEST_ECHO]!r}")
    document = _document(payload, size_bytes)
    word = document.get("command")
    if word not in WORDS:
        raise RefusedError(Refusal.UNKNOWN_COMMAND, f"command must be one of {', '.join(WORDS)}")
    alarm_id = _text(document, "alarm_id", Refusal.BAD_ALARM_ID, _LONGEST_ECHO)
    if not alarm_id and word != "reset":
        raise RefusedError(Refusal.BAD_ALARM_ID, "alarm_id is missing")
    by = _text(document, "by", Refusal.BAD_BY, LONGEST_BY)
    if not by:
        raise RefusedError(Refusal.BAD_BY, f"by is missing: who commands, 1 to {LONGEST_BY} characters")
    comment = _text(document, "comment", Refusal.BAD_COMMENT, LONGEST_COMMENT)
    duration_s = _duration_s(document) if word == "shelve" else 0.0
    return Command(well_id, word, alarm_id, by, comment, duration_s)


def said_of(payload: bytes) -> dict[str, str]:
    """What of a command that cannot be heeded may be repeated in the answer: its short texts."""
    try:
        document = json.loads(payload) if len(payload) <= MOST_BYTES else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    texts = {key: document.get(key) for key in ("command", "alarm_id", "by")}
    return {
        key: text
        for key, text in texts.items()
        if isinstance(text, str) and len(text) <= _LONGEST_ECHO and not _CONTROL.search(text)
    }


def _document(payload: bytes, size_bytes: int) -> dict[str, Any]:
    if size_bytes > MOST_BYTES:
        raise RefusedError(Refusal.TOO_LARGE, f"{size_bytes} bytes; at most {MOST_BYTES} are read")
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise RefusedError(Refusal.NOT_JSON, f"it is no JSON: {error}"[: 2 * _LONGEST_ECHO]) from None
    if not isinstance(document, dict):
        raise RefusedError(Refusal.NOT_AN_OBJECT, "it is no JSON object")
    return document


def _text(document: dict[str, Any], key: str, reason: Refusal, longest: int) -> str:
    """A text, stripped; empty where it is absent or null."""
    text = document.get(key)
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > longest or _CONTROL.search(text):
        raise RefusedError(reason, f"{key} must be a text of at most {longest} characters, without control characters")
    return text.strip()


def _duration_s(document: dict[str, Any]) -> float:
    value = document.get("duration_s")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_SHELVING_S:
        raise RefusedError(
            Refusal.BAD_DURATION, f"duration_s must be a number of seconds above 0, at most {LONGEST_SHELVING_S}"
        )
    if value * SECOND_US < 1:
        raise RefusedError(Refusal.BAD_DURATION, "duration_s is less than a microsecond")
    return float(value)
