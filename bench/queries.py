"""The table of questions: how long each takes to be answered, with so many readings in the database.

usage: queries.py [--rows N] [--wells N] [--days N] [--dsn DSN]
A question is asked as the program does it, on a new connection each time, so that planning for every chunk counts; what
Python needs to start does not. The database is filled inside the server; the rollups are those of the program.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr

from esp_ingestd import embedded, queries
from esp_ingestd.answer import Period
from esp_ingestd.config import DatabaseSettings, Wells
from esp_ingestd.core.reading import CHANNEL_NAMES, DAY_US
from esp_ingestd.database import Database, migrate
from esp_ingestd.moment import Every

ASKED = 5
FILL = """
    INSERT INTO esp_telemetry (well_id, "timestamp", flow_rate, pip, motor_current, motor_temp, vsd_frequency,
        received_at)
    SELECT 'WELL-' || lpad(well::text, 5, '0'), moment, 1000 + well % 97, 800 + step % 53, 42 + step % 11,
        95 + step % 7, 50 + step % 5, moment
    FROM (SELECT step, now() - step * interval '1 s' * $3::double precision AS moment
          FROM generate_series($1::bigint, $2::bigint) AS step) AS steps, generate_series(1, $4::bigint) AS well
"""
FILL_EVENTS = """
    INSERT INTO diagnostic_results (event_id, alarm_id, well_id, "timestamp", diagnosis, category, severity, transition,
        state, actions, resolution_time, evidence, tree_version, published_at, event)
    SELECT md5(number::text), md5(number::text), 'WELL-' || lpad((number % $1 + 1)::text, 5, '0'),
        now() - number * interval '1 d' * $2::double precision / ($1 * 60), 'LOW_FLOW', 'LOW_FLOW', 'low', 'raised',
        'active', '[]', '', '{}', '1', now(), '{"message": "Flow is low."}'
    FROM generate_series(1, $1::bigint * 60) AS number
"""
Question = Callable[[Database], Awaitable[object]]


async def fill(dsn: str, rows: int, wells: int, days: float) -> None:
    """So many readings of so many wells over so many days, with two alarm events a well and day, and their rollups."""
    steps = rows // wells
    connection = await asyncpg.connect(dsn)
    block = max(100_000 // wells, 1)
    for first in range(0, steps, block):
        last = min(first + block, steps) - 1
        await connection.execute(FILL, first, last, days * 86_400 / steps, wells, timeout=600)
    await connection.execute(FILL_EVENTS, wells, days)
    await connection.execute(
        "INSERT INTO esp_rollup_marks (bucket)"
        " SELECT generate_series(date_trunc('hour', min(\"timestamp\")), now(), '1 h') FROM esp_telemetry",
        timeout=600,
    )
    await connection.execute("VACUUM (ANALYZE)", timeout=3600)
    await connection.close()
    database = Database(settings(dsn))
    for hour_us in await database.stale_hours():
        await database.roll_up(hour_us)
    await database.close()


def settings(dsn: str) -> DatabaseSettings:
    """Of that database."""
    return DatabaseSettings(dsn=SecretStr(dsn))


def questions(days: float) -> dict[str, Question]:
    """What is asked, by name."""
    now_us, well, wells = time.time_ns() // 1_000, "WELL-00001", Wells()

    def history(since_days: float, every: Every) -> Question:
        period = Period(since_us=now_us - round(since_days * DAY_US), until_us=now_us)
        return lambda database: queries.history(database, wells, well, period, every, CHANNEL_NAMES, 1000)

    return {
        "wells": lambda database: queries.wells(database, wells),
        "latest": lambda database: queries.latest(database, wells, (), CHANNEL_NAMES),
        "latest of one well": lambda database: queries.latest(database, wells, [well], CHANNEL_NAMES),
        "history, a day raw": history(1, Every.RAW),
        "history, everything raw": history(days, Every.RAW),
        "history, everything hourly": history(days, Every.HOURLY),
        "history, everything daily": history(days, Every.DAILY),
        "summary of a day": lambda database: queries.summary(database, ["esp/{well_id}/telemetry"], now_us - DAY_US),
        "summary of everything": lambda database: queries.summary(database, [], now_us - round(days * DAY_US)),
        "alarms standing": lambda database: queries.standing_alarms(database, (), None, None),
        "alarms of a day": lambda database: queries.alarm_history(database, (), None, now_us - DAY_US, 1000),
    }


async def measure(dsn: str, days: float) -> None:
    """Print the table."""
    print(f"{'':<28} {'median ms':>10} {'longest ms':>11}")
    for name, question in questions(days).items():
        took_ms = []
        for _ in range(ASKED):
            database = Database(settings(dsn), read_only=True)
            await database.connect()
            began = time.perf_counter()
            await question(database)
            took_ms.append((time.perf_counter() - began) * 1e3)
            await database.close()
        print(f"{name:<28} {statistics.median(took_ms):>10.1f} {max(took_ms):>11.1f}", flush=True)


async def fill_and_measure(dsn: str, rows: int, wells: int, days: float) -> None:
    """All of it, on an empty database."""
    await migrate(settings(dsn))
    await fill(dsn, rows, wells, days)
    await measure(dsn, days)


def main() -> None:
    """Find a database and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="readings (default 1000000)")
    parser.add_argument("--wells", type=int, default=100, help="wells (default 100)")
    parser.add_argument("--days", type=float, default=30, help="days, each of which is a chunk (default 30)")
    parser.add_argument("--dsn", help="an empty database (default: one of its own, for the time of the run)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; {options.rows} readings of {options.wells} wells over {options.days:g} days")
    if options.dsn:
        print(f"database at {urlsplit(options.dsn).hostname}")
        asyncio.run(fill_and_measure(options.dsn, options.rows, options.wells, options.days))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded.Database(folder / "database", settings={"fsync": "off"}) as database:
            print(f"{database.edition_hint}, {database.source}")
            asyncio.run(fill_and_measure(database.dsn, options.rows, options.wells, options.days))


if __name__ == "__main__":
    main()
