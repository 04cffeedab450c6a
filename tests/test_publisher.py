from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from peer import Peer, until

from esp_ingestd.publisher import Outgoing, history_s, to_messages, topic_for

if TYPE_CHECKING:
    from pathlib import Path

    from services import BrokerAddress


def simulate(broker: BrokerAddress, folder: Path, *arguments: str, topic: str = "") -> subprocess.CompletedProcess[str]:
    config = folder / "esp-ingestd.toml"
    topic = topic or f"test/{uuid4()}/{{well_id}}"
    config.write_text(f'[mqtt]\nhost = "{broker.host}"\nport = {broker.port}\ntopics = ["{topic}"]\n')
    command = [sys.executable, "-m", "esp_ingestd", "simulate", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


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
