from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esp_ingestd.config import SpoolSettings
from esp_ingestd.core.batch import Batch, DeadLetter
from esp_ingestd.core.command import CommandRecord
from esp_ingestd.core.decode import Reason
from esp_ingestd.core.reading import CHANNELS, Reading
from esp_ingestd.errors import Unavailable
from esp_ingestd.memory import Memory
from esp_ingestd.rollup import stale_with
from esp_ingestd.rows import CopyRows
from esp_ingestd.spool import FILE_NAME, Spool, read_status
from esp_ingestd.sqlite import SqliteFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

START_US = 1_790_000_000_000_000


def make_batch(first: int = 0, rows: int = 3, *, letters: int = 0) -> Batch:
    readings = [
        Reading("WELL-1", START_US + (first + k) * 1_000_000, pip=0.1 + k, extra='{"a":1}', received_us=START_US)
        for k in range(rows)
    ]
    batch = Batch(readings=readings, rows=rows + letters, deliveries=list(range(rows)))
    for number in range(letters):
        letter = DeadLetter("esp/x", bytes([number, 255, 0]), Reason.NOT_JSON, {"why": "x"}, START_US, START_US)
        batch.dead_letters[letter.fingerprint] = letter
    return batch


@pytest.fixture
def where(tmp_path: Path) -> SpoolSettings:
    return SpoolSettings(directory=tmp_path / "spool", max_bytes=10_000_000)


@pytest.fixture
async def spool(where: SpoolSettings) -> AsyncIterator[Spool]:
    each = Spool(where)
    await each.open()
    yield each
    await each.close()


async def fill(spool: Spool) -> None:
    while True:
        batch = make_batch()
        letter = DeadLetter("t", os.urandom(60_000), Reason.NOT_JSON, {}, 1, 1)
        batch.dead_letters[letter.fingerprint] = letter
        await spool.append(batch)


async def drain(spool: Spool, max_rows: int = 1_000_000) -> list[Batch]:
    out = []
    while oldest := await spool.oldest(max_rows):
        out.append(oldest[0])
        await spool.remove(oldest[1])
    return out


async def test_what_goes_in_comes_out_in_order_and_equal(spool: Spool) -> None:
    first, second = make_batch(0, letters=2), make_batch(3)
    await spool.append(first)
    await spool.append(second)
    assert spool.filled.is_set()
    assert spool.status.readings == 6
    (merged,) = await drain(spool)
    assert list(merged.readings) == [*first.readings, *second.readings]
    assert [asdict(each) for each in merged.dead_letters.values()] == [
        asdict(each) for each in first.dead_letters.values()
    ]
    assert not spool.filled.is_set()
    assert spool.status.batches == 0


async def test_every_value_comes_out_as_it_went_in(spool: Spool) -> None:
    channels = [0.1 * number for number in range(len(CHANNELS))]
    full = Reading._make(("W-1", START_US + 1, *channels, '{"\u00e9":[1,null]}', ("pip", "gor"), START_US))
    bare = Reading("a" * 64, START_US - 10**15, pip=-0.0, received_us=START_US + 7)
    await spool.append(Batch(readings=[full, bare]))
    (batch,) = await drain(spool)
    assert list(batch.readings) == [full, bare]
    assert batch.readings[1:] == [bare]
    assert len(batch.readings) == 2


async def test_what_of_the_rollups_is_stale_goes_with_the_readings(spool: Spool) -> None:
    batch = make_batch()
    late = [reading._replace(well_id="LATE", timestamp_us=START_US - 10**11) for reading in batch.readings]
    await spool.append(batch)
    await spool.append(Batch(readings=late))
    (merged,) = await drain(spool)
    assert isinstance(merged.readings, CopyRows)
    apart = stale_with(batch.readings), stale_with(late)
    assert merged.readings.stale.hours == apart[0].hours | apart[1].hours
    assert merged.readings.stale.of_wells == apart[0].of_wells | apart[1].of_wells
    assert (merged.readings.earliest_us, merged.readings.arrived_us) == (late[0].timestamp_us, late[-1].received_us)


async def test_batches_of_earlier_versions_are_read(where: SpoolSettings, spool: Spool) -> None:
    first = make_batch()
    odd = first.readings[0]._replace(timestamp_us=START_US - 1, bad_channels=("pip",))
    document = {"format": 1, "readings": [*first.readings, odd], "dead_letters": [], "events": []}
    content = zlib.compress(json.dumps(document).encode(), 1)
    with closing(sqlite3.connect(where.directory / FILE_NAME)) as connection, connection:
        row = (4, 0, START_US, zlib.crc32(content), content)
        connection.execute(
            "INSERT INTO batches (readings, events, oldest_us, checksum, content) VALUES (?, ?, ?, ?, ?)", row
        )
    await spool.append(make_batch(3))
    (merged,) = await drain(spool)
    assert list(merged.readings) == [*first.readings, odd, *make_batch(3).readings]


