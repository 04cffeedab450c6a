"""The archive against real databases: what goes in comes back, nothing is dropped that is not in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import secrets
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pyarrow.parquet as pq
import pytest
from archived import DAY, Store, became, event, odd_rows, opened, row
from pydantic import SecretStr

from esp_ingestd.archive import ArchiveError, Busy, Outcome, archiving
from esp_ingestd.archive.archiving import archive_days, verify
from esp_ingestd.archive.form import Rows, Tally
from esp_ingestd.archive.ledger import ARCHIVE_LOCK, count_rows, start_us
from esp_ingestd.archive.listing import list_days
from esp_ingestd.archive.restoring import restore
from esp_ingestd.archive.retention import NO_ARCHIVE, retain, status
from esp_ingestd.archive.tables import TELEMETRY
from esp_ingestd.config import ArchiveSettings, DatabaseSettings, RetentionSettings
from esp_ingestd.core.batch import Batch
from esp_ingestd.core.reading import CHANNEL_NAMES, HOUR_US, Reading
from esp_ingestd.database import COLUMNS, Database
from esp_ingestd.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from services import FreshDatabase

    from esp_ingestd.archive import Report
    from esp_ingestd.archive.tables import Table
    from esp_ingestd.config import Settings
    from esp_ingestd.database import Session


@pytest.fixture
async def store(migrated: FreshDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(migrated, tmp_path / "archive") as made:
        yield made


# ------------------------------------------------------------------------------- what goes in comes back


async def test_every_value_comes_back_after_archive_drop_and_restore(store: Store) -> None:
    await store.add(odd_rows())
    await store.add_events([event(1), event(2, "é2"), event(3, "E3")])
    before, events = await store.rows(), await store.rows("diagnostic_results")
    assert became(await archive_days(store.settings)) == [("archived", "")] * 2
    assert became(await verify(store.settings)) == [("verified", "")] * 2
    report = await retain(store.settings)
    assert {each.what for each in report.days} == {Outcome.DROPPED}
    assert await store.count() == await store.count("diagnostic_results") == 0
    restored = await restore(store.settings, url=str(store.folder))
    assert [(each.what, each.rows) for each in restored.days] == [(Outcome.RESTORED, 10), (Outcome.RESTORED, 3)]
    assert await store.rows() == before
    assert await store.rows("diagnostic_results") == events
    again = await restore(store.settings, url=str(store.folder))
    assert [each.rows for each in again.days] == [0, 0]
    assert await store.rows() == before


# --------------------------------------------------------------- what comes late is added, before and after a drop


async def test_rows_come_back_whatever_sensors_and_keys_they_have(store: Store) -> None:
    alike = [row(number, "WELL-1", flow_rate=number / 7, pip=1.0) for number in range(300)]
    by_turns = [row(number, "WELL-2", **{CHANNEL_NAMES[number % 5]: number / 3}) for number in range(300)]
    keyed = [row(number, "WELL-30", pip=1.0, extra=json.dumps({"n": "ü" * (number % 70)})) for number in range(300)]
    await store.add([*alike, *by_turns, *keyed])
    before = await store.rows()
    await archive_days(store.settings)
    await store.empty()
    await restore(store.settings, url=str(store.folder))
    assert await store.rows() == before


@pytest.mark.best_edition
async def test_whatever_a_channel_or_a_well_is_called_or_holds_comes_back(store: Store) -> None:
    """RTUs cannot send such names and numbers; other programs can write them into the table."""
    numbers = [math.nan, math.inf, -math.inf, -0.0, 0.0, None, sys.float_info.min / 4, 2**53 + 1.0]
    values = [{"pip": 1.0, name: number} for name in CHANNEL_NAMES for number in numbers]
    await store.add([row(second, "WELL-1", **each) for second, each in enumerate(values)])
    names = [
        "",
        " ",
        "NULL",
        "\\N",
        'a"b,c',
        "new\nline",
        "tab\t",
        "'; --",
        "\u00c4\u2028\U0001f6e2",
        "\uffff",
        "%s{}$1",
        "../x",
    ]
    await store.add([row(number, name, pip=float(number)) for number, name in enumerate(names)])
    before = await store.rows()
    assert became(await archive_days(store.settings)) == [("archived", "")]
    assert became(await verify(store.settings)) == [("verified", "")]
    assert became(await retain(store.settings)) == [("dropped", "")]
    await restore(store.settings, url=str(store.folder), wells=frozenset(names))
    assert await store.count() == len(names)
    await restore(store.settings, url=str(store.folder))
    assert await store.rows() == before


async def test_a_late_row_of_an_archived_day_is_archived_with_it(store: Store) -> None:
    await store.add([row(second) for second in range(5)])
    await archive_days(store.settings)
    assert became(await archive_days(store.settings)) == [], "nothing is due"
    first = store.file()
    await store.add([row(2.5), row(9, "WELL-0")])
    assert became(await retain(store.settings)) == [("kept", "2026-03-01 has other rows than were archived")]
    assert became(await archive_days(store.settings)) == [("merged", "")]
    assert not first.exists()
    assert [each["well_id"] for each in pq.read_table(store.file()).to_pylist()] == ["WELL-0", *["WELL-1"] * 6]
    assert became(await retain(store.settings)) == [("dropped", "")]


async def test_a_pass_counts_only_days_that_may_have_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[date] = []

    async def count(session: Session, table: Table, day: date) -> int:
        counted.append(day)
        return await count_rows(session, table, day)

    async def archived() -> list[tuple[str, str]]:
        counted.clear()
        return became(await archive_days(store.settings))

    async def late(hour: int) -> None:
        await daemon.write(Batch(readings=[Reading("LATE", start_us(second) + hour * HOUR_US, pip=1.0, received_us=0)]))

    monkeypatch.setattr(archiving, "count_rows", count)
    daemon = Database(store.settings.database)
    first, second, third = (DAY.date() + timedelta(days=number) for number in range(3))
    await store.add([row(number * 86_400) for number in range(3)])
    assert len(await archived()) == 3
    assert (await archived(), counted) == ([], [first, second, third]), "what came while it was archived is looked for"
    assert (await archived(), counted) == ([], []), "and then nothing is"
    await late(1)
    assert (await archived(), counted) == ([("merged", "")], [second]), "it is marked"
    assert (await archived(), counted) == ([], [second])
    for hour_us in await daemon.stale_hours():
        await daemon.roll_up(hour_us)
    assert (await archived(), counted) == ([], [second]), "the mark was taken"
    assert (await archived(), counted) == ([], [])
    await late(2)
    for hour_us in await daemon.stale_hours():
        await daemon.roll_up(hour_us)
    assert (await archived(), counted) == ([("merged", "")], [second]), "the mark was taken before the archive saw it"
    next((store.folder / "esp_telemetry").glob(f"{third}.*.parquet")).unlink()
    await archived()
    assert counted == [second, third], "its file is gone"
    await daemon.close()


async def test_a_late_row_of_a_dropped_day_is_added_to_what_was_dropped(store: Store) -> None:
    await store.add(odd_rows())
    before = await store.rows()
    await archive_days(store.settings)
    await retain(store.settings)
    late = row(0.5, "WELL-1", flow_rate=7.0)
    again = row(1, "WELL-2", flow_rate=8.0, received_at=DAY + timedelta(days=50))
    await store.add([late, again])
    assert (await status(store.settings)).unarchived_days == 1
    assert became(await retain(store.settings)) == [("kept", "2026-03-01 has other rows than were archived")]
    assert became(await archive_days(store.settings)) == [("merged", "")]
    assert became(await verify(store.settings)) == [("verified", "")]
    assert became(await retain(store.settings)) == [("dropped", "")]
    assert await store.count() == 0
    await restore(store.settings, url=str(store.folder))
    await store.connection.execute("DELETE FROM esp_telemetry WHERE flow_rate = 7")
    assert await store.rows() == before, "of a key that came again the first counts"


async def test_a_day_that_was_restored_is_dropped_again_without_another_file(store: Store) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    await retain(store.settings)
    file = store.file()
    restored = await restore(store.settings, url=str(store.folder))
    assert "retention drops it again" in restored.days[0].why
    await store.connection.execute("DELETE FROM esp_rollup_marks")
    assert became(await archive_days(store.settings)) == [("verified", "the archive had all of it")]
    assert became(await retain(store.settings)) == [("dropped", "")]
    assert store.file() == file


async def test_what_is_not_rolled_up_yet_is_kept(store: Store) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    await store.connection.execute("INSERT INTO esp_rollup_marks VALUES ($1)", DAY + timedelta(hours=5))
    assert became(await retain(store.settings)) == [("kept", "has hours that are not rolled up yet")]
    assert await store.count() == 10


# ----------------------------------------------------------------------------- nothing is dropped that is not in it


async def test_without_an_archive_nothing_is_dropped_unless_that_is_wanted(store: Store) -> None:
    await store.add(odd_rows())
    nowhere = store.with_(archive=ArchiveSettings())
    assert became(await retain(nowhere)) == [("kept", NO_ARCHIVE)]
    wanted = store.with_(archive=ArchiveSettings(), retention=RetentionSettings(require_verified_archive=False))
    assert became(await retain(wanted)) == [("dropped", "")]
    assert await store.count() == 0


async def test_what_is_young_is_kept(store: Store) -> None:
    age_days = (datetime.now(UTC) - DAY).days
    await store.add(odd_rows())
    await archive_days(store.settings)
    assert became(await retain(store.with_(retention=RetentionSettings(telemetry_days=age_days)))) == []
    report = await retain(store.with_(retention=RetentionSettings(telemetry_days=age_days - 1)))
    assert became(report) == [("dropped", "")]


async def test_a_day_that_is_not_over_is_not_archived(store: Store) -> None:
    now = datetime.now(UTC)
    ago = (now - DAY).total_seconds()
    await store.add([row(ago), row(ago - 86_400)])
    hour_s = (now - now.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
    closed = store.with_(archive=store.settings.archive.model_copy(update={"closes_after_s": hour_s - 60}))
    still_open = store.with_(archive=store.settings.archive.model_copy(update={"closes_after_s": hour_s + 60}))
    assert became(await archive_days(still_open)) == []
    assert [each.day for each in (await archive_days(closed)).days] == [(now - timedelta(days=1)).date()]


async def test_a_week_of_events_goes_only_together_and_published(store: Store) -> None:
    await store.add_events([event(1), event(86_400, "e2", published=False)])
    assert became(await archive_days(store.settings)) == [("archived", "")] * 2
    kept = await retain(store.settings)
    assert ("kept", "has alarm events that no broker has accepted yet") in became(kept)
    await store.connection.execute("UPDATE diagnostic_results SET published_at = now()")
    assert {why for what, why in became(await retain(store.settings)) if what == "kept"} <= {
        "2026-03-01 has other rows than were archived",
        "2026-03-02 has other rows than were archived",
    }
    assert set(became(await archive_days(store.settings))) == {("merged", "")}
    assert {each.what for each in (await retain(store.settings)).days} == {Outcome.DROPPED}
    assert await store.count("diagnostic_results") == 0


@pytest.mark.parametrize("told_by", [verify, retain])
async def test_a_row_that_was_changed_in_place_is_archived_as_it_is_now(
    store: Store, told_by: Callable[[Settings], Awaitable[Report]]
) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    await store.connection.execute("UPDATE esp_telemetry SET pip = 4.25 WHERE well_id = 'a-Z_9'")
    ((_, why),) = became(await told_by(store.settings))
    assert "has other rows than were archived" in why
    assert await store.count() == 10
    assert became(await archive_days(store.settings)) == [("merged", "")]
    assert pq.read_table(store.file()).column("pip").to_pylist().count(4.25) == 3


async def test_a_row_that_comes_while_its_day_is_dropped_is_not_lost(store: Store, migrated: FreshDatabase) -> None:
    """It is written and not committed yet when the drop begins, and committed as soon as the drop waits for it."""
    await store.add([row(second) for second in range(1_000)])
    await archive_days(store.settings)
    late = await asyncpg.connect(migrated.dsn)
    transaction = late.transaction()
    await transaction.start()
    await late.copy_records_to_table("esp_telemetry", records=[row(5_000)], columns=COLUMNS)
    dropping = asyncio.ensure_future(retain(store.settings))
    await _wait(store, dropping, 1)
    await transaction.commit()
    await late.close()
    (report,) = (await dropping).days
    assert await store.count() == (1_001 if report.what is Outcome.KEPT else 1)
    await archive_days(store.settings)
    await retain(store.settings)
    assert await store.count() == 0
    await restore(store.settings, url=str(store.folder))
    assert await store.count() == 1_001


async def test_a_row_that_comes_between_the_look_and_the_drop_is_not_lost(store: Store) -> None:
    """The daemon writes it after the rows were compared, and before they go; here there is time in between."""
    await store.add([row(second) for second in range(1_000)])
    await archive_days(store.settings)
    await store.connection.execute("ALTER FUNCTION esp_fingerprint RENAME TO esp_fingerprint_now")
    await store.connection.execute(SLOW_FINGERPRINT)
    await store.connection.execute("SELECT pg_advisory_lock(42)")
    dropping = asyncio.ensure_future(retain(store.settings))
    await _wait(store, dropping, 1)
    late_us = int(DAY.timestamp()) * 1_000_000 + 5_000_000_000
    daemon = Database(store.settings.database)
    writing = asyncio.ensure_future(_write(daemon, Reading("WELL-1", late_us, pip=1.0, received_us=late_us)))
    await _wait(store, writing, 2)
    await store.connection.execute("SELECT pg_advisory_unlock(42)")
    (report,) = (await dropping).days
    assert await writing == 1
    await daemon.close()
    assert await store.count() == (1_001 if report.what is Outcome.KEPT else 1)


async def _write(daemon: Database, reading: Reading) -> int:
    """As the daemon does: again, until the database has taken it."""
    while True:
        with contextlib.suppress(Unavailable):
            return (await daemon.write(Batch([reading]))).stored


SLOW_FINGERPRINT = """
    CREATE FUNCTION esp_fingerprint(which text, first timestamptz, past timestamptz, OUT rows bigint,
        OUT fingerprint numeric) LANGUAGE plpgsql AS $$
    BEGIN
        SELECT * INTO rows, fingerprint FROM esp_fingerprint_now(which, first, past);
        PERFORM pg_advisory_xact_lock(42);
    END
    $$
