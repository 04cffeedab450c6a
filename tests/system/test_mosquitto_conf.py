"""mosquitto.conf and its access control list as they are shipped, in a real Mosquitto, with the daemon's own client."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from pydantic import SecretStr

from esp_ingestd.config import MqttSettings
from esp_ingestd.mqtt import Mqtt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import OwnBroker
    from services import Services

    from esp_ingestd import embedded

ROOT = Path(__file__).parents[2]
USERS = {name: f"{name}-password" for name in ("esp-ingestd", "scada", "simulator", "WELL-001")}
PATIENCE_S = 60.0


def shipped_lines(*, acl_file: Path | None = None) -> list[str]:
    """The options of mosquitto.conf, but the port and where the passwords are, which belong to the test."""
    theirs = {"listener", "allow_anonymous", "password_file", "acl_file"}
    lines = [line.strip() for line in (ROOT / "mosquitto.conf").read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#") and line.split()[0] not in theirs]
    return [*lines, f"acl_file {acl_file}"] if acl_file else lines


@pytest.fixture
def acl_file(services: Services) -> Path:
    """Where the broker, which is not root, can read it."""
    copy = services.new_folder() / "acl"
    copy.parent.chmod(0o755)
    shutil.copy(ROOT / "config/mosquitto/esp-ingestd.acl", copy)
    copy.chmod(0o644)
    return copy


class Client:
    """The daemon's own client, and what it was given: topic, payload, whether it is to be acknowledged."""

    def __init__(self, broker: embedded.Broker, name: str, *topics: str, protocol: Literal["5", "3.1.1"] = "5") -> None:
        password = SecretStr(USERS[name]) if broker.users else None
        settings = MqttSettings(
            host=broker.host,
            port=broker.port,
            protocol=protocol,
            username=name if broker.users else "",
            password=password,
        )
        self.received: list[tuple[str, bytes, bool]] = []
        self._arrived = asyncio.Event()
        self.mqtt = Mqtt(settings, client_id=name, subscriptions=topics, receive=self._take)

    def _take(self, topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
        assert received_us
        assert size_bytes == len(payload)
        self.received.append((topic, payload, bool(delivery)))
        self._arrived.set()

    async def holds(self, count: int) -> None:
        """Wait until so many have arrived; none is ever acknowledged."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.received) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def tells(self, topic: str, *payloads: bytes) -> None:
        """Publish, and return when the broker has answered to all."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*[self.mqtt.publish(topic, payload) for payload in payloads])


@asynccontextmanager
async def connected(client: Client) -> AsyncIterator[Client]:
    await client.mqtt.connect()
    try:
        yield client
    finally:
        await client.mqtt.close()


def readings(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_the_broker_knows_every_option_and_warns_of_none(own_broker: OwnBroker, acl_file: Path) -> None:
    log = own_broker(lines=shipped_lines(acl_file=acl_file), users=USERS).log.read_text()
    assert "running" in log
    # From 2.0.16 on it dislikes files that others can read; whose the test's copy is, is no business of ours.
    lines = [line for line in log.splitlines() if str(acl_file) not in line]
    assert not [line for line in lines if "Error" in line or "Warning" in line or "deprecated" in line]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_thousands_may_be_in_flight_to_us(own_broker: OwnBroker, protocol: Literal["5", "3.1.1"]) -> None:
    broker = own_broker(lines=shipped_lines())
    async with (
        connected(Client(broker, "esp-ingestd", "esp/+/telemetry", protocol=protocol)) as daemon,
        connected(Client(broker, "simulator")) as rtu,
    ):
        await rtu.tells("esp/W/telemetry", *readings(5_000))
        await daemon.holds(5_000)
    assert [payload for _, payload, _ in daemon.received] == readings(5_000)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_our_session_and_its_queue_outlive_a_restart(
    own_broker: OwnBroker, protocol: Literal["5", "3.1.1"]
) -> None:
    broker = own_broker(lines=shipped_lines())
    async with connected(Client(broker, "esp-ingestd", "esp/+/telemetry", protocol=protocol)):
        pass
    async with connected(Client(broker, "simulator")) as rtu:
        await rtu.tells("esp/W/telemetry", *readings(3_000))
    broker.stop()
    broker.start()
    async with connected(Client(broker, "esp-ingestd", protocol=protocol)) as daemon:  # it does not subscribe anew
        await daemon.holds(3_000)
    assert [payload for _, payload, _ in daemon.received] == readings(3_000)


async def test_a_reading_at_qos_0_is_kept_for_us_and_is_ours_to_acknowledge(own_broker: OwnBroker) -> None:
    broker = own_broker(lines=shipped_lines())
    async with connected(Client(broker, "esp-ingestd", "esp/+/telemetry")):
        pass
    async with connected(Client(broker, "simulator")) as rtu:
        client = rtu.mqtt._client
        assert client is not None
        client.publish("esp/W/telemetry", b"once", qos=0)
        await rtu.tells("elsewhere", b"the broker has read what came before")
    async with connected(Client(broker, "esp-ingestd")) as daemon:
        await daemon.holds(1)
    assert daemon.received == [("esp/W/telemetry", b"once", True)]


async def test_the_access_control_list_lets_each_do_what_is_theirs(own_broker: OwnBroker, acl_file: Path) -> None:
    broker = own_broker(lines=shipped_lines(acl_file=acl_file), users=USERS)
    async with (
        connected(Client(broker, "esp-ingestd", "esp/+/telemetry", "esp/alerts/+/command")) as daemon,
        connected(Client(broker, "scada", "#")) as scada,
        connected(Client(broker, "WELL-001")) as rtu,
        connected(Client(broker, "simulator")) as simulator,
    ):
        await rtu.tells("esp/WELL-001/telemetry", b"own")
        await rtu.tells("esp/WELL-002/telemetry", b"another's")
        await simulator.tells("esp/WELL-002/telemetry", b"any well's")
        await simulator.tells("esp/alerts/WELL-001/command", b"not its business")
        await scada.tells("esp/WELL-001/telemetry", b"not its business")
        await daemon.tells("esp/WELL-001/telemetry", b"not its business")
        await scada.tells("esp/alerts/WELL-001/command", b"acknowledge")
        await daemon.holds(3)
        await daemon.tells("esp/alerts/WELL-001/events", b"event")
        await daemon.tells("esp/alerts/WELL-001/state/STALL", b"state")
        await daemon.tells("esp/alerts/WELL-001/answers", b"answer")
        await daemon.tells("esp/alerts/WELL-001/command", b"not its business")
        await daemon.tells("esp/ingestd/esp-ingestd/status", b"status")
        await scada.holds(5)
    assert {(topic, payload) for topic, payload, _ in daemon.received} == {
        ("esp/WELL-001/telemetry", b"own"),
        ("esp/WELL-002/telemetry", b"any well's"),
        ("esp/alerts/WELL-001/command", b"acknowledge"),
    }
    assert {(topic, payload) for topic, payload, _ in scada.received} == {
        ("esp/alerts/WELL-001/command", b"acknowledge"),
        ("esp/alerts/WELL-001/answers", b"answer"),
        ("esp/alerts/WELL-001/events", b"event"),
        ("esp/alerts/WELL-001/state/STALL", b"state"),
        ("esp/ingestd/esp-ingestd/status", b"status"),
    }
