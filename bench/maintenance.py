"""The table of the store's upkeep: compression, rollups, and what maintenance costs ingest.

usage: maintenance.py [--days D] [--wells N] [--recording FILE] [--seconds S] [--pairs P] [--bindir DIR]
A simulated field of N wells is loaded for D days as the daemon writes it, and, on the community edition, compressed by
the columnstore's own job: with a reading a minute, with one in five, and a minute's in whole units alone. A recording
(CSV, one well) is compressed likewise: its stretches of three days as that many wells, as it is, and in the digits that
the simulated field has. Then an hour is rolled up. Then the daemon takes as much as it can for S seconds, without
maintenance and with it, P times each, in turn one first and the other: rollups without a pause between their passes,
and the archive's pass over days that are not archived yet. What counts is the median of the ratios of those pairs,
since other programs on the machine burden both of a pair; the least and the greatest say how much that moves.
"""

import argparse
import asyncio
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import asyncpg
from ingest import daemon, measure
from pydantic import SecretStr

from esp_ingestd import embedded
from esp_ingestd.config import DatabaseSettings
from esp_ingestd.core.batch import Batch
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.reading import CHANNEL_NAMES, DAY_US, HOUR_US, SECOND_US, Reading
from esp_ingestd.database import Database, migrate
from esp_ingestd.publisher import from_field
from esp_ingestd.simulator import Field

MINUTE_S = 60
FIVE_MINUTES_S = 300
HOUR_S = 3_600
DAY_S = 86_400
SECOND_WELLS = 100
BATCH_ROWS = 5_000
_JOB = "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name = 'esp_telemetry'"


