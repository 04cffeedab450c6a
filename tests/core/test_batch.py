"""The batcher conserves what it is given, keeps its order, and closes a batch when waiting is pointless."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.batch import QUIET_US, WINDOW_DELIVERIES, Batch, Batcher, DeadLetter, Portion, Trigger
from esp_ingestd.core.command import CommandRecord
from esp_ingestd.core.decode import KEPT_BYTES, Reason, Rejection
from esp_ingestd.core.reading import Reading

TOPIC = "esp/WELL-001/telemetry"
T0 = 1_700_000_000_000_000
MAX_AGE_US = 100_000


EVENT = AlarmEvent(
    event_id="e",
    alarm_id="a",
    well_id="W",
    timestamp_us=T0,
    transition="raised",
    reason="",
    state="active",
    role="primary",
    group="protection",
    diagnosis="STALL",
    category="MOTOR_ISSUE",
    severity="high",
    confidence=1.0,
    raised_at_us=T0,
    message="",
    evidence={},
    path=(),
    actions=(),
    resolution_time="",
    recurring=False,
    count=1,
    tree_version="v",
    telemetry_snapshot={},
)

COMMAND = CommandRecord(
    command_id="c",
    received_us=T0,
    well_id="W",
    alarm_id="a",
    command="acknowledge",
    by="me",
    comment="",
    duration_s=0.0,
)


def reading(second: int, received_us: int = T0) -> Reading:
    return Reading("WELL-001", T0 + second * 1_000_000, flow_rate=float(second), received_us=received_us)


def rejection(reason: Reason = Reason.NOT_JSON, times: int = 1, **detail: object) -> Rejection:
    return Rejection(reason, {reason: times}, {"why": "because", **detail})


def batcher(max_rows: int = 100) -> Batcher:
    return Batcher(max_rows=max_rows, max_age_ms=MAX_AGE_US // 1_000)


def add_readings(to: Batcher, deliveries: int, at_us: int = T0) -> None:
    for number in range(deliveries):
        to.add_message(TOPIC, b"{}", [reading(number)], None, number + 1, at_us)


def test_nothing_is_due_while_nothing_came() -> None:
    idle = batcher()
    assert not idle.open
    assert idle.due(T0) is None


def test_a_full_batch_is_closed_by_its_rows() -> None:
    full = batcher(max_rows=3)
    full.add_message(TOPIC, b"[..]", [reading(1), reading(2)], None, 1, T0)
    assert full.due(T0) is None
    full.add_message(TOPIC, b"{}", [reading(3)], None, 2, T0)
    assert full.due(T0) is Trigger.ROWS


def test_refused_elements_are_rows_too() -> None:
    full = batcher(max_rows=3)
    full.add_message(TOPIC, b"[..]", [reading(1)], rejection(Reason.NO_CHANNEL, times=2), 1, T0)
    assert full.open.rows == 3
    assert full.due(T0) is Trigger.ROWS


def test_a_batch_is_closed_by_its_age_counted_from_its_first_delivery() -> None:
    ageing = batcher()
    ageing.add_message(TOPIC, b"{}", [reading(1)], None, 1, T0)
    ageing.add_message(TOPIC, b"{}", [reading(2)], None, 2, T0 + 50_000)
    assert ageing.due(T0 + MAX_AGE_US - 1) is None
    assert ageing.due(T0 + MAX_AGE_US) is Trigger.AGE


def test_a_clock_that_was_set_back_closes_the_batch() -> None:
    ageing = batcher()
    add_readings(ageing, 1)
    assert ageing.due(T0 - 3_600_000_000) is Trigger.AGE


def test_a_pause_with_a_window_full_of_deliveries_closes_the_batch() -> None:
    waiting = batcher()
    add_readings(waiting, WINDOW_DELIVERIES)
    assert waiting.due(T0 + QUIET_US - 1) is None
    assert waiting.due(T0 + QUIET_US) is Trigger.QUIET


def test_a_pause_with_less_than_a_window_is_no_reason() -> None:
    waiting = batcher()
    add_readings(waiting, WINDOW_DELIVERIES - 1)
    assert waiting.due(T0 + QUIET_US) is None


def test_taking_a_batch_opens_the_next_and_notes_why() -> None:
    taken_from = batcher()
    add_readings(taken_from, 1)
    batch = taken_from.take(Trigger.AGE)
    assert batch.trigger is Trigger.AGE
    assert batch.deliveries == [1]
    assert not taken_from.open
    add_readings(taken_from, 1, T0 + 7)
    assert taken_from.open.opened_us == T0 + 7


def test_an_empty_batch_is_false_and_a_delivery_without_rows_is_not() -> None:
    assert not Batch()
    assert Batch(deliveries=[0])


def test_the_same_refused_payload_is_one_letter_that_came_several_times() -> None:
    poisoned = batcher()
    for number, at_us in enumerate((T0, T0 + 5, T0 + 9), start=1):
        poisoned.add_message(TOPIC, b"poison", [], rejection(), number, at_us)
    poisoned.add_message("esp/WELL-002/telemetry", b"poison", [], rejection(), 4, T0 + 9)
    poisoned.add_message(TOPIC, b"other", [], rejection(), 5, T0 + 9)
    first, elsewhere, other = poisoned.open.dead_letters.values()
    assert (first.times, first.first_received_us, first.received_us) == (3, T0, T0 + 9)
    assert (elsewhere.times, other.times) == (1, 1)
    assert poisoned.open.rejected == {Reason.NOT_JSON: 5}
    assert poisoned.open.deliveries == [1, 2, 3, 4, 5]


def test_a_payload_that_is_too_large_is_kept_up_to_a_limit_and_told_apart_by_its_size() -> None:
    flooded = batcher()
    for number, size in enumerate((2_000_000, 2_000_000, 3_000_000), start=1):
        refused = rejection(Reason.TOO_LARGE, size_bytes=size)
        flooded.add_message(TOPIC, bytes(KEPT_BYTES + 500), [], refused, number, T0)
    letters = list(flooded.open.dead_letters.values())
    assert [len(letter.payload) for letter in letters] == [KEPT_BYTES, KEPT_BYTES]
    assert [letter.times for letter in letters] == [2, 1]


def test_a_fingerprint_is_the_same_in_every_version() -> None:
    """It is a key in the database: another way to make it would raise no `times` of older rows."""
    letter = DeadLetter("a/b", b"xyz", Reason.NOT_JSON, {}, T0, T0)
    assert letter.fingerprint == hashlib.sha256(b"a/b\x003\x00xyz").digest()


def test_a_store_that_takes_too_long_is_given_a_quarter_and_never_nothing() -> None:
    portion = Portion(whole_rows=5_000, timeout_s=10.0)
    assert portion.is_whole
    given = []
    for _ in range(8):
        portion.cut(min(portion.rows, 5_000))
        given.append(portion.rows)
    assert given == [1_250, 312, 78, 19, 4, 1, 1, 1]


def test_the_portion_grows_while_the_pace_of_the_store_allows_it() -> None:
    portion = Portion(whole_rows=5_000, timeout_s=10.0)
    portion.grow(5_000, 60.0)
    assert portion.rows > 5_000
    portion.cut(5_000)
    portion.grow(1_250, 1.3)  # four times as much would take 5.2 s of 10
    assert portion.rows == 1_250
    portion.cut(1_250)
    portion.grow(100, 0.2)  # 2.5 s
    assert portion.rows == 1_248
    portion.grow(100, 0.2)
    assert portion.rows == 1_248, "10 s"
    portion.grow(1, 0.11)
    assert portion.rows == 1_248
    portion.grow(1, 0.1)
    assert portion.rows == 1_248 * 4, "that was quick, though a row alone says nothing of the pace"
    portion.grow(1_000, 1.0)
    assert portion.rows == 1_248 * 4
    portion.grow(1_000, 0.2)
    assert portion.is_whole


def test_a_smaller_write_that_took_too_long_counts_more_than_a_larger_one() -> None:
    """The live road and that of the backlog share one portion."""
    portion = Portion(whole_rows=5_000, timeout_s=10.0)
    portion.cut(40)
    portion.cut(5_000)
    assert portion.rows == 2


# --------------------------------------------------------------------------------------------------- properties

messages = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=5),  # readings
        st.one_of(st.none(), st.tuples(st.sampled_from(Reason), st.integers(min_value=1, max_value=4))),
        st.binary(max_size=4),  # payload
        st.integers(min_value=0, max_value=60_000),  # microseconds since the message before
    ),
    max_size=60,
)


@given(messages, st.integers(min_value=1, max_value=20))
def test_batches_conserve_what_came_in_its_order(
    came: list[tuple[int, tuple[Reason, int] | None, bytes, int]], max_rows: int
) -> None:
    """I2 and I6: every reading, refusal and delivery is in exactly one batch, in order of arrival."""
    batches: list[Batch] = []
    at = Batcher(max_rows=max_rows, max_age_ms=MAX_AGE_US // 1_000)
    sent: list[Reading] = []
    now_us, refusals = T0, 0
    for delivery, (count, refused, payload, pause_us) in enumerate(came, start=1):
        now_us += pause_us
        readings = [reading(len(sent) + each, now_us) for each in range(count)]
        sent += readings
        refusal = rejection(*refused) if refused else None
        refusals += refused[1] if refused else 0
        at.add_message(TOPIC, payload, readings, refusal, delivery, now_us)
        if trigger := at.due(now_us):
            batches.append(at.take(trigger))
    batches.append(at.take(Trigger.DRAIN))

    assert [each for batch in batches for each in batch.readings] == sent
    assert [each for batch in batches for each in batch.deliveries] == list(range(1, len(came) + 1))
    assert sum(sum(batch.rejected.values()) for batch in batches) == refusals
    assert sum(batch.rows for batch in batches) == len(sent) + refusals
    messages_refused = sum(letter.times for batch in batches for letter in batch.dead_letters.values())
    assert messages_refused == sum(refused is not None for _, refused, _, _ in came)
    assert all(batch.rows < max_rows + 5 + 4 for batch in batches)


@given(
    st.lists(st.integers(min_value=0, max_value=3 * QUIET_US), min_size=1, max_size=2 * WINDOW_DELIVERIES),
    st.integers(min_value=0, max_value=MAX_AGE_US + 10),
)
@example([0] * WINDOW_DELIVERIES, 0)
def test_the_wait_ends_when_the_batch_falls_due_and_not_before(pauses_us: list[int], later_us: int) -> None:
    waiting = batcher(max_rows=1_000)
    now_us = T0
    for delivery, pause_us in enumerate(pauses_us, start=1):
        now_us += pause_us
        waiting.add_message(TOPIC, b"{}", [reading(delivery)], None, delivery, now_us)
    now_us += later_us
    if waiting.due(now_us) is None:
        left_us = waiting.wait_us(now_us)
        assert left_us > 0
        assert waiting.due(now_us + left_us - 1) is None
        assert waiting.due(now_us + left_us) is not None


@given(
    readings=st.integers(min_value=0, max_value=5),
    letters=st.integers(min_value=0, max_value=5),
    events=st.integers(min_value=0, max_value=5),
    commands=st.integers(min_value=0, max_value=5),
    rows=st.integers(min_value=1, max_value=25),
)
def test_a_batch_that_is_split_conserves_what_is_to_be_durable_and_its_order(
    readings: int, letters: int, events: int, commands: int, rows: int
) -> None:
    whole = Batch(
        readings=tuple(reading(number) for number in range(readings)),
        dead_letters={bytes([n]): DeadLetter("t", bytes([n]), Reason.NOT_JSON, {}, T0, T0) for n in range(letters)},
        events=[replace(EVENT, event_id=f"e{n}") for n in range(events)],
        commands=[replace(COMMAND, command_id=f"c{n}") for n in range(commands)],
        published={"e0": T0},
        opened_us=T0,
    )
    first, rest = whole.split(rows)
    assert first.kept_rows == min(rows, whole.kept_rows)
    assert [*first.readings, *rest.readings] == list(whole.readings)
    assert {**first.dead_letters, **rest.dead_letters} == whole.dead_letters
    assert first.kept_rows + rest.kept_rows == whole.kept_rows
    assert first.events + rest.events == whole.events
    assert first.commands + rest.commands == whole.commands
    assert not (first.events and rest.readings), "no event before the reading that caused it"
    for part in (first, rest):
        assert (part.published, part.opened_us) == (whole.published, T0)
