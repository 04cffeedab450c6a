"""Decoding: from the bytes of one delivery to readings and, where something is refused, one rejection.

Decoding is total: whatever the bytes, it returns. The common message takes one pydantic validation; only what
fails that takes the careful road, which looks at each element and each channel for itself, so that a sensor
that talks nonsense costs its own channel and a bad element costs itself. Both roads give the same readings.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from itertools import chain
from math import isfinite
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from esp_ingestd.core.reading import (
    CHANNELS,
    EPOCH,
    MICROSECOND,
    SECOND_US,
    WELL_ID_PATTERN,
    Reading,
    to_microseconds,
)
from esp_ingestd.core.topic import TopicPattern
from esp_ingestd.core.unit import CHANNEL_CONVERSIONS

EARLIEST_US: Final = to_microseconds(datetime(2000, 1, 1, tzinfo=UTC))
LATEST_AHEAD_US: Final = 86_400 * SECOND_US
MAX_DEPTH: Final = 32
MAX_DETAILS: Final = 100  # a 1 MiB array can hold half a million bad elements
KEPT_BYTES: Final = 65_536  # of a payload that is too large
MAX_TOPICS: Final = 100_000  # remembered; strangers' topics must not fill the memory

_LONGEST_INT: Final = 300  # digits; a longer one is beyond every float, and near the parser's own limit
_NO_CHANNEL: Final[tuple[object, ...]] = (None,) * len(CHANNELS)
_CHANNELS_AT: Final = slice(2, 2 + len(CHANNELS))  # in a Reading
_well_id: Final = re.compile(WELL_ID_PATTERN.removesuffix("$"))
_escaped_nul: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


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
    def __init__(self, reason: Reason, why: str) -> None:
        super().__init__(why)
        self.reason = reason


class _NotCommon(Exception):  # noqa: N818 - the way from the fast road to the careful one
    pass


class _Source(NamedTuple):
    """What a topic tells of its messages, and the validators that fit: they know the well's units."""

    well_id: str | None
    units: Mapping[str, str]
    one: TypeAdapter[Any]
    many: TypeAdapter[Any]


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
        try:
            if payload[:1] == b"[":
                readings = [self._to_reading(m, source, received_us, 1) for m in source.many.validate_json(payload)]
            else:
                readings = [self._to_reading(source.one.validate_json(payload), source, received_us, 0)]
        except (_NotCommon, _Refused, ValidationError):
            readings = []
        return Decoded(readings) if readings else self._decode_carefully(source, payload, received_us)

    def _find_source(self, topic: str) -> _Source:
        captured = next((found for p in self._patterns if (found := p.match(topic)) is not None), {})
        well_id = captured.get("well_id")
        units = self._units_of(well_id) if well_id else {}
        source = _Source(well_id, units, *_validators(tuple(sorted(units.items()))))
        if len(self._sources) >= MAX_TOPICS:
            self._sources.clear()
        self._sources[topic] = source
        return source

    def forget_sources(self) -> None:
        """Ask `units_of` anew: the wells file was read again."""
        self._sources.clear()

    def _to_reading(self, model: BaseModel, source: _Source, received_us: int, levels_above: int) -> Reading:
        """The fast road. Whatever is odd raises, and the careful road finds out what it is."""
        values = model.__dict__  # in the order of the table's columns, as `_model` made it
        well_id = values["well_id"]
        if well_id != source.well_id:
            if well_id is None:
                values["well_id"] = source.well_id
            elif source.well_id is not None or self._units_of(well_id):
                raise _NotCommon
        elif well_id is None:
            raise _NotCommon
        values["timestamp"] = self._common_timestamp_us(values["timestamp"], received_us)
        for channel, unit in source.units.items():
            if (value := values[channel]) is not None:
                values[channel] = CHANNEL_CONVERSIONS[channel][unit].apply(value)
        extra = model.__pydantic_extra__
        text = _to_json_text(extra, levels_above) if extra else None
        reading = Reading._make((*values.values(), text, None, received_us))
        if reading[_CHANNELS_AT] == _NO_CHANNEL:
            raise _NotCommon
        return reading

    def _common_timestamp_us(self, moment: datetime, received_us: int) -> int:
        if moment.tzinfo is None:
            if not self._naive_is_utc:
                raise _NotCommon
            moment = moment.replace(tzinfo=UTC)
        timestamp_us = (moment - EPOCH) // MICROSECOND
        if not EARLIEST_US <= timestamp_us <= received_us + LATEST_AHEAD_US:
            raise _NotCommon
        return timestamp_us

    def _decode_carefully(self, source: _Source, payload: bytes, received_us: int) -> Decoded:
        try:
            document = _parse(payload)
        except _Refused as refused:
            return _refuse_whole(refused.reason, str(refused))
        if document == []:
            return _refuse_whole(Reason.EMPTY, "an array without elements")
        in_array = isinstance(document, list)
        readings: list[Reading] = []
        refusals: list[tuple[int, _Refused]] = []
        for index, element in enumerate(document if in_array else [document]):
            try:
                readings.append(self._decode_element(element, source, received_us, int(in_array)))
            except _Refused as refused:
                refusals.append((index, refused))
        return Decoded(readings, _to_rejection(refusals) if refusals else None)

    def _decode_element(self, element: object, source: _Source, received_us: int, levels_above: int) -> Reading:
        if not isinstance(element, dict):
            raise _Refused(Reason.NOT_AN_OBJECT, f"expected an object, got {_short(element)}")
        if levels_above + _depth(element) > MAX_DEPTH:
            raise _Refused(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}")
        rest = dict(element)
        well_id = _agree_on_well_id(rest.pop("well_id", None), source.well_id)
        timestamp_us = self._to_timestamp_us(rest.pop("timestamp", None), received_us)
        values, bad, extra = _take_channels(rest, self._units_of(well_id))
        if not any(value is not None for value in values):
            raise _Refused(Reason.NO_CHANNEL, "no channel has a number")
        extra |= rest
        text = _to_json_text(extra, levels_above) if extra else None
        return Reading._make((well_id, timestamp_us, *values, text, tuple(bad) or None, received_us))

    def _to_timestamp_us(self, raw: object, received_us: int) -> int:
        if raw is None:
            raise _Refused(Reason.NO_TIMESTAMP, "timestamp is missing")
        try:
            moment = _datetime.validate_python(None if isinstance(raw, bool) else raw)
        except ValidationError as error:
            why = f"timestamp {_short(raw)}: {error.errors()[0]['msg']}"
            raise _Refused(Reason.BAD_TIMESTAMP, why) from None
        if moment.tzinfo is None:
            if not self._naive_is_utc:
                raise _Refused(Reason.NAIVE_TIMESTAMP, f"timestamp {_short(raw)} has no offset from UTC")
            moment = moment.replace(tzinfo=UTC)
        timestamp_us = to_microseconds(moment)
        if timestamp_us < EARLIEST_US:
            raise _Refused(Reason.IMPLAUSIBLE_TIMESTAMP, f"timestamp {_short(raw)} is before the year 2000")
        if timestamp_us > received_us + LATEST_AHEAD_US:
            raise _Refused(Reason.IMPLAUSIBLE_TIMESTAMP, f"timestamp {_short(raw)} is more than a day ahead")
        return timestamp_us


