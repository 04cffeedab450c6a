"""Questions that people ask the database: which wells there are, how they do, what they measured, which alarms stand.

Rules:
    1. However many readings there are, a question reads a few rows a well. No question searches esp_telemetry for its
       wells: the rollups know them, and the marks those that are not rolled up yet. Readings are asked for by well and
       by a bounded time, as constants, so that only the chunks of that time are planned for.
    2. Nothing is ever changed: the session is read-only, and a standby will do.
    3. Rows are for programs: times in ISO 8601 UTC, ages in seconds, names as in the tables. Words are for tables.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Final, TypeVar

from esp_ingestd.answer import (
    BAD_CHANNELS,
    LATEST_COLUMNS,
    NO_WELLS,
    PARTS,
    STANDING_COLUMNS,
    SUMMARY_COLUMNS,
    TRANSITION_COLUMNS,
    WELL_COLUMNS,
    WORST_FIRST,
    Answer,
    History,
    Period,
    Row,
    channel_columns,
    to_second,
)
from esp_ingestd.config import Settings, Wells
from esp_ingestd.core.cadence import MISSED, SILENCE_US
from esp_ingestd.core.reading import CHANNEL_NAMES, DAY_US, HOUR_US, SECOND_US, to_iso
from esp_ingestd.core.topic import TopicPattern
from esp_ingestd.core.tree import SEVERITIES
from esp_ingestd.core.well import IDLE_A, IDLE_LOAD, TURNING_HZ, WellSettings
from esp_ingestd.database import Database
from esp_ingestd.moment import Every, to_words
from esp_ingestd.story import Story

RAW_MOST_US: Final = DAY_US
HOURLY_MOST_US: Final = 60 * DAY_US
HOURLY_SUMMARY_US: Final = 3 * DAY_US
FRESH_US: Final = 60 * SECOND_US  # rollups are never fresher than the last maintenance; what lacks more is worth a word
FOREVER_US: Final = 253_402_300_799_000_000  # the end of the year 9999
DUE_US: Final = HOUR_US  # then maintenance does not run
MATCHES: Final = 3
ALIKE: Final = 0.6  # of 1: from there on a name may have been meant
_T = TypeVar("_T")


async def ask(settings: Settings, question: Callable[[Database], Awaitable[_T]]) -> _T:
    """What a question to the database brings; nothing can be changed by it.

    Raises:
        Unavailable: the database cannot be reached, or its schema is older than ours.
    """
    database = Database(settings.database, name="esp-ingestd question", read_only=True)
    try:
        return await question(database)
    finally:
        await database.close()


# ------------------------------------------------------------------------------------------------- wells, latest


async def wells(database: Database, settings_of: Wells) -> Answer:
    """Each well's last reading, its age, how the well does as far as the database tells, and its standing alarms."""
    now_us = _now_us()
    stored = await _newest_stored(database)
    # Of these nothing more is asked: to be silent they would have to be older, whatever their interval is.
    heard = {row["well_id"]: _heard(row) for row in stored if now_us - row["newest"] <= SILENCE_US}
    days = await _days_of_wells(database, stored)
    last = heard | await _last_readings(database, {name: days[name] for name in days.keys() - heard})
    standing: dict[str, Counter[str]] = defaultdict(Counter)
    for row in await database.fetch(STANDING_BY_WELL):
        standing[row["well_id"]][row["severity"]] += row["count"]
    none = Counter[str]()  # one for all wells without: ten thousand of them take longer than the question
    rows = [
        _well(last.get(name, {}), settings_of(name), name, standing.get(name, none), now_us)
        for name in _sorted(last, standing)
    ]
    states = Counter(row["state"] for row in rows)
    alarms = _worst_first(sum(standing.values(), Counter()))
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return Answer(WELL_COLUMNS, rows, f"{len(rows)} in all: {told}; alarms standing: {alarms}" if rows else NO_WELLS)


def _heard(row: Row) -> Row:
    return {**row, "timestamp": row["newest"], "fourth": None}


def _well(reading: Row, settings: WellSettings, well_id: str, standing: Counter[str], now_us: int) -> Row:
    last_us = reading.get("timestamp")
    return {
        "well_id": well_id,
        "state": state_of(reading, settings, now_us),
        "last_reading": _iso(last_us),
        "age_s": None if last_us is None else (now_us - last_us) / SECOND_US,
        "alarms": standing.total(),
        "worst": next((severity for severity in WORST_FIRST if standing[severity]), None),
    }


