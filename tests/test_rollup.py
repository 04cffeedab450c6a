"""Rollups against the same numbers worked out in Python, on every edition that the machine offers."""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from pydantic import SecretStr

from esp_ingestd.config import DatabaseSettings
from esp_ingestd.core.batch import Batch
from esp_ingestd.core.reading import CHANNEL_NAMES, DAY_US, HOUR_US, SECOND_US, Reading, to_datetime
from esp_ingestd.database import Database, migrate
from esp_ingestd.errors import Unavailable
from esp_ingestd.rollup import SEVERITIES, Mark, marks_of, stale_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services import FreshDatabase, Query

    from esp_ingestd.core.alarm import AlarmEvent

DAY = 19_700 * DAY_US  # some midnight, UTC
LONGEST_US = 1800 * SECOND_US


def at(hour: float, **values: object) -> Reading:
    """A reading of W1, so many hours after midnight, received at once."""
    moment = DAY + round(hour * HOUR_US)
    return Reading("W1", moment, received_us=moment)._replace(**values)  # type: ignore[arg-type]  # what the test says


def batch(*readings: Reading) -> Batch:
    return Batch(readings=list(readings))


async def refresh(store: Database) -> int:
    return sum([await store.roll_up(hour) for hour in await store.stale_hours()])


async def rows(query: Query, name: str) -> dict[tuple[str, int], dict[str, Any]]:
    """(well, bucket in microseconds) -> row."""
    found = await query(f"SELECT * FROM telemetry_{name}")  # noqa: S608 - one of two names
    return {(row["well_id"], int(row["bucket"].timestamp()) * SECOND_US): dict(row) for row in found}


# ----------------------------------------------------------------------------- the same numbers, worked out otherwise


def good(reading: Reading, channel: str) -> float | None:
    return None if channel in (reading.bad_channels or ()) else getattr(reading, channel)


def turns(reading: Reading) -> bool | None:
    hertz, amperes = good(reading, "vsd_frequency"), good(reading, "motor_current")
    return None if hertz is None and amperes is None else (hertz or 0) >= 5 or (amperes or 0) > 2


def uptime_us(readings: Sequence[Reading], since: int, until: int) -> int:
    """Microsecond-exact: what each reading says holds until the next that says anything, half an hour at most."""
    speaking = [(each.timestamp_us, turns(each)) for each in readings if turns(each) is not None]
    total = 0
    for index, (moment, is_turning) in enumerate(speaking):
        following = speaking[index + 1][0] if index + 1 < len(speaking) else math.inf
        if is_turning:
            total += int(max(0, min(following, moment + LONGEST_US, until) - max(moment, since)))
    return total


def expected(readings: Sequence[Reading], since: int, span: int) -> dict[str, Any]:
    """A row, from all readings of one well in order of time."""
    inside = [each for each in readings if since <= each.timestamp_us < since + span]
    row: dict[str, Any] = {"readings": len(inside)}
    for name in CHANNEL_NAMES:
        values = [value for each in inside if (value := good(each, name)) is not None]
        row |= {f"{name}_min": min(values, default=None), f"{name}_max": max(values, default=None)}
        row |= {f"{name}_mean": math.fsum(values) / len(values) if values else None}
        row |= {f"{name}_last": values[-1] if values else None}
    return row