"""


async def _wait(store: Store, work: asyncio.Future[Any], waiting: int) -> None:
    """Until it is done, or so many wait for locks in this database."""
    count = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname"
    while not work.done() and await store.connection.fetchval(f"{count} = current_database())") < waiting:
        pass


async def test_a_chunk_that_somebody_reads_is_kept_for_now(store: Store, migrated: FreshDatabase) -> None:
    if store.edition == "postgresql":
        pytest.skip("deleting rows waits for no reader")
    await store.add(odd_rows())
    await archive_days(store.settings)
    reader = await asyncpg.connect(migrated.dsn)
    async with reader.transaction():
        await reader.fetch("SELECT FROM esp_telemetry")
        (report,) = (await retain(store.settings)).days
        assert (report.what, report.why[:10]) == (Outcome.KEPT, "is in use:")
    await reader.close()
    assert became(await retain(store.settings)) == [("dropped", "")]


async def test_what_a_site_has_added_to_a_table_is_not_dropped_unarchived(store: Store) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    await store.connection.execute("ALTER TABLE esp_telemetry ADD COLUMN salt double precision")
    assert became(await retain(store.settings)) == [("kept", "2026-03-01 has other rows than were archived")]
    said = "has columns that would not be archived: salt; move them to a table of their own"
    assert became(await archive_days(store.settings)) == [("failed", said)]
    assert became(await retain(store.settings)) == [("kept", "2026-03-01 has other rows than were archived")]


async def test_a_run_that_is_cut_ends_after_its_thread(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread still does to a day must not go on beside the next run."""
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def add(self: Tally, rows: Rows) -> None:
        began.set()
        may_end.wait()
        take(self, rows)
        ended.set()

    take = Tally.add
    monkeypatch.setattr(Tally, "add", add)
    await store.add(odd_rows())
    run = asyncio.ensure_future(archive_days(store.settings))
    await asyncio.to_thread(began.wait)
    run.cancel()
    await asyncio.wait([run], timeout=0.5)
    assert not run.done(), "its thread is at work yet"
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert ended.is_set()
    assert list((store.folder / "esp_telemetry").iterdir()) == [], "and nothing is left of it"
    assert became(await archive_days(store.settings)) == [("archived", "")]