def state_of(reading: Mapping[str, Any], settings: WellSettings, now_us: int) -> str:
    """`running`, `off`, `silent`, or `unknown` where neither drive nor motor is measured.

    Silent is a well that has sent nothing for three and a quarter of its intervals, and for five minutes at least; what
    turns and what stands is judged as the diagnosis does it, from this one reading.

    Args:
        reading: its newest, with the time of the fourth newest in `fourth`; empty where there is none.
        settings: of that well.
        now_us: microseconds since 1970 UTC.
    """
    if not reading:
        return "silent"
    last_us = reading["timestamp"]
    fourth_us = last_us if reading["fourth"] is None else reading["fourth"]
    expected_s = settings.expected_interval_s
    interval_us = (last_us - fourth_us) / 3 if expected_s is None else expected_s * SECOND_US
    if now_us - last_us > max(MISSED * interval_us, SILENCE_US):
        return "silent"
    bad = reading["bad_channels"] or ()
    hertz, amperes = (None if name in bad else reading[name] for name in ("vsd_frequency", "motor_current"))
    if hertz is None and amperes is None:
        return "unknown"
    nameplate = settings.nameplate_current_a
    idle_a = IDLE_A if nameplate is None else max(IDLE_A, IDLE_LOAD * nameplate)
    turns = (hertz or 0.0) >= TURNING_HZ or (amperes or 0.0) > idle_a
    return "running" if turns else "off"


async def latest(database: Database, settings_of: Wells, names: Sequence[str], channels: Sequence[str]) -> Answer:
    """The last reading of each well, or of these.

    Raises:
        ValueError: there is no such well.
    """
    now_us = _now_us()
    last = await _last_readings(database, await _days_of(database, names))
    rows = [
        {
            "well_id": name,
            "timestamp": to_iso(reading["timestamp"]),
            "age_s": (now_us - reading["timestamp"]) / SECOND_US,
            **{channel: reading[channel] for channel in (*channels, "bad_channels")},
        }
        for name, reading in sorted(last.items())
        if reading
    ]
    measured = channel_columns(rows, channels, {settings_of(row["well_id"]).vibration_unit for row in rows})
    return Answer([*LATEST_COLUMNS, *measured, BAD_CHANNELS], rows, "" if rows else NO_WELLS)


async def names_of_wells(database: Database, names: Sequence[str] = ()) -> list[str]:
    """These wells, or all that a reading ever came from, in order.

    Raises:
        ValueError: there is no such well.
    """
    return sorted(await _days_of(database, names))


async def _days_of(database: Database, names: Sequence[str]) -> dict[str, list[int]]:
    """`_days_of_wells` of these, or of all.

    Raises:
        ValueError: there is no such well.
    """
    if not names:
        return await _days_of_wells(database)
    rolled = await database.fetch(NEWEST_ROLLED_OF, list(names))
    marked = [row for row in await database.fetch(MARKED) if row["well_id"] in names]
    since_us = await _not_rolled_up_us(database)
    stored = [] if since_us is None else await database.fetch(NEWEST_STORED_OF, list(names), since_us)
    days = _days(rolled + marked + stored)
    if set(names) - days.keys():
        everything = await _days_of_wells(database)
        for name in names:
            _require(name, everything)
        days = everything
    return {name: days[name] for name in names}


async def _not_rolled_up_us(database: Database) -> int | None:
    """Since when any well may have sent what is not rolled up yet; None: whoever has is named by a mark."""
    ((marked_us,),) = [row.values() for row in await database.fetch(OLDEST_MARK_OF_ALL)]
    if marked_us is None:
        return None
    # Whole days spare chunks and skip no rows of those that are left; without chunks a bound only skips rows.
    is_chunked = database.edition is not None and database.edition.has_hypertables
    return int(marked_us - marked_us % DAY_US) if is_chunked else 0


async def _newest_stored(database: Database) -> list[Row]:
    """The newest reading of each well of which there is one that is not rolled up yet."""
    since_us = await _not_rolled_up_us(database)
    return [] if since_us is None else await database.fetch(NEWEST_STORED, since_us)


