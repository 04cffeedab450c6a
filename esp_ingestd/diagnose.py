"""The offline back-test: telemetry in, alert events out, and what an engineer wants to know of them.

Event time only, no broker, no clock: the same pure core as in the daemon. A line may say when it arrived
(`received_at`); where it does not, it arrived at its timestamp. The newest timestamp of any well is the time by
which silence is judged. Refused lines go to the error stream with the reason that the daemon would give.

A line that says nothing of its arrival cannot be told to be from the future but by what follows it: one that is more
than a day ahead of both its neighbours is refused, as the daemon would have done, and not a year of silence.

What comes from the database is judged in order of its timestamps, as if each reading had arrived when it was taken:
history that was loaded afterwards is worth as much as what came live.
"""

import json
import sys
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.decode import Decoded, Decoder
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import HOUR_US, SECOND_US, Reading, to_iso, to_microseconds
from esp_ingestd.core.tree import Tree
from esp_ingestd.core.well import WellSettings
from esp_ingestd.progress import Progress
from esp_ingestd.recording import Row, Unreadable, open_lines, to_timestamp_us

if TYPE_CHECKING:
    from esp_ingestd.config import DatabaseSettings

DAY_S: Final = 86_400.0
FAR_US: Final = to_microseconds(datetime(9998, 1, 1, tzinfo=UTC))
"""The arrival that a line without one is decoded with: no timestamp is ahead of it."""
FAR_AHEAD_US: Final = 86_400 * SECOND_US
"""More than this ahead of its arrival no timestamp is believed (CONTRACT §3)."""


