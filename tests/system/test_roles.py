"""The roles that docs/operations.md sets up, and what each of them may do, on a server of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from services import execute

from esp_ingestd import queries
from esp_ingestd.answer import Period
from esp_ingestd.config import DatabaseSettings, Wells
from esp_ingestd.core.batch import Batch, Batcher, Trigger
from esp_ingestd.core.decode import Decoder
from esp_ingestd.database import Database, migrate
from esp_ingestd.errors import Unavailable
from esp_ingestd.moment import Every

if TYPE_CHECKING:
    from conftest import OwnDatabase

    from esp_ingestd.embedded import Edition

MANUAL = Path(__file__).parents[2] / "docs/operations.md"
DELETIONS = (
    "DELETE FROM esp_telemetry",
    "DELETE FROM diagnostic_results",
    "DELETE FROM alarm_states",
    "DELETE FROM dead_letters",
)


async def set_up_as_the_manual_says(admin: str) -> None:
    """Run the SQL of the manual, its shell variables filled in."""
    text = MANUAL.read_text()
    (sql,) = re.findall(r"psql --set ON_ERROR_STOP=1 \) <<SQL\n(.*?)\nSQL\n", text, re.DOTALL)
    for statement in sql.replace("$migrate", "migrate").replace("$ingest", "ingest").split(";"):
        if statement.strip():
            await execute(admin, statement)
    await execute(admin, "REVOKE TEMPORARY ON DATABASE esp FROM PUBLIC")  # as sites do that are strict
    await execute(admin, "CREATE ROLE bob LOGIN PASSWORD 'bob'")
    await execute(admin, "CREATE ROLE alice LOGIN PASSWORD 'alice' IN ROLE esp_read")


def login(admin: str, user: str, password: str) -> DatabaseSettings:
    where = urlsplit(admin).netloc.rpartition("@")[2]
    return DatabaseSettings(dsn=SecretStr(f"postgresql://{user}:{password}@{where}/esp"))


def batch(*payloads: bytes, arrival_us: int = 1_700_000_000_000_000) -> Batch:
    """A batch as the daemon makes it of messages of one well."""
    batcher = Batcher(max_rows=100, max_age_ms=100)
    topic = "esp/WELL-001/telemetry"
    decoder = Decoder(["esp/{well_id}/telemetry"], max_payload_bytes=10_000, naive_timestamps="refuse")
    for delivery, payload in enumerate(payloads):
        readings, rejection = decoder.decode(topic, payload, arrival_us, len(payload))
        batcher.add_message(topic, payload, readings, rejection, delivery, arrival_us)
    return batcher.take(Trigger.DRAIN)


async def test_each_role_of_the_manual_may_do_its_work_and_no_more(edition: Edition, own_database: OwnDatabase) -> None:
    admin = own_database(edition).dsn
    await set_up_as_the_manual_says(admin)
    found, applied = await migrate(login(admin, "esp_migrate", "migrate"))
    assert found == edition
    assert applied

    daemon = Database(login(admin, "esp_ingestd", "ingest"))
    reading = b'{"timestamp": 1700000000, "pip": 800}'
    assert (await daemon.write(batch(reading, b"no JSON"))).stored == 1
    assert (await daemon.write(batch(reading, b"no JSON"))).duplicates == 1  # by way of a temporary table
    await daemon.unpublished_events(None, 10)
    await daemon.mark_published([], 0)
    assert [await daemon.roll_up(hour) for hour in await daemon.stale_hours()] == [1]
    if edition == "timescaledb-community":
        owner = await asyncpg.connect(login(admin, "esp_migrate", "migrate").dsn.get_secret_value())
        await owner.execute("SELECT compress_chunk(c, if_not_compressed => true) FROM show_chunks('esp_telemetry') c")
        await owner.close()
        late = b'{"timestamp": 1699999999, "pip": 801, "well_id": "WELL-001"}'
        written = await daemon.write(batch(late, reading, arrival_us=1_705_000_000_000_000))
        assert (written.stored, written.duplicates) == (1, 1)
    await daemon.close()

    people = Database(login(admin, "alice", "alice"), read_only=True)
    assert [row["well_id"] for row in (await queries.wells(people, Wells())).rows] == ["WELL-001"]
    assert (await queries.latest(people, Wells(), ["WELL-001"], ["pip"])).rows[0]["pip"] == 800.0
    assert (await queries.summary(people, [], 0)).rows[0]["well_id"] == "WELL-001"
    assert (await queries.standing_alarms(people, (), None, None)).rows == []
    assert (await queries.alarm_history(people, (), None, 0, 10)).rows == []
    everything = Period(since_us=0, until_us=queries.FOREVER_US)
    for every in Every:
        await queries.history(people, Wells(), "WELL-001", everything, every, ["pip"], 10)
    await people.close()
    stranger = Database(login(admin, "bob", "bob"))
    with pytest.raises(Unavailable, match=r"42501 permission denied .*; what each role may do: .*, The database"):
        await stranger.connect()
    await stranger.close()

    ingest = await asyncpg.connect(login(admin, "esp_ingestd", "ingest").dsn.get_secret_value())
    reader = await asyncpg.connect(login(admin, "alice", "alice").dsn.get_secret_value())
    assert await reader.fetchval("SELECT count(*) FROM esp_telemetry WHERE pip = 800") == 1
    assert await reader.fetchval("SELECT times FROM dead_letters") == 2
    assert await reader.fetchval("SELECT pip_mean FROM telemetry_hourly") == 800
    assert await reader.fetchval("SELECT readings FROM telemetry_daily") == 1
    for connection, statement in [
        # `dead-letters replay` deletes what it could store at last.
        *[(ingest, deletion) for deletion in DELETIONS if "dead_letters" not in deletion],
        (ingest, "UPDATE esp_telemetry SET pip = 0"),
        (ingest, "ALTER TABLE esp_telemetry ADD COLUMN mine text"),
        (ingest, "CREATE TABLE mine (id integer)"),
        *[(reader, deletion) for deletion in DELETIONS],
        (reader, "INSERT INTO esp_telemetry (well_id, timestamp, received_at) VALUES ('W', now(), now())"),
    ]:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await ingest.close()
    await reader.close()
