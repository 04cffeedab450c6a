"""The daemon whole: `esp-ingestd run` as a process between a real broker and a real database."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from daemon import NOWHERE, Daemon, balance, program
from peer import PATIENCE_S, Peer, until
from pydantic import SecretStr
from services import fetch

from esp_ingestd.config import DatabaseSettings
from esp_ingestd.database import migrate
from esp_ingestd.service import _unending

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from conftest import OwnBroker, OwnDatabase
    from services import BrokerAddress, FreshDatabase

T0_MS = 1_700_000_000_000


async def ready(daemon: Daemon) -> None:
    await until(daemon.is_ready, "ready")


def payload(number: int, **more: object) -> str:
    return json.dumps({"timestamp": T0_MS + 1_000 * number, "pip": float(number), **more})


# -------------------------------------------------------------------------------------------------- start and stop


async def test_with_nothing_else_running_it_is_live_and_not_ready(tmp_path: Path) -> None:
    with Daemon(tmp_path, None, NOWHERE, client_id="alone", prefix="alone") as daemon:
        await until(lambda: daemon.get("/health/live")[0] == 200)
        status, body = daemon.get("/health/ready")
        assert status == 503
        dependencies = json.loads(body)["dependencies"]
        assert {name for name, each in dependencies.items() if each["state"] == "down"} == set(dependencies)
        assert {"broker", "database"} <= set(dependencies)
        assert daemon.get("/health")[0] == 503
        assert daemon.metrics()["mqtt_connected"] == daemon.metrics()["database_connected"] == 0
        assert await daemon.stop() == 0


@pytest.mark.parametrize("first", ["broker", "database"])
async def test_broker_and_database_may_appear_in_any_order(
    tmp_path: Path, own_broker: OwnBroker, own_database: OwnDatabase, first: str
) -> None:
    broker, database = own_broker(), own_database()
    await migrate(DatabaseSettings(dsn=SecretStr(database.dsn)))
    broker.stop()
    database.stop()
    parts = {"broker": broker, "database": database}
    with Daemon(tmp_path, broker, database.dsn, client_id="d", prefix="d") as daemon:
        await until(lambda: daemon.get("/health/live")[0] == 200)
        for name in (first, *(parts.keys() - {first})):
            assert not daemon.is_ready()
            parts[name].start()
            await until(lambda: json.loads(daemon.get("/health")[1])["dependencies"][name]["state"] == "up")  # noqa: B023
        await ready(daemon)
        assert await daemon.stop() == 0


@pytest.mark.best_edition
async def test_it_goes_on_by_itself_once_the_schema_is_there(
    tmp_path: Path, prefix: str, broker: BrokerAddress, database: FreshDatabase
) -> None:
    with (
        Daemon(tmp_path, broker, database.dsn, client_id=prefix, prefix=prefix) as daemon,
        Peer(broker) as rtu,
    ):
        await until(lambda: "esp-ingestd migrate" in daemon.get("/health/ready")[1], "it says which command to run")
        await until(lambda: daemon.metrics()["mqtt_connected"])
        rtu.publish(f"{prefix}/W1/telemetry", payload(1))
        await until(lambda: daemon.metrics()["readings_spooled"] == 1)
        await migrate(DatabaseSettings(dsn=SecretStr(database.dsn)))
        await ready(daemon)
        await until(lambda: daemon.metrics()["readings_stored_total"] == 1)
        assert balance(daemon) == 0


@pytest.mark.best_edition
async def test_sigterm_drains_what_is_under_way_and_leaves_the_rest_to_the_broker(
    daemon: Daemon, prefix: str, broker: BrokerAddress, migrated: FreshDatabase
) -> None:
    daemon.settings["batch"] = {"max_age_ms": 60_000}
    daemon.start()
    await ready(daemon)
    with Peer(broker, subscribe=f"esp/ingestd/{prefix}/status") as rtu:
        rtu.publish_all((f"{prefix}/W1/telemetry", payload(number)) for number in range(5))
        assert await daemon.stop() == 0
        assert len(await fetch(migrated.dsn, "SELECT 1 FROM esp_telemetry")) == 5
        await until(lambda: json.loads(rtu.messages[-1].payload)["online"] is False)
        rtu.publish(f"{prefix}/W1/telemetry", payload(6))
    daemon.settings["batch"] = {}
    daemon.start()
    await until(lambda: daemon.at_rest(1), "only the sixth was left with the broker")
    assert await daemon.stop() == 0


@pytest.mark.best_edition
async def test_a_second_signal_cuts_at_once(daemon: Daemon, prefix: str, broker: BrokerAddress) -> None:
    """While the database is frozen by a lock, draining takes its time."""
    daemon.settings["service"] = {"shutdown_timeout_s": 3600.0}
    daemon.settings["database"]["write_timeout_s"] = 3600.0
    daemon.start()
    await ready(daemon)
    dsn = str(daemon.settings["database"]["dsn"])
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute("LOCK TABLE esp_telemetry IN ACCESS EXCLUSIVE MODE")
        with Peer(broker) as rtu:
            rtu.publish(f"{prefix}/W1/telemetry", payload(1))
        await until(lambda: daemon.metrics()["readings_in_flight"] == 1)
        daemon.send(signal.SIGTERM)
        await until(lambda: any(line["event"] == "stopping" for line in daemon.said()))
        assert daemon.process.poll() is None
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 1
    await connection.close()


async def test_a_wrong_configuration_is_refused_whole_before_anything_is_touched(tmp_path: Path) -> None:
    """Promise 7."""
    daemon = Daemon(tmp_path, None, "mysql://x", client_id="a+b", prefix="p")
    daemon.settings["batch"] = {"max_rows": 0, "max_age": 5}
    daemon.settings["diagnosis"] = {}
    daemon.start()
    assert await daemon.ended() == 78
    said = daemon.log.read_text()
    for key in ("database.dsn", "mqtt.client_id", "batch.max_rows", "batch.max_age"):
        assert key in said
    assert len(said.splitlines()) == 4, "one plain line each"
    assert _names(tmp_path) == {"log", "esp-ingestd.toml"}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_a_wrong_wells_file_is_a_wrong_configuration(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, None, NOWHERE, client_id="c", prefix="p")
    (tmp_path / "wells.toml").write_text("[defaults]\nnameplate_current_a = -1\ncolour = 'red'\n")
    daemon.settings["diagnosis"] = {"wells_file": "wells.toml"}
    daemon.start()
    assert await daemon.ended() == 78
    assert "nameplate_current_a" in daemon.log.read_text()
    assert "colour" in daemon.log.read_text()
    assert not (tmp_path / "spool").exists()


async def test_a_taken_http_port_is_told(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, None, NOWHERE, client_id="c", prefix="p")
    with socket.create_server(("127.0.0.1", daemon.port)):
        daemon.start()
        assert await daemon.ended() == 1
    said = daemon.log.read_text()
    assert "Address already in use" in said
    assert str(daemon.port) in said
    assert "Traceback" not in said


async def test_a_spool_that_another_daemon_uses_is_told_in_a_line(tmp_path: Path) -> None:
    first, second = (Daemon(tmp_path / name, None, NOWHERE, client_id=name, prefix="p") for name in ("one", "two"))
    for daemon in (first, second):
        daemon.folder.mkdir()
    second.settings["spool"] = first.settings["spool"]
    with first:
        await until(lambda: first.get("/health/startup")[0] == 200)
        second.start()
        assert await second.ended() == 1
    said = second.log.read_text()
    assert "another daemon uses it; give each its own" in said
    assert "Traceback" not in said


def _full_disk() -> BinaryIO:
    return Path("/dev/full").open("wb")


def _reader_that_left() -> BinaryIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb")


@pytest.mark.parametrize("log", [_full_disk, _reader_that_left])
async def test_a_log_that_nobody_can_write_changes_no_exit_status(tmp_path: Path, log: Callable[[], BinaryIO]) -> None:
    daemon = Daemon(tmp_path, None, NOWHERE, client_id="c", prefix="p")
    daemon.start(logging_to=log())
    await until(lambda: daemon.get("/health/live")[0] == 200)
    assert await daemon.stop() == 0
    with socket.create_server(("127.0.0.1", daemon.port)):
        daemon.start(logging_to=log())
        assert await daemon.ended() == 1
    daemon.settings["batch"] = {"max_rows": 0}
    daemon.start(logging_to=log())
    assert await daemon.ended() == 78


def _fill(pipe: int) -> int:
    """How many bytes there was room for."""
    os.set_blocking(pipe, False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(pipe, b"." * 4_096)
    os.set_blocking(pipe, True)
    return filled


async def test_a_reader_of_the_log_that_stops_reading_stops_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    filled = _fill(writer)
    daemon = Daemon(tmp_path, None, NOWHERE, client_id="c", prefix="p")
    daemon.start(logging_to=os.fdopen(os.dup(writer), "wb"))
    await until(lambda: daemon.get("/health/live")[0] == 200)
    heard = b""
    while b"is still away" not in heard:  # it reads on: nothing is missing
        heard += await asyncio.to_thread(os.read, reader, 65_536)
    assert b'"starting"' in heard[filled:]
    _fill(writer)
    assert await daemon.stop() == 0
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WATCHDOG_USEC", "no number")
        daemon.start(logging_to=os.fdopen(writer, "wb"))
    assert await daemon.ended() == 1, "also where it ends by a fault"
    os.close(reader)


async def test_an_answer_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, None, NOWHERE, client_id="c", prefix="p")
    daemon.write_config()
    with _full_disk() as lost:
        status, _, errors = await program("check", "--config", str(daemon.config), answering_to=lost)
    assert (status, errors) == (1, "esp-ingestd: No space left on device\n")


async def test_a_task_that_ends_unexpectedly_ends_the_process(tmp_path: Path) -> None:
    """I7: here the clock's task, by a variable of systemd's that is no number."""
    daemon = Daemon(tmp_path, None, NOWHERE, client_id="c", prefix="p")
    os.environ["WATCHDOG_USEC"] = "no number"
    try:
        daemon.start()
    finally:
        del os.environ["WATCHDOG_USEC"]
    assert await daemon.ended() == 1
    assert "no number" in daemon.log.read_text()


async def test_a_task_that_just_returns_is_a_fault_too() -> None:
    with pytest.raises(RuntimeError, match="task told ended by itself"):
        await _unending("told", asyncio.sleep(0))


# ------------------------------------------------------------------------------------------------------ bad input

POISON: dict[str, bytes] = {
    "not_utf8": b'{"timestamp": 1700000000, "pip": "\xff"}',
    "not_json": b'{"timestamp": 1700000000, "pip": 1',
    "too_large": b'{"pip": 1, "x": "' + b"y" * 2_000_000 + b'"}',
    "too_deep": b'{"timestamp": 1700000000, "pip": 1, "x": ' + b"[" * 40 + b"]" * 40 + b"}",
    "empty": b"",
    "not_an_object": b"17",
    "no_timestamp": b'{"pip": 1}',
    "bad_timestamp": b'{"timestamp": "yesterday", "pip": 1}',
    "naive_timestamp": b'{"timestamp": "2026-01-01T00:00:00", "pip": 1}',
    "implausible_timestamp": b'{"timestamp": "1999-12-31T23:59:59Z", "pip": 1}',
    "no_channel": b'{"timestamp": 1700000000, "pip": null, "comment": "x"}',
    "bad_well_id": b'{"timestamp": 1700000000, "pip": 1, "well_id": "a b"}',
    "well_id_mismatch": b'{"timestamp": 1700000000, "pip": 1, "well_id": "W2"}',
    "unstorable_text": b'{"timestamp": 1700000000, "pip": 1, "x": "\\u0000"}',
}


async def test_every_kind_of_bad_input_becomes_a_dead_letter_with_its_reason(
    daemon: Daemon, prefix: str, broker: BrokerAddress, migrated: FreshDatabase
) -> None:
    """CONTRACT 3, through the real broker, on every edition; neighbours are stored, redelivery adds no row."""
    daemon.start()
    await ready(daemon)
    topic = f"{prefix}/W1/telemetry"
    with Peer(broker) as rtu:
        for _ in range(2):
            for number, poison in enumerate(POISON.values()):
                rtu.publish(topic, poison)
                rtu.publish(topic, payload(number))
        rtu.publish(topic, f'[{payload(100)}, {{"pip": 1}}, 7, {payload(101)}]')
        sent = 4 * len(POISON) + 4
        await until(lambda: daemon.at_rest(sent))
    letters = {row["reason"]: row for row in await fetch(migrated.dsn, "SELECT * FROM dead_letters WHERE times = 2")}
    assert letters.keys() == POISON.keys()
    for reason, poison in POISON.items():
        assert letters[reason]["topic"] == topic
        assert letters[reason]["payload"] == poison[:65_536]
        assert json.loads(letters[reason]["detail"])
    assert json.loads(letters["too_large"]["detail"])["size_bytes"] == len(POISON["too_large"])
    (mixed,) = await fetch(migrated.dsn, "SELECT * FROM dead_letters WHERE times = 1")
    assert (mixed["reason"], json.loads(mixed["detail"])["refused"]) == ("no_timestamp", 2)
    stored = await fetch(migrated.dsn, 'SELECT pip FROM esp_telemetry ORDER BY "timestamp"')
    assert [row[0] for row in stored] == [*map(float, range(len(POISON))), 100.0, 101.0]
    now = daemon.metrics()
    assert now["readings_stored_total"] == len(POISON) + 2
    assert now["readings_duplicate_total"] == len(POISON)
    assert now["readings_rejected_total"] == 2 * len(POISON) + 2
    assert balance(daemon) == 0


@pytest.mark.best_edition
async def test_memory_stays_bounded_under_payloads_of_10_mb(daemon: Daemon, prefix: str, broker: BrokerAddress) -> None:
    """I3."""
    daemon.start()
    await ready(daemon)
    before = _resident_bytes(daemon)
    with Peer(broker) as rtu:
        for number in range(10):
            rtu.publish(f"{prefix}/W1/telemetry", bytes([65 + number]) * 10_000_000)
    await until(lambda: daemon.at_rest(10))
    assert daemon.metrics()["readings_rejected_total{too_large}"] == 10
    assert _resident_bytes(daemon) - before < 10_000_000


def _resident_bytes(daemon: Daemon) -> int:
    """The most that it had at any time."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


