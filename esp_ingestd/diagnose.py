"""The offline back-test: telemetry in, alert events out, and what an engineer wants to know of them.

Event time only, no broker, no database, no clock: the same pure core as in the daemon. A line may say when it
arrived (`received_at`); where it does not, it arrived at its timestamp. The newest timestamp of any well is the time
by which silence is judged. Refused lines go to the error stream with the reason that the daemon would give.
"""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import SECOND_US, Reading, to_microseconds
from esp_ingestd.recording import to_timestamp_us

DAY_S: Final = 86_400.0
FAR_US: Final = to_microseconds(datetime(9998, 1, 1, tzinfo=UTC))
"""The arrival that a line without one is decoded with: no timestamp is ahead of it."""


@dataclass(slots=True)
class Tally:
    """What one diagnosis came to."""

    raised: int = 0
    standing_us: int = 0


@dataclass(slots=True)
class Summary:
    """What a back-test came to: readings, well-days, and per diagnosis how often and how long."""

    readings: int = 0
    refused: int = 0
    first_us: dict[str, int] = field(default_factory=dict)
    last_us: dict[str, int] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    _open: dict[str, AlarmEvent] = field(default_factory=dict)

    def read(self, reading: Reading) -> None:
        """Count a reading."""
        self.readings += 1
        self.first_us.setdefault(reading.well_id, reading.timestamp_us)
        self.last_us[reading.well_id] = max(self.last_us.get(reading.well_id, 0), reading.timestamp_us)

    def tell(self, event: AlarmEvent) -> None:
        """Count an event."""
        if event.transition == "raised":
            self.tallies[event.diagnosis].raised += 1
            self._open[event.alarm_id] = event
        elif event.transition == "cleared" and event.alarm_id in self._open:
            opened = self._open.pop(event.alarm_id)
            self.tallies[event.diagnosis].standing_us += event.timestamp_us - opened.timestamp_us

    @property
    def well_days(self) -> float:
        """Days between first and last reading, summed over the wells."""
        return sum(last - self.first_us[well] for well, last in self.last_us.items()) / SECOND_US / DAY_S

    def lines(self) -> Iterator[str]:
        """A table for people; alarms that still stand count until their well's last reading."""
        standing: dict[str, int] = defaultdict(int)
        for event in self._open.values():
            standing[event.diagnosis] += self.last_us[event.well_id] - event.timestamp_us
        yield f"{self.readings} readings, {self.refused} refused, {len(self.last_us)} wells, {self.well_days:.1f} days"
        yield f"{'diagnosis':<22}{'alarms':>8}{'hours':>10}{'a well-day':>12}"
        for name, tally in sorted(self.tallies.items(), key=lambda item: -item[1].raised):
            hours = (tally.standing_us + standing[name]) / SECOND_US / 3600
            rate = tally.raised / self.well_days if self.well_days else float("nan")
            yield f"{name:<22}{tally.raised:>8}{hours:>10.1f}{rate:>12.3f}"


def diagnose(
    lines: Iterable[bytes],
    decoder: Decoder,
    diagnostician: Diagnostician,
    refuse: IO[str],
    summary: Summary,
    explain: Callable[[str], object] | None = None,
) -> Iterator[AlarmEvent]:
    """The alert events that the daemon would have told, in order.

    Args:
        lines: telemetry payloads, each one JSON object (or array) with its `well_id`.
        decoder: with the wells' units.
        diagnostician: fresh.
        refuse: where refused lines are named.
        summary: filled as it goes.
        explain: told, for each reading, the questions asked, the values they saw, and the answers.
    """
    newest_us = 0
    for number, line in enumerate(lines, 1):
        payload = line.strip()
        if not payload:
            continue
        received_us = _arrival_us(payload)
        decoded = decoder.decode("", payload, received_us or FAR_US)
        if decoded.rejection is not None:
            summary.refused += 1
            refuse.write(f"line {number}: {decoded.rejection.reason.value}: {decoded.rejection.detail}\n")
        for found in decoded.readings:
            reading = found if received_us else found._replace(received_us=found.timestamp_us)
            summary.read(reading)
            if min(reading.timestamp_us, reading.received_us) > newest_us:
                newest_us = min(reading.timestamp_us, reading.received_us)
                yield from _told(diagnostician.pass_time(newest_us), summary)
            yield from _told(diagnostician.observe(reading), summary)
            if explain:
                for told in diagnostician.explain(reading.well_id):
                    explain(told)


def _told(events: Iterable[AlarmEvent], summary: Summary) -> Iterator[AlarmEvent]:
    for event in events:
        summary.tell(event)
        yield event


def _arrival_us(payload: bytes) -> int | None:
    """When a line says that it arrived, microseconds since 1970 UTC; None if it does not, or not understandably."""
    if b'"received_at"' not in payload:
        return None
    try:
        return to_timestamp_us(json.loads(payload)["received_at"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def from_csv(text: Iterable[str]) -> Iterator[bytes]:
    """JSON lines of a CSV with a header of payload keys; an empty cell is an absent key."""
    for row in csv.DictReader(text):
        yield json.dumps(
            {key: _value(key, cell) for key, cell in row.items() if key and cell not in ("", None)}
        ).encode()


def _value(key: str, cell: str) -> str | float:
    if key in ("well_id", "timestamp", "received_at"):
        return cell
    try:
        return float(cell)
    except ValueError:
        return cell


def lines_of(inputs: Iterable[Path]) -> Iterator[bytes]:
    """The payloads of files, one after another: CSV by its suffix, else JSON lines; `-` is standard input.

    Raises:
        OSError: a file cannot be read.
    """
    for path in inputs:
        if str(path) == "-":
            yield from sys.stdin.buffer
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as text:
                yield from from_csv(text)
        else:
            with path.open("rb") as file:
                yield from file
