"""Backfill: history from files into real databases, whole, once, and however often it was cut."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import signal
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import asyncpg
import pyarrow as pa
import pytest
from data import ESP01
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import SecretStr
from services import execute, fetch

from esp_ingestd.backfill import BackfillError, _Loader, backfill
from esp_ingestd.config import DatabaseSettings, MqttSettings, Settings, Wells
from esp_ingestd.core.reading import CHANNEL_NAMES
from esp_ingestd.core.well import WellSettings
from esp_ingestd.database import Database
from esp_ingestd.errors import Unavailable
from esp_ingestd.recording import Block, open_recording

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from services import FreshDatabase

    from esp_ingestd.core.batch import Written

START = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = ("csv", "jsonl", "parquet")
Values = dict[str, Any]


def make_settings(dsn: str, naive: Literal["refuse", "utc"] = "refuse") -> Settings:
    return Settings(
        database=DatabaseSettings(dsn=SecretStr(dsn), write_timeout_s=60.0), mqtt=MqttSettings(naive_timestamps=naive)
    )


def moment(second: int) -> str:
    return (START + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")


def field(count: int) -> list[Values]:
    """Readings of three wells; every channel is sent by some reading, and none sends them all."""
    return [
        {
            "well_id": f"WELL-{number % 3}",
            "timestamp": moment(number),
            **{name: 1.0 + number % 7 + place / 10 for place, name in enumerate(CHANNEL_NAMES) if number % (place + 2)},
            "pip": 900.25,
        }
        for number in range(count)
    ]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A file of the kind that its suffix says."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        columns = {name: [row.get(name) for row in rows] for name in names}
        columns["timestamp"] = [datetime.fromisoformat(str(text)) for text in columns["timestamp"]]
        parquet.write_table(pa.table(columns), path, row_group_size=400)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return path


async def load(
    dsn: str,
    *paths: Path,
    wells: Wells | None = None,
    naive: Literal["refuse", "utc"] = "refuse",
    max_refused: int = 1_000,
    restart: bool = False,
) -> list[tuple[int, int, int]]:
    """What was stored, found as duplicates, and refused of each file."""
    said: list[str] = []
    work = backfill(
        make_settings(dsn, naive), wells or Wells(), paths, max_refused=max_refused, restart=restart, say=said.append
    )
    await work
    found = [re.search(r"(\d+) stored, (\d+) duplicates, (\d+) refused", line) for line in said]
    return [(int(each[1]), int(each[2]), int(each[3])) for each in found if each]


async def letters(dsn: str) -> list[tuple[int, str, str]]:
    """Line, reason and payload of what was refused."""
    rows = await fetch(dsn, "SELECT detail, reason, payload FROM dead_letters ORDER BY dead_letter_id")
    return [(json.loads(detail)["line"], reason, payload.decode(errors="replace")) for detail, reason, payload in rows]


EVERYTHING = "SELECT t.*, d.* FROM esp_telemetry t FULL JOIN dead_letters d ON false ORDER BY 1, 2, dead_letter_id"


@pytest.mark.parametrize("kind", KINDS)
async def test_every_value_arrives_and_a_second_run_changes_nothing(
    migrated: FreshDatabase, tmp_path: Path, kind: str
) -> None:
    rows = field(1_000)
    path = write(tmp_path / f"a.{kind}", [*rows[:500], {**rows[500], "timestamp": "1999-01-01T00:00:00Z"}, *rows[501:]])
    assert await load(migrated.dsn, path) == [(999, 0, 1)]
    del rows[500]
    names = ", ".join(CHANNEL_NAMES)
    stored = await fetch(migrated.dsn, f'SELECT well_id, "timestamp", {names} FROM esp_telemetry ORDER BY 2')  # noqa: S608
    expected = [
        (row["well_id"], datetime.fromisoformat(row["timestamp"]), *map(row.get, CHANNEL_NAMES)) for row in rows
    ]
    assert stored == expected
    before = await fetch(migrated.dsn, EVERYTHING)
    assert await load(migrated.dsn, path) == [(0, 999, 1)]
    assert await fetch(migrated.dsn, EVERYTHING) == before
    assert await fetch(migrated.dsn, "SELECT * FROM esp_backfills") == []


async def test_bad_lines_become_dead_letters_and_cost_themselves(migrated: FreshDatabase, tmp_path: Path) -> None:
    good, later = ({"well_id": "W", "timestamp": moment(second), "pip": 1} for second in (0, 1))
    bad: list[tuple[bytes, str]] = [
        (b"\xff", "not_utf8"),
        (b"{", "not_json"),
        (b"[]", "empty"),
        (b"7", "not_an_object"),
        (b'{"well_id":"W","pip":1}', "no_timestamp"),
        (b'{"well_id":"W","timestamp":"yesterday","pip":1}', "bad_timestamp"),
        (b'{"well_id":"W","timestamp":"2026-01-01T00:00:00","pip":1}', "naive_timestamp"),
        (b'{"well_id":"W","timestamp":"1999-12-31T23:59:59Z","pip":1}', "implausible_timestamp"),
        (b'{"well_id":"W","timestamp":"2026-01-01T00:00:00Z"}', "no_channel"),
        (b'{"well_id":"W 1","timestamp":"2026-01-01T00:00:00Z","pip":1}', "bad_well_id"),
        (b'{"timestamp":"2026-01-01T00:00:00Z","pip":1}', "bad_well_id"),
        (b'{"well_id":"W","timestamp":"2026-01-01T00:00:00Z","pip":1,"note":"\\u0000"}', "unstorable_text"),
        (b'{"well_id":"W","timestamp":"2026-01-01T00:00:00Z","pip":1,"note":"' + b"x" * 1_048_576 + b'"}', "too_large"),
    ]
    path = tmp_path / "a.jsonl"
    content = [json.dumps(good).encode(), *(line for line, _ in bad), json.dumps([later]).encode()]
    path.write_bytes(b"\n".join(content) + b"\n")
    assert await load(migrated.dsn, path) == [(2, 0, len(bad))]
    found = await letters(migrated.dsn)
    assert sorted((line, reason) for line, reason, _ in found) == [
        (line, reason) for line, (_, reason) in enumerate(bad, 2)
    ]
    assert {payload for _, _, payload in found} == {line[:65_536].decode(errors="replace") for line, _ in bad}
    ((detail,), *_) = await fetch(migrated.dsn, "SELECT detail FROM dead_letters")
    assert json.loads(detail)["file"] == str(path)


async def test_bad_rows_of_a_csv(migrated: FreshDatabase, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [
        b"well_id,timestamp,pip,motor_temp,note",
        b'W,2026-01-01T00:00:00Z,1,2,"two',
        b'lines"',
        b"W,2026-01-01T00:00:01Z,1",
        b"W,2026-01-01T00:00:02Z,1,2,\xff",
        b"W,,1,2,",
        b"",
        b"W,2026-01-01T00:00:03Z,,,",
        b"W,2026-01-01T00:00:04Z,NaN,300,",
    ]
    path.write_bytes(b"\n".join(lines))
    assert await load(migrated.dsn, path) == [(2, 0, 4)]
    assert [(line, reason) for line, reason, _ in await letters(migrated.dsn)] == [
        (4, "not_an_object"),
        (5, "not_utf8"),
        (6, "no_timestamp"),
        (8, "no_channel"),
    ]
    stored = await fetch(
        migrated.dsn, 'SELECT pip, motor_temp, extra, bad_channels FROM esp_telemetry ORDER BY "timestamp"'
    )
    assert stored[0][:2] == (1.0, 2.0)
    assert json.loads(stored[0][2]) == {"note": "two\nlines"}
    assert stored[1][:2] == (None, 300.0)
    assert json.loads(stored[1][2]) == {"pip": "NaN"}
    assert stored[1][3] == ["pip", "motor_temp"]


@pytest.mark.parametrize("kind", KINDS)
async def test_units_of_the_wells_file_and_naive_timestamps(migrated: FreshDatabase, tmp_path: Path, kind: str) -> None:
    wells = Wells(wells={"WELL-1": WellSettings(units={"pip": "kPa"})})
    rows = [{**row, "timestamp": row["timestamp"].rstrip("Z")} for row in field(6)]
    assert await load(migrated.dsn, write(tmp_path / f"a.{kind}", rows), wells=wells) == [(0, 0, 6)]
    assert {reason for _, reason, _ in await letters(migrated.dsn)} == {"naive_timestamp"}
    assert await load(migrated.dsn, tmp_path / f"a.{kind}", wells=wells, naive="utc") == [(6, 0, 0)]
    stored = await fetch(migrated.dsn, 'SELECT well_id, "timestamp", pip FROM esp_telemetry ORDER BY 2')
    psi = {"WELL-0": 900.25, "WELL-1": 900.25 * 1000 / 6_894.757293168, "WELL-2": 900.25}
    assert [(each[0], each[1]) for each in stored] == [
        (f"WELL-{number % 3}", START + timedelta(seconds=number)) for number in range(6)
    ]
    assert all(each[2] == pytest.approx(psi[each[0]]) for each in stored)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_database_refuses_is_a_dead_letter_with_its_line(
    migrated: FreshDatabase, tmp_path: Path, kind: str
) -> None:
    await execute(migrated.dsn, "ALTER TABLE esp_telemetry ADD CHECK (gor <> 13)")
    rows = field(900)
    rows[650]["gor"] = 13.0
    assert await load(migrated.dsn, write(tmp_path / f"a.{kind}", rows)) == [(899, 0, 1)]
    ((line, reason, payload),) = await letters(migrated.dsn)
    assert (line, reason) == (652 if kind == "csv" else 651, "refused_by_database")
    assert json.loads(payload)["gor"] == 13.0


async def test_history_raises_no_alarms(migrated: FreshDatabase, tmp_path: Path) -> None:
    stall = [
        {"well_id": "W", "timestamp": moment(10 * number), "motor_current": 900.0, "vsd_frequency": 50.0}
        for number in range(60)
    ]
    await load(migrated.dsn, write(tmp_path / "a.csv", stall))
    assert await fetch(migrated.dsn, "SELECT 1 FROM diagnostic_results UNION ALL SELECT 1 FROM alarm_states") == []


async def test_a_transaction_touches_a_bounded_number_of_days(migrated: FreshDatabase, tmp_path: Path) -> None:
    rows = [{"well_id": "W", "timestamp": moment(-86_400 * number), "pip": 1.0} for number in range(250)]
    assert await load(migrated.dsn, write(tmp_path / "a.csv", rows)) == [(250, 0, 0)]
    days = await fetch(migrated.dsn, "SELECT count(*) FROM esp_telemetry GROUP BY xmin::text")
    assert max(count for (count,) in days) <= 100


# -------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_load_that_was_cut_goes_on_where_it_was(
    migrated: FreshDatabase, tmp_path: Path, kind: str, how: signal.Signals
) -> None:
    first = write(tmp_path / f"first.{kind}", field(300))
    second = write(tmp_path / f"second.{kind}", [{**row, "well_id": "LAST"} for row in field(30_000)])
    config = tmp_path / "esp-ingestd.toml"
    config.write_text(f'[database]\ndsn = "{migrated.dsn}"\n')
    command = [sys.executable, "-m", "esp_ingestd", "backfill", "--config", str(config), str(first), str(second)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ
    )
    connection = await asyncpg.connect(migrated.dsn)
    while not await connection.fetchval("SELECT 1 FROM esp_backfills WHERE file LIKE '%second%'"):
        assert process.returncode is None
    process.send_signal(how)
    _, errors = await process.communicate()
    assert process.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 1)
    assert how is signal.SIGKILL or b"the same command goes on from here" in errors
    # What the server was doing for it may still be committing.
    while await connection.fetchval(
        "SELECT 1 FROM pg_stat_activity"
        " WHERE application_name = 'esp-ingestd backfill' AND datname = current_database()"
    ):
        pass
    stored = await connection.fetchval("SELECT count(*) FROM esp_telemetry WHERE well_id = 'LAST'")
    assert 0 < stored < 30_000, "cut neither before nor after"
    await connection.close()
    assert await load(migrated.dsn, first, second) == [(0, 0, 0), (30_000 - stored, 0, 0)]
    assert await fetch(migrated.dsn, "SELECT count(*) FROM esp_telemetry") == [(30_300,)]
    assert await fetch(migrated.dsn, "SELECT * FROM esp_backfills") == []


async def cut(dsn: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the first block alone."""
    write_batch = Database.write
    calls = 0

    async def write_once(self: Database, *arguments: Any, **options: Any) -> Written:  # noqa: ANN401 - as they are
        nonlocal calls
        calls += 1
        if calls > 1:
            raise Unavailable("gone", kind="connection")
        return await write_batch(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", write_once)
        with pytest.raises(Unavailable):
            await load(dsn, path)


async def test_a_changed_file_is_read_from_its_start(
    migrated: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.csv", field(15_000))
    await cut(migrated.dsn, path, monkeypatch)
    with path.open("a") as file:
        file.write(f"NEW,{moment(0)}" + "," * (path.read_text().partition("\n")[0].count(",") - 2) + ",1\n")
    ((stored, duplicates, refused),) = await load(migrated.dsn, path)
    assert stored + duplicates == 15_001
    assert (duplicates > 0, refused) == (True, 0)


async def test_restart_reads_from_the_start(
    migrated: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.csv", field(15_000))
    await cut(migrated.dsn, path, monkeypatch)
    ((stored, duplicates, _),) = await load(migrated.dsn, path, restart=True)
    assert stored + duplicates == 15_000
    assert duplicates > 0


async def test_too_much_refused_stops_it_and_mended_it_is_read_anew(migrated: FreshDatabase, tmp_path: Path) -> None:
    rows = [{**row, "timestamp": row["timestamp"].rstrip("Z")} for row in field(15_000)]
    path = write(tmp_path / "a.csv", rows)
    with pytest.raises(BackfillError, match=r"a\.csv: stopped, \d+ rows refused, more than --max-refused 100"):
        await load(migrated.dsn, path, max_refused=100)
    assert await fetch(migrated.dsn, "SELECT count(*) < 15000 FROM dead_letters") == [(True,)]
    assert await load(migrated.dsn, path, naive="utc") == [(15_000, 0, 0)]


# ----------------------------------------------------------------------------------------------------- what is read


async def test_every_input_is_checked_before_the_database_is_touched(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"no")
    paths = [
        write(tmp_path / "good.csv", field(1)),
        write(tmp_path / "a.csv", [{"well_id": "W", "pressure": 1}]),
        tmp_path / "none.jsonl",
        tmp_path / "a.xlsx",
        tmp_path / "bad.parquet",
    ]
    with pytest.raises(BackfillError) as caught:
        await load("postgresql://nobody@127.0.0.1:1/none", *paths)
    header, missing, kind, no_parquet = caught.value.faults
    assert re.search(r"a\.csv:1: the header must name well_id, timestamp .* channels are flow_rate, ", header)
    assert re.search(r"none\.jsonl: cannot be read: No such file", missing)
    assert re.search(r"a\.xlsx: files of this kind are not read; allowed are \.csv, \.jsonl, .*\.parquet", kind)
    assert re.search(r"bad\.parquet: it is no Parquet", no_parquet)


cell = st.one_of(
    st.sampled_from(["", "1", "-0.0", "900.25", "1e2", "60000", "-50", "NaN", "inf", "1_0", " 7", "007", "x", "1e999"]),
    st.floats(allow_nan=False, width=32).map(repr),
)
well = st.sampled_from(["W", "KPA", "W" * 65, "", "W 1"])
good_time = st.sampled_from(
    ["2026-01-01T00:00:00Z", "2026-01-01 01:00:00.5+01:00", "2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00"]
)
odd_time = st.sampled_from(
    ["1999-12-31T23:59:59Z", "2999-01-01T00:00:00Z", "2026-01-01T00:00:00.1234567Z", "1767225600", "1767225600000"]
)
plain_row = st.tuples(st.sampled_from(["W", "V"]), good_time, cell, cell)
any_row = st.tuples(well, good_time | odd_time | st.sampled_from(["", "x"]), cell, cell)
few = st.lists(st.one_of(plain_row, plain_row, plain_row, any_row), min_size=1, max_size=6)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=few, naive=st.sampled_from(["refuse", "utc"]), kind=st.sampled_from(["csv", "jsonl"]))
def test_columns_are_judged_as_rows_are(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[tuple[str, ...]],
    naive: Literal["refuse", "utc"],
    kind: str,
) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text("".join(",".join(row) + "\n" for row in [("well_id", "timestamp", "pip", "gor"), *rows]))
    else:
        path.write_text("".join(map(to_json_line, rows)))
    wells = Wells(wells={"KPA": WellSettings(units={"pip": "kPa"})})
    settings = Settings(mqtt=MqttSettings(naive_timestamps=naive))

    def decoded() -> tuple[Any, Any, int]:
        loader = _Loader(settings, wells, path, Database(settings.database))
        with closing(open_recording(path)) as file:
            piece = loader._next_piece(file.blocks())
        assert piece is not None
        found = [(place, each[:-1]) for place, each in zip(piece.places, piece.readings, strict=True)]
        return found, [(each.reason, each.payload, each.detail) for each in piece.letters.values()], piece.refused

    as_columns = decoded()
    with monkeypatch.context() as patch:
        for block in Block.__subclasses__():
            patch.setattr(block, "columns", Block.columns)
        assert repr(as_columns) == repr(decoded())


def to_json_line(row: tuple[str, ...]) -> str:
    """Numbers as JSON has them, the rest as text."""

    def literal(text: str) -> str:
        return text if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", text) else json.dumps(text)

    named = zip(("well_id", "timestamp", "pip", "gor"), row, strict=True)
    return "{" + ",".join(f'"{name}":{literal(text)}' for name, text in named if text) + "}\n"


@pytest.mark.skipif(
    not ESP01.exists(), reason="the recording of the real pump is not here; ESP_TEST_DATA names its folder"
)
async def test_the_real_pump(migrated: FreshDatabase) -> None:
    assert await load(migrated.dsn, ESP01) == [(34_560, 0, 0)]
    stored = await fetch(migrated.dsn, f'SELECT "timestamp", {", ".join(PUMP)} FROM esp_telemetry ORDER BY 1')  # noqa: S608
    with ESP01.open() as file:
        rows = list(csv.DictReader(file))
    assert stored == [(datetime.fromisoformat(row["timestamp"]), *(float(row[name]) for name in PUMP)) for row in rows]
    assert await load(migrated.dsn, ESP01) == [(0, 34_560, 0)]


PUMP = ("pip", "discharge_pressure", "intake_temp", "motor_temp", "vsd_frequency", "motor_current")
