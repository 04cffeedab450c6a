"""The archive cut off: kill -9, a full disk, an object store that goes away. Either the old state or the new one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from archived import DAY, Store, became, odd_rows, opened, row
from faults.test_limits import fill, mounted
from peer import until

from esp_ingestd.archive import Busy, Outcome, restoring, retention
from esp_ingestd.archive import archiving as under_test
from esp_ingestd.archive.archiving import archive_days, verify
from esp_ingestd.archive.place import Directory
from esp_ingestd.archive.restoring import restore
from esp_ingestd.archive.retention import retain
from esp_ingestd.config import ArchiveSettings
from esp_ingestd.database import COLUMNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from services import FreshDatabase

    from esp_ingestd.archive import Report
    from esp_ingestd.config import Settings

DAYS = 4


@pytest.fixture
async def store(migrated: FreshDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(migrated, tmp_path / "archive") as made:
        yield made


class Cut(BaseException):
    """The process ends here."""


class Cutting(Directory):
    """A directory that ends the process right before or right after its n-th change."""

    def __init__(self, root: Path, left: int, *, after: bool) -> None:
        super().__init__(root)
        self.left = left
        self.after = after

    def _change(self, change: Callable[[], None]) -> None:
        self.left -= 1
        if self.left or self.after:
            change()
        if not self.left:
            raise Cut

    def put(self, draft: Path, name: str) -> None:
        self._change(lambda: Directory.put(self, draft, name))

    def remove(self, name: str) -> None:
        self._change(lambda: Directory.remove(self, name))


async def retried(work: Callable[[Settings], Awaitable[Report]], settings: Settings) -> Report:
    """As soon as the server has noticed that the last one is dead."""
    while True:
        with contextlib.suppress(Busy):
            return await work(settings)
        await asyncio.sleep(0.02)


async def everything(store: Store) -> list[str]:
    """What there is of all rows, in the database or the archive."""
    await store.connection.execute("TRUNCATE esp_telemetry")
    assert (await restore(store.settings, url=str(store.folder))).faults == []
    return await store.rows()


@pytest.mark.best_edition
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("change", [1, 2, 3])
async def test_a_run_cut_at_any_change_leaves_the_old_day_or_the_new_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, change: int, *, after: bool
) -> None:
    """The changes of a day that is archived again: its file, its manifest, the old file."""
    await store.add(odd_rows())
    before = await store.rows()
    await archive_days(store.settings)
    await store.add([row(77)])
    both = await store.rows()
    place = Cutting(store.folder, change, after=after)
    with monkeypatch.context() as patched:
        patched.setattr(under_test, "open_place", lambda _url: place)
        with pytest.raises(Cut):
            await archive_days(store.settings)
    (kept,) = (await retain(store.settings)).days
    is_whole = (change, after) in {(3, False), (3, True)}
    assert kept.what is (Outcome.DROPPED if is_whole else Outcome.KEPT)
    if not is_whole:
        assert (await restore(store.settings, url=str(store.folder), into="looked_at")).faults == []
        assert await store.rows("looked_at") in (before, both)
    await archive_days(store.settings)
    assert [each.what for each in (await verify(store.settings)).days] == [Outcome.VERIFIED]
    assert {each.what for each in (await retain(store.settings)).days} <= {Outcome.DROPPED}
    assert await everything(store) == both


class CutAt:
    """A function of a module that ends the process right before or right after its n-th call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: object, name: str, left: int, *, after: bool) -> None:
        self.work = getattr(module, name)
        self.left = left
        self.after = after
        monkeypatch.setattr(module, name, self)

    async def __call__(self, *arguments: object, **more: object) -> object:
        self.left -= 1
        answer = await self.work(*arguments, **more) if self.left or self.after else None
        if not self.left:
            raise Cut
        return answer


@pytest.mark.best_edition
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("drop", [1, 2, 3])
async def test_a_retention_cut_at_any_drop_has_dropped_whole_days(
    store: Store, monkeypatch: pytest.MonkeyPatch, drop: int, *, after: bool
) -> None:
    await store.add([row(day * 86_400 + second) for day in range(3) for second in range(5)])
    before = await store.rows()
    await archive_days(store.settings)
    with monkeypatch.context() as patched:
        CutAt(patched, retention, "drop_days", drop, after=after)
        with pytest.raises(Cut):
            await retain(store.settings)
    assert await store.count() == 5 * (3 - drop + (not after))
    assert became(await archive_days(store.settings)) == []
    assert {each.what for each in (await retain(store.settings)).days} <= {Outcome.DROPPED}
    assert await store.count() == 0
    assert await everything(store) == before


@pytest.mark.best_edition
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("block", [1, 2, 3])
async def test_a_restore_cut_at_any_block_goes_on_when_it_is_given_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, block: int, *, after: bool
) -> None:
    """What it has brought back is there, with the marks of its hours, and nothing of it twice."""
    await store.add([row(day * 86_400 + second) for day in range(3) for second in range(5)])
    before = await store.rows()
    await archive_days(store.settings)
    await retain(store.settings)
    with monkeypatch.context() as patched:
        CutAt(patched, restoring, "copy_lines", block, after=after)
        with pytest.raises(Cut):
            await restore(store.settings, url=str(store.folder))
    brought = block - (not after)
    assert await store.count() == 5 * brought
    assert await store.connection.fetchval("SELECT count(*) FROM esp_rollup_marks") == brought
    report = await restore(store.settings, url=str(store.folder))
    assert [each.rows for each in report.days] == [0] * brought + [5] * (3 - brought)
    assert await store.rows() == before


