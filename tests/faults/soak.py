"""Soak: a steady load for an hour; memory, file descriptors and delay must stay flat.

usage: PYTHONPATH=tests python -m faults.soak [--seconds S] [--rate HZ] [--wells N]
The first quarter is warm-up; then the second quarter is compared with the last.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from faults.chaos import Chaos, Daemon, Load

GROWTH = 1.10  # of memory from the second quarter to the last; allocators breathe by a few percent


@dataclass(frozen=True)
class Sample:
    """The daemon at one moment."""

    resident_mb: float
    descriptors: int
    received: float
    delay_s: float
    """Mean delay from arrival to durable since the start."""


def look(daemon: Daemon) -> Sample:
    """Take a sample."""
    assert daemon.process is not None
    process = Path(f"/proc/{daemon.process.pid}")
    resident = int((process / "status").read_text().partition("VmRSS:")[2].split()[0]) / 1000
    now = daemon.metrics()
    name = "esp_ingestd_reading_delay_seconds"
    delay = now[f"{name}_sum"] / max(now[f"{name}_count"], 1.0)
    return Sample(resident, len(list((process / "fd").iterdir())), now["esp_ingestd_readings_received_total"], delay)


def run(folder: Path, seconds: float, rate: float, wells: int) -> list[Sample]:
    """Soak; a sample every hundredth of the time."""
    site = Chaos(folder, seconds=seconds, rate=rate, wells=wells, seed=0)
    samples = []
    with site.broker, site.database:
        daemon = site.make_daemon()
        daemon.start()
        site.await_that(lambda: bool(daemon.metrics().get("esp_ingestd_mqtt_connected")))
        load = Load(site.broker.port, wells, rate, int(time.time() * 1000) - 20 * 86_400_000)
        load.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(seconds / 100)
            samples.append(look(daemon))
            print(samples[-1], flush=True)
        load.stopping.set()
        load.join(60)
        daemon.kill(signal.SIGTERM)
    return samples


def main() -> int:
    """Print the quarters; 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0, help="length, s (default 3600)")
    parser.add_argument("--rate", type=float, default=2_000.0, help="readings a second (default 2000)")
    parser.add_argument("--wells", type=int, default=200, help="wells (default 200)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        samples = run(Path(name), options.seconds, options.rate, options.wells)
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    memory = [max(each.resident_mb for each in part) for part in (early, late)]
    descriptors = [max(each.descriptors for each in part) for part in (early, late)]
    print(f"readings {samples[-1].received:.0f}, mean delay {samples[-1].delay_s * 1000:.0f} ms")
    print(f"memory, second quarter and last: {memory[0]:.0f} MB, {memory[1]:.0f} MB")
    print(f"file descriptors, likewise: {descriptors[0]}, {descriptors[1]}")
    return 1 if memory[1] > GROWTH * memory[0] or descriptors[1] > descriptors[0] + 2 else 0


if __name__ == "__main__":
    sys.exit(main())
