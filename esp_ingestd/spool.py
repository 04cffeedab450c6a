"""The spool: batches on disk while the database cannot take them, in SQLite.

Rules:
    1. What `append` returned for is on disk: WAL with synchronous=FULL, so every commit is fsynced. Then it may be
       acknowledged.
    2. It is bounded by `spool.max_bytes`. When it is full `append` raises, nothing is dropped: intake stops and the
       broker keeps the rest.
    3. Batches leave in order, merged to the size that COPY likes, and are removed once they are in the database. A
       crash in between sends them twice, which the keys make harmless.
    4. A damaged file is set aside whole as soon as the damage shows, what can be read of it is kept, and one line
       says how much. Nothing reads the whole file at start: it may be large, and the start is to be quick.
    5. One process owns a directory: a lock file says so.
"""

import asyncio
import base64
import fcntl
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import structlog
from pydantic_core import from_json, to_json

from esp_ingestd.config import SpoolSettings
from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.batch import Batch, DeadLetter
from esp_ingestd.core.command import CommandRecord
from esp_ingestd.core.decode import Reason
from esp_ingestd.core.reading import Reading
from esp_ingestd.errors import Unavailable
from esp_ingestd.rollup import Stale
from esp_ingestd.rows import CopyRows
from esp_ingestd.sqlite import SqliteFile, is_damage

FILE_NAME: Final = "spool.sqlite"
FORMAT: Final = b"\x02"
JSON_FORMAT: Final = b"{"  # how a batch begins that an earlier version wrote, with its readings among the rest
LAST: Final = 2**63 - 1  # the greatest number of a batch
RESERVE_BYTES: Final = 65_536  # of max_bytes, for SQLite's own pages

_log = structlog.stdlib.get_logger(__name__)

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS batches (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        readings INTEGER NOT NULL,    -- how many
        events INTEGER NOT NULL,      -- how many
        oldest_us INTEGER NOT NULL,   -- when the first of them arrived, microseconds since 1970 UTC
        checksum INTEGER NOT NULL,    -- CRC-32 of content
        content BLOB NOT NULL         -- the batch, zlib: FORMAT, length of JSON (4 bytes), JSON, rows of a binary COPY
    );
    CREATE TABLE IF NOT EXISTS published (
        event_id TEXT PRIMARY KEY,    -- of an event in batches that the broker has accepted
        at_us INTEGER NOT NULL        -- when, microseconds since 1970 UTC
    ) WITHOUT ROWID;
"""


class Status(NamedTuple):
    """What is in the spool."""

    batches: int
    readings: int
    size_bytes: int
    oldest_us: int | None
    """When the oldest reading arrived, microseconds since 1970 UTC."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What an earlier run left."""

    readings: int
    unpublished: Sequence[AlarmEvent]
    """Events whose acceptance by the broker was not noted."""


