from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esp_ingestd.core.decode import KEPT_BYTES, MAX_DETAILS, MAX_TOPICS, Decoded, Decoder, Reason
from esp_ingestd.core.reading import CHANNEL_NAMES, CHANNELS, Channel, Reading

NOW_US = 1_795_000_000_000_000  # 2026-11-18
DAY_US = 86_400_000_000
TOPIC = "esp/WELL-1/telemetry"
STAMP = "2026-11-18T01:02:03.250Z"
STAMP_US = 1_794_963_723_250_000
decoder = Decoder(["esp/{well_id}/telemetry", "any/+"])


def payload(**fields: object) -> bytes:
    return json.dumps({"timestamp": STAMP, "pip": 850.25, **fields}).encode()


def decode(data: bytes, topic: str = TOPIC) -> Decoded:
    return decoder.decode(topic, data, NOW_US)


def carefully(data: bytes, topic: str = TOPIC, by: Decoder = decoder) -> Decoded:
    return by._decode_carefully(by._find_source(topic), data, NOW_US)


def one(data: bytes, topic: str = TOPIC) -> Reading:
    decoded = decode(data, topic)
    assert decoded.rejection is None, decoded.rejection
    (reading,) = decoded.readings
    assert carefully(data, topic).readings == [reading]
    return reading


def reason(data: bytes, topic: str = TOPIC) -> Reason:
    decoded = decode(data, topic)
    assert not decoded.readings
    assert decoded.rejection is not None
    assert sum(decoded.rejection.counts.values()) == 1
    return decoded.rejection.reason


def test_a_reading() -> None:
    reading = one(payload(motor_current=45, well_id="WELL-1"))
    assert reading == Reading("WELL-1", STAMP_US, pip=850.25, motor_current=45.0, received_us=NOW_US)
    assert isinstance(reading.motor_current, float)


def test_every_channel_stands_in_its_own_column() -> None:
    sent = {channel.name: channel.low + k + 1.0 for k, channel in enumerate(CHANNELS)}
    reading = one(payload(**sent))
    assert {name: getattr(reading, name) for name in CHANNEL_NAMES} == sent


def test_null_channels_are_absent_and_one_number_is_enough() -> None:
    assert one(payload(motor_temp=None)).bad_channels is None


def test_a_topic_without_a_well_leaves_it_to_the_payload() -> None:
    assert one(payload(well_id="A_b-9"), "any/x").well_id == "A_b-9"
    assert one(payload(well_id=None)).well_id == "WELL-1"


@pytest.mark.parametrize(
    ("stamp", "expected_us"),
    [
        ("2026-11-18T01:02:03Z", 1_794_963_723_000_000),
        ("2026-11-18t01:02:03z", 1_794_963_723_000_000),
        ("2026-11-18 01:02:03+00:00", 1_794_963_723_000_000),
        ("2026-11-18T03:32:03+02:30", 1_794_963_723_000_000),
        ("2026-11-18T01:02:03.1234567899Z", 1_794_963_723_123_456),
        ("20261118T010203Z", 1_794_963_723_000_000),
        ("2026-11-17T23:59:60Z", 1_794_960_000_000_000),
        ("2026-11-17T24:00:00Z", 1_794_960_000_000_000),
        (1_794_963_723, 1_794_963_723_000_000),
        (1_794_963_723.25, 1_794_963_723_250_000),
        (1_794_963_723.123456, 1_794_963_723_123_456),
        (1_794_963_723_250, 1_794_963_723_250_000),
        (1_794_963_723_250.5, 1_794_963_723_250_500),
        ("1794963723250", 1_794_963_723_250_000),
        (946_684_800, 946_684_800_000_000),
        ((NOW_US + DAY_US) / 1e6, NOW_US + DAY_US),
    ],
)
def test_timestamps(stamp: object, expected_us: int) -> None:
    assert one(payload(timestamp=stamp)).timestamp_us == expected_us


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (None, Reason.NO_TIMESTAMP),
        (True, Reason.BAD_TIMESTAMP),
        ("", Reason.BAD_TIMESTAMP),
        ("yesterday", Reason.BAD_TIMESTAMP),
        ("2026-13-01T00:00:00Z", Reason.BAD_TIMESTAMP),
        ({"a": 1}, Reason.BAD_TIMESTAMP),
        ([1], Reason.BAD_TIMESTAMP),
        ("2026-11-18T01:02:03", Reason.NAIVE_TIMESTAMP),
        ("2026-11-18", Reason.NAIVE_TIMESTAMP),
        ("1999-12-31T23:59:59Z", Reason.IMPLAUSIBLE_TIMESTAMP),
        (0, Reason.IMPLAUSIBLE_TIMESTAMP),
        (-5, Reason.IMPLAUSIBLE_TIMESTAMP),
        (10**18, Reason.IMPLAUSIBLE_TIMESTAMP),
        ((NOW_US + DAY_US) // 1_000_000 + 1, Reason.IMPLAUSIBLE_TIMESTAMP),
    ],
)
def test_timestamps_refused(stamp: object, expected: Reason) -> None:
    assert reason(payload(timestamp=stamp)) == expected


