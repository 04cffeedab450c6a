"""Questions to the database, asked by the functions and by the program itself, in real databases."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import shlex
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from daemon import program
from pydantic import SecretStr

from esp_ingestd import queries, table
from esp_ingestd.answer import Period, channel_columns
from esp_ingestd.config import DatabaseSettings, Wells
from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.batch import Batch, Batcher, Trigger
from esp_ingestd.core.command import CommandRecord
from esp_ingestd.core.decode import Reason, Rejection
from esp_ingestd.core.reading import CHANNEL_NAMES, DAY_US, HOUR_US, SECOND_US, Reading, to_iso
from esp_ingestd.core.well import WellSettings
from esp_ingestd.database import Database
from esp_ingestd.errors import Unavailable
from esp_ingestd.moment import Every
from esp_ingestd.story import Story
from esp_ingestd.table import Format

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from services import FreshDatabase

NOW = time.time_ns() // 1_000
SINCE = {"24h": NOW - DAY_US}
QUESTIONS = (("wells",), ("latest",), ("history", "WELL-001"), ("summary",), ("alarms",), ("alarms", "--history"))
TOPICS = ("esp/{well_id}/telemetry",)
Run = Callable[..., Awaitable[tuple[int, str, str]]]
Query = Callable[..., Awaitable[list[Any]]]


def reading(well_id: str, age_s: float, **values: Any) -> Reading:  # noqa: ANN401 - whatever the channel holds
    """A reading that came at once, so long ago."""
    moment_us = NOW - round(age_s * SECOND_US)
    return Reading(well_id, moment_us, received_us=moment_us)._replace(**values)


def event(well_id: str, age_s: float, **values: Any) -> AlarmEvent:  # noqa: ANN401 - whatever the field holds
    """A transition of an alarm, so long ago."""
    moment_us = NOW - round(age_s * SECOND_US)
    given: dict[str, Any] = {
        "event_id": f"{well_id}{age_s}{values}",
        "alarm_id": f"{well_id}-{values.get('diagnosis')}",
        "well_id": well_id,
        "timestamp_us": moment_us,
        "transition": "raised",
        "reason": "",
        "state": "active",
        "role": "primary",
        "group": "protection",
        "diagnosis": "STALL",
        "category": "MOTOR_ISSUE",
        "severity": "critical",
        "confidence": 0.9,
        "raised_at_us": moment_us,
        "message": "it stands",
        "evidence": {"current_ratio": 3.0},
        "path": (),
        "actions": ("look", "stop it"),
        "resolution_time": "1 h",
        "recurring": False,
        "count": 1,
        "tree_version": "1",
        "telemetry_snapshot": {},
    }
    return AlarmEvent(**given | values)


def letters(*topics: str) -> Batch:
    """Dead letters that came an hour ago."""
    batcher = Batcher(max_rows=100, max_age_ms=1)
    for number, topic in enumerate(topics):
        rejection = Rejection(Reason.NOT_JSON, {Reason.NOT_JSON: 1}, {"why": "it is"})
        batcher.add_message(topic, b"%d" % number, (), rejection, number, NOW - HOUR_US)
    return batcher.take(Trigger.DRAIN)


# Of the wells one runs, one stands, one went silent, one tells neither; and one was loaded from the year 2013.
RUNNING = [
    reading("WELL-001", 5 + 10 * step, vsd_frequency=50.0, motor_current=40.0, pip=800.0 + step, flow_rate=1000.0)
    for step in range(60)
]
OTHERS = [
    *(reading("WELL-002", 8 + 10 * step, vsd_frequency=0.0, motor_current=0.5, pip=1500.0) for step in range(5)),
    *(reading("WELL-003", 2 * 86_400 + 60 * step, vsd_frequency=50.0) for step in range(5)),
    *(reading("WELL-004", 9 + 10 * step, casing_pressure=30.0) for step in range(5)),
]
HISTORY = [
    Reading("ESP01", 1_370_044_800 * SECOND_US + 300 * SECOND_US * step, pip=600.0 + step % 7, received_us=NOW)
    for step in range(600)
]
EVENTS = [
    event("WELL-001", 300, diagnosis="STALL"),
    event("WELL-001", 200, diagnosis="LOW_FLOW", severity="low"),
    event("WELL-002", 600, diagnosis="TRIP", severity="high"),
    event("WELL-002", 100, diagnosis="TRIP", severity="high", transition="cleared", state="cleared", reason="returned"),
    event("WELL-003", 90_000, diagnosis="COMM_LOSS", severity="medium"),
]


@pytest.fixture
async def store(store: Database) -> Database:
    """A database with a field in it; what is history is rolled up, what came just now is not."""
    await store.write(Batch([*HISTORY, *OTHERS[5:10]]))
    for hour_us in await store.stale_hours():
        await store.roll_up(hour_us)
    await store.write(Batch([*RUNNING, *OTHERS[:5], *OTHERS[10:]], events=EVENTS))
    await store.write(letters("esp/WELL-001/telemetry", "esp/WELL-001/telemetry", ""))
    return store


@pytest.fixture
async def asked(store: Database, migrated: FreshDatabase) -> AsyncIterator[Database]:
    """As a question has it."""
    del store
    database = Database(DatabaseSettings(dsn=SecretStr(migrated.dsn)), read_only=True)
    yield database
    await database.close()


def runner(folder: Path, dsn: str) -> Run:
    """Runs `esp-ingestd …` on a database; status, standard output and error."""
    config = folder / "esp-ingestd.toml"
    config.write_text(f'[database]\ndsn = "{dsn}"\nconnect_timeout_s = 2.0\n')

    async def run_program(*arguments: str) -> tuple[int, str, str]:
        return await program(*arguments, "--config", str(config))

    return run_program


@pytest.fixture
def run(migrated: FreshDatabase, tmp_path: Path) -> Run:
    return runner(tmp_path, migrated.dsn)


# ------------------------------------------------------------------------------------------------- wells, latest


async def test_wells_say_how_each_does(asked: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_now_us", lambda: NOW + SECOND_US)  # the suite may have begun long ago
    answer = await queries.wells(asked, Wells())
    assert [(row["well_id"], row["state"], row["alarms"], row["worst"]) for row in answer.rows] == [
        ("ESP01", "silent", 0, None),
        ("WELL-001", "running", 2, "critical"),
        ("WELL-002", "off", 0, None),
        ("WELL-003", "silent", 1, "medium"),
        ("WELL-004", "unknown", 0, None),
    ]
    newest = {each.well_id: each.timestamp_us for each in (*reversed(RUNNING), *reversed(OTHERS), *HISTORY)}
    assert {row["well_id"]: row["last_reading"] for row in answer.rows} == {
        name: to_iso(moment_us) for name, moment_us in newest.items()
    }
    for row in answer.rows:
        assert row["age_s"] >= (NOW - newest[row["well_id"]]) / SECOND_US
    assert answer.headline == (
        "5 in all: 1 off, 1 running, 2 silent, 1 unknown; alarms standing: 1 critical, 1 medium, 1 low"
    )


async def test_a_well_whose_readings_are_dropped_is_still_a_well(asked: Database, migrated: FreshDatabase) -> None:
    connection = await asyncpg.connect(migrated.dsn)
    await connection.execute("DELETE FROM esp_telemetry WHERE well_id = 'ESP01'")
    await connection.close()
    (row, *_) = (await queries.wells(asked, Wells())).rows
    assert (row["well_id"], row["state"], row["last_reading"], row["age_s"]) == ("ESP01", "silent", None, None)
    assert "ESP01" not in [row["well_id"] for row in (await queries.latest(asked, Wells(), (), CHANNEL_NAMES)).rows]


@pytest.mark.parametrize(
    ("age_s", "fourth_s", "values", "settings", "state"),
    [
        (60, 90, {"vsd_frequency": 5.0}, {}, "running"),
        (60, 90, {"vsd_frequency": 4.9, "motor_current": 2.0}, {}, "off"),
        (60, 90, {"vsd_frequency": 4.9, "motor_current": 2.1}, {}, "running"),
        (60, 90, {"motor_current": 5.0}, {"nameplate_current_a": 60.0}, "off"),
        (60, 90, {"vsd_frequency": 50.0, "bad_channels": ["vsd_frequency"]}, {}, "unknown"),
        (299, 300, {"vsd_frequency": 50.0}, {}, "running"),
        (301, 302, {"vsd_frequency": 50.0}, {}, "silent"),
        (3_800, 7_400, {"vsd_frequency": 50.0}, {}, "running"),
        (4_000, 7_600, {"vsd_frequency": 50.0}, {}, "silent"),
        (3_500, 3_530, {"vsd_frequency": 50.0}, {"expected_interval_s": 1200.0}, "running"),
        (301, None, {"vsd_frequency": 50.0}, {}, "silent"),
    ],
)
def test_states(
    age_s: float, fourth_s: float | None, values: dict[str, Any], settings: dict[str, float], state: str
) -> None:
    row = {
        "timestamp": NOW - age_s * SECOND_US,
        "fourth": None if fourth_s is None else NOW - fourth_s * SECOND_US,
        "vsd_frequency": None,
        "motor_current": None,
        "bad_channels": None,
        **values,
    }
    assert queries.state_of(row, WellSettings(**settings), NOW) == state  # type: ignore[arg-type]  # what it says


async def test_latest_is_the_last_reading_with_its_units(asked: Database) -> None:
    settings_of = Wells(wells={"WELL-001": WellSettings(vibration_unit="mm/s")})
    answer = await queries.latest(asked, settings_of, ["WELL-001"], ["pip", "vibration"])
    (row,) = answer.rows
    assert (row["well_id"], row["timestamp"], row["pip"], row["vibration"]) == (
        "WELL-001",
        to_iso(RUNNING[0].timestamp_us),
        800.0,
        None,
    )
    assert [column.heading for column in answer.columns[3:5]] == ["pip\npsi", "vibration\nmm/s"]
    everything = await queries.latest(asked, settings_of, (), CHANNEL_NAMES)
    assert [row["well_id"] for row in everything.rows] == ["ESP01", "WELL-001", "WELL-002", "WELL-003", "WELL-004"]


# ------------------------------------------------------------------------------------------------------- history


async def test_raw_history_is_the_readings_oldest_first(asked: Database) -> None:
    period = Period(since_us=RUNNING[-1].timestamp_us + 1, until_us=RUNNING[0].timestamp_us)
    found = await queries.history(asked, Wells(), "WELL-001", period, Every.RAW, ["pip"], 1000)
    assert [row["timestamp"] for row in found.rows] == [each.timestamp_us for each in reversed(RUNNING[1:-1])]
    assert (found.notes, found.rows[0]["pip"]) == ([], RUNNING[-2].pip)
    cut = await queries.history(asked, Wells(), "WELL-001", period, Every.RAW, ["pip"], 3)
    assert [row["timestamp"] for row in cut.rows] == [each.timestamp_us for each in RUNNING[3:0:-1]]
    assert "the newest 3 rows" in cut.notes[0]


async def test_raw_history_reaches_back_as_far_as_it_must(asked: Database) -> None:
    ages = ((50, 600), (50 * 24 * 365, 1000), (3, 3))
    end_us = HISTORY[-1].timestamp_us + DAY_US
    for hours, limit in ages:
        period = Period(since_us=end_us - hours * HOUR_US, until_us=end_us + 100 * DAY_US)
        found = await queries.history(asked, Wells(), "ESP01", period, Every.RAW, ["pip"], limit)
        expected = [each.timestamp_us for each in HISTORY if each.timestamp_us >= period.since_us][-limit:]
        assert [row["timestamp"] for row in found.rows] == expected
        assert found.rows or limit == 3


async def test_hourly_and_daily_history_are_the_rollups(asked: Database) -> None:
    first_us = HISTORY[0].timestamp_us
    period = Period(since_us=first_us + 1, until_us=first_us + 2 * HOUR_US)
    hourly = await queries.history(asked, Wells(), "ESP01", period, Every.HOURLY, ["pip"], 10)
    pips = [each.pip or 0 for each in HISTORY[:12]]
    assert hourly.rows[0] == {
        "well_id": "ESP01",
        "bucket": first_us,
        "readings": 12,
        "uptime_s": 0.0,
        "pip_min": min(pips),
        "pip_mean": pytest.approx(sum(pips) / 12),
        "pip_max": max(pips),
        "pip_last": pips[-1],
    }
    assert [row["bucket"] for row in hourly.rows] == [first_us, first_us + HOUR_US]
    daily = await queries.history(
        asked, Wells(), "ESP01", Period(since_us=0, until_us=NOW), Every.DAILY, CHANNEL_NAMES, 10
    )
    assert [row["readings"] for row in daily.rows] == [288, 288, 24]
    assert daily.rows[0]["motor_temp_mean"] is None


async def test_a_period_without_readings_says_when_the_last_one_was(asked: Database) -> None:
    found = await queries.history(
        asked, Wells(), "ESP01", Period(since_us=NOW - DAY_US, until_us=NOW), Every.RAW, ["pip"], 10
    )
    assert (found.rows, found.charts(80)) == ([], ["nothing to draw"])
    assert found.notes[0].endswith(f"; its newest reading is of {to_iso(HISTORY[-1].timestamp_us)}")


@pytest.mark.parametrize(
    ("days", "every"), [(0.5, Every.RAW), (1, Every.RAW), (1.1, Every.HOURLY), (60, Every.HOURLY), (61, Every.DAILY)]
)
def test_the_period_decides_how_it_is_best_looked_at(days: float, every: Every) -> None:
    assert queries.every_for(Period(since_us=NOW - round(days * DAY_US), until_us=NOW)) is every


async def test_history_as_csv_is_history_that_can_be_loaded(store: Database, run: Run, tmp_path: Path) -> None:
    del store
    status, output, _ = await run(
        "history", "ESP01", "--since", "2013-06-01", "--until", "2013-06-02", "--format", "csv"
    )
    assert (status, output.count("\n")) == (0, 289)
    file = tmp_path / "again.csv"
    file.write_text(output)
    status, output, _ = await run("backfill", str(file))
    assert (status, "288 rows: 0 stored, 288 duplicates, 0 refused" in output) == (0, True)


# ----------------------------------------------------------------------------------------------- summary, alarms


async def test_summary_of_wells_and_field(store: Database, asked: Database) -> None:
    for hour_us in await store.stale_hours():
        await store.roll_up(hour_us)
    answer = await queries.summary(asked, TOPICS, NOW - DAY_US)
    rows = {row["well_id"]: row for row in answer.rows}
    assert {name: row["readings"] for name, row in rows.items()} == {
        "ESP01": 0,
        "WELL-001": 60,
        "WELL-002": 5,
        "WELL-003": 0,
        "WELL-004": 5,
    }
    assert {**rows["WELL-001"], "uptime_s": 0, "uptime": 0} == {
        "well_id": "WELL-001",
        "readings": 60,
        "uptime_s": 0,
        "uptime": 0,
        "flow_rate_mean": pytest.approx(1000.0),
        "alarms": "1 critical, 1 low",
        "alarms_critical": 1,
        "alarms_high": 0,
        "alarms_medium": 0,
        "alarms_low": 1,
        "alarms_info": 0,
        "dead_letters": 2,
    }
    assert rows["WELL-001"]["uptime_s"] >= 590
    assert rows["WELL-002"]["uptime_s"] == 0
    assert "5 wells, 70 readings" in answer.headline
    assert "alarms: 1 critical, 1 high, 1 low; 3 dead letters" in answer.headline
    assert answer.notes == []
    longer = await queries.summary(asked, TOPICS, NOW - 5 * DAY_US)
    assert sum(row["readings"] for row in longer.rows) == 75


async def test_summary_says_what_lacks(asked: Database, migrated: FreshDatabase) -> None:
    assert (await queries.summary(asked, TOPICS, NOW - DAY_US)).notes == []
    connection = await asyncpg.connect(migrated.dsn)
    for minutes, due in ((5, False), (120, True)):
        await connection.execute(
            "UPDATE esp_rollup_marks SET marked_at = now() - make_interval(mins => $1)"
            " WHERE bucket > now() - interval '1 day'",
            minutes,
        )
        (note,) = (await queries.summary(asked, TOPICS, NOW - DAY_US)).notes
        assert "is not all counted yet" in note
        assert note.endswith("`esp-ingestd maintenance` is due") == due
    await connection.execute("DELETE FROM esp_rollup_marks WHERE bucket > now() - interval '1 day'")
    await connection.execute("INSERT INTO esp_rollup_marks VALUES ('2013-06-01', NULL, '2013-06-01')")
    await connection.close()
    assert (await queries.summary(asked, TOPICS, NOW - DAY_US)).notes == []


async def test_a_summary_without_readings_says_when_there_were_any(asked: Database) -> None:
    (note,) = (await queries.summary(asked, TOPICS, NOW + DAY_US)).notes
    assert re.fullmatch(r"the newest reading of all is of \S+Z", note)


async def test_standing_alarms_worst_first(asked: Database) -> None:
    answer = await queries.standing_alarms(asked, (), None, None)
    assert [(row["well_id"], row["diagnosis"], row["severity"], row["actions"]) for row in answer.rows] == [
        ("WELL-001", "STALL", "critical", ["look", "stop it"]),
        ("WELL-003", "COMM_LOSS", "medium", ["look", "stop it"]),
        ("WELL-001", "LOW_FLOW", "low", ["look", "stop it"]),
    ]
    assert answer.headline == "alarms standing: 1 critical, 1 medium, 1 low"
    of_one = await queries.standing_alarms(asked, ["WELL-003"], None, None)
    assert [row["diagnosis"] for row in of_one.rows] == ["COMM_LOSS"]
    critical = await queries.standing_alarms(asked, (), "critical", None)
    assert [row["diagnosis"] for row in critical.rows] == ["STALL"]
    fresh = await queries.standing_alarms(asked, (), None, NOW - 250 * SECOND_US)
    assert [row["diagnosis"] for row in fresh.rows] == ["LOW_FLOW"]
    assert (await queries.standing_alarms(asked, ["WELL-002"], None, None)).rows == []


async def test_standing_alarms_say_who_treated_them_and_until_when(store: Database, asked: Database) -> None:
    """The newest command of its kind, as long as it holds: who acknowledged what then grew worse is no more named."""
    until_us = NOW + HOUR_US
    told = [
        event("WELL-001", 300, state="acknowledged", acknowledged=True, seq=5),
        event("WELL-002", 600, diagnosis="OVERLOAD", state="shelved", shelved_until_us=until_us, seq=5),
        event("WELL-003", 90_000, diagnosis="COMM_LOSS", severity="medium", seq=5),
    ]

    def command(of: AlarmEvent, word: str, by: str, ago_s: int) -> CommandRecord:
        return CommandRecord(
            command_id=f"{of.alarm_id}-{word}-{by}",
            received_us=NOW - ago_s * SECOND_US,
            well_id=of.well_id,
            alarm_id=of.alarm_id,
            command=word,
            by=by,
            comment="",
            duration_s=0.0,
        )

    commands = [
        *(command(told[0], "acknowledge", by, ago_s) for by, ago_s in (("ann", 500), ("bob", 120))),
        command(told[0], "shelve", "eve", 50),
        command(told[1], "shelve", "cal", 60),
        command(told[2], "acknowledge", "dan", 60),
    ]
    await store.write(Batch(events=told, commands=commands))
    rows = {row["diagnosis"]: row for row in (await queries.standing_alarms(asked, (), None, None)).rows}
    names = ("acknowledged", "acknowledged_by", "acknowledged_at", "shelved_by", "shelved_until")
    assert [rows["STALL"][name] for name in names] == [True, "bob", to_iso(NOW - 120 * SECOND_US), None, None]
    assert [rows["OVERLOAD"][name] for name in names] == [False, None, None, "cal", to_iso(until_us)]
    assert [rows["COMM_LOSS"][name] for name in names] == [False, None, None, None, None]
    assert re.fullmatch(r"it stands Acknowledged by bob \d+ min( ago)\.", rows["STALL"]["told"])
    assert rows["OVERLOAD"]["told"] == f"it stands Shelved by cal until {to_iso(until_us)[:19]}Z."
    assert rows["COMM_LOSS"]["told"] == "it stands"


async def test_no_alarm_is_a_sentence_that_says_what_was_asked(asked: Database) -> None:
    of_one = await queries.standing_alarms(asked, ["WELL-002"], "critical", NOW)
    assert of_one.headline == f"no critical alarm of WELL-002 stands that was raised since {to_iso(NOW)[:19]}Z"
    assert (await queries.standing_alarms(asked, ["WELL-002"], None, None)).headline == "no alarm of WELL-002 stands"
    changed = await queries.alarm_history(asked, ["WELL-004"], "high", NOW - DAY_US, 10)
    assert changed.headline == f"no high alarm of WELL-004 changed since {to_iso(NOW - DAY_US)[:19]}Z"


async def test_hourly_history_says_what_it_lacks(asked: Database, migrated: FreshDatabase) -> None:
    period = Period(since_us=NOW - DAY_US, until_us=NOW)

    async def notes() -> list[str]:
        return list((await queries.history(asked, Wells(), "WELL-001", period, Every.HOURLY, ["pip"], 10)).notes)

    (nothing,) = await notes()
    assert nothing.startswith("WELL-001: nothing from")
    connection = await asyncpg.connect(migrated.dsn)
    await connection.execute("UPDATE esp_rollup_marks SET marked_at = '2026-01-02 03:04:05Z'")
    await connection.close()
    assert (await notes())[
        1
    ] == "what came since 2026-01-02T03:04:05Z is not all counted yet; `esp-ingestd maintenance` is due"


async def test_alarm_history_oldest_first(asked: Database) -> None:
    answer = await queries.alarm_history(asked, (), None, NOW - DAY_US, 10)
    assert [(row["well_id"], row["diagnosis"], row["transition"], row["reason"]) for row in answer.rows] == [
        ("WELL-002", "TRIP", "raised", ""),
        ("WELL-001", "STALL", "raised", ""),
        ("WELL-001", "LOW_FLOW", "raised", ""),
        ("WELL-002", "TRIP", "cleared", "returned"),
    ]
    of_one = await queries.alarm_history(asked, ["WELL-002"], None, NOW - DAY_US, 10)
    assert [row["transition"] for row in of_one.rows] == ["raised", "cleared"]
    critical = await queries.alarm_history(asked, (), "critical", NOW - DAY_US, 10)
    assert [row["diagnosis"] for row in critical.rows] == ["STALL"]
    cut = await queries.alarm_history(asked, (), None, 0, 2)
    assert [row["diagnosis"] for row in cut.rows] == ["LOW_FLOW", "TRIP"]
    assert "the newest 2 transitions" in cut.notes[0]
    none = await queries.alarm_history(asked, (), None, NOW + DAY_US, 2)
    assert none.headline == f"no alarm changed since {to_iso(NOW + DAY_US)[:19]}Z"


ALARM = "e006b8e8-0000-5000-8000-000000000001"
OTHER = "e006b8e8-0000-5000-8000-000000000002"
STORY = [
    event(
        "WELL-001",
        205,
        alarm_id=ALARM,
        event_id="1",
        seq=1,
        path=("Is it in danger? yes", "Does it shake? yes"),
        evidence={"motor_temp": 150.0, "pip_frozen_min": 31.0},
    ),
    event("WELL-001", 100, alarm_id=ALARM, event_id="2", seq=2, transition="acknowledged", by="ann", comment="seen"),
    event(
        "WELL-001",
        100,
        alarm_id=ALARM,
        event_id="3",
        seq=3,
        transition="cleared",
        reason="returned",
        state="cleared",
        path=("Does it shake? no",),
        evidence={},
    ),
]


@pytest.mark.best_edition
async def test_the_story_of_an_alarm_has_the_questions_that_led_to_it(
    store: Database, asked: Database, run: Run
) -> None:
    moment = to_iso(NOW - 205 * SECOND_US)[:19]
    await store.write(Batch([], events=STORY[:1]))
    _, told, hint = await run("alarms", "--alarm", ALARM[:8])
    assert told.splitlines() == [
        f"STALL of WELL-001, alarm {ALARM}",
        "",
        f"{moment}Z raised, critical, active",
        "  it stands (90% sure)",
        "  Is it in danger? yes",
        "  Does it shake? yes",
        "  saw motor_temp 150 degC, pip_frozen_min 31",
        "",
        "To do (resolution time: 1 h):",
        "  look",
        "  stop it",
    ]
    assert f" --well WELL-001 --explain-since {moment} --until " in hint
    _, events, explained = await run(*hint.splitlines()[-1].split()[1:])
    assert f"{moment}" in explained, "the reading at which it was raised"
    assert "MOTOR_OVERTEMP: Is the motor within 5 K of its trip temperature?" in explained
    assert not events, "nothing was wrong with the readings of this test"
    await store.write(Batch([], events=[*STORY[1:], event("WELL-002", 50, alarm_id=OTHER, event_id="4")]))
    lines = (await queries.alarm_story(asked, ALARM, (), None)).lines()
    assert [line for line in lines if line.startswith("20")][1:] == [
        f"{to_iso(NOW - 100 * SECOND_US)[:19]}Z acknowledged by ann, critical, active: seen",
        f"{to_iso(NOW - 100 * SECOND_US)[:19]}Z cleared: returned, critical, cleared",
    ]
    rows = json.loads((await run("alarms", "--alarm", ALARM.upper(), "--format", "json"))[1])
    assert [(row["transition"], row["path"], row["by"]) for row in rows] == [
        (each.transition, list(each.path), each.by) for each in STORY
    ]
    for arguments, said in (
        ((ALARM[:8],), f"e006b8e8 is the beginning of 2 alarms: {ALARM}, {OTHER}"),
        (("e0",), "--alarm e0: at least 4 characters"),
        (("beef",), "no event of an alarm 'beef'\n"),
        ((ALARM, "--since", "50s"), f"no event of an alarm '{ALARM}' since 20"),
        ((ALARM, "--well", "WELL-003"), f"no event of an alarm '{ALARM}'\n"),
    ):
        status, output, errors = await run("alarms", "--alarm", *arguments)
        assert (status, output, errors.count("\n")) == (1, "", 1)
        assert errors.startswith(said)


def test_of_what_only_arrivals_have_told_no_history_tells() -> None:
    assert not Story([event("W", 1, diagnosis="COMM_LOSS").payload()]).explain("f.toml")


@pytest.mark.best_edition
async def test_tables_of_alarms_show_how_their_ids_begin(store: Database, run: Run) -> None:
    await store.write(Batch([], events=STORY[:1]))
    for question in (("alarms",), ("alarms", "--history")):
        _, told, errors = await run(*question)
        assert f" {ALARM[:8]} " in told
        assert (told.splitlines()[-1], errors) == (
            "--alarm ID tells the story of one, with the questions that led to it",
            "",
        )


# ---------------------------------------------------------------------------------------------------- the program


MOMENTS = {"timestamp", "last_reading", "raised_at", "acknowledged_at", "shelved_until"}


@pytest.mark.best_edition
@pytest.mark.usefixtures("store")
async def test_every_format_says_the_same(run: Run) -> None:
    for question in QUESTIONS:
        (_, as_json, _), (_, as_csv, _), (status, as_table, errors) = await asyncio.gather(
            run(*question, "--format", "json"), run(*question, "--format", "csv"), run(*question)
        )
        assert (status, errors) == (0, ""), question
        rows = json.loads(as_json)
        told = list(csv.DictReader(io.StringIO(as_csv)))
        assert len(rows) == len(told) > 0, question
        for row, texts in zip(rows, told, strict=True):
            assert row["well_id"] == texts["well_id"], question
            assert question[0] == "history" or row["well_id"] in as_table, question
            for name, value in row.items():
                moment = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", texts[name])
                assert (moment is None) == (name not in MOMENTS) or value is None
                if name.endswith("age_s") or value is None:
                    continue  # it grows
                is_text = isinstance(value, str)
                assert texts[name] == (value if is_text else json.dumps(value)), (question, name)


@pytest.mark.best_edition
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("history", "WEL-01"), "no well 'WEL-01'; is it WELL-001, "),
        (("latest", "well-001"), "no well 'well-001'; is it WELL-001, "),
        (("alarms", "--well", "PUMP"), "no well 'PUMP'; `esp-ingestd wells` lists the 5 that there are"),
        (("alarms", "--history", "--well", "PUMP"), "no well 'PUMP'; "),
        (("history", "'; DROP TABLE esp_telemetry; --"), 'no well "\'; DROP TABLE esp_telemetry; --"; '),
        (("history", "WELL-001", "--since", "soon"), "--since soon: allowed are ISO 8601 and ages"),
        (("summary", "--since", "x"), "--since x: allowed are ISO 8601 and ages"),
    ],
)
async def test_what_cannot_be_is_told_in_a_line(run: Run, arguments: tuple[str, ...], told: str) -> None:
    status, output, errors = await run(*arguments)
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith(told)
    status, _, _ = await run("latest", "WELL-001")  # the table is still there
    assert status == 0


@pytest.mark.best_edition
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("history", "WELL-001", "--channels", "pip, received_at FROM esp_telemetry --"), "--channels"),
        (("history", "WELL-001", "--since", "2026-01-02", "--until", "2026-01-01"), "is not before the end"),
        (("history", "WELL-001", "--chart", "--format", "csv"), "leave out --format"),
        (("history", "WELL-001", "--every", "weekly"), "weekly"),
    ],
)
async def test_options_that_make_no_sense_are_refused(run: Run, arguments: tuple[str, ...], told: str) -> None:
    status, output, errors = await run(*arguments)
    assert (status, output) == (1, "")
    assert told in " ".join(errors.split())


@pytest.mark.best_edition
async def test_an_empty_database_has_empty_answers(run: Run) -> None:
    for question in QUESTIONS:
        if question[0] == "history":
            continue
        (status, as_json, errors), (_, as_csv, _), (_, as_table, _) = await asyncio.gather(
            run(*question, "--format", "json"), run(*question, "--format", "csv"), run(*question)
        )
        assert (status, json.loads(as_json), errors) == (0, [], ""), question
        assert as_csv.count("\n") == 1, question
        assert "Traceback" not in as_table
    _, output, _ = await run("wells")
    assert output.endswith("no well has sent a reading yet\n")


@pytest.mark.best_edition
async def test_a_missing_schema_names_the_command_that_makes_it(database: FreshDatabase, tmp_path: Path) -> None:
    status, output, errors = await runner(tmp_path, database.dsn)("wells")
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert "esp-ingestd migrate" in errors


async def test_a_database_that_is_away_is_told_in_a_line(tmp_path: Path) -> None:
    status, output, errors = await runner(tmp_path, "postgresql://esp:secret@127.0.0.1:1/esp")("wells")
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("esp-ingestd: database postgresql://esp:***@127.0.0.1:1/esp: ")


async def test_a_wrong_configuration_is_78(tmp_path: Path) -> None:
    status, _, errors = await runner(tmp_path, "mysql://x")("summary")
    assert (status, errors.count("\n")) == (78, 1)


@pytest.mark.best_edition
@pytest.mark.usefixtures("store")
async def test_a_chart_of_each_channel(run: Run) -> None:
    status, output, _ = await run("history", "WELL-001", "--channels", "pip,motor_temp,motor_current", "--chart")
    assert status == 0
    assert [line for line in output.splitlines() if "least" in line] == [
        "pip, psi: least 800.0, mean 829.5, greatest 859.0",
        "motor_current, A: least 40, mean 40, greatest 40",
    ]


async def test_a_question_changes_nothing_and_compiles_nothing(asked: Database) -> None:
    with pytest.raises(Unavailable, match="read-only") as caught:
        await asked.fetch("DELETE FROM esp_telemetry")
    assert caught.value.kind == "read_only"
    assert await asked.fetch("SELECT current_setting('jit') AS jit") == [{"jit": "off"}]


# --------------------------------------------------------------------------------------------------------- plans

WELLS, DAYS, A_DAY = 20, 30, 144
# Yesterday noon, whenever the test runs: of a day that has just begun the planner reads the few pages whole.
NOON_US = NOW // DAY_US * DAY_US - DAY_US // 2
NOON = f"timestamptz '{to_iso(NOON_US)}'"
FILL = f"""
    INSERT INTO esp_telemetry (well_id, "timestamp", pip, received_at)
    SELECT 'WELL-' || well, moment, 800, moment
    FROM generate_series(1, {WELLS}) AS well,
        generate_series({NOON} - interval '{DAYS} days', {NOON}, interval '1 day' / {A_DAY}) AS moment;
    INSERT INTO diagnostic_results (event_id, alarm_id, well_id, "timestamp", diagnosis, category, severity, transition,
        state, actions, resolution_time, evidence, tree_version, event)
    SELECT 'event-' || number, 'alarm', 'WELL-' || number % {WELLS} + 1, {NOON} - number * interval '5 min', 'STALL',
        'X', 'high', 'raised', 'active', '[]', '', '{{}}', '1', '{{"message": "it stands"}}'
    FROM generate_series(1, 8000) AS number;
    INSERT INTO alarm_states (well_id, diagnosis, alarm_id, state, severity, raised_at, "timestamp", event)
    SELECT 'WELL-' || well, 'D' || number, 'alarm', CASE number WHEN 1 THEN 'active' ELSE 'cleared' END, 'high', {NOON},
        {NOON}, '{{"message": "it stands", "acknowledged": true, "shelved_until": "2100-01-01T00:00:00Z"}}'
    FROM generate_series(1, {WELLS}) AS well, generate_series(1, 200) AS number;
    INSERT INTO alarm_commands (command_id, received_at, well_id, alarm_id, command, "by", comment, duration_s)
    SELECT 'command-' || number, {NOON} - number * interval '1 min', 'WELL-' || number % {WELLS} + 1, 'alarm',
        CASE number / {WELLS} % 2 WHEN 0 THEN 'acknowledge' ELSE 'shelve' END, 'ann', '', 0
    FROM generate_series(1, 8000) AS number;
    INSERT INTO dead_letters (first_received_at, received_at, topic, payload, reason, detail, fingerprint)
    SELECT {NOON}, {NOON} - number * interval '5 min', 'esp/W/telemetry', 'x', 'not_json', '{{}}',
        sha256(number::text::bytea)
    FROM generate_series(1, 8000) AS number;
    INSERT INTO esp_rollups_daily (well_id, bucket, readings)
    SELECT 'WELL-' || well, day, {A_DAY} FROM generate_series(1, {WELLS}) AS well,
        generate_series(date_trunc('day', {NOON}, 'UTC') - interval '{10 * DAYS} days', {NOON}, '1 day') AS day;
    INSERT INTO esp_rollups_hourly (well_id, bucket, readings)
    SELECT 'WELL-' || well, hour, 6 FROM generate_series(1, {WELLS}) AS well,
        generate_series(date_trunc('hour', {NOON}) - interval '{DAYS} days', {NOON}, '1 hour') AS hour;