async def test_a_day_without_rows_is_none(store: Store) -> None:
    """Its chunk is there, and between two days that have rows."""
    await store.add([row(number * 86_400) for number in range(3)])
    await store.connection.execute(
        "DELETE FROM esp_telemetry WHERE timestamp >= '2026-03-02Z' AND timestamp < '2026-03-03Z'"
    )
    assert [str(each.day) for each in (await archive_days(store.settings)).days] == ["2026-03-01", "2026-03-03"]
    assert became(await archive_days(store.settings)) == []
    assert became(await verify(store.settings)) == [("verified", "")] * 2
    assert (await status(store.settings)).unarchived_days == 0
    assert {what for what, _ in became(await retain(store.settings))} == {"dropped"}
    assert await store.count() == 0
    assert [each.rows for each in (await restore(store.settings, url=str(store.folder))).days] == [1, 1]


async def test_events_that_are_not_archived_are_kept_like_readings(store: Store) -> None:
    await store.add([row(1)])
    await store.add_events([event(1)])
    report = await retain(store.settings)
    assert [(each.table, each.what, each.why) for each in report.days] == [
        ("esp_telemetry", Outcome.KEPT, "2026-03-01 is not archived"),
        ("diagnostic_results", Outcome.KEPT, "2026-03-01 is not archived"),
    ]
    assert (await store.count(), await store.count("diagnostic_results")) == (1, 1)