# --------------------------------------------------------------------------------------------------------- alerts

KEYS: dict[str, type | tuple[type, ...]] = {
    "event_id": str,
    "alarm_id": str,
    "well_id": str,
    "timestamp": str,
    "transition": str,
    "reason": str,
    "state": str,
    "role": str,
    "group": str,
    "diagnosis": str,
    "category": str,
    "severity": str,
    "priority": int,
    "confidence": float,
    "raised_at": str,
    "message": str,
    "evidence": dict,
    "path": list,
    "actions": list,
    "resolution_time": str,
    "recurring": bool,
    "count": int,
    "tree_version": str,
}


@pytest.mark.best_edition
async def test_alerts_have_the_contracts_keys_and_types_and_states_are_retained(
    daemon: Daemon, prefix: str, broker: BrokerAddress, migrated: FreshDatabase
) -> None:
    (daemon.folder / "wells.toml").write_text("[defaults]\nnameplate_current_a = 50.0\n")
    daemon.settings["diagnosis"] = {"wells_file": "wells.toml"}
    daemon.start()
    await ready(daemon)
    with Peer(broker, subscribe=f"{prefix}/alerts/#") as scada:
        for number in range(80):
            amperes = 65.0 if 20 <= number < 40 else 45.0
            scada.publish(f"{prefix}/W1/telemetry", payload(10 * number, motor_current=amperes, vsd_frequency=50.0))
        await until(lambda: daemon.at_rest(80))
        await until(lambda: len([each for each in scada.messages if each.topic.endswith("/events")]) >= 2)
        events = [json.loads(each.payload) for each in scada.messages if each.topic == f"{prefix}/alerts/W1/events"]
    assert [(each["diagnosis"], each["transition"]) for each in events] == [
        ("OVERLOAD", "raised"),
        ("OVERLOAD", "cleared"),
    ]
    for event in events:
        assert KEYS.keys() <= event.keys()
        wrong = {key: event[key] for key, kind in KEYS.items() if type(event[key]) is not kind}
        assert wrong == {}
    assert events[0]["alarm_id"] == events[1]["alarm_id"]
    assert events[1]["reason"] == "returned"
    with Peer(broker, subscribe=f"{prefix}/alerts/+/state/+") as late:
        await until(lambda: late.messages)
        (state,) = late.messages
    assert (state.topic, state.retain) == (f"{prefix}/alerts/W1/state/OVERLOAD", True)
    flat = json.loads(state.payload)
    assert flat["state"] == "cleared"
    assert all(isinstance(value, (str, int, float, bool)) for value in flat.values())
    kept = await fetch(migrated.dsn, 'SELECT event_id FROM diagnostic_results ORDER BY "timestamp"')
    assert [row[0] for row in kept] == [each["event_id"] for each in events]
    assert daemon.metrics()["alerts_published_total"] == 2
    assert await daemon.stop() == 0
    marked = await fetch(migrated.dsn, "SELECT 1 FROM diagnostic_results WHERE published_at IS NULL")
    assert marked == []


