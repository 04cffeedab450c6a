"""What diagnosis costs: microseconds of CPU a reading and bytes a well, on healthy wells and on one with an alarm.

python bench/diagnosis.py [WELLS] [READINGS_A_WELL] [INTERVAL_S]
"""

import gc
import sys
import time
import tracemalloc
from pathlib import Path
from random import Random

from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import CHANNEL_NAMES, SECOND_US, Reading
from esp_ingestd.core.tree import Tree
from esp_ingestd.core.well import WellSettings

TREE = Path(__file__).parents[1] / "config" / "decision_tree.toml"
START_US = 1_760_000_000 * SECOND_US
SETTINGS = WellSettings(nameplate_current_a=70.0, trip_temperature_c=160.0)


def readings(wells: int, count: int, interval_s: float) -> list[Reading]:
    """A healthy field: every channel with a little noise, all wells in turn."""
    dice = Random(1)  # noqa: S311  (the same field at each run, not a secret)
    usual = (2000, 900, 52, 110, 0.2, 60, 3, 250, 400, 3200, 85, 250, 120, 1.5, 0.8, 800)
    field = []
    for number in range(count):
        for well in range(wells):
            values = {
                name: x if name == "vsd_frequency" else x * dice.gauss(1, 0.01)
                for name, x in zip(CHANNEL_NAMES, usual, strict=True)
            }
            at_us = START_US + int((number + well / wells) * interval_s * SECOND_US)
            field.append(Reading(f"WELL-{well:05}", at_us, received_us=at_us, **values))  # type: ignore[arg-type]
    return field


def main() -> None:
    """Print the table."""
    wells, count, interval_s = (float(x) for x in (*sys.argv[1:], *("200", "500", "10")[len(sys.argv) - 1 :]))
    tree = Tree.parse(TREE.read_text())
    field = readings(int(wells), int(count), interval_s)
    gc.collect()
    tracemalloc.start()
    diagnostician = Diagnostician(tree, lambda _: SETTINGS)
    for reading in field:
        diagnostician.observe(reading)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    diagnostician = Diagnostician(tree, lambda _: SETTINGS)
    started, events = time.process_time(), 0
    for reading in field:
        events += len(diagnostician.observe(reading))
    spent = time.process_time() - started
    print(f"{len(field)} readings, {int(wells)} wells, one every {interval_s:g} s: ", end="")
    print(f"{spent / len(field) * 1e6:.2f} us a reading, {size / wells / 1e3:.1f} kB a well, {events} events")


if __name__ == "__main__":
    main()
