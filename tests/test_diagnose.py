"""The back-test as engineers run it: files, standard input, the database, and one tree against another."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from daemon import program
from peer import PATIENCE_S
from pydantic import SecretStr
from typer.testing import CliRunner

from esp_ingestd.cli import app
from esp_ingestd.config import DatabaseSettings
from esp_ingestd.core.batch import Batch
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.reading import Reading, to_microseconds
from esp_ingestd.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from services import FreshDatabase
    from typer.testing import Result

T0 = datetime(2026, 3, 1, tzinfo=UTC)
GROUPS = "".join(
    f'[[group]]\nname = "{name}"\nask = "Any {name}?"\n' for name in ("protection", "production", "degradation", "data")
)
DIAGNOSIS = """
[[diagnosis]]
name = "{name}"
group = "{group}"
category = "{category}"
message = "{name}."
actions = ["Look."]
resolution_time = "1 h"
[[diagnosis.question]]
ask = "{ask}"
when = ["{when}"]
states = ["off", "trip", "starting", "warm-up", "transient", "running"]
severity = "high"
min_samples = 1
on_delay_s = {on_delay_s}
"""


def tree(*, hot_c: float = 130, on_delay_s: int = 0) -> str:
    """Three questions that need no wells file: hot motor, silence, clock ahead."""
    asked = (
        ("MOTOR_OVERTEMP", "protection", "MOTOR_ISSUE", "Is it hot?", f"motor_temp > {hot_c}", on_delay_s),
        ("CLOCK_FAULT", "data", "DATA_QUALITY", "Is it ahead?", "clock_ahead_s > 120", 0),
        ("COMM_LOSS", "data", "DATA_QUALITY", "Is it silent?", "silence_s > 0", 0),
    )
    keys = ("name", "group", "category", "ask", "when", "on_delay_s")
    return GROUPS + "".join(DIAGNOSIS.format(**dict(zip(keys, each, strict=True))) for each in asked)


def at(minutes: float) -> str:
    return (T0 + timedelta(minutes=minutes)).isoformat()


def line(minutes: float, motor_temp: float, well_id: str = "W", **more: object) -> str:
    values = {"well_id": well_id, "timestamp": at(minutes), "motor_temp": motor_temp, "vsd_frequency": 60.0}
    return json.dumps(values | more)


def hot_for(begin: float, end: float, until: float, well_id: str = "W") -> list[str]:
    """A reading a minute; the motor is hot from `begin` to `end`."""
    return [line(minute, 140.0 if begin <= minute < end else 100.0, well_id) for minute in range(int(until))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tree.toml").write_text(tree())
    return tmp_path


def run(folder: Path, *arguments: str, given: Iterable[str] = ()) -> Result:
    return CliRunner().invoke(
        app,
        ["diagnose", "--tree", str(folder / "tree.toml"), *arguments],
        input="\n".join(given),
        catch_exceptions=False,
    )


def told(result: Result) -> list[str]:
    """Each event as `transition diagnosis well minutes after T0`."""
    events = map(json.loads, result.stdout.splitlines())
    return [
        f"{each['transition']} {each['diagnosis']} {each['well_id']} "
        f"{(datetime.fromisoformat(each['timestamp']) - T0).total_seconds() / 60:g}"
        for each in events
    ]


def file_of(folder: Path, name: str, lines: Sequence[str]) -> str:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return str(path)


HOT = ["raised MOTOR_OVERTEMP W 10", "cleared MOTOR_OVERTEMP W 20"]


def test_json_lines_of_a_file_and_of_standard_input_say_the_same(folder: Path) -> None:
    lines = hot_for(10, 20, 60)
    from_file = run(folder, file_of(folder, "w.jsonl", lines))
    assert told(from_file) == HOT
    assert run(folder, "-", given=lines).stdout == run(folder, given=lines).stdout == from_file.stdout


def test_a_csv_says_what_its_json_lines_say(folder: Path) -> None:
    lines = hot_for(10, 20, 60)
    rows = ["timestamp,well_id,motor_temp,pip,odd,vsd_frequency"]
    rows += [f"{each['timestamp']},{each['well_id']},{each['motor_temp']},,x,60" for each in map(json.loads, lines)]
    assert run(folder, file_of(folder, "w.csv", rows)).stdout == run(folder, given=lines).stdout


def test_several_files_are_one_history(folder: Path) -> None:
    lines = hot_for(10, 20, 60)
    paths = [file_of(folder, "a.jsonl", lines[:15]), file_of(folder, "b.jsonl", lines[15:])]
    assert told(run(folder, *paths)) == HOT


def test_events_are_those_of_the_events_topic(folder: Path) -> None:
    event = json.loads(run(folder, given=hot_for(10, 20, 60)).stdout.splitlines()[0])
    assert event["path"] == ["What does the pump do? warm-up", "Any protection? yes", "Is it hot? yes"]
    assert event["evidence"] == {"motor_temp": 140.0}
    cleared = json.loads(run(folder, given=hot_for(10, 20, 60)).stdout.splitlines()[1])
    assert cleared["path"] == ["What does the pump do? warm-up", "Any protection? no", "Is it hot? no"]
    assert (event["state"], event["role"], event["priority"]) == ("active", "primary", 3)


def test_refused_lines_go_to_standard_error_with_place_and_reason(folder: Path) -> None:
    naive = '{"well_id": "W", "timestamp": "2026-01-01T00:00:00", "pip": 1}'
    lines = ["{", naive, "", *hot_for(10, 20, 60), f"[{naive}, {line(61, 100)}, 7]"]
    result = run(folder, file_of(folder, "w.jsonl", lines))
    assert told(result) == HOT
    refused = [each.removeprefix(str(folder)) for each in result.stderr.splitlines() if "w.jsonl" in each]
    assert [each.split(" ")[0:2] for each in refused] == [
        ["/w.jsonl:1:", "not_json:"],
        ["/w.jsonl:2:", "naive_timestamp:"],
        ["/w.jsonl:64:", "naive_timestamp:"],
    ]
    assert "61 readings, 4 refused, 1 well," in result.stderr


def test_a_refused_row_of_a_csv_is_named_by_its_line(folder: Path) -> None:
    path = file_of(folder, "w.csv", ["well_id,timestamp,pip", f"W,{at(0)},1", "W,soon,1"])
    assert f"{path}:3: bad_timestamp" in run(folder, path).stderr


CSV = [
    "timestamp,well_id,motor_temp,vsd_frequency",
    *(f"{at(m)},W,{140 if 10 <= m < 20 else 100},60" for m in range(60)),
]


@pytest.mark.parametrize("name", ["w.csv", "W.CSV"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_is_known_by_its_suffix_as_spreadsheets_write_it(folder: Path, name: str, encoding: str) -> None:
    (folder / name).write_text("\n".join(CSV) + "\n", encoding=encoding)
    assert told(run(folder, str(folder / name))) == HOT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "\n".join(CSV).replace(",", ";").encode(),
            ":1: the header must name well_id, timestamp and at least one channel",
        ),
        ("\n".join(CSV).replace("timestamp", "time", 1).encode(), ":1: the header must name well_id, timestamp"),
        (b"", ":1: the header must name well_id, timestamp"),
        (f"well_id,timestamp\nW,{at(0)}\n".encode(), ":1: the header must name well_id, timestamp and at least one"),
        (
            b"well_id,timestamp,pip,pip\n",
            ":1: the header must name well_id, timestamp and at least one channel, each once",
        ),
        ("\n".join(CSV).encode("utf-16"), ": is UTF-16; save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", ": is compressed; gunzip it first"),
        (b"PK\x03\x04", ": is a zip archive or a spreadsheet"),
        (b"PAR1", ": is Parquet; `esp-ingestd backfill` reads that"),
    ],
    ids=["semicolons", "no timestamp", "empty", "no channel", "a channel twice", "utf-16", "gzip", "zip", "parquet"],
)
def test_a_file_of_another_kind_is_refused_whole_in_one_line(folder: Path, content: bytes, said: str) -> None:
    (folder / "w.csv").write_bytes(content)
    result = run(folder, str(folder / "w.csv"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{folder / 'w.csv'}{said}")
    assert result.stderr.count("\n") == 1


def test_a_row_with_other_cells_than_the_header_has_is_refused_and_shifts_nothing(folder: Path) -> None:
    """A decimal comma makes two cells of a number, a file that was cut ends in the middle of a row."""
    hot = [text.replace(",140,", ",14,0,") for text in CSV]
    result = run(folder, file_of(folder, "w.csv", [*hot, f"{at(60)},W"]))
    assert told(result) == ["raised COMM_LOSS W 14", "cleared COMM_LOSS W 20"]
    refused = result.stderr.splitlines()[:11]
    assert refused[0].endswith("w.csv:12: not_an_object: 5 cells under 4 columns")
    assert refused[10].endswith("w.csv:62: not_an_object: 2 cells under 4 columns")
    assert "50 readings, 11 refused" in result.stderr


def test_a_byte_order_mark_before_json_lines_costs_no_reading(folder: Path) -> None:
    lines = hot_for(10, 20, 60)
    marked = ["\ufeff" + lines[0], *lines[1:]]
    for result in (run(folder, file_of(folder, "w.jsonl", marked)), run(folder, given=marked)):
        assert told(result) == HOT
        assert "60 readings, 0 refused" in result.stderr


def test_a_csv_may_come_through_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "w.csv")
    threading.Thread(target=file_of, args=(folder, "w.csv", [*CSV, "W,1"]), daemon=True).start()
    result = run(folder, str(folder / "w.csv"))
    assert told(result) == HOT
    assert "60 readings, 1 refused" in result.stderr


def test_a_line_without_a_well_says_so(folder: Path) -> None:
    result = run(folder, given=['{"timestamp": 1772323200, "pip": 1}'])
    assert "-:1: bad_well_id: well_id is missing" in result.stderr


def test_readings_newest_first_are_said_to_be_late(folder: Path) -> None:
    result = run(folder, given=reversed(hot_for(10, 20, 60)))
    assert told(result) == []
    assert "59 of them late, and not diagnosed" in result.stderr
    assert "1 well, 0.0 days" in result.stderr, "days that were not judged are none"
    assert result.stderr.endswith("no alarms\n")


def test_a_year_in_the_future_is_refused_by_what_follows_and_a_long_gap_is_not(folder: Path) -> None:
    a_year = 365 * 24 * 60
    lines = hot_for(10, 20, 60)
    result = run(folder, given=[*lines[:5], line(a_year, 100), *lines[5:]])
    assert told(result) == HOT
    assert "-:6: implausible_timestamp: timestamp 2027-03-01T00:00:00Z is more than a day ahead" in result.stderr
    assert "60 readings, 1 refused" in result.stderr
    later = [line(a_year + minute, 140 if minute > 1 else 100) for minute in range(3)]
    assert told(run(folder, given=[*lines[:5], *later]))[2:] == [f"raised MOTOR_OVERTEMP W {a_year + 2}"]
    assert told(run(folder, given=[*lines[:5], later[0]])) == ["raised COMM_LOSS W 9", f"cleared COMM_LOSS W {a_year}"]


def test_a_clock_set_back_among_others_is_one_fault_and_no_silence(folder: Path) -> None:
    """The well is heard every minute, and its timestamps are three hours behind from the hundredth on."""
    asked = tree().replace("clock_ahead_s > 120", "clock_ahead_s < -600")
    (folder / "tree.toml").write_text(asked)
    lines = [
        text
        for minute in range(600)
        for text in (line(minute, 100.0, "A"), line(minute - 180 * (minute >= 100), 100.0, "B"))
    ]
    result = run(folder, given=lines)
    assert told(result) == ["raised CLOCK_FAULT B 110"]
    assert "180 of them late" in result.stderr


def test_a_file_for_each_well_tells_what_one_of_all_does(folder: Path) -> None:
    one, other = hot_for(10, 20, 60, "A"), hot_for(30, 40, 60, "B")
    other.insert(30, other[20])  # and sent twice: late, and no reason to doubt when the rest arrived
    paths = [file_of(folder, "a.jsonl", one), file_of(folder, "b.jsonl", other)]
    both = ["raised MOTOR_OVERTEMP A 10", "cleared MOTOR_OVERTEMP A 20", "raised MOTOR_OVERTEMP B 30"]
    assert told(run(folder, *paths)) == [*both, "cleared MOTOR_OVERTEMP B 40"]


def test_late_lines_raise_nothing_and_are_explained_as_late(folder: Path) -> None:
    lines = [*hot_for(99, 99, 30), line(5.5, 140), line(6.5, 140), *hot_for(99, 99, 60)[30:]]
    result = run(folder, "--explain", given=lines)
    assert told(result) == []
    assert result.stderr.count("late, stored and not diagnosed") == 2
    assert f"{at(5.5).replace('+00:00', 'Z')} W: late" in result.stderr


def test_received_at_is_the_arrival(folder: Path) -> None:
    lines = [line(minute, 100.0, received_at=at(minute)) for minute in range(10)]
    ahead = line(30, 100.0, received_at=at(10))
    assert told(run(folder, given=[*lines, ahead])) == ["raised CLOCK_FAULT W 10"]
    assert told(run(folder, given=[*lines, line(30, 100.0)])) == ["raised COMM_LOSS W 14", "cleared COMM_LOSS W 30"]


@pytest.mark.parametrize("heard_until", [14.01, 15, 17.5])
def test_silence_at_the_end_is_judged_by_the_newest_timestamp_of_any_well(folder: Path, heard_until: float) -> None:
    both = [text for minute in range(10) for text in (line(minute, 100.0, "A"), line(minute, 100.0, "B"))]
    alone = [line(minute, 100.0, "B") for minute in (11, 12, 13, heard_until)]
    assert told(run(folder, given=[*both, *alone])) == ["raised COMM_LOSS A 14"]
    assert told(run(folder, given=[*both, *alone[:-1]])) == []


def test_explain_names_questions_answers_and_values(folder: Path) -> None:
    result = run(folder, "--explain", given=hot_for(1, 3, 4))
    assert "  no  MOTOR_OVERTEMP: Is it hot? motor_temp 100" in result.stderr
    assert "  yes MOTOR_OVERTEMP: Is it hot? motor_temp 140" in result.stderr
    assert "MOTOR_OVERTEMP is active since 2026-03-01T00:01:00Z" in result.stderr


def test_an_explanation_has_units_and_names_what_is_not_known(folder: Path) -> None:
    asked = tree().replace('["motor_temp > 130"]', '["motor_temp > 130", "unknown(pip_ratio) or pip_ratio < 0.9"]')
    (folder / "tree.toml").write_text(asked)
    explained = run(folder, "--explain", given=hot_for(1, 2, 2)).stderr.splitlines()
    assert "  no  MOTOR_OVERTEMP: Is it hot? motor_temp 100 degC" in explained
    assert "  yes MOTOR_OVERTEMP: Is it hot? motor_temp 140 degC; not known: pip" in explained


def test_what_is_explained_may_begin_later_than_what_is_judged(folder: Path) -> None:
    lines = hot_for(10, 20, 60)
    result = run(folder, "--explain-since", at(11), "--until", at(13), given=lines)
    explained = [each for each in result.stderr.splitlines() if each.startswith("2026")]
    assert explained == ["2026-03-01T00:11:00Z W: warm-up", "2026-03-01T00:12:00Z W: warm-up"]
    assert result.stderr.count("MOTOR_OVERTEMP is active since 2026-03-01T00:10:00Z") == 2
    assert told(result) == HOT[:1]
    assert "13 readings" in result.stderr


def test_wells_and_times_are_chosen_in_a_file(folder: Path) -> None:
    lines = [*hot_for(10, 20, 60, "A"), *hot_for(10, 20, 60, "B"), *hot_for(10, 20, 60, "C")]
    lines.sort(key=lambda text: json.loads(text)["timestamp"])
    path = file_of(folder, "three.jsonl", lines)
    result = run(folder, path, "--well", "A", "--well", "C", "--well", "Z", "--since", at(10), "--until", at(15))
    assert told(result) == ["raised MOTOR_OVERTEMP A 10", "raised MOTOR_OVERTEMP C 10"]
    assert "10 readings, 0 refused, 2 wells" in result.stderr
    assert "no reading of Z among them" in result.stderr


def summary_of(result: Result) -> dict[str, list[str]]:
    return {name: cells for name, *cells in (each.split() for each in result.stderr.splitlines() if each[:1] > "@")}


def test_the_summary_counts_alarms_their_time_and_their_rate(folder: Path) -> None:
    """Two days of two wells: one alarm of an hour, one that stands when its well is last heard."""
    hours = range(49)
    lines = [line(60 * h, 140.0 if h == 10 else 100.0, "A") for h in hours]
    lines += [line(60 * h, 140.0 if h >= 44 else 100.0, "B") for h in hours]
    lines.sort(key=lambda text: json.loads(text)["timestamp"])
    wells = folder / "wells.toml"
    wells.write_text("[defaults]\nexpected_interval_s = 3600\n")
    result = run(folder, "--wells", str(wells), given=lines)
    assert "98 readings, 0 refused, 2 wells, 4.0 days" in result.stderr
    assert summary_of(result)["MOTOR_OVERTEMP"] == ["2", "5.0", "0.500"]
    assert not run(folder, "--no-summary", given=lines).stderr


def test_two_trees_are_compared_on_the_same_readings(folder: Path) -> None:
    """A milder limit tells one alarm more; a longer delay tells the same one later, which is no difference."""
    (folder / "other.toml").write_text(tree(hot_c=105, on_delay_s=300))
    lines = [*hot_for(10, 20, 60), *(line(60 + m, 110.0 if 10 <= m < 40 else 100.0) for m in range(60))]
    result = run(folder, "--against", str(folder / "other.toml"), given=lines)
    assert told(result) == HOT, "events are those of the tree, not of the one it is held against"
    assert summary_of(result)["MOTOR_OVERTEMP"] == ["1", "0.2", "12.101", "2", "0.5", "24.202"]
    differences = result.stderr[result.stderr.index("only with") :].splitlines()
    assert differences == [
        f"only with {folder / 'tree.toml'}: none",
        f"only with {folder / 'other.toml'}: 1",
        "  2026-03-01T01:15:00Z W MOTOR_OVERTEMP high, 0.4 h",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "2026-03-02", "--until", "2026-03-01T23:00"), "--since 2026-03-02: is not before --until"),
        (("--explain-since", "noon"), "--explain-since noon: allowed are ISO 8601"),
        (("--dsn", "postgresql://x/y", "some.csv"), "either INPUT or --dsn"),
        (("--dsn", "postgresql://x/y", "--since", "soon"), "--since soon: allowed are ISO 8601"),
        (("--dsn", "postgresql://x/y", "--since", "1h", "--until", "2h"), "--since 1h: is not before --until 2h"),
    ],
)
def test_options_that_contradict_are_refused(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run(folder, *arguments)
    assert result.exit_code == 1
    assert said in result.stderr


def test_without_anything_to_judge_it_does_not_wait_for_what_nobody_types() -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb"), open(theirs, "rb") as terminal:  # noqa: PTH123 - descriptors
        ended = subprocess.run(
            [sys.executable, "-m", "esp_ingestd", "diagnose"],
            stdin=terminal,
            capture_output=True,
            text=True,
            check=False,
        )
    said = "nothing to judge: name files, - for standard input, or a database by --config or --dsn\n"
    assert (ended.returncode, ended.stderr) == (1, said)


async def test_a_wrong_tree_or_dsn_is_a_wrong_configuration(folder: Path) -> None:
    (folder / "broken.toml").write_text(tree().replace("motor_temp", "temperature"))
    for arguments, said in (
        (("--tree", str(folder / "broken.toml")), "unknown feature 'temperature'"),
        (("--dsn", "mysql://u:secret@h/d"), "--dsn: dsn: must begin with postgresql://"),
    ):
        status, _, errors = await program("diagnose", *arguments)
        assert status == 78
        assert said in errors
        assert "secret" not in errors


# ------------------------------------------------------------------------------------------- from the database


def loaded(lines: Iterable[str], received_us: int) -> list[Reading]:
    """As a backfill stores them: they all arrived when they were loaded."""
    decoder = Decoder([])
    return [reading for text in lines for reading in decoder.decode("", text.encode(), received_us).readings]


async def store(dsn: str, readings: list[Reading]) -> None:
    database = Database(DatabaseSettings(dsn=SecretStr(dsn)))
    await database.write(Batch(readings))
    await database.close()


async def diagnosed(*arguments: str) -> tuple[Any, str]:
    status, output, errors = await program("diagnose", *arguments)
    assert status == 0, errors
    return output, errors


async def test_history_of_the_database_says_what_its_file_says(folder: Path, migrated: FreshDatabase) -> None:
    """Three days, out of order and loaded long afterwards: judged as it happened."""
    lines = [
        text
        for minute in range(0, 4320, 5)
        for text in (
            line(minute, 140.0 if 1430 <= minute < 1460 else 100.0, "A"),
            line(minute + 1, 100.0, "B", colour="red", pip=-5.0),
        )
        if not ('"B"' in text and 2000 < minute < 2100)
    ]
    await store(migrated.dsn, loaded(reversed(lines), to_microseconds(T0) + 400 * 86_400_000_000))
    history, errors = await diagnosed("--tree", str(folder / "tree.toml"), "--dsn", migrated.dsn)
    from_file = run(folder, given=lines)
    assert history == from_file.stdout
    assert [each.split(" ")[1:3] for each in told(from_file)] == [["MOTOR_OVERTEMP", "A"]] * 2 + [
        ["COMM_LOSS", "B"]
    ] * 2
    assert errors.splitlines()[-4:] == from_file.stderr.splitlines()[-4:]


@pytest.mark.best_edition
async def test_wells_and_times_are_chosen_in_the_database(folder: Path, migrated: FreshDatabase) -> None:
    lines = [*hot_for(10, 20, 60, "A"), *hot_for(10, 20, 60, "B"), *hot_for(10, 20, 60, "C")]
    await store(migrated.dsn, loaded(lines, to_microseconds(T0) + 86_400_000_000))
    config = folder / "esp-ingestd.toml"
    config.write_text(f'[database]\ndsn = "{migrated.dsn}"\n[diagnosis]\ntree_file = "tree.toml"\n')
    output, errors = await diagnosed(
        "--config", str(config), "--well", "A", "--well", "C", "--since", at(10), "--until", at(15)
    )
    assert {json.loads(each)["well_id"] for each in output.splitlines()} == {"A", "C"}
    assert "10 readings, 0 refused, 2 wells" in errors
    status, output, errors = await program("diagnose", "--config", str(config), "--well", "Z")
    assert (status, output) == (1, "")
    assert errors == "no well 'Z'; `esp-ingestd wells` lists the 3 that there are\n"


@pytest.mark.best_edition
async def test_history_streams_in_order_of_time_in_blocks(
    migrated: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esp_ingestd.database.READ_ROWS", 7)
    readings = [Reading(f"W{n % 3}", n * 3_600_000_000, pip=float(n), received_us=1) for n in range(1, 100)]
    await store(migrated.dsn, readings)
    database = Database(DatabaseSettings(dsn=SecretStr(migrated.dsn)))
    span = await database.span_of_readings([])
    assert span == (3_600_000_000, 99 * 3_600_000_000)
    blocks = [block async for block in database.stream_readings([], *span)]
    assert [reading for block in blocks for reading in block] == readings
    assert max(map(len, blocks)) == 7
    await database.close()


async def test_a_database_that_is_away_is_told_in_one_line() -> None:
    status, _, errors = await asyncio.wait_for(
        program("diagnose", "--dsn", "postgresql://nobody@127.0.0.1:1/x"), PATIENCE_S
    )
    assert status == 1
    assert len(errors.splitlines()) == 1
    assert errors.startswith("esp-ingestd: database postgresql://nobody@127.0.0.1:1/x")