# ---------------------------------------------------------------------------------------------- nothing lost or doubled


def _done(daemon: Daemon) -> float:
    now = daemon.metrics()
    return now["readings_stored_total"] + now["readings_duplicate_total"]


async def _counted(dsn: str, prefix: str, sent: int) -> None:
    """Every number once, with the value that it was sent with."""
    stored = await fetch(dsn, 'SELECT well_id, pip, "timestamp" FROM esp_telemetry')
    numbers = sorted(int(row["pip"]) for row in stored)
    assert numbers == list(range(sent)), prefix
    assert all(round(row["timestamp"].timestamp() * 1e3) == T0_MS + 1_000 * int(row["pip"]) for row in stored)


@pytest.mark.best_edition
async def test_kill_9_under_load_loses_nothing_and_doubles_nothing(
    daemon: Daemon, prefix: str, broker: BrokerAddress, migrated: FreshDatabase
) -> None:
    """Promise 1: killed again and again, each time after it has stored a little more."""
    daemon.start()
    await ready(daemon)
    kills, load = 10, 1_500

    def publish(start: int) -> None:
        with Peer(broker) as rtu:
            rtu.publish_all((f"{prefix}/W{each % 7}/telemetry", payload(each)) for each in range(start, start + load))

    for kill in range(kills):
        publishing = asyncio.create_task(asyncio.to_thread(publish, kill * load))
        await until(lambda: daemon.get("/metrics")[0] == 200 and daemon.metrics()["readings_stored_total"] > 100 * kill)  # noqa: B023
        await daemon.kill()
        daemon.start()
        await publishing
    sent = kills * load
    await ready(daemon)
    count = "SELECT count(*) FROM esp_telemetry"
    async with asyncio.timeout(PATIENCE_S):
        while (await fetch(migrated.dsn, count))[0][0] < sent:  # noqa: ASYNC110 - it is on the server
            await asyncio.sleep(0.05)
    await until(lambda: daemon.metrics()["readings_in_flight"] == 0)
    await _counted(migrated.dsn, prefix, sent)
    assert balance(daemon) == 0


