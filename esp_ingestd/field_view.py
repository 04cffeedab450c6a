"""What the demo shows: the wells, the daemon's own figures, the alarms as they rise; as a screen or as lines.

Nothing in here fetches anything. It is told (`Alarms.take`, `Meter.take`, `FieldView.heard`) and shows what it knows.
Colour is kept for what needs attention: a healthy field is grey.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf, nan
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from esp_ingestd.core.reading import SECOND_US, to_datetime
from esp_ingestd.simulator import Fault
from esp_ingestd.telemetry import PREFIX

RATE_WINDOW_S: Final = 5.0
SILENT_S: Final = 5.0  # without a reading, by the clock
TURNING_HZ: Final = 5.0
WIDE: Final = 110  # columns from which everything fits
TALL: Final = 30
FRAME_LINES: Final = 9  # headings, blank lines, and one below the last
FEWEST_EVENTS: Final = 4
MOST_EVENTS: Final = 12
COLUMNS: Final = (  # channel, heading, decimals
    ("flow_rate", "flow bbl/d", 0),
    ("pip", "intake psi", 0),
    ("motor_current", "current A", 1),
    ("motor_temp", "motor °C", 1),
    ("vibration", "vibr. g", 2),
    ("vsd_frequency", "drive Hz", 1),
)
STYLES: Final[Mapping[str, str]] = {
    "critical": "bold white on red",
    "high": "bold red",
    "medium": "yellow",
    "low": "cyan",
    "info": "dim",
}
SEVERITIES: Final = tuple(STYLES)
CLEARED: Final[Mapping[str, str]] = {
    "returned": "Back to normal.",
    "well_off": "The well stopped.",
    "superseded": "Explained by another alarm.",
    "reset": "Reset by a person.",
}
TALLY: Final[Mapping[str, str]] = {
    PREFIX + "readings_received_total": "received",
    PREFIX + "readings_recovered_total": "received",
    PREFIX + "readings_stored_total": "stored",
    PREFIX + "readings_duplicate_total": "duplicate",
    PREFIX + "readings_rejected_total": "rejected",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """The daemon's counters at one moment, as /metrics gives them."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    delays: tuple[tuple[float, int], ...] = ()
    """Of readings, from arrival to durable: (upper bound in s, how many took at most that), rising."""

    @classmethod
    def parse(cls, text: str) -> "Figures":
        """From the text that /metrics answers with."""
        counts: Counter[str] = Counter()
        delays = []
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if name := TALLY.get(sample.name):
                    counts[name] += int(sample.value)
                elif sample.name == PREFIX + "reading_delay_seconds_bucket":
                    delays.append((float(sample.labels["le"]), int(sample.value)))
        return cls(**counts, delays=tuple(sorted(delays)))

    @property
    def settled(self) -> int:
        """Readings of which the database, or a dead letter, has the last word."""
        return self.stored + self.duplicate + self.rejected


def bound_s(share: float, before: Figures, after: Figures) -> float:
    """The least bound that `share` of the readings between two moments stayed below, s; NaN if there were none."""
    earlier = dict(before.delays)
    counts = [(bound, count - earlier.get(bound, 0)) for bound, count in after.delays]
    total = counts[-1][1] if counts else 0
    return next((bound for bound, count in counts if count >= share * total > 0), nan)


class Meter:
    """Rates from the daemon's counters: over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Figures]] = deque()

    def take(self, now_s: float, figures: Figures) -> None:
        """Note what the counters are at `now_s`, a clock that only runs forward."""
        self._seen.append((now_s, figures))
        while now_s - self._seen[0][0] > RATE_WINDOW_S and len(self._seen) > 2:  # noqa: PLR2004 - a rate needs two
            self._seen.popleft()

    @property
    def figures(self) -> Figures:
        """The last ones."""
        return self._seen[-1][1] if self._seen else Figures()

    def per_s(self, name: str) -> float:
        """How fast a counter rises."""
        if len(self._seen) < 2:  # noqa: PLR2004 - likewise
            return 0.0
        (began_s, before), (ended_s, after) = self._seen[0], self._seen[-1]
        return float(getattr(after, name) - getattr(before, name)) / (ended_s - began_s)

    @property
    def p99_s(self) -> float:
        """Below it were 99 % of the delays of the last few seconds, s; NaN while there are none."""
        return bound_s(0.99, self._seen[0][1], self._seen[-1][1]) if self._seen else nan


@dataclass(slots=True)
class Alarms:
    """What the events topic has told."""

    standing: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The latest event of each alarm that stands, by alarm_id."""
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=200))
    raised: Counter[str] = field(default_factory=Counter)
    """How often each diagnosis was raised."""
    _known: set[str] = field(default_factory=set)

    def take(self, event: dict[str, Any]) -> bool:
        """Note an event; False for one that is known, since QoS 1 may bring it twice."""
        if event["event_id"] in self._known:
            return False
        self._known.add(event["event_id"])
        self.log.appendleft(event)
        if event["state"] == "cleared":
            self.standing.pop(event["alarm_id"], None)
        else:
            self.standing[event["alarm_id"]] = event
        if event["transition"] == "raised":
            self.raised[event["diagnosis"]] += 1
        return True

    def of(self, well_id: str) -> list[dict[str, Any]]:
        """The alarms that stand for a well, worst first."""
        found = [each for each in self.standing.values() if each["well_id"] == well_id]
        return sorted(found, key=lambda each: -each["priority"])

    def by_severity(self) -> Iterator[tuple[str, int]]:
        """How many stand, worst first, without those of which there are none."""
        counts = Counter(each["severity"] for each in self.standing.values())
        return ((severity, counts[severity]) for severity in SEVERITIES if counts[severity])


