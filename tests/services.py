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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args
from urllib.parse import urlsplit

import asyncpg
import containers
import pytest
import trustme

from esp_ingestd import embedded
from esp_ingestd.embedded import Edition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

# Each one can do what those before it can.
EDITIONS: Final[tuple[Edition, ...]] = get_args(Edition)
BROKERS: Final = ("mosquitto", "iotcore")

# The session's servers hold nothing that outlives a test.
FAST: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
# A background worker in the template would keep it from being copied.
WITHOUT_WORKERS: Final = {"timescaledb.max_background_workers": "0"}

Query = Callable[..., Awaitable[list[Any]]]
"""Runs a statement on one connection; its rows."""

# What keeps a server that could do more down to an edition.
LIMITS: Final = {
    "postgresql": ("shared_preload_libraries", ""),
    "timescaledb-apache": ("timescaledb.license", "apache"),
}


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
class Certificates:
    """PEM files, readable for the user whom the broker runs as; a file holds both a certificate and its key."""

    authority: Path
    server: Path
    client: Path
    stranger: Path

    @classmethod
    def issue(cls, folder: Path) -> Certificates:
        """Make an authority with a certificate for 127.0.0.1 and for the client ``rtu``, and a stranger's."""
        ours, theirs = trustme.CA(), trustme.CA()
        found = cls(*(folder / f"{name}.pem" for name in ("authority", "server", "client", "stranger")))
        ours.cert_pem.write_to_path(str(found.authority))
        for path, issued in (
            (found.server, ours.issue_cert("127.0.0.1", "localhost")),
            (found.client, ours.issue_cert("rtu", common_name="rtu")),
            (found.stranger, theirs.issue_cert("rtu", common_name="rtu")),
        ):
            issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o644)
        return found

    @property
    def mutual_tls(self) -> tuple[str, ...]:
        """Lines of mosquitto.conf: clients show a certificate, whose common name is their user name."""
        return (
            f"cafile {self.authority}",
            f"certfile {self.server}",
            f"keyfile {self.server}",
            "require_certificate true",
            "use_identity_as_username true",
        )


@dataclass(frozen=True, slots=True)
class FreshDatabase:
    """A database that only one test sees."""

    dsn: str
    edition: Edition


@dataclass(frozen=True, slots=True)
class DatabaseOffer:
    """An edition that can be had: from where, and how to make a server in a folder, or the one that runs elsewhere."""

    edition: Edition
    source: str
    server: Callable[..., embedded.Database] | RemoteDatabase
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BrokerOffer:
    """A broker that can be had: from where, and how to make one in a folder, or the one that runs elsewhere."""

    group: str
    source: str
    server: Callable[..., embedded.Broker] | RemoteBroker


