"""A batch made durable: its rows, and what goes with them.

Rules:
    1. A batch goes in by COPY, with its dead letters and alarm events, in one transaction.
    2. A batch that meets a key that is there already goes, alone, down a slower road: COPY into a temporary table,
       then INSERT ... ON CONFLICT DO NOTHING. The first delivery of a (well_id, timestamp) counts.
    3. A batch in which the database refuses a row for good is divided until the row stands alone; it becomes a dead
       letter, its neighbours are stored (I5).
    4. Readings of days that are compressed go first, alone, some at a time, each time in a transaction of its own: the
       database looks each of them up in blocks of a thousand, and what takes longer than a batch may would never end.
       Twice equals once, so a batch that is cut in between is simply written again.
    5. What the database cannot do now raises Unavailable: the same call may succeed later. `REFUSES_ROWS` is the
       whole of what counts as refused for good; everything else is kept and tried again.
    6. An internal error (XX000) says either: some extensions refuse a row so, and a server says so of what passes by
       itself. It is a verdict on a row that met it DOUBTS times in a row, each time alone among others that went in.
    7. Dead letters and alarm events that a rule of the site's own refuses are left out, and told: readings go in.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import starmap
from operator import itemgetter
from typing import Any, Final, NamedTuple

import asyncpg

from esp_ingestd.config import DatabaseSettings
from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.batch import Batch, DeadLetter, Written
from esp_ingestd.core.command import CommandRecord
from esp_ingestd.core.decode import Reason
from esp_ingestd.core.reading import CHANNEL_NAMES, DAY_US, Reading, to_datetime
from esp_ingestd.database.connection import EPOCH_US, Connected, Session
from esp_ingestd.database.schema import Edition
from esp_ingestd.database.verdict import UNAVAILABLE_KINDS, describe, is_doubtful, refuses_rows
from esp_ingestd.errors import Unavailable
from esp_ingestd.rollup import Mark, marks_of, stale_with
from esp_ingestd.rows import HEAD, TAIL, CopyRows

LATE_US: Final = DAY_US  # what is younger nobody compresses
LATE_ROWS: Final = 500  # into compressed days at once: a millisecond each where they lie among others
DOUBTS: Final = 5
COLUMNS: Final = ("well_id", "timestamp", *CHANNEL_NAMES, "extra", "bad_channels", "received_at")


class LoadMark(NamedTuple):
    """How far a file is loaded, and which file it is: a changed one has another size or time of change."""

    file: str
    size_bytes: int
    modified_ns: int
    offset: int
    line: int


@dataclass(slots=True)
class _Outcome:
    stored: int = 0
    refused: list[tuple[Reading, str]] = field(default_factory=list)
    doubted: list[tuple[Reading, str]] = field(default_factory=list)
    """Those that met an internal error alone."""


class Writing(Connected):
    """A connection that batches are written by."""

    def __init__(self, settings: DatabaseSettings, *, name: str = "esp-ingestd", read_only: bool = False) -> None:
        super().__init__(settings, name=name, read_only=read_only)
        self._doubts: dict[tuple[str, int], int] = {}  # (well_id, timestamp) -> internal errors in a row

    async def write(
        self,
        batch: Batch,
        *,
        mark: LoadMark | None = None,
        letter_of: Callable[[Reading, str], DeadLetter | None] | None = None,
    ) -> Written:
        """Make a batch durable: readings, dead letters and alarm events in one transaction.

        Args:
            batch: what is to be durable.
            mark: how far its file is loaded with it, committed in the same transaction.
            letter_of: the dead letter of a reading that the database refuses, and why it did; None keeps none.
                By default it is the payload that the reading would have been.

        Raises:
            Unavailable: it cannot be written now; nothing of it was, or it will be found as duplicates.

        Cancel: the connection is dropped; the batch may or may not have been committed.
        """
        readings, late = await self._set_apart_compressed(batch.readings)
        outcome = _Outcome()
        for start in range(0, len(late), LATE_ROWS):
            await self._write_late(late[start : start + LATE_ROWS], outcome)
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            if not outcome.refused and not outcome.doubted:
                try:
                    async with connection.transaction():
                        await _copy_readings(connection, "esp_telemetry", readings)
                        unkept = await _write_rest(connection, batch.dead_letters.values(), batch, mark)
                    return Written(outcome.stored + len(readings), len(late) - outcome.stored, unkept=unkept)
                except (asyncpg.PostgresError, ValueError, TypeError) as error:
                    if not refuses_rows(error) and not is_doubtful(error):
                        raise
            async with connection.transaction():
                await connection.execute(_CREATE_INCOMING)
                await _write_dividing(connection, readings, outcome)
                self._judge_doubted(outcome, len(batch.readings))
                refused = starmap(letter_of or to_dead_letter, outcome.refused)
                letters = [*batch.dead_letters.values(), *filter(None, refused)]
                unkept = await _write_rest(connection, letters, batch, mark)
            duplicates = len(batch.readings) - outcome.stored - len(outcome.refused)
            return Written(outcome.stored, duplicates, outcome.refused, unkept)

    def _judge_doubted(self, outcome: _Outcome, rows: int) -> None:
        """Refuse what met internal errors often enough while its neighbours went in.

        Raises:
            Unavailable: not yet.
        """
        if not outcome.doubted:
            return
        met = {reading[:2]: self._doubts.get(reading[:2], 0) + 1 for reading, _ in outcome.doubted}
        if rows == len(outcome.doubted) + len(outcome.refused) or min(met.values()) < DOUBTS:
            self._doubts = met
            why = f"database {self.address}: {outcome.doubted[0][1]}; row {outcome.doubted[0][0][:2]}"
            raise Unavailable(why, kind=UNAVAILABLE_KINDS["XX"])
        self._doubts = {}
        outcome.refused += outcome.doubted

    async def _set_apart_compressed(self, readings: Sequence[Reading]) -> tuple[Sequence[Reading], Sequence[Reading]]:
        """What belongs to no compressed day, and what does, a well's together."""
        if not readings or _earliest_us(readings) >= _arrived_us(readings) - LATE_US:
            return readings, ()
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection:
            if self.edition is not Edition.COMMUNITY:
                return readings, ()
            until_us = await connection.fetchval(_COMPRESSED_UNTIL) or EPOCH_US
        if _earliest_us(readings) >= until_us:
            return readings, ()
        readings = list(readings)
        late = sorted((reading for reading in readings if reading[1] < until_us), key=lambda reading: reading[:2])
        return [reading for reading in readings if reading[1] >= until_us], late

    async def _write_late(self, readings: Sequence[Reading], outcome: _Outcome) -> None:
        async with self._using(timeout_s=self._settings.write_timeout_s) as connection, connection.transaction():
            await connection.execute(_CREATE_INCOMING)
            await _write_dividing(connection, readings, outcome, insert=_INSERT_ABSENT)
            await connection.executemany(_INSERT_MARK, marks_of(stale_with(readings), ()))