async def _days_of_wells(database: Database, stored: Sequence[Row] | None = None) -> dict[str, list[int]]:
    """Each well there is -> the days, UTC, of which one holds its newest reading: their beginnings, newest first.

    More than one where an alarm event marked a day on which the well may have sent nothing.

    Args:
        database: whom to ask.
        stored: what `_newest_stored` brings, if that was asked already.
    """
    if stored is None:
        stored = await _newest_stored(database)
    return _days([*await database.fetch(NEWEST_ROLLED), *await database.fetch(MARKED), *stored])


def _days(found: Iterable[Row]) -> dict[str, list[int]]:
    days: dict[str, set[int]] = defaultdict(set)
    for row in found:
        days[row["well_id"]].add(row["newest"] - row["newest"] % DAY_US)
    return {name: sorted(each, reverse=True) for name, each in days.items()}


async def _last_readings(database: Database, days: Mapping[str, Sequence[int]]) -> dict[str, Row]:
    """Each well -> its newest reading; empty where retention has dropped it.

    Wells that are heard of are asked for together, those that are not by the day when they were last.
    """
    yesterday_us = _now_us() // DAY_US * DAY_US - DAY_US
    found: dict[str, Row] = {}
    left = {name: iter(each) for name, each in days.items()}
    while left:
        groups: dict[int, list[str]] = defaultdict(list)
        for name, each in list(left.items()):
            if (day_us := next(each, None)) is None:
                del left[name]
            else:
                groups[min(day_us, yesterday_us)].append(name)
        for day_us, names in groups.items():
            until_us = FOREVER_US if day_us == yesterday_us else day_us + DAY_US
            for row in await database.fetch(LAST_READINGS, names, day_us, until_us):
                found[row["well_id"]] = row
                del left[row["well_id"]]
    return {name: found.get(name, {}) for name in days}


# ---------------------------------------------------------------------------------------------------- history


async def history(
    database: Database, settings_of: Wells, name: str, period: Period, every: Every, channels: Sequence[str], limit: int
) -> History:
    """What a well measured; where there is more than `limit`, the newest of it.

    Raises:
        ValueError: there is no such well.
    """
    notes: list[str] = []
    if every is not Every.RAW:
        period = period.snapped(HOUR_US if every is Every.HOURLY else DAY_US)
        marked = await database.fetch(OLDEST_MARK_OF_WELL, period.since_us, period.until_us, name)
        notes = _what_lacks(_now_us(), marked[0]["marked_us"])
    rows = await _newest_rows(database, name, period, every, channels, limit + 1)
    if not rows:
        notes.insert(0, await _why_nothing(database, name, period))
    if len(rows) > limit:
        notes += [f"there is more: these are the newest {limit} rows; --limit and --since say how much"]
    return History(
        rows=rows[:limit][::-1],
        every=every,
        channels=channels,
        period=period,
        vibration_unit=settings_of(name).vibration_unit,
        notes=notes,
    )


async def _newest_rows(
    database: Database, name: str, period: Period, every: Every, channels: Sequence[str], limit: int
) -> list[Row]:
    """The newest rows of a period, newest first.

    Of readings a day is asked for first, then further back in growing steps: chunks that the newest rows are not in are
    not even planned for.
    """
    query = _history_query(every, channels)
    if every is not Every.RAW:
        return await database.fetch(query, name, period.since_us, period.until_us, limit)
    rows: list[Row] = []
    since_us, step_us = period.until_us, DAY_US
    while len(rows) < limit and since_us > period.since_us:
        until_us, since_us = since_us, max(since_us - step_us, period.since_us)
        rows += await database.fetch(query, name, since_us, until_us, limit - len(rows))
        step_us *= 4
    return rows


async def _why_nothing(database: Database, name: str, period: Period) -> str:
    (newest,) = (await _last_readings(database, await _days_of(database, [name]))).values()
    last = (
        f"its newest reading is of {to_second(to_iso(newest['timestamp']))}"
        if newest
        else "retention has dropped its readings"
    )
    return f"{name}: nothing from {period}; {last}"


def every_for(period: Period) -> Every:
    """What a period of that length is best looked at by."""
    length_us = period.until_us - period.since_us
    return Every.RAW if length_us <= RAW_MOST_US else Every.HOURLY if length_us <= HOURLY_MOST_US else Every.DAILY