class Line(NamedTuple):
    """A line of an input, or a row of a table, and where it stands."""

    name: str
    number: int
    row: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which readings are judged; by default all."""

    wells: Sequence[str] = ()
    """Their ids; none means all of them."""
    since_us: int | None = None
    """From this time on, microseconds since 1970 UTC; None: from the first reading."""
    until_us: int | None = None
    """Before this time; None: to the last reading."""

    @property
    def is_empty(self) -> bool:
        """Whether no reading can be among them."""
        return self.since_us is not None and self.until_us is not None and self.since_us >= self.until_us

    def takes(self, reading: Reading) -> bool:
        """Whether this one is."""
        well_id, timestamp_us = reading[:2]
        return (
            (not self.wells or well_id in self.wells)
            and (self.since_us is None or timestamp_us >= self.since_us)
            and (self.until_us is None or timestamp_us < self.until_us)
        )


EVERYTHING: Final = Choice()


@dataclass(slots=True)
class Standing:
    """One alarm of a back-test, from its raising to its clearing."""

    well_id: str
    diagnosis: str
    severity: str
    raised_us: int
    cleared_us: int | None = None
    """None: it stands at the end."""


@dataclass(slots=True)
class Tally:
    """What one diagnosis came to."""

    raised: int = 0
    standing_us: int = 0


@dataclass(slots=True)
class Trial:
    """One tree on trial: what it tells of the readings, and what that comes to.

    Holds of each well what the daemon holds, and one `Standing` for each alarm; nothing for a reading.
    """

    name: str
    tree: Tree
    wells: Callable[[str], WellSettings]
    alarms: list[Standing] = field(default_factory=list)
    _open: dict[str, Standing] = field(default_factory=dict)
    _newest_us: int = 0
    _last_us: dict[str, int] = field(default_factory=dict)
    _behind_us: dict[str, int] = field(default_factory=dict)
    """How far behind the newest of all wells the last line of a well arrived."""
    _disordered: set[str] = field(default_factory=set)
    """Wells of which something came out of order: their timestamps do not say when they arrived."""
    _diagnostician: Diagnostician = field(init=False)

    def __post_init__(self) -> None:
        self._diagnostician = Diagnostician(self.tree, self.wells)

    def take(self, reading: Reading) -> Sequence[AlarmEvent]:
        """What the tree tells as of this reading."""
        well_id, timestamp_us = reading[:2]
        # An RTU's clock that runs ahead makes nobody else silent.
        now_us = min(timestamp_us, reading.received_us)
        silences: Sequence[AlarmEvent] = ()
        if now_us > self._newest_us:
            self._newest_us = now_us
            silences = self._diagnostician.pass_time(now_us)
        if timestamp_us > self._last_us.get(well_id, 0):
            self._last_us[well_id] = timestamp_us
        else:
            self._disordered.add(well_id)
        if well_id in self._disordered:
            reading = _arrived(reading, self._arrival_us(reading))
        self._behind_us[well_id] = self._newest_us - reading[-1]
        events = self._diagnostician.observe(reading)
        return self._note([*silences, *events]) if silences or events else ()

    def _arrival_us(self, reading: Reading) -> int:
        """When a reading of a disordered well arrived: as much later than the one before it as other wells say.

        So a clock that was set back is found among wells whose clocks are right, and no well is taken for silent whose
        timestamps are behind. One that says itself when it arrived did so, but if late not before the newest.
        """
        well_id, timestamp_us = reading[:2]
        if reading.received_us == timestamp_us:
            return max(timestamp_us, self._newest_us - self._behind_us.get(well_id, 0))
        return max(reading.received_us, self._newest_us) if timestamp_us < self._last_us[well_id] else reading[-1]

    def finish(self) -> Sequence[AlarmEvent]:
        """What the end of the readings says: who has been silent by then."""
        return self._note(self._diagnostician.pass_time(self._newest_us, at_once=True))

    def explain(self, well_id: str) -> Iterator[str]:
        """The questions asked of a well at its newest reading, the values they saw, and the answers."""
        return self._diagnostician.explain(well_id)

    def tallies(self) -> Mapping[str, Tally]:
        """By diagnosis; an alarm that still stands counts until its well's last reading."""
        found: dict[str, Tally] = defaultdict(Tally)
        for alarm in self.alarms:
            tally = found[alarm.diagnosis]
            tally.raised += 1
            tally.standing_us += self.ended_us(alarm) - alarm.raised_us
        return found

    def ended_us(self, alarm: Standing) -> int:
        """When it was cleared, or the last that was heard of its well."""
        if alarm.cleared_us is not None:
            return alarm.cleared_us
        return max(self._last_us.get(alarm.well_id, 0), alarm.raised_us)

    def _note(self, events: Sequence[AlarmEvent]) -> Sequence[AlarmEvent]:
        for event in events:
            if event.transition == "raised":
                alarm = Standing(event.well_id, event.diagnosis, event.severity, event.timestamp_us)
                self._open[event.alarm_id] = alarm
                self.alarms.append(alarm)
            elif event.transition == "escalated":
                self._open[event.alarm_id].severity = event.severity
            elif event.transition == "cleared":
                self._open.pop(event.alarm_id).cleared_us = event.timestamp_us
        return events


