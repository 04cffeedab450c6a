"""The archive against real databases: what goes in comes back, nothing is dropped that is not in it."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from esp_ingestd.archive import Outcome, Report
from esp_ingestd.archive.archiving import archive_days, verify
from esp_ingestd.archive.restoring import restore
from esp_ingestd.archive.retention import retain, status
from esp_ingestd.archive.tables import DIAGNOSTICS, TELEMETRY
from esp_ingestd.config import ArchiveSettings, DatabaseSettings, Settings
from esp_ingestd.core.reading import CHANNEL_NAMES
from esp_ingestd.database import COLUMNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from services import FreshDatabase

DAY = datetime(2026, 3, 1, tzinfo=UTC)
Row = tuple[Any, ...]


def row(second: float, well_id: str = "WELL-1", **values: object) -> Row:
    """A reading of `DAY`, so many seconds after midnight."""
    moment = DAY + timedelta(seconds=second)
    channels = [values.get(name) for name in CHANNEL_NAMES]
    received = values.get("received_at", moment + timedelta(microseconds=1_234_567))
    return (well_id, moment, *channels, values.get("extra"), values.get("bad_channels"), received)


def odd_rows() -> list[Row]:
    """Everything that a row can be."""
    return [
        row(
            0.000001, flow_rate=0.1, pip=-0.0, motor_current=1e-300, motor_temp=5e-324, vibration=1.7976931348623157e308
        ),
        row(0.000002, flow_rate=math.nan, pip=math.inf, torque=-math.inf, gor=1 / 3),
        row(86_399.999999, "WELL-1", **{name: index + 0.1 for index, name in enumerate(CHANNEL_NAMES)}),
        row(1, "WELL-2", extra=json.dumps({"a": None, "b": ['x,"y"\n', {"c": 1.50}], "ü": "\u2028'"})),
        row(2, "WELL-2", bad_channels=["pip"], extra='{"pip": "broken"}'),
        row(3, "WELL-2", bad_channels=["pip", "motor_temp"], pip=-5.0),
        row(4, "WELL-2", bad_channels=[]),
        row(5, "a-Z_9", bad_channels=['we"ird,{}', "back\\slash", "NULL", ""]),
        row(6, "a-Z_9", extra="{}"),
        row(7, "a-Z_9", flow_rate=1.0, received_at=DAY + timedelta(days=400)),
    ]


def event(second: float, event_id: str = "e1", *, published: bool = True) -> Row:
    moment = DAY + timedelta(seconds=second)
    text = ("PUMP_OFF", "LOW_FLOW", "high", "raised", "active")
    snapshot = json.dumps({"pip": 1.5, "bad_channels": None})
    actions, evidence, whole = json.dumps(["a, b", 'c "d"\n']), "{}", json.dumps({"event_id": event_id, "count": 1})
    when = moment + timedelta(milliseconds=3) if published else None
    return (event_id, "a1", "WELL-1", moment, *text, 0.7, actions, "two\nlines", snapshot, evidence, "v1", when, whole)


class Store:
    """A database and an archive of its own."""

    def __init__(self, fresh: FreshDatabase, folder: Path, connection: asyncpg.Connection[Any]) -> None:
        self.edition = fresh.edition
        self.folder = folder
        self.connection = connection
        self.settings = Settings(
            database=DatabaseSettings(dsn=SecretStr(fresh.dsn)), archive=ArchiveSettings(url=str(folder))
        )

    async def add(self, rows: Sequence[Row]) -> None:
        await self.connection.copy_records_to_table("esp_telemetry", records=rows, columns=COLUMNS)

    async def add_events(self, rows: Sequence[Row]) -> None:
        await self.connection.copy_records_to_table("diagnostic_results", records=rows, columns=DIAGNOSTICS.names)

    async def rows(self, table: str = "esp_telemetry") -> list[str]:
        """Every row, every bit: floats as they are sent, everything else as text."""
        known = TELEMETRY if table != "diagnostic_results" else DIAGNOSTICS
        names = ", ".join(
            f"encode(float8send(\"{name}\"), 'hex')" if name in (*CHANNEL_NAMES, "confidence") else f'"{name}"::text'
            for name in known.names
        )
        return [str(each) for each in await self.connection.fetch(f"SELECT {names} FROM {table} ORDER BY 1, 2, 3, 4")]  # noqa: S608 - our own names

    async def count(self, table: str = "esp_telemetry") -> int:
        return int(await self.connection.fetchval(f"SELECT count(*) FROM {table}"))  # noqa: S608 - our own names

    async def empty(self) -> None:
        await self.connection.execute("TRUNCATE esp_telemetry, diagnostic_results, archived_days")

    def file(self, table: str = "esp_telemetry") -> Path:
        """The only Parquet file that a manifest names."""
        (manifest,) = (self.folder / table).glob("*.json")
        return self.folder / table / str(json.loads(manifest.read_bytes())["file"])

    def with_(self, **sections: object) -> Settings:
        return self.settings.model_copy(update=sections)


def became(report: Report) -> list[tuple[str, str]]:
    return [(each.what.value, re.sub(r"SHA-256 is .*", "SHA-256", each.why)) for each in report.days]


@pytest.fixture
async def store(migrated: FreshDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    connection = await asyncpg.connect(migrated.dsn)
    yield Store(migrated, tmp_path / "archive", connection)
    await connection.close()


# ------------------------------------------------------------------------------- what goes in comes back


async def test_every_value_comes_back_after_archive_drop_and_restore(store: Store) -> None:
    await store.add(odd_rows())
    await store.add_events([event(1), event(2, "é2"), event(3, "E3")])
    before, events = await store.rows(), await store.rows("diagnostic_results")
    assert became(await archive_days(store.settings)) == [("archived", "")] * 2
    assert became(await verify(store.settings)) == [("verified", "")] * 2
    report = await retain(store.settings)
    assert {each.what for each in report.days} == {Outcome.DROPPED}
    assert await store.count() == await store.count("diagnostic_results") == 0
    restored = await restore(store.settings, url=str(store.folder))
    assert [(each.what, each.rows) for each in restored.days] == [(Outcome.RESTORED, 10), (Outcome.RESTORED, 3)]
    assert await store.rows() == before
    assert await store.rows("diagnostic_results") == events
    again = await restore(store.settings, url=str(store.folder))
    assert [each.rows for each in again.days] == [0, 0]
    assert await store.rows() == before


# --------------------------------------------------------------- what comes late is added, before and after a drop


async def test_a_late_row_of_an_archived_day_is_archived_with_it(store: Store) -> None:
    await store.add([row(second) for second in range(5)])
    await archive_days(store.settings)
    assert became(await archive_days(store.settings)) == [], "nothing is due"
    first = store.file()
    await store.add([row(2.5), row(9, "WELL-0")])
    assert became(await retain(store.settings)) == [("kept", "2026-03-01 has other rows than were archived")]
    assert became(await archive_days(store.settings)) == [("merged", "")]
    assert not first.exists()
    assert [each["well_id"] for each in pq.read_table(store.file()).to_pylist()] == ["WELL-0", *["WELL-1"] * 6]
    assert became(await retain(store.settings)) == [("dropped", "")]


async def test_a_late_row_of_a_dropped_day_is_added_to_what_was_dropped(store: Store) -> None:
    await store.add(odd_rows())
    before = await store.rows()
    await archive_days(store.settings)
    await retain(store.settings)
    late = row(0.5, "WELL-1", flow_rate=7.0)
    again = row(1, "WELL-2", flow_rate=8.0, received_at=DAY + timedelta(days=50))
    await store.add([late, again])
    assert (await status(store.settings)).unarchived_days == 1
    assert became(await retain(store.settings)) == [("kept", "2026-03-01 has other rows than were archived")]
    assert became(await archive_days(store.settings)) == [("merged", "")]
    assert became(await verify(store.settings)) == [("verified", "")]
    assert became(await retain(store.settings)) == [("dropped", "")]
    assert await store.count() == 0
    await restore(store.settings, url=str(store.folder))
    await store.connection.execute("DELETE FROM esp_telemetry WHERE flow_rate = 7")
    assert await store.rows() == before, "of a key that came again the first counts"


async def test_a_day_that_was_restored_is_dropped_again_without_another_file(store: Store) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    await retain(store.settings)
    file = store.file()
    restored = await restore(store.settings, url=str(store.folder))
    assert "retention drops it again" in restored.days[0].why
    await store.connection.execute("DELETE FROM esp_rollup_marks")
    assert became(await archive_days(store.settings)) == [("verified", "the archive had all of it")]
    assert became(await retain(store.settings)) == [("dropped", "")]
    assert store.file() == file


async def test_what_is_not_rolled_up_yet_is_kept(store: Store) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    await store.connection.execute("INSERT INTO esp_rollup_marks VALUES ($1)", DAY + timedelta(hours=5))
    assert became(await retain(store.settings)) == [("kept", "has hours that are not rolled up yet")]
    assert await store.count() == 10
