"""The real database, on every edition that the machine offers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest
from peer import PATIENCE_S
from pydantic import SecretStr

from esp_ingestd.config import DatabaseSettings, Wells
from esp_ingestd.core.batch import Batch, Batcher, Trigger
from esp_ingestd.core.command import CommandRecord
from esp_ingestd.core.decode import Reason, Rejection
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import CHANNEL_NAMES, Reading
from esp_ingestd.core.well import WellSettings
from esp_ingestd.database import Database, migrate
from esp_ingestd.database.schema import shipped_migrations
from esp_ingestd.database.writing import DOUBTS
from esp_ingestd.errors import Refused, SchemaOutdated, Unavailable
from esp_ingestd.rows import CopyRows
from esp_ingestd.shipped import load_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from conftest import OwnDatabase
    from services import FreshDatabase, Query

    from esp_ingestd.core.alarm import AlarmEvent

T0 = 1_700_000_000_000_000
TABLES = (
    "esp_schema_migrations",
    "esp_telemetry",
    "diagnostic_results",
    "alarm_states",
    "dead_letters",
    "esp_backfills",
    "alarm_commands",
    "active_alarms",
    "esp_rollup_marks",
    "esp_rollups_hourly",
    "esp_rollups_daily",
    "telemetry_hourly",
    "telemetry_daily",
    "archived_days",
)


def settings(dsn: str, **more: float) -> DatabaseSettings:
    return DatabaseSettings(dsn=SecretStr(dsn), **{"connect_timeout_s": 60.0, "write_timeout_s": 60.0, **more})


def reading(second: int, well_id: str = "W1", flow_rate: float = 1.5) -> Reading:
    return Reading(well_id, T0 + second * 1_000_000 + 7, flow_rate=flow_rate, received_us=T0)


def batch(readings: Sequence[Reading] = (), *, poison: Sequence[tuple[str, bytes, Reason]] = ()) -> Batch:
    batcher = Batcher(max_rows=100_000, max_age_ms=1)
    batcher.add_message("esp/W1/telemetry", b"", readings, None, 1, T0)
    for topic, payload, reason in poison:
        batcher.add_message(topic, payload, (), Rejection(reason, {reason: 1}, {"why": "it is"}), 2, T0 + 1)
    return batcher.take(Trigger.DRAIN)


def from_disk(readings: Sequence[Reading]) -> Batch:
    """As a batch comes that waited in the spool."""
    return dataclasses.replace(batch(readings), readings=CopyRows.of(readings))


def stall(well_id: str = "W1", *, then_stop: bool = False) -> tuple[AlarmEvent, ...]:
    """What a locked rotor, and the pump standing still after it, are told as."""
    diagnostician = Diagnostician(load_tree(None), Wells(WellSettings(nameplate_current_a=50.0)))
    currents = [200.0, 200.0, 200.0, *([0.0] * 60 if then_stop else [])]
    return tuple(
        event
        for number, amperes in enumerate(currents)
        for event in diagnostician.observe(
            Reading(
                well_id,
                T0 + number * 10_000_000,
                motor_current=amperes,
                vsd_frequency=50.0 if amperes else 0.0,
                received_us=T0,
            )
        )
    )


# ---------------------------------------------------------------------------------------------------- migrations


async def test_migrating_creates_the_schema_names_the_edition_and_is_idempotent(empty_database: FreshDatabase) -> None:
    edition, applied = await migrate(settings(empty_database.dsn))
    assert edition == empty_database.edition
    assert applied == [each.path.name for each in shipped_migrations() if each.fits(edition)]
    assert await migrate(settings(empty_database.dsn)) == (edition, [])
    database = Database(settings(empty_database.dsn))
    assert await database.connect() == edition
    await database.close()


async def test_migrating_by_several_at_once_applies_each_migration_once(empty_database: FreshDatabase) -> None:
    outcomes = await asyncio.gather(*(migrate(settings(empty_database.dsn)) for _ in range(4)))
    applied = [name for _, names in outcomes for name in names]
    assert sorted(applied) == sorted(set(applied))
    assert "0001_tables.sql" in applied


async def test_tables_are_hypertables_where_there_are_any(migrated: FreshDatabase, query: Query) -> None:
    if migrated.edition == "postgresql":
        assert await query("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'") == []
        return
    rows = await query("SELECT hypertable_name, time_interval FROM timescaledb_information.dimensions ORDER BY 1")
    assert {name: interval.days for name, interval in rows} == {"diagnostic_results": 7, "esp_telemetry": 1}


async def test_every_column_has_a_comment_with_its_unit(query: Query) -> None:
    rows = await query(
        "SELECT attrelid::regclass::text, attname, col_description(attrelid, attnum) FROM pg_attribute"
        " WHERE attrelid = ANY ($1::text[]::regclass[]) AND attnum > 0 AND NOT attisdropped",
        list(TABLES),
    )
    assert {row[0] for row in rows} == set(TABLES)
    assert [tuple(row) for row in rows if not (row[2] and (";" in row[2] or "no unit" in row[2]))] == []


async def test_no_index_repeats_the_primary_key(query: Query) -> None:
    rows = await query("SELECT FROM pg_indexes WHERE tablename = 'esp_telemetry' AND indexdef LIKE '%btree%'")
    assert len(rows) == 1


# ---------------------------------------------------------------------------------------------------- the roads


live_or_from_disk = pytest.mark.parametrize("made", [batch, from_disk])


@live_or_from_disk
async def test_every_column_comes_back_as_it_was_written(
    store: Database, query: Query, made: Callable[[Sequence[Reading]], Batch]
) -> None:
    values = [float(number) + 0.125 for number in range(len(CHANNEL_NAMES))]
    full = Reading._make(("W1", T0 + 123_457, *values, '{"a": [1, null]}', ("pip", "gor"), T0 + 1))
    bare = Reading("W2", T0, received_us=T0, pip=0.0)
    assert (await store.write(made([full, bare]))).stored == 2
    row, other = await query("SELECT * FROM esp_telemetry ORDER BY well_id")
    assert [row[name] for name in CHANNEL_NAMES] == values
    assert json.loads(row["extra"]) == {"a": [1, None]}
    assert row["bad_channels"] == ["pip", "gor"]
    assert round(row["timestamp"].timestamp() * 1e6) == T0 + 123_457
    assert round(row["received_at"].timestamp() * 1e6) == T0 + 1
    assert (other["pip"], other["flow_rate"], other["extra"], other["bad_channels"]) == (0.0, None, None, None)


@live_or_from_disk
async def test_the_first_delivery_counts_also_within_one_batch(
    store: Database, query: Query, made: Callable[[Sequence[Reading]], Batch]
) -> None:
    first = await store.write(made([reading(1, flow_rate=1.0), reading(2, flow_rate=2.0)]))
    assert (first.stored, first.duplicates) == (2, 0)
    rest = [reading(2, flow_rate=20.0), reading(3, flow_rate=3.0), reading(3, flow_rate=30.0)]
    second = await store.write(made(rest))
    assert (second.stored, second.duplicates, second.refused) == (1, 2, [])
    rows = await query('SELECT flow_rate FROM esp_telemetry ORDER BY "timestamp"')
    assert [row[0] for row in rows] == [1.0, 2.0, 3.0]


@live_or_from_disk
async def test_a_refused_row_stands_alone_as_a_dead_letter_and_its_neighbours_are_stored(
    store: Database, query: Query, made: Callable[[Sequence[Reading]], Batch]
) -> None:
    """I5."""
    await query("ALTER TABLE esp_telemetry ADD CONSTRAINT no_thirteen CHECK (flow_rate <> 13)")
    readings = [reading(number, flow_rate=13.0 if number in {3, 77} else 1.0) for number in range(100)]
    written = await store.write(made([*readings, reading(5)]))
    assert (written.stored, written.duplicates) == (98, 1)
    assert [each.timestamp_us for each, _ in written.refused] == [reading(3).timestamp_us, reading(77).timestamp_us]
    assert "23514" in written.refused[0][1]
    letters = await query("SELECT * FROM dead_letters ORDER BY dead_letter_id")
    assert [letter["reason"] for letter in letters] == ["refused_by_database"] * 2
    assert "no_thirteen" in json.loads(letters[0]["detail"])["why"]
    assert json.loads(letters[0]["payload"])["flow_rate"] == 13.0
    assert (await store.write(made(readings))).stored == 0
    assert [row["times"] for row in await query("SELECT times FROM dead_letters")] == [2, 2]


async def test_a_trigger_of_the_sites_own_may_refuse_rows(store: Database, query: Query) -> None:
    await query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.well_id = 'W13' THEN RAISE 'not this well'; END IF; RETURN NEW; END $$"
    )
    await query("CREATE TRIGGER refuse BEFORE INSERT ON esp_telemetry FOR EACH ROW EXECUTE FUNCTION refuse()")
    written = await store.write(batch([reading(1), reading(1, "W13"), reading(2)]))
    assert (written.stored, len(written.refused)) == (2, 1)
    assert "not this well" in written.refused[0][1]


async def test_the_same_dead_letter_again_raises_times(store: Database, query: Query) -> None:
    poison = [
        ("t/1", b"\xff\x00", Reason.NOT_UTF8),
        ("t/1", b"\xff\x00", Reason.NOT_UTF8),
        ("t/2", b"{}", Reason.EMPTY),
    ]
    await store.write(batch(poison=poison))
    await store.write(batch(poison=poison[:1]))
    rows = await query("SELECT times, topic, payload, reason, detail FROM dead_letters ORDER BY topic")
    assert [tuple(row)[:4] for row in rows] == [(3, "t/1", b"\xff\x00", "not_utf8"), (1, "t/2", b"{}", "empty")]
    assert json.loads(rows[0]["detail"]) == {"why": "it is"}


async def test_a_topic_that_postgresql_cannot_hold_stops_nothing(store: Database, query: Query) -> None:
    written = await store.write(batch([reading(1)], poison=[("a\0b", b"x", Reason.NOT_JSON)]))
    assert written.stored == 1
    assert [row[0] for row in await query("SELECT topic FROM dead_letters")] == ["a\ufffdb"]


# ------------------------------------------------------------------------------------------------------ alarms


async def test_events_are_kept_once_and_the_newest_state_of_each_alarm(store: Database, query: Query) -> None:
    """I4: a reading that is processed twice yields the same identities."""
    events = stall()
    assert [event.transition for event in events] == ["raised"]
    for _ in range(2):
        again = batch([reading(1)])
        again.events.extend(stall())
        await store.write(again)
    (row,) = await query("SELECT * FROM diagnostic_results")
    assert (row["event_id"], row["diagnosis"], row["published_at"]) == (events[0].event_id, "STALL", None)
    assert json.loads(row["event"]) == json.loads(json.dumps(events[0].payload()))
    assert json.loads(row["actions"])[0] == "Cut the load now."
    (standing,) = await query("SELECT * FROM active_alarms")
    assert (standing["well_id"], standing["diagnosis"], standing["severity"]) == ("W1", "STALL", "critical")
    assert (standing["category"], standing["role"], standing["count"]) == ("MOTOR_ISSUE", "primary", 1)


async def test_an_older_event_never_overwrites_a_newer_state_and_a_cleared_alarm_stands_no_more(
    store: Database, query: Query
) -> None:
    (raised,) = stall()
    cleared = type(raised)(
        **{
            **{name: getattr(raised, name) for name in raised.__slots__},
            "event_id": "e2",
            "state": "cleared",
            "transition": "cleared",
            "timestamp_us": raised.timestamp_us + 1,
        }
    )
    for event in (cleared, raised):
        late = batch()
        late.events.append(event)
        await store.write(late)
    assert len(await query("SELECT 1 FROM diagnostic_results")) == 2
    assert [row[0] for row in await query("SELECT state FROM alarm_states")] == ["cleared"]
    assert await query("SELECT * FROM active_alarms") == []


def changed(event: AlarmEvent, **keys: object) -> AlarmEvent:
    return dataclasses.replace(event, **keys)  # type: ignore[arg-type]


async def test_how_an_alarm_stands_follows_the_order_of_its_events_not_their_times(
    store: Database, query: Query
) -> None:
    """A command has the daemon's time, which may be long after the RTU's."""
    (raised,) = stall()
    late_us = raised.timestamp_us + 3_600_000_000
    acknowledged = changed(
        raised,
        event_id="e2",
        seq=2,
        transition="acknowledged",
        state="acknowledged",
        acknowledged=True,
        timestamp_us=late_us,
    )
    shelved_until_us = late_us + 60_000_000
    shelved = changed(
        acknowledged, event_id="e3", seq=3, transition="shelved", state="shelved", shelved_until_us=shelved_until_us
    )
    for event in (raised, shelved, acknowledged):
        told = batch()
        told.events.append(event)
        await store.write(told)
    (standing,) = await query("SELECT * FROM active_alarms")
    assert (standing["state"], standing["acknowledged"]) == ("shelved", True)
    assert round(standing["shelved_until"].timestamp() * 1e6) == shelved_until_us
    cleared = batch()
    cleared.events.append(changed(raised, event_id="e4", seq=4, transition="cleared", state="cleared"))
    await store.write(cleared)
    assert await query("SELECT * FROM active_alarms") == []


async def test_a_state_that_no_transition_tells_is_kept_as_a_state_only(store: Database, query: Query) -> None:
    (raised,) = stall()
    told = batch()
    told.events += [raised, changed(raised, event_id="e2", seq=2, transition="", state="latched")]
    await store.write(told)
    assert [row[0] for row in await query("SELECT state FROM active_alarms")] == ["latched"]
    assert [row[0] for row in await query("SELECT transition FROM diagnostic_results")] == ["raised"]


async def test_a_command_that_is_delivered_again_is_stored_once(store: Database, query: Query) -> None:
    """I4: its event has the time at which it came again, and the same identity."""
    (raised,) = stall()
    for late_us in (1_000_000, 1_000_000, 9_000_000):
        at_us = raised.timestamp_us + late_us
        told = batch()
        told.events += [
            raised,
            changed(raised, event_id="e2", seq=2, transition="acknowledged", timestamp_us=at_us, by="ann"),
        ]
        told.commands.append(
            CommandRecord(
                command_id="e2",
                received_us=at_us,
                well_id="W1",
                alarm_id=raised.alarm_id,
                command="acknowledge",
                by="ann",
                comment="seen",
                duration_s=0.0,
            )
        )
        await store.write(told)
    assert len(await query("SELECT 1 FROM diagnostic_results")) == 2
    (row,) = await query('SELECT received_at, command, "by", comment FROM alarm_commands')
    assert (row["command"], row["by"], row["comment"]) == ("acknowledge", "ann", "seen")
    assert round(row["received_at"].timestamp() * 1e6) == raised.timestamp_us + 1_000_000


async def test_unpublished_events_are_told_until_they_are_marked(store: Database, query: Query) -> None:
    told = batch([reading(1)])
    told.events.extend(stall())
    await store.write(told)
    ((_, _, event),) = await store.unpublished_events(None, 10)
    assert event == json.loads(json.dumps(told.events[0].payload()))
    await store.mark_published([event["event_id"]], T0 + 5)
    await store.mark_published([event["event_id"]], T0 + 99)
    assert await store.unpublished_events(None, 10) == []
    (row,) = await query("SELECT published_at FROM diagnostic_results")
    assert round(row[0].timestamp() * 1e6) == T0 + 5, "the first time counts"


# ------------------------------------------------------------------------- what is refused, and what is only away

# SQLSTATE -> refused for good (""), or the kind of unavailability.
VERDICTS = {
    "22003": "",
    "22P02": "",
    "23502": "",
    "23514": "",
    "44000": "",
    "54000": "",
    "P0001": "",
    "P0004": "",
    "0A000": "",
    "08006": "connection",
    "25006": "read_only",
    "28000": "authentication",
    "3D000": "no_database",
    "40001": "conflict",
    "40P01": "conflict",
    "42501": "schema",
    "42P01": "schema",
    "53100": "resources",
    "53200": "resources",
    "53300": "resources",
    "55P03": "not_ready",
    "57014": "shutdown",
    "57P01": "shutdown",
    "58030": "io",
    "XX000": "internal",
    "XX001": "internal",
    "72000": "other",
}


async def test_each_class_of_error_is_a_verdict_on_a_row_or_a_reason_to_wait(store: Database, query: Query) -> None:
    """A server that says each of them through a trigger; the connection survives or is made anew."""
    await query("CREATE TABLE says (code text)")
    await query(
        "CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE c text;"
        " BEGIN SELECT code INTO c FROM says; IF c IS NOT NULL THEN RAISE 'so be it' USING ERRCODE = c; END IF;"
        " RETURN NEW; END $$"
    )
    await query("CREATE TRIGGER say BEFORE INSERT ON esp_telemetry FOR EACH ROW EXECUTE FUNCTION say()")
    heard = {}
    for code in VERDICTS:
        await query("INSERT INTO says VALUES ($1)", code)
        try:
            written = await store.write(batch([reading(1)]))
            heard[code] = "" if written.refused else "stored"
        except Unavailable as unavailable:
            heard[code] = unavailable.kind
        await query("DELETE FROM says")
    assert heard == VERDICTS
    assert (await store.write(batch([reading(1)]))).stored == 1


async def test_an_internal_error_is_a_verdict_only_on_what_meets_it_again_and_again_among_others_that_go_in(
    store: Database, query: Query
) -> None:
    await query(
        "CREATE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.well_id = 'W13' THEN RAISE 'cache lookup failed' USING ERRCODE = 'XX000'; END IF; RETURN NEW; END $$"
    )
    await query("CREATE TRIGGER stumble BEFORE INSERT ON esp_telemetry FOR EACH ROW EXECUTE FUNCTION stumble()")
    for _ in range(2 * DOUBTS):  # nothing beside it that says whether the database is well
        with pytest.raises(Unavailable, match="cache lookup failed"):
            await store.write(batch([reading(1, "W13")]))
    other = Database(settings(store._settings.dsn.get_secret_value()))
    both = [reading(1), reading(1, "W13"), reading(2)]
    for _ in range(DOUBTS - 1):
        with pytest.raises(Unavailable, match="cache lookup failed") as unavailable:
            await other.write(batch(both))
        assert unavailable.value.kind == "internal"
    assert await query("SELECT 1 FROM esp_telemetry") == []
    written = await other.write(batch(both))
    assert (written.stored, [each.well_id for each, _ in written.refused]) == (2, ["W13"])
    assert len(await query("SELECT 1 FROM dead_letters WHERE reason = 'refused_by_database'")) == 1
    await query("DROP TRIGGER stumble ON esp_telemetry")
    assert (await other.write(batch([reading(1, "W13")]))).stored == 1
    await other.close()


async def test_rules_of_the_sites_own_on_letters_and_events_keep_no_reading_out(store: Database, query: Query) -> None:
    """What they refuse is named, its neighbours are kept, and nobody asks again for ever."""
    await query("ALTER TABLE dead_letters ADD CONSTRAINT small CHECK (octet_length(payload) < 10)")
    await query("ALTER TABLE diagnostic_results ADD CONSTRAINT seldom CHECK (published_at IS NULL)")
    await query("ALTER TABLE alarm_states ADD CONSTRAINT calm CHECK (severity <> 'critical')")
    one = batch([reading(1)], poison=[("t", b"x", Reason.NOT_JSON), ("t", bytes(10), Reason.NOT_JSON)])
    one.events.extend(stall())
    written = await store.write(one)
    assert (written.stored, len(await query("SELECT 1 FROM dead_letters"))) == (1, 1)
    assert [why.partition(":")[0] for why in written.unkept] == ["dead letter", "alarm state"]
    assert "small" in written.unkept[0]
    with pytest.raises(Refused, match="seldom"):
        await store.mark_published([event.event_id for event in one.events], T0)
    await query("DELETE FROM diagnostic_results")
    await query("ALTER TABLE diagnostic_results ADD CONSTRAINT none CHECK (well_id IS NULL)")
    another = batch([reading(2)])
    another.events.extend(stall("W2"))
    assert [why.partition(":")[0] for why in (await store.write(another)).unkept] == ["alarm event", "alarm state"]
    assert len(await query("SELECT 1 FROM esp_telemetry")) == 2


async def test_a_missing_schema_says_what_to_do_and_is_found_once_it_is_there(database: FreshDatabase) -> None:
    store = Database(settings(database.dsn))
    with pytest.raises(SchemaOutdated, match="esp-ingestd migrate"):
        await store.write(batch([reading(1)]))
    await migrate(settings(database.dsn))
    assert (await store.write(batch([reading(1)]))).stored == 1
    await store.close()


async def test_a_read_only_database_is_unavailable_and_found_again(migrated: FreshDatabase, query: Query) -> None:
    name = urlsplit(migrated.dsn).path.removeprefix("/")
    store = Database(settings(migrated.dsn))
    await query(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(Unavailable) as unavailable:
        await store.write(batch([reading(1)]))
    assert unavailable.value.kind == "read_only"
    await query("SET default_transaction_read_only = off")
    await query(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    assert (await store.write(batch([reading(1)]))).stored == 1
    await store.close()


async def test_after_a_fault_the_next_attempt_connects_anew(store: Database, query: Query) -> None:
    """So that a primary that has become read-only is left for the host that can be written to."""
    await store.connect()
    await query("ALTER TABLE esp_telemetry RENAME TO gone")
    old = store._connection
    with pytest.raises(Unavailable):
        await store.write(batch([reading(1)]))
    await query("ALTER TABLE gone RENAME TO esp_telemetry")
    assert (await store.write(batch([reading(1)]))).stored == 1
    assert store._connection is not old


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"netloc": "127.0.0.1:1"}, "connection"),
        ({"netloc": "no-such-host.invalid:5432"}, "connection"),
        ({"path": "/no_such_database"}, "no_database"),
        ({"user": "nobody_at_all:x"}, "authentication"),
    ],
)
async def test_what_cannot_be_reached_says_why_without_its_password(
    migrated: FreshDatabase, change: dict[str, str], kind: str
) -> None:
    parts = urlsplit(migrated.dsn)
    if user := change.get("user"):
        change = {"netloc": f"{user}@{parts.netloc.rpartition('@')[2]}"}
    elif "netloc" in change:
        change = {"netloc": f"u:verysecret@{change['netloc']}"}
    with pytest.raises(Unavailable) as unavailable:
        await Database(settings(parts._replace(**change).geturl())).connect()
    assert unavailable.value.kind == kind
    assert "verysecret" not in str(unavailable.value)


async def test_a_connection_that_the_server_ends_is_made_anew(store: Database, query: Query) -> None:
    assert (await store.write(batch([reading(1)]))).stored == 1
    await query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'esp-ingestd'")
    with contextlib.suppress(Unavailable):  # it may be noticed before or while it is used
        await store.write(batch([reading(2)]))
    written = await store.write(batch([reading(2)]))
    assert written.stored + written.duplicates == 1


async def test_a_write_that_is_cancelled_leaves_nothing_half_done(store: Database, query: Query) -> None:
    await store.connect()
    async with _locked(store):
        writing = asyncio.create_task(store.write(batch([reading(1), reading(2)])))
        await _until(query, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    await _until(query, "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')")
    written = await store.write(batch([reading(1), reading(2)]))
    assert written.stored + written.duplicates == 2
    assert (await query("SELECT count(*) FROM esp_telemetry"))[0][0] == 2


async def test_a_write_that_is_not_answered_in_time_is_unavailable(migrated: FreshDatabase, query: Query) -> None:
    store = Database(settings(migrated.dsn, write_timeout_s=0.2))
    await store.connect()
    async with _locked(store):
        with pytest.raises(Unavailable) as unavailable:
            await store.write(batch([reading(1)]))
    assert unavailable.value.kind == "timeout"
    await _until(query, "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')")
    await store.close()


@contextlib.asynccontextmanager
async def _locked(store: Database) -> AsyncIterator[None]:
    """Nobody else writes readings meanwhile."""
    connection = await asyncpg.connect(store._settings.dsn.get_secret_value())
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE esp_telemetry IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def _until(query: Query, statement: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await query(statement):  # noqa: ASYNC110 - what is waited for is on the server
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------------- a server of the test's own


async def test_a_server_that_is_frozen_killed_and_started_again(own_database: OwnDatabase) -> None:
    server = own_database()
    await migrate(settings(server.dsn))
    store = Database(settings(server.dsn, write_timeout_s=0.5, connect_timeout_s=0.5))
    assert (await store.write(batch([reading(1)]))).stored == 1

    server.pause()
    for _ in range(2):  # on the connection that it has, then on one that it cannot open
        with pytest.raises(Unavailable) as unavailable:
            await store.write(batch([reading(2)]))
        assert unavailable.value.kind == "timeout"
    server.resume()
    written = await _write_at_last(store, batch([reading(2)]))
    assert written == 1

    server.kill()
    with pytest.raises(Unavailable) as unavailable:
        await store.write(batch([reading(3)]))
    assert unavailable.value.kind == "connection"
    server.start()
    assert await _write_at_last(store, batch([reading(1), reading(2), reading(3)])) == 3
    connection = await asyncpg.connect(server.dsn)
    assert await connection.fetchval("SELECT count(*) FROM esp_telemetry") == 3
    await connection.close()
    await store.close()


async def _write_at_last(store: Database, what: Batch) -> int:
    """Write as soon as the server takes it; rows stored now or before."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                written = await store.write(what)
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                return written.stored + written.duplicates


