"""What a rollup is: which hours a batch touches, and the SQL that counts an hour and a day again.

Rules:
    1. A mark says that an hour got readings or alarm events. It is committed with them, and deleted in the transaction
       that then counts the hour again; where it counts but some of the wells, it leaves a mark of the others. Who sees
       a mark sees what came with it, and what comes later has a mark of its own. So no bucket is forgotten, whoever is
       killed. The transaction that takes the marks tells the archive which day it was.
    2. An hour is counted again whole, from its readings, and the day from its hours: twice equals once.
    3. Readings go away only by retention, so a count that finds fewer than the last one saw a part of them: the row
       that is there stays.
    4. What is named in `bad_channels` does not count.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.reading import CHANNEL_NAMES, HOUR_US, SECOND_US, Reading

LONGEST_US: Final = HOUR_US // 2
"""How long what a reading says of the pump holds at most."""
ON_TIME_US: Final = 900 * SECOND_US
"""A reading that is no older when it arrives belongs to an hour that most wells are sending for."""
SEVERITIES: Final = ("info", "low", "medium", "high", "critical")


class Mark(NamedTuple):
    """An hour that got readings or alarm events: its beginning in microseconds since 1970 UTC, the wells or all."""

    bucket_us: int
    well_ids: list[str] | None


class Stale(NamedTuple):
    """What of the rollups readings make stale, in whole hours since 1970 UTC."""

    hours: frozenset[int] = frozenset()
    """For every well."""
    of_wells: frozenset[tuple[int, str]] = frozenset()
    """For these wells."""


def stale_with(readings: Sequence[Reading]) -> Stale:
    """What these readings make stale.

    Of the hours that readings on time fall into, every well: naming each would cost more than counting all. Of older
    ones, which are late readings or history, only the wells that got something.
    """
    on_time_us = readings[-1].received_us - ON_TIME_US if readings else 0
    hours = {reading[1] // HOUR_US for reading in readings}
    whole = {hour for hour in hours if (hour + 1) * HOUR_US > on_time_us}
    if len(whole) == len(hours):
        return Stale(frozenset(whole))
    # What a reading says of the pump holds for half an hour, maybe into the next hour.
    halves = {(reading[1] // LONGEST_US, reading[0]) for reading in readings}
    both = ((hour, well_id) for half, well_id in halves for hour in (half // 2, (half + 1) // 2))
    return Stale(frozenset(whole), frozenset(each for each in both if each[0] not in whole))


def marks_of(stale: Stale, events: Iterable[AlarmEvent]) -> Iterator[Mark]:
    """The marks that go into the database with readings and alarm events."""
    wells: dict[int, list[str]] = {}
    for hour, well_id in stale.of_wells | {(event.timestamp_us // HOUR_US, event.well_id) for event in events}:
        wells.setdefault(hour, []).append(well_id)
    yield from (Mark(hour * HOUR_US, None) for hour in stale.hours)
    yield from (Mark(hour * HOUR_US, well_ids) for hour, well_ids in wells.items())


def _good(channel: str) -> str:
    return f"CASE WHEN bad_channels IS NULL OR '{channel}' <> ALL (bad_channels) THEN {channel} END"


def _each(form: str) -> str:
    """`form` once a channel: {x} is its name, {good} its value where that can be trusted."""
    return ", ".join(form.format(x=channel, good=_good(channel)) for channel in CHANNEL_NAMES)


def _upsert(columns: str, condition: str = "") -> str:
    """Replace what is there, under a condition."""
    names = columns.split(", ")
    changes = ", ".join(f"{name} = excluded.{name}" for name in names)
    return f"ON CONFLICT (well_id, bucket) DO UPDATE SET {changes} {condition}"


_COLUMNS: Final = "readings, uptime_s, " + _each("{x}_min, {x}_max, {x}_sum, {x}_count, {x}_last")
_ALARMS: Final = ", ".join(f"alarms_{severity}" for severity in SEVERITIES)
# The bounds come as arguments: what is left to compute rules out no chunk while the statement is planned.
_OF_HOUR: Final = 'well_id = wells.well_id AND "timestamp" >= $1 AND "timestamp" < $3'
_HERTZ, _AMPERES = _good("vsd_frequency"), _good("motor_current")

SELECT_HOURS: Final = "SELECT DISTINCT bucket FROM esp_rollup_marks ORDER BY bucket DESC"
"""The hours to count again, the newest first: they are what people look at."""

TAKE_MARKS: Final = "DELETE FROM esp_rollup_marks WHERE bucket = $1 RETURNING well_ids, marked_at"

TAKE_MARK: Final = "DELETE FROM esp_rollup_marks WHERE bucket = $1 AND well_ids = $2 AND marked_at = $3"
LEAVE_MARK: Final = "INSERT INTO esp_rollup_marks (bucket, well_ids, marked_at) VALUES ($1, $2, $3)"
"""What of an hour is left to count, as one mark: it is as old as the oldest of those that it stands for."""

MERGE_MARKS: Final = """
    WITH gone AS (
        DELETE FROM esp_rollup_marks
        WHERE bucket IN (SELECT bucket FROM esp_rollup_marks GROUP BY bucket HAVING count(*) > 1)
        RETURNING bucket, well_ids, marked_at
    )
    INSERT INTO esp_rollup_marks (bucket, well_ids, marked_at)
    SELECT bucket, CASE WHEN bool_and(well_ids IS NOT NULL) THEN array_agg(DISTINCT well_id) END, min(marked_at)
    FROM gone LEFT JOIN LATERAL unnest(well_ids) AS wells (well_id) ON true GROUP BY bucket
