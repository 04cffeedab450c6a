"""I10: alarms survive kill -9, with the database there or away."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest
from daemon import NOWHERE
from peer import Peer, until

if TYPE_CHECKING:
    from pathlib import Path

    from daemon import Daemon
    from services import BrokerAddress

T0_MS = 1_700_000_000_000


@pytest.fixture
def daemon(daemon: Daemon, tmp_path: Path) -> Daemon:
    (tmp_path / "wells.toml").write_text("[defaults]\nnameplate_current_a = 50.0\n")
    daemon.settings["diagnosis"] = {"wells_file": "wells.toml"}
    return daemon


class Rtu:
    """One well, a reading every 10 s of event time."""

    def __init__(self, peer: Peer, prefix: str) -> None:
        self.peer, self.prefix, self.number = peer, prefix, 0

    def send(self, count: int, amperes: float) -> None:
        for _ in range(count):
            stamp = T0_MS + 10_000 * self.number
            body = {"timestamp": stamp, "motor_current": amperes, "vsd_frequency": 50.0}
            self.peer.publish(f"{self.prefix}/W1/telemetry", json.dumps(body))
            self.number += 1

    def events(self) -> list[dict[str, object]]:
        topic = f"{self.prefix}/alerts/W1/events"
        return [json.loads(each.payload) for each in self.peer.messages if each.topic == topic]


@pytest.mark.best_edition
@pytest.mark.parametrize("away", [False, True], ids=["database there", "database away"])
async def test_i10_a_standing_alarm_is_neither_announced_again_nor_forgotten(
    daemon: Daemon, prefix: str, broker: BrokerAddress, *, away: bool
) -> None:
    if away:
        daemon.settings["database"]["dsn"] = NOWHERE
    with Peer(broker, subscribe=f"{prefix}/alerts/#") as peer:
        rtu = Rtu(peer, prefix)
        daemon.start()
        await until(lambda: daemon.metrics().get("mqtt_connected") == 1)
        rtu.send(20, 45.0)
        rtu.send(10, 65.0)
        await until(rtu.events)
        await until(lambda: daemon.at_rest(30))
        await daemon.kill()
        daemon.start()
        await until(lambda: daemon.metrics().get("mqtt_connected") == 1)
        await until(lambda: daemon.metrics()["alarms_active"] == 1)
        rtu.send(10, 65.0)
        await until(lambda: daemon.at_rest(10))
        rtu.send(40, 45.0)
        await until(lambda: daemon.at_rest(50))
        await until(lambda: len({each["event_id"] for each in rtu.events()}) >= 2)
        # What the broker accepted just before the kill may be told once more, by the same id: SCADA knows it by that.
        told = list({each["event_id"]: each for each in rtu.events()}.values())
    assert [each["transition"] for each in told] == ["raised", "cleared"], told
    raised, cleared = told
    assert cleared["alarm_id"] == raised["alarm_id"]
    await until(lambda: daemon.metrics()["alarms_active"] == 0)


@pytest.mark.best_edition
async def test_a_damaged_memory_is_set_aside_and_the_daemon_starts(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "wells.sqlite").write_bytes(b"nonsense" * 1000)
    daemon.start()
    await until(daemon.is_ready)
    assert [each for each in daemon.said() if "memory of wells was damaged" in each["event"]]
    assert list(folder.glob("wells.sqlite.damaged-*"))
    assert await daemon.stop() == 0


@pytest.mark.best_edition
async def test_a_snapshot_that_cannot_be_read_costs_its_well_alone(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    await until(daemon.is_ready)
    assert await daemon.stop() == 0
    with sqlite3.connect(tmp_path / "spool" / "wells.sqlite") as connection:
        connection.execute("INSERT INTO wells VALUES ('W9', 'nonsense')")
    connection.close()
    daemon.start()
    await until(daemon.is_ready)
    assert [each for each in daemon.said() if "learned anew" in each["event"]]