def test_a_timestamp_that_is_no_number_of_json_is_bad() -> None:
    assert reason(b'{"timestamp":NaN,"pip":1}') == Reason.BAD_TIMESTAMP
    assert reason(b'{"timestamp":1e999,"pip":1}') == Reason.BAD_TIMESTAMP


def test_naive_timestamps_can_be_taken_for_utc() -> None:
    lenient = Decoder(["esp/{well_id}/telemetry"], naive_timestamps="utc")
    (reading,) = lenient.decode(TOPIC, payload(timestamp="2026-11-18T01:02:03.25"), NOW_US).readings
    assert reading.timestamp_us == STAMP_US


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'"12"', "12"),
        (b"true", True),
        (b"NaN", "NaN"),
        (b"-Infinity", "-Infinity"),
        (b"1e999", "Infinity"),
        (b'{"a":[1]}', {"a": [1]}),
        (b"[]", []),
        (b'""', ""),
    ],
)
def test_a_channel_that_is_no_finite_number_costs_only_itself(sent: bytes, kept: object) -> None:
    reading = one(b'{"timestamp":"%b","pip":7,"torque":%b}' % (STAMP.encode(), sent))
    assert (reading.pip, reading.torque, reading.bad_channels) == (7.0, None, ("torque",))
    assert reading.extra is not None
    assert json.loads(reading.extra) == {"torque": kept}


def test_an_integer_beyond_every_float_is_no_number() -> None:
    reading = one(b'{"timestamp":"%b","pip":7,"torque":1%b}' % (STAMP.encode(), b"0" * 400))
    assert (reading.torque, reading.bad_channels) == (None, ("torque",))


@pytest.mark.parametrize("digits", [400, 4_000, 5_000, 50_000])
def test_integers_of_any_length_are_kept(digits: int) -> None:
    number = b"9" * digits
    reading = one(b'{"timestamp":"%b","pip":7,"x":%b,"torque":%b}' % (STAMP.encode(), number, number))
    assert reading.bad_channels == ("torque",)
    assert reading.extra is not None
    assert reading.extra.encode().count(b"9") == 2 * digits


@pytest.mark.parametrize("channel", CHANNELS, ids=CHANNEL_NAMES)
def test_out_of_range_is_stored_as_sent_and_named(channel: Channel) -> None:
    for value, bad in ((channel.low, None), (channel.high, None), (channel.low - 0.5, 1), (channel.high + 0.5, 1)):
        reading = one(payload(**{"gor": 3.0, channel.name: value}))
        assert getattr(reading, channel.name) == value
        assert reading.bad_channels == ((channel.name,) if bad else None)
        assert reading.extra is None


def test_a_reading_of_bad_numbers_alone_is_stored() -> None:
    assert one(payload(pip=-5.0)).bad_channels == ("pip",)


def test_no_channel_left() -> None:
    for sent in ({"pip": None}, {"pip": "x"}, {"pip": None, "other": 5}):
        assert reason(payload(**sent)) == Reason.NO_CHANNEL


def test_other_keys_are_kept() -> None:
    odd = {
        "extra": 1,
        "bad_channels": [2],
        "received_at": "x",
        "model_config": {},
        "__class__": 3,
        "é": "ü😀",
        "n": None,
    }
    reading = one(payload(**odd))
    assert reading.extra is not None
    assert json.loads(reading.extra) == odd
    assert reading.bad_channels is None