@dataclass(slots=True, kw_only=True)
class FieldView:
    """All that is shown, and what it is made from."""

    well_ids: Sequence[str]
    faults: Sequence[Fault]
    """What is entered, with wells by number from 1."""
    start_us: int
    speed: float
    places: Sequence[tuple[str, str]]
    """(what, where), the most useful first, and last how to end."""
    edition: str
    alarms: Alarms = field(default_factory=Alarms)
    meter: Meter = field(default_factory=Meter)
    health: dict[str, str] = field(default_factory=dict)
    """Why each dependency of the daemon is away; "" where it is not."""
    now_us: int = 0
    """Event time of the latest reading."""
    _latest: dict[str, tuple[float, bytes]] = field(default_factory=dict)

    def heard(self, well_id: str, payload: bytes, due_us: int) -> None:
        """A reading was sent."""
        self._latest[well_id] = (time.monotonic(), payload)
        self.now_us = due_us

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The screen, as large as the terminal; on a small one, what matters most."""
        height, wide = options.height or console.height, options.max_width >= WIDE
        places = self.places if height >= TALL else self.places[:: len(self.places) - 1]
        room = height - len(places) - FRAME_LINES
        events = min(max(FEWEST_EVENTS, room - len(self.well_ids)), MOST_EVENTS)
        yield self._headline(wide=wide)
        yield self._status()
        yield self._rates(wide=wide)
        yield from self._wells(max(room - events, 2), wide=wide)
        yield self._standing()
        yield self._events(events, wide=wide)
        yield _listed(places)

    def line(self) -> str:
        """The state of things in one line, for a log."""
        figures, meter = self.meter.figures, self.meter
        stand = ", ".join(f"{count} {severity}" for severity, count in self.alarms.by_severity())
        away = "".join(f"; {name} is away: {why}" for name, why in self.health.items() if why)
        return (
            f"field time {_clock(self.now_us)}; received {meter.per_s('received'):,.0f}/s,"
            f" stored {meter.per_s('stored'):,.0f}/s, 99 % durable within {_delay(meter.p99_s)};"
            f" {figures.stored:,} stored; alarms standing: {stand or 'none'}{away}"
        )

    def _headline(self, *, wide: bool) -> RenderableType:
        live = time.time() - self.now_us / SECOND_US < 2 * self.speed
        if wide:
            day = to_datetime(self.now_us).strftime("%a %d %b %Y, %H:%M:%S UTC")
            pace = "live" if live else f"{self.speed:g} times as fast as the clock"
        else:
            day, pace = _clock(self.now_us) + " UTC", "live" if live else f"x {self.speed:g}"
        return _apart(Text(" esp-ingestd demo", style="bold"), Text(f"field time {day}, {pace} "))

    def _status(self) -> RenderableType:
        line = Text(" ")
        for name, why in self.health.items():
            line.append("● ", style="red" if why else "green")
            line.append(f"{name}{' is away' if why else ''}   ", style="bold red" if why else "")
        return _apart(line, Text(f"{self.edition} ", style="dim"))

    def _rates(self, *, wide: bool) -> RenderableType:
        figures, meter = self.meter.figures, self.meter
        left = Text(" ")
        left.append(f"{meter.per_s('received'):,.0f}", style="bold").append(" readings/s received   ")
        left.append(f"{meter.per_s('stored'):,.0f}", style="bold").append("/s stored   99 % durable within ")
        left.append(_delay(meter.p99_s), style="bold")
        told = f"{figures.stored:,} stored, {figures.duplicate:,} duplicate, {figures.rejected:,} refused "
        return _apart(left, Text(told if wide else "", style="dim"))

    def _wells(self, rows: int, *, wide: bool) -> Iterator[RenderableType]:
        columns = COLUMNS if wide else COLUMNS[:3]  # of 80 characters the names of alarms need the rest
        table = Table(box=None, expand=True, header_style="dim", padding=(0, 1))
        table.add_column("well", no_wrap=True)
        table.add_column("state", no_wrap=True)
        for _, heading, _ in columns:
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("alarms standing", no_wrap=True, ratio=1)
        if wide:
            table.add_column("simulated fault", no_wrap=True, width=16, style="dim")
        shown = self.well_ids if len(self.well_ids) <= rows else self._worst_first()[: rows - 1]
        for well_id in shown:
            row = self._row(well_id, columns)
            table.add_row(*(row if wide else row[:-1]))
        yield Text()
        yield table
        if len(shown) < len(self.well_ids):
            yield Text(f" and {len(self.well_ids) - len(shown):,} more wells", style="dim")
        yield Text()

    def _worst_first(self) -> list[str]:
        """The wells, those with the worst alarms first."""
        worst: dict[str, int] = {}
        for alarm in self.alarms.standing.values():
            worst[alarm["well_id"]] = max(worst.get(alarm["well_id"], -1), alarm["priority"])
        return sorted(self.well_ids, key=lambda each: -worst.get(each, -1))

    def _row(self, well_id: str, columns: Sequence[tuple[str, str, int]]) -> list[RenderableType]:
        heard_s, payload = self._latest.get(well_id, (-inf, b"{}"))
        reading = json.loads(payload)
        state = "running" if (reading.get("vsd_frequency") or 0) >= TURNING_HZ else "stopped"
        if time.monotonic() - heard_s > SILENT_S:
            state = "silent"
        return [
            well_id,
            Text(state, style="" if state == "running" else "yellow"),
            *(_number(reading.get(channel), digits) for channel, _, digits in columns),
            Text("  ").join(map(_name, self.alarms.of(well_id))),
            ", ".join(self._causes(well_id)),
        ]

    def _causes(self, well_id: str) -> Iterable[str]:
        number = int(well_id.rpartition("-")[2])
        now_s = (self.now_us - self.start_us) / SECOND_US
        for fault in self.faults:
            if fault.well == number and 0 <= now_s - fault.at_s < fault.duration_s:
                yield fault.kind.replace("_", " ")

    def _standing(self) -> RenderableType:
        line = Text(" Alarms standing: ", style="bold")
        if not self.alarms.standing:
            return line.append("none", style="dim not bold")
        return line.append(
            ", ".join(f"{count} {severity}" for severity, count in self.alarms.by_severity()), style="not bold"
        )

    def _events(self, rows: int, *, wide: bool) -> RenderableType:
        table = Table(box=None, expand=True, show_header=False, padding=(0, 1))
        for _ in range(5 if wide else 4):
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, ratio=1)
        for event in list(self.alarms.log)[:rows]:
            over = "dim" if event["state"] == "cleared" else ""
            cells = [
                Text(_clock(event["timestamp"]), style="dim"),
                Text(event["well_id"], style=over),
                Text(event["diagnosis"], style=over or STYLES[event["severity"]]),
                *([Text(event["severity"], style=over)] if wide else []),
                Text(event["transition"], style=over),
                Text(_tell(event), style=over),
            ]
            table.add_row(*cells)
        for _ in range(rows - table.row_count):
            table.add_row()
        return table


def describe(event: Mapping[str, Any]) -> str:
    """One alarm event as a line of a log."""
    return (
        f"alarm {event['transition']}: {event['well_id']} {event['diagnosis']} ({event['severity']}), "
        f"field time {_clock(event['timestamp'])}: {_tell(event)}"
    )


def _tell(event: Mapping[str, Any]) -> str:
    """What the event says; of a cleared alarm, why it is over."""
    if event["diagnosis"] == "TRIP" and event["reason"] == "returned":
        return "The pump was started again."
    return CLEARED.get(event["reason"]) or str(event["message"])


def _name(event: Mapping[str, Any]) -> Text:
    """What ails the well; how often, where it keeps coming back."""
    often = f" x{event['count']}" if event["recurring"] else ""
    return Text(event["diagnosis"] + often, style=STYLES[event["severity"]])


def _apart(left: Text, right: Text) -> Table:
    table = Table.grid(expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(left, right)
    return table


def _listed(places: Sequence[tuple[str, str]]) -> Group:
    return Group(Text(), *(Text(f" {what:<10}", style="dim").append(where, style="not dim") for what, where in places))


def _number(value: object, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else "-"


def _clock(moment: int | str) -> str:
    """The time of day, UTC, of microseconds or of an ISO 8601 text."""
    when = to_datetime(moment) if isinstance(moment, int) else datetime.fromisoformat(moment)
    return when.astimezone(UTC).strftime("%H:%M:%S")


def _delay(seconds: float) -> str:
    if seconds == inf:
        return "more than an hour"
    return f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:,.3g} s" if seconds >= 1 else "-"