async def test_an_archive_of_before_a_column_was_added_is_still_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version whose tables have a column more verifies, drops and restores what the one before has archived."""
    before = replace(TELEMETRY, columns=tuple(each for each in TELEMETRY.columns if each.name != "torque"))
    column = "ALTER TABLE esp_telemetry {} COLUMN torque"
    await store.connection.execute(column.format("DROP"))
    names = [each for each in COLUMNS if each != "torque"]
    rows = [[cell for name, cell in zip(COLUMNS, each, strict=True) if name != "torque"] for each in odd_rows()]
    await store.connection.copy_records_to_table("esp_telemetry", records=rows, columns=names)
    with monkeypatch.context() as older:
        older.setattr(archiving, "TABLES", (before,))
        assert became(await archive_days(store.settings)) == [("archived", "")]
    file = store.file()
    await store.connection.execute(column.format("ADD") + " double precision")
    had = await store.rows()
    assert became(await verify(store.settings)) == [("verified", STALE)], "a column more is another row to it"
    assert became(await archive_days(store.settings)) == [("verified", "the archive had all of it")]
    assert became(await verify(store.settings)) == [("verified", "")]
    assert became(await retain(store.settings)) == [("dropped", "")]
    assert store.file() == file
    await restore(store.settings, url=str(store.folder))
    assert await store.rows() == had
    late = row(77, torque=5.0)
    await store.add([late])
    assert became(await archive_days(store.settings)) == [("merged", "")]
    assert pq.read_table(store.file()).column("torque").to_pylist().count(5.0) == 1
    manifest = next(file.parent.glob("*.json"))
    manifest.write_text(re.sub(r'"torque": "[0-9a-f]*",', "", manifest.read_text()))
    (failed,) = (await verify(store.settings)).days
    assert failed.why == "the file and its manifest differ in torque", "what has a value was never lacking"


STALE = "the database has other rows than were archived; the next run archives them"


async def test_two_do_not_work_at_once(store: Store) -> None:
    await store.connection.execute("SELECT pg_advisory_lock($1)", ARCHIVE_LOCK)
    for work in (archive_days, verify, retain):
        with pytest.raises(Busy, match="another run"):
            await work(store.settings)
    await store.connection.execute("SELECT pg_advisory_unlock($1)", ARCHIVE_LOCK)
    assert became(await archive_days(store.settings)) == []


@pytest.mark.best_edition
async def test_a_database_whose_clock_is_ahead_closes_no_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our clock it is the day of the readings; by the database's that is long over."""
    await store.add(odd_rows())
    monkeypatch.setattr("time.time_ns", lambda: int((DAY + timedelta(hours=5)).timestamp() * 1e9))
    assert became(await archive_days(store.settings)) == []
    assert became(await retain(store.with_(retention=RetentionSettings(require_verified_archive=False)))) == []