def test_of_duplicate_keys_the_last_counts() -> None:
    text = b'{"pip":1,"timestamp":0,"timestamp":"%b","pip":2,"x":1,"x":2}' % STAMP.encode()
    reading = one(text)
    assert (reading.pip, reading.extra) == (2.0, '{"x":2}')


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xff\xfe", Reason.NOT_UTF8),
        (b'{"timestamp":"\xc3\x28"}', Reason.NOT_UTF8),
        (b"nothing", Reason.NOT_JSON),
        (b'{"pip":1', Reason.NOT_JSON),
        (b"\xef\xbb\xbf{}", Reason.NOT_JSON),
        (b"", Reason.EMPTY),
        (b"  \n", Reason.EMPTY),
        (b"[]", Reason.EMPTY),
        (b" [ ] ", Reason.EMPTY),
        (b"[ ]", Reason.EMPTY),
        (b"5", Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        (b'"text"', Reason.NOT_AN_OBJECT),
        (b"{}", Reason.NO_TIMESTAMP),
        (b"[" * 100_000, Reason.TOO_DEEP),
        (b"[" * 100_000 + b"]" * 100_000, Reason.TOO_DEEP),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, Reason.TOO_DEEP),
        (b"[" * 100_000 + b"}" * 100_000, Reason.TOO_DEEP),
        (payload(well_id=""), Reason.BAD_WELL_ID),
        (payload(well_id="a b"), Reason.BAD_WELL_ID),
        (payload(well_id="A\n"), Reason.BAD_WELL_ID),
        (payload(well_id="A" * 65), Reason.BAD_WELL_ID),
        (payload(well_id=7), Reason.BAD_WELL_ID),
        (payload(well_id="WELL-2"), Reason.WELL_ID_MISMATCH),
        (payload(note="a\0b"), Reason.UNSTORABLE_TEXT),
        (payload(**{"a\0b": 1}), Reason.UNSTORABLE_TEXT),
        (payload(torque="\0"), Reason.UNSTORABLE_TEXT),
        (payload(note="\ud800"), Reason.UNSTORABLE_TEXT),
    ],
)
def test_refused(data: bytes, expected: Reason) -> None:
    assert reason(data) == expected


def test_no_well_anywhere() -> None:
    assert reason(payload(), "any/x") == Reason.BAD_WELL_ID
    assert reason(payload(), "elsewhere") == Reason.BAD_WELL_ID
    assert reason(payload(), "esp/a b/telemetry") == Reason.BAD_WELL_ID


def test_a_backslash_before_u0000_is_text() -> None:
    assert one(payload(note="\\u0000")).extra == json.dumps({"note": "\\u0000"}, separators=(",", ":"))


def nested(levels: int) -> object:
    return [] if levels == 1 else [nested(levels - 1)]


def test_nesting_is_counted_from_the_top_of_the_message() -> None:
    assert one(payload(x=nested(31))).extra
    assert reason(payload(x=nested(32))) == Reason.TOO_DEEP
    assert reason(payload(x=nested(500))) == Reason.TOO_DEEP
    assert decode(b"[" + payload(x=nested(30)) + b"]").rejection is None
    assert reason(b"[" + payload(x=nested(31)) + b"]") == Reason.TOO_DEEP
    assert one(payload(x="[" * 50)).extra  # brackets in text nest nothing


@pytest.mark.parametrize("levels", [33, 150, 500, 50_000])
def test_an_element_of_any_depth_costs_only_itself(levels: int) -> None:
    deep = b'{"timestamp":0,"x":' + b'[{"]":' * levels + b'"[[\\""' + b"}]" * levels + b"}"
    good = payload(note='[{"\\')
    decoded = decode(b"[" + b",".join([good, deep, good, deep]) + b"]")
    assert [reading.extra for reading in decoded.readings] == [r'{"note":"[{\"\\"}'] * 2
    assert decoded.rejection is not None
    assert decoded.rejection.counts == {Reason.TOO_DEEP: 2}


def test_too_large_names_the_size_that_was_sent() -> None:
    small = Decoder(["esp/{well_id}/telemetry"], max_payload_bytes=256)
    rejection = small.decode(TOPIC, b"x" * 257, NOW_US).rejection
    assert rejection is not None
    assert (rejection.reason, rejection.detail["size_bytes"]) == (Reason.TOO_LARGE, 257)
    cut = decoder.decode(TOPIC, b"x" * KEPT_BYTES, NOW_US, 10_000_000).rejection
    assert cut is not None
    assert (cut.reason, cut.detail["size_bytes"]) == (Reason.TOO_LARGE, 10_000_000)


