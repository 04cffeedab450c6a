"""What outlives a restart: what the diagnosis knows of each well (I10), and what SCADA was told of each alarm.

Rules:
    1. A well's memory is taken when a batch is closed, and written when that batch is durable, before it is
       acknowledged: never newer than what is stored, never older than what is acknowledged and has raised an alarm.
    2. A file that is damaged is set aside, and the wells are learned anew; one line says so.
"""

import sqlite3
from collections.abc import Mapping
from typing import Final, NamedTuple

import structlog

from esp_ingestd.config import SpoolSettings
from esp_ingestd.sqlite import SqliteFile, is_damage

FILE_NAME: Final = "wells.sqlite"
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS wells (
        well_id TEXT PRIMARY KEY,
        content BLOB NOT NULL     -- as Diagnostician.snapshot made it
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS states (
        topic TEXT PRIMARY KEY,
        payload BLOB NOT NULL     -- as last published there
    ) WITHOUT ROWID;
"""

_log = structlog.stdlib.get_logger(__name__)


class Remembered(NamedTuple):
    """What was kept."""

    snapshots: dict[str, bytes]
    """Well -> what the diagnosis knew of it."""
    states: dict[str, bytes]
    """Topic -> the alarm's state that was last published there."""


class Memory:
    """The diagnosis's memory on disk; the spool's lock covers it."""

    def __init__(self, settings: SpoolSettings) -> None:
        self._file = SqliteFile(settings.directory / FILE_NAME, _SCHEMA)

    async def load(self) -> Remembered:
        """What was kept.

        Raises:
            Unavailable: the disk fails.
        """
        return await self._file.run(self._load)

    async def save(self, snapshots: Mapping[str, bytes], states: Mapping[str, bytes]) -> None:
        """Keep these wells' memory and these states; once this returns they survive power loss.

        Raises:
            Unavailable: the disk fails.
        """
        await self._file.run(self._save, snapshots, states)

    async def close(self) -> None:
        """Close the file."""
        await self._file.end()

    def _load(self) -> Remembered:
        self._file.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = self._file.open()
            wells = connection.execute("SELECT well_id, content FROM wells")
            return Remembered(dict(wells), dict(connection.execute("SELECT topic, payload FROM states")))
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            aside = self._file.set_aside()
            self._file.open()
            _log.error("memory of wells was damaged, they are learned anew", why=str(error), set_aside=str(aside))
            return Remembered({}, {})

    def _save(self, snapshots: Mapping[str, bytes], states: Mapping[str, bytes]) -> None:
        with self._file.connection as connection:
            connection.executemany("INSERT OR REPLACE INTO wells VALUES (?, ?)", snapshots.items())
            connection.executemany("INSERT OR REPLACE INTO states VALUES (?, ?)", states.items())