# ------------------------------------------------------------------------------- what is damaged is told, and kept


AGAIN = "retention drops it again: raise its days, or restore --into another table"


def damage(file: Path) -> None:
    """Alter one bit, in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def write_manifest(before: str, after: str) -> Callable[[Path], object]:
    """Something else in the place of a text in the manifest."""

    def write(file: Path) -> None:
        (manifest,) = file.parent.glob("*.json")
        text = manifest.read_text()
        assert before in text
        manifest.write_text(text.replace(before, after))

    return write


DAMAGES = {
    "one bit": (damage, "2026-03-01.v1.parquet was altered: its SHA-256"),
    "cut": (
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        r"2026-03-01.v1.parquet has \d+ bytes, its manifest",
    ),
    "gone": (lambda file: file.unlink(), "2026-03-01.v1.parquet is missing"),
    "no manifest": (lambda file: next(file.parent.glob("*.json")).unlink(), "2026-03-01.json is missing"),
    "another format": (write_manifest('"format": 1', '"format": 2'), r": it has format 2; this program knows 1"),
    "another day's": (
        write_manifest('"day": "2026-03-01"', '"day": "2026-03-02"'),
        "2026-03-01.json in .* is that of esp_telemetry 2026-03-02",
    ),
    "empty manifest": (lambda file: next(file.parent.glob("*.json")).write_text(""), r"day: it is no JSON: Expecting"),
    "no keys": (
        lambda file: next(file.parent.glob("*.json")).write_text("{}"),
        r"day: it lacks format, table, day, version",
    ),
    "a list": (lambda file: next(file.parent.glob("*.json")).write_text("[]"), r"day: it is no JSON object"),
    "rows in words": (write_manifest('"rows": 10', '"rows": "ten"'), r'day: its rows is "ten"'),
    "a file elsewhere": (write_manifest('"file": "', '"file": "../'), r'day: its file is "\.\./'),
    "no day": (write_manifest('"day": "2026-03-01"', '"day": "yesterday"'), r'day: its day is "yesterday"'),
}


@pytest.mark.best_edition
@pytest.mark.parametrize("kind", DAMAGES)
async def test_a_damaged_archive_is_told_and_nothing_is_dropped(store: Store, kind: str) -> None:
    do, said = DAMAGES[kind]
    await store.add(odd_rows())
    await archive_days(store.settings)
    do(store.file())
    (kept,) = (await retain(store.settings)).days
    assert (kept.what, bool(re.search(said, kept.why))) == (Outcome.KEPT, True), kept.why
    (failed,) = (await verify(store.settings)).days
    assert (failed.what, bool(re.search(said, failed.why))) == (Outcome.FAILED, True), failed.why
    assert "`archive run` makes it anew; else bring the file back from a copy" in failed.why
    assert (await status(store.settings)).unarchived_days == 1, "the mark of verification is gone"
    (made,) = (await archive_days(store.settings)).days
    assert made.what in {Outcome.ARCHIVED, Outcome.MERGED}, "the database has all of it still"
    assert became(await retain(store.settings)) == [("dropped", "")]
    assert [each.rows for each in (await restore(store.settings, url=str(store.folder))).days] == [10]


@pytest.mark.best_edition
async def test_a_file_that_was_brought_back_is_verified_before_its_day_is_dropped(store: Store) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    whole = store.file().read_bytes()
    store.file().write_bytes(whole[:-1])
    await verify(store.settings)
    store.file().write_bytes(whole)
    (kept,) = (await retain(store.settings)).days
    assert (kept.what, kept.why) == (Outcome.KEPT, "the archive of 2026-03-01 is not verified")
    assert became(await verify(store.settings)) == [("verified", "")]
    assert became(await retain(store.settings)) == [("dropped", "")]


@pytest.mark.best_edition
@pytest.mark.parametrize("kind", DAMAGES)
async def test_what_was_dropped_is_never_written_over(store: Store, kind: str) -> None:
    do, said = DAMAGES[kind]
    await store.add(odd_rows())
    await archive_days(store.settings)
    await retain(store.settings)
    do(store.file())
    files = {path: path.read_bytes() for path in store.folder.rglob("*.*")}
    await store.add([row(77)])
    (failed,) = (await archive_days(store.settings)).days
    assert (failed.what, bool(re.search(said, failed.why))) == (Outcome.FAILED, True), failed.why
    assert "bring the file back from a copy" in failed.why
    assert {each.what for each in (await retain(store.settings)).days} == {Outcome.KEPT}
    assert await store.count() == 1
    assert {path: path.read_bytes() for path in store.folder.rglob("*.*")} == files
    if kind != "no manifest":
        (fault,) = (await restore(store.settings, url=str(store.folder))).faults
        assert re.search(said, fault)


@pytest.mark.best_edition
async def test_verify_names_the_column_in_which_the_database_differs(store: Store) -> None:
    """As if a row had been changed since, and the note of what was archived with it."""
    await store.add(odd_rows())
    await archive_days(store.settings)
    await store.connection.execute("UPDATE esp_telemetry SET pip = 4.25 WHERE well_id = 'a-Z_9'")
    await store.connection.execute(
        "UPDATE archived_days SET fingerprint = (SELECT fingerprint FROM esp_fingerprint("
        "'esp_telemetry', '2026-03-01Z', '2026-03-02Z'))"
    )
    assert became(await verify(store.settings)) == [("failed", "the database and the archive differ in pip")]


@pytest.mark.best_edition
async def test_a_file_whose_manifest_was_lost_is_merged_by_a_new_database(store: Store) -> None:
    """Of a run that was killed, or of a day that was dropped: nobody knows, so nothing of it is lost."""
    await store.add(odd_rows())
    await archive_days(store.settings)
    (store.folder / "esp_telemetry" / "2026-03-01.json").unlink()
    await store.empty()
    await store.add([row(77)])
    assert became(await archive_days(store.settings)) == [("merged", "")]
    await store.empty()
    assert [each.rows for each in (await restore(store.settings, url=str(store.folder))).days] == [11]


# ------------------------------------------------------------------------------------------- restoring what is wanted


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ({"wells": frozenset({"WELL-2"})}, 4),
        ({"wells": frozenset({"a-Z_9", "nobody"})}, 3),
        ({"since_us": int((DAY + timedelta(seconds=3)).timestamp() * 1e6)}, 6),
        ({"until_us": int((DAY + timedelta(seconds=3)).timestamp() * 1e6)}, 4),
    ],
)
@pytest.mark.best_edition
async def test_only_what_is_wanted_is_restored(store: Store, wanted: dict[str, Any], rows: int) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    await store.empty()
    report = await restore(store.settings, url=str(store.folder), **wanted)
    assert [each.rows for each in report.days] == [rows] == [await store.count()]


async def test_restoring_into_another_table_creates_it_and_leaves_the_first_alone(store: Store) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    for rows in (10, 0):
        report = await restore(store.settings, url=str(store.folder), tables=(TELEMETRY,), into="looked_at")
        assert [(each.rows, "retention" in each.why) for each in report.days] == [(rows, False)]
    assert await store.rows("looked_at") == await store.rows()
    assert await store.connection.fetchval("SELECT count(*) FROM esp_rollup_marks") == 0
    with pytest.raises(ArchiveError, match="a table's name"):
        await restore(store.settings, url=str(store.folder), into='x"; DROP TABLE esp_telemetry; --')


async def test_restored_hours_are_rolled_up_again(store: Store) -> None:
    await store.add([row(second) for second in (1, 4_000)])
    await archive_days(store.settings)
    await store.empty()
    await restore(store.settings, url=str(store.folder))
    marks = await store.connection.fetch("SELECT bucket, well_ids FROM esp_rollup_marks ORDER BY 1")
    assert [tuple(mark) for mark in marks] == [(DAY + timedelta(hours=hour), ["WELL-1"]) for hour in (0, 1)]


async def test_rows_come_back_into_a_compressed_chunk(store: Store) -> None:
    if store.edition != "timescaledb-community":
        pytest.skip("only the community edition compresses")
    await store.add(odd_rows())
    before = await store.rows()
    await archive_days(store.settings)
    await store.connection.execute("DELETE FROM esp_telemetry WHERE well_id <> 'WELL-2'")
    await store.connection.execute("SELECT compress_chunk(c) FROM show_chunks('esp_telemetry') c")
    report = await restore(store.settings, url=str(store.folder))
    assert [each.rows for each in report.days] == [6]
    assert await store.rows() == before
    await store.connection.execute("DELETE FROM esp_rollup_marks")
    await store.connection.execute("SELECT compress_chunk(c, true) FROM show_chunks('esp_telemetry') c")
    assert became(await archive_days(store.settings)) == [], "compressing changes no row"
    assert became(await verify(store.settings)) == [("verified", "")]
    assert became(await retain(store.settings)) == [("dropped", "")]


# ------------------------------------------------------------------------------------ as who, and as operators see it


async def test_the_role_of_the_daemon_may_do_all_of_it_but_drop_what_is_not_archived(store: Store) -> None:
    name = f"esp_test_{secrets.token_hex(6)}"
    await store.connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' IN ROLE esp_ingest")
    try:
        dsn = urlsplit(store.settings.database.dsn.get_secret_value())
        dsn = dsn._replace(netloc=f"{name}:secret@{dsn.netloc.rpartition('@')[2]}")
        daemon = store.with_(database=DatabaseSettings(dsn=SecretStr(dsn.geturl())))
        await store.add(odd_rows())
        before = await store.rows()
        unguarded = daemon.model_copy(update={"retention": RetentionSettings(require_verified_archive=False)})
        assert became(await retain(unguarded)) == [("kept", "only who owns the table may drop what is not archived")]
        assert became(await archive_days(daemon)) == [("archived", "")]
        assert became(await verify(daemon)) == [("verified", "")]
        assert became(await retain(daemon)) == [("dropped", "")]
        await restore(daemon, url=str(store.folder))
        assert await store.rows() == before
        connection = await asyncpg.connect(dsn.geturl())
        await connection.execute("CREATE TEMPORARY TABLE archived_days (LIKE archived_days)")
        await connection.execute("CREATE TEMPORARY TABLE esp_telemetry (LIKE esp_telemetry)")
        with contextlib.suppress(asyncpg.RaiseError):  # on a plain table it wants another transaction
            assert await connection.fetchval(
                "SELECT esp_drop_days('esp_telemetry', '2026-03-01Z', '2026-03-02Z', true)"
            ), "a table of one's own is not taken for ours"
        await connection.close()
        assert await store.count() == 10
    finally:
        await store.connection.execute(f"DROP ROLE {name}")


@pytest.mark.best_edition
async def test_a_database_set_to_other_ways_gives_and_takes_the_same_values(store: Store) -> None:
    name = await store.connection.fetchval("SELECT current_database()")
    for setting in ("TimeZone = 'Asia/Kolkata'", "DateStyle = 'German'", "extra_float_digits = -3"):
        await store.connection.execute(f"ALTER DATABASE {name} SET {setting}")
    await store.add(odd_rows())
    before = await store.rows()
    assert [str(each.day) for each in (await archive_days(store.settings)).days] == ["2026-03-01"]
    await store.empty()
    await restore(store.settings, url=str(store.folder))
    assert await store.rows() == before


def esp_ingestd(store: Store, *arguments: str) -> tuple[int, list[str], str]:
    """Status, lines of standard output, standard error of the program."""
    config = store.folder.parent / "esp-ingestd.toml"
    dsn = store.settings.database.dsn.get_secret_value()
    config.write_text(f'[database]\ndsn = "{dsn}"\n[archive]\nurl = "archive"\n')
    command = [sys.executable, "-m", "esp_ingestd", *arguments, "--config", str(config)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ESP_INGESTD_")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.best_edition
async def test_the_commands_say_what_became_of_each_day(store: Store) -> None:
    await store.add(odd_rows())
    await store.add([row(86_400)])
    assert esp_ingestd(store, "archive", "run", "--until", "2026-03-02") == (
        0,
        ["esp_telemetry 2026-03-01: archived, 10 rows"],
        "",
    )
    listed = json.loads("".join(esp_ingestd(store, "archive", "list", "--format", "json")[1]))
    assert [(each["day"], each["state"], each["rows"], each["in_database"]) for each in listed] == [
        ("2026-03-01", "verified", 10, 10),
        ("2026-03-02", "not archived", None, 1),
    ]
    assert esp_ingestd(store, "archive", "run")[1] == ["esp_telemetry 2026-03-02: archived, 1 rows"]
    assert esp_ingestd(store, "archive", "run")[1] == ["nothing to archive"]
    await store.empty()
    assert esp_ingestd(store, "restore", "--wells", "WELL-2,a-Z_9", "--until", "2026-03-01T00:00:06")[:2] == (
        0,
        [f"esp_telemetry 2026-03-01: restored, 5 rows: 0 were there already; {AGAIN}"],
    )
    damage(store.folder / "esp_telemetry" / "2026-03-01.v1.parquet")
    status_, lines, said = esp_ingestd(store, "archive", "verify")
    assert (status_, lines) == (1, ["esp_telemetry 2026-03-02: verified, 1 rows"])
    assert said.startswith("esp_telemetry 2026-03-01: failed, 0 rows: 2026-03-01.v1.parquet was altered")
    assert esp_ingestd(store, "restore", "--table", "dead_letters")[0] == 1
    assert esp_ingestd(store, "restore", "--from", str(store.folder / "nowhere"))[2].startswith("there is nothing of")


@pytest.mark.best_edition
async def test_what_is_in_the_archive_is_listed_without_the_database(store: Store) -> None:
    await store.add(odd_rows())
    await archive_days(store.settings)
    away = store.with_(database=DatabaseSettings(dsn=SecretStr("postgresql://nobody@127.0.0.1:1/x")))
    (listed,), why = await list_days(away, str(store.folder))
    assert (listed["state"], listed["rows"], listed["wells"]) == ("database away", 10, 3)
    assert "127.0.0.1:1" in str(why)
    store.file().unlink()
    (listed,), _ = await list_days(store.settings, str(store.folder))
    assert listed["state"] == "2026-03-01.v1.parquet is missing"
