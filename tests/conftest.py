"""What every test can ask for: real brokers and real databases.

`database` and `empty_database` make a test run once for every edition that the machine offers; `broker` is one
for the whole session, so topics and client ids must be the test's own; `own_broker` and `own_database` start
services that one test alone may configure, pause, kill and start again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import asyncpg
import hypothesis
import pytest
from daemon import Daemon
from peer import PATIENCE_S
from pydantic import SecretStr
from services import BrokerAddress, Certificates, FreshDatabase, Query, Services, execute

from esp_ingestd import embedded
from esp_ingestd.config import DatabaseSettings
from esp_ingestd.database import Database, migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from esp_ingestd.embedded import Edition

FOUND = pytest.StashKey[Services]()

# The same examples at each run: what fails, fails for who broke it. `--hypothesis-profile=explore` looks for others.
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("steady")


class OwnBroker(Protocol):
    """Starts a Mosquitto for this test alone; see `embedded.Broker`. ``lines=()`` is a stock one."""

    def __call__(
        self, *, lines: Sequence[str] = embedded.RAISED_LIMITS, users: Mapping[str, str] | None = None
    ) -> embedded.Broker: ...


class OwnDatabase(Protocol):
    """Starts a server for this test alone, durable as in production; None is the best edition."""

    def __call__(
        self, edition: Edition | None = None, *, settings: Mapping[str, str] | None = None
    ) -> embedded.Database: ...


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "best_edition: runs on one edition, since the editions make no difference to it")
    config.addinivalue_line("markers", "community: about what TimescaleDB's community edition alone has")
    os.environ.pop("PYTHONUNBUFFERED", None)  # programs that are started here write as they do for a user
    # What a shell runs in its background ignores Ctrl-C, and so would the programs that are started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    services = config.stash[FOUND] = Services.find()
    config.add_cleanup(services.close)
    if missing := services.missing():
        raise pytest.UsageError("ESP_TEST_REQUIRE: " + "; ".join(missing))


def pytest_report_header(config: pytest.Config) -> list[str]:
    return config.stash[FOUND].describe()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Each worker has servers of its own, so there is one where somebody else runs them."""
    if os.environ.get("ESP_TEST_DATABASE_DSN") or os.environ.get("ESP_TEST_MQTT_URL"):
        return 1
    return min(len(os.sched_getaffinity(0)), 4)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "edition" in metafunc.fixturenames:
        offered = metafunc.config.stash[FOUND].editions
        if metafunc.definition.get_closest_marker("best_edition"):
            offered = offered[-1:]
        if metafunc.definition.get_closest_marker("community"):
            why_not = "timescaledb-community: " + metafunc.config.stash[FOUND].why_not("timescaledb-community")
            offered = [each for each in offered if each == "timescaledb-community"]
            metafunc.parametrize("edition", offered or [pytest.param(None, marks=pytest.mark.skip(why_not))])
            return
        metafunc.parametrize("edition", offered or [pytest.param(None, marks=pytest.mark.skip("no PostgreSQL here"))])


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Services:
    return pytestconfig.stash[FOUND]


@pytest.fixture
async def empty_database(services: Services, edition: Edition) -> AsyncIterator[FreshDatabase]:
    """A database as `CREATE DATABASE` leaves it: not even the extension is there."""
    async with services.fresh_database(edition) as fresh:
        yield fresh


@pytest.fixture
async def database(services: Services, edition: Edition) -> AsyncIterator[FreshDatabase]:
    """A database in which the edition's extension exists."""
    async with services.fresh_database(edition, template=await services.template(edition)) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def migrated_templates() -> dict[Edition, str]:
    """The names of databases that have the schema, to be copied; made when first asked for."""
    return {}


@pytest.fixture
async def migrated(
    services: Services, edition: Edition, migrated_templates: dict[Edition, str]
) -> AsyncIterator[FreshDatabase]:
    """A database that has the schema."""
    if edition not in migrated_templates:
        name = f"esp_test_migrated_{secrets.token_hex(6)}"
        admin = services.database_server(edition).dsn
        await execute(admin, f"CREATE DATABASE {name} TEMPLATE {await services.template(edition)}")
        dsn = urlsplit(admin)._replace(path=f"/{name}").geturl()
        await migrate(DatabaseSettings(dsn=SecretStr(dsn)))
        await services.seal(edition, name)
        migrated_templates[edition] = name
    async with services.fresh_database(edition, template=migrated_templates[edition]) as fresh:
        yield fresh


@pytest.fixture
async def store(migrated: FreshDatabase) -> AsyncIterator[Database]:
    """A database that has the schema, as the program sees it."""
    patient = {"connect_timeout_s": PATIENCE_S, "write_timeout_s": PATIENCE_S}
    database = Database(DatabaseSettings(dsn=SecretStr(migrated.dsn), **patient))
    yield database
    await database.close()


@pytest.fixture
async def query(migrated: FreshDatabase) -> AsyncIterator[Query]:
    """Asks the same database past the program."""
    connection = await asyncpg.connect(migrated.dsn)
    yield connection.fetch
    await connection.close()


@pytest.fixture
def prefix() -> str:
    """Topics of this test alone."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def daemon(tmp_path: Path, prefix: str, broker: BrokerAddress, migrated: FreshDatabase) -> Iterator[Daemon]:
    """The daemon between broker and database, not started."""
    made = Daemon(tmp_path, broker, migrated.dsn, client_id=prefix, prefix=prefix)
    yield made
    made.__exit__()


@pytest.fixture(scope="session")
def broker(services: Services) -> BrokerAddress:
    """A Mosquitto with raised limits that all tests share."""
    services.skip_unless_offered("mosquitto")
    return services.broker()


@pytest.fixture
def own_broker(services: Services) -> Iterator[OwnBroker]:
    with contextlib.ExitStack() as stack:

        def start(
            *, lines: Sequence[str] = embedded.RAISED_LIMITS, users: Mapping[str, str] | None = None
        ) -> embedded.Broker:
            return stack.enter_context(services.own_broker("mosquitto", lines=lines, users=users))

        yield start


@pytest.fixture(scope="session")
def certificates(services: Services) -> Certificates:
    """A broker's certificate for 127.0.0.1, a client's, and one that the broker has no reason to trust."""
    return Certificates.issue(services.new_folder())


@pytest.fixture
def own_database(services: Services) -> Iterator[OwnDatabase]:
    with contextlib.ExitStack() as stack:

        def start(edition: Edition | None = None, *, settings: Mapping[str, str] | None = None) -> embedded.Database:
            return stack.enter_context(services.own_database(edition, settings or {}))

        yield start