def history(well_id: str, seed: int, hours: int) -> list[Reading]:
    """Readings as real RTUs send them: uneven, by exception, with gaps, stops, silent and wrong sensors."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    moment, readings, is_turning = DAY + 20 * HOUR_US, [], True
    while moment < DAY + (20 + hours) * HOUR_US:
        names = [name for name in CHANNEL_NAMES if chance.random() < 0.6]
        values: dict[str, Any] = {name: round(chance.uniform(10, 100), 3) for name in names}
        is_turning ^= chance.random() < 0.05
        if not is_turning:
            # A real pump that stands says just this.
            values |= {name: rest for name, rest in (("vsd_frequency", 0.0), ("motor_current", 2.0)) if name in values}
        bad = tuple(name for name in values if chance.random() < 0.1) or None
        readings.append(Reading(well_id, moment, bad_channels=bad, received_us=moment)._replace(**values))
        moment += round(chance.choice((1, 60, 300, 300, 1200, 4000)) * chance.uniform(0.5, 1) * SECOND_US)
    return readings


async def test_hours_and_days_are_what_the_readings_say(store: Database, query: Query) -> None:
    wells = {well_id: history(well_id, seed, hours=30) for seed, well_id in enumerate(("A", "B", "Z"))}
    everything = [each for readings in wells.values() for each in readings]
    random.Random(1).shuffle(everything)  # noqa: S311 - no secret
    for start in range(0, len(everything), 50):
        await store.write(batch(*everything[start : start + 50]))
    assert await refresh(store) >= len(everything)
    for name, span in (("hourly", HOUR_US), ("daily", DAY_US)):
        found = await rows(query, name)
        assert set(found) == {(each.well_id, each.timestamp_us // span * span) for each in everything}
        for (well_id, bucket), row in found.items():
            for key, value in expected(wells[well_id], bucket, span).items():
                assert row[key] == (value if value is None else pytest.approx(value, rel=1e-12)), key
            hours = {each.timestamp_us // HOUR_US * HOUR_US for each in wells[well_id]}
            inside = [hour for hour in hours if bucket <= hour < bucket + span]
            up_us = sum(uptime_us(wells[well_id], hour, hour + HOUR_US) for hour in inside)
            assert row["uptime_s"] == pytest.approx(up_us / SECOND_US, abs=1e-6)


async def test_a_gap_counts_as_uptime_for_half_an_hour_and_a_stop_ends_it(store: Database, query: Query) -> None:
    running, stopped = {"vsd_frequency": 50.0}, {"vsd_frequency": 0.0, "motor_current": 0.5}
    await store.write(batch(at(1.0, **running), at(2.9, **running), at(3.1, **stopped), at(3.5, **running)))
    await refresh(store)
    found = {(bucket - DAY) // HOUR_US: row["uptime_s"] for (_, bucket), row in (await rows(query, "hourly")).items()}
    assert found == {1: 1800.0, 2: pytest.approx(360.0), 3: pytest.approx(360.0 + 1800.0)}
    assert [row["uptime_s"] for row in (await rows(query, "daily")).values()] == [pytest.approx(4320.0)]


async def test_both_views_have_the_columns_of_the_contract_on_every_edition(query: Query) -> None:
    channels = [f"{name}_{what}" for name in CHANNEL_NAMES for what in ("min", "max", "mean", "last")]
    alarms = [f"alarms_{severity}" for severity in SEVERITIES]
    for name in ("telemetry_hourly", "telemetry_daily"):
        columns = await query(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum", name
        )
        assert [row[0] for row in columns] == ["well_id", "bucket", "readings", "uptime_s", *channels, *alarms]


# ------------------------------------------------------------------------------------------------------- freshness


async def test_late_rows_find_their_way_into_hour_and_day(store: Database, query: Query) -> None:
    await store.write(batch(at(5.5, pip=10.0), at(30.5, pip=1.0)))
    await refresh(store)
    late = at(5.25, pip=40.0, received_us=DAY + 9 * DAY_US)
    await store.write(batch(late))
    assert await store.stale_hours() == [DAY + 5 * HOUR_US]
    assert await refresh(store) == 2, "the readings of that hour and of no other"
    for name in ("hourly", "daily"):
        row = (await rows(query, name))["W1", DAY + (5 * HOUR_US if name == "hourly" else 0)]
        assert (row["readings"], row["pip_max"], row["pip_mean"], row["pip_last"]) == (2, 40.0, 25.0, 10.0)


async def test_a_late_reading_changes_the_uptime_of_the_hour_after_it_too(store: Database, query: Query) -> None:
    await store.write(batch(at(5.1, vsd_frequency=50.0), at(6.2, vsd_frequency=50.0)))
    await refresh(store)
    await store.write(batch(at(5.9, vsd_frequency=50.0, received_us=DAY + 9 * DAY_US)))
    await refresh(store)
    found = {(bucket - DAY) // HOUR_US: row["uptime_s"] for (_, bucket), row in (await rows(query, "hourly")).items()}
    assert found == {5: pytest.approx(1800.0 + 360.0), 6: pytest.approx(720.0 + 1800.0)}


async def test_counting_again_changes_nothing(store: Database, query: Query) -> None:
    await store.write(batch(*history("A", 7, hours=5)))
    await refresh(store)
    before = await rows(query, "hourly"), await rows(query, "daily")
    await store.write(batch(*history("A", 7, hours=5)))
    assert await refresh(store) > 0, "duplicates mark too"
    assert (await rows(query, "hourly"), await rows(query, "daily")) == before


async def test_what_was_counted_stays_when_readings_are_dropped(store: Database, query: Query) -> None:
    """A late row into a dropped range must not replace the count of all the others."""
    await store.write(batch(at(5.25, pip=10.0), at(5.5, pip=20.0)))
    await refresh(store)
    await query("DELETE FROM esp_telemetry")
    await store.write(batch(at(5.75, pip=99.0)))
    await refresh(store)
    row = (await rows(query, "hourly"))["W1", DAY + 5 * HOUR_US]
    assert (row["readings"], row["pip_max"]) == (2, 20.0)
    await store.write(batch(at(5.25, pip=10.0), at(5.5, pip=20.0)))
    await refresh(store)
    row = (await rows(query, "hourly"))["W1", DAY + 5 * HOUR_US]
    assert (row["readings"], row["pip_max"]) == (3, 99.0), "until they were restored"


async def test_rows_that_are_not_committed_yet_are_never_forgotten(store: Database, query: Query) -> None:
    """A batch that is under way while an hour is counted leaves its own mark."""
    await store.write(batch(at(5.1, pip=1.0)))
    writer = await asyncpg.connect(store._settings.dsn.get_secret_value())
    async with writer.transaction():
        await writer.execute(
            "INSERT INTO esp_telemetry (well_id, timestamp, pip, received_at) VALUES ('W1', $1, 9, now())",
            to_datetime(DAY + 5 * HOUR_US + 1),
        )
        await writer.execute(
            "INSERT INTO esp_rollup_marks (bucket, well_ids) VALUES ($1, '{W1}')", to_datetime(DAY + 5 * HOUR_US)
        )
        await refresh(store)
    await writer.close()
    assert [row["readings"] for row in (await rows(query, "hourly")).values()] == [1]
    await refresh(store)
    assert [row["readings"] for row in (await rows(query, "hourly")).values()] == [2]


async def test_the_marks_of_an_hour_become_one_that_says_the_same(store: Database, query: Query) -> None:
    marks = [(1, None), (1, ["W1"]), (2, ["W2", "W1"]), (2, ["W3", "W1"]), (3, ["W1"])]
    await store.write(batch(at(1)))
    await query("DELETE FROM esp_rollup_marks")
    for number, (hour, wells) in enumerate(marks):
        moments = [to_datetime(DAY + hour * HOUR_US), wells, to_datetime(DAY + number)]
        await query("INSERT INTO esp_rollup_marks VALUES ($1, $2, $3)", *moments)
    await store.merge_marks()
    left = await query("SELECT bucket, well_ids, marked_at FROM esp_rollup_marks ORDER BY bucket")
    assert [tuple(row) for row in left] == [
        (to_datetime(DAY + hour * HOUR_US), wells, to_datetime(DAY + number))
        for hour, wells, number in [(1, None, 0), (2, ["W1", "W2", "W3"], 2), (3, ["W1"], 4)]
    ]


async def test_an_hour_whose_counting_is_cut_stays_marked(store: Database, query: Query) -> None:
    await store.write(batch(at(5.1, pip=1.0)))
    await query("ALTER TABLE esp_rollups_daily RENAME TO away")
    with pytest.raises(Unavailable):
        await refresh(store)
    await query("ALTER TABLE away RENAME TO esp_rollups_daily")
    assert await rows(query, "hourly") == {}
    assert await refresh(store) == 1
    assert len(await rows(query, "daily")) == 1


async def test_migrating_marks_what_is_there_already(database: FreshDatabase) -> None:
    settings = DatabaseSettings(dsn=SecretStr(database.dsn))
    await migrate(settings)
    connection = await asyncpg.connect(database.dsn)
    store = Database(settings)
    await store.write(batch(at(5.1, pip=1.0), at(7.1, pip=1.0)))
    await connection.execute(
        "DROP TABLE esp_rollup_marks; DROP TABLE esp_rollups_hourly, esp_rollups_daily CASCADE;"
        " DELETE FROM esp_schema_migrations WHERE name LIKE '%rollups.sql'"
    )
    await store.close()
    await migrate(settings)
    assert await refresh(store) == 2
    await store.close()
    await connection.close()


# ------------------------------------------------------------------------------------------- some wells at a time


FIVE = ["A", "B", "C", "D", "E"]
MARKS = "SELECT well_ids, marked_at FROM esp_rollup_marks ORDER BY marked_at, well_ids"


@pytest.fixture
async def five(store: Database, query: Query, monkeypatch: pytest.MonkeyPatch) -> object:
    """Five wells of one hour that are not counted yet, two in a transaction; since when that is."""
    monkeypatch.setattr("esp_ingestd.database.ROLLUP_WELLS", 2)
    await store.write(batch(*[at(5.1)._replace(well_id=well_id, pip=1.0) for well_id in FIVE]))
    return (await query(MARKS))[0]["marked_at"]


async def counted(query: Query) -> list[str]:
    return sorted(well_id for well_id, _ in await rows(query, "hourly"))


async def test_whoever_is_killed_between_wells_leaves_a_mark_of_the_others(
    store: Database, query: Query, five: object
) -> None:
    """And what came meanwhile has its own; the age is that of what is not counted."""

    async def die() -> None:
        await store.write(batch(at(5.2, pip=3.0)._replace(well_id="A")))
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await store.roll_up(DAY + 5 * HOUR_US, die)
    assert await counted(query) == ["A", "B"]
    old, new = await query(MARKS)
    assert (old["well_ids"], old["marked_at"]) == (["C", "D", "E"], five)
    assert (new["well_ids"], new["marked_at"] > five) == (None, True)
    assert await refresh(store) == 6
    assert await counted(query) == FIVE
    assert (await rows(query, "hourly"))["A", DAY + 5 * HOUR_US]["pip_max"] == 3.0
    assert await query(MARKS) == []


async def test_it_rests_after_each_of_so_many_wells(store: Database, query: Query, five: object) -> None:
    seen = []

    async def rest() -> None:
        seen.append(await counted(query))

    assert five
    assert await store.roll_up(DAY + 5 * HOUR_US, rest) == 5
    assert seen == [FIVE[:2], FIVE[:4], FIVE]


async def test_what_another_has_taken_is_left_to_it(store: Database, query: Query, five: object) -> None:
    """Marks are merged by daemons that do no maintenance: what we left is in that mark then, and not ours."""

    async def merge() -> None:
        await store.write(batch(at(5.3, pip=2.0)._replace(well_id="A")))
        await store.merge_marks()

    assert five
    assert await store.roll_up(DAY + 5 * HOUR_US, merge) == 2
    ((well_ids, marked_at),) = await query(MARKS)
    assert (well_ids, marked_at) == (None, five)
    assert await refresh(store) == 6
    assert await counted(query) == FIVE


# ---------------------------------------------------------------------------------------------------------- alarms


def event(template: AlarmEvent, number: int, **changes: object) -> AlarmEvent:
    values = {name: getattr(template, name) for name in template.__slots__}
    return type(template)(**values | {"event_id": f"e{number}", **changes})


async def test_alarms_are_counted_by_severity_also_of_a_well_that_is_silent(store: Database, query: Query) -> None:
    from test_database import stall  # noqa: PLC0415 - its builder of one real event

    (raised,) = stall("W1")
    moment = DAY + 5 * HOUR_US + 1
    events = [
        event(raised, 1, timestamp_us=moment, severity="high"),
        event(raised, 2, timestamp_us=moment + 1, severity="critical", transition="escalated"),
        event(raised, 3, timestamp_us=moment + 2, severity="critical", transition="cleared"),
        event(raised, 4, timestamp_us=moment + HOUR_US, severity="low"),
    ]
    live = batch(at(5.2, well_id="W2"))
    live.events.extend(events)
    await store.write(live)
    await refresh(store)
    hours, days = await rows(query, "hourly"), await rows(query, "daily")
    counts = {key: [row[f"alarms_{severity}"] for severity in SEVERITIES] for key, row in (hours | days).items()}
    assert counts == {
        ("W1", DAY + 5 * HOUR_US): [0, 0, 0, 1, 1],
        ("W1", DAY + 6 * HOUR_US): [0, 1, 0, 0, 0],
        ("W1", DAY): [0, 1, 0, 1, 1],
        ("W2", DAY + 5 * HOUR_US): [0, 0, 0, 0, 0],
        ("W2", DAY): [0, 0, 0, 0, 0],
    }
    assert (hours["W1", DAY + 5 * HOUR_US]["readings"], days["W1", DAY]["uptime_s"]) == (0, 0.0)
    await query("DELETE FROM diagnostic_results")
    await store.write(live)
    await refresh(store)
    assert (await rows(query, "hourly"))["W1", DAY + 5 * HOUR_US]["alarms_high"] == 1


# ----------------------------------------------------------------------------------------------------------- marks


def test_readings_on_time_mark_their_hours_whole_and_late_ones_their_wells() -> None:
    arrival = DAY + 5 * HOUR_US + 60 * SECOND_US
    live = [at(5.01, received_us=arrival), at(4.99, well_id="W2", received_us=arrival)]
    late = [at(3.0, well_id=well_id, received_us=arrival) for well_id in ("W3", "W4", "W4")]
    marks = sorted(marks_of(stale_with([*late, *live]), ()))
    assert [(mark.bucket_us - DAY) // HOUR_US for mark in marks] == [3, 4, 5]
    assert sorted(marks[0].well_ids or ()) == ["W3", "W4"]
    assert marks[1:] == [Mark(DAY + 4 * HOUR_US, None), Mark(DAY + 5 * HOUR_US, None)]


def test_nothing_is_marked_where_nothing_is_stored() -> None:
    assert list(marks_of(stale_with([]), ())) == []


async def test_two_at_once_count_each_hour_once_or_try_again(migrated: FreshDatabase, query: Query) -> None:
    stores = [Database(DatabaseSettings(dsn=SecretStr(migrated.dsn))) for _ in range(2)]
    readings = history("A", 3, hours=10)
    await stores[0].write(batch(*readings))
    hours = await stores[0].stale_hours()
    outcomes = await asyncio.gather(
        *(store.roll_up(hour) for hour in hours[:1] for store in stores), return_exceptions=True
    )
    assert all(isinstance(each, (int, Unavailable)) for each in outcomes)
    await refresh(stores[0])
    found = await rows(query, "hourly")
    assert sum(row["readings"] for row in found.values()) == len(readings)
    for store in stores:
        await store.close()
