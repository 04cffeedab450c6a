"""The table of the archive: rows/s to Parquet and back, bytes a row, memory, and beside them what COPY alone reaches.

usage: archive.py [--rows N] [--dsn DSN]
A day of a simulated field: as many of its wells as fill more than a row group of the file are simulated, the others are
copies of those under names of their own. The program is the real one in its own process; the database shares the
machine with it. What the program needs to start counts in rows/s, and is left out in the column beside it. COPY alone,
out of the table in the same order and format and into it from lines that are in memory already, is measured in the same
run: compare within one run, as ratios, since another run had another neighbour.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple
from zlib import crc32

import asyncpg
from on_rows import run_on_rows

from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.reading import SECOND_US, to_datetime
from esp_ingestd.database import COLUMNS
from esp_ingestd.simulator import Field

WELLS = 100
DAY_US = 86_400 * SECOND_US
SIMULATED_ROWS = 250_000  # more than a row group has: no well is compressed beside its own copy
PROGRAM = [sys.executable, "-m", "esp_ingestd"]
LIST = ", ".join(f'"{column}"' for column in COLUMNS)
FILL = f"""
    INSERT INTO esp_telemetry ({LIST})
    SELECT 'WELL-' || lpad(number::text, 3, '0'), {LIST.partition(", ")[2]}
    FROM simulated, LATERAL generate_series(substr(well_id, 6)::int, $2::int, $1::int) AS number
    ORDER BY "timestamp", number
"""  # noqa: S608 - our own column names
IN_ORDER = f"SELECT {LIST} FROM esp_telemetry ORDER BY well_id, timestamp"  # noqa: S608 - our own column names


async def fill(dsn: str, rows: int) -> None:
    """Readings of the day before yesterday, in order of time, as they come off the broker."""
    instants = max(rows // WELLS, 1)
    simulated = min(WELLS, ceil(SIMULATED_ROWS / instants))
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TEMPORARY TABLE simulated (LIKE esp_telemetry)")
    await connection.copy_records_to_table("simulated", records=simulate(simulated, instants), columns=COLUMNS)
    await connection.execute(FILL, simulated, WELLS, timeout=3600)
    await connection.execute("VACUUM ANALYZE esp_telemetry", timeout=3600)
    await connection.close()


def simulate(wells: int, instants: int) -> Iterator[tuple[object, ...]]:
    """Their readings as rows, a second apart."""
    start_us = (time.time_ns() // 1000 // DAY_US - 2) * DAY_US
    field = Field(wells, start_us=start_us, seed=1, faults=[], interval_s=1.0)
    decoder = Decoder(())
    for _ in range(instants):
        received_us = field.now_us
        for _, payload in field.step():
            (reading,) = decoder.decode("", payload, received_us + crc32(payload) % 400_000).readings
            yield reading[0], to_datetime(reading[1]), *reading[2:-1], to_datetime(reading[-1])


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


class Cost(NamedTuple):
    """What a run of the program took."""

    took_s: float
    cpu_s: float
    peak_mb: float


def run(config: Path, *command: str) -> Cost:
    """Run the program, from its start to its end."""
    before, began, peak_kb = os.times(), time.monotonic(), 0
    process = subprocess.Popen([*PROGRAM, *command, "--config", str(config)], stdout=subprocess.DEVNULL)
    # Asked while it runs: what the system says of a child that has ended includes who started it.
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        peak_kb = int(found[1]) if found else peak_kb
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    after, took_s = os.times(), time.monotonic() - began
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return Cost(took_s, cpu_s, peak_kb / 1_000)


def measure(folder: Path, dsn: str, rows: int) -> None:
    """Print the table."""
    config, archive = folder / "esp-ingestd.toml", folder / "archive"
    config.write_text(f'[database]\ndsn = "{dsn}"\n[archive]\nurl = "{archive}"\n[retention]\ntelemetry_days = 365\n')
    run(config, "migrate")
    asyncio.run(fill(dsn, rows))
    rows = asyncio.run(ask(dsn, "SELECT count(*) FROM esp_telemetry"))
    size = asyncio.run(table_bytes(dsn)) / rows
    run(config, "archive", "verify")  # the program's own files into the system's cache, as the table's are
    start = run(config, "archive", "verify")
    out_s = asyncio.run(copy_out(dsn))[1]
    archived = run(config, "archive", "run")
    out_s = (out_s + asyncio.run(copy_out(dsn))[1]) / 2
    verified = run(config, "archive", "verify")
    lines, _ = asyncio.run(copy_out(dsn, "csv"))
    asyncio.run(ask(dsn, "WITH gone AS (DELETE FROM esp_telemetry RETURNING 1) SELECT count(*) FROM gone"))
    in_s = asyncio.run(copy_in(dsn, lines))
    restored = run(config, "restore")
    again = run(config, "restore")
    print(f"{'':<16} {'rows/s':>8} {'after start':>12} {'CPU us a row':>13} {'peak MB':>8} {'of COPY alone':>14}")
    for name, cost, alone_s in (
        ("archive run", archived, out_s),
        ("archive verify", verified, out_s),
        ("restore", restored, in_s),
        ("restore again", again, in_s),
    ):
        rates = (
            f"{rows / cost.took_s:>8.0f} {rows / (cost.took_s - start.took_s):>12.0f} {cost.cpu_s / rows * 1e6:>13.1f}"
        )
        print(f"{name:<16} {rates} {cost.peak_mb:>8.0f} {alone_s / cost.took_s:>14.2f}")
    print(f"{'COPY out':<16} {rows / out_s:>8.0f}\n{'COPY in':<16} {rows / in_s:>8.0f}")
    print(f"start: {start.took_s:.2f} s, {start.cpu_s:.2f} s of CPU, {start.peak_mb:.0f} MB")
    (manifest,) = (archive / "esp_telemetry").glob("*.json")
    parquet = json.loads(manifest.read_bytes())["size_bytes"] / rows
    print(f"Parquet {parquet:.1f} bytes a row, the table {size:.1f}: {parquet / size:.1%}", flush=True)


if __name__ == "__main__":
    run_on_rows(__doc__, measure, rows=1_000_000, what=f"rows of the day, of {WELLS} wells")