def _history_query(every: Every, channels: Sequence[str]) -> str:
    """The SQL; the names in it are ours."""
    if every is Every.RAW:
        return HISTORY_RAW.format(channels="".join(f"{channel}, " for channel in channels))
    parts = (f"{channel}_{part}" for channel in channels for part in PARTS)
    return HISTORY_ROLLUP.format(every=every.value, channels="".join(f", {part}" for part in parts))


# ------------------------------------------------------------------------------------------- summary, alarms


async def summary(database: Database, patterns: Iterable[str], since_us: int) -> Answer:
    """What each well and the field did since then: from the beginning of that hour, of that day if long ago.

    Args:
        database: whom to ask.
        patterns: `mqtt.topics`, by which a dead letter is known to be a well's.
        since_us: microseconds since 1970 UTC.
    """
    now_us = _now_us()
    step_us, every = (HOUR_US, "hourly") if now_us - since_us <= HOURLY_SUMMARY_US else (DAY_US, "daily")
    period = Period(since_us=since_us, until_us=now_us).snapped(step_us)
    days = await _days_of_wells(database)
    totals = {row["well_id"]: row for row in await database.fetch(TOTALS.format(every=every), period.since_us)}
    letters = _by_well(await database.fetch(LETTERS_BY_TOPIC, period.since_us), patterns)
    length_s = max(now_us - period.since_us, 1) / SECOND_US
    rows = [
        _summed(name, totals.get(name, {}), letters[name], length_s)
        for name in _sorted(days, totals, filter(None, letters))
    ]
    ((marked_us,),) = [row.values() for row in await database.fetch(OLDEST_MARK, period.since_us)]
    notes = _what_lacks(now_us, marked_us)
    if not any(row["readings"] for row in rows):
        notes += await _none_since(database, days, period.since_us)
    return Answer(SUMMARY_COLUMNS, rows, _field(rows, letters.total(), period), notes)


async def _none_since(database: Database, days: Mapping[str, Sequence[int]], since_us: int) -> list[str]:
    """A note where no well has sent a reading since then: when the newest was."""
    last = [reading["timestamp"] for reading in (await _last_readings(database, days)).values() if reading]
    is_older = bool(last) and max(last) < since_us
    return [f"the newest reading of all is of {to_second(to_iso(max(last)))}"] if is_older else []


def _what_lacks(now_us: int, marked_us: int | None) -> list[str]:
    """A note where rollups lack what came since `marked_us`; None: they lack nothing."""
    if marked_us is None or now_us - marked_us <= FRESH_US:
        return []
    due = "; `esp-ingestd maintenance` is due" if now_us - marked_us > DUE_US else ""
    return [f"what came since {to_second(to_iso(marked_us))} is not all counted yet{due}"]


def _summed(name: str, total: Mapping[str, Any], letters: int, length_s: float) -> Row:
    uptime_s = float(total.get("uptime_s", 0.0))
    return {
        "well_id": name,
        "readings": int(total.get("readings", 0)),
        "uptime_s": uptime_s,
        "uptime": min(uptime_s / length_s, 1.0),
        "flow_rate_mean": total.get("flow_rate_mean"),
        "alarms": _worst_first({severity: total.get(f"alarms_{severity}", 0) for severity in SEVERITIES}, none=""),
        **{f"alarms_{severity}": int(total.get(f"alarms_{severity}", 0)) for severity in WORST_FIRST},
        "dead_letters": letters,
    }


def _field(rows: Sequence[Mapping[str, Any]], letters: int, period: Period) -> str:
    """The field in a line."""
    alarms = _worst_first({severity: sum(row[f"alarms_{severity}"] for row in rows) for severity in SEVERITIES})
    flow = sum(row["flow_rate_mean"] or 0.0 for row in rows)
    uptime = sum(row["uptime"] for row in rows) / max(len(rows), 1)
    return (
        f"{period}: {len(rows)} wells, {sum(row['readings'] for row in rows):,} readings, up {uptime:.0%} of the time, "
        f"mean flow of all {flow:,.0f} bbl/d; alarms: {alarms}; {letters} dead letters"
    )