async def test_the_status_follows_what_comes_and_goes(where: SpoolSettings, spool: Spool) -> None:
    for first in range(4):
        batch = make_batch(3 * first, first + 1)
        batch.readings = [each._replace(received_us=START_US + first) for each in batch.readings]
        await spool.append(batch)
    for rows in (1, 2):
        _, upto = await spool.oldest(rows) or (None, 0)
        await spool.remove(upto)
        counted = read_status(where)
        assert spool.status._replace(size_bytes=0) == counted._replace(size_bytes=0)
    assert spool.status[:2] == (2, 7)
    assert spool.status.oldest_us == START_US + 2


async def test_commands_go_through(spool: Spool) -> None:
    batch = make_batch()
    batch.commands.append(
        CommandRecord(
            command_id="c1",
            received_us=7,
            well_id="W1",
            alarm_id="a1",
            command="shelve",
            by="ann",
            comment="crew",
            duration_s=60.0,
        )
    )
    await spool.append(batch)
    await spool.append(make_batch(3))
    (merged,) = await drain(spool)
    assert merged.commands == batch.commands


async def test_batches_are_merged_up_to_the_size_asked_for(spool: Spool) -> None:
    for first in range(0, 30, 3):
        await spool.append(make_batch(first))
    assert [len(batch.readings) for batch in await drain(spool, max_rows=9)] == [9, 9, 9, 3]


async def test_a_batch_larger_than_asked_for_leaves_alone(spool: Spool) -> None:
    await spool.append(make_batch(rows=20))
    assert [len(batch.readings) for batch in await drain(spool, max_rows=9)] == [20]


async def test_the_same_dead_letter_in_two_batches_is_one(spool: Spool) -> None:
    await spool.append(make_batch(letters=1))
    await spool.append(make_batch(letters=1))
    (merged,) = await drain(spool)
    (letter,) = merged.dead_letters.values()
    assert letter.times == 2


async def test_another_run_finds_what_was_left(where: SpoolSettings) -> None:
    first = Spool(where)
    await first.open()
    await first.append(make_batch())
    await first.close()
    second = Spool(where)
    assert (await second.open()).readings == 3
    assert second.filled.is_set()
    assert len((await drain(second))[0].readings) == 3
    await second.close()


async def test_nothing_is_lost_before_it_is_removed(spool: Spool) -> None:
    await spool.append(make_batch())
    assert await spool.oldest(10) == await spool.oldest(10)


async def test_i3_when_full_it_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(SpoolSettings(directory=tmp_path, max_bytes=1_048_576))
    await spool.open()
    with pytest.raises(Unavailable, match="max_bytes") as full:
        await fill(spool)
    assert full.value.kind == "spool_full"
    assert spool.status.batches > 5
    assert spool.status.size_bytes <= 1_048_576
    await drain(spool)
    await spool.append(make_batch())  # and goes on once there is room
    await spool.close()


@pytest.mark.usefixtures("spool")
async def test_one_daemon_owns_a_directory(where: SpoolSettings) -> None:
    second = Spool(where)
    with pytest.raises(Unavailable, match="another daemon uses it"):
        await second.open()


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(Unavailable, match=str(blocker)):
        await Spool(SpoolSettings(directory=blocker / "spool")).open()


async def test_status_can_be_read_while_a_daemon_uses_it(spool: Spool, where: SpoolSettings) -> None:
    await spool.append(make_batch())
    status = read_status(where)
    assert (status.batches, status.readings, status.oldest_us) == (1, 3, START_US)


def test_status_of_no_spool_says_where_it_looked(where: SpoolSettings) -> None:
    with pytest.raises(Unavailable, match=f"{FILE_NAME}: there is none; has a daemon run"):
        read_status(where)


