"""Maintenance: each step against a real database, in the command, and in daemons of which one does it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from daemon import Daemon
from peer import PATIENCE_S, Peer, until
from pydantic import SecretStr
from services import fetch

from esp_ingestd import archive, maintenance
from esp_ingestd.archive import DayResult, Outcome, Report
from esp_ingestd.config import ArchiveSettings, DatabaseSettings, RetentionSettings, Settings
from esp_ingestd.core.batch import Batch
from esp_ingestd.core.reading import Reading, to_microseconds
from esp_ingestd.database import Database
from esp_ingestd.maintenance import ARCHIVING, EVERYTHING, MAINTENANCE_LOCK, Step, look, run_steps, run_steps_in_child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from services import BrokerAddress, FreshDatabase

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


def settings(dsn: str, url: Path | str = "", *, require_verified: bool = True) -> Settings:
    return Settings(
        database=DatabaseSettings(dsn=SecretStr(dsn)),
        archive=ArchiveSettings(url=str(url)),
        retention=RetentionSettings(require_verified_archive=require_verified),
    )


async def fill(dsn: str, *days_ago: int) -> None:
    """A hundred readings on each of these days; yesterday may still be open (`archive.closes_after_s`)."""
    store = Database(DatabaseSettings(dsn=SecretStr(dsn)))
    for days in days_ago:
        first_us = to_microseconds(NOON - timedelta(days=days))
        rows = [Reading("W1", first_us + number, pip=1.0, received_us=first_us) for number in range(100)]
        await store.write(Batch(readings=rows))
    await store.close()


async def days_left(dsn: str) -> set[int]:
    """Of how many days ago there are readings."""
    rows = await fetch(dsn, "SELECT DISTINCT timestamp FROM esp_telemetry")
    return {(NOON.date() - row[0].astimezone(UTC).date()).days for row in rows}


# -------------------------------------------------------------------------------------------------------- the steps


async def test_a_pass_rolls_up_archives_reads_back_and_drops(migrated: FreshDatabase, tmp_path: Path) -> None:
    await fill(migrated.dsn, 40, 35, 2, 0)
    works = settings(migrated.dsn, tmp_path)
    steps = {step.name: step for step in await run_steps(works, EVERYTHING)}
    assert [step.faults for step in steps.values()] == [(), [], [], []]
    assert steps["rollups"].done.startswith("4 hours, 400 readings")
    assert steps["archive"].done == "3 archived"
    assert steps["verify"].done == "1 verified"
    assert steps["retention"].done == "2 dropped"
    assert await days_left(migrated.dsn) == {2, 0}
    assert len(await fetch(migrated.dsn, "SELECT 1 FROM telemetry_daily")) == 4, "rollups outlive readings"
    again = [step.done for step in await run_steps(works, EVERYTHING)]
    assert again == ["", "", "1 verified", ""]


async def test_each_pass_reads_back_the_day_that_was_not_looked_at_for_longest(
    migrated: FreshDatabase, tmp_path: Path
) -> None:
    await fill(migrated.dsn, 4, 3, 2)
    works = settings(migrated.dsn, tmp_path)
    await run_steps(works, EVERYTHING)
    before = await fetch(migrated.dsn, "SELECT day, verified_at FROM archived_days ORDER BY verified_at")
    await run_steps(works, {"verify": maintenance.verify})
    after = await fetch(migrated.dsn, "SELECT day, verified_at FROM archived_days ORDER BY verified_at")
    assert [day for day, _ in after] == [before[1][0], before[2][0], before[0][0]]


async def test_without_an_archive_everything_is_kept_and_said(migrated: FreshDatabase) -> None:
    await fill(migrated.dsn, 40)
    steps = {step.name: step for step in await run_steps(settings(migrated.dsn), EVERYTHING)}
    assert [step.faults for step in steps.values()] == [(), (), (), []]
    assert "require_verified_archive" in steps["retention"].kept
    assert await days_left(migrated.dsn) == {40}
    health = await look(settings(migrated.dsn))
    assert (health.overdue_days, health.unarchived_days) == (1, 0)


async def test_a_step_that_fails_keeps_none_of_the_others(migrated: FreshDatabase, tmp_path: Path) -> None:
    await fill(migrated.dsn, 40)
    (tmp_path / "file").write_text("in the way")
    steps = {step.name: step for step in await run_steps(settings(migrated.dsn, tmp_path / "file/archive"), EVERYTHING)}
    assert steps["rollups"].done.startswith("1 hours, 100 readings")
    assert steps["archive"].faults
    assert await days_left(migrated.dsn) == {40}


async def test_a_fault_of_our_own_is_told_and_ends_nothing(migrated: FreshDatabase) -> None:
    async def broken(_: Settings) -> Step:
        raise ZeroDivisionError("by zero")

    steps = await run_steps(settings(migrated.dsn), {"broken": broken, "rollups": maintenance.roll_up})
    assert steps == [Step("broken", "", ["ZeroDivisionError: by zero"]), Step("rollups", "")]


async def test_a_database_that_is_away_fails_each_step(tmp_path: Path) -> None:
    steps = await run_steps(settings("postgresql://nobody@127.0.0.1:1/none", tmp_path), EVERYTHING)
    assert all(step.faults for step in steps)


@pytest.mark.best_edition
@pytest.mark.parametrize(
    ("url", "lacking", "extra"),
    [("/srv/archive", "pyarrow", "archive"), ("/srv/archive", "numpy", "archive"), ("s3://b/c", "s3fs", "archive-s3")],
)
async def test_an_extra_that_is_not_installed_is_named_and_the_other_steps_go_on(
    migrated: FreshDatabase, monkeypatch: pytest.MonkeyPatch, url: str, lacking: str, extra: str
) -> None:
    monkeypatch.setattr(archive, "find_spec", lambda name: None if name == lacking else name)
    await fill(migrated.dsn, 40)
    steps = {step.name: step for step in await run_steps(settings(migrated.dsn, url), EVERYTHING)}
    said = f"archive.url {url} needs the extra {extra}: pip install 'esp-ingestd[{extra}]'"
    assert steps["archive"] == Step("archive", "", (said,))
    assert steps["rollups"].done.startswith("1 hours, 100 readings")
    assert await days_left(migrated.dsn) == {40}


def test_check_says_which_extra_the_archive_needs(tmp_path: Path) -> None:
    config = tmp_path / "esp-ingestd.toml"
    config.write_text('[archive]\nurl = "gs://bucket/folder"\n')
    program = [sys.executable, "-m", "esp_ingestd", "check", "--config", str(config)]
    done = subprocess.run(program, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "archive.url gs://bucket/folder needs the extra archive-gcs: pip install 'esp-ingestd[archive-gcs]'\n"
    )


async def test_work_rests_between_blocks_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rests = 100.0, []

    async def rest(seconds: float) -> None:
        nonlocal now
        rests.append(seconds)
        now += seconds

    monkeypatch.setattr(archive, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(archive, "asyncio", SimpleNamespace(sleep=rest))
    pace = archive.Pace(19, 25)
    for took in (1.0, 0.5, 2.0):
        now += took
        await pace.pause()
    assert rests == [19.0, 0.5 * 19], "the third block is done after 25 s"


@pytest.mark.best_edition
async def test_who_finds_another_at_it_leaves_it_to_that_one(migrated: FreshDatabase) -> None:
    await fill(migrated.dsn, 1)
    other = await asyncpg.connect(migrated.dsn)
    await other.fetchval("SELECT pg_advisory_lock($1)", MAINTENANCE_LOCK)
    assert (await maintenance.roll_up(settings(migrated.dsn))).done == "another one is at it"
    assert await fetch(migrated.dsn, "SELECT 1 FROM telemetry_hourly") == []
    await other.close()
    assert (await maintenance.roll_up(settings(migrated.dsn))).done.startswith("1 hours")


@pytest.mark.best_edition
async def test_the_archives_steps_in_a_child_are_the_same(migrated: FreshDatabase, tmp_path: Path) -> None:
    await fill(migrated.dsn, 2)
    steps = await run_steps_in_child(settings(migrated.dsn, tmp_path))
    assert [step.name for step in steps] == list(ARCHIVING)
    assert [step.done for step in steps] == ["1 archived", "1 verified", ""]


async def test_a_child_that_dies_is_a_failed_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_PROGRAM", (sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(3)"))
    (step,) = await run_steps_in_child(Settings())
    assert step.faults == ["its process ended with status 3"]


def test_why_days_are_kept_is_told_once() -> None:
    day = NOON.date()
    kept = [DayResult("esp_telemetry", day, 1, Outcome.KEPT, why) for why in ("a", "b", "a", "c")]
    dropped = DayResult("esp_telemetry", day, 1, Outcome.DROPPED)
    failed = DayResult("esp_telemetry", day, 1, Outcome.FAILED, "bad")
    step = maintenance._summarize("retention", Report([*kept, dropped, failed]))
    assert step == Step("retention", "4 kept, 1 dropped", [f"esp_telemetry {day}: bad"], "a, and 2 more")
    assert list(step.lines()) == [
        "retention: 4 kept, 1 dropped: a, and 2 more",
        f"retention: failed: esp_telemetry {day}: bad",
    ]


# -------------------------------------------------------------------------------------------------- health of the store


def damage(folder: Path) -> int:
    """Cut a byte off each file of the archive; how many bytes there were."""
    files = list(folder.rglob("*.parquet"))
    total = sum(file.stat().st_size for file in files)
    for file in files:
        file.write_bytes(file.read_bytes()[:-1])
    return total


async def test_the_health_of_the_store_is_what_is_there(migrated: FreshDatabase, tmp_path: Path) -> None:
    await fill(migrated.dsn, 40, 3, 2)
    works = settings(migrated.dsn, tmp_path)
    health = await look(works)
    tables = health.tables
    assert {name: table.chunks for name, table in tables.items()} == {
        "esp_telemetry": 0 if migrated.edition == "postgresql" else 3,
        "diagnostic_results": 0,
    }
    assert 0 < tables["diagnostic_results"].size_bytes < tables["esp_telemetry"].size_bytes
    assert (health.unarchived_days, health.overdue_days, health.verified_us) == (3, 1, 0)
    end = (NOON - timedelta(days=39)).replace(hour=0)
    assert health.unarchived_since_us == to_microseconds(end)
    now_us = to_microseconds(datetime.now(UTC))
    assert 0 <= now_us - health.rolled_up_us < 60_000_000
    await run_steps(works, EVERYTHING)
    health = await look(works)
    assert (health.unarchived_days, health.overdue_days, health.damaged_days) == (0, 0, 0)
    assert health.unarchived_since_us == 0
    assert health.verified_us > now_us
    assert health.archived_bytes == damage(tmp_path)
    (step,) = await run_steps(works, {"verify": maintenance.verify})
    assert step.faults
    assert (await look(works)).damaged_days == 1


@pytest.mark.community
async def test_compression_and_failed_jobs_are_told(migrated: FreshDatabase) -> None:
    store = Database(DatabaseSettings(dsn=SecretStr(migrated.dsn)))
    first_us = to_microseconds(NOON - timedelta(days=9))
    rows = [Reading("W1", first_us + number * 1000, pip=1.0, received_us=first_us) for number in range(5000)]
    await store.write(Batch(readings=rows))
    await fetch(migrated.dsn, "SELECT compress_chunk(c) FROM show_chunks('esp_telemetry') c")
    await fetch(migrated.dsn, "UPDATE _timescaledb_config.bgw_job SET scheduled = false")
    health = await store.store_health()
    assert health.tables["esp_telemetry"].compression_ratio > 5
    assert health.tables["diagnostic_results"].compression_ratio == 0
    assert health.failed_jobs == 0
    await fetch(
        migrated.dsn,
        "INSERT INTO _timescaledb_internal.bgw_job_stat SELECT id, now(), now(), now(), 'infinity', false, 1,"
        " interval '0', interval '0', 0, 1, 0, 1, 0, 0"
        " FROM _timescaledb_config.bgw_job WHERE hypertable_id IS NOT NULL",
    )
    assert (await store.store_health()).failed_jobs == 2
    await store.close()


# ------------------------------------------------------------------------------------------------------ the command


def command(folder: Path, dsn: str, url: Path) -> subprocess.CompletedProcess[str]:
    config = folder / "esp-ingestd.toml"
    config.write_text(f'[database]\ndsn = "{dsn}"\n[archive]\nurl = "{url}"\n')
    program = [sys.executable, "-m", "esp_ingestd", "maintenance", "--config", str(config)]
    return subprocess.run(program, check=False, capture_output=True, text=True)


@pytest.mark.best_edition
async def test_the_command_says_what_it_did_and_fails_where_a_step_does(
    migrated: FreshDatabase, tmp_path: Path
) -> None:
    await fill(migrated.dsn, 40)
    result = await asyncio.to_thread(command, tmp_path, migrated.dsn, tmp_path / "archive")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["rollups", "archive", "verify", "retention"]
    assert lines[1:] == ["archive: 1 archived", "verify: 1 verified", "retention: 1 dropped"]
    result = await asyncio.to_thread(command, tmp_path, "postgresql://nobody@127.0.0.1:1/none", tmp_path / "archive")
    assert result.returncode == 1
    assert result.stdout.count(": failed: ") == 4
    assert "Traceback" not in result.stderr


# -------------------------------------------------------------------------------------------------------- the daemon


@pytest.fixture
def daemons(
    tmp_path: Path, prefix: str, broker: BrokerAddress, migrated: FreshDatabase
) -> Iterator[tuple[Daemon, Daemon]]:
    """Two on one database, not started."""
    pair = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = Daemon(tmp_path / name, broker, migrated.dsn, client_id=f"{prefix}-{name}", prefix=prefix)
        made.settings["maintenance"] = {"interval_s": 1, "archive_interval_s": 1}
        made.settings["archive"] = {"url": str(tmp_path / "archive")}
        pair.append(made)
    yield pair[0], pair[1]
    for made in pair:
        made.__exit__()


def runs(daemon: Daemon, step: str, outcome: str) -> float:
    """How often a step ended so."""
    name = f'esp_ingestd_maintenance_runs_total{{outcome="{outcome}",step="{step}"}} '
    lines = daemon.get("/metrics")[1].splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.fixture
async def query(migrated: FreshDatabase) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(migrated.dsn)
    yield connection
    await connection.close()


@pytest.mark.best_edition
async def test_without_maintenance_an_hour_keeps_one_mark(
    daemons: tuple[Daemon, Daemon], query: asyncpg.Connection[Any]
) -> None:
    daemons[0].settings["maintenance"] = {"enabled": False, "interval_s": 1}
    for _ in range(50):
        await query.execute("INSERT INTO esp_rollup_marks (bucket) VALUES ('2026-03-01T01:00Z')")
    with daemons[0]:
        count = "SELECT count(*) FROM esp_rollup_marks"
        while await query.fetchval(count) != 1:  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.05)


@pytest.mark.best_edition
async def test_two_daemons_keep_one_store(
    daemons: tuple[Daemon, Daemon], prefix: str, broker: BrokerAddress, migrated: FreshDatabase
) -> None:
    await fill(migrated.dsn, 40, 2)
    with daemons[0] as one, daemons[1] as two, Peer(broker) as rtu:
        await until(lambda: one.is_ready() and two.is_ready(), "ready")
        rtu.publish(f"{prefix}/W1/telemetry", json.dumps({"timestamp": NOON.timestamp() * 1000, "pip": 5.0}))
        await until(
            lambda: one.metrics()["readings_stored_total"] + two.metrics()["readings_stored_total"] >= 1, "stored"
        )
        async with asyncio.timeout(PATIENCE_S):
            while not await fetch(migrated.dsn, "SELECT 1 FROM telemetry_daily WHERE pip_last = 5"):
                pass  # each look is a connection of its own
        await until(lambda: all(runs(each, "rollups", "done") for each in (one, two)), "both at it")
        await until(lambda: all(runs(each, "retention", "done") > 1 for each in (one, two)), "archived")
        assert sum(runs(each, step, "failed") for each in (one, two) for step in (*EVERYTHING, "health")) == 0
        assert await one.stop() == await two.stop() == 0
    assert await days_left(migrated.dsn) == {2, 0}
    assert len(await fetch(migrated.dsn, "SELECT 1 FROM archived_days")) == 2


@pytest.mark.best_edition
async def test_what_fails_is_told_and_readings_are_taken_all_the_same(
    daemons: tuple[Daemon, Daemon], prefix: str, broker: BrokerAddress, tmp_path: Path, migrated: FreshDatabase
) -> None:
    await fill(migrated.dsn, 2)
    (tmp_path / "archive").write_text("a file in the way")
    with daemons[0] as daemon, Peer(broker) as rtu:
        await until(lambda: runs(daemon, "archive", "failed") > 1, "tried again")
        await until(daemon.is_ready)
        status, body = daemon.get("/health")
        assert status == 200
        assert "archive" in json.loads(body)["notes"]
        rtu.publish(f"{prefix}/W1/telemetry", json.dumps({"timestamp": NOON.timestamp() * 1000, "pip": 5.0}))
        await until(lambda: daemon.at_rest(1))
        (tmp_path / "archive").unlink()
        await until(lambda: "archive" not in json.loads(daemon.get("/health")[1])["notes"], "mended")
        assert await daemon.stop() == 0
    assert [line for line in daemon.said() if line["event"] == "maintenance failed"]


WAITING = """
    SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