def _earliest_us(readings: Sequence[Reading]) -> int:
    return readings.earliest_us if isinstance(readings, CopyRows) else min(map(itemgetter(1), readings))


def _arrived_us(readings: Sequence[Reading]) -> int:
    return readings.arrived_us if isinstance(readings, CopyRows) else readings[-1].received_us


async def _copy_readings(connection: Session, table: str, readings: Sequence[Reading]) -> None:
    if isinstance(readings, CopyRows):
        stream: Any = memoryview(b"".join((HEAD, readings.data, TAIL)))  # as bytes it would be a file's name
        await connection.copy_to_table(table, source=stream, columns=COLUMNS, format="binary")
    elif readings:
        await connection.copy_records_to_table(table, records=readings, columns=COLUMNS)


async def _write_dividing(
    connection: Session, readings: Sequence[Reading], outcome: _Outcome, insert: str = ""
) -> None:
    """Store what can be stored; halve what is refused until the offending rows stand alone."""
    if not readings:
        return
    try:
        async with connection.transaction():  # a savepoint
            await connection.execute("TRUNCATE esp_incoming")
            await _copy_readings(connection, "esp_incoming", readings)
            tag = await connection.execute(insert or _INSERT_INCOMING)
    except (asyncpg.PostgresError, ValueError, TypeError) as error:
        doubtful = is_doubtful(error)
        if not doubtful and not refuses_rows(error):
            raise
        if len(readings) == 1:
            (outcome.doubted if doubtful else outcome.refused).append((readings[0], describe(error)))
            return
        middle = len(readings) // 2
        await _write_dividing(connection, readings[:middle], outcome, insert)
        await _write_dividing(connection, readings[middle:], outcome, insert)
    else:
        outcome.stored += int(tag.rpartition(" ")[2])


