"""The connection to the database: opened on first use, and again after it broke."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from esp_ingestd.config import DatabaseSettings, mask_dsn
from esp_ingestd.database.schema import Edition, detect_edition, open_connection, require_schema
from esp_ingestd.database.verdict import to_unavailable
from esp_ingestd.rows import POSTGRES_EPOCH_US

if TYPE_CHECKING:
    from asyncpg import Connection

EPOCH_US: Final = 0
Session: TypeAlias = "Connection[Any]"


class Connected:
    """One connection, one use of it at a time; who uses it is told Unavailable, whatever broke it."""

    def __init__(self, settings: DatabaseSettings, *, name: str = "esp-ingestd", read_only: bool = False) -> None:
        self._settings = settings
        self._name = name
        self._read_only = read_only
        self._connection: Connection[Any] | None = None
        self._lock = asyncio.Lock()
        self.edition: Edition | None = None

    @property
    def address(self) -> str:
        """Where it is, without secrets."""
        return mask_dsn(self._settings.dsn.get_secret_value())

    async def connect(self) -> Edition:
        """Connect if need be, and see that it answers and has the schema.

        Raises:
            SchemaOutdated: `esp-ingestd migrate` is due.
            Unavailable: it cannot be reached or cannot be written to now.
        """
        async with self._using(timeout_s=self._settings.connect_timeout_s) as connection:
            await connection.fetchval("SELECT 1")
        assert self.edition is not None  # noqa: S101 - set by _open
        return self.edition

    @asynccontextmanager
    async def session(self, *, timeout_s: float | None = None) -> AsyncIterator[Session]:
        """The connection itself, for longer work than a batch; times go in and out as microseconds since 1970 UTC.

        Args:
            timeout_s: the work as a whole may take so long; None is as long as it takes.

        Raises:
            Unavailable: from inside too, whatever the database or the network said.

        Cancel: the connection is dropped, and what was not committed with it.
        """
        async with self._using(timeout_s=timeout_s) as connection:
            yield connection

    async def close(self) -> None:
        """Close the connection, politely if the server answers within a second."""
        if (connection := self._connection) is not None:
            self._connection = None
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await connection.close(timeout=1.0)

    @asynccontextmanager
    async def _using(self, *, timeout_s: float | None) -> AsyncIterator[Session]:
        """The connection; whatever breaks it inside becomes Unavailable, and the next use opens another."""
        async with self._lock, self._guarded(timeout_s) as connection:
            yield connection

    @asynccontextmanager
    async def _guarded(self, timeout_s: float | None) -> AsyncIterator[Session]:
        if timeout_s is not None and not self._connection:
            timeout_s += self._settings.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._open()
                yield self._connection
        except BaseException as error:
            # Whatever it was: the next use connects anew, perhaps to the host that has become the primary.
            self._drop()
            if unavailable := to_unavailable(error, self.address):
                raise unavailable from error
            raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _open(self) -> Session:
        connection = await open_connection(self._settings, self._name, read_only=self._read_only)
        try:
            self.edition = await detect_edition(connection)
            await require_schema(connection, self.edition)
            await connection.set_type_codec(
                "timestamptz", schema="pg_catalog", encoder=_encode_us, decoder=_decode_us, format="tuple"
            )
            if self.edition is Edition.COMMUNITY:
                # A late row must be looked for in blocks of a thousand; a limit on how many would refuse it for ever.
                await connection.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
            # A server set to answer before the WAL is on disk would break our promise; stricter settings stay.
            await connection.execute(
                "SELECT set_config('synchronous_commit', 'local', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
            if self._read_only:
                await connection.execute(_ONLY_READ)
        except BaseException:
            connection.terminate()
            raise
        return connection


def _encode_us(microseconds: int) -> tuple[int]:
    return (microseconds - POSTGRES_EPOCH_US,)


def _decode_us(value: tuple[int]) -> int:
    return value[0] + POSTGRES_EPOCH_US


# Questions read a few rows each: compiling a plan, or starting workers for it, takes longer than running it.
_ONLY_READ: Final = """
    SELECT set_config('default_transaction_read_only', 'on', false), set_config('jit', 'off', false),
        set_config('max_parallel_workers_per_gather', '0', false)
"""
