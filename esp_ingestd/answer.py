"""What questions to the database are answered with: rows, their columns for people and for programs, charts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esp_ingestd.chart import Span, draw
from esp_ingestd.core.reading import CHANNELS, SECOND_US, to_iso
from esp_ingestd.core.tree import SEVERITIES
from esp_ingestd.moment import Every, to_words
from esp_ingestd.table import Column, decimals

WORST_FIRST: Final = tuple(reversed(SEVERITIES))
UNITS: Final = {channel.name: channel.unit for channel in CHANNELS}
SHORT_ID: Final = 8
"""As much of an alarm's id as tables show; `alarms --alarm` takes it."""
PARTS: Final = ("min", "mean", "max", "last")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, and what there is to say about them."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    headline: str = ""
    """All of it in a line, for people."""
    notes: Sequence[str] = ()
    """What whoever reads it should know, be it a person or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """From `since_us` on and before `until_us`, microseconds since 1970 UTC."""

    since_us: int
    until_us: int

    def __str__(self) -> str:
        return f"{to_second(to_iso(self.since_us))} to {to_second(to_iso(self.until_us))}"

    def snapped(self, step_us: int) -> "Period":
        """The same, from the beginning of the hour or day on."""
        return Period(since_us=self.since_us - self.since_us % step_us, until_us=self.until_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a well measured in a period, oldest first."""

    rows: Sequence[Row]
    every: Every
    channels: Sequence[str]
    period: Period
    vibration_unit: str
    notes: Sequence[str] = ()

    @property
    def _moment(self) -> str:
        return "timestamp" if self.every is Every.RAW else "bucket"

    @property
    def answer(self) -> Answer:
        """As rows."""
        rows = [{**row, self._moment: to_iso(row[self._moment])} for row in self.rows]
        if self.every is Every.RAW:
            measured = channel_columns(rows, self.channels, {self.vibration_unit})
            return Answer([*RAW_COLUMNS, *measured, BAD_CHANNELS], rows, notes=self.notes)
        measured = _rollup_columns(rows, self.channels, {self.vibration_unit})
        return Answer([*ROLLUP_COLUMNS, *measured], rows, notes=self.notes)

    def charts(self, width: int) -> list[str]:
        """As lines `width` characters wide: a chart for each channel that has values."""
        low, mean, high = ("", "", "") if self.every is Every.RAW else ("_min", "_mean", "_max")
        lines: list[str] = []
        for channel in self.channels:
            spans = [
                Span(row[self._moment], row[channel + low], row[channel + mean], row[channel + high])
                for row in self.rows
                if row[channel + mean] is not None
            ]
            if spans:
                title = f"{channel}, {_unit_of(channel, {self.vibration_unit})}"
                lines += [*draw(title, spans, self.rows[0][self._moment], self.rows[-1][self._moment], width), ""]
        return lines or ["nothing to draw"]


def _unit_of(channel: str, vibration_units: Iterable[str]) -> str:
    """The unit of a channel, vibration in that of the wells that are shown."""
    return " or ".join(sorted(vibration_units)) if channel == "vibration" else UNITS[channel]


def channel_columns(rows: Sequence[Mapping[str, Any]], channels: Iterable[str], units: set[str]) -> list[Column]:
    """A column a channel, with its unit."""
    return [
        Column(each, f"{each}\n{_unit_of(each, units)}", decimals(row[each] for row in rows), rank=1)
        for each in channels
    ]


def _rollup_columns(rows: Sequence[Mapping[str, Any]], channels: Iterable[str], units: set[str]) -> list[Column]:
    """For programs every part; for people the mean, and what it lies between."""
    columns = []
    for each in channels:
        show = decimals(row[f"{each}_{part}"] for row in rows for part in PARTS)
        for part in PARTS:
            heading = f"{each}\n{part}, {_unit_of(each, units)}"
            columns.append(
                Column(f"{each}_{part}", heading, show, rank=1 if part == "mean" else 2, in_table=part != "last")
            )
    return columns


def to_second(moment: str) -> str:
    """For people, without the fraction."""
    return f"{moment[:19]}Z"


def _to_age(age_s: float) -> str:
    return to_words(round(age_s * SECOND_US))


def _to_hours(uptime_s: float) -> str:
    return f"{uptime_s / 3600:.1f}"


def _to_short_id(alarm_id: str) -> str:
    return alarm_id[:SHORT_ID]


def _unless_zero(count: int) -> str:
    return str(count or "")


NO_WELLS: Final = "no well has sent a reading yet"
BAD_CHANNELS: Final = Column("bad_channels", "doubted", ", ".join, rank=1)
AGE: Final = Column("age_s", "age", _to_age)
WELL_COLUMNS: Final = (
    Column("well_id", "well"),
    Column("state"),
    Column("last_reading", "last reading\nUTC", to_second),
    AGE,
    Column("alarms", show=_unless_zero),
    Column("worst"),
)
LATEST_COLUMNS: Final = (Column("well_id", "well"), Column("timestamp", "timestamp\nUTC", to_second), AGE)
RAW_COLUMNS: Final = (Column("well_id", in_table=False), Column("timestamp", "timestamp\nUTC", to_second))
ROLLUP_COLUMNS: Final = (
    Column("well_id", in_table=False),
    Column("bucket", "from\nUTC", to_second),
    Column("readings"),
    Column("uptime_s", "up\nh", _to_hours),
)
SUMMARY_COLUMNS: Final = (
    Column("well_id", "well"),
    Column("readings", show="{:,}".format),
    Column("uptime_s", in_table=False),
    Column("uptime", "up", "{:.0%}".format),
    Column("flow_rate_mean", "flow\nbbl/d", "{:,.0f}".format),
    Column("alarms", is_prose=True, only_in_table=True),
    *(Column(f"alarms_{severity}", in_table=False) for severity in WORST_FIRST),
    Column("dead_letters", "dead\nletters", _unless_zero),
)
STANDING_COLUMNS: Final = (
    Column("well_id", "well"),
    Column("severity"),
    Column("diagnosis"),
    Column("state", rank=1),
    Column("raised_at", in_table=False),
    Column("age_s", "for", _to_age),
    Column("count", "times", rank=2),
    Column("told", "message", is_prose=True, only_in_table=True),
    Column("message", in_table=False),
    Column("acknowledged", in_table=False),
    Column("acknowledged_by", in_table=False),
    Column("acknowledged_at", in_table=False),
    Column("shelved_by", in_table=False),
    Column("shelved_until", in_table=False),
    Column("actions", in_table=False),
    Column("alarm_id", "alarm", _to_short_id),
)
TRANSITION_COLUMNS: Final = (
    Column("timestamp", "timestamp\nUTC", to_second),
    Column("well_id", "well"),
    Column("severity", rank=1),
    Column("diagnosis"),
    Column("change", only_in_table=True),
    Column("transition", in_table=False),
    Column("state", in_table=False),
    Column("reason", in_table=False),
    Column("message", is_prose=True, rank=2),
    Column("alarm_id", "alarm", _to_short_id, rank=1),
    Column("event_id", in_table=False),
)
EVENT_COLUMNS: Final = (
    *(column for column in TRANSITION_COLUMNS if not column.only_in_table),
    *map(Column, ("confidence", "evidence", "path", "actions", "resolution_time", "by", "comment", "tree_version")),
)