def _by_well(rows: Iterable[Mapping[str, Any]], patterns: Iterable[str]) -> Counter[str]:
    """Well -> dead letters of its topics; those of no well, such as rows of files, under ''."""
    compiled = [TopicPattern(pattern) for pattern in patterns]
    counts: Counter[str] = Counter()
    for row in rows:
        matches = (match["well_id"] for each in compiled if (match := each.match(row["topic"])) and "well_id" in match)
        counts[next(matches, "")] += row["count"]
    return counts


async def standing_alarms(
    database: Database, names: Sequence[str], severity: str | None, since_us: int | None
) -> Answer:
    """The alarms that stand, worst first.

    Args:
        database: whom to ask.
        names: of these wells; none means all.
        severity: of this severity alone.
        since_us: raised since then, microseconds since 1970 UTC.

    Raises:
        ValueError: there is no such well.
    """
    now_us = _now_us()
    found = await database.fetch(STANDING, list(names) or None, severity, since_us)
    await _require_known(database, names, found)
    rows = [
        {
            **row,
            **{name: _iso(row[name]) for name in ("raised_at", "acknowledged_at", "shelved_until")},
            "age_s": (now_us - row["raised_at"]) / SECOND_US,
            "actions": json.loads(row["actions"] or "[]"),
            "told": " ".join([row["message"], *_treated(row, now_us)]),
        }
        for row in found
    ]
    rows.sort(key=lambda row: (WORST_FIRST.index(row["severity"]), row["age_s"]))
    told = f"alarms standing: {_worst_first(Counter(row['severity'] for row in rows))}"
    nothing = f"no {_which(names, severity)} stands" + _since(" that was raised", since_us)
    return Answer(STANDING_COLUMNS, rows, told if rows else nothing)


def _which(names: Sequence[str], severity: str | None) -> str:
    """What was asked for, in words: `critical alarm of WELL-001`."""
    return (f"{severity} " if severity else "") + "alarm" + (f" of {', '.join(names)}" if names else "")


def _since(what: str, since_us: int | None) -> str:
    return "" if since_us is None else f"{what} since {to_second(to_iso(since_us))}"


def _treated(alarm: Row, now_us: int) -> Iterator[str]:
    """What people did about an alarm, in sentences."""
    if alarm["acknowledged"]:
        by, at_us = alarm["acknowledged_by"], alarm["acknowledged_at"]
        yield f"Acknowledged by {by} {to_words(now_us - at_us)} ago." if at_us else "Acknowledged."
    if alarm["shelved_until"]:
        by = f" by {alarm['shelved_by']}" if alarm["shelved_by"] else ""
        yield f"Shelved{by} until {to_second(to_iso(alarm['shelved_until']))}."


async def alarm_history(
    database: Database, names: Sequence[str], severity: str | None, since_us: int, limit: int
) -> Answer:
    """The transitions of alarms since then, oldest first; where there are more than `limit`, the newest of them.

    Raises:
        ValueError: there is no such well.
    """
    query = TRANSITIONS_OF_WELLS if names else TRANSITIONS
    arguments = (since_us, severity, limit + 1, list(names)) if names else (since_us, severity, limit + 1)
    found = await database.fetch(query, *arguments)
    await _require_known(database, names, found)
    notes = []
    if len(found) > limit:
        notes = [f"there is more: these are the newest {limit} transitions; --limit and --since say how much"]
    rows = [
        {
            **row,
            "timestamp": to_iso(row["timestamp"]),
            "change": ": ".join(filter(None, (row["transition"], row["reason"]))),
        }
        for row in reversed(found[:limit])
    ]
    headline = "" if rows else f"no {_which(names, severity)} changed" + _since("", since_us)
    return Answer(TRANSITION_COLUMNS, rows, headline, notes)


async def alarm_story(database: Database, beginning: str, names: Sequence[str], since_us: int | None) -> Story:
    """One alarm with all that was told of it, oldest first.

    Args:
        database: whom to ask.
        beginning: of its id, as tables show it, or all of it.
        names: of one of these wells; none means any.
        since_us: told since then, microseconds since 1970 UTC.

    Raises:
        ValueError: there is no such alarm, or more than one; or no such well.
    """
    found = await database.fetch(STORY, beginning.lower(), list(names) or None, since_us)
    if not found:
        await _require_known(database, names, found)
        raise ValueError(f"no event of an alarm {beginning!r}" + _since("", since_us))
    if len(ids := sorted({row["alarm_id"] for row in found})) > 1:
        raise ValueError(f"{beginning} is the beginning of {len(ids)} alarms: {', '.join(ids[:3])}, ...")
    return Story([{"by": "", "comment": ""} | json.loads(row["event"]) for row in found])