"""  # noqa: S608 - numbers of our own


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan that ran."""
    if plan.get("Actual Loops", 1):
        yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def rows_read(plan: dict[str, Any]) -> float:
    """Rows that its scans looked at, those among them that a filter threw away."""
    return sum(
        float((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in nodes(plan)
        if "Relation Name" in node and node["Node Type"] != "Custom Scan"  # which only hands on what its chunks gave
    )


DAY_AGO, MONTH_AGO, TODAY = NOON_US - DAY_US, NOON_US - 30 * DAY_US, NOON_US // DAY_US * DAY_US
NAMES = [f"WELL-{number}" for number in range(1, WELLS + 1)]
RAW = queries._history_query(Every.RAW, CHANNEL_NAMES)
HOURLY = queries._history_query(Every.HOURLY, CHANNEL_NAMES)
PLANS: dict[str, tuple[str, tuple[object, ...], int, int]] = {
    # query, arguments, at most so many rows read, from so many chunks or tables of readings
    "newest rolled": (queries.NEWEST_ROLLED, (), 3 * WELLS, 0),
    "newest stored": (queries.NEWEST_STORED, (TODAY,), 3 * WELLS, 2),
    "newest rolled of one": (queries.NEWEST_ROLLED_OF, (["WELL-7"],), 2, 0),
    "newest stored of one": (queries.NEWEST_STORED_OF, (["WELL-7"], TODAY), 2, 2),
    "last readings": (queries.LAST_READINGS, (NAMES, TODAY - DAY_US, queries.FOREVER_US), 6 * WELLS, 3),
    "last of a day": (queries.LAST_READINGS, (NAMES[:1], TODAY - 9 * DAY_US, TODAY - 8 * DAY_US), 6, 1),
    "a day raw": (RAW, ("WELL-7", DAY_AGO, NOON_US, 1000), A_DAY + 1, 2),
    "the newest of a month raw": (RAW, ("WELL-7", MONTH_AGO, NOON_US, 50), 50, DAYS + 1),
    "a month hourly": (HOURLY, ("WELL-7", MONTH_AGO, NOON_US, 1000), 24 * DAYS + 1, 0),
    "totals of a day": (queries.TOTALS.format(every="hourly"), (DAY_AGO,), 25 * WELLS, 0),
    "what an hourly history lacks": (queries.OLDEST_MARK_OF_WELL, (DAY_AGO, NOON_US, "WELL-7"), 200, 0),
    "letters of a day": (queries.LETTERS_BY_TOPIC, (DAY_AGO,), 288, 0),
    "alarms by well": (queries.STANDING_BY_WELL, (), WELLS, 0),
    "standing alarms": (queries.STANDING, (None, None, None), 4 * WELLS, 0),
    "transitions of a day": (queries.TRANSITIONS, (DAY_AGO, None, 1000), 288, 0),
    "the newest transitions": (queries.TRANSITIONS, (MONTH_AGO, None, 10), 10, 0),
    "transitions of a well": (queries.TRANSITIONS_OF_WELLS, (MONTH_AGO, None, 1000, ["WELL-7"]), 500, 0),
}


async def test_plans_read_a_few_rows_whatever_there_is(migrated: FreshDatabase) -> None:
    """On 86 000 readings in 31 chunks, and whatever else comes with them: no plan may search what it could look up."""
    connection = await asyncpg.connect(migrated.dsn)
    await connection.execute(FILL)
    await connection.execute("ANALYZE")
    await connection.close()
    database = Database(DatabaseSettings(dsn=SecretStr(migrated.dsn)), read_only=True)
    try:
        for name, (query, arguments, most_rows, most_chunks) in PLANS.items():
            ((text,),) = [
                row.values() for row in await database.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *arguments)
            ]
            plan = json.loads(text)[0]["Plan"]
            assert rows_read(plan) <= 1.1 * most_rows, (name, text)
            readings = "esp_telemetry" if migrated.edition == "postgresql" else r"_hyper_1_\w+"
            of_readings = set(re.findall(f'"Relation Name": "({readings})"', text))
            assert len(of_readings) <= most_chunks, (name, of_readings)
    finally:
        await database.close()


# --------------------------------------------------------------------------------------------------------- tables


def test_a_table_leaves_out_what_it_has_no_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"well_id": "WELL-001", **dict.fromkeys(CHANNEL_NAMES, 1234.5), "torque": None}]
    columns = [table.Column("well_id"), *channel_columns(rows, CHANNEL_NAMES, {"g"})]
    monkeypatch.setattr(table, "terminal_width", lambda: 80)
    left_out = table.show_rows(rows, columns, Format.TABLE)
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    shown = [name for name in CHANNEL_NAMES if f" {name} " in output]
    assert shown == list(CHANNEL_NAMES[: len(shown)])
    assert len(shown) >= 4
    assert [*shown, *left_out] == [name for name in CHANNEL_NAMES if name != "torque"]
    assert "…" not in output


