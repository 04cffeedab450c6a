"""SCADA commands the real daemon through a real broker; what it did survives kill -9, the database there or away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from daemon import NOWHERE
from peer import Peer, until
from services import fetch
from system.test_memory import Rtu, daemon

if TYPE_CHECKING:
    from daemon import Daemon
    from services import BrokerAddress, FreshDatabase

__all__ = ["daemon"]


class Scada:
    """Somebody who sees the alarms of W1 and commands."""

    def __init__(self, peer: Peer, prefix: str) -> None:
        self.peer, self.prefix = peer, prefix

    def says(self, word: str, alarm_id: str = "", *, retain: bool = False, **keys: object) -> None:
        body = {"command": word, "alarm_id": alarm_id, "by": "ann", "comment": f"to {word}", **keys}
        self.peer.publish(f"{self.prefix}/alerts/W1/command", json.dumps(body), retain=retain)

    def told(self, leaf: str) -> list[dict[str, Any]]:
        """What came on one of the well's topics, each once."""
        topic = f"{self.prefix}/alerts/W1/{leaf}"
        found = [json.loads(each.payload) for each in self.peer.messages if each.topic == topic]
        return list({json.dumps(each): each for each in found}.values())

    def events(self) -> list[tuple[str, str, str]]:
        once = {each["event_id"]: each for each in self.told("events")}
        return [(each["diagnosis"], each["transition"], each["state"]) for each in once.values()]

    async def hears(self, diagnosis: str, transition: str, state: str) -> str:
        """Wait for an event; its alarm."""
        await until(lambda: (diagnosis, transition, state) in self.events(), f"{diagnosis} {transition} {state}")
        found = [e for e in self.told("events") if (e["diagnosis"], e["transition"]) == (diagnosis, transition)]
        return str(found[-1]["alarm_id"])

    async def is_answered(self, **keys: object) -> None:
        """Wait for an answer that says this; one may be given twice, as its command may be delivered twice."""
        await until(
            lambda: any(keys.items() <= answer.items() for answer in self.told("answers")),
            f"{keys} in {self.told('answers')}",
        )


async def restart(daemon: Daemon) -> None:
    """Kill -9, and start again."""
    await daemon.kill()
    daemon.start()
    await until(lambda: daemon.metrics().get("mqtt_connected") == 1)


@pytest.mark.best_edition
@pytest.mark.parametrize("away", [False, True], ids=["database there", "database away"])
async def test_what_scada_commands_is_done_told_and_outlives_kills(
    daemon: Daemon, prefix: str, broker: BrokerAddress, migrated: FreshDatabase, *, away: bool
) -> None:
    if away:
        daemon.settings["database"]["dsn"] = NOWHERE
    with Peer(broker, subscribe=f"{prefix}/alerts/#") as peer:
        rtu, scada = Rtu(peer, prefix), Scada(peer, prefix)
        daemon.start()
        await until(lambda: daemon.metrics().get("mqtt_connected") == 1)
        rtu.send(20, 45.0)
        rtu.send(10, 65.0)
        overload = await scada.hears("OVERLOAD", "raised", "active")
        scada.says("acknowledge", overload)
        await scada.hears("OVERLOAD", "acknowledged", "acknowledged")
        scada.says("shelve", overload, duration_s=3600)
        await scada.hears("OVERLOAD", "shelved", "shelved")
        await until(lambda: daemon.at_rest(30))
        await restart(daemon)
        scada.says("acknowledge", overload)
        await scada.is_answered(command="acknowledge", accepted=True, detail="it is acknowledged already")
        scada.says("unshelve", overload)
        await scada.hears("OVERLOAD", "unshelved", "acknowledged")
        rtu.send(10, 200.0)
        stall = await scada.hears("STALL", "raised", "active")
        scada.says("reset", stall)
        await scada.is_answered(command="reset", alarm_id=stall, accepted=False, reason="condition_holds")
        rtu.send(40, 45.0)
        await until(lambda: scada.told("state/STALL")[-1]["state"] == "latched")
        await until(lambda: daemon.at_rest(50))
        await restart(daemon)
        scada.says("reset", stall)
        await scada.hears("STALL", "cleared", "cleared")
        await scada.is_answered(command="reset", alarm_id=stall, accepted=True)
        scada.says("reset")
        await scada.is_answered(command="reset", alarm_id="", accepted=True)
        state = scada.told("state/STALL")[-1]
        assert (state["state"], state["reason"], state["by"], state["comment"]) == (
            "cleared",
            "reset",
            "ann",
            "to reset",
        )
        await until(lambda: daemon.metrics()["alarms_active"] == 0)
        assert await daemon.stop() == 0
    if not away:
        rows = await fetch(migrated.dsn, 'SELECT command, "by" FROM alarm_commands ORDER BY received_at')
        assert [tuple(row) for row in rows] == [
            (word, "ann") for word in ("acknowledge", "shelve", "unshelve", "reset", "reset")
        ]
        assert await fetch(migrated.dsn, "SELECT 1 FROM active_alarms") == []


@pytest.mark.best_edition
async def test_what_cannot_be_heeded_is_answered(daemon: Daemon, prefix: str, broker: BrokerAddress) -> None:
    with Peer(broker, subscribe=f"{prefix}/alerts/#") as peer:
        scada = Scada(peer, prefix)
        scada.says("reset", "kept from earlier", retain=True)
        daemon.start()
        await until(daemon.is_ready)
        await scada.is_answered(command="reset", reason="retained", by="ann")
        peer.publish(f"{prefix}/alerts/W1/command", b"[" * 5_000)
        await scada.is_answered(command="", reason="not_json")
        peer.publish(f"{prefix}/alerts/W1/command", b"x" * 300_000)
        await scada.is_answered(command="", reason="too_large")
        scada.says("acknowledge", "a1")
        await scada.is_answered(command="acknowledge", reason="unknown_well", accepted=False)
        peer.publish(f"{prefix}/alerts/W1/command", b"", retain=True)
        await until(lambda: daemon.metrics()["commands_total"] >= 4)
        assert await daemon.stop() == 0
