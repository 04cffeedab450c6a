"""The table of backfill: rows/s from CSV, JSON lines and Parquet, and beside them what COPY alone reaches.

usage: backfill.py [--rows N] [--dsn DSN]
The program is the real one in its own process; the database shares the machine with it. COPY alone, from rows that
are in memory already and in batches of the same size, is measured in the same run, before and after: compare within
one run, as ratios, since another run had another neighbour.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pyarrow.csv
import pyarrow.parquet
from load import reading
from on_rows import run_on_rows

from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.reading import to_datetime, to_iso
from esp_ingestd.database import COLUMNS

WELLS = 100
STEP_MS = 1_000
BATCH_ROWS = 10_000
PROGRAM = [sys.executable, "-m", "esp_ingestd"]
CHANNELS = reading(0).partition(b",")[2]
Record = tuple[object, ...]


def lines(rows: int) -> Iterator[bytes]:
    """JSON lines: all wells in turn, a reading of each a second, the readings those of the other benchmarks."""
    first_ms = int(time.time()) * 1000 - rows // WELLS * STEP_MS
    for number in range(rows):
        well, step = number % WELLS, number // WELLS
        moment = to_iso((first_ms + step * STEP_MS) * 1000).encode()
        yield b'{"well_id":"WELL-%05d","timestamp":"%s",' % (well, moment) + CHANNELS + b"\n"


def write_files(folder: Path, rows: int) -> list[Path]:
    """The same readings in three kinds of files."""
    jsonl, csv, parquet = (folder / f"history.{suffix}" for suffix in ("jsonl", "csv", "parquet"))
    with jsonl.open("wb") as as_json, csv.open("w") as as_csv:
        for number, line in enumerate(lines(rows)):
            as_json.write(line)
            values = json.loads(line)
            if not number:
                print(",".join(values), file=as_csv)
            print(",".join(map(str, values.values())), file=as_csv)
    types = {"timestamp": pyarrow.timestamp("us", "UTC")}
    table = pyarrow.csv.read_csv(csv, convert_options=pyarrow.csv.ConvertOptions(column_types=types))
    pyarrow.parquet.write_table(table, parquet)
    return [csv, jsonl, parquet]


def records(rows: int) -> list[Record]:
    """The same readings as COPY takes them."""
    decoder, now_us = Decoder(()), time.time_ns() // 1000
    decoded = (decoder.decode("", line, now_us).readings[0] for line in lines(rows))
    return [(each[0], to_datetime(each[1]), *each[2:-1], to_datetime(each[-1])) for each in decoded]


async def copy_alone(dsn: str, rows: list[Record]) -> float:
    """Rows/s of COPY into the empty table."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("TRUNCATE esp_telemetry")
    began = time.monotonic()
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        await connection.copy_records_to_table("esp_telemetry", records=batch, columns=COLUMNS)
    took = time.monotonic() - began
    await connection.execute("TRUNCATE esp_telemetry")
    await connection.close()
    return len(rows) / took


def load(config: Path, path: Path) -> tuple[float, float]:
    """Rows/s and CPU microseconds a row of the program; what it says is checked."""
    before = os.times()
    command = [*PROGRAM, "backfill", "--config", str(config), str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = os.times()
    rows = int(said.rpartition(f"{path}: ")[2].partition(" rows")[0])
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return float(said.rpartition(", ")[2].partition(" rows/s")[0]), cpu_s / rows * 1e6


def measure(folder: Path, dsn: str, rows: int) -> None:
    """Print the table."""
    config = folder / "esp-ingestd.toml"
    config.write_text(f'[database]\ndsn = "{dsn}"\n')
    subprocess.run([*PROGRAM, "migrate", "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
    copied = records(rows)
    print(f"{'':<10} {'rows/s':>8} {'CPU us a row':>13} {'of COPY alone':>14}")
    for path in write_files(folder, rows):
        alone = asyncio.run(copy_alone(dsn, copied))
        rate, cpu_us = load(config, path)
        again, again_us = load(config, path)
        alone = (alone + asyncio.run(copy_alone(dsn, copied))) / 2
        print(f"{path.suffix[1:]:<10} {rate:>8.0f} {cpu_us:>13.1f} {rate / alone:>14.2f}")
        print(f"{'  again':<10} {again:>8.0f} {again_us:>13.1f} {again / alone:>14.2f}")
        print(f"{'  COPY':<10} {alone:>8.0f}", flush=True)


if __name__ == "__main__":
    run_on_rows(__doc__, measure, rows=300_000, what=f"rows of each file, of {WELLS} wells")