def test_one_bad_element_of_an_array_costs_only_itself() -> None:
    good = payload()
    for bad in (b"5", b"{}", payload(well_id="x y"), payload(x=nested(40)), payload(note="\0"), payload(pip="x")):
        decoded = decode(b"[" + b",".join([good, bad, good]) + b"]")
        assert [reading.pip for reading in decoded.readings] == [850.25, 850.25]
        assert decoded.rejection is not None
        elements = decoded.rejection.detail["elements"]
        assert isinstance(elements, list)
        assert [each["index"] for each in elements] == [1]
        assert decoded.rejection.counts == {decoded.rejection.reason: 1}


def test_an_array_of_elements_refused_has_the_first_reason_and_a_bounded_detail() -> None:
    rejection = decode(b"[{}," + b"5," * 1_000 + b"5]").rejection
    assert rejection is not None
    assert rejection.reason == Reason.NO_TIMESTAMP
    assert rejection.counts == {Reason.NO_TIMESTAMP: 1, Reason.NOT_AN_OBJECT: 1_001}
    assert len(rejection.detail["elements"]) == MAX_DETAILS  # type: ignore[arg-type]
    assert rejection.detail["refused"] == 1_002


@pytest.mark.parametrize("topic", [TOPIC, "any/where"])
@pytest.mark.parametrize("deep", [b"", b"[" * 40 + b"]" * 40])
def test_of_bad_elements_beyond_count_each_is_refused_for_what_it_is(topic: str, deep: bytes) -> None:
    """Beyond MAX_DETAILS the hopeless are counted at sight: an array of nothing else must not cost seconds."""
    good = b'{"timestamp":1795000000,"pip":1,"well_id":"WELL-1"}'
    each = [b"1", b"null", b"[]", b'"x"', b"{}", b'{"pip":1}', b'{"well_id":"a b"}', b'{"timestamp":1}', good, deep]
    every = [element for element in each if element]
    once = decoder.decode(topic, b"[" + b",".join(every) + b"]", NOW_US)
    often = decoder.decode(topic, b"[" + b",".join(every * 50) + b"]", NOW_US)
    assert once.rejection
    assert often.rejection
    assert often.rejection.reason == once.rejection.reason == Reason.NOT_AN_OBJECT
    assert often.rejection.counts == {reason: 50 * count for reason, count in once.rejection.counts.items()}
    assert sum(once.rejection.counts.values()) == len(every) - 1
    assert (len(once.readings), len(often.readings)) == (1, 50)


def test_units_are_converted_before_ranges_are_judged() -> None:
    metric = Decoder(
        ["esp/{well_id}/telemetry", "any/+"],
        units_of=lambda well: {"pip": "kPa", "motor_temp": "degF"} if well == "WELL-1" else {},
    )
    for topic in (TOPIC, "any/x"):
        sent = payload(well_id="WELL-1", pip=6894.757293168, motor_temp=212, torque=5)
        (reading,) = metric.decode(topic, sent, NOW_US).readings
        assert reading.pip == pytest.approx(1000)
        assert reading.motor_temp == pytest.approx(100)
        assert (reading.torque, reading.bad_channels) == (5.0, None)
        (hot,) = metric.decode(topic, payload(well_id="WELL-1", motor_temp=500.0), NOW_US).readings
        assert hot.motor_temp == pytest.approx(260)
        assert hot.bad_channels == ("motor_temp",)
    (other,) = metric.decode("any/x", payload(well_id="WELL-2", pip=5.0), NOW_US).readings
    assert other.pip == 5.0


def test_units_are_asked_for_anew_after_a_reload() -> None:
    units: dict[str, str] = {}
    each = Decoder(["esp/{well_id}/telemetry"], units_of=lambda _well: units)
    assert each.decode(TOPIC, payload(pip=1.0), NOW_US).readings[0].pip == 1.0
    units = {"pip": "bar"}
    each.forget_sources()
    assert each.decode(TOPIC, payload(pip=1.0), NOW_US).readings[0].pip == pytest.approx(14.5037738)


def test_a_conversion_that_overflows_is_no_number() -> None:
    each = Decoder(["esp/{well_id}/telemetry"], units_of=lambda _well: {"pip": "MPa"})
    (reading,) = each.decode(TOPIC, payload(pip=1e308, torque=1.0), NOW_US).readings
    assert (reading.pip, reading.bad_channels) == (None, ("pip",))