@pytest.mark.parametrize("victim", ["broker", "database"])
async def test_a_broker_or_database_that_is_killed_and_restarted_costs_nothing(
    tmp_path: Path, own_broker: OwnBroker, own_database: OwnDatabase, victim: str
) -> None:
    """Killed when the broker has everything on its disk, and nothing is under way to it."""
    broker, database = own_broker(lines=["autosave_interval 1", "autosave_on_changes true"]), own_database()
    await migrate(DatabaseSettings(dsn=SecretStr(database.dsn)))
    with Daemon(tmp_path, broker, database.dsn, client_id="d", prefix="d") as daemon:
        await ready(daemon)
        sent = 0
        for _ in range(3):
            with Peer(broker) as rtu:
                rtu.publish_all(("d/W1/telemetry", payload(each)) for each in range(sent, sent + 300))
            sent += 300
            if victim == "database":
                database.kill()
                with Peer(broker) as rtu:
                    rtu.publish_all(("d/W1/telemetry", payload(each)) for each in range(sent, sent + 300))
                sent += 300
                await until(lambda: daemon.metrics()["readings_spooled"] >= 300)
                database.start()
            else:
                await until(lambda: _done(daemon) >= sent)  # noqa: B023 - likewise
                await until(lambda: daemon.metrics()["readings_in_flight"] == 0)
                broker.kill()
                await until(lambda: not daemon.is_ready())
                broker.start()
            await ready(daemon)
        await until(lambda: daemon.metrics()["readings_spooled"] == daemon.metrics()["readings_in_flight"] == 0)
        # What was committed when the answer was lost is sent again, and counted as a duplicate.
        await until(lambda: _done(daemon) >= sent)
        await _counted(database.dsn, "d", sent)
        assert balance(daemon) == 0


