"""Soak: a steady load for an hour; memory, file descriptors and delay must stay flat.

usage: PYTHONPATH=tests python -m faults.soak [--seconds S] [--rate HZ] [--wells N]
The wells ail as in faults.chaos, so that alarms come and go, and every diagnosis is asked for. The first quarter is
warm-up; then the second quarter is compared with the last. Delays are those of what arrived between two samples; on a
machine that is busy with other things they say little, so that they fail nothing.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from faults.chaos import Chaos, Daemon
from faults.load import Load
from peer import PATIENCE_S
from services import Services

if TYPE_CHECKING:
    from collections.abc import Sequence

GROWTH = 1.10  # of memory from the second quarter to the last; allocators breathe by a few percent
DESCRIPTORS = 2  # more or fewer at any moment: a look at the metrics, a reconnect


@dataclass(frozen=True)
class Sample:
    """The daemon at one moment, and since the one before."""

    resident_mb: float
    descriptors: int
    received: float
    alerts: float
    delay_s: float
    """Mean, arrival to durable."""
    late: float
    """Share of readings durable later than 0.1 s after arrival."""
    alert_delay_s: float
    """Mean, arrival to accepted by the broker; 0 without alerts."""


def look(daemon: Daemon, before: dict[str, float]) -> tuple[Sample, dict[str, float]]:
    """Take a sample; with it the metrics, for the next."""
    assert daemon.process is not None
    process = Path(f"/proc/{daemon.process.pid}")
    resident = int((process / "status").read_text().partition("VmRSS:")[2].split()[0]) / 1000
    now = {name.removeprefix("esp_ingestd_"): value for name, value in daemon.metrics().items()}

    def since(name: str) -> float:
        return now[name] - before.get(name, 0.0)

    def mean(name: str) -> float:
        return since(f"{name}_sum") / max(since(f"{name}_count"), 1.0)

    in_time = since('reading_delay_seconds_bucket{le="0.1"}') / max(since("reading_delay_seconds_count"), 1.0)
    sample = Sample(
        resident,
        len(list((process / "fd").iterdir())),
        now["readings_received_total"],
        now["alert_delay_seconds_count"],
        mean("reading_delay_seconds"),
        1.0 - in_time,
        mean("alert_delay_seconds"),
    )
    return sample, now


def run(services: Services, seconds: float, rate: float, wells: int) -> list[Sample]:
    """Soak; a sample every hundredth of the time."""
    folder = services.new_folder()
    site = Chaos(folder, services, seconds=seconds, rate=rate, wells=wells, seed=0)
    samples = []
    with site.broker, site.database:
        daemon = site.make_daemon()
        wells_file = folder / "wells.toml"
        wells_file.write_text("".join(x for x in site.field.wells_file.splitlines(keepends=True) if "rules" not in x))
        daemon.start()
        site.await_that(lambda: bool(daemon.metrics().get("esp_ingestd_mqtt_connected")))
        load = Load(site.broker.port, site.field, rate)
        load.start()
        metrics: dict[str, float] = {}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(seconds / 100)
            sample, metrics = look(daemon, metrics)
            samples.append(sample)
            print(sample, flush=True)
        load.stopping.set()
        load.join(PATIENCE_S)
        daemon.kill(signal.SIGTERM)
    return samples


def table(quarters: Sequence[Sequence[Sample]]) -> str:
    """A line for each quarter: the most of memory and descriptors, the median of delays."""
    lines = ["quarter  memory MB  descriptors  delay ms  later than 0.1 s  alert delay ms"]
    for number, part in enumerate(quarters, 1):
        memory, descriptors = max(x.resident_mb for x in part), max(x.descriptors for x in part)
        delay, late = median(x.delay_s for x in part) * 1000, median(x.late for x in part)
        alert = median(x.alert_delay_s for x in part) * 1000
        lines.append(f"{number:>7}  {memory:9.0f}  {descriptors:11}  {delay:8.1f}  {late:15.2%}   {alert:14.1f}")
    return "\n".join(lines)


def main() -> int:
    """Print the quarters; 1 where memory or descriptors grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0, help="length, s (default 3600)")
    parser.add_argument("--rate", type=float, default=2_000.0, help="readings a second (default 2000)")
    parser.add_argument("--wells", type=int, default=200, help="wells (default 200)")
    options = parser.parse_args()
    with closing(Services.find()) as services:
        samples = run(services, options.seconds, options.rate, options.wells)
    quarter = len(samples) // 4
    quarters = [samples[number * quarter : (number + 1) * quarter] for number in range(4)]
    print(f"{options.seconds:.0f} s, readings {samples[-1].received:.0f}, alarm events {samples[-1].alerts:.0f}")
    print(table(quarters))
    memory = [max(each.resident_mb for each in part) for part in quarters]
    descriptors = [max(each.descriptors for each in part) for part in quarters]
    return 1 if memory[3] > GROWTH * memory[1] or descriptors[3] > descriptors[1] + DESCRIPTORS else 0


if __name__ == "__main__":
    sys.exit(main())
