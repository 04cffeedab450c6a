"""What the archive's tests share: rows with everything odd in them, and a database with an archive of its own."""

from __future__ import annotations

import json
import math
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
from pydantic import SecretStr

from esp_ingestd.archive.tables import DIAGNOSTICS, TELEMETRY
from esp_ingestd.config import ArchiveSettings, DatabaseSettings, Settings
from esp_ingestd.core.reading import CHANNEL_NAMES
from esp_ingestd.database import COLUMNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from services import FreshDatabase

    from esp_ingestd.archive import Report

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


@asynccontextmanager
async def opened(fresh: FreshDatabase, folder: Path) -> AsyncIterator[Store]:
    """A store on a database that has the schema."""
    connection = await asyncpg.connect(fresh.dsn)
    try:
        yield Store(fresh, folder, connection)
    finally:
        await connection.close()