@lru_cache(maxsize=256)
def _validators(units: tuple[tuple[str, str], ...]) -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
    """For one object and for an array; the plausible ranges are those of CHANNELS, in `units`."""
    in_unit = dict(units)
    fields: dict[str, Any] = {
        "well_id": (Annotated[str, Field(pattern=WELL_ID_PATTERN)] | None, None),
        "timestamp": (datetime, ...),
    }
    for channel in CHANNELS:
        conversion = CHANNEL_CONVERSIONS[channel.name].get(in_unit.get(channel.name, ""))
        low, high = (conversion.invert(limit) if conversion else limit for limit in channel[2:4])
        number = Annotated[float, Field(strict=True, ge=low, le=high)]  # a range has neither NaN nor infinity
        fields[channel.name] = (number | None, None)
    model = create_model("ReadingIn", __config__=ConfigDict(extra="allow"), **fields)
    return TypeAdapter(model), TypeAdapter(list[model])


_datetime: Final = TypeAdapter(datetime)


def _take_channels(
    rest: dict[str, Any], units: Mapping[str, str]
) -> tuple[list[float | None], list[str], dict[str, object]]:
    """Move the channels out of `rest`: their values, the names of the bad ones, and what was no number."""
    values: list[float | None] = []
    bad: list[str] = []
    no_numbers: dict[str, object] = {}
    for channel in CHANNELS:
        raw = rest.pop(channel.name, None)
        value = _to_number(raw)
        if value is not None and (unit := units.get(channel.name)):
            value = CHANNEL_CONVERSIONS[channel.name][unit].apply(value)
        if value is None and raw is not None:
            no_numbers[channel.name] = raw
        if raw is not None and (value is None or not channel.low <= value <= channel.high):
            bad.append(channel.name)
        values.append(value)
    return values, bad, no_numbers


