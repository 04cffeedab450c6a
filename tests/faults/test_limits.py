"""What a site does to a daemon beyond cut wires: servers that refuse, full disks, bad clocks, floods.

Each reading has a number of its own; at the end every number is in the database once, and the counters agree (I2).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import resource
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
import trustme
from daemon import Daemon, balance
from faults.wellsite import Rtu, Site, add_role, numbers, why_not
from peer import Peer, until

from esp_ingestd.embedded import RAISED_LIMITS, Broker, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from conftest import OwnBroker, OwnDatabase
    from services import Services

    Away = Callable[["Site"], contextlib.AbstractAsyncContextManager[None]]

# ------------------------------------------------------------------------------------------- the database is away


@contextlib.asynccontextmanager
async def read_only(site: Site) -> AsyncIterator[None]:
    await site.admin("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    yield
    await site.admin("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


@contextlib.asynccontextmanager
async def too_many_connections(site: Site) -> AsyncIterator[None]:
    """Others take every connection that is not kept for administrators."""
    async with contextlib.AsyncExitStack() as others:
        while "53300" not in why_not(site.daemon, "database"):
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                others.push_async_callback((await asyncpg.connect(site.dsn)).close)
                continue
            await site.admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'esp-ingestd%'"
            )
        yield


@contextlib.asynccontextmanager
async def another_password(site: Site) -> AsyncIterator[None]:
    await site.admin("ALTER ROLE esp PASSWORD 'other'")
    await site.hang_up()
    yield
    await site.admin("ALTER ROLE esp PASSWORD 'secret'")


@contextlib.asynccontextmanager
async def shut_down(site: Site) -> AsyncIterator[None]:
    site.server.stop()
    yield
    site.server.start()


@contextlib.asynccontextmanager
async def out_of_disk(site: Site) -> AsyncIterator[None]:
    """The table is on a file system of its own, and somebody else fills that."""
    with mounted(site.server.folder / "small", "16m") as small:
        shutil.chown(small, user=site.server.folder.owner())
        await site.admin(
            f"CREATE TABLESPACE small LOCATION '{small}'", "ALTER TABLE esp_telemetry SET TABLESPACE small"
        )
        fill(small / "ballast")
        yield
        (small / "ballast").unlink()
        await until(lambda: site.daemon.metrics()["readings_spooled"] == 0)
        await site.admin("ALTER TABLE esp_telemetry SET TABLESPACE pg_default", "DROP TABLESPACE small")


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(4_096)):
            pass


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A small file system in memory."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small file system can only be mounted by root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - wherever the system has it


@pytest.mark.parametrize(
    ("away", "kind", "said"),
    [
        (read_only, "read_only", "no host can be written to|read-only"),
        (too_many_connections, "resources", "53300"),
        (another_password, "authentication", "28P01"),
        (shut_down, "connection", "refused|Connect"),
        (out_of_disk, "resources", "53100"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
async def test_i5_a_database_that_cannot_take_readings_now_gets_them_later(
    site: Site, away: Away, kind: str, said: str
) -> None:
    """Issue by issue what counts as away: told with its kind, spooled, acknowledged, drained; no dead letter."""
    site.daemon.start()
    await until(site.daemon.is_ready)
    site.rtu.send(20)
    await until(lambda: site.daemon.at_rest(20))
    async with away(site):
        # As many as do not fit into what PostgreSQL has left of its last page.
        site.rtu.send(500)
        await until(lambda: site.daemon.metrics()["readings_spooled"] > 0)
        await until(lambda: site.daemon.metrics()["readings_in_flight"] == 0, "acknowledged")
        assert site.daemon.metrics()[f"store_errors_total{{{kind}}}"] >= 1
        why = why_not(site.daemon, "database")
        assert any(each in why for each in said.split("|")), why
        assert "secret" not in site.daemon.log.read_text()
    await until(site.daemon.is_ready)
    site.rtu.send(20)
    await site.settled()
    assert site.daemon.metrics()["readings_rejected_total"] == 0


async def test_i5_a_batch_that_the_database_does_not_take_in_time_goes_in_in_parts(site: Site) -> None:
    """As one it would be tried for ever: each attempt begins anew."""
    site.daemon.settings["database"] |= {"write_timeout_s": 2.0}
    site.daemon.settings["batch"] = {"max_rows": 200}
    site.daemon.start()
    await until(site.daemon.is_ready)
    await site.admin(
        "CREATE FUNCTION crawl() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.02); RETURN new; END$$",
        "CREATE TRIGGER crawl BEFORE INSERT ON esp_telemetry FOR EACH ROW EXECUTE FUNCTION crawl()",
    )
    site.rtu.send_array(200)  # 4 s
    await until(lambda: site.daemon.metrics().get("store_errors_total{timeout}"))
    await until(lambda: site.daemon.metrics()["readings_in_flight"] == 0, "acknowledged")
    await until(lambda: site.daemon.metrics()["readings_spooled"] == 0, "drained")
    assert await site.counted() == list(range(200))
    assert balance(site.daemon) == 0
    assert site.daemon.metrics()["database_rows_at_once"] <= 50
    (warned,) = [line for line in site.daemon.said() if "takes too long" in line["event"]]
    assert (warned["level"], warned["rows"], warned["rows_at_once"]) == ("warning", 200, 50)
    await site.admin("DROP TRIGGER crawl ON esp_telemetry")
    while site.daemon.metrics()["database_rows_at_once"] < 200:
        site.rtu.send_array(200)
        await until(lambda: site.daemon.at_rest(site.rtu.sent))
    await until(lambda: site.daemon.metrics()["readings_spooled"] == 0)
    assert await site.counted() == list(range(site.rtu.sent))
    assert any("whole batches again" in line["event"] for line in site.daemon.said())


async def test_of_several_hosts_the_one_that_can_be_written_to_is_found(
    tmp_path: Path, own_broker: OwnBroker, own_database: OwnDatabase
) -> None:
    first, second = own_database("postgresql"), own_database("postgresql")
    for server in (first, second):
        await add_role(server.dsn)
    site = Site(tmp_path, own_broker(), first)
    hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
    site.daemon.settings["database"]["dsn"] = f"postgresql://esp:secret@{hosts}/postgres"
    with site.daemon:
        await until(site.daemon.is_ready)
        site.rtu.send(50)
        await until(lambda: site.daemon.at_rest(50))
        assert await site.counted() == list(range(50))
        async with read_only(site):  # as a primary that has become a standby
            site.rtu.send(50)
            await until(lambda: site.daemon.metrics()["readings_stored_total"] == 100)
            assert await numbers(second.dsn) == list(range(50, 100))
            first.kill()
            site.rtu.send(50)
            await until(lambda: site.daemon.metrics()["readings_stored_total"] == 150)
            second.kill()
            site.rtu.send(50)
            await until(lambda: site.daemon.metrics()["readings_spooled"] == 50)
            first.start()
            second.start()
            await until(lambda: site.daemon.metrics()["readings_spooled"] == 0)
        await until(site.daemon.is_ready)
        assert await site.counted(first.dsn, second.dsn) == list(range(200))
        assert balance(site.daemon) == 0


# --------------------------------------------------------------------------------------------- the broker is away


def certificate(authority: trustme.CA, path: Path, *, days: int) -> None:
    until_when = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    since = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    issued = authority.issue_cert("127.0.0.1", not_before=since, not_after=until_when)
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    path.chmod(0o644)


async def test_a_broker_whose_certificate_has_expired_is_told_and_left_until_it_has_another(
    site: Site, services: Services
) -> None:
    """What RTUs send meanwhile, by a listener without TLS, the broker keeps for us."""
    folder = services.new_folder()
    folder.chmod(0o755)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "ca.pem").chmod(0o644)
    certificate(authority, folder / "broker.pem", days=1)
    broker = site.rtu.broker
    assert isinstance(broker, Broker)
    port = free_port()
    tls = (f"listener {port} 127.0.0.1", f"certfile {folder}/broker.pem", f"keyfile {folder}/broker.pem")
    broker.stop()
    broker.lines = (*RAISED_LIMITS, f"listener {broker.port} 127.0.0.1", *tls)
    broker.start()
    site.daemon.settings["mqtt"] |= {"port": port, "tls_ca_file": str(folder / "ca.pem")}
    site.daemon.start()
    await until(site.daemon.is_ready)
    site.rtu.send(20)
    await until(lambda: site.daemon.at_rest(20))

    broker.stop()
    certificate(authority, folder / "broker.pem", days=-1)
    broker.start()
    site.rtu.send(20)
    await until(lambda: "certificate has expired" in why_not(site.daemon, "broker"))
    assert any("certificate has expired" in line.get("why", "") for line in site.daemon.said())
    assert site.daemon.metrics()["mqtt_connected"] == 0

    broker.stop()
    certificate(authority, folder / "broker.pem", days=1)
    broker.start()
    await until(site.daemon.is_ready)
    await site.settled()


async def test_a_password_that_the_broker_takes_no_more_is_told_and_works_again_once_it_does(
    tmp_path: Path, own_broker: OwnBroker, own_database: OwnDatabase
) -> None:
    broker, server = own_broker(users={"esp": "secret", "rtu": "rtu"}), own_database()
    await add_role(server.dsn)
    site = Site(tmp_path, broker, server)
    site.rtu = Rtu(broker, user="rtu", password="rtu")  # noqa: S106 - the test's own broker
    (tmp_path / "password").write_text("secret")
    site.daemon.settings["mqtt"] |= {"username": "esp", "password_file": "password"}
    with site.daemon:
        await until(site.daemon.is_ready)
        site.rtu.send(20)
        await until(lambda: site.daemon.at_rest(20))
        broker.stop()
        broker.users = {"esp": "other", "rtu": "rtu"}
        broker.start()
        site.rtu.send(20)
        await until(lambda: "Not authori" in why_not(site.daemon, "broker"))
        assert any("Not authori" in line.get("why", "") for line in site.daemon.said())
        broker.stop()
        broker.users = {"esp": "secret", "rtu": "rtu"}
        broker.start()
        await until(site.daemon.is_ready)
        await site.settled()


async def test_two_daemons_of_one_client_id_end_their_duel_and_lose_nothing(site: Site, tmp_path: Path) -> None:
    """The broker says it or not: one of them sees that it is thrown off again and again, and pauses for long."""
    other = Daemon(tmp_path / "other", site.rtu.broker, site.dsn, client_id="d", prefix="d")
    other.folder.mkdir()
    site.daemon.start()
    await until(site.daemon.is_ready)
    with other:
        both = (site.daemon, other)
        await until(lambda: any("taken over" in each.log.read_text().lower() for each in both))
        site.rtu.send(100)
        await until(lambda: sum(each.metrics().get("readings_stored_total", 0) for each in both) == 100)
        assert await other.stop() == 0
    assert await site.counted() == list(range(100))


# --------------------------------------------------------------------------------------------- the machine's limits


async def test_a_disk_that_is_full_stops_intake_and_loses_nothing(site: Site) -> None:
    """Promise 3, and the end of promise 1: no room for spool, alarms' memory or log, and no database."""
    site.daemon.settings["batch"] = {"max_in_flight_rows": 1_000, "max_rows": 200}
    site.daemon.start()
    await until(site.daemon.is_ready)
    with full_disk(site.daemon):
        site.server.stop()
        site.rtu.send(5_000)
        await until(lambda: site.daemon.metrics()["intake_paused"] == 1)
        errors = site.daemon.metrics()["store_errors_total{spool}"]
        await until(lambda: site.daemon.metrics()["store_errors_total{spool}"] >= errors + 2, "it goes on trying")
        assert 1_000 <= site.daemon.metrics()["readings_in_flight"] < 3_000
        assert site.daemon.metrics()["readings_spooled"] == 0
    await until(lambda: site.daemon.metrics()["readings_spooled"] == 5_000)
    site.server.start()
    await site.settled()
    assert await site.daemon.stop() == 0