"""
"""One mark an hour in place of many, which says the same."""

TOUCH_DAY: Final = """
    UPDATE archived_days SET touched_at = now()
    WHERE table_name IN ('esp_telemetry', 'diagnostic_results') AND day = $1
"""
"""Whoever takes the marks of an hour passes on to the archive that its day got something."""

# Goes from well to well down the key, which is far less than all rows: PostgreSQL before 18 does not do so by itself.
SELECT_WELLS: Final = """
    WITH RECURSIVE wells (well_id) AS (
        (SELECT well_id FROM esp_telemetry WHERE "timestamp" >= $1 AND "timestamp" < $2 ORDER BY well_id LIMIT 1)
        UNION ALL
        SELECT (SELECT next.well_id FROM esp_telemetry AS next
                WHERE next.well_id > wells.well_id AND "timestamp" >= $1 AND "timestamp" < $2
                ORDER BY next.well_id LIMIT 1)
        FROM wells WHERE wells.well_id IS NOT NULL
    )
    SELECT well_id FROM wells WHERE well_id IS NOT NULL
"""

# A reading says that the pump turns as core/well.py has it, but for the tenth of the motor's current, which the
# database does not know. What it says holds until the next one that says anything, for half an hour at most.
_TURNING: Final = f"""
    SELECT date_part('epoch', sum(
        least(until, at + interval '30 min', $3) - greatest(at, $1)
    ) FILTER (WHERE turns AND at + interval '30 min' > $1)) AS uptime_s
    FROM (SELECT at, turns, lead(at, 1, 'infinity') OVER (ORDER BY at) AS until FROM (
        (SELECT "timestamp" AS at, coalesce(hertz >= 5, false) OR coalesce(amperes > 2, false) AS turns
         FROM (SELECT "timestamp", {_HERTZ} AS hertz, {_AMPERES} AS amperes FROM esp_telemetry
               WHERE well_id = wells.well_id AND "timestamp" >= $4 AND "timestamp" < $1) AS earlier
         WHERE hertz IS NOT NULL OR amperes IS NOT NULL ORDER BY "timestamp" DESC LIMIT 1)
        UNION ALL
        SELECT "timestamp", coalesce(hertz >= 5, false) OR coalesce(amperes > 2, false)
        FROM (SELECT "timestamp", {_HERTZ} AS hertz, {_AMPERES} AS amperes FROM esp_telemetry WHERE {_OF_HOUR}) AS now
        WHERE hertz IS NOT NULL OR amperes IS NOT NULL
    ) AS said) AS intervals