def start(folder: Path, code: str) -> subprocess.Popen[bytes]:
    program = (
        "import asyncio, pathlib, sys\nfrom esp_ingestd.config import load_settings\n"
        f"settings = load_settings(pathlib.Path(sys.argv[1]))\n{code}"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ESP_INGESTD_")}
    return subprocess.Popen([sys.executable, "-c", program, str(folder / "config.toml")], env=environment)


RUNS = {
    "archive": "from esp_ingestd.archive.archiving import archive_days\nasyncio.run(archive_days(settings))",
    "retention": "from esp_ingestd.archive.retention import retain\nasyncio.run(retain(settings))",
    "restore": "from esp_ingestd.archive.restoring import restore\n"
    "asyncio.run(restore(settings, url=settings.archive.url))",
}


async def fill_days(store: Store) -> None:
    for day in range(DAYS):
        rows = [row(day * 86_400 + second, f"W{well}", pip=1.5) for well in range(10) for second in range(2_000)]
        await store.connection.copy_records_to_table("esp_telemetry", records=rows, columns=COLUMNS)


@pytest.mark.parametrize("what", RUNS)
async def test_kill_9_in_the_middle_loses_nothing_and_takes_nothing_half_for_whole(
    store: Store, tmp_path: Path, what: str
) -> None:
    """Killed as soon as it can be seen at work, and again a little later, until it comes through."""
    url = store.settings.database.dsn.get_secret_value()
    (tmp_path / "config.toml").write_text(f'[database]\ndsn = "{url}"\n[archive]\nurl = "{store.folder}"\n')
    await fill_days(store)
    before = await store.rows()
    if what != "archive":
        await archive_days(store.settings)
    if what == "restore":
        await retain(store.settings)
        assert await store.count() == 0
    kills = 0
    for wait_s in (0.0, 0.05, 0.15):
        state = await _state(store)
        process = start(tmp_path, RUNS[what])
        try:
            while process.poll() is None and await _state(store) == state:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.005)
            await asyncio.sleep(wait_s)  # not for anything: somewhere in its work
        finally:
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        days = await store.connection.fetch(
            "SELECT (timestamp AT TIME ZONE 'UTC')::date, count(*) FROM esp_telemetry GROUP BY 1"
        )
        if what == "retention":
            assert {count for _, count in days} <= {20_000}, "a day goes whole or not at all"
    assert kills, "it was killed at least once before it was done"
    await retried(archive_days, store.settings)
    report = await retried(verify, store.settings)
    assert [each.what for each in report.days] == [Outcome.VERIFIED] * DAYS
    assert await everything(store) == before


async def _state(store: Store) -> tuple[Any, ...]:
    """What changes as soon as work begins."""
    files = sorted(path.name for path in store.folder.rglob("*")) if store.folder.exists() else []
    return await store.count(), [name for name in files if name.startswith(".") or name.endswith(".json")]


@pytest.mark.best_edition
async def test_a_full_disk_leaves_the_archive_as_it_was(store: Store, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "1m") as small:
        full = store.with_(archive=ArchiveSettings(url=str(small)))
        await store.add(odd_rows())
        assert became(await archive_days(full)) == [("archived", "")]
        await fill_days(store)
        fill(small / "ballast")
        before = {path: path.read_bytes() for path in (small / "esp_telemetry").iterdir()}
        report = await archive_days(full)
        assert {(each.what, "No space left" in each.why) for each in report.days} == {(Outcome.FAILED, True)}
        assert len(report.days) == DAYS, "each day was tried"
        assert {path: path.read_bytes() for path in (small / "esp_telemetry").iterdir()} == before
        assert {each.what for each in (await retain(full)).days} == {Outcome.KEPT}
        (small / "ballast").unlink()
        assert {each.what for each in (await archive_days(full)).days} == {Outcome.ARCHIVED, Outcome.MERGED}
        assert {each.what for each in (await retain(full)).days} == {Outcome.DROPPED}


async def test_two_at_once_archive_each_day_once(store: Store, tmp_path: Path) -> None:
    url = store.settings.database.dsn.get_secret_value()
    (tmp_path / "config.toml").write_text(f'[database]\ndsn = "{url}"\n[archive]\nurl = "{store.folder}"\n')
    await fill_days(store)
    both = [start(tmp_path, RUNS["archive"]) for _ in range(2)]
    await until(lambda: all(process.poll() is not None for process in both))
    assert sorted(process.returncode for process in both) in ([0, 0], [0, 1])
    assert [each.what for each in (await verify(store.settings)).days] == [Outcome.VERIFIED] * DAYS
    assert {path.name for path in (store.folder / "esp_telemetry").glob("*.parquet")} == {
        f"{(DAY + timedelta(days=day)).date()}.v1.parquet" for day in range(DAYS)
    }