def _to_number(raw: object) -> float | None:
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return float(raw)  # finite: `_parse` made strings of what is not
    return None


def _agree_on_well_id(sent: object, from_topic: str | None) -> str:
    well_id = from_topic if sent is None else sent
    if not isinstance(well_id, str) or not _well_id.fullmatch(well_id):
        where = "topic" if sent is None else "payload"
        raise _Refused(Reason.BAD_WELL_ID, f"well_id of the {where} is {_short(well_id)}, not {WELL_ID_PATTERN}")
    if from_topic is not None and well_id != from_topic:
        raise _Refused(Reason.WELL_ID_MISMATCH, f"well_id is {_short(well_id)}, but the topic says {from_topic!r}")
    return well_id


def _parse(payload: bytes) -> Any:  # noqa: ANN401 - JSON is of any type
    """The document in `payload`; NaN, and numbers that no float can hold, become strings of what was written."""
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise _Refused(Reason.NOT_UTF8, f"byte {error.start} is no UTF-8") from None
    if not text.strip():
        raise _Refused(Reason.EMPTY, "no payload")
    try:
        return json.loads(text, parse_constant=str, parse_int=_parse_int, parse_float=_parse_float)
    except RecursionError:
        raise _Refused(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise _Refused(Reason.NOT_JSON, str(error)) from None


def _parse_int(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_INT else digits


def _parse_float(digits: str) -> float | str:
    return value if isfinite(value := float(digits)) else digits


def _to_json_text(extra: Mapping[str, object], levels_above: int) -> str:
    """JSON text that PostgreSQL's jsonb takes, of what stands `levels_above` levels below the message's top."""
    if any(isinstance(value, (dict, list)) for value in extra.values()) and levels_above + _depth(extra) > MAX_DEPTH:
        raise _Refused(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}")
    try:
        text = json.dumps(extra, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError:
        raise _Refused(Reason.UNSTORABLE_TEXT, "a text holds half a surrogate pair") from None
    except ValueError:  # a number that is not finite or has thousands of digits, from the fast road's parser
        raise _NotCommon from None
    if "\\u0000" in text and _escaped_nul.search(text):
        raise _Refused(Reason.UNSTORABLE_TEXT, "a text holds NUL, which PostgreSQL cannot hold")
    return text


def _depth(document: object) -> int:
    """Levels of objects and arrays; 0 for a scalar. Counts no further than one beyond what is allowed."""
    levels = 0
    here: Iterable[object] = (document,)
    while (containers := [each for each in here if isinstance(each, (dict, list))]) and levels <= MAX_DEPTH:
        levels += 1
        here = chain.from_iterable(each.values() if isinstance(each, dict) else each for each in containers)
    return levels


def _refuse_whole(reason: Reason, why: str, **detail: object) -> Decoded:
    return Decoded((), Rejection(reason, {reason: 1}, {"why": why, **detail}))


def _to_rejection(refusals: Sequence[tuple[int, _Refused]]) -> Rejection:
    elements = [{"index": index, "reason": each.reason, "why": str(each)} for index, each in refusals[:MAX_DETAILS]]
    counts = Counter(each.reason for _, each in refusals)
    return Rejection(refusals[0][1].reason, counts, {"refused": len(refusals), "elements": elements})


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004 - a line's worth