"""  # noqa: S608 - our own column names

# Most readings bring every channel of their well, and the newest one has all that is asked.
_LACKING: Final = " OR ".join(f"({name}_count > 0 AND newest.{name} IS NULL)" for name in CHANNEL_NAMES)

COUNT_HOUR: Final = f"""
    INSERT INTO esp_rollups_hourly AS old (well_id, bucket, {_COLUMNS})
    SELECT wells.well_id, $1, readings, coalesce(uptime_s, 0),
        {_each("{x}_min, {x}_max, {x}_sum, {x}_count, coalesce(newest.{x}, older.{x})")}
    FROM unnest($2::text[]) AS wells (well_id)
    CROSS JOIN LATERAL (
        SELECT count(*) AS readings,
            {_each("min({x}) AS {x}_min, max({x}) AS {x}_max, sum({x}) AS {x}_sum, count({x}) AS {x}_count")}
        FROM (SELECT {_each("{good} AS {x}")} FROM esp_telemetry WHERE {_OF_HOUR}) AS good
    ) AS counted
    LEFT JOIN LATERAL (
        SELECT {_each("{good} AS {x}")} FROM esp_telemetry WHERE {_OF_HOUR} ORDER BY "timestamp" DESC LIMIT 1
    ) AS newest ON true
    CROSS JOIN LATERAL (
        SELECT {_each('(array_agg({x} ORDER BY "timestamp" DESC) FILTER (WHERE {x} IS NOT NULL))[1] AS {x}')}
        FROM (SELECT "timestamp", {_each("{good} AS {x}")} FROM esp_telemetry WHERE ({_LACKING}) AND {_OF_HOUR}) AS good
    ) AS older
    CROSS JOIN LATERAL ({_TURNING}) AS turning
    WHERE readings > 0
    {_upsert(_COLUMNS, "WHERE excluded.readings >= old.readings")}
    RETURNING readings
"""  # noqa: S608 - our own column names
"""Hour, wells, its end, half an hour before it -> the readings of each."""

COUNT_ALARMS: Final = f"""
    INSERT INTO esp_rollups_hourly AS old (well_id, bucket, {_ALARMS})
    SELECT well_id, $1, {", ".join(f"count(*) FILTER (WHERE severity = '{severity}')" for severity in SEVERITIES)}
    FROM diagnostic_results
    WHERE well_id = ANY ($2) AND "timestamp" >= $1 AND "timestamp" < $3
        AND transition IN ('raised', 'escalated')
    GROUP BY well_id
    ON CONFLICT (well_id, bucket) DO UPDATE
    SET {", ".join(f"{name} = greatest(old.{name}, excluded.{name})" for name in _ALARMS.split(", "))}
"""  # noqa: S608 - our own column names

_OF_DAY: Final = """
    min({x}_min), max({x}_max), sum({x}_sum), sum({x}_count),
    (array_agg({x}_last ORDER BY bucket DESC) FILTER (WHERE {x}_last IS NOT NULL))[1]
"""

COUNT_DAY: Final = f"""
    INSERT INTO esp_rollups_daily (well_id, bucket, {_COLUMNS}, {_ALARMS})
    SELECT well_id, $1, sum(readings), sum(uptime_s), {_each(_OF_DAY)},
        {", ".join(f"sum({name})" for name in _ALARMS.split(", "))}
    FROM esp_rollups_hourly
    WHERE well_id = ANY ($2) AND bucket >= $1 AND bucket < $1 + interval '1 day'
    GROUP BY well_id
    {_upsert(f"{_COLUMNS}, {_ALARMS}")}
"""  # noqa: S608 - our own column names
