"""A SQLite file that is driven from one thread of its own, so that an fsync never holds the event loop."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from esp_ingestd.errors import Unavailable

# What SQLite says of the disk, of rights or of another process, and not of what is in the file.
PASSING: Final = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
UNREADABLE: Final = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is at fault. A disk that is full says nothing of it: set aside, all in it would be lost."""
    return getattr(error, "sqlite_errorcode", 0) in UNREADABLE or _class_of(error) not in PASSING


def _class_of(error: sqlite3.Error) -> int:
    """The lower byte of its code; errors of our own have none, and are about what was read."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)) & 0xFF


class SqliteFile:
    """One file in WAL mode with full synchronisation: what is committed survives power loss."""

    def __init__(self, path: Path, schema: str) -> None:
        """Name the file and what is in it; nothing is touched."""
        self.path = path
        self._schema = schema
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=path.stem)
        self._connection: sqlite3.Connection | None = None

    async def run(
        self, work: Callable[_Parameters, _Result], *args: _Parameters.args, **_kwargs: _Parameters.kwargs
    ) -> _Result:
        """Do `work` in the file's thread.

        Raises:
            Unavailable: SQLite or the disk fails.

        Cancel: the work is done all the same.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except sqlite3.Error as error:
            kind = "spool_full" if "full" in str(error) else "spool"
            why = f"{error}; is its disk full?" if _class_of(error) == sqlite3.SQLITE_IOERR else str(error)
            raise Unavailable(f"{self.path}: {why}", kind=kind) from error
        except OSError as error:
            raise Unavailable(f"{self.path}: {error.strerror}", kind="spool") from error

    def open(self) -> sqlite3.Connection:
        """Open or create it; in the file's thread, as all that follows."""
        self._connection = sqlite3.connect(self.path, timeout=5.0, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(self._schema)
        return self._connection

    @property
    def connection(self) -> sqlite3.Connection:
        """The open file.

        Raises:
            sqlite3.OperationalError: it is not open.
        """
        if self._connection is None:
            raise sqlite3.OperationalError("is not open")
        return self._connection

    def set_aside(self) -> Path:
        """Rename a damaged file, with what belongs to it, for people; returns its new path."""
        self.close()
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns() // 1_000_000_000}")
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
        return aside

    def close(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def end(self) -> None:
        """Close it and end the thread."""
        await self.run(self.close)
        self._thread.shutdown()