def simulate(wells: int, days: int, interval_s: int = MINUTE_S) -> Iterator[Reading]:
    """Readings of a healthy field, those of all wells in order of time; the last are ten days old."""
    start_us = (time.time_ns() // 1000 // DAY_US - 10 - days) * DAY_US
    field = Field(wells, start_us=start_us, seed=1, faults=[], interval_s=interval_s)
    decoder = Decoder(())
    for sent in islice(from_field(field), wells * days * DAY_S // interval_s):
        (reading,) = decoder.decode("", sent.payload, sent.due_us).readings
        yield reading


DIGITS = dict.fromkeys(CHANNEL_NAMES, 1) | {"vsd_frequency": 2}
"""Decimals of what the recording has, as the simulated field sends it."""
UNITS = dict.fromkeys(CHANNEL_NAMES, 0) | {"vsd_frequency": 1, "vibration": 1}
STRETCH_US = 3 * DAY_US


def rounded(readings: Iterator[Reading], decimals: Mapping[str, int]) -> Iterator[Reading]:
    """The same with so many decimals, by channel."""
    for reading in readings:
        cells = ((name, getattr(reading, name)) for name in CHANNEL_NAMES)
        yield reading._replace(**{name: round(cell, decimals[name]) for name, cell in cells if cell is not None})


def recorded(path: Path) -> Iterator[Reading]:
    """The stretches of a recording, each as a well of its own, all at the same time; in order of time."""
    start_us = (time.time_ns() // 1000 // DAY_US - 20) * DAY_US
    decoder = Decoder(())
    with path.open("rb") as file:
        lines = list(csv.DictReader(map(bytes.decode, file)))
    payloads = (json.dumps({key: _cell(text) for key, text in line.items() if text}).encode() for line in lines)
    readings = [reading for payload in payloads for reading in decoder.decode("", payload, start_us).readings]
    first_us = readings[0].timestamp_us // DAY_US * DAY_US
    moved = []
    for reading in readings:
        stretch, since_us = divmod(reading.timestamp_us - first_us, STRETCH_US)
        moved.append(
            reading._replace(
                well_id=f"STRETCH-{stretch:03d}", timestamp_us=start_us + since_us, received_us=start_us + since_us
            )
        )
    yield from sorted(moved, key=lambda reading: reading.timestamp_us)


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


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


async def measure_compression(dsn: str, what: str, readings: Iterator[Reading]) -> None:
    """Print how small the columnstore makes these, where this edition has one; they are gone afterwards."""
    settings = DatabaseSettings(dsn=SecretStr(dsn))
    edition, _ = await migrate(settings)
    if edition != "timescaledb-community":
        print(f"compression: not measured here: {edition} has none", flush=True)
        return
    store = Database(settings)
    await store.connect()
    connection = await asyncpg.connect(dsn)
    rows, _ = await load(store, readings)
    job = await connection.fetchval(_JOB)
    began = time.perf_counter()
    await connection.execute(f"CALL run_job({job})")
    rate = rows / (time.perf_counter() - began)
    ratio = (await store.store_health()).tables["esp_telemetry"].compression_ratio
    print(
        f"compression: {what}, {rows} rows: to {1 / ratio:.3f} of their size, 1/{ratio:.1f}; {rate:.0f} rows/s",
        flush=True,
    )
    await connection.execute("TRUNCATE esp_telemetry, esp_rollup_marks")
    await connection.close()
    await store.close()


def compare_ingest(folder: Path, broker: embedded.Broker, dsn: str, seconds: float, pairs: int) -> None:
    """Print readings/s without and with maintenance, in turn, and what of the one the other is."""
    header = f"{'array':>5} {'rate/s':>7} {'wells':>6} {'readings':>9} {'readings/s':>11} {'CPU us':>9}"
    print(f"{'':<16} {header} {'p50 ms':>8} {'p99 ms':>8} {'peak MB':>8}")
    ratios = []
    for pair in range(pairs):
        reached = {}
        for is_on in (False, True) if pair % 2 else (True, False):
            place = folder / f"run{pair}{is_on}"
            place.mkdir()
            with daemon(place, broker, dsn, "5", "", more=upkeep(place, is_on=is_on)) as subject:
                days = 2.0 + (2 * pair + is_on) / 24  # each load has an hour of its own
                row, reached[is_on] = measure(
                    subject, broker.port, seconds=seconds, rate=0, array=1, wells=1000, days=days
                )
            print(f"{'with maintenance' if is_on else 'without':<16} {row}", flush=True)
        ratios.append(reached[True] / reached[False])
    middle = statistics.median(ratios)
    print(f"ingest with maintenance at work: {middle:.2f} of that without ({min(ratios):.2f} to {max(ratios):.2f})")


def upkeep(folder: Path, *, is_on: bool) -> str:
    """Lines of the configuration: rollups at once, an archive that is empty at first, and one pass of it a load."""
    if not is_on:
        return "[maintenance]\nenabled = false\n"
    return f'[maintenance]\ninterval_s = 1\narchive_interval_s = 30\n[archive]\nurl = "{folder}/archive"\n'


def samples(wells: int, days: int, recording: Path | None) -> dict[str, Iterator[Reading]]:
    """What is compressed, by what it is."""
    field = f"{wells} simulated wells, {days} days, a reading"
    found = {
        f"{field} a minute": simulate(wells, days),
        f"{field} in five minutes": simulate(wells, days, FIVE_MINUTES_S),
        f"{field} a minute, in whole units": rounded(simulate(wells, days), UNITS),
    }
    if recording:
        found |= {
            recording.name: recorded(recording),
            f"{recording.name} in the simulated digits": rounded(recorded(recording), DIGITS),
        }
    return found


def main() -> None:
    """Start broker and database, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30, help="days of the simulated field (default 30)")
    parser.add_argument("--wells", type=int, default=20, help="its wells (default 20)")
    parser.add_argument("--recording", type=Path, help="a CSV of one well, to be compressed too")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each load, s (default 30)")
    parser.add_argument("--pairs", type=int, default=5, help="loads with and without maintenance (default 5 of each)")
    parser.add_argument("--bindir", type=Path, help="of another PostgreSQL (default: the best here)")
    options = parser.parse_args()
    found = embedded.installations(options.bindir)[:1] if options.bindir else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = embedded.Database(folder / "database", installation=found[0] if found else None)
        with embedded.Broker(folder / "broker") as broker, server as database:
            print(f"{database.edition_hint}, {database.source}", flush=True)
            asyncio.run(migrate(DatabaseSettings(dsn=SecretStr(database.dsn))))
            for what, readings in samples(options.wells, options.days, options.recording).items():
                asyncio.run(measure_compression(database.dsn, what, readings))
            asyncio.run(measure_rollups(database.dsn))
            compare_ingest(folder, broker, database.dsn, options.seconds, options.pairs)


if __name__ == "__main__":
    main()
