"""Finds the real brokers and databases that the tests talk to, and says where each was found, or why not.

In this order, the first that has it: ``ESP_TEST_DATABASE_DSN`` and ``ESP_TEST_MQTT_URL``; containers, where a
Docker daemon answers; the machine's own programs (those in ``ESP_TEST_PG_BINDIR`` first); the wheels of the extra
``demo``.

A group is an edition of the database (``postgresql``, ``timescaledb-apache``, ``timescaledb-community``) or a broker
(``mosquitto``, ``iotcore``). ``ESP_TEST_REQUIRE`` names groups, separated by commas, without which nothing is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, get_args
from urllib.parse import urlsplit

import asyncpg
import pytest

from esp_ingestd import embedded
from esp_ingestd.embedded import Edition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

EDITIONS: Final[tuple[Edition, ...]] = get_args(Edition)

# The session's servers hold nothing that outlives a test.
FAST: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
# A background worker in the template would keep it from being copied.
WITHOUT_WORKERS: Final = {"timescaledb.max_background_workers": "0"}


class DatabaseServer(Protocol):
    """A server and a role that may do everything on it."""

    @property
    def dsn(self) -> str:
        """For a database that is not touched, where others can be created from."""


class BrokerAddress(Protocol):
    """Where a broker listens."""

    @property
    def host(self) -> str:
        """Its name or address."""

    @property
    def port(self) -> int:
        """Its TCP port."""

    @property
    def url(self) -> str:
        """``mqtt://[user:password@]host:port``."""


@dataclass(frozen=True, slots=True)
class RemoteDatabase:
    """A server that somebody else runs."""

    dsn: str


@dataclass(frozen=True, slots=True)
class RemoteBroker:
    """A broker that somebody else runs."""

    url: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "localhost"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 1883


@dataclass(frozen=True, slots=True)
class FreshDatabase:
    """A database that only one test sees."""

    dsn: str
    edition: Edition


@dataclass(frozen=True, slots=True)
class DatabaseOffer:
    """An edition that can be had: from where, and how to make a server of it in a folder."""

    edition: Edition
    source: str
    server: Callable[[Path], contextlib.AbstractContextManager[DatabaseServer]]
    installation: embedded.Installation | None = None


@dataclass(frozen=True, slots=True)
class BrokerOffer:
    """A broker that can be had: of which group, from where, and how to start it in a folder."""

    group: str
    source: str
    server: Callable[[Path], contextlib.AbstractContextManager[BrokerAddress]]