@dataclass(slots=True)
class Services:
    """What was found, the best first, and what of it has been started; all of that ends with `close`."""

    databases: list[DatabaseOffer]
    brokers: list[BrokerOffer]
    running: dict[Edition, DatabaseServer] = field(default_factory=dict)
    templates: dict[Edition, str] = field(default_factory=dict)
    _folder: Path | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @classmethod
    def find(cls) -> Services:
        """Look for every group; nothing is started yet."""
        return cls(list(database_offers()), list(broker_offers()))

    @property
    def editions(self) -> list[Edition]:
        """The editions that can be had, the simplest first."""
        return [edition for edition in EDITIONS if any(edition == offer.edition for offer in self.databases)]

    @property
    def groups(self) -> set[str]:
        """Every group that can be had."""
        return {*self.editions, *(offer.group for offer in self.brokers)}

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
        sources: dict[str, str] = {}
        for group, source in (
            *((offer.group, offer.source) for offer in self.brokers),
            *((offer.edition, offer.source) for offer in self.databases),
        ):
            sources.setdefault(group, source)
        return [f"{group}: {sources.get(group) or self.why_not(group)}" for group in (*BROKERS, *EDITIONS)]

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
        if group not in self.groups:
            pytest.skip(f"{group}: {self.why_not(group)}")

    def missing(self) -> list[str]:
        """The groups that ``ESP_TEST_REQUIRE`` names and that are not to be had, with the reason."""
        required = filter(None, os.environ.get("ESP_TEST_REQUIRE", "").split(","))
        return [f"{group}: {self.why_not(group)}" for group in required if group not in self.groups]

    def database_server(self, edition: Edition) -> DatabaseServer:
        """The session's server of that edition, started when it is first asked for."""
        if edition not in self.running:
            offer = next(offer for offer in self.databases if offer.edition == edition)
            if isinstance(offer.server, RemoteDatabase):
                self.running[edition] = offer.server
            else:
                workers = WITHOUT_WORKERS if edition != "postgresql" else {}
                server = offer.server(self.new_folder(), settings=FAST | workers | offer.settings)
                self.running[edition] = self._stack.enter_context(server)
        return self.running[edition]

    def own_database(self, edition: Edition | None, settings: Mapping[str, str]) -> embedded.Database:
        """A server, not started, that one test may do anything with; None is the best edition."""
        for wanted in [edition] if edition else reversed(EDITIONS):
            for offer in self.databases:
                if offer.edition == wanted and not isinstance(offer.server, RemoteDatabase):
                    return offer.server(self.new_folder(), settings=offer.settings | dict(settings))
        pytest.skip(f"{edition or 'PostgreSQL'}: none here that a test could start and kill")

    def broker(self) -> BrokerAddress:
        """The session's Mosquitto, running until `close`; the wheel's broker falls short of what most tests ask."""
        server = next(offer.server for offer in self.brokers if offer.group == "mosquitto")
        return server if isinstance(server, RemoteBroker) else self._stack.enter_context(server(self.new_folder()))

    def own_broker(self, group: str, **options: object) -> embedded.Broker:
        """A broker, not started, that one test may do anything with; the options are `embedded.Broker`'s."""
        self.skip_unless_offered(group)
        for offer in self.brokers:
            if offer.group == group and not isinstance(offer.server, RemoteBroker):
                return offer.server(self.new_folder(), **options)
        pytest.skip(f"{group}: none here that a test could start and kill")

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
            await self.seal(edition, name)
        return self.templates[edition]

    async def seal(self, edition: Edition, name: str) -> None:
        """Let nobody into a database any more, as one that is to be copied must be."""
        admin = self.database_server(edition).dsn
        if edition != "postgresql":  # a server that we do not run may have background workers
            await execute(_with_name(admin, name), "SELECT _timescaledb_functions.stop_background_workers()")
        await execute(admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")


def database_offers() -> Iterator[DatabaseOffer]:
    """Every edition that can be had, those to be preferred first."""
    if dsn := os.environ.get("ESP_TEST_DATABASE_DSN"):
        edition = asyncio.run(_edition_of(dsn))
        yield DatabaseOffer(edition, "ESP_TEST_DATABASE_DSN", RemoteDatabase(dsn))
    if container := containers.runner("ESP_TEST_TIMESCALEDB_IMAGE", containers.TIMESCALEDB_IMAGE):
        image, run = container
        found = containers.installation(image)
        for edition in EDITIONS[: EDITIONS.index(found.edition) + 1]:
            yield _database_offer(found, edition, f"PostgreSQL {found.version} in containers of {image}", run)
    given = os.environ.get("ESP_TEST_PG_BINDIR")
    machine = embedded.installations(*([Path(given)] if given else []))
    for found in machine:
        for edition in EDITIONS[1 : EDITIONS.index(found.edition) + 1]:
            yield _database_offer(found, edition, f"PostgreSQL {found.version} in {found.folder}")
    # For the plain edition, a server that lacks the extension comes before one that was told not to load it.
    for found in sorted(machine, key=lambda each: EDITIONS.index(each.edition)):
        yield _database_offer(found, "postgresql", f"PostgreSQL {found.version} in {found.folder}")


def _database_offer(
    found: embedded.Installation, edition: Edition, source: str, run: embedded.Run | None = None
) -> DatabaseOffer:
    """An edition that an installation has, or can be kept down to."""
    settings: dict[str, str] = {}
    if edition != found.edition:
        name, value = LIMITS[edition]
        settings[name] = value
        source += f", with {name}='{value}'"
    return DatabaseOffer(edition, source, partial(embedded.Database, installation=found, run=run), settings)


def broker_offers() -> Iterator[BrokerOffer]:
    """Every broker that can be had, those to be preferred first."""
    if url := os.environ.get("ESP_TEST_MQTT_URL"):
        yield BrokerOffer("mosquitto", "ESP_TEST_MQTT_URL", RemoteBroker(url))
    if container := containers.runner("ESP_TEST_MOSQUITTO_IMAGE", containers.MOSQUITTO_IMAGE):
        image, run = container
        inside = partial(embedded.Broker, mosquitto=Path("/usr/sbin/mosquitto"), run=run)
        yield BrokerOffer("mosquitto", f"containers of {image}", inside)
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


async def fetch(dsn: str, query: str, *arguments: object) -> list[Any]:
    """The rows of one query, on a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(query, *arguments))
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
