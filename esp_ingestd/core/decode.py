"""Decoding: from the bytes of one delivery to readings and, where something is refused, one rejection.

Decoding is total: whatever the bytes, it returns. Two roads give the same readings and differ in the parser alone.
The fast one is one pydantic validation, which parses, tests types and plausible ranges, and notes whether any
channel is odd. What it refuses takes the careful road, which looks at each element for itself, so that a bad
element costs itself. On both, a sensor that talks nonsense costs its own channel.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from math import isfinite
from typing import Any, Final, Literal, NamedTuple

from pydantic_core import PydanticSerializationError, SchemaValidator, ValidationError, core_schema, to_json

from esp_ingestd.core.reading import CHANNELS, DAY_US, SECOND_US, WELL_ID_PATTERN, Reading, to_microseconds
from esp_ingestd.core.topic import TopicPattern
from esp_ingestd.core.unit import CHANNEL_CONVERSIONS, Conversion

EARLIEST_US: Final = to_microseconds(datetime(2000, 1, 1, tzinfo=UTC))
LATEST_AHEAD_US: Final = DAY_US
MAX_DEPTH: Final = 32
MAX_DETAILS: Final = 100  # a 1 MiB array can hold half a million bad elements
KEPT_BYTES: Final = 65_536  # of a payload that is too large
MAX_TOPICS: Final = 100_000  # remembered; strangers' topics must not fill the memory,
LONGEST_TOPIC: Final = 256  # neither by their number nor by their length
LINE: Final = 80  # characters of a value that are shown

_LAST_S: Final = 20_000_000_000  # a greater epoch is in ms: in s it is past the year 2603, in ms it is 1970
_LAST_MS: Final = 253_402_300_800_000  # the year 10000
_BLANK: Final[dict[str, Any]] = dict.fromkeys(("well_id", "timestamp", *(channel.name for channel in CHANNELS)))
_NO_CHANNEL: Final[list[object]] = [None] * len(CHANNELS)
_new_tuple: Final = tuple.__new__  # what a NamedTuple's own makers come down to
_well_id: Final = re.compile(WELL_ID_PATTERN.removesuffix("$"))
_epoch_text: Final = re.compile(r"[+-]?[0-9]{1,16}(?:\.[0-9]{0,40})?")
_token: Final = re.compile(r'[\[{\]}]|"(?:[^"\\]|\\.)*"')
_escaped_nul: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_leap_second: Final = re.compile(r"([T ]\d\d:?\d\d:?)60(?!\d)")
_end_of_day: Final = re.compile(r"(?<=[T ])24(?=:?00(?::?00(?:[.,]0+)?)?(?:[Z+-]|$))")


class Reason(StrEnum):
    """Why something was refused: the closed list of CONTRACT §3, and a row that the database itself refused."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    EMPTY = "empty"
    NOT_AN_OBJECT = "not_an_object"
    NO_TIMESTAMP = "no_timestamp"
    BAD_TIMESTAMP = "bad_timestamp"
    NAIVE_TIMESTAMP = "naive_timestamp"
    IMPLAUSIBLE_TIMESTAMP = "implausible_timestamp"
    NO_CHANNEL = "no_channel"
    BAD_WELL_ID = "bad_well_id"
    WELL_ID_MISMATCH = "well_id_mismatch"
    UNSTORABLE_TEXT = "unstorable_text"
    REFUSED_BY_DATABASE = "refused_by_database"


@dataclass(frozen=True, slots=True)
class Rejection:
    """What was refused of one message.

    `reason` is the first one. `counts` gives the readings lost by reason; a message that cannot be taken apart
    counts as one. `detail` says which elements and why, at most MAX_DETAILS of them.
    """

    reason: Reason
    counts: Mapping[Reason, int]
    detail: Mapping[str, object] = field(default_factory=dict)


class Decoded(NamedTuple):
    """What came of one message."""

    readings: Sequence[Reading]
    rejection: Rejection | None = None