def test_prose_is_broken_before_a_column_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"well_id": "WELL-001", "state": "active", "count": 3, "message": "the motor draws " * 5}]
    columns = [table.Column("well_id"), table.Column("state", rank=1), table.Column("count", rank=2)]
    columns.append(table.Column("message", is_prose=True))
    for width, left_out in ((120, []), (64, []), (56, ["count"]), (46, ["count", "state"])):
        monkeypatch.setattr(table, "terminal_width", lambda width=width: width)
        assert sorted(table.show_rows(rows, columns, Format.TABLE)) == left_out, width
        output = capsys.readouterr().out
        assert max(map(len, output.splitlines())) <= width
        assert output.count("motor") == 5
        assert "WELL-001" in output


def test_a_table_shows_nothing_that_a_terminal_would_act_on(capsys: pytest.CaptureFixture[str]) -> None:
    table.show_rows([{"message": "\x1b[31mred\n"}], [table.Column("message")], Format.TABLE)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.0, 2000.0, None], ["1", "2000"]),
        ([0.0512, 1.5], ["0.051", "1.500"]),
        ([52.25, 9.0], ["52.25", "9.00"]),
        ([673.71, 99.5], ["673.7", "99.5"]),
        ([], []),
    ],
)
def test_one_column_has_one_number_of_decimals(values: list[float | None], texts: list[str]) -> None:
    show = table.decimals(values)
    assert [show(value) for value in values if value is not None] == texts


def test_the_command_that_explains_can_be_copied_whatever_the_folder_is_called() -> None:
    command = Story([event("W", 1).payload()]).explain("/etc/my field/esp.toml")
    assert shlex.split(command)[:4] == ["esp-ingestd", "diagnose", "--config", "/etc/my field/esp.toml"]
