"""Rows that come late: into days that are compressed, and into days that were dropped."""

from __future__ import annotations

import itertools
import json
import random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from pydantic import SecretStr

from esp_ingestd.backfill import backfill
from esp_ingestd.config import DatabaseSettings, Settings, Wells
from esp_ingestd.core.batch import Batch
from esp_ingestd.core.reading import CHANNEL_NAMES, DAY_US, SECOND_US, Reading, to_iso
from esp_ingestd.database import _UNPUBLISHED, Database, migrate, schema, writing
from esp_ingestd.database.schema import shipped_migrations
from esp_ingestd.database.writing import LATE_ROWS
from esp_ingestd.errors import Unavailable
from esp_ingestd.rows import CopyRows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from services import FreshDatabase, Query

DAY = 19_700 * DAY_US  # some midnight, UTC
TODAY = DAY + 40 * DAY_US
WELLS = [f"W{number}" for number in range(10)]
SEGMENT_ROWS = 1000  # TimescaleDB's own: so many rows of a well are compressed, and looked into, at once
SEGMENTS = 12  # of each well


def reading(well_id: str, number: int, *, received_us: int = TODAY, flow_rate: float = 1.0) -> Reading:
    """One of a reading every six seconds; odd numbers lie between those that the compressed day has."""
    return Reading(well_id, DAY + number * 3 * SECOND_US, flow_rate=flow_rate, received_us=received_us)


def batch(readings: Sequence[Reading]) -> Batch:
    return Batch(readings=list(readings))


@pytest.fixture
async def compressed(store: Database, query: Query) -> Query:
    """A day of ten wells, compressed; more segments than a statement may uncompress by default (100 000 rows)."""
    for well_id in WELLS:
        await store.write(batch([reading(well_id, 2 * number) for number in range(SEGMENTS * SEGMENT_ROWS)]))
    await query("SELECT compress_chunk(c) FROM show_chunks('esp_telemetry') c")
    assert await uncompressed_bytes(query) == 0
    return query


async def uncompressed_bytes(query: Query, table: str = "esp_telemetry") -> int:
    """How much of the chunks that are compressed was written back as rows."""
    rows = await query("SELECT pg_relation_size(c) FROM show_chunks($1::text::regclass) c", table)
    return sum(row[0] for row in rows)


async def stored(query: Query) -> tuple[int, int]:
    """Rows, and different keys."""
    (row,) = await query("SELECT count(*), count(DISTINCT (well_id, timestamp)) FROM esp_telemetry")
    return row[0], row[1]


@pytest.mark.community
async def test_readings_are_compressed_after_a_week_and_alarm_events_after_two(query: Query) -> None:
    rows = await query(
        "SELECT hypertable_name, config ->> 'compress_after' FROM timescaledb_information.jobs"
        " WHERE proc_name = 'policy_compression'"
    )
    assert {row[0]: row[1] for row in rows} == {"esp_telemetry": "7 days", "diagnostic_results": "14 days"}
    rows = await query(
        "SELECT hypertable::text, segmentby, orderby FROM timescaledb_information.hypertable_compression_settings"
    )
    assert {row[0]: (row[1], row[2]) for row in rows} == {
        "esp_telemetry": ("well_id", '"timestamp" DESC'),
        "diagnostic_results": ("well_id", '"timestamp" DESC,event_id'),
    }


async def every_bit(query: Query) -> list[Any]:
    channels = ", ".join(f"encode(float8send({name}), 'hex')" for name in CHANNEL_NAMES)
    return await query(f"SELECT well_id, timestamp, {channels} FROM esp_telemetry ORDER BY 1, 2")  # noqa: S608 - our own names


@pytest.mark.community
async def test_channels_with_decimals_compress_to_a_tenth_and_come_back_to_the_bit(
    store: Database, query: Query
) -> None:
    """As bits of neighbours these values are a third of what they were."""
    chance = random.Random(1)  # noqa: S311 - no secret
    odd: dict[str, Any] = dict(zip(CHANNEL_NAMES, (1e-300, 0.1 + 0.2, 49_999.999, -19.9), strict=False))
    for well_id in WELLS:
        said: list[dict[str, Any]] = [
            {name: round(chance.gauss(100, 0.3), 1) for name in CHANNEL_NAMES} for _ in range(1440)
        ]
        rows = [reading(well_id, number)._replace(**values) for number, values in enumerate([odd, {}, *said])]
        await store.write(batch(rows))
    told = await query("SELECT * FROM esp_telemetry LIMIT 1")
    assert isinstance(told[0]["pip"], float)
    before = await every_bit(query)
    await query("SELECT compress_chunk(c) FROM show_chunks('esp_telemetry') c")
    assert (await store.store_health()).tables["esp_telemetry"].compression_ratio > 10
    assert await every_bit(query) == before