async def test_it_stops_with_everything_against_it_and_the_broker_keeps_the_rest(site: Site) -> None:
    """Database and broker frozen, the disk full: promise 5 where nothing can be drained."""
    site.daemon.settings["service"] = {"shutdown_timeout_s": 4.0}
    site.daemon.settings["database"] |= {"write_timeout_s": 1.0, "connect_timeout_s": 1.0}
    site.daemon.start()
    await until(site.daemon.is_ready)
    broker = site.rtu.broker
    assert isinstance(broker, Broker)
    with full_disk(site.daemon):
        site.server.pause()
        site.rtu.send(500)
        await until(lambda: site.daemon.metrics()["readings_in_flight"] == 500)
        await until(lambda: site.daemon.metrics().get("store_errors_total{spool}"))
        broker.pause()
        assert await site.daemon.stop() == 0
    broker.resume()
    site.server.resume()
    site.daemon.start()
    await until(site.daemon.is_ready)
    await until(lambda: site.daemon.at_rest(500))
    assert await site.counted() == list(range(500))


@contextlib.contextmanager
def full_disk(daemon: Daemon) -> Iterator[None]:
    """No file of the daemon's can grow: write(2) fails with EFBIG as it does with ENOSPC on a full disk."""
    before = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        if daemon.process.poll() is None:
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, before)