async def _write_rest(
    connection: Session, letters: Collection[DeadLetter], batch: Batch, mark: LoadMark | None
) -> list[str]:
    """What goes with the readings; what of it the site's own rules refuse, and why."""
    if mark:
        await connection.execute(_UPSERT_LOAD_MARK, *mark)
    letter_rows = [_dead_letter_row(letter) for letter in letters]
    new = await _new_events(connection, batch.events)
    event_rows = [(*_event_row(event), batch.published.get(event.event_id)) for event in new]
    alarm_rows = [_alarm_row(event) for event in batch.events]
    command_rows = [_command_row(each) for each in batch.commands]
    unkept = [
        *[f"dead letter: {why}" for why in await _write_each(connection, _UPSERT_DEAD_LETTER, letter_rows)],
        *[f"alarm event: {why}" for why in await _write_each(connection, _INSERT_EVENT, event_rows)],
        *[f"alarm state: {why}" for why in await _write_each(connection, _UPSERT_ALARM, alarm_rows)],
        *[f"command: {why}" for why in await _write_each(connection, _INSERT_COMMAND, command_rows)],
    ]
    readings = batch.readings
    stale = readings.stale if isinstance(readings, CopyRows) else stale_with(readings)
    if marks := list(marks_of(stale, batch.events)):
        await connection.executemany(_INSERT_MARK, marks)
    return unkept


async def _write_each(connection: Session, statement: str, rows: Sequence[tuple[object, ...]]) -> list[str]:
    """Run a statement for all rows, or, where one is refused, for each that is not; why they are."""
    refused = []
    try:
        if rows:
            async with connection.transaction():  # a savepoint
                await connection.executemany(statement, rows)
    except asyncpg.PostgresError as error:
        if not refuses_rows(error):
            raise
        for row in rows:
            try:
                async with connection.transaction():
                    await connection.execute(statement, *row)
            except asyncpg.PostgresError as of_row:
                if not refuses_rows(of_row):
                    raise
                refused.append(describe(of_row))
    return refused


async def _new_events(connection: Session, events: Sequence[AlarmEvent]) -> Sequence[AlarmEvent]:
    """The transitions that are not stored yet; a command that is delivered again has its event at another time."""
    told = {event.event_id: event for event in reversed(events) if event.transition}
    if not told:
        return ()
    since_us = min(event.raised_at_us for event in told.values())
    wells = list({event.well_id for event in told.values()})  # an alarm may stand since days that are compressed
    stored = {row[0] for row in await connection.fetch(_STORED_EVENTS, list(told), since_us, wells)}
    return [event for event_id, event in reversed(told.items()) if event_id not in stored]


async def copy_lines(
    session: Session, table: str, incoming: str, columns: Sequence[str], lines: bytes, marks: Sequence[Mark]
) -> int:
    """COPY lines of CSV into a table; where it has one of the keys, around what is there. One transaction.

    Args:
        session: of `Database.session`.
        table: where they go.
        incoming: a temporary table of the same columns, empty at the start of each transaction.
        columns: what each line has, in this order.
        lines: all of them.
        marks: the hours to be rolled up again with them.

    Returns:
        How many rows were not there.
    """
    names = ", ".join(f'"{column}"' for column in columns)
    try:
        async with session.transaction():
            tag = await session.copy_to_table(table, source=BytesIO(lines), columns=columns, format="csv")
            await session.executemany(_INSERT_MARK, marks)
    except asyncpg.UniqueViolationError:
        async with session.transaction():
            await session.copy_to_table(incoming, source=BytesIO(lines), columns=columns, format="csv")
            tag = await session.execute(
                f"INSERT INTO {table} ({names}) SELECT {names} FROM {incoming} ON CONFLICT DO NOTHING"  # noqa: S608 - our own names
            )
            await session.executemany(_INSERT_MARK, marks)
    return int(tag.rpartition(" ")[2])


def to_dead_letter(reading: Reading, why: str) -> DeadLetter:
    """A reading that the database refuses, as the payload it would have been; the delivery itself is not kept."""
    payload = json.dumps(dict(rebuild_payload(reading)), ensure_ascii=False).encode()
    detail = {"why": why, "payload": "rebuilt from the reading"}
    return DeadLetter("", payload, Reason.REFUSED_BY_DATABASE, detail, reading.received_us, reading.received_us)


def rebuild_payload(reading: Reading) -> Iterator[tuple[str, object]]:
    """The payload of CONTRACT §3 that decodes to this reading, key by key."""
    yield "well_id", reading.well_id
    yield "timestamp", to_datetime(reading.timestamp_us).isoformat()
    for name in CHANNEL_NAMES:
        if (value := getattr(reading, name)) is not None:
            yield name, value
    yield from (json.loads(reading.extra) if reading.extra else {}).items()


def _dead_letter_row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.first_received_us,
        letter.received_us,
        letter.times,
        letter.topic.replace("\0", "\ufffd"),  # no broker should let NUL pass, and PostgreSQL cannot hold it
        letter.payload,
        letter.reason.value,
        json.dumps(letter.detail),
        letter.fingerprint,
    )


