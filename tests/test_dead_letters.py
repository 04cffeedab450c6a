"""Dead letters listed, shown and tried again, by the program itself, in real databases."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg
import pytest
from daemon import program
from pydantic import SecretStr
from services import fetch

from esp_ingestd.config import DatabaseSettings
from esp_ingestd.core.batch import Batch, Batcher, Trigger
from esp_ingestd.core.decode import Decoder
from esp_ingestd.database import Database

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from services import FreshDatabase

TOPIC = "esp/W/telemetry"
NAIVE = b'{"timestamp":"2026-01-01T00:00:00","pip":100}'
MIXED = b'[{"timestamp":"2026-01-01T01:00:00Z","pip":1},{"timestamp":"2026-01-01T02:00:00","pip":2}]'
HEX = b"\xff\xfe"
MESSAGES = {TOPIC: (NAIVE, MIXED, HEX), "esp/V/telemetry": (NAIVE.replace(b"100", b"900"), b"{")}

Run = Callable[..., Awaitable[tuple[int, str, str]]]


def decoded(messages: Mapping[str, tuple[bytes, ...]]) -> Batch:
    """What the daemon makes of these messages."""
    decoder = Decoder(["esp/{well_id}/telemetry"])
    batcher = Batcher(max_rows=100, max_age_ms=1)
    for topic, payloads in messages.items():
        for payload in payloads:
            now_us = time.time_ns() // 1_000
            batcher.add_message(topic, payload, *decoder.decode(topic, payload, now_us), 1, now_us)
    return batcher.take(Trigger.DRAIN)


@pytest.fixture
async def store(store: Database) -> Database:
    await store.write(decoded(MESSAGES))
    return store


@pytest.fixture
def run(migrated: FreshDatabase, tmp_path: Path) -> Run:
    """Runs `esp-ingestd dead-letters …` with `naive_timestamps` and units; status, standard output and error."""
    (tmp_path / "wells.toml").write_text('[wells."V".units]\npip = "kPa"\n')

    async def run_program(command: str, *arguments: str, naive: str = "refuse") -> tuple[int, str, str]:
        config = tmp_path / "esp-ingestd.toml"
        config.write_text(
            f'[database]\ndsn = "{migrated.dsn}"\n[mqtt]\nnaive_timestamps = "{naive}"\n'
            '[diagnosis]\nwells_file = "wells.toml"\n'
        )
        return await program("dead-letters", command, "--config", str(config), *arguments)

    return run_program


async def listed(run: Run, *arguments: str) -> list[tuple[str, str]]:
    status, output, errors = await run("list", "--format", "json", *arguments)
    assert (status, errors) == (0, "")
    return [(row["topic"], row["reason"]) for row in json.loads(output)]


@pytest.mark.usefixtures("store")
async def test_list_by_reason_topic_age_and_number(run: Run) -> None:
    everything = await listed(run)
    assert sorted(everything) == [
        ("esp/V/telemetry", "naive_timestamp"),
        ("esp/V/telemetry", "not_json"),
        (TOPIC, "naive_timestamp"),
        (TOPIC, "naive_timestamp"),
        (TOPIC, "not_utf8"),
    ]
    assert await listed(run, "--limit", "2") == everything[:2]
    assert sorted(await listed(run, "--reason", "not_json", "--since", "1h")) == [("esp/V/telemetry", "not_json")]
    assert {topic for topic, _ in await listed(run, "--topic", "esp/V/*")} == {"esp/V/telemetry"}
    assert await listed(run, "--topic", "esp/_/telemetry") == []
    assert await listed(run, "--since", "2100-01-01") == []


@pytest.mark.usefixtures("store")
async def test_every_format_says_the_same(run: Run) -> None:
    _, as_json, _ = await run("list", "--format", "json")
    _, as_csv, _ = await run("list", "--format", "csv")
    _, as_table, _ = await run("list")
    rows = json.loads(as_json)
    assert [row["id"] for row in csv.DictReader(io.StringIO(as_csv))] == [str(row["id"]) for row in rows]
    for row in rows:
        assert row["reason"] in as_table
    (why,) = (row["why"] for row in rows if row["reason"] == "not_utf8")
    assert why in as_csv
    assert all(word in as_table for word in why.split())


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list", "--reason", "boredom"), "--reason boredom: there is none; allowed are not_utf8, "),
        (("list", "--since", "soon"), "--since soon: allowed are ISO 8601 and ages such as 90s"),
        (("show", "4711"), "no dead letter has the number 4711"),
        (("replay",), "which? give their numbers, --reason, --topic, --since, or --all"),
    ],
)
async def test_what_cannot_be_is_told_in_a_line(run: Run, arguments: tuple[str, ...], told: str) -> None:
    status, output, errors = await run(*arguments)
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith(told)


async def test_show_gives_text_or_hex(migrated: FreshDatabase, store: Database, run: Run) -> None:
    del store
    numbers = dict(await fetch(migrated.dsn, "SELECT payload, dead_letter_id FROM dead_letters"))
    status, text, _ = await run("show", str(numbers[MIXED]), str(numbers[HEX]))
    assert status == 0
    assert MIXED.decode() in text
    assert "ff fe" in text
    assert '"index": 1' in text


async def test_replay_stores_what_is_good_now_and_says_what_is_not(
    migrated: FreshDatabase, store: Database, run: Run
) -> None:
    del store
    status, output, errors = await run("replay", "--all", naive="utc")
    assert status == 0
    assert output.startswith(
        "3 dead letters are good now and dropped: 3 readings stored, 1 were there already; 2 still"
    )
    assert "not_utf8" in errors
    assert "not_json" in errors
    stored = await fetch(
        migrated.dsn,
        "SELECT well_id, extract(hour FROM \"timestamp\" AT TIME ZONE 'UTC')::int, pip FROM esp_telemetry"
        " ORDER BY well_id, pip",
    )
    assert [row[:2] for row in stored] == [("V", 0), ("W", 1), ("W", 2), ("W", 0)]
    assert [row[2] for row in stored] == pytest.approx([900_000 / 6_894.757293168, 1, 2, 100])
    letters = "SELECT dead_letter_id, reason, times FROM dead_letters ORDER BY reason"
    left = await fetch(migrated.dsn, letters)
    assert [row[1:] for row in left] == [("not_json", 1), ("not_utf8", 1)]
    status, output, _ = await run("replay", "--all", naive="utc")
    assert output.startswith("0 dead letters are good now")
    assert await fetch(migrated.dsn, letters) == left


async def test_replay_keeps_a_letter_of_which_anything_is_refused(
    migrated: FreshDatabase, store: Database, run: Run
) -> None:
    del store
    _, output, _ = await run("replay", "--reason", "naive_timestamp")
    assert output.startswith("0 dead letters are good now and dropped: 0 readings stored, 1 were there already; 3")
    assert await fetch(migrated.dsn, "SELECT count(*) FROM dead_letters") == [(5,)]


async def test_what_the_database_refused_is_replayed_as_it_is(
    migrated: FreshDatabase, store: Database, run: Run
) -> None:
    """It is kept in our units, which are not to be converted twice; and a replay in vain is no delivery."""
    connection = await asyncpg.connect(migrated.dsn)
    await connection.execute("DELETE FROM dead_letters")
    await connection.execute("ALTER TABLE esp_telemetry ADD CONSTRAINT odd CHECK (gor <> 13)")
    good = b'{"timestamp":"2026-01-01T00:00:00Z","pip":100,"gor":13}'
    await store.write(decoded({"esp/V/telemetry": (good,)}))
    before = await connection.fetch("SELECT times, payload, reason FROM dead_letters")
    assert [row["reason"] for row in before] == ["refused_by_database"]
    _, output, errors = await run("replay", "--all")
    assert output.startswith(
        "0 dead letters are good now and dropped: 0 readings stored, 0 were there already; 1 still"
    )
    assert "odd" in errors
    assert await connection.fetch("SELECT times, payload, reason FROM dead_letters") == before
    await connection.execute("ALTER TABLE esp_telemetry DROP CONSTRAINT odd")
    await connection.close()
    _, output, _ = await run("replay", "--all")
    assert output.startswith("1 dead letters are good now and dropped: 1 readings stored")
    assert await fetch(migrated.dsn, "SELECT well_id, pip FROM esp_telemetry WHERE gor = 13") == [("V", 100.0)]


async def test_replay_raises_no_alarms(migrated: FreshDatabase, run: Run) -> None:
    database = Database(DatabaseSettings(dsn=SecretStr(migrated.dsn)))
    rotor = [
        {"timestamp": f"2026-01-01T00:{number:02}:00", "motor_current": 900.0, "vsd_frequency": 50.0}
        for number in range(50)
    ]
    await database.write(decoded({TOPIC: (json.dumps(rotor).encode(),)}))
    await database.close()
    _, output, _ = await run("replay", "--all", naive="utc")
    assert output.startswith("1 dead letters are good now and dropped: 50 readings stored")
    assert await fetch(migrated.dsn, "SELECT 1 FROM diagnostic_results UNION ALL SELECT 1 FROM alarm_states") == []


async def test_the_role_of_the_daemon_may_do_it(migrated: FreshDatabase) -> None:
    ((may,),) = await fetch(
        migrated.dsn,
        "SELECT has_table_privilege('esp_ingest', 'dead_letters', 'SELECT, UPDATE, DELETE')"
        " AND has_table_privilege('esp_ingest', 'esp_backfills', 'DELETE')",
    )
    assert may