# ------------------------------------------------------------------------------------------------------ common


def _now_us() -> int:
    return time.time_ns() // 1_000


def _iso(at_us: int | None) -> str | None:
    return None if at_us is None else to_iso(at_us)


def _sorted(*names: Iterable[str]) -> list[str]:
    return sorted(set().union(*names))


def _worst_first(counts: Mapping[str, int], none: str = "none") -> str:
    return ", ".join(f"{counts[each]} {each}" for each in WORST_FIRST if counts.get(each)) or none


async def _require_known(database: Database, names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> None:
    """Refuse wells that nothing was found of and that no reading ever came from."""
    if missing := set(names).difference(row["well_id"] for row in found):
        await _days_of(database, sorted(missing))


def _require(name: str, known: Iterable[str]) -> None:
    """Refuse a well that no reading ever came from, with those that it may have meant."""
    if name in (known := list(known)):
        return
    likeness = {each: SequenceMatcher(None, name.lower(), each.lower()).ratio() for each in known}
    near = sorted((each for each in known if likeness[each] >= ALIKE), key=lambda each: (-likeness[each], each))[
        :MATCHES
    ]
    meant = f"; is it {', '.join(near)}?" if near else f"; `esp-ingestd wells` lists the {len(known)} that there are"
    raise ValueError(f"no well {name!r}{meant}")


# --------------------------------------------------------------------------------------------------------- SQL

# Loose index scans: from the last well to the first, each with its newest time, one look a well.
_NEWEST: Final = """
    WITH RECURSIVE newest AS (
        (SELECT {columns} FROM {table} WHERE {condition} ORDER BY well_id DESC, {time} DESC LIMIT 1)
        UNION ALL
        SELECT next.* FROM newest, LATERAL (
            SELECT {columns} FROM {table}
            WHERE well_id < newest.well_id AND {condition} ORDER BY well_id DESC, {time} DESC LIMIT 1
        ) AS next
    )
    SELECT * FROM newest
"""
_ROLLED: Final = {
    "table": "telemetry_daily",
    "time": "bucket",
    "condition": "readings > 0",
    "columns": "well_id, bucket AS newest",
}
_STORED: Final = {
    "table": "esp_telemetry",
    "time": '"timestamp"',
    "columns": 'well_id, "timestamp" AS newest, vsd_frequency, motor_current, bad_channels',
}
_NEWEST_OF: Final = """
    SELECT newest.* FROM unnest($1::text[]) AS asked (well_id), LATERAL (
        SELECT {columns} FROM {table}
        WHERE well_id = asked.well_id AND {condition} ORDER BY {time} DESC LIMIT 1
    ) AS newest
"""
NEWEST_ROLLED: Final = _NEWEST.format(**_ROLLED)
NEWEST_ROLLED_OF: Final = _NEWEST_OF.format(**_ROLLED)
# What maintenance has not rolled up yet: of some hours the wells are marked, of others every well may have sent.
MARKED: Final = """
    SELECT DISTINCT well_id, date_trunc('day', bucket, 'UTC') AS newest
    FROM esp_rollup_marks, unnest(well_ids) AS well_id
"""
OLDEST_MARK_OF_ALL: Final = "SELECT min(bucket) FROM esp_rollup_marks WHERE well_ids IS NULL"
NEWEST_STORED: Final = _NEWEST.format(**_STORED, condition='"timestamp" >= $1')
NEWEST_STORED_OF: Final = _NEWEST_OF.format(**_STORED, condition='"timestamp" >= $2')
LAST_READINGS: Final = f"""
    SELECT newest.*, (
        SELECT "timestamp" FROM esp_telemetry
        WHERE well_id = asked.well_id AND "timestamp" >= $2 AND "timestamp" < $3
        ORDER BY "timestamp" DESC OFFSET 3 LIMIT 1
    ) AS fourth
    FROM unnest($1::text[]) AS asked (well_id), LATERAL (
        SELECT well_id, "timestamp", bad_channels, {", ".join(CHANNEL_NAMES)} FROM esp_telemetry
        WHERE well_id = asked.well_id AND "timestamp" >= $2 AND "timestamp" < $3
        ORDER BY "timestamp" DESC LIMIT 1
    ) AS newest
"""  # noqa: S608 - our own column names
HISTORY_RAW: Final = """
    SELECT well_id, "timestamp", {channels}bad_channels FROM esp_telemetry
    WHERE well_id = $1 AND "timestamp" >= $2 AND "timestamp" < $3
    ORDER BY "timestamp" DESC LIMIT $4
"""
HISTORY_ROLLUP: Final = """
    SELECT well_id, bucket, readings, uptime_s{channels} FROM telemetry_{every}
    WHERE well_id = $1 AND bucket >= $2 AND bucket < $3
    ORDER BY bucket DESC LIMIT $4
"""
TOTALS: Final = f"""
    SELECT well_id, sum(readings)::bigint AS readings, sum(uptime_s) AS uptime_s,
        sum(flow_rate_mean * readings) / sum(readings) FILTER (WHERE flow_rate_mean IS NOT NULL) AS flow_rate_mean,
        {", ".join(f"sum(alarms_{each})::bigint AS alarms_{each}" for each in SEVERITIES)}
    FROM telemetry_{{every}} WHERE bucket >= $1 GROUP BY well_id
"""  # noqa: S608 - our own column names
OLDEST_MARK: Final = "SELECT min(marked_at) FROM esp_rollup_marks WHERE bucket >= $1"
OLDEST_MARK_OF_WELL: Final = """
    SELECT min(marked_at) AS marked_us FROM esp_rollup_marks
    WHERE bucket >= $1 AND bucket < $2 AND (well_ids IS NULL OR $3 = ANY (well_ids))
"""
LETTERS_BY_TOPIC: Final = "SELECT topic, count(*) AS count FROM dead_letters WHERE received_at >= $1 GROUP BY topic"
STANDING_BY_WELL: Final = "SELECT well_id, severity, count(*) AS count FROM active_alarms GROUP BY well_id, severity"
# Who treated an alarm: the newest command of that kind, as long as it holds; one look into an index an alarm.
_TREATED: Final = """
    LEFT JOIN LATERAL (
        SELECT "by", received_at FROM alarm_commands
        WHERE well_id = alarm.well_id AND alarm_id = alarm.alarm_id AND command = '{command}'
        ORDER BY received_at DESC LIMIT 1
    ) AS {name} ON {holds}
"""
STANDING: Final = f"""
    SELECT alarm.well_id, severity, diagnosis, state, raised_at, count, message, actions, alarm.alarm_id, acknowledged,
        acked."by" AS acknowledged_by, acked.received_at AS acknowledged_at, shelved."by" AS shelved_by, shelved_until
    FROM active_alarms AS alarm
    {_TREATED.format(name="acked", command="acknowledge", holds="acknowledged")}
    {_TREATED.format(name="shelved", command="shelve", holds="shelved_until IS NOT NULL")}
    WHERE ($1::text[] IS NULL OR alarm.well_id = ANY ($1)) AND ($2::text IS NULL OR severity = $2)
        AND ($3::timestamptz IS NULL OR raised_at >= $3)
"""  # noqa: S608 - our own names
_TRANSITIONS: Final = """
    SELECT "timestamp", well_id, severity, diagnosis, transition, state, event ->> 'reason' AS reason,
        event ->> 'message' AS message, alarm_id, event_id
    FROM diagnostic_results
    WHERE {wells}"timestamp" >= $1 AND ($2::text IS NULL OR severity = $2)
    ORDER BY "timestamp" DESC LIMIT $3
"""
STORY: Final = """
    SELECT alarm_id, well_id, "timestamp", event FROM diagnostic_results
    WHERE starts_with(alarm_id, $1) AND ($2::text[] IS NULL OR well_id = ANY ($2))
        AND ($3::timestamptz IS NULL OR "timestamp" >= $3)
    ORDER BY coalesce((event ->> 'seq')::integer, 0), "timestamp"
"""
TRANSITIONS: Final = _TRANSITIONS.format(wells="")
TRANSITIONS_OF_WELLS: Final = _TRANSITIONS.format(wells="well_id = ANY ($4::text[]) AND ")
