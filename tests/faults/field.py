"""Simulated wells of the fault tests: every reading has a number, and some of what the wells do raises alarms.

All of it follows from a reading's number: what a run must have stored at its end, and every alarm that must have been
told, is what the pure core makes of the same readings, each well's in their order, with no fault at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from esp_ingestd.config import Wells
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.well import WellSettings
from esp_ingestd.shipped import load_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esp_ingestd.core.alarm import AlarmEvent
    from esp_ingestd.core.reading import Reading

STEP_MS: Final = 5_000  # between two readings of a well
CYCLE_S: Final = 1_800
DAYS_BACK: Final = 20  # a run begins so long ago: its event time, which goes much faster, never overtakes the clock
NAMEPLATE_A: Final = 50.0
TRIP_C: Final = 150.0
# What can be judged by the present reading. A kill forgets up to five minutes, by the clock, of what windows and
# baselines know of a well without an alarm; here, where event time runs a hundred times faster, those are hours, and
# what is judged by them (a trip by how the motor ran before) may rightly differ.
RULES: Final = ("STALL", "MOTOR_OVERTEMP", "OVERLOAD", "ELECTRICAL_FAULT")


class Sent(NamedTuple):
    """One message, and how many readings it carries."""

    topic: bytes
    payload: bytes
    readings: int


@dataclass(frozen=True)
class Field:
    """Wells that take turns: reading `number` is of well `number % wells`.

    Each well ails for five minutes in thirty: overload, phases out of balance and a hot motor, each getting worse
    meanwhile or latching, or a stop, which ends what stands.
    """

    wells: int
    start_ms: int

    def message(self, number: int) -> Sent:
        """A reading as the RTU sends it; its flow tells it from its well's other ones."""
        well, step = number % self.wells, number // self.wells
        body = {"timestamp": self.start_ms + step * STEP_MS, "flow_rate": self.flow(number), **_channels(well, step)}
        return Sent(b"esp/WELL-%03d/telemetry" % well, json.dumps(body, separators=(",", ":")).encode(), 1)

    def flow(self, number: int) -> int:
        """What is sent as flow, bbl/d."""
        return number // self.wells % 40_000

    def key(self, number: int) -> tuple[str, int]:
        """Well and time of a reading, ms."""
        return f"WELL-{number % self.wells:03}", self.start_ms + number // self.wells * STEP_MS

    @property
    def wells_file(self) -> str:
        """What the daemon is to know of the wells."""
        rules = ", ".join(f'"{name}"' for name in RULES)
        limits = f"nameplate_current_a = {NAMEPLATE_A}\ntrip_temperature_c = {TRIP_C}\n"
        return f"[defaults]\n{limits}enabled_rules = [{rules}]\n"

    def expected(self, count: int) -> list[AlarmEvent]:
        """Every alarm event that the first `count` readings must raise."""
        settings = WellSettings(nameplate_current_a=NAMEPLATE_A, trip_temperature_c=TRIP_C, enabled_rules=RULES)
        diagnostician = Diagnostician(load_tree(None), Wells(settings))
        return [event for reading in self._readings(count) for event in diagnostician.observe(reading)]

    def _readings(self, count: int) -> Iterator[Reading]:
        arrived_us = (self.start_ms + DAYS_BACK * 86_400_000) * 1_000
        for number in range(count):
            topic, payload, _ = self.message(number)
            yield from self._decoder.decode(topic.decode(), payload, arrived_us).readings

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(["esp/{well_id}/telemetry"])


def _channels(well: int, step: int) -> dict[str, float]:
    second = step * STEP_MS // 1_000 + 97 * well
    cycle, at = divmod(second, CYCLE_S)
    ails = 600 <= at < 900
    is_worse = at >= 750
    sound = {"motor_current": 45.0, "motor_temp": 95.0, "vsd_frequency": 50.0, "current_unbalance": 1.0}
    if not ails:
        return sound
    illness: dict[str, float] = (
        {"motor_current": 65.0 if is_worse else 60.0},
        {"current_unbalance": 12.0 if is_worse else 6.0},
        {"motor_temp": TRIP_C - 3.0},
        {"motor_current": 0.0, "vsd_frequency": 0.0},
    )[(cycle + well) % 4]
    return sound | illness
