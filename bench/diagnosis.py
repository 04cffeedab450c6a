"""What diagnosis costs, by how often a well reports: microseconds of CPU a reading, and bytes a well.

python bench/diagnosis.py [WELLS] [READINGS_A_WELL]

The wells are settled: they have run for eight days at a reading every 15 min, so that baselines and trends are known
and kept, which costs more than a well that has just started. That part is not measured.
"""

import gc
import sys
import time
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import CHANNEL_NAMES, SECOND_US, Reading
from esp_ingestd.core.tree import Tree
from esp_ingestd.core.well import WellSettings
from esp_ingestd.shipped import core_form

TREE = Path(__file__).parents[1] / "config" / "decision_tree.toml"
START_US = 1_760_000_000 * SECOND_US
SETTINGS = WellSettings(nameplate_current_a=70.0, trip_temperature_c=160.0)
INTERVALS_S = (1, 10, 60, 300, 1200)
SETTLING_S = 900
SETTLING_READINGS = 8 * 86_400 // SETTLING_S
JITTER = 0.02
"""Of the interval: no RTU is punctual to the microsecond."""


class Cost(NamedTuple):
    """What diagnosis of one field took."""

    reading_us: float
    well_bytes: float
    events: int


def readings(wells: int, count: int, interval_s: float, start_us: int = START_US) -> Iterator[Reading]:
    """A healthy field: every channel with a little noise, all wells in turn."""
    dice = Random(1)  # noqa: S311  (the same field at each run, not a secret)
    usual = (2000, 900, 52, 110, 0.2, 60, 3, 250, 400, 3200, 85, 250, 120, 1.5, 0.8, 800)
    for number in range(count):
        for well in range(wells):
            values = {
                name: x if name == "vsd_frequency" else x * dice.gauss(1, 0.01)
                for name, x in zip(CHANNEL_NAMES, usual, strict=True)
            }
            late = dice.uniform(0, JITTER)
            at_us = start_us + int((number + well / wells + late) * interval_s * SECOND_US)
            yield Reading(f"WELL-{well:05}", at_us, received_us=at_us, **values)  # type: ignore[arg-type]


def settled(tree: Tree, wells: int) -> Mapping[str, bytes]:
    """The memory of wells that have run for eight days, by well."""
    diagnostician = Diagnostician(tree, lambda _: SETTINGS)
    for reading in readings(wells, SETTLING_READINGS, SETTLING_S):
        diagnostician.observe(reading)
    return {well_id: diagnostician.snapshot(well_id) for well_id in diagnostician.well_ids()}


def woken(tree: Tree, memory: Mapping[str, bytes]) -> Diagnostician:
    """A diagnostician that knows these wells."""
    diagnostician = Diagnostician(tree, lambda _: SETTINGS)
    for well_id, snapshot in memory.items():
        diagnostician.restore(well_id, snapshot)
    return diagnostician


def cost(tree: Tree, memory: Mapping[str, bytes], count: int, interval_s: float) -> Cost:
    """What `count` readings of each well cost, one every `interval_s`."""
    start_us = START_US + SETTLING_READINGS * SETTLING_S * SECOND_US
    field: Sequence[Reading] = list(readings(len(memory), count, interval_s, start_us))
    gc.collect()
    diagnostician = woken(tree, memory)
    began, events = time.process_time(), 0
    for reading in field:
        events += len(diagnostician.observe(reading))
    spent = time.process_time() - began
    tracemalloc.start()
    diagnostician = woken(tree, memory)
    for reading in field[: len(memory) * 200]:
        diagnostician.observe(reading)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return Cost(spent / len(field) * 1e6, size / len(memory), events)


def main() -> None:
    """Print the table."""
    wells, count = (int(x) for x in (*sys.argv[1:], *("50", "1000")[len(sys.argv) - 1 :]))
    tree = Tree.parse(TREE.read_text())
    memory = settled(tree, wells)
    print(f"{wells} settled wells, {count} readings each, tree {tree.version}, core {core_form()}\n")
    print("| one every | CPU us a reading | kB a well | events |\n| ---: | ---: | ---: | ---: |")
    for interval_s in INTERVALS_S:
        found = cost(tree, memory, count, interval_s)
        print(
            f"| {interval_s} s | {found.reading_us:.1f} | {found.well_bytes / 1e3:.1f} | {found.events} |", flush=True
        )


if __name__ == "__main__":
    main()