async def test_a_batch_damaged_on_disk_is_set_aside_and_its_neighbours_kept(
    where: SpoolSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = Spool(where)
    await spool.open()
    for first in range(0, 9, 3):
        await spool.append(make_batch(first))
    await spool.close()
    with sqlite3.connect(where.directory / FILE_NAME) as connection:
        content = connection.execute("SELECT content FROM batches WHERE seq = 2").fetchone()[0]
        flipped = bytes([content[0], content[1] ^ 1, *content[2:]])
        connection.execute("UPDATE batches SET content = ? WHERE seq = 2", (flipped,))
    connection.close()
    again = Spool(where)
    await again.open()
    batches = await drain(again)
    assert [each.timestamp_us for batch in batches for each in batch.readings] == [
        START_US + k * 1_000_000 for k in (0, 1, 2, 6, 7, 8)
    ]
    assert list(where.directory.glob(f"{FILE_NAME}.damaged-*"))
    assert "spool was damaged" in capsys.readouterr().out
    await again.close()


async def test_a_spool_of_which_nothing_can_be_read_is_empty_and_not_asked_for_ever(where: SpoolSettings) -> None:
    spool = Spool(where)
    await spool.open()
    await spool.append(make_batch())
    with sqlite3.connect(where.directory / FILE_NAME) as connection:
        connection.execute("UPDATE batches SET content = x'00'")
    connection.close()
    assert await spool.oldest(1_000) is None
    assert not spool.filled.is_set()
    assert spool.status.readings == 0
    assert spool.damaged_batches == 1
    await spool.close()


async def test_a_disk_that_is_not_given_back_is_no_reason_to_keep_what_is_stored(spool: Spool) -> None:
    """VACUUM needs room of its own, or finds the file locked by somebody's shell."""
    await spool.append(make_batch())
    deny = sqlite3.SQLITE_DENY
    await spool._file.run(
        lambda: spool._file.connection.set_authorizer(
            lambda action, *_: deny if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK
        )
    )
    assert len(await drain(spool)) == 1
    assert not spool.filled.is_set()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_whatever_the_disk_did_to_the_file_it_starts_and_takes_batches(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    where = SpoolSettings(directory=tmp_path_factory.mktemp("spool"))
    spool = Spool(where)
    await spool.open()
    for first in range(0, 30, 3):
        await spool.append(make_batch(first, letters=1))
    await spool.close()
    file = where.directory / FILE_NAME
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans(), label="torn"):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            at = data.draw(st.integers(0, len(content) - 1))
            content[at : at + 100] = os.urandom(len(content[at : at + 100]))
    file.write_bytes(content)
    again = Spool(where)
    await again.open()
    sent = {START_US + k * 1_000_000 for k in range(30)}
    recovered = [each for batch in await drain(again) for each in batch.readings]
    assert {each.timestamp_us for each in recovered} <= sent  # never anything that was not put in
    await again.append(make_batch())
    assert len(await drain(again)) == 1
    await again.close()


async def test_i1_each_commit_is_synchronised_to_the_disk(tmp_path: Path) -> None:
    """SIGKILL leaves what the kernel holds, and power loss cannot be had: that an fsync is asked for can be seen."""
    file = SqliteFile(tmp_path / "kept.sqlite", "")
    connection = await file.run(file.open)
    asked = [
        (await file.run(connection.execute, f"PRAGMA {name}")).fetchone()[0] for name in ("journal_mode", "synchronous")
    ]
    assert asked == ["wal", 2]  # 2 is FULL: https://sqlite.org/pragma.html#pragma_synchronous
    await file.end()


def test_i1_what_append_returned_for_survives_kill_9(where: SpoolSettings) -> None:
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_spool import make_batch
from esp_ingestd.config import SpoolSettings
from esp_ingestd.spool import Spool
from pathlib import Path
async def main():
    spool = Spool(SpoolSettings(directory=Path({str(where.directory)!r})))
    await spool.open()
    for first in range(0, 10**9, 3):
        await spool.append(make_batch(first))
        print(first + 3, flush=True)
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    promised = 0
    for line in process.stdout:
        promised = int(line)
        if promised >= 60:
            process.send_signal(signal.SIGKILL)
            break
    promised = max([promised, *map(int, process.stdout)])
    process.wait()
    process.stdout.close()
    assert read_status(where).readings >= promised


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


async def test_a_full_disk_is_said_and_what_is_there_stays(where: SpoolSettings) -> None:
    spool = Spool(where)
    await spool.open()
    await spool.append(make_batch())
    with no_file_larger_than(65_536), pytest.raises(Unavailable):
        await fill(spool)
    assert (await spool.oldest(1_000)) is not None
    await spool.append(make_batch())
    await spool.close()


async def test_a_disk_that_is_full_at_the_start_is_no_damage(where: SpoolSettings) -> None:
    """Set aside as damaged, what was acknowledged would never reach the database, and each well be learned anew."""
    spool, memory = Spool(where), Memory(where)
    await spool.open()
    await spool.append(make_batch())
    await memory.load()
    await memory.save({"W": b"{}"}, {"esp/alerts/W/state/STALL": b"{}"})
    await spool.close()
    await memory.close()
    spool, memory = Spool(where), Memory(where)
    with no_file_larger_than(4_096):
        for opened in (spool.open, memory.load):
            with pytest.raises(Unavailable, match="full"):
                await opened()
    await spool.close()
    await memory.close()
    assert not list(where.directory.glob("*.damaged-*"))
    spool, memory = Spool(where), Memory(where)
    assert (await spool.open()).readings == 3
    assert (await memory.load()).snapshots == {"W": b"{}"}
    await spool.close()
    await memory.close()