async def test_a_spool_that_reaches_its_limit_stops_intake_until_there_is_room(site: Site) -> None:
    site.daemon.settings["batch"] = {"max_in_flight_rows": 1_000, "max_rows": 200}
    site.daemon.settings["spool"]["max_bytes"] = 1_048_576
    site.daemon.start()
    await until(site.daemon.is_ready)
    site.server.stop()
    site.rtu.send(1_000, beside=lambda: secrets.token_bytes(5_000))  # letters that do not compress
    await until(lambda: site.daemon.metrics().get("store_errors_total{spool_full}"))
    await until(lambda: site.daemon.metrics()["intake_paused"] == 1)
    assert site.daemon.metrics()["spool_bytes"] <= 1_048_576
    site.server.start()
    await until(lambda: site.daemon.metrics()["readings_stored_total"] == site.rtu.sent)
    assert site.daemon.metrics()["intake_paused"] == 0
    assert await site.counted() == list(range(site.rtu.sent))
    assert balance(site.daemon) == 0


async def test_without_file_descriptors_it_lives_and_connects_once_there_are_some(site: Site) -> None:
    site.daemon.start()
    await until(site.daemon.is_ready)
    pid = site.daemon.process.pid
    site.rtu.send(20)
    await until(lambda: site.daemon.at_rest(20))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, before[1]))
    await site.hang_up()
    site.rtu.send(200)
    # No new connection, neither to the database nor for who would look at the metrics; its log is open.
    await until(lambda: any("Too many open files" in str(line) for line in site.daemon.said()))
    assert await asyncio.to_thread(spooled_on_disk, site.daemon) > 0
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    await until(site.daemon.is_ready)
    await site.settled()