def children_of(daemon: Daemon) -> list[Path]:
    """The folder in /proc of each of its child processes."""
    pid = daemon.process.pid
    return [Path("/proc") / child for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.best_edition
async def test_it_stops_while_maintenance_is_at_work(
    daemons: tuple[Daemon, Daemon], migrated: FreshDatabase, query: asyncpg.Connection[Any]
) -> None:
    """Both parts wait for a lock that somebody holds for ever; what the child had done is as if it had not begun."""
    await fill(migrated.dsn, 2)
    async with query.transaction():
        await query.execute("LOCK TABLE archived_days, esp_rollups_hourly IN ACCESS EXCLUSIVE MODE")
        with daemons[0] as daemon:
            names: set[str] = set()
            while names != {"esp-ingestd rollups", "esp-ingestd archive"}:
                names = {row[0] for row in await fetch(migrated.dsn, WAITING)}
            children = children_of(daemon)
            assert len(children) == 1
            assert await daemon.stop() == 0
        assert not any(child.exists() for child in children)
    assert "deadline" not in daemon.log.read_text()


@pytest.mark.best_edition
async def test_where_it_is_off_nothing_is_kept(daemons: tuple[Daemon, Daemon]) -> None:
    daemon = daemons[0]
    daemon.settings["maintenance"]["enabled"] = False
    with daemon:
        await until(daemon.is_ready)
        tasks = [line for line in daemon.said() if line["event"].startswith("maintenance")]
        assert tasks == []
        assert daemon.metrics().get("rollups_timestamp_seconds") == 0
        assert await daemon.stop() == 0
