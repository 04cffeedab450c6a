"""The real connection to a real Mosquitto, over both protocols; fakes only for brokers of another kind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import secrets
import shutil
import subprocess
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import pytest
from peer import PATIENCE_S, Peer, until
from pydantic import SecretStr

from esp_ingestd import embedded
from esp_ingestd.config import MqttSettings
from esp_ingestd.core.decode import KEPT_BYTES
from esp_ingestd.errors import Unavailable
from esp_ingestd.mqtt import BACKOFF_MAX_S, REFUSED_MAX_S, TAKEN_OVER_MAX_S, Mqtt, _longest_pause_s
from esp_ingestd.mqtt.wire import HEADERS_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from conftest import OwnBroker
    from services import BrokerAddress, Services

Protocol = Literal["5", "3.1.1"]


class Inbox:
    """Who receives: notes everything."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.topics: list[str] = []
        self.deliveries: list[int] = []
        self.sizes: list[int] = []

    def __call__(self, topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
        assert received_us > 0
        self.topics.append(topic)
        self.payloads.append(payload)
        self.deliveries.append(delivery)
        self.sizes.append(size_bytes)


class Line:
    """One connection under test, with topics and a client id of its own."""

    def __init__(self, broker: BrokerAddress, protocol: Protocol, **more: object) -> None:
        self.name = secrets.token_hex(4)
        given = {"host": broker.host, "port": broker.port, "protocol": protocol, "client_id": self.name, **more}
        self.settings = MqttSettings.model_validate(given)
        self.inbox = Inbox()
        self.heard: list[str] = []
        """What `run` told of the connection."""
        self.mqtt = self.again()

    def again(self, *, announce: bool = False) -> Mqtt:
        """Another connection with the same session."""
        return Mqtt(
            self.settings,
            client_id=self.name,
            subscriptions=[f"{self.name}/#"],
            receive=self.inbox,
            announce=announce,
        )

    def topic(self, name: str = "a") -> str:
        return f"{self.name}/{name}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Mqtt]:
        running = asyncio.create_task(self.mqtt.run(self.heard.append))
        try:
            await asyncio.wait_for(self.mqtt.connected.wait(), PATIENCE_S)
            yield self.mqtt
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.mqtt.close()

    def hang_up(self) -> None:
        """Lose the connection as a cut wire does: no DISCONNECT."""
        assert self.mqtt._client is not None
        self.mqtt._drop(self.mqtt._client)


@pytest.fixture(params=["5", "3.1.1"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    chosen: Protocol = request.param
    return chosen


@pytest.fixture
async def line(broker: BrokerAddress, protocol: Protocol) -> AsyncIterator[Line]:
    made = Line(broker, protocol)
    yield made
    await made.mqtt.close()


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [str(number).encode() for number in range(start, start + count)]


# ------------------------------------------------------------------------------------------------- the session


async def test_what_comes_while_we_are_away_is_delivered_in_order_when_we_are_back(
    line: Line, broker: BrokerAddress
) -> None:
    await line.mqtt.connect()
    await line.mqtt.close()
    with Peer(broker) as rtu:
        rtu.publish_all((line.topic(), payload) for payload in numbered(200))
    assert line.inbox.payloads == []
    await line.mqtt.connect()
    await until(lambda: len(line.inbox.payloads) == 200)
    assert line.inbox.payloads == numbered(200)


async def test_what_was_not_acknowledged_is_delivered_again_and_nothing_else(line: Line, broker: BrokerAddress) -> None:
    await line.mqtt.connect()
    with Peer(broker) as rtu:
        rtu.publish_all((line.topic(), payload) for payload in numbered(5))
        await until(lambda: len(line.inbox.payloads) == 5)
        assert line.mqtt.acknowledge(line.inbox.deliveries[:2]) == 2
        await _processed(line, rtu)
        line.hang_up()
        again = line.again()
        line.inbox.payloads.clear()
        await again.connect()
        await until(lambda: len(line.inbox.payloads) >= 4)
    assert line.inbox.payloads == [*numbered(3, start=2), b"mark"]
    await again.close()


async def _processed(line: Line, rtu: Peer) -> None:
    """Wait until the broker has dealt with what we sent: it answers in order."""
    seen = len(line.inbox.payloads)
    await asyncio.wait_for(line.mqtt.publish(f"elsewhere/{line.name}", b""), PATIENCE_S)
    rtu.publish(line.topic(), b"mark")
    await until(lambda: len(line.inbox.payloads) == seen + 1)


async def test_acknowledgements_for_a_connection_that_is_gone_are_dropped(line: Line, broker: BrokerAddress) -> None:
    """Its packet identifiers mean other deliveries now: sending them would lose those."""
    await line.mqtt.connect()
    with Peer(broker) as rtu:
        rtu.publish_all((line.topic(), payload) for payload in numbered(3))
        await until(lambda: len(line.inbox.payloads) == 3)
        old = line.inbox.deliveries.copy()
        line.hang_up()
        await line.mqtt.connect()
        await until(lambda: len(line.inbox.payloads) == 6)
    assert line.mqtt.acknowledge(old) == 0
    assert line.mqtt.acknowledge(line.inbox.deliveries) == 3


async def test_acknowledgements_are_sent_in_the_order_given() -> None:
    """I6, seen on the wire."""
    seen: list[int] = []

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_packet(reader)
        writer.write(b"\x20\x02\x00\x00")
        subscribe = await _read_packet(reader)
        writer.write(b"\x90\x03" + subscribe[1][:2] + b"\x01")
        for identifier in range(1, 6):
            writer.write(b"\x32\x06\x00\x01t" + identifier.to_bytes(2, "big") + b"x")
        for _ in range(5):
            kind, body = await _read_packet(reader)
            assert kind == 0x40
            seen.append(int.from_bytes(body, "big"))
        writer.close()

    async with _served(broker) as port:
        settings = MqttSettings(host="127.0.0.1", port=port, protocol="3.1.1")
        inbox = Inbox()
        mqtt = Mqtt(settings, client_id="c", subscriptions=["t"], receive=inbox)
        await mqtt.connect()
        await until(lambda: len(inbox.deliveries) == 5)
        mqtt.acknowledge(inbox.deliveries[:2])
        mqtt.acknowledge(inbox.deliveries[2:])
        await until(lambda: len(seen) == 5)
        await mqtt.close()
    assert seen == [1, 2, 3, 4, 5]


async def test_what_the_broker_had_kept_can_be_told_from_what_is_new(line: Line, broker: BrokerAddress) -> None:
    kept = Inbox()
    line.mqtt.receive_retained = kept
    with Peer(broker) as scada:
        scada.publish(line.topic(), b"kept", retain=True)
        await line.mqtt.connect()
        await until(lambda: kept.payloads == [b"kept"])
        scada.publish(line.topic(), b"new", retain=True)
        await until(lambda: line.inbox.payloads == [b"new"])
    assert kept.payloads == [b"kept"]


async def test_retained_messages_come_with_the_subscription_and_not_again(broker: BrokerAddress) -> None:
    line = Line(broker, "5")
    with Peer(broker) as rtu:
        rtu.publish(line.topic(), b"kept", retain=True)
        await line.mqtt.connect()
        await until(lambda: line.inbox.payloads == [b"kept"])
        line.mqtt.acknowledge(line.inbox.deliveries)
        await _processed(line, rtu)
        line.mqtt.acknowledge(line.inbox.deliveries)
        await line.mqtt.close()
        await line.mqtt.connect()
        rtu.publish(line.topic(), b"next")
        await until(lambda: b"next" in line.inbox.payloads)
        assert line.inbox.payloads == [b"kept", b"mark", b"next"]
        rtu.publish(line.topic(), b"", retain=True)
    await line.mqtt.close()


async def test_qos_0_is_taken_and_needs_no_acknowledgement(line: Line, broker: BrokerAddress) -> None:
    await line.mqtt.connect()
    with Peer(broker) as rtu:
        rtu.publish(line.topic(), b"x", qos=0)
        await until(lambda: line.inbox.payloads == [b"x"])
    assert line.inbox.deliveries == [0]
    assert line.mqtt.acknowledge([0]) == 0


# ------------------------------------------------------------------------------------------------ what comes in


@pytest.mark.parametrize("name", ["plain", "ü/Ø", "💧 well", "a//b/", "x" * 3000, "$not-system"])
async def test_any_topic_is_delivered_under_its_name(line: Line, broker: BrokerAddress, name: str) -> None:
    await line.mqtt.connect()
    with Peer(broker) as rtu:
        rtu.publish(line.topic(name), b"x")
        await until(lambda: line.inbox.topics == [line.topic(name)])


async def test_a_payload_of_10_mb_arrives_as_its_beginning_and_its_size(line: Line, broker: BrokerAddress) -> None:
    await line.mqtt.connect()
    large = bytes(range(250)) * 40_000
    with Peer(broker) as rtu:
        rtu.publish(line.topic("large"), large)
        rtu.publish(line.topic("small"), b"still in step")
        await until(lambda: len(line.inbox.payloads) == 2)
    assert line.inbox.sizes == [10_000_000, 13]
    assert line.inbox.payloads[0][:KEPT_BYTES] == large[:KEPT_BYTES]
    assert len(line.inbox.payloads[0]) <= KEPT_BYTES + HEADERS_BYTES
    assert line.inbox.payloads[1] == b"still in step"
    assert line.inbox.topics == [line.topic("large"), line.topic("small")]
    assert line.mqtt.acknowledge(line.inbox.deliveries) == 2


async def test_while_paused_nothing_is_read_and_the_session_stays_alive(
    broker: BrokerAddress, protocol: Protocol
) -> None:
    """Paused for longer than the broker waits for a sign of life, which only time can show."""
    line = Line(broker, protocol)
    line.mqtt._opener.settings = line.settings.model_copy(update={"keepalive_s": 3})
    async with line.running() as mqtt:
        mqtt.pause()
        with Peer(broker) as rtu:
            rtu.publish_all((line.topic(), payload) for payload in numbered(300))
        await asyncio.sleep(5.5)
        assert line.inbox.payloads == []
        assert mqtt.connected.is_set()
        mqtt.resume()
        await until(lambda: len(line.inbox.payloads) == 300)
        assert line.inbox.payloads == numbered(300)
        assert mqtt.connection == 1
        assert line.heard == [""]


async def test_a_pause_in_the_middle_of_what_was_read_keeps_the_rest(line: Line, broker: BrokerAddress) -> None:
    await line.mqtt.connect()
    receive = line.mqtt.receive

    def take_one(topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
        receive(topic, payload, delivery, received_us, size_bytes)
        line.mqtt.pause()

    line.mqtt.receive = take_one
    with Peer(broker) as rtu:
        rtu.publish_all((line.topic(), payload) for payload in numbered(10))
        for number in range(1, 11):
            await until(lambda: len(line.inbox.payloads) >= number)  # noqa: B023 - called before it changes
            assert line.inbox.payloads == numbered(number)
            line.mqtt.resume()


# ----------------------------------------------------------------------------------------------- what goes out


async def test_the_status_says_whether_we_are_online(broker: BrokerAddress, protocol: Protocol) -> None:
    line = Line(broker, protocol)
    line.mqtt = line.again(announce=True)
    with Peer(broker, subscribe=line.mqtt.status_topic) as scada:

        def told() -> list[bool]:
            # Said again is nothing new: a goodbye whose connection is cut before its end is followed by the last will.
            said = [json.loads(message.payload)["online"] for message in scada.messages]
            return [online for online, _ in groupby(said)]

        await line.mqtt.connect()
        await until(lambda: told() == [True])
        line.hang_up()
        await until(lambda: told() == [True, False], "the last will")
        await line.mqtt.connect()
        await until(lambda: told() == [True, False, True])
        await line.mqtt.close()
        await until(lambda: told() == [True, False, True, False])
    with Peer(broker, subscribe=line.mqtt.status_topic) as late:
        await until(lambda: late.messages)
        assert late.messages[0].retain


async def test_what_is_published_while_the_broker_is_away_is_accepted_once_it_is_back(
    own_broker: OwnBroker, protocol: Protocol
) -> None:
    broker = own_broker()
    line = Line(broker, protocol)
    async with line.running() as mqtt:
        broker.kill()
        await until(lambda: not mqtt.connected.is_set())
        accepted = [mqtt.publish(line.topic(), payload) for payload in numbered(40)]
        assert mqtt.waiting == 40
        broker.start()
        await asyncio.wait_for(asyncio.gather(*accepted), PATIENCE_S)
        await until(lambda: len(line.inbox.payloads) == 40)
        assert line.inbox.payloads == numbered(40)
        assert mqtt.waiting == 0
    assert line.heard[0] == ""
    assert line.heard[-1] == ""
    assert any("refused" in why or "lost" in why or "disconnected" in why for why in line.heard)


async def test_a_connection_that_is_lost_while_paused_is_made_again_when_intake_goes_on(own_broker: OwnBroker) -> None:
    broker = own_broker()
    line = Line(broker, "5")
    async with line.running() as mqtt:
        with Peer(broker) as rtu:
            rtu.publish_all((line.topic(), payload) for payload in numbered(5))
            await until(lambda: len(line.inbox.payloads) == 5)
        mqtt.pause()
        broker.stop()
        broker.start()
        mqtt._on_disconnect(mqtt._client, None, object(), _Lost(), None)  # type: ignore[arg-type]
        await until(lambda: not mqtt.connected.is_set())
        mqtt.resume()
        await until(lambda: len(line.inbox.payloads) == 10, "redelivery")
        assert line.inbox.payloads == [*numbered(5), *numbered(5)]


class _Lost:
    @staticmethod
    def getName() -> str:  # noqa: N802 - paho's name
        return "lost"


# ------------------------------------------------------------------------------------------- refused, and why


async def test_user_and_password(own_broker: OwnBroker, protocol: Protocol) -> None:
    broker = own_broker(users={"esp": "right"})
    right = Line(broker, protocol, username="esp", password=SecretStr("right"))
    await right.mqtt.connect()
    await right.mqtt.close()
    for more in ({"username": "esp", "password": SecretStr("wrong")}, {}):
        wrong = Line(broker, protocol, **more)
        with pytest.raises(Unavailable, match=r"connection refused: Not authori[sz]ed") as unavailable:
            await wrong.mqtt.connect()
        assert unavailable.value.kind == "refused"


@pytest.fixture(scope="module")
def certificates(services: Services) -> Path:
    """An authority, and a key pair each for the broker and for us."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    folder = services.new_folder()
    folder.chmod(0o755)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, cwd=folder, capture_output=True)  # noqa: S607

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    for authority in ("ca", "other"):
        files = ("-keyout", f"{authority}.key", "-out", f"{authority}.pem")
        openssl(*new, "-x509", "-subj", f"/CN={authority}", "-days", "2", *files)
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("broker", "client"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    for file in folder.iterdir():
        file.chmod(0o644)  # the broker may run as another user
    return folder


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves what failed to the GC
async def test_tls_and_client_certificates(own_broker: OwnBroker, certificates: Path, protocol: Protocol) -> None:
    files = {"cafile": "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
    lines = [f"{key} {certificates / name}" for key, name in files.items()]
    broker = own_broker(lines=[*embedded.RAISED_LIMITS, *lines, "require_certificate true"])
    pem = {"tls_ca_file": certificates / "ca.pem"}
    ours = {"tls_cert_file": certificates / "client.pem", "tls_key_file": certificates / "client.key"}

    line = Line(broker, protocol, **pem, **ours)
    assert line.mqtt.address.startswith("mqtts://")
    await line.mqtt.connect()
    accepted = [line.mqtt.publish(line.topic(), bytes(50_000)) for _ in range(20)]
    await asyncio.wait_for(asyncio.gather(*accepted), PATIENCE_S)
    await until(lambda: len(line.inbox.payloads) == 20, "what TLS holds is read though the socket is silent")
    await line.mqtt.close()

    for kind, more in (
        ("certificate", {"tls_ca_file": certificates / "other.pem", **ours}),
        ("certificate", {"tls": True, **ours}),
        ("certificate", {**pem, **ours, "tls_ca_file": certificates / "names"}),
    ):
        with pytest.raises(Unavailable, match="certificate") as unavailable:
            await Line(broker, protocol, **more).mqtt.connect()
        assert unavailable.value.kind == kind
    for more in (pem, {}):  # no certificate of ours; no TLS at all
        with pytest.raises(Unavailable, match=r"broker mqtts?://127\.0\.0\.1:\d+: \w"):
            await Line(broker, protocol, **more).mqtt.connect()
    gc.collect()


async def test_a_broker_that_refuses_mqtt_5_is_retried_with_3_1_1() -> None:
    levels: list[int] = []

    async def old_broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, connect = await _read_packet(reader)
        levels.append(connect[6])
        if connect[6] == 5:
            writer.write(b"\x20\x02\x00\x01")  # unacceptable protocol version, as 3.1.1 says it
        else:
            writer.write(b"\x20\x02\x00\x00")
            _, subscribe = await _read_packet(reader)
            writer.write(b"\x90\x03" + subscribe[:2] + b"\x01")
            await reader.read()
        writer.close()
        await writer.wait_closed()
        await writer.wait_closed()

    async with _served(old_broker) as port:
        mqtt = Mqtt(MqttSettings(host="127.0.0.1", port=port), client_id="c", subscriptions=["t"])
        running = asyncio.create_task(mqtt.run())
        await asyncio.wait_for(mqtt.connected.wait(), PATIENCE_S)
        running.cancel()
        await mqtt.close()
    assert levels == [5, 4]


@pytest.mark.parametrize(("protocol", "suback"), [("3.1.1", b"\x90\x03%s\x80"), ("5", b"\x90\x04%s\x00\x87")])
async def test_a_subscription_that_is_refused_is_named(protocol: Protocol, suback: bytes) -> None:
    async def strict_broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_packet(reader)
        writer.write(b"\x20\x03\x00\x00\x00" if protocol == "5" else b"\x20\x02\x00\x00")
        _, subscribe = await _read_packet(reader)
        writer.write(suback % subscribe[:2])
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async with _served(strict_broker) as port:
        settings = MqttSettings(host="127.0.0.1", port=port, protocol=protocol)
        with pytest.raises(Unavailable, match=r"subscription refused: secret/\+ .*access control"):
            await Mqtt(settings, client_id="c", subscriptions=["secret/+"]).connect()
        without = Mqtt(settings, client_id="c", subscriptions=["secret/+"], insists=False)
        await without.connect()
        assert without.connected.is_set()
        await without.close()


async def test_a_publication_that_is_refused_is_answered_so_by_mqtt_5_alone(
    services: Services, own_broker: OwnBroker, protocol: Protocol
) -> None:
    """By 3.1.1 Mosquitto accepts what it throws away: nobody can know."""
    rules = services.new_folder() / "acl"
    rules.write_text("topic read #\ntopic write free\n")
    rules.chmod(0o644)
    rules.parent.chmod(0o755)
    broker = own_broker(lines=(*embedded.RAISED_LIMITS, f"acl_file {rules}"))
    async with Line(broker, protocol).running() as mqtt:
        answers = [mqtt.publish(topic, b"x") for topic in ("free", "secret", "free")]
        refused = "broker refuses secret: Not authorized" if protocol == "5" else ""
        assert await asyncio.wait_for(asyncio.gather(*answers), PATIENCE_S) == ["", refused, ""]
        assert mqtt.waiting == 0


async def test_a_topic_that_mqtt_does_not_have_is_refused_and_stops_nothing(line: Line) -> None:
    """Such as the answer to a command for a well whose name is no UTF-8: written out, it is longer than it came."""
    async with line.running() as mqtt:
        answers = [mqtt.publish(topic, b"x") for topic in ("a", "b" * 70_000, "c/#", "d")]
        first, long, wild, last = await asyncio.wait_for(asyncio.gather(*answers), PATIENCE_S)
        assert (first, last) == ("", "")
        assert "cannot be published to" in long
        assert "cannot be published to" in wild
        assert mqtt.waiting == 0


async def test_what_a_session_kept_may_come_for_long_before_the_answer_to_subscribing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A backlog, on a slow machine, once took longer than the answer was waited for, again at each attempt."""
    monkeypatch.setattr("esp_ingestd.mqtt.CONNACK_TIMEOUT_S", 3.0)
    is_silent = asyncio.Event()

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_packet(reader)
        writer.write(b"\x20\x03\x00\x00\x00")
        _, subscribe = await _read_packet(reader)
        for _ in range(0 if is_silent.is_set() else 10):
            writer.write(b"\x30\x05\x00\x01t\x00x")
            await asyncio.sleep(0.4)
        if not is_silent.is_set():
            writer.write(b"\x90\x04" + subscribe[:2] + b"\x00\x01")
        await reader.read()
        writer.close()
        await writer.wait_closed()

    inbox = Inbox()
    async with _served(broker) as port:
        settings = MqttSettings(host="127.0.0.1", port=port)
        mqtt = Mqtt(settings, client_id="c", subscriptions=["t"], receive=inbox)
        await mqtt.connect()
        assert len(inbox.payloads) == 10
        await mqtt.close()
        is_silent.set()
        with pytest.raises(Unavailable, match="no SUBACK"):
            await mqtt.connect()


async def test_a_goodbye_together_with_the_answer_to_subscribing_is_no_connection() -> None:
    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_packet(reader)
        writer.write(b"\x20\x03\x00\x00\x00")
        _, subscribe = await _read_packet(reader)
        writer.write(b"\x90\x04" + subscribe[:2] + b"\x00\x01" + b"\xe0\x01\x8b")
        await reader.read()
        writer.close()

    async with _served(broker) as port:
        mqtt = Mqtt(MqttSettings(host="127.0.0.1", port=port), client_id="c", subscriptions=["t"], receive=Inbox())
        await mqtt.connect()
        assert not mqtt.connected.is_set()
        assert not mqtt.is_listening
        await mqtt.close()


@pytest.mark.parametrize("says_so", [True, False])
async def test_a_session_that_is_taken_over_is_told_and_not_fought_for(
    monkeypatch: pytest.MonkeyPatch, *, says_so: bool
) -> None:
    """With MQTT 5 a broker may say so; else it shows by being thrown off again and again."""
    pauses: list[float] = []

    def no_pause(_shortest_s: float, longest_s: float) -> float:
        pauses.append(longest_s)
        return 3600.0 if longest_s > BACKOFF_MAX_S else 0.0

    monkeypatch.setattr("esp_ingestd.mqtt.random.uniform", no_pause)

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_packet(reader)
        writer.write(b"\x20\x03\x00\x00\x00")
        if says_so:
            writer.write(b"\xe0\x01\x8e")
        await writer.drain()
        writer.close()

    heard: list[str] = []
    async with _served(broker) as port:
        mqtt = Mqtt(MqttSettings(host="127.0.0.1", port=port), client_id="ours")
        running = asyncio.create_task(mqtt.run(heard.append))
        await until(lambda: any("taken over" in why.lower() for why in heard))
        await until(lambda: pauses and pauses[-1] > BACKOFF_MAX_S)
        running.cancel()
        await mqtt.close()
    if says_so:
        assert pauses == [TAKEN_OVER_MAX_S]
    else:
        assert pauses == [0.5, 1.0, 2.0, BACKOFF_MAX_S, REFUSED_MAX_S]
        assert "another daemon with client id 'ours'" in heard[-1]


def test_pauses_grow_to_a_bound_however_often_it_fails() -> None:
    """Five hours of failures once made a number that no float can hold, and ended the daemon."""
    assert _longest_pause_s(1, "connection lost") == 0.5
    assert _longest_pause_s(100_000, "broker: [Errno 111] Connection refused") == BACKOFF_MAX_S
    assert _longest_pause_s(100_000, "broker: connection refused: Not authorized") == REFUSED_MAX_S
    assert _longest_pause_s(1, "disconnected: Session taken over") == TAKEN_OVER_MAX_S


async def test_nothing_listens(protocol: Protocol) -> None:
    settings = MqttSettings(host="127.0.0.1", port=embedded.free_port(), protocol=protocol)
    with pytest.raises(Unavailable, match="refused") as unavailable:
        await Mqtt(settings, client_id="c").connect()
    assert unavailable.value.kind == "connection"


# -------------------------------------------------------------------------------------------- brokers that are none


async def _read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The first byte and the rest after the length (MQTT 3.1.1 section 2.2)."""
    kind = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return kind, await reader.readexactly(length)


@contextlib.asynccontextmanager
async def _served(
    broker: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]],
) -> AsyncIterator[int]:
    served: list[asyncio.Task[None]] = []

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.create_task(broker(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*served)
    finally:
        server.close()