class BackTest:
    """One tree, or two, on the same readings.

    Args:
        trials: the trees; the events of the first are told.
        tell: hears the first trial's events, in order.
        choice: which of the readings to judge.
        explain: hears, for each reading, the questions asked, the values they saw, and the answers.
        explain_since_us: not for readings before this time, microseconds since 1970 UTC; they are judged all the same.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        tell: Callable[[AlarmEvent], object],
        *,
        choice: Choice = EVERYTHING,
        explain: Callable[[str], object] | None = None,
        explain_since_us: int = 0,
    ) -> None:
        self._trials = trials
        self._tell = tell
        self._choice = choice
        self._explain = explain
        self._explain_since_us = explain_since_us
        self._readings = 0
        self._refused = 0
        self._late = 0
        self._held: dict[str, tuple[Reading, str]] = {}
        """Of a well the reading that is far ahead of the one before it, and where it stands."""
        self._first_us: dict[str, int] = {}
        self._last_us: dict[str, int] = {}

    def take(self, reading: Reading) -> None:
        """Judge a reading."""
        well_id, timestamp_us = reading[:2]
        self._readings += 1
        is_late = timestamp_us <= self._last_us.get(well_id, 0)
        self._late += is_late
        if not is_late:
            self._last_us[well_id] = timestamp_us
            self._first_us.setdefault(well_id, timestamp_us)
        self._hear([trial.take(reading) for trial in self._trials])
        if self._explain is not None and timestamp_us >= self._explain_since_us:
            if is_late:
                self._explain(f"{to_iso(timestamp_us)} {well_id}: late, stored and not diagnosed")
                return
            for line in self._trials[0].explain(well_id):
                self._explain(line)

    def take_lines(self, lines: Iterable[Line], decoder: Decoder, refuse: IO[str]) -> None:
        """Judge telemetry payloads, oldest first; what is refused is named in `refuse`."""
        chooses = self._choice != EVERYTHING
        for name, number, row in lines:
            if isinstance(row, bytes) and not row.strip():
                continue
            received_us = _arrival_us(row)
            decoded = _decoded(decoder, row, received_us or FAR_US)
            if decoded.rejection is not None:
                self._refused += sum(decoded.rejection.counts.values())
                refuse.write(f"{name}:{number}: {decoded.rejection.reason.value}: {_why(decoded.rejection.detail)}\n")
            for reading in decoded.readings:
                if chooses and not self._choice.takes(reading):
                    continue
                if received_us:
                    self.take(reading)
                else:
                    self._take_in_turn(_arrived(reading, reading.timestamp_us), f"{name}:{number}", refuse)
        for reading, _ in self._held.values():
            self.take(reading)

    def _take_in_turn(self, reading: Reading, place: str, refuse: IO[str]) -> None:
        """Judge a reading, one that is far ahead only once the well's next one bears it out."""
        well_id, timestamp_us = reading[:2]
        if self._held and well_id in self._held:
            held, where = self._held.pop(well_id)
            if timestamp_us >= held.timestamp_us - FAR_AHEAD_US:
                self.take(held)
            else:
                self._refused += 1
                when = to_iso(held.timestamp_us)
                refuse.write(f"{where}: implausible_timestamp: timestamp {when} is more than a day ahead of the next\n")
        if timestamp_us > self._last_us.get(well_id, timestamp_us) + FAR_AHEAD_US:
            self._held[well_id] = reading, place
        else:
            self.take(reading)

    async def take_stored(self, settings: "DatabaseSettings") -> None:
        """Judge what a database holds.

        Raises:
            Unavailable: the database cannot be read.
            ValueError: there is no such well.
        """
        from esp_ingestd.database import Database  # noqa: PLC0415 - not for files: it takes a tenth of a second
        from esp_ingestd.queries import names_of_wells  # noqa: PLC0415 - likewise

        database = Database(settings, name="esp-ingestd diagnose", read_only=True)
        try:
            well_ids = await names_of_wells(database, self._choice.wells)
            chosen = (well_ids, self._choice.since_us, self._choice.until_us)
            span = await database.span_of_readings(*chosen) if well_ids else None
            if span is None:
                return
            first_us, last_us = span
            with Progress("history", last_us - first_us) as progress:
                async for block in database.stream_readings(well_ids, first_us, last_us):
                    for reading in block:
                        arrived_us = min(reading.received_us, reading.timestamp_us)
                        self.take(_arrived(reading, arrived_us))
                    progress.update(block[-1].timestamp_us - first_us, self._readings)
        finally:
            await database.close()

    def finish(self) -> None:
        """There are no more readings."""
        self._hear([trial.finish() for trial in self._trials])

    def lines(self) -> Iterator[str]:
        """What it came to, for people: a table by diagnosis; of two trees both, and the alarms of only one."""
        wells = f"{len(self._last_us)} well{'s' * (len(self._last_us) != 1)}"
        yield f"{self._readings} readings, {self._refused} refused, {wells}, {self._well_days:.1f} days"
        if self._late:
            yield f"{self._late} of them late, and not diagnosed: no newer than what came before of their well"
        yield from (f"no reading of {each} among them" for each in self._choice.wells if each not in self._last_us)
        yield from self._table()
        if len(self._trials) > 1:
            yield from self._differences()

    def _hear(self, told: Sequence[Sequence[AlarmEvent]]) -> None:
        """Tell the events of the first trial."""
        for event in told[0]:
            self._tell(event)

    @property
    def _well_days(self) -> float:
        """Days between first and last reading that was diagnosed, summed over the wells."""
        return sum(last - self._first_us[well] for well, last in self._last_us.items()) / SECOND_US / DAY_S

    def _table(self) -> Iterator[str]:
        tallies = [trial.tallies() for trial in self._trials]
        if not any(tallies):
            yield "no alarms"
            return
        if len(tallies) > 1:
            yield f"{'':<22}" + "".join(f"{trial.name[-28:]:>30}" for trial in self._trials)
        yield f"{'diagnosis':<22}" + f"{'alarms':>8}{'hours':>10}{'a well-day':>12}" * len(tallies)
        for name in sorted(set().union(*tallies), key=lambda name: (-max(t[name].raised for t in tallies), name)):
            yield f"{name:<22}" + "".join(self._cells(tally[name]) for tally in tallies)

    def _cells(self, tally: Tally) -> str:
        rate = tally.raised / self._well_days if self._well_days else float("nan")
        return f"{tally.raised:>8}{tally.standing_us / HOUR_US:>10.1f}{rate:>12.3f}"

    def _differences(self) -> Iterator[str]:
        one, other = self._trials[:2]
        for this, that in ((one, other), (other, one)):
            alone = only_in(this, that)
            yield f"only with {this.name}: {len(alone) or 'none'}"
            for alarm in alone:
                hours = (this.ended_us(alarm) - alarm.raised_us) / HOUR_US
                stands = "" if alarm.cleared_us is not None else ", stands"
                raised = to_iso(alarm.raised_us)
                yield f"  {raised} {alarm.well_id} {alarm.diagnosis} {alarm.severity}, {hours:.1f} h{stands}"


