"""The table of the archive: rows/s to Parquet and back, bytes a row, and beside them what COPY alone reaches.

usage: archive.py [--rows N] [--dsn DSN]
A day of a simulated field. The program is the real one in its own process; the database shares the machine with it.
COPY alone, out of the table in the same order and format and into it from lines that are in memory already, is measured
in the same run: compare within one run, as ratios, since another run had another neighbour.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Literal
from zlib import crc32

import asyncpg
from on_rows import run_on_rows

from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.reading import SECOND_US, to_datetime
from esp_ingestd.database import COLUMNS
from esp_ingestd.simulator import Field

WELLS = 100
DAY_US = 86_400 * SECOND_US
BATCH_ROWS = 10_000
PROGRAM = [sys.executable, "-m", "esp_ingestd"]
LIST = ", ".join(f'"{column}"' for column in COLUMNS)
IN_ORDER = f"SELECT {LIST} FROM esp_telemetry ORDER BY well_id, timestamp"  # noqa: S608 - our own column names


async def fill(dsn: str, rows: int) -> None:
    """Readings of the day before yesterday, as they come off the broker."""
    start_us = (time.time_ns() // 1000 // DAY_US - 2) * DAY_US
    field = Field(WELLS, start_us=start_us, seed=1, faults=[], interval_s=1.0)
    decoder = Decoder(())
    connection = await asyncpg.connect(dsn)
    batch: list[tuple[object, ...]] = []
    left = rows
    while left > 0:
        for well_id, payload in field.step():
            received_us = field.now_us + crc32(payload) % 400_000
            whole = b'{"well_id":"%s",' % well_id.encode() + payload[1:]
            decoded = decoder.decode("", whole, received_us).readings
            batch += [(each[0], to_datetime(each[1]), *each[2:-1], to_datetime(each[-1])) for each in decoded]
        if len(batch) >= min(BATCH_ROWS, left):
            await connection.copy_records_to_table("esp_telemetry", records=batch[:left], columns=COLUMNS)
            left -= len(batch)
            batch = []
    await connection.execute("VACUUM ANALYZE esp_telemetry")
    await connection.close()


async def copy_out(dsn: str, form: Literal["binary", "csv"] = "binary") -> tuple[bytes, float]:
    """What COPY sends of the table, and how many seconds that took."""
    connection = await asyncpg.connect(dsn)
    out = BytesIO()
    began = time.monotonic()
    await connection.copy_from_query(IN_ORDER, output=out, format=form)
    took = time.monotonic() - began
    await connection.close()
    return out.getvalue(), took


async def copy_in(dsn: str, lines: bytes) -> float:
    """Seconds that the lines take into the empty table, which is empty again afterwards."""
    connection = await asyncpg.connect(dsn)
    began = time.monotonic()
    await connection.copy_to_table("esp_telemetry", source=BytesIO(lines), columns=COLUMNS, format="csv")
    took = time.monotonic() - began
    await connection.execute("TRUNCATE esp_telemetry")
    await connection.close()
    return took


async def ask(dsn: str, query: str) -> int:
    """One number."""
    connection = await asyncpg.connect(dsn)
    found = await connection.fetchval(query)
    await connection.close()
    return int(found)


async def table_bytes(dsn: str) -> int:
    """The size of the rows in the table, without indexes: with its chunks, if it has any."""
    heap = (
        "SELECT sum(pg_table_size(c)) FROM (SELECT 'esp_telemetry'::regclass AS c UNION ALL SELECT inhrelid::regclass"
    )
    return await ask(dsn, f"{heap} FROM pg_inherits WHERE inhparent = 'esp_telemetry'::regclass) AS parts")


def run(config: Path, *command: str) -> tuple[float, float]:
    """Wall and CPU seconds of the program, its start included."""
    before, began = os.times(), time.monotonic()
    subprocess.run([*PROGRAM, *command, "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
    after, took = os.times(), time.monotonic() - began
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return took, cpu_s


def measure(folder: Path, dsn: str, rows: int) -> None:
    """Print the table."""
    config, archive = folder / "esp-ingestd.toml", folder / "archive"
    config.write_text(f'[database]\ndsn = "{dsn}"\n[archive]\nurl = "{archive}"\n[retention]\ntelemetry_days = 365\n')
    run(config, "migrate")
    asyncio.run(fill(dsn, rows))
    size = asyncio.run(table_bytes(dsn)) / rows
    out_s = asyncio.run(copy_out(dsn))[1]
    archived = run(config, "archive", "run")
    out_s = (out_s + asyncio.run(copy_out(dsn))[1]) / 2
    verified = run(config, "archive", "verify")
    lines, _ = asyncio.run(copy_out(dsn, "csv"))
    asyncio.run(ask(dsn, "WITH gone AS (DELETE FROM esp_telemetry RETURNING 1) SELECT count(*) FROM gone"))
    in_s = asyncio.run(copy_in(dsn, lines))
    restored = run(config, "restore")
    again = run(config, "restore")
    print(f"{'':<16} {'rows/s':>8} {'CPU us a row':>13} {'of COPY alone':>14}")
    for name, (took, cpu_s), alone_s in (
        ("archive run", archived, out_s),
        ("archive verify", verified, out_s),
        ("restore", restored, in_s),
        ("restore again", again, in_s),
    ):
        print(f"{name:<16} {rows / took:>8.0f} {cpu_s / rows * 1e6:>13.1f} {alone_s / took:>14.2f}")
    print(f"{'COPY out':<16} {rows / out_s:>8.0f}\n{'COPY in':<16} {rows / in_s:>8.0f}")
    (manifest,) = (archive / "esp_telemetry").glob("*.json")
    parquet = json.loads(manifest.read_bytes())["size_bytes"] / rows
    print(f"Parquet {parquet:.1f} bytes a row, the table {size:.1f}: {parquet / size:.1%}", flush=True)


if __name__ == "__main__":
    run_on_rows(__doc__, measure, rows=1_000_000, what=f"rows of the day, of {WELLS} wells")