class _Refused(Exception):  # noqa: N818 - a verdict on input, not an error of ours; it never leaves this module
    """An element or a whole message is refused; {} in `why` stands for `value`."""

    def __init__(self, reason: Reason, why: str, value: object = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self._why = why
        self._value = value

    def __str__(self) -> str:
        return self._why.replace("{}", _short(self._value), 1)


class _Source(NamedTuple):
    """What a topic tells of its messages."""

    well_id: str | None
    is_valid: bool  # the well_id
    units: Mapping[str, str]


class Decoder:
    """Takes messages apart; remembers nothing but a bounded number of topics."""

    def __init__(
        self,
        topics: Sequence[str],
        *,
        max_payload_bytes: int = 1_048_576,
        naive_timestamps: Literal["refuse", "utc"] = "refuse",
        units_of: Callable[[str], Mapping[str, str]] = lambda _well_id: {},
    ) -> None:
        """Decode what arrives on `topics`; `units_of` gives a well's channel -> unit where it is not ours."""
        self._patterns = tuple(map(TopicPattern, topics))
        self._max_payload_bytes = max_payload_bytes
        self._naive_is_utc = naive_timestamps == "utc"
        self._units_of = units_of
        self._sources: dict[str, _Source] = {}

    def decode(self, topic: str, payload: bytes, received_us: int, size_bytes: int | None = None) -> Decoded:
        """Take one message apart; never raises.

        Args:
            topic: where it arrived.
            payload: its bytes, or the first KEPT_BYTES of one that was cut on arrival.
            received_us: when it arrived, microseconds since 1970 UTC.
            size_bytes: what was sent, where `payload` was cut.
        """
        size_bytes = size_bytes or len(payload)
        if size_bytes > self._max_payload_bytes:
            why = f"{size_bytes} bytes, at most {self._max_payload_bytes} are taken"
            return _refuse_whole(Reason.TOO_LARGE, why, size_bytes=size_bytes)
        source = self._sources.get(topic) or self._find_source(topic)
        odd: list[object] = []
        try:
            if payload[:1] == b"[":
                elements = _many.validate_json(payload, context=odd)
                readings = [self._to_reading(each, source, received_us, 1, is_odd=bool(odd)) for each in elements]
            else:
                element = _one.validate_json(payload, context=odd)
                readings = [self._to_reading(element, source, received_us, 0, is_odd=bool(odd))]
        except (_Refused, ValidationError):
            readings = []
        if not readings:
            return self._decode_carefully(source, payload, received_us)
        return _new_tuple(Decoded, (readings, None))

    def decode_fields(self, fields: Mapping[str, object], received_us: int) -> Decoded:
        """Take one payload apart that has been read already, as from a table's row; never raises.

        A row of which nothing is odd is judged as it is, any other one as the JSON that it stands for.
        """
        odd: list[object] = []
        source = self._sources.get("") or self._find_source("")
        try:
            element = _one.validate_python(fields, context=odd)
            if not odd and len(element) == len(_BLANK):
                return Decoded([self._to_reading(element, source, received_us, 0, is_odd=False)])
        except (_Refused, ValidationError):
            pass
        return self.decode("", to_json(fields, inf_nan_mode="constants"), received_us)

    def forget_sources(self) -> None:
        """Ask `units_of` anew: the wells file was read again."""
        self._sources.clear()

    def _find_source(self, topic: str) -> _Source:
        found = (pattern.match(topic) or {} for pattern in self._patterns)
        well_id = next((captured["well_id"] for captured in found if "well_id" in captured), None)
        is_valid = well_id is not None and _well_id.fullmatch(well_id) is not None
        source = _Source(well_id, is_valid, self._units_of(well_id) if well_id and is_valid else {})
        if len(topic) <= LONGEST_TOPIC:
            if len(self._sources) >= MAX_TOPICS:
                self._sources.clear()
            self._sources[topic] = source
        return source

    def _decode_carefully(self, source: _Source, payload: bytes, received_us: int) -> Decoded:
        try:
            document = _parse(payload)
        except _Refused as refused:
            return _refuse_whole(refused.reason, str(refused))
        if document == []:
            return _refuse_whole(Reason.EMPTY, "an array without elements")
        in_array = isinstance(document, list)
        is_deep = _depth(document) > MAX_DEPTH
        readings: list[Reading] = []
        counts: Counter[Reason] = Counter()
        details: list[dict[str, object]] = []
        no_objects = no_timestamps = 0
        for index, element in enumerate(document if in_array else [document]):
            if len(details) == MAX_DETAILS and not is_deep:  # half a million of these must not cost seconds
                if element.__class__ is not dict:
                    no_objects += 1
                    continue
                if source.is_valid and "timestamp" not in element and "well_id" not in element:
                    no_timestamps += 1
                    continue
            try:
                fields = _to_fields(element, MAX_DEPTH - in_array if is_deep else None)
                readings.append(self._to_reading(fields, source, received_us, int(in_array), is_odd=True))
            except _Refused as refused:
                counts[refused.reason] += 1
                if len(details) < MAX_DETAILS:
                    details.append({"index": index, "reason": refused.reason, "why": str(refused)})
        counts.update({Reason.NOT_AN_OBJECT: no_objects, Reason.NO_TIMESTAMP: no_timestamps})
        counts = +counts
        return Decoded(readings, _to_rejection(counts, details) if counts else None)

    def _to_reading(
        self, fields: dict[str, Any], source: _Source, received_us: int, levels_above: int, *, is_odd: bool
    ) -> Reading:
        """The reading in `fields`: the keys of _BLANK in their order, then those that the contract does not name.

        Args:
            fields: one element of a message, parsed.
            source: what its topic says.
            received_us: when it arrived.
            levels_above: of objects and arrays, above the element.
            is_odd: whether a channel may hold anything but None or a float in its plausible range.

        Raises:
            _Refused: it is no reading.
        """
        well_id, raw, *channels = fields.values()
        extra: dict[str, object] = {}
        if len(fields) > len(_BLANK):
            extra = dict(islice(fields.items(), len(_BLANK), None))
            del channels[len(CHANNELS) :]
        if source.is_valid and (well_id is None or well_id == source.well_id):
            well_id, units = source.well_id, source.units
        else:
            well_id = _agree_on_well_id(well_id, source.well_id)
            units = self._units_of(well_id)
        # Of epochs in ms there is little to judge, and most RTUs send them.
        timestamp_us = raw * 1000 if raw.__class__ is int and raw > _LAST_S else 0
        if not EARLIEST_US <= timestamp_us <= received_us + LATEST_AHEAD_US:
            timestamp_us = _to_timestamp_us(raw, received_us, naive_is_utc=self._naive_is_utc)
        bad: tuple[str, ...] | None = None
        if is_odd or units:
            channels, bad, no_numbers = _judge(channels, units)
            extra = no_numbers | extra
        text = _to_json_text(extra, levels_above) if extra else None
        if channels == _NO_CHANNEL:
            raise _Refused(Reason.NO_CHANNEL, "no channel has a number")
        return _new_tuple(Reading, (well_id, timestamp_us, *channels, text, bad, received_us))


def _to_fields(element: object, max_depth: int | None) -> dict[str, Any]:
    """The keys of _BLANK in their order, then the others."""
    if max_depth is not None and _depth(element) > max_depth:
        raise _Refused(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}")
    if not isinstance(element, dict):
        raise _Refused(Reason.NOT_AN_OBJECT, "expected an object, got {}", element)
    return {**_BLANK, **element}


def _note_odd(value: object, info: "core_schema.ValidationInfo[list[object]]") -> object:
    odd: list[object] = info.context  # always given
    odd.append(value)
    return value


def _element_schema() -> core_schema.CoreSchema:
    """An object with the keys of _BLANK in their order, then the others; the context gets the odd channels.

    This is pydantic's own schema language: a model of pydantic's makes an object for each reading, and costs a
    sixth more.
    """
    anything = core_schema.with_info_after_validator_function(_note_odd, core_schema.any_schema())
    schemas: dict[str, core_schema.CoreSchema] = {"well_id": core_schema.any_schema()}
    schemas["timestamp"] = core_schema.any_schema()
    for channel in CHANNELS:
        plausible = core_schema.float_schema(strict=True, allow_inf_nan=False, ge=channel.low, le=channel.high)
        either = core_schema.union_schema([plausible, anything], mode="left_to_right")
        schemas[channel.name] = core_schema.nullable_schema(either)
    return core_schema.typed_dict_schema(
        {
            # Without a timestamp it is refused anyway: an array of `{}` is not to be filled up with blanks first.
            name: core_schema.typed_dict_field(schema, required=True)
            if name == "timestamp"
            else core_schema.typed_dict_field(core_schema.with_default_schema(schema, default=None), required=False)
            for name, schema in schemas.items()
        },
        extra_behavior="allow",
    )


_one: Final = SchemaValidator(_element_schema())
_many: Final = SchemaValidator(core_schema.list_schema(_element_schema(), fail_fast=True))


def _agree_on_well_id(sent: object, from_topic: str | None) -> str:
    well_id = from_topic if sent is None else sent
    if well_id is None:
        raise _Refused(Reason.BAD_WELL_ID, "well_id is missing, in the payload and in the topic")
    if not isinstance(well_id, str) or not _well_id.fullmatch(well_id):
        where = "topic" if sent is None else "payload"
        raise _Refused(Reason.BAD_WELL_ID, f"well_id of the {where} is {{}}, not {WELL_ID_PATTERN}", well_id)
    if from_topic is not None and well_id != from_topic:
        why = f"well_id is {well_id}, but the topic says {{}}"
        raise _Refused(Reason.WELL_ID_MISMATCH, why, from_topic)
    return well_id


def _to_timestamp_us(raw: object, received_us: int, *, naive_is_utc: bool) -> int:
    """Microseconds since 1970 UTC of ISO 8601 text, or of an epoch in s or ms; what is finer is cut.

    Raises:
        _Refused: it is missing, neither, naive, or implausible.
    """
    if isinstance(raw, str):
        try:
            timestamp_us = to_microseconds(datetime.fromisoformat(raw))
        except (TypeError, ValueError):  # naive, or of another form
            timestamp_us = _read_rare_text(raw, naive_is_utc=naive_is_utc)
    else:
        timestamp_us = _epoch_to_us(raw)
    if EARLIEST_US <= timestamp_us <= received_us + LATEST_AHEAD_US:
        return timestamp_us
    why = "is before the year 2000" if timestamp_us < EARLIEST_US else "is more than a day ahead of its arrival"
    raise _Refused(Reason.IMPLAUSIBLE_TIMESTAMP, "timestamp {} " + why, raw)


def _read_rare_text(text: str, *, naive_is_utc: bool) -> int:
    # An epoch as text can look like a date without punctuation.
    found = None if _epoch_text.fullmatch(text) else _read_rare_iso(text)
    if found is None:
        return _epoch_to_us(text)
    moment, later_us = found
    if moment.tzinfo is None:
        if not naive_is_utc:
            raise _Refused(Reason.NAIVE_TIMESTAMP, "timestamp {} has no offset from UTC", text)
        moment = moment.replace(tzinfo=UTC)
    return to_microseconds(moment) + later_us


def _read_rare_iso(text: str) -> tuple[datetime, int] | None:
    """What ISO 8601 allows and `fromisoformat` does not, and the microseconds to be added to it.

    A leap second is the first second of the next minute, as in POSIX and PostgreSQL; 24:00 is the next day's start.
    """
    plain, leap_seconds = _leap_second.subn(r"\g<1>59", text.upper().replace("\N{MINUS SIGN}", "-"))
    plain, days = _end_of_day.subn("00", plain)
    try:
        return datetime.fromisoformat(plain), leap_seconds * SECOND_US + days * DAY_US
    except ValueError:
        return None


def _epoch_to_us(raw: object) -> int:
    number: Decimal | int
    if raw is None:
        raise _Refused(Reason.NO_TIMESTAMP, "timestamp is missing")
    if isinstance(raw, int) and not isinstance(raw, bool):
        number = raw
    elif isinstance(raw, float) and isfinite(raw):
        number = Decimal(repr(raw))  # the digits that were sent; a product of floats would round across a microsecond
    elif isinstance(raw, str) and _epoch_text.fullmatch(raw):
        number = Decimal(raw)
    else:
        raise _Refused(Reason.BAD_TIMESTAMP, "timestamp {} is neither ISO 8601 nor an epoch in s or ms", raw)
    if not -_LAST_MS < number < _LAST_MS:
        raise _Refused(Reason.IMPLAUSIBLE_TIMESTAMP, "timestamp {} is beyond the year 9999", raw)
    return int(number * (SECOND_US if -_LAST_S <= number <= _LAST_S else 1000))


def _judge(
    raws: Iterable[Any], units: Mapping[str, str]
) -> tuple[list[float | None], tuple[str, ...] | None, dict[str, object]]:
    """The channels' values in our units, the names of the bad ones, and what was no finite number."""
    values: list[float | None] = []
    bad: list[str] = []
    no_numbers: dict[str, object] = {}
    for (name, _, low, high, _), raw in zip(CHANNELS, raws, strict=True):
        value = raw
        if raw is not None and (type(raw) is not float or name in units or not low <= raw <= high):
            value = _to_number(raw, CHANNEL_CONVERSIONS[name].get(units.get(name, "")))
            if value is None:
                no_numbers[name] = raw
            if value is None or not low <= value <= high:
                bad.append(name)
        values.append(value)
    return values, tuple(bad) or None, no_numbers


def _to_number(raw: object, conversion: Conversion | None) -> float | None:
    if not isinstance(raw, (int, float)) or isinstance(raw, bool):
        return None
    try:
        value = float(raw)
    except OverflowError:  # an integer of hundreds of digits
        return None
    if conversion:
        value = conversion.apply(value)
    return value if isfinite(value) else None


def _parse(payload: bytes) -> Any:  # noqa: ANN401 - JSON is of any type
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise _Refused(Reason.NOT_UTF8, f"byte {error.start} is no UTF-8") from None
    if not text.strip():
        raise _Refused(Reason.EMPTY, "no payload")
    try:
        return _read_json(text)
    except RecursionError:
        return _parse_without_depths(text)
    except ValueError as error:
        raise _Refused(Reason.NOT_JSON, str(error)) from None


def _parse_without_depths(text: str) -> Any:  # noqa: ANN401 - JSON is of any type
    """The document in `text`, which is too deep for the parser, with 0 in place of what no element may hold anyway.

    So the elements that are too deep still are, and their neighbours are not lost with them.
    """
    kept, level, kept_to = [], 0, 0
    # What is not closed needs no such care: it is no JSON, and cheap to send.
    for token in _token.finditer(text if text.rstrip().endswith(("]", "}")) else ""):
        if token[0] in ("[", "{"):
            level += 1
            if level == MAX_DEPTH + 2:
                kept.append(text[kept_to : token.start()] + "0")
        elif token[0] in ("]", "}"):
            level -= 1
            if level == MAX_DEPTH + 1:
                kept_to = token.end()
    try:
        return _read_json("".join(kept) + text[kept_to:])
    except (RecursionError, ValueError):
        raise _Refused(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}") from None


def _parse_int(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # beyond Python's limit of some thousand digits
        return digits


_read_json: Final = json.JSONDecoder(parse_int=_parse_int).decode


def _to_json_text(extra: Mapping[str, object], levels_above: int) -> str:
    """JSON text that PostgreSQL's jsonb takes, of keys that stand `levels_above` levels below the message's top."""
    try:
        text = to_json(extra, inf_nan_mode="strings").decode()
    except PydanticSerializationError:
        raise _Refused(Reason.UNSTORABLE_TEXT, "a text holds half a surrogate pair") from None
    if levels_above + text.count("[") + text.count("{") > MAX_DEPTH and levels_above + _depth(extra) > MAX_DEPTH:
        raise _Refused(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}")
    if "\\u0000" in text and _escaped_nul.search(text):
        raise _Refused(Reason.UNSTORABLE_TEXT, "a text holds NUL, which PostgreSQL cannot hold")
    return text


def _depth(document: object, most: int = MAX_DEPTH + 1) -> int:
    """Levels of objects and arrays; 0 for a scalar. Counts no further than `most`."""
    if not isinstance(document, (dict, list)):
        return 0
    deepest = 0
    if most > 1:
        for each in document.values() if isinstance(document, dict) else document:
            if each.__class__ is dict or each.__class__ is list:
                deepest = max(deepest, _depth(each, most - 1) if each else 1)
                if deepest == most - 1:
                    break
    return deepest + 1


def _refuse_whole(reason: Reason, why: str, **detail: object) -> Decoded:
    return Decoded((), Rejection(reason, {reason: 1}, {"why": why, **detail}))


def _to_rejection(counts: Counter[Reason], details: Sequence[Mapping[str, object]]) -> Rejection:
    return Rejection(next(iter(counts)), counts, {"refused": counts.total(), "elements": details})


def _short(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    text = json.dumps(value[:LINE] if isinstance(value, str) else value)
    return text if len(text) <= LINE else text[: LINE - 3] + "..."
