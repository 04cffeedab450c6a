"""The table of the ingest path: readings/s end to end, daemon CPU a reading, delay, memory; COPY alone beside it.

usage: ingest.py [--seconds S] [--protocol 5|3.1.1] [--tree protection|whole] [--profile FILE]
Broker, database, load generator and daemon share the machine; the daemon is the real program in its own process.
Compare within one run, as ratios: other runs had another machine or another neighbour.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from esp_ingestd import embedded
from esp_ingestd.core.reading import Reading, to_datetime
from esp_ingestd.database import COLUMNS

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Daemon:
    """The program under measurement."""

    process: subprocess.Popen[bytes]
    url: str

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak_mb(self) -> float:
        """Greatest resident set so far, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1000

    def metrics(self) -> dict[str, float]:
        """Every series of /metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:  # noqa: S310 - our own
            lines = answer.read().decode().splitlines()
        return {name: float(value) for line in lines if line[0] != "#" for name, value in [line.rsplit(" ", 1)]}

    def done(self) -> float:
        """Readings stored or found as duplicates."""
        now = self.metrics()
        return now["esp_ingestd_readings_stored_total"] + now["esp_ingestd_readings_duplicate_total"]


@contextmanager
def daemon(
    folder: Path, broker: embedded.Broker, dsn: str, protocol: str, profile: str, tree: str = "", more: str = ""
) -> Iterator[Daemon]:
    """The daemon, ready; `tree` is the file of its decision tree, that which ships when empty; `more`: of TOML."""
    port = embedded.free_port()
    config = folder / "esp-ingestd.toml"
    (folder / "wells.toml").write_text("[defaults]\nnameplate_current_a = 64.0\ntrip_temperature_c = 150.0\n")
    config.write_text(
        f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\nprotocol = "{protocol}"\n'
        f'[database]\ndsn = "{dsn}"\n[http]\nport = {port}\n[diagnosis]\nwells_file = "wells.toml"\n'
        f'tree_file = "{tree}"\n'
        f'[spool]\ndirectory = "{folder}/spool"\n[log]\nlevel = "warning"\n{more}'
    )
    program = [sys.executable, "-m", "esp_ingestd"]
    subprocess.run([*program, "migrate", "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
    if profile:
        program = [sys.executable, "-m", "cProfile", "-o", profile, "-m", "esp_ingestd"]
    process = subprocess.Popen([*program, "run", "--config", str(config)])
    subject = Daemon(process, f"http://127.0.0.1:{port}")
    try:
        wait_until(lambda: is_ready(subject.url) or process.poll() is not None)
        yield subject
    finally:
        process.terminate()
        process.wait(30)


def is_ready(url: str) -> bool:
    """Whether broker and database are there."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready") as answer:  # noqa: S310 - our own
            return bool(answer.status == 200)  # noqa: PLR2004 - OK
    except OSError:
        return False


def wait_until(condition: object, seconds: float = 60.0) -> None:
    """Poll until it holds."""
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > until:
            raise SystemExit("gave up waiting")
        time.sleep(0.05)


def load(port: int, seconds: float, rate: int, array: int, wells: int, offset_days: float) -> subprocess.Popen[bytes]:
    """Start the generator; its output is how many readings the broker took."""
    start_ms = int((time.time() - offset_days * 86_400) * 1000)
    arguments = map(str, (port, seconds, rate, array, wells, start_ms))
    return subprocess.Popen([sys.executable, HERE / "load.py", *arguments], stdout=subprocess.PIPE)