def spooled_on_disk(daemon: Daemon) -> int:
    """What `esp-ingestd spool status` says, once it says anything."""
    while True:
        command = [sys.executable, "-m", "esp_ingestd", "spool", "status", "--config", str(daemon.config)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if "holds readings" in said:
            return int(said.partition("readings: ")[2].split()[0])


class Clock:
    """The wall clock of a daemon, to be set at will; the monotonic one stays right."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.offset = folder / "offset"
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def turn(self, hours: int) -> None:
        """Set it so many hours off."""
        beside = self.offset.with_suffix(".new")
        beside.write_text(f"{hours:+}h\n")
        beside.rename(self.offset)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not here: apt install faketime")
    return Clock(library, tmp_path)


async def test_a_clock_that_jumps_loses_and_delays_nothing(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day back, then a week ahead of that, then right again; with the database there and away."""
    clock.turn(0)
    with monkeypatch.context() as environment:
        for name, value in clock.environment.items():
            environment.setenv(name, value)
        site.daemon.start()
    await until(site.daemon.is_ready)
    for hours in (0, -24, +144, 0):
        clock.turn(hours)
        site.rtu.send(50)
        await until(lambda: site.daemon.at_rest(site.rtu.sent))
    site.server.stop()
    for hours in (-24, +144, 0):
        clock.turn(hours)
        site.rtu.send(50)
        await until(lambda: site.daemon.at_rest(site.rtu.sent))
    site.server.start()
    await site.settled()
    connection = await asyncpg.connect(site.server.dsn)
    days = await connection.fetchval("SELECT extract(day FROM max(received_at) - min(received_at)) FROM esp_telemetry")
    await connection.close()
    assert days == 7, "the clock did jump"
    assert await site.daemon.stop() == 0


async def test_a_daemon_that_was_frozen_beyond_its_keepalive_takes_up_where_it_was(site: Site) -> None:
    """SIGSTOP, and the broker gives it up after one and a half keepalives (MQTT 5 section 3.1.2.10)."""
    site.daemon.settings["mqtt"]["keepalive_s"] = 5
    site.daemon.start()
    await until(site.daemon.is_ready)
    with Peer(site.rtu.broker, subscribe="esp/ingestd/d/status") as scada:
        await until(lambda: scada.messages)
        site.daemon.send(signal.SIGSTOP)
        site.rtu.send(300)
        await until(lambda: json.loads(scada.messages[-1].payload)["online"] is False, "the last will")
        site.daemon.send(signal.SIGCONT)
        await until(lambda: json.loads(scada.messages[-1].payload)["online"] is True)
    await until(lambda: site.daemon.metrics()["readings_stored_total"] == 300)
    await until(lambda: site.daemon.metrics()["readings_in_flight"] == 0)
    assert await site.counted() == list(range(300))
    assert balance(site.daemon) == 0


# ----------------------------------------------------------------------------------------------------------- floods


async def test_one_well_sending_a_thousand_times_its_rate_costs_the_others_nothing(site: Site) -> None:
    site.daemon.start()
    await until(site.daemon.is_ready)
    flood = asyncio.create_task(asyncio.to_thread(site.rtu.send, 10_000, well="LOUD"))
    quiet = Rtu(site.rtu.broker)
    quiet.sent = 1_000_000
    for _ in range(10):
        await asyncio.to_thread(quiet.send, 1, well="QUIET")
    await flood
    await until(lambda: site.daemon.at_rest(10_010))
    assert await site.counted() == [*range(10_000), *range(1_000_000, 1_000_010)]
    assert site.daemon.metrics()["wells_active"] == 2
    assert balance(site.daemon) == 0


async def test_promise_4_a_flood_of_poison_costs_its_neighbours_nothing(site: Site) -> None:
    """Every other message is bad, each in its own way, with the database there and away."""
    site.daemon.start()
    await until(site.daemon.is_ready)
    site.rtu.send(1_000, beside=lambda: b"\xff")
    await until(lambda: site.daemon.at_rest(2_000))
    site.server.stop()
    site.rtu.send(1_000, beside=lambda: b"{")
    await until(lambda: site.daemon.at_rest(4_000))
    site.server.start()
    await until(lambda: site.daemon.metrics()["readings_stored_total"] == 2_000)
    await until(lambda: site.daemon.metrics()["readings_spooled"] == 0)
    assert site.daemon.metrics()["readings_rejected_total"] == 2_000
    assert balance(site.daemon) == 0
    assert await site.counted() == list(range(2_000))
    connection = await asyncpg.connect(site.server.dsn)
    assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 2_000
    await connection.close()