class Spool:
    """Batches on disk."""

    def __init__(self, settings: SpoolSettings) -> None:
        self._settings = settings
        self._file = SqliteFile(settings.directory / FILE_NAME, _SCHEMA)
        self._lock_file: IO[str] | None = None
        self._status = Status(0, 0, 0, None)  # as of the last change; in the file's thread
        self.status = Status(0, 0, 0, None)
        self.damaged_batches = 0
        """How many could not be read since the start, and were set aside."""
        self.filled = asyncio.Event()
        """Set while there is something to drain."""

    async def open(self) -> Recovered:
        """Take the directory and see what an earlier run left.

        Raises:
            Unavailable: the directory cannot be used, or another daemon uses it.
        """
        recovered = await self._file.run(self._open)
        self._look()
        return recovered

    async def append(self, batch: Batch) -> int:
        """Put a batch on disk; once this returns it survives power loss. Its number, which rises.

        Raises:
            Unavailable: the spool is full, or the disk fails.

        Cancel: the batch may or may not be on disk.
        """
        content = await self._file.run(_encode, batch)
        oldest_us = batch.readings[0].received_us if batch.readings else batch.opened_us
        number = await self._file.run(self._insert, len(batch.readings), len(batch.events), oldest_us, content)
        self._look()
        return number

    async def oldest(self, max_rows: int) -> tuple[Batch, int] | None:
        """The oldest batches as one of at most about `max_rows` rows, and the number to `remove` it by."""
        found = await self._file.run(self._read_oldest, max_rows)
        self._look()  # damage may have taken some, or the last: nobody is to ask for ever
        return found

    async def remove(self, upto: int) -> None:
        """Forget the batches up to this number: the database has them."""
        await self._file.run(self._delete, upto)
        self._look()

    async def mark_published(self, event_ids: Sequence[str], at_us: int) -> None:
        """Note that the broker accepted these events."""
        await self._file.run(self._insert_published, event_ids, at_us)

    async def close(self) -> None:
        """Close the file and free the directory."""
        await self._file.end()
        if self._lock_file is not None:
            self._lock_file.close()

    def _look(self) -> None:
        self.status = self._status
        if self.status.batches:
            self.filled.set()
        else:
            self.filled.clear()

    # What follows runs in the spool's thread.

    def _open(self) -> Recovered:
        directory = self._settings.directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock(directory)
        try:
            self._file.open()
            return self._recover()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._set_aside(str(error))
            return self._recover()

    def _recover(self) -> Recovered:
        connection = self._file.connection
        published = {row[0] for row in connection.execute("SELECT event_id FROM published")}
        with_events = connection.execute("SELECT seq, checksum, content FROM batches WHERE events > 0 ORDER BY seq")
        events = [event for row in with_events for event in _decode(*row).events]
        self._status = _count(connection)._replace(size_bytes=self._size_bytes())
        return Recovered(self._status.readings, [event for event in events if event.event_id not in published])

    def _set_aside(self, why: str) -> None:
        """Keep the damaged file for people, and what can be read of it for the database."""
        aside = self._file.set_aside()
        connection = self._file.open()
        kept = damaged = 0
        for row in _salvage(aside):
            if zlib.crc32(row[-1]) == row[-2]:
                connection.execute(_INSERT, row)
                kept += 1
            else:
                damaged += 1
        connection.commit()
        self._status = _count(connection)._replace(size_bytes=self._size_bytes())
        self.damaged_batches += damaged
        _log.error("spool was damaged", why=why, batches_kept=kept, batches_damaged=damaged, set_aside=str(aside))

    def _insert(self, readings: int, events: int, oldest_us: int, content: bytes) -> int:
        connection = self._file.connection
        if self._size_bytes() + len(content) + RESERVE_BYTES > self._settings.max_bytes:
            raise sqlite3.OperationalError(f"full: spool.max_bytes = {self._settings.max_bytes} is reached")
        with connection:
            inserted = connection.execute(_INSERT, (readings, events, oldest_us, zlib.crc32(content), content))
        # Counting all that is there, each time, is what a long outage would be slow by.
        batches, before, _, first_us = self._status
        self._status = Status(batches + 1, before + readings, self._size_bytes(), first_us if batches else oldest_us)
        return inserted.lastrowid or 0

    def _read_oldest(self, max_rows: int) -> tuple[Batch, int] | None:
        try:
            return self._merge_oldest(max_rows)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._set_aside(str(error))
            return self._merge_oldest(max_rows)

    def _merge_oldest(self, max_rows: int) -> tuple[Batch, int] | None:
        batches: list[Batch] = []
        count = last = 0
        rows = self._file.connection.execute("SELECT seq, readings, checksum, content FROM batches ORDER BY seq")
        with closing(rows):
            for seq, readings, checksum, content in rows:
                if last and count + readings > max_rows:
                    break
                batches.append(_decode(seq, checksum, content))
                count += readings
                last = seq
        if not last:
            return None
        merged = _merge(batches)
        for event in merged.events:
            found = self._file.connection.execute(
                "SELECT at_us FROM published WHERE event_id = ?", (event.event_id,)
            ).fetchone()
            if found:
                merged.published[event.event_id] = found[0]
        return merged, last

    def _delete(self, upto: int) -> None:
        connection = self._file.connection
        gone = _count(connection, upto)
        with connection:
            connection.execute("DELETE FROM batches WHERE seq <= ?", (upto,))
            left = connection.execute("SELECT oldest_us FROM batches ORDER BY seq LIMIT 1").fetchone()
            if not left:
                connection.execute("DELETE FROM published")
        if left:
            batches, readings, *_ = self._status
            size_bytes = self._size_bytes()
            self._status = Status(batches - gone.batches, readings - gone.readings, size_bytes, left[0])
        else:
            self._status = Status(0, 0, 0, None)
            # An outage is over: give the disk back. What keeps us from it is no reason to send anything again.
            with suppress(sqlite3.DatabaseError):
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _insert_published(self, event_ids: Iterable[str], at_us: int) -> None:
        with self._file.connection as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO published VALUES (?, ?)", [(each, at_us) for each in event_ids]
            )

    def _size_bytes(self) -> int:
        used = self._file.connection.execute(
            "SELECT (page_count - freelist_count) * page_size"
            " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        )
        return int(used.fetchone()[0])


def read_status(settings: SpoolSettings) -> Status:
    """What is in the spool, also while a daemon uses it.

    Raises:
        Unavailable: there is none, or it cannot be read.
    """
    path = settings.directory / FILE_NAME
    try:
        path.stat()
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return _count(connection)._replace(size_bytes=path.stat().st_size)
    except FileNotFoundError:
        why = "there is none; has a daemon run with this spool.directory?"
        raise Unavailable(f"spool {path}: {why}", kind="spool") from None
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(f"spool {path}: {error}", kind="spool") from error


_INSERT: Final = "INSERT INTO batches (readings, events, oldest_us, checksum, content) VALUES (?, ?, ?, ?, ?)"


def _count(connection: sqlite3.Connection, upto: int = LAST) -> Status:
    """What is there, up to this number; without its size."""
    query = "SELECT count(*), coalesce(sum(readings), 0), min(oldest_us) FROM batches WHERE seq <= ?"
    batches, readings, oldest_us = connection.execute(query, (upto,)).fetchone()
    return Status(batches, readings, 0, oldest_us)


def _lock(directory: Path) -> IO[str]:
    """Take the directory for this process; the kernel gives it back however the process ends."""
    file = (directory / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Unavailable(f"spool {directory}: another daemon uses it; give each its own", kind="spool") from None
    return file


def _salvage(path: Path) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Every row that can still be read, by number, over pages that cannot."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as connection:
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batches'").fetchone()
        for seq in range(1, (last[0] if last else 0) + 1):
            with suppress(sqlite3.Error):
                query = "SELECT readings, events, oldest_us, checksum, content FROM batches WHERE seq = ?"
                if row := connection.execute(query, (seq,)).fetchone():
                    yield row


def _encode(batch: Batch) -> bytes:
    rows = CopyRows.of(batch.readings) if batch.readings else None
    document = {
        "rows": rows and (rows.rows, rows.earliest_us, rows.arrived_us, rows.stale),
        "dead_letters": [
            {**asdict(each), "payload": base64.b64encode(each.payload).decode()} for each in batch.dead_letters.values()
        ],
        "events": [asdict(event) for event in batch.events],
        "commands": [asdict(command) for command in batch.commands],
    }
    head = to_json(document)
    return zlib.compress(b"".join((FORMAT, len(head).to_bytes(4, "big"), head, rows.data if rows else b"")), 1)


def _decode(seq: int, checksum: int, content: bytes) -> Batch:
    if zlib.crc32(content) != checksum:
        raise sqlite3.DatabaseError(f"batch {seq} fails its checksum")
    document, readings = _take_apart(zlib.decompress(content))
    letters = [
        DeadLetter(**{**each, "payload": base64.b64decode(each["payload"]), "reason": Reason(each["reason"])})
        for each in document["dead_letters"]
    ]
    known = {field.name for field in fields(AlarmEvent)}
    events = [AlarmEvent(**{key: value for key, value in each.items() if key in known}) for each in document["events"]]
    commands = [CommandRecord(**each) for each in document.get("commands", ())]
    by_fingerprint = {each.fingerprint: each for each in letters}
    return Batch(readings=readings, dead_letters=by_fingerprint, events=events, commands=commands)


def _take_apart(content: bytes) -> tuple[dict[str, Any], Sequence[Reading]]:
    """What goes with the readings, and these."""
    if content.startswith(JSON_FORMAT):
        document = from_json(content)
        readings = [Reading._make(each) for each in document["readings"]]
        return document, CopyRows.of(readings) if readings else ()
    end = 5 + int.from_bytes(content[1:5], "big")
    document = from_json(content[5:end])
    if not document["rows"]:
        return document, ()
    rows, earliest_us, arrived_us, (hours, of_wells) = document["rows"]
    stale = Stale(frozenset(hours), frozenset((hour, well_id) for hour, well_id in of_wells))
    return document, CopyRows(content[end:], rows, earliest_us, arrived_us, stale)


def _merge(batches: Sequence[Batch]) -> Batch:
    merged = Batch()
    if rows := [batch.readings for batch in batches if isinstance(batch.readings, CopyRows)]:
        merged.readings = CopyRows.join(rows)
    for batch in batches:
        merged.events += batch.events
        merged.commands += batch.commands
        for key, letter in batch.dead_letters.items():
            if same := merged.dead_letters.get(key):
                same.times += letter.times
                same.received_us = letter.received_us
            else:
                merged.dead_letters[key] = letter
    return merged