async def test_a_broker_with_its_stock_limits_is_not_kept_waiting(
    tmp_path: Path, own_broker: OwnBroker, own_database: OwnDatabase
) -> None:
    """With 20 in flight, a batch that waited for its age would take 5 s for 20 readings."""
    broker, database = own_broker(lines=["max_queued_messages 100000"]), own_database()
    await migrate(DatabaseSettings(dsn=SecretStr(database.dsn)))
    daemon = Daemon(tmp_path, broker, database.dsn, client_id="d", prefix="d")
    daemon.settings["mqtt"] |= {"protocol": "3.1.1"}
    daemon.settings["batch"] = {"max_age_ms": 5_000}
    with daemon, Peer(broker) as rtu:
        await ready(daemon)
        rtu.publish_all(("d/W1/telemetry", payload(each)) for each in range(2_000))
        await until(lambda: daemon.at_rest(2_000))
        now = daemon.metrics()
    assert now["batches_total{quiet}"] > 0
    assert now.get("batches_total{age}", 0) <= 1, "the last few may be fewer than a window"


# ------------------------------------------------------------------------------------------------- the real pump


def _recording() -> Path | None:
    given = os.environ.get("ESP_TEST_DATA")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "data" / "esp01"
    return next(iter(sorted(folder.glob("*.csv"))), None) if folder.is_dir() else None


