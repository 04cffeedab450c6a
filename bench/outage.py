"""An outage of the database, measured: intake to disk, the backlog's way back, what is live meanwhile.

usage: outage.py [--seconds S]
"""

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

from ingest import Daemon, copy_alone, daemon, load, quantile, wait_until

from esp_ingestd import embedded


def spool_at_full_speed(subject: Daemon, port: int, seconds: float, array: int, days: float) -> str:
    """Load without a database; readings/s onto the disk."""
    before, cpu_before, began = durable(subject), subject.cpu_s(), time.monotonic()
    output, _ = load(port, seconds, 0, array, 1000, days).communicate()
    wait_until(lambda: durable(subject) - before >= int(output), 600.0)
    took, done = time.monotonic() - began, durable(subject) - before
    cpu_us = (subject.cpu_s() - cpu_before) / done * 1e6
    size = subject.metrics()["esp_ingestd_spool_bytes"]
    return (
        f"outage, arrays of {array:>3}: {done / took:8.0f} readings/s to disk, {cpu_us:.1f} us CPU each,"
        f" spool {size / 1e6:.0f} MB, peak memory {subject.peak_mb():.0f} MB"
    )


def durable(subject: Daemon) -> float:
    """Readings in the database or on disk."""
    return subject.done() + subject.metrics()["esp_ingestd_readings_spooled"]


def drain(subject: Daemon, database: embedded.Database, port: int) -> str:
    """Bring the database back under a live load; how fast the backlog goes, how late the live readings are."""
    backlog = subject.metrics()["esp_ingestd_readings_spooled"]
    database.start()
    began = time.monotonic()
    wait_until(lambda: subject.metrics()["esp_ingestd_readings_spooled"] < backlog, 60.0)
    recovered_s = time.monotonic() - began
    buckets = subject.metrics()
    live = load(port, 600.0, 1000, 1, 100, 30.0)
    began, backlog = time.monotonic(), buckets["esp_ingestd_readings_spooled"]
    wait_until(lambda: subject.metrics()["esp_ingestd_readings_spooled"] == 0, 600.0)
    took = time.monotonic() - began
    p99 = quantile(subject.metrics(), buckets, 0.99)
    live.terminate()
    live.communicate()
    return (
        f"database back: first backlog stored after {recovered_s:.1f} s; backlog of {backlog:.0f} drained at"
        f" {backlog / took:.0f} readings/s while 1000/s arrive live, p99 of these {p99} ms"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load, s (default 10)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded.Broker(folder / "broker") as broker, embedded.Database(folder / "database") as database:
            print(f"{os.cpu_count()} cores shared by all; {database.edition_hint}")
            with daemon(folder, broker, database.dsn, "5", "") as subject:
                database.kill()
                for days, array in ((4.0, 100), (8.0, 1)):
                    print(spool_at_full_speed(subject, broker.port, options.seconds, array, days), flush=True)
                print(drain(subject, database, broker.port), flush=True)
            print(f"COPY alone, batches of 5000: {asyncio.run(copy_alone(database.dsn)):.0f} rows/s")


if __name__ == "__main__":
    main()