@dataclass(slots=True)
class Services:
    """What was found, and what of it has been started; all of that ends with `close`."""

    databases: dict[Edition, DatabaseOffer]
    brokers: dict[str, BrokerOffer]
    running: dict[str, DatabaseServer] = field(default_factory=dict)
    templates: dict[Edition, str] = field(default_factory=dict)
    _folder: Path | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @classmethod
    def find(cls) -> Services:
        """Look for every group; nothing is started yet."""
        databases: dict[Edition, DatabaseOffer] = {}
        for offer in database_offers():
            databases.setdefault(offer.edition, offer)
        brokers: dict[str, BrokerOffer] = {}
        for broker in broker_offers():
            brokers.setdefault(broker.group, broker)
        return cls(databases, brokers)

    def close(self) -> None:
        """Stop whatever was started and remove its data."""
        self._stack.close()

    def new_folder(self) -> Path:
        """A folder for one service, readable on the way for the user whom it runs as."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="esp-ingestd-test-"))
            self._folder.chmod(0o711)
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self._folder))

    def describe(self) -> list[str]:
        """One line a group: where it comes from, or that it is not to be had."""
        lines = [f"{group}: {offer.source}" for group, offer in self.brokers.items()]
        for edition in EDITIONS:
            offer = self.databases.get(edition)
            lines.append(f"{edition}: {offer.source if offer else self.why_not(edition)}")
        return lines

    def why_not(self, group: str) -> str:
        """Why a group is not to be had."""
        if group == "timescaledb-community":
            return "not here: no timescaledb-tsl library on the machine and no Docker image"
        if group == "iotcore":
            return "not here: its wheel, of the extra demo, is not installed"
        if group.startswith("timescaledb"):
            return "not here: no TimescaleDB library (make test, as root, builds it) and no Docker image"
        return "not here: neither a program on the machine, a Docker image, nor a wheel"

    def skip_unless_offered(self, group: str) -> None:
        """Skip the test that asks, saying why, where the group is not to be had."""
        if group not in {*self.databases, *self.brokers}:
            pytest.skip(f"{group}: {self.why_not(group)}")

    def missing(self) -> list[str]:
        """The groups that ``ESP_TEST_REQUIRE`` names and that are not to be had, with the reason."""
        required = filter(None, os.environ.get("ESP_TEST_REQUIRE", "").split(","))
        offered = {*self.databases, *self.brokers}
        return [f"{group}: {self.why_not(group)}" for group in required if group not in offered]

    def database_server(self, edition: Edition) -> DatabaseServer:
        """The session's server of that edition, started when it is first asked for."""
        if edition not in self.running:
            server = self.databases[edition].server(self.new_folder())
            self.running[edition] = self._stack.enter_context(server)
        return self.running[edition]

    def broker(self) -> BrokerAddress:
        """A broker of the best group there is, running until `close`."""
        offer = next(iter(self.brokers.values()))
        return self._stack.enter_context(offer.server(self.new_folder()))

    @contextlib.asynccontextmanager
    async def fresh_database(self, edition: Edition, *, template: str | None = None) -> AsyncIterator[FreshDatabase]:
        """A database of one's own, empty or a copy of `template`, dropped afterwards."""
        admin = self.database_server(edition).dsn
        name = f"esp_test_{secrets.token_hex(6)}"
        await execute(admin, f"CREATE DATABASE {name} TEMPLATE {template or 'template0'}")
        try:
            yield FreshDatabase(_with_name(admin, name), edition)
        finally:
            await execute(admin, f"DROP DATABASE {name} WITH (FORCE)")

    async def template(self, edition: Edition) -> str:
        """The name of a database in which the edition's extension exists, to be copied; made once a session."""
        if edition not in self.templates:
            admin = self.database_server(edition).dsn
            name = f"esp_test_template_{secrets.token_hex(6)}"
            await execute(admin, f"CREATE DATABASE {name} TEMPLATE template0")
            self.templates[edition] = name
            if edition != "postgresql":
                await execute(_with_name(admin, name), "CREATE EXTENSION timescaledb")
            await execute(admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        return self.templates[edition]


def database_offers() -> Iterator[DatabaseOffer]:
    """Every edition that can be had, those to be preferred first."""
    if dsn := os.environ.get("ESP_TEST_DATABASE_DSN"):
        edition = asyncio.run(_edition_of(dsn))
        yield DatabaseOffer(edition, "ESP_TEST_DATABASE_DSN", lambda _: contextlib.nullcontext(RemoteDatabase(dsn)))
    given = os.environ.get("ESP_TEST_PG_BINDIR")
    for found in embedded.installations(*([Path(given)] if given else [])):
        yield _embedded_database(found, found.edition)
        if found.edition == "timescaledb-community":
            yield _embedded_database(found, "timescaledb-apache")
    for found in embedded.installations():
        yield _embedded_database(found, "postgresql")


def _embedded_database(found: embedded.Installation, edition: Edition) -> DatabaseOffer:
    """An edition that an installation has, or can be kept down to."""
    settings = edition_settings(found, edition)
    source = f"PostgreSQL {found.version} in {found.folder}"
    if settings.get("shared_preload_libraries") == "":
        source += ", TimescaleDB not loaded"
    fast = FAST | (WITHOUT_WORKERS if edition != "postgresql" else {}) | settings
    return DatabaseOffer(
        edition, source, lambda folder: embedded.Database(folder, installation=found, settings=fast), found
    )


def edition_settings(found: embedded.Installation, edition: Edition) -> dict[str, str]:
    """What makes an installation serve a lesser edition than it could."""
    if edition == found.edition:
        return {}
    return {"shared_preload_libraries": ""} if edition == "postgresql" else {"timescaledb.license": "apache"}


def broker_offers() -> Iterator[BrokerOffer]:
    """Every broker that can be had, those to be preferred first."""
    if url := os.environ.get("ESP_TEST_MQTT_URL"):
        yield BrokerOffer("mosquitto", "ESP_TEST_MQTT_URL", lambda _: contextlib.nullcontext(RemoteBroker(url)))
    if found := embedded.find_mosquitto():
        yield BrokerOffer("mosquitto", str(found), partial(embedded.Broker, from_wheel=False))
    with contextlib.suppress(embedded.StartError):
        wheel = partial(embedded.Broker, from_wheel=True)
        yield BrokerOffer("iotcore", wheel(Path()).source, wheel)


async def execute(dsn: str, statement: str) -> None:
    """Run one statement on a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _edition_of(dsn: str) -> Edition:
    """The edition that a running server is; asked in a database of our own, since the extension tells."""
    name = f"esp_test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(dsn)
    try:
        if "timescaledb" not in await connection.fetchval("SHOW shared_preload_libraries"):
            return "postgresql"
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            inside = await asyncpg.connect(_with_name(dsn, name))
            await inside.execute("CREATE EXTENSION timescaledb")
            licence = await inside.fetchval("SHOW timescaledb.license")
            await inside.close()
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()
    return "timescaledb-apache" if licence == "apache" else "timescaledb-community"


def _with_name(dsn: str, name: str) -> str:
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()
