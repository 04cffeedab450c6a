"""What is archived: two tables, their columns with kind and unit, and the order of rows in a file."""

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from esp_ingestd.core.reading import CHANNELS


class Kind(Enum):
    """What a column holds."""

    TEXT = "text"
    TIME = "time"
    NUMBER = "number"
    JSON = "json"
    NAMES = "names"
    """An array of text."""


class Column(NamedTuple):
    """One column."""

    name: str
    kind: Kind
    unit: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of which closed days are archived."""

    name: str
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    """Columns by which a file is sorted, byte by byte; together they are a key."""
    received: str | None
    """The column that says when a row was received, by which the first of two with one key is known."""

    def of(self, kind: Kind) -> list[str]:
        """The names of the columns of a kind."""
        return [column.name for column in self.columns if column.kind is kind]

    @property
    def names(self) -> list[str]:
        """The names of all columns."""
        return [column.name for column in self.columns]


NO_UNIT: Final = "no unit"
TIME_UNIT: Final = "us since 1970-01-01 UTC"
_TEXT: Final = ("diagnosis", "category", "severity", "transition", "state")

TELEMETRY: Final = Table(
    "esp_telemetry",
    (
        Column("well_id", Kind.TEXT, NO_UNIT),
        Column("timestamp", Kind.TIME, TIME_UNIT),
        *(Column(channel.name, Kind.NUMBER, channel.unit) for channel in CHANNELS),
        Column("extra", Kind.JSON, NO_UNIT),
        Column("bad_channels", Kind.NAMES, NO_UNIT),
        Column("received_at", Kind.TIME, TIME_UNIT),
    ),
    ("well_id", "timestamp"),
    "received_at",
)
DIAGNOSTICS: Final = Table(
    "diagnostic_results",
    (
        *(Column(name, Kind.TEXT, NO_UNIT) for name in ("event_id", "alarm_id", "well_id")),
        Column("timestamp", Kind.TIME, TIME_UNIT),
        *(Column(name, Kind.TEXT, NO_UNIT) for name in _TEXT),
        Column("confidence", Kind.NUMBER, "0 to 1"),
        Column("actions", Kind.JSON, NO_UNIT),
        Column("resolution_time", Kind.TEXT, NO_UNIT),
        Column("telemetry_snapshot", Kind.JSON, "as in esp_telemetry"),
        Column("evidence", Kind.JSON, "by feature"),
        Column("tree_version", Kind.TEXT, NO_UNIT),
        Column("published_at", Kind.TIME, TIME_UNIT),
        Column("event", Kind.JSON, NO_UNIT),
    ),
    ("well_id", "timestamp", "event_id"),
    None,
)
TABLES: Final = (TELEMETRY, DIAGNOSTICS)