def only_in(this: Trial, that: Trial) -> list[Standing]:
    """The alarms of `this` while which `that` had none of the same well and diagnosis, in order of their raising.

    Identity would not do: another delay raises the same alarm at another time, by another id.
    """
    known: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    for alarm in that.alarms:
        known[alarm.well_id, alarm.diagnosis].append(alarm)
    return [
        alarm
        for alarm in sorted(this.alarms, key=lambda alarm: (alarm.raised_us, alarm.well_id))
        if not any(
            alarm.raised_us <= that.ended_us(other) and other.raised_us <= this.ended_us(alarm)
            for other in known[alarm.well_id, alarm.diagnosis]
        )
    ]


def _why(detail: Mapping[str, object]) -> str:
    """What is wrong with a refused line, in words."""
    elements = detail.get("elements")
    if isinstance(elements, list):
        return "; ".join(str(each.get("why", each)) for each in elements)
    return str(detail.get("why", detail))


def _decoded(decoder: Decoder, row: Row, received_us: int) -> Decoded:
    if isinstance(row, bytes):
        return decoder.decode("", row, received_us)
    if isinstance(row, Unreadable):
        return Decoded((), row.rejection)
    return decoder.decode_fields(row, received_us)


def _arrived(reading: Reading, received_us: int) -> Reading:
    """The reading, as having arrived at `received_us`; in a third of the time that `_replace` takes."""
    return Reading._make((*reading[:-1], received_us))


def _arrival_us(row: Row) -> int | None:
    """When a line says that it arrived, microseconds since 1970 UTC; None if it does not, or not understandably."""
    if isinstance(row, Unreadable) or (b'"received_at"' if isinstance(row, bytes) else "received_at") not in row:
        return None
    try:
        fields = json.loads(row) if isinstance(row, bytes) else row
        return to_timestamp_us(fields["received_at"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def lines_of(inputs: Iterable[Path]) -> Iterator[Line]:
    """The payloads of files, one after another: CSV by its suffix, else JSON lines; `-` is standard input.

    Raises:
        RecordingError: a file of another kind, or a CSV without a usable header.
        OSError: a file cannot be read.
    """
    for path in inputs:
        if str(path) == "-":
            for number, line in enumerate(sys.stdin.buffer, 1):  # as it comes, not a block at a time
                yield Line("-", number, line.removeprefix(BOM_UTF8) if number == 1 else line)
            continue
        with closing(open_lines(path)) as file:
            for number, row in chain.from_iterable(block.rows() for block in file.blocks()):
                yield Line(str(path), number, row)
