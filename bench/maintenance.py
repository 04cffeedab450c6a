"""The table of the store's upkeep: compression, rollups, and what maintenance costs ingest.

usage: maintenance.py [--days D] [--wells N] [--seconds S] [--bindir DIR]
A simulated field of N wells, a reading a minute for D days, is loaded as the daemon writes it, rolled up, and, on the
community edition, compressed by the columnstore's own job. Then the daemon takes as much as it can for S seconds, in
turn without maintenance and with it: rollups every second, a pass of the archive over days that are not archived yet.
Compare within one run.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import asyncpg
from ingest import daemon, measure
from pydantic import SecretStr

from esp_ingestd import embedded
from esp_ingestd.config import DatabaseSettings
from esp_ingestd.core.batch import Batch
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.reading import SECOND_US, Reading
from esp_ingestd.database import Database, migrate
from esp_ingestd.publisher import from_field
from esp_ingestd.rollup import DAY_US, HOUR_US
from esp_ingestd.simulator import Field

MINUTE_S = 60
HOUR_S = 3_600
DAY_S = 86_400
SECOND_WELLS = 100
BATCH_ROWS = 5_000
ROUNDS = 3
_JOB = "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name = 'esp_telemetry'"


def simulate(wells: int, days: int) -> Iterator[Reading]:
    """Readings of a healthy field, those of all wells in order of time; the last are ten days old."""
    start_us = (time.time_ns() // 1000 // DAY_US - 10 - days) * DAY_US
    field = Field(wells, start_us=start_us, seed=1, faults=[], interval_s=MINUTE_S)
    decoder = Decoder(())
    for sent in islice(from_field(field), wells * days * DAY_S // MINUTE_S):
        (reading,) = decoder.decode("", sent.payload, sent.due_us).readings
        yield reading


async def load(store: Database, readings: Iterator[Reading]) -> tuple[int, float]:
    """Rows, and seconds that the database took for them."""
    rows, took = 0, 0.0
    while some := list(islice(readings, BATCH_ROWS)):
        began = time.perf_counter()
        await store.write(Batch(readings=some))
        took += time.perf_counter() - began
        rows += len(some)
    return rows, took


async def measure_rollups(dsn: str) -> None:
    """Print rows/s of rolling up an hour in which each well sends every second, beside those of storing it."""
    store = Database(DatabaseSettings(dsn=SecretStr(dsn)))
    await store.connect()
    hour_us = time.time_ns() // 1000 // HOUR_US * HOUR_US - 2 * DAY_US
    some = next(simulate(1, 1))
    seconds = range(HOUR_S)
    wells = [f"EVERY-SECOND-{number:03d}" for number in range(SECOND_WELLS)]
    moments = ((hour_us + second * SECOND_US, well_id) for second in seconds for well_id in wells)
    readings = (some._replace(well_id=well_id, timestamp_us=at_us, received_us=at_us) for at_us, well_id in moments)
    rows, took = await load(store, readings)
    began = time.perf_counter()
    counted = sum([await store.roll_up(hour) for hour in await store.stale_hours()])
    rate = counted / (time.perf_counter() - began)
    print(f"rollups: an hour of {SECOND_WELLS} wells, a reading a second, {rows} rows", end=": ")
    print(f"stored {rows / took:.0f} rows/s, rolled up {rate:.0f}, {rate * took / rows:.1f} of that", flush=True)
    await store.close()


async def measure_compression(dsn: str, wells: int, days: int) -> None:
    """Print how small the columnstore makes a simulated field, where this edition has one."""
    settings = DatabaseSettings(dsn=SecretStr(dsn))
    edition, _ = await migrate(settings)
    if edition != "timescaledb-community":
        print(f"compression: not measured here: {edition} has none", flush=True)
        return
    store = Database(settings)
    await store.connect()
    connection = await asyncpg.connect(dsn)
    rows, _ = await load(store, simulate(wells, days))
    job = await connection.fetchval(_JOB)
    began = time.perf_counter()
    await connection.execute(f"CALL run_job({job})")
    rate = rows / (time.perf_counter() - began)
    ratio = (await store.store_health()).tables["esp_telemetry"].compression_ratio
    print(f"compression: {wells} wells, {days} days, a reading a minute, {rows} rows", end=": ")
    print(f"to {1 / ratio:.3f} of their size, 1/{ratio:.1f}; {rate:.0f} rows/s", flush=True)
    await connection.close()
    await store.close()


def compare_ingest(folder: Path, broker: embedded.Broker, dsn: str, seconds: float) -> None:
    """Print readings/s without and with maintenance, each time in turn, and the ratio of the medians."""
    reached: dict[bool, list[float]] = {False: [], True: []}
    header = f"{'array':>5} {'rate/s':>7} {'wells':>6} {'readings':>9} {'readings/s':>11} {'CPU us':>9}"
    print(f"{'':<16} {header} {'p50 ms':>8} {'p99 ms':>8} {'peak MB':>8}")
    for number in range(2 * ROUNDS):
        is_on = number % 2 == 1
        place = folder / f"run{number}"
        place.mkdir()
        with daemon(place, broker, dsn, "5", "", more=upkeep(place, is_on=is_on)) as subject:
            days = 2.0 + number / 50  # each load has an hour of its own
            row, rate = measure(subject, broker.port, seconds=seconds, rate=0, array=1, wells=1000, days=days)
        print(f"{'with maintenance' if is_on else 'without':<16} {row}", flush=True)
        reached[is_on].append(rate)
    without, beside = (statistics.median(reached[is_on]) for is_on in (False, True))
    print(f"ingest with maintenance at work: {beside / without:.2f} of that without")


def upkeep(folder: Path, *, is_on: bool) -> str:
    """Lines of the configuration: rollups at once, an archive that is empty at first, and one pass of it a load."""
    if not is_on:
        return "[maintenance]\nenabled = false\n"
    return f'[maintenance]\ninterval_s = 1\narchive_interval_s = 30\n[archive]\nurl = "{folder}/archive"\n'


def main() -> None:
    """Start broker and database, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=60, help="days of the simulated field (default 60)")
    parser.add_argument("--wells", type=int, default=4, help="its wells (default 4)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load, s (default 10)")
    parser.add_argument("--bindir", type=Path, help="of another PostgreSQL (default: the best here)")
    options = parser.parse_args()
    found = embedded.installations(options.bindir)[:1] if options.bindir else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = embedded.Database(folder / "database", installation=found[0] if found else None)
        with embedded.Broker(folder / "broker") as broker, server as database:
            print(f"{database.edition_hint}, {database.source}", flush=True)
            asyncio.run(measure_compression(database.dsn, options.wells, options.days))
            asyncio.run(measure_rollups(database.dsn))
            compare_ingest(folder, broker, database.dsn, options.seconds)


if __name__ == "__main__":
    main()