def test_topics_of_strangers_do_not_fill_the_memory() -> None:
    each = Decoder(["esp/{well_id}/telemetry"])
    for number in range(MAX_TOPICS + 10):
        each.decode(f"stranger/{number}", b"", NOW_US)
    assert len(each._sources) <= MAX_TOPICS
    each.decode(f"esp/{'x' * 300}/telemetry", payload(), NOW_US)
    assert len(each._sources) == 10, "as long as that, none is remembered"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
fields = st.dictionaries(
    st.sampled_from(["well_id", "timestamp", *CHANNEL_NAMES]) | st.text(max_size=5), json_values, max_size=8
)
likely = st.fixed_dictionaries(
    {"timestamp": st.sampled_from([STAMP, 1_794_963_723, 1_794_963_723.123456, "2026-11-18T01:02:03.9999999+05:00"])},
    optional={
        "well_id": st.sampled_from(["WELL-1", "WELL-2", None]),
        **{name: st.floats(-1e6, 1e6) | st.none() | st.integers(-10, 500) for name in CHANNEL_NAMES},
        "note": st.text(max_size=5),
        "torque": st.floats() | st.text(max_size=3),
    },
)


def check(data: bytes, elements: int) -> None:
    fast, careful = decode(data), carefully(data)
    assert fast == careful
    refused = sum(fast.rejection.counts.values()) if fast.rejection else 0
    assert len(fast.readings) + refused == elements
    for reading in fast.readings:
        assert reading.extra is None or json.loads(reading.extra)
        json.dumps(reading, allow_nan=False)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_it_returns(data: bytes) -> None:
    decoded = decode(data)
    assert len(decoded.readings) + sum(decoded.rejection.counts.values() if decoded.rejection else ()) >= 1


@given(json_values)
def test_whatever_the_json_it_returns(value: object) -> None:
    decode(json.dumps(value).encode("utf-8", "surrogatepass"))


@given(likely | fields)
def test_both_roads_give_the_same_for_an_object(element: dict[str, object]) -> None:
    check(json.dumps(element).encode(), 1)


@given(st.lists(likely | fields | json_values, min_size=1, max_size=5))
def test_both_roads_give_the_same_for_an_array_and_nothing_vanishes(elements: list[object]) -> None:
    check(json.dumps(elements).encode(), len(elements))


@given(st.data())
def test_a_good_payload_with_a_byte_changed_is_still_taken_or_refused(data: st.DataObject) -> None:
    good = bytearray(b"[" + payload(note="ü") + b"," + payload() + b"]")
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    decoded = decode(bytes(good))
    assert decoded == carefully(bytes(good))
    assert decoded.readings or decoded.rejection


numbers = st.sampled_from(
    ["0", "-0", "-0.0", "1E5", "1e-400", "1e400", "NaN", "-Infinity", "50000.0000001", "9007199254740993", "01", "+1"]
)
keys = st.sampled_from(["pip", "\\u0070ip", "torque", "x", "extra", "model_extra", "__dict__", "timestamp_us", ""])


@given(st.lists(st.tuples(keys, numbers | st.sampled_from(['"\\ud800"', '"a"', "[-0]", "null", '{"a":1,"a":2}']))))
def test_both_roads_read_the_same_json(pairs: list[tuple[str, str]]) -> None:
    members = "".join(f',"{key}": {value}' for key, value in pairs)
    data = f'{{"timestamp":"{STAMP}","gor":1{members}}}'.encode()
    assert repr(decode(data)) == repr(carefully(data))  # 0.0 == -0.0, but not their texts


_cell = st.one_of(
    st.floats(), st.floats(0, 100), st.sampled_from(["", "nan", "on", STAMP, "W-1", "no well", "1763427723"])
)
_row = st.fixed_dictionaries(
    {"timestamp": st.one_of(st.just(STAMP), _cell)},
    optional={"well_id": st.one_of(st.just("W-1"), _cell), **dict.fromkeys((*CHANNEL_NAMES, "note"), _cell)},
)


@given(_row)
def test_a_row_of_a_table_is_judged_as_the_json_that_it_stands_for(row: dict[str, str | float]) -> None:
    told = decoder.decode_fields(row, NOW_US)
    assert told == decoder.decode("", json.dumps(row).encode(), NOW_US)


def test_a_plain_row_of_a_table_is_a_reading() -> None:
    told = decoder.decode_fields({"well_id": "W-1", "timestamp": STAMP, "pip": 850.0, "motor_temp": 90.0}, NOW_US)
    assert told.readings == [Reading("W-1", STAMP_US, pip=850.0, motor_temp=90.0, received_us=NOW_US)]