def _event_row(event: AlarmEvent) -> tuple[object, ...]:
    return (
        event.event_id,
        event.alarm_id,
        event.well_id,
        event.timestamp_us,
        event.diagnosis,
        event.category,
        event.severity,
        event.transition,
        event.state,
        event.confidence,
        json.dumps(event.actions),
        event.resolution_time,
        json.dumps(event.telemetry_snapshot),
        json.dumps(event.evidence),
        event.tree_version,
        json.dumps(event.payload()),
    )


def _alarm_row(event: AlarmEvent) -> tuple[object, ...]:
    return (
        event.well_id,
        event.diagnosis,
        event.alarm_id,
        event.state,
        event.severity,
        event.raised_at_us,
        event.timestamp_us,
        json.dumps(event.payload()),
        event.seq,
    )


def _command_row(command: CommandRecord) -> tuple[object, ...]:
    return (
        command.command_id,
        command.received_us,
        command.well_id,
        command.alarm_id,
        command.command,
        command.by,
        command.comment,
        command.duration_s,
    )


COLUMN_LIST: Final = ", ".join(f'"{column}"' for column in COLUMNS)
_COMPRESSED_UNTIL: Final = """
    SELECT max(range_end) FROM timescaledb_information.chunks
    WHERE hypertable_schema = current_schema() AND hypertable_name = 'esp_telemetry' AND is_compressed
"""
_CREATE_INCOMING: Final = """
    CREATE TEMPORARY TABLE IF NOT EXISTS esp_incoming (LIKE esp_telemetry) ON COMMIT DELETE ROWS
"""
_INSERT_INCOMING: Final = f"""
    INSERT INTO esp_telemetry ({COLUMN_LIST}) SELECT {COLUMN_LIST} FROM esp_incoming
    ON CONFLICT (well_id, "timestamp") DO NOTHING
"""  # noqa: S608 - our own column names
# INSERT unpacks a block anew for each row that may be in it; a join first finds what is there ten times as fast.
_INSERT_ABSENT: Final = f"""
    INSERT INTO esp_telemetry ({COLUMN_LIST})
    SELECT {COLUMN_LIST} FROM esp_incoming AS new LEFT JOIN LATERAL (
        SELECT true AS is_there FROM esp_telemetry AS old
        WHERE old.well_id = new.well_id AND old."timestamp" = new."timestamp" LIMIT 1
    ) AS old ON true
    WHERE is_there IS NULL ON CONFLICT (well_id, "timestamp") DO NOTHING
"""  # noqa: S608 - our own column names
# A row of a file did not come once more when the file is loaded again.
_UPSERT_DEAD_LETTER: Final = """
    INSERT INTO dead_letters AS old (first_received_at, received_at, times, topic, payload, reason, detail, fingerprint)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (fingerprint) DO UPDATE
    SET times = old.times + excluded.times, received_at = greatest(old.received_at, excluded.received_at)
    WHERE NOT excluded.detail ? 'file'
"""
_INSERT_EVENT: Final = """
    INSERT INTO diagnostic_results (event_id, alarm_id, well_id, "timestamp", diagnosis, category, severity, transition,
        state, confidence, actions, resolution_time, telemetry_snapshot, evidence, tree_version, event, published_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
    ON CONFLICT (event_id, "timestamp") DO NOTHING
"""
_STORED_EVENTS: Final = """
    SELECT event_id FROM diagnostic_results WHERE well_id = ANY ($3) AND event_id = ANY ($1) AND "timestamp" >= $2
"""
_UPSERT_ALARM: Final = """
    INSERT INTO alarm_states AS old
        (well_id, diagnosis, alarm_id, state, severity, raised_at, "timestamp", event, seq)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (well_id, diagnosis) DO UPDATE
    SET alarm_id = excluded.alarm_id, state = excluded.state, severity = excluded.severity,
        raised_at = excluded.raised_at, "timestamp" = excluded."timestamp", event = excluded.event, seq = excluded.seq
    WHERE (excluded.raised_at, excluded.seq, excluded."timestamp") >= (old.raised_at, old.seq, old."timestamp")
"""
_INSERT_COMMAND: Final = """
    INSERT INTO alarm_commands (command_id, received_at, well_id, alarm_id, command, "by", comment, duration_s)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (command_id) DO NOTHING
"""
_INSERT_MARK: Final = "INSERT INTO esp_rollup_marks (bucket, well_ids) VALUES ($1, $2)"
_UPSERT_LOAD_MARK: Final = """
    INSERT INTO esp_backfills (file, size_bytes, modified_ns, "offset", line) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (file) DO UPDATE SET size_bytes = excluded.size_bytes, modified_ns = excluded.modified_ns,
        "offset" = excluded."offset", line = excluded.line, updated_at = now()
"""