async def types_of_channels(query: Query) -> set[tuple[str, str | None]]:
    """What information_schema says of them, and their domain."""
    rows = await query(
        "SELECT data_type, domain_name FROM information_schema.columns"
        " WHERE table_name = 'esp_telemetry' AND column_name = ANY ($1)",
        list(CHANNEL_NAMES),
    )
    return {tuple(row) for row in rows}


async def test_channels_are_double_precision_to_whoever_asks(query: Query, migrated: FreshDatabase) -> None:
    domain = "esp_value" if migrated.edition == "timescaledb-community" else None
    assert await types_of_channels(query) == {("double precision", domain)}


@pytest.mark.community
async def test_a_database_that_cannot_change_its_channels_goes_on_as_it_was(
    database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day is compressed already, and a view of the site's own reads a channel."""
    settings = DatabaseSettings(dsn=SecretStr(database.dsn))
    known = shipped_migrations()
    (domains,) = [each for each in known if "dictionaries" in each.name]
    with monkeypatch.context() as older:
        older.setattr(schema, "shipped_migrations", lambda: [each for each in known if each != domains])
        await migrate(settings)
    connection = await asyncpg.connect(database.dsn)
    insert = (
        "INSERT INTO esp_telemetry (well_id, timestamp, pip, received_at) VALUES ('W1', $1::timestamptz, 7.1, now())"
    )
    await connection.execute(insert.replace("$1", "'2023-12-09Z'"))
    await connection.execute("SELECT compress_chunk(c) FROM show_chunks('esp_telemetry') c")
    await connection.execute("CREATE VIEW of_the_site AS SELECT pip FROM esp_telemetry")
    assert (await migrate(settings))[1] == [domains.path.name]
    assert await types_of_channels(connection.fetch) == {("double precision", None)}
    # docs/operations.md: the remedy; by halves it changes nothing.
    await connection.execute("DROP VIEW of_the_site")
    await connection.execute(domains.path.read_text("utf-8"))
    assert await types_of_channels(connection.fetch) == {("double precision", None)}
    await connection.execute("SELECT decompress_chunk(c, true) FROM show_chunks('esp_telemetry') c")
    for _ in range(2):
        await connection.execute(domains.path.read_text("utf-8"))
        assert await types_of_channels(connection.fetch) == {("double precision", "esp_value")}
    await connection.execute("SELECT compress_chunk(c) FROM show_chunks('esp_telemetry') c")
    assert await connection.fetchval("SELECT pip FROM esp_telemetry") == 7.1
    assert await connection.fetchval(
        "SELECT count(*) FROM timescaledb_information.jobs WHERE proc_name ~ 'compression'"
    )
    await connection.close()


@pytest.mark.community
@pytest.mark.parametrize("received_us", [TODAY, DAY], ids=["known to be late", "taken for a live batch"])
async def test_one_late_row_for_each_of_many_segments_is_stored_once(
    store: Database, compressed: Query, received_us: int
) -> None:
    """By default TimescaleDB refuses what would uncompress more than a hundred thousand rows."""
    numbers = [2 * SEGMENT_ROWS * segment + 100 for segment in range(SEGMENTS)]
    old = [reading(well_id, number, received_us=received_us, flow_rate=9.0) for well_id in WELLS for number in numbers]
    new = [each._replace(timestamp_us=each.timestamp_us + SECOND_US) for each in old]
    written = await store.write(batch([*old, *new, *new]))
    assert (written.stored, written.duplicates, list(written.refused)) == (120, 240, [])
    again = await store.write(batch([*old, *new]))
    assert (again.stored, again.duplicates, list(again.refused)) == (0, 240, [])
    assert await stored(compressed) == (120_120, 120_120)
    assert [row[0] for row in await compressed("SELECT count(*) FROM esp_telemetry WHERE flow_rate = 9")] == [120]
    assert await compressed("SELECT 1 FROM dead_letters") == []


@pytest.mark.community
async def test_duplicates_of_compressed_rows_leave_them_compressed(store: Database, compressed: Query) -> None:
    written = await store.write(batch([reading(well_id, 2 * n) for well_id in WELLS for n in range(0, 12_000, 100)]))
    assert (written.stored, written.duplicates) == (0, 1200)
    assert await uncompressed_bytes(compressed) == 0


@pytest.mark.community
@pytest.mark.parametrize("form", [list, CopyRows.of], ids=["live", "from disk"])
async def test_live_rows_go_with_late_ones_and_a_refused_row_stands_alone(
    store: Database, compressed: Query, form: Callable[[Sequence[Reading]], Sequence[Reading]]
) -> None:
    """I5."""
    await compressed(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.flow_rate = 13 THEN RAISE 'not thirteen'; END IF; RETURN NEW; END $$"
    )
    await compressed("CREATE TRIGGER refuse BEFORE INSERT ON esp_telemetry FOR EACH ROW EXECUTE FUNCTION refuse()")
    late = [reading("W1", 2 * number + 1) for number in range(3)]
    live = [Reading("W1", TODAY + number, received_us=TODAY) for number in range(3)]
    bad = [reading("W2", 1, flow_rate=13.0), Reading("W2", TODAY, flow_rate=13.0, received_us=TODAY)]
    written = await store.write(Batch(form([*late, bad[0], *live, bad[1], late[0]])))
    assert (written.stored, written.duplicates) == (6, 1)
    assert [each for each, _ in written.refused] == bad
    assert len(await compressed("SELECT 1 FROM dead_letters")) == 2


@pytest.mark.community
async def test_a_batch_that_is_cut_between_its_late_rows_is_written_again(store: Database, compressed: Query) -> None:
    await compressed(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.well_id = 'W2' THEN RAISE 'gone' USING ERRCODE = '57P01'; END IF; RETURN NEW; END $$"
    )
    await compressed("CREATE TRIGGER stop BEFORE INSERT ON esp_telemetry FOR EACH ROW EXECUTE FUNCTION stop()")
    rows = [reading(well_id, 2 * number + 1) for well_id in ("W1", "W2") for number in range(LATE_ROWS)]
    with pytest.raises(Unavailable):
        await store.write(batch(rows))
    await compressed("DROP TRIGGER stop ON esp_telemetry")
    written = await store.write(batch(rows))
    assert (written.stored, written.duplicates) == (LATE_ROWS, LATE_ROWS)
    assert await stored(compressed) == (121_000, 121_000)


@pytest.mark.community
async def test_history_is_loaded_into_compressed_days(
    compressed: Query, migrated: FreshDatabase, tmp_path: Path
) -> None:
    file = tmp_path / "history.csv"
    rows = [reading(well_id, number) for well_id in ("W1", "NEW") for number in range(2000)]
    file.write_text("well_id,timestamp,flow_rate\n" + "".join(f"{r[0]},{to_iso(r[1])},{r[2]}\n" for r in rows))
    said: list[str] = []
    settings = Settings(database=DatabaseSettings(dsn=SecretStr(migrated.dsn)))
    assert await backfill(settings, Wells(), [file], max_refused=0, restart=False, say=said.append) == 0
    assert await stored(compressed) == (120_000 + 1000 + 2000, 123_000)


@pytest.mark.community
async def test_rollups_count_compressed_rows(store: Database, compressed: Query) -> None:
    for hour in await store.stale_hours():
        await store.roll_up(hour)
    rows = await compressed("SELECT well_id, readings FROM telemetry_daily ORDER BY 1")
    assert [tuple(row) for row in rows] == [(well_id, 12_000) for well_id in WELLS]
    await store.write(batch([reading("W3", 1, flow_rate=50.0)]))
    (hour,) = await store.stale_hours()
    assert await store.roll_up(hour) == 601
    (row,) = await compressed("SELECT flow_rate_max, readings FROM telemetry_daily WHERE well_id = 'W3'")
    assert tuple(row) == (50.0, 12_001)


EVENTS = """
    INSERT INTO diagnostic_results (event_id, alarm_id, well_id, timestamp, diagnosis, category, severity, transition,
        state, actions, resolution_time, evidence, tree_version, event, published_at)
    SELECT 'e' || n, 'a', 'W' || n % 10, to_timestamp($1) + n * interval '1 min', 'STALL', 'MOTOR_ISSUE', 'high',
        'raised', 'active', '[]', '1 h', '{}', 't', '{}', CASE WHEN n <> 77 THEN now() END
    FROM generate_series(1, 20000) AS n
"""


@pytest.mark.community
async def test_an_event_that_was_told_late_is_marked_without_uncompressing_the_others(
    store: Database, query: Query
) -> None:
    await query(EVENTS, DAY // SECOND_US)
    await query("SELECT compress_chunk(c) FROM show_chunks('diagnostic_results') c")
    await store.mark_published(["e5", "unknown"], TODAY)
    assert await uncompressed_bytes(query, "diagnostic_results") == 0
    assert [each.event for each in await store.unpublished_events(None, 10)] == [{}]
    await store.mark_published(["e77"], TODAY)
    assert await store.unpublished_events(None, 10) == []
    (row,) = await query("SELECT count(*), count(DISTINCT event_id) FROM diagnostic_results")
    assert tuple(row) == (20_000, 20_000)
    assert await uncompressed_bytes(query, "diagnostic_results") < 2_000_000, "one segment"


@pytest.mark.community
async def test_an_alarm_that_stands_for_long_is_sought_among_the_rows_of_its_well(query: Query) -> None:
    await query(EVENTS, DAY // SECOND_US)
    await query("SELECT compress_chunk(c) FROM show_chunks('diagnostic_results') c")
    await query("SELECT set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false)")
    asked = writing._STORED_EVENTS.replace("$1", "'{e5}'").replace("$2", "'2000-01-01Z'").replace("$3", "'{W1,W2}'")
    plan = [row[0] for row in await query(f"EXPLAIN (COSTS off) {asked}")]
    compressed = [after for before, after in itertools.pairwise(plan) if " on compress_" in before]
    assert compressed, plan
    assert all("Index Cond: ((well_id = ANY ('{W1,W2}'::text[]))" in line for line in compressed), plan


async def test_rows_for_a_dropped_day_are_taken_again(store: Database, query: Query, migrated: FreshDatabase) -> None:
    if migrated.edition == "postgresql":
        pytest.skip("has no chunks to drop")
    rows = [reading("W1", number) for number in range(10)]
    await store.write(batch([*rows, Reading("W1", TODAY, received_us=TODAY)]))
    await query(
        "SELECT drop_chunks('esp_telemetry', $1::timestamptz)",
        (await query("SELECT to_timestamp($1)", (DAY + DAY_US) / 1e6))[0][0],
    )
    assert (await stored(query))[0] == 1
    assert (await store.write(batch(rows))).stored == 10
    assert (await store.write(batch(rows))).duplicates == 10


@pytest.mark.parametrize("is_old", [False, True], ids=["of this week", "compressed"])
async def test_the_events_that_nobody_was_told_are_found_without_reading_the_others(
    store: Database, query: Query, migrated: FreshDatabase, *, is_old: bool
) -> None:
    """It is asked at each start; weeks that are compressed would have to be read whole."""
    await query(EVENTS, DAY // SECOND_US)
    if is_old and migrated.edition == "timescaledb-community":
        await query("SELECT compress_chunk(c) FROM show_chunks('diagnostic_results') c")
    (untold,) = await store.unpublished_events(None, 10)
    assert untold.event_id == "e77"
    asked = _UNPUBLISHED.replace("$1", "'2000-01-01Z'").replace("$2", "''").replace("$3", "10")
    assert 0 < await rows_read(query, asked) < 1500, "a segment at most"
    await store.mark_published(["e77"], TODAY)
    assert await store.unpublished_events(None, 10) == []
    assert await rows_read(query, asked) == 0


async def rows_read(query: Query, asked: str) -> int:
    """Of diagnostic_results, in chunks and where they are compressed."""
    (explained,) = await query(f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING off) {asked}")
    counted, nodes = 0, [json.loads(explained[0])[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        is_of_events = node.get("Relation Name", "esp_untold_events") != "esp_untold_events"
        looked_at = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        counted += is_of_events * node["Actual Loops"] * looked_at
    return int(counted)