def measure(
    subject: Daemon, port: int, *, seconds: float, rate: int, array: int, wells: int, days: float
) -> tuple[str, float]:
    """One row of the table, and its readings/s."""
    before, cpu_before, began = subject.done(), subject.cpu_s(), time.monotonic()
    buckets_before = subject.metrics()
    generator = load(port, seconds, rate, array, wells, days)
    output, _ = generator.communicate()
    sent = int(output)
    wait_until(lambda: subject.done() - before >= sent, 120.0)
    took = time.monotonic() - began
    done, cpu = subject.done() - before, subject.cpu_s() - cpu_before
    p50, p99 = (quantile(subject.metrics(), buckets_before, q) for q in (0.5, 0.99))
    row = (
        f"{array:>5} {rate or 'max':>7} {wells:>6} {done:>9.0f} {done / took:>11.0f} {cpu / done * 1e6:>9.1f}"
        f" {p50:>8} {p99:>8} {subject.peak_mb():>8.0f}"
    )
    return row, done / took


def quantile(now: dict[str, float], before: dict[str, float], q: float) -> str:
    """The bucket in which the quantile of arrival to durable lies, ms."""
    name = "esp_ingestd_reading_delay_seconds_bucket"
    counts = {key: now[key] - before.get(key, 0) for key in now if key.startswith(name)}
    total = max(counts.values())
    for key, count in counts.items():
        if count >= q * total:
            return f"<={float(key.split(chr(34))[1]) * 1000:g}"
    return "?"


async def copy_alone(dsn: str, rows: int = 100_000, batch: int = 5_000) -> float:
    """Rows/s of COPY into the same table, from one connection, in batches as the daemon's largest."""
    connection = await asyncpg.connect(dsn)
    first_us = int(time.time() * 1e6) - 20 * 86_400_000_000
    sample = Reading("COPY", first_us, 2001.5, 850.25, 45.2, 92.0, 0.12, 58.0, 3.1, 220.5, 410.0, 2950.0)
    batches = [
        [
            (f"COPY-{k % 100}", to_datetime(first_us + (b * batch + k) * 1000), *sample[2:20], to_datetime(first_us))
            for k in range(batch)
        ]
        for b in range(rows // batch)
    ]
    began = time.monotonic()
    for each in batches:
        await connection.copy_records_to_table("esp_telemetry", records=each, columns=COLUMNS)
    took = time.monotonic() - began
    await connection.close()
    return rows / took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each row's load, s (default 10)")
    parser.add_argument("--protocol", default="5", choices=["5", "3.1.1"], help="MQTT (default 5)")
    parser.add_argument(
        "--tree", default="whole", choices=["protection", "whole"], help="what is diagnosed (default the whole tree)"
    )
    parser.add_argument("--profile", default="", help="write the daemon's cProfile there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded.Broker(folder / "broker") as broker, embedded.Database(folder / "database") as database:
            cores = f"{os.cpu_count()} cores shared by all"
            print(f"{cores}; MQTT {options.protocol}; {database.edition_hint}; diagnosis: {options.tree}")
            tree = str(HERE / "protection.toml") if options.tree == "protection" else ""
            with daemon(folder, broker, database.dsn, options.protocol, options.profile, tree) as subject:
                header = f"{'array':>5} {'rate/s':>7} {'wells':>6} {'readings':>9} {'readings/s':>11} {'CPU us':>9}"
                print(f"{header} {'p50 ms':>8} {'p99 ms':>8} {'peak MB':>8}")
                rows = [(0, 1, 1000), (0, 100, 1000), (5000, 1, 1000), (0, 1, 10_000)]
                reached = []
                for days, (rate, array, wells) in enumerate(rows, 1):
                    row, per_second = measure(
                        subject,
                        broker.port,
                        seconds=options.seconds,
                        rate=rate,
                        array=array,
                        wells=wells,
                        days=2.0 * days,
                    )
                    print(row, flush=True)
                    reached.append(per_second)
            alone = asyncio.run(copy_alone(database.dsn))
            single, arrays = (each / alone for each in reached[:2])
            print(
                f"COPY alone, batches of 5000: {alone:.0f} rows/s; single reach {single:.2f} of it, arrays {arrays:.2f}"
            )


if __name__ == "__main__":
    main()
