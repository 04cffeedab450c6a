"""The schema: what kind of server it is, and how it gets the tables of sql/."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from esp_ingestd.config import DatabaseSettings, mask_dsn
from esp_ingestd.database.verdict import describe, to_unavailable
from esp_ingestd.errors import SchemaOutdated, Unavailable
from esp_ingestd.shipped import shipped

if TYPE_CHECKING:
    from asyncpg import Connection

MIGRATION_LOCK: Final = 0x65737031  # any constant of our own: "esp1"


class Edition(StrEnum):
    """What kind of server it is."""

    COMMUNITY = "timescaledb-community"
    APACHE = "timescaledb-apache"
    POSTGRESQL = "postgresql"

    @property
    def has_hypertables(self) -> bool:
        """Both TimescaleDB editions have them."""
        return self is not Edition.POSTGRESQL


class Migration(NamedTuple):
    """One file of sql/: `0002_hypertables.timescaledb.sql` has number, name, and for which editions it is."""

    version: int
    name: str
    only: str
    path: Path

    def fits(self, edition: Edition) -> bool:
        """Whether this edition gets it."""
        return self.only in {"", edition.value} or (self.only == "timescaledb" and edition.has_hypertables)


async def detect_edition(connection: "Connection[Any]") -> Edition:
    """Which edition this database is: by the extension that it has, and the licence that the server runs it under."""
    installed = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    if installed is None:
        return Edition.POSTGRESQL
    licence = await connection.fetchval("SELECT current_setting('timescaledb.license', true)")
    return Edition.COMMUNITY if licence == "timescale" else Edition.APACHE


async def migrate(settings: DatabaseSettings) -> tuple[Edition, list[str]]:
    """Create or upgrade the schema; safe to run twice and by two at once.

    Returns:
        The edition, and the names of the migrations that were applied now.

    Raises:
        Unavailable: the database cannot be reached, or this role may not.
    """
    try:
        connection = await open_connection(settings, "esp-ingestd migrate")
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
            await _create_extension(settings)
            edition = await detect_edition(connection)
            return edition, [each.path.name for each in await _apply(connection, edition)]
        finally:
            await connection.close(timeout=5.0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        address = mask_dsn(settings.dsn.get_secret_value())
        raise to_unavailable(error, address) or Unavailable(describe(error), kind="schema") from error


def shipped_migrations() -> list[Migration]:
    """The files of sql/ in order of their numbers."""
    found = []
    for path in sorted(shipped("sql").glob("[0-9]*.sql")):
        number, _, rest = path.name.removesuffix(".sql").partition("_")
        name, _, only = rest.partition(".")
        found.append(Migration(int(number), name, only, path))
    return found


async def open_connection(settings: DatabaseSettings, name: str, *, read_only: bool = False) -> "Connection[Any]":
    """A new one, under this name in pg_stat_activity."""
    dsn = settings.dsn.get_secret_value()
    attributes = SessionAttribute.any if read_only else SessionAttribute.read_write
    connection: Connection[Any] = await asyncpg.connect(
        dsn,
        timeout=settings.connect_timeout_s,
        server_settings={"application_name": name},
        # Of several hosts the one that can be written to; what the DSN itself says goes first.
        target_session_attrs=None if "target_session_attrs" in dsn else attributes,
    )
    return connection


async def _create_extension(settings: DatabaseSettings) -> None:
    """Create TimescaleDB where the server has it and this role may; else it is a PostgreSQL to us.

    On a connection of its own: a server that has the extension but does not preload it hangs up.
    """
    connection = await open_connection(settings, "esp-ingestd migrate")
    try:
        available = "SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb' AND installed_version IS NULL"
        if await connection.fetchval(available):
            await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        pass
    finally:
        connection.terminate()


async def _apply(connection: "Connection[Any]", edition: Edition) -> list[Migration]:
    applied = []
    for migration in await _missing(connection, edition):
        async with connection.transaction():
            await connection.execute(migration.path.read_text("utf-8"))
            await connection.execute(
                "INSERT INTO esp_schema_migrations (version, name) VALUES ($1, $2)",
                migration.version,
                migration.path.name,
            )
        applied.append(migration)
    return applied


async def _missing(connection: "Connection[Any]", edition: Edition) -> list[Migration]:
    known = await connection.fetchval("SELECT to_regclass('esp_schema_migrations') IS NOT NULL")
    have = {row[0] for row in await connection.fetch("SELECT version FROM esp_schema_migrations")} if known else set()
    return [each for each in shipped_migrations() if each.version not in have and each.fits(edition)]


async def require_schema(connection: "Connection[Any]", edition: Edition) -> None:
    """See that nothing of sql/ is missing.

    Raises:
        SchemaOutdated: `esp-ingestd migrate` is due.
    """
    if missing := await _missing(connection, edition):
        names = ", ".join(each.path.name for each in missing)
        raise SchemaOutdated(f"the schema lacks {names}: run `esp-ingestd migrate --config FILE`")