@pytest.mark.best_edition
async def test_the_real_pump_goes_through_and_comes_back_as_it_was(
    daemon: Daemon, prefix: str, broker: BrokerAddress, migrated: FreshDatabase
) -> None:
    recording = _recording()
    if recording is None:
        pytest.skip("the recording is not here; ESP_TEST_DATA names its folder")
    with recording.open(newline="") as file:
        readings = list(csv.DictReader(file))
    channels = [name for name in readings[0] if name not in {"well_id", "timestamp"}]
    daemon.start()
    await ready(daemon)
    with Peer(broker) as rtu:
        rtu.publish_all(
            (
                f"{prefix}/{each['well_id']}/telemetry",
                json.dumps({"timestamp": each["timestamp"], **{name: float(each[name]) for name in channels}}),
            )
            for each in readings
        )
    await until(lambda: daemon.at_rest(len(readings)))
    stored = await fetch(migrated.dsn, f'SELECT "timestamp", {", ".join(channels)} FROM esp_telemetry ORDER BY 1')  # noqa: S608
    assert len(stored) == len(readings) == 34_560
    for row, each in zip(stored, readings, strict=True):
        assert row["timestamp"].strftime("%Y-%m-%dT%H:%M:%SZ") == each["timestamp"]
        assert [row[name] for name in channels] == [float(each[name]) for name in channels]
    assert balance(daemon) == 0