# ---------------------------------------------------------------------------------------------- least privilege


async def test_the_ingesting_role_can_do_the_daemons_work_and_not_change_the_schema(
    migrated: FreshDatabase, query: Query
) -> None:
    user = f"login_{urlsplit(migrated.dsn).path.removeprefix('/')}"
    await query(f"CREATE ROLE {user} LOGIN PASSWORD 'p' IN ROLE esp_ingest")
    try:
        parts = urlsplit(migrated.dsn)
        dsn = parts._replace(netloc=f"{user}:p@{parts.netloc.rpartition('@')[2]}").geturl()
        store = Database(settings(dsn))
        await _do_the_daemons_work(store)
        await store.close()
        connection = await asyncpg.connect(dsn)
        for statement in (
            "DROP TABLE esp_telemetry",
            "ALTER TABLE esp_telemetry ADD COLUMN x int",
            "CREATE TABLE esp_mine (x int)",
            "DELETE FROM esp_telemetry",
            "UPDATE esp_telemetry SET pip = 1",
            "TRUNCATE dead_letters",
            "INSERT INTO esp_schema_migrations VALUES (99, 'x')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        await connection.close()
    finally:
        await query(f"DROP ROLE {user}")


async def _do_the_daemons_work(store: Database) -> None:
    """Every road: COPY, duplicates, dead letters, events, what is unpublished."""
    for times in (1, 2):
        both = batch([reading(1), reading(90_000)], poison=[("t", b"x", Reason.NOT_JSON)])
        both.events.extend(stall())
        assert (await store.write(both)).duplicates == (0 if times == 1 else 2)
    ((_, _, event),) = await store.unpublished_events(None, 10)
    await store.mark_published([event["event_id"]], T0)
