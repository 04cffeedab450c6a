from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from peer import PATIENCE_S, Peer, until

from esp_ingestd.embedded import HOST, free_port
from esp_ingestd.publisher import Outgoing, history_s, to_messages, topic_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import OwnBroker
    from services import BrokerAddress


def command_for(host: str, port: int, folder: Path, *arguments: str, topic: str = "") -> list[str]:
    config = folder / "esp-ingestd.toml"
    topic = topic or f"test/{uuid4()}/{{well_id}}"
    config.write_text(f'[mqtt]\nhost = "{host}"\nport = {port}\ntopics = ["{topic}"]\n')
    return [sys.executable, "-m", "esp_ingestd", "simulate", "--config", str(config), *arguments]


def simulate(broker: BrokerAddress, folder: Path, *arguments: str, topic: str = "") -> subprocess.CompletedProcess[str]:
    command = command_for(broker.host, broker.port, folder, *arguments, topic=topic)
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@contextmanager
def simulating(host: str, port: int, folder: Path, *arguments: str, topic: str = "") -> Iterator[subprocess.Popen[str]]:
    """`simulate` under way; killed where the test did not end it."""
    command = command_for(host, port, folder, *arguments, topic=topic)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def hear(process: subprocess.Popen[str], words: str) -> None:
    """Wait for a line on standard error that has these words."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while words not in (line := await asyncio.to_thread(process.stderr.readline)):
            assert line, f"it ended without saying {words!r}"


def write_recording(folder: Path, *rows: str) -> Path:
    path = folder / "recording.csv"
    path.write_text("\n".join(("well_id,timestamp,pip", *rows)) + "\n")
    return path


async def test_a_simulated_field_reaches_the_broker(broker: BrokerAddress, tmp_path: Path) -> None:
    topic = f"test/{uuid4()}"
    with Peer(broker, subscribe=f"{topic}/#") as rtu:
        done = simulate(
            broker, tmp_path, "--wells", "3", "--rate", "5", "--duration", "2",
            "--write-wells", str(tmp_path / "wells.toml"), topic=f"{topic}/{{well_id}}/telemetry",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        accepted = int(done.stdout.split("accepted ")[1].split()[0])
        assert accepted >= 3
        await until(lambda: len(rtu.messages) == accepted)
    assert {message.topic.split("/")[2] for message in rtu.messages} == {"WELL-001", "WELL-002", "WELL-003"}
    for message in rtu.messages:
        reading = json.loads(message.payload)
        assert reading["timestamp"]
        assert reading["motor_current"] > 0
    wells = tomllib.loads((tmp_path / "wells.toml").read_text())["wells"]
    assert wells["WELL-001"]["nameplate_current_a"] > 0


async def test_a_recording_reaches_the_broker_as_it_is(broker: BrokerAddress, tmp_path: Path) -> None:
    topic = f"test/{uuid4()}"
    recording = tmp_path / "recording.csv"
    rows = [f"W1,2026-01-01T00:{minute:02}:00Z,{minute}.5,{40 + minute}" for minute in range(60)]
    recording.write_text("well_id,timestamp,pip,motor_current\n" + "\n".join(rows) + "\n")
    with Peer(broker, subscribe=f"{topic}/#") as rtu:
        done = simulate(
            broker, tmp_path, "--from", str(recording), "--speed", "max", "--array", "7", topic=f"{topic}/{{well_id}}"
        )
        assert done.returncode == 0, done.stderr
        assert "accepted 60 of 60 readings in 9 messages" in done.stdout
        await until(lambda: len(rtu.messages) == 9)
    sent = [reading for message in rtu.messages for reading in json.loads(message.payload)]
    assert [reading["pip"] for reading in sent] == [minute + 0.5 for minute in range(60)]


async def test_a_broker_that_goes_and_comes_back_misses_nothing(own_broker: OwnBroker, tmp_path: Path) -> None:
    broker = own_broker()
    rows = [f"W1,2026-01-01T00:00:{k // 100:02}.{k % 100:02}Z,{k}" for k in range(300)]
    arguments = ("--from", str(write_recording(tmp_path, *rows)), "--window", "5")
    with simulating(broker.host, broker.port, tmp_path, *arguments, topic="test/{well_id}") as process:
        with Peer(broker, subscribe="test/#") as before:
            await until(lambda: before.messages)
        broker.stop()
        await hear(process, "trying again")
        broker.start()
        await hear(process, "connected again")
        out, _ = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    assert "accepted 300 of 300 readings" in out
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_ends_cleanly_when_told(broker: BrokerAddress, tmp_path: Path, number: signal.Signals) -> None:
    topic = f"test/{uuid4()}"
    with (
        Peer(broker, subscribe=f"{topic}/#") as rtu,
        simulating(broker.host, broker.port, tmp_path, "--rate", "10", topic=f"{topic}/{{well_id}}") as process,
    ):
        await until(lambda: len(rtu.messages) > 20)
        process.send_signal(number)
        out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        _, _, accepted, _, sent, *_ = out.split()[1:]
        await until(lambda: len(rtu.messages) == int(sent))
    assert (accepted, process.returncode, err) == (sent, 0, "")


async def test_it_waits_for_a_broker_and_without_one_says_that_it_failed(tmp_path: Path) -> None:
    with simulating(HOST, free_port(), tmp_path) as process:
        await hear(process, "trying again")
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    assert out == "nothing was sent: the broker was never reached\n"
    assert process.returncode == 1


async def test_a_fast_field_never_overtakes_the_clock(broker: BrokerAddress, tmp_path: Path) -> None:
    topic = f"test/{uuid4()}"
    began = datetime.now(UTC)
    with Peer(broker, subscribe=f"{topic}/#") as rtu:
        arguments = ("--speed", "max", "--rate", "0.0005", "--wells", "1", "--duration", "4")
        done = simulate(broker, tmp_path, *arguments, topic=f"{topic}/{{well_id}}")
        sent = int(done.stdout.split(" of ")[1].split()[0])
        await until(lambda: len(rtu.messages) == sent)
    stamps = [datetime.fromisoformat(json.loads(message.payload)["timestamp"]) for message in rtu.messages]
    assert abs(began - stamps[0] - timedelta(days=30)) < timedelta(minutes=2)
    assert stamps == sorted(stamps)
    assert stamps[-1] < datetime.now(UTC)


async def test_a_recording_that_breaks_off_names_the_line_and_keeps_what_was_before(
    broker: BrokerAddress, tmp_path: Path
) -> None:
    topic = f"test/{uuid4()}"
    path = write_recording(tmp_path, "W1,2026-01-01T00:00:00Z,1", "W1,soon,2", "W1,2026-01-01T00:00:02Z,3")
    with Peer(broker, subscribe=f"{topic}/#") as rtu:
        done = simulate(broker, tmp_path, "--from", str(path), topic=f"{topic}/{{well_id}}")
        await until(lambda: rtu.messages)
    assert done.returncode == 1
    assert f"{path}:3: timestamp 'soon'" in done.stderr
    assert "Traceback" not in done.stderr
    assert [json.loads(message.payload)["pip"] for message in rtu.messages] == [1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--fault", "NONSENSE"), "gas_lock"),
        (("--speed", "0"), "a number above 0, or max"),
        (("--from", "none.csv"), "none.csv"),
    ],
)
def test_what_cannot_be_done_is_said(
    broker: BrokerAddress, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    done = simulate(broker, tmp_path, *arguments)
    assert done.returncode != 0
    assert expected in done.stderr.lower().replace("\n", "")
    assert "Traceback" not in done.stderr


def test_topics_follow_the_pattern() -> None:
    assert topic_for("esp/{well_id}/telemetry", "W1") == "esp/W1/telemetry"
    assert topic_for("$share/pool/{field}/{well_id}/#", "W1") == "simulated/W1/simulated"


def test_arrays_hold_consecutive_readings_of_one_well() -> None:
    readings = [Outgoing(f"W{k % 2}", b"%d" % k, k) for k in range(7)]
    messages = list(to_messages(readings, "{well_id}", 3))
    assert [(message.topic, message.payload) for message in messages] == [
        ("W0", b"[0,2,4]"),
        ("W1", b"[1,3,5]"),
        ("W0", b"[6]"),
    ]


def test_a_fast_field_begins_in_the_past_and_ends_now() -> None:
    assert history_s(1, 60) == 0
    assert history_s(11, 60) == 600
    assert history_s(1e9, 60) == 30 * 86_400
