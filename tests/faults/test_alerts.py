"""What SCADA is told, whatever the broker does to it: refuses it, forgets it, or is another one after a restart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from daemon import balance
from faults.wellsite import Site, add_role, why_not
from peer import Peer, until

from esp_ingestd.embedded import RAISED_LIMITS, Broker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from conftest import OwnBroker, OwnDatabase
    from services import Services

EVENTS = "d/alerts/W1/events"
STATE = "d/alerts/W1/state/OVERLOAD"
FREE = "topic readwrite #\n"
NO_EVENTS = "topic readwrite esp/#\ntopic readwrite d/+/telemetry\ntopic readwrite d/alerts/+/state/+\ntopic read d/#\n"


def give_wells(site: Site) -> None:
    (site.daemon.folder / "wells.toml").write_text("[defaults]\nnameplate_current_a = 50.0\n")
    site.daemon.settings["diagnosis"] = {"wells_file": "wells.toml"}


def overload(site: Site) -> None:
    """Two minutes of sound operation, and one of twice its nameplate current: one alarm."""
    site.rtu.send(120, motor_current=45.0, vsd_frequency=50.0)
    site.rtu.send(60, motor_current=100.0, vsd_frequency=50.0)


async def events(site: Site) -> Sequence[Any]:
    connection = await asyncpg.connect(site.server.dsn)
    try:
        return await connection.fetch("SELECT event_id::text, published_at FROM diagnostic_results")
    finally:
        await connection.close()


def retained(broker: Broker, topic: str) -> list[dict[str, Any]]:
    """What one finds there who comes now."""
    with Peer(broker, subscribe=topic) as late:
        late.publish("esp/marker", b"")
        return [json.loads(each.payload) for each in late.messages if each.retain]


async def test_alerts_that_the_broker_refuses_are_told_once_it_takes_them_and_stop_nothing(
    tmp_path: Path, services: Services, own_broker: OwnBroker, own_database: OwnDatabase
) -> None:
    """An access control list without our topic: readings go on, health and log name it, mended it is all told."""
    rules = services.new_folder() / "acl"
    rules.write_text(NO_EVENTS)
    rules.chmod(0o644)
    rules.parent.chmod(0o755)
    broker, server = own_broker(lines=(*RAISED_LIMITS, f"acl_file {rules}")), own_database()
    await add_role(server.dsn)
    site = Site(tmp_path, broker, server)
    give_wells(site)
    with site.daemon, Peer(broker, subscribe="d/alerts/#") as scada:
        await until(site.daemon.is_ready)
        overload(site)
        await site.settled()
        assert "Not authorized" in (why := why_not(site.daemon, "alerts")), why
        assert EVENTS in why
        refused = [line for line in site.daemon.said() if line["event"] == "alerts is away"]
        assert [line["why"] for line in refused] == [why]
        assert [row["published_at"] for row in await events(site)] == [None]
        assert site.daemon.metrics()["alerts_refused_total"] >= 1
        assert site.daemon.metrics()["alerts_published_total"] == 0
        assert {each.topic for each in scada.messages} == {STATE}

        broker.stop()
        rules.write_text(FREE)
        broker.start()
        with Peer(broker, subscribe=EVENTS) as scada_again:
            await until(lambda: scada_again.messages)
            ((event_id, _),) = await events(site)
            assert {json.loads(each.payload)["event_id"] for each in scada_again.messages} == {event_id}
        await until(site.daemon.is_ready)
        site.rtu.send(1)
        await site.settled()
        ((_, published_at),) = await events(site)
        assert published_at
        assert await site.daemon.stop() == 0


async def test_a_broker_that_forgot_everything_gets_subscription_status_and_states_again(site: Site) -> None:
    """Restarted without its persistence: the session, our subscription and every retained message are gone."""
    give_wells(site)
    broker = site.rtu.broker
    assert isinstance(broker, Broker)
    site.daemon.start()
    await until(site.daemon.is_ready)
    overload(site)
    await site.settled()
    (before,) = retained(broker, STATE)
    assert before["active"]
    for _ in range(2):  # also after a restart of ours in between
        broker.stop()
        for file in broker.folder.glob("*.db"):
            file.unlink()
        broker.start()
        await until(lambda: why_not(site.daemon, "broker") == "")
        await until(lambda: retained(broker, STATE) == [before])
        (status,) = retained(broker, "esp/ingestd/d/status")
        assert status["online"]
        sent = site.rtu.sent
        site.rtu.send(10, motor_current=100.0, vsd_frequency=50.0)
        await until(lambda: site.daemon.metrics()["readings_in_flight"] == 0)
        await until(lambda: site.daemon.metrics()["readings_stored_total"] >= 10)
        assert len(await site.counted()) == sent + 10
        assert len(await events(site)) == 1, "nothing was told anew"
        assert await site.daemon.stop() == 0
        site.daemon.start()
        await until(site.daemon.is_ready)
    assert balance(site.daemon) == 0


@pytest.mark.parametrize("stalled", [False, True], ids=["refuses", "stalled"])
async def test_alerts_are_told_while_the_database_is_away(site: Site, *, stalled: bool) -> None:
    """Promise 2: refused connections are known at once, a stalled one only after `write_timeout_s`, here an hour."""
    give_wells(site)
    site.daemon.settings["database"] |= {"write_timeout_s": 3_600.0}
    site.daemon.start()
    await until(site.daemon.is_ready)
    if stalled:
        site.server.pause()
    else:
        site.server.kill()
    try:
        with Peer(site.rtu.broker, subscribe=EVENTS) as scada:
            overload(site)
            await until(lambda: scada.messages)
    finally:
        if stalled:
            site.server.resume()
        else:
            site.server.start()
    await site.settled()
