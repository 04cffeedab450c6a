"""Which way of driving paho is fastest: microseconds of CPU a message, for the same messages from a real Mosquitto.

usage: receive.py [MESSAGES]
Ways: paho's network thread; paho's loop_read from the event loop; ours (mqtt/wire.py). All acknowledge by hand, QoS 1.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import uvloop
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from esp_ingestd import embedded
from esp_ingestd.config import MqttSettings
from esp_ingestd.mqtt import Mqtt

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC = "esp/+/telemetry"
NAME = "bench"


def plain_client(protocol: MQTTProtocolVersion) -> paho.Client:
    """A paho client as its documentation shows it."""
    clean = None if protocol == MQTTProtocolVersion.MQTTv5 else False
    return paho.Client(CallbackAPIVersion.VERSION2, NAME, protocol=protocol, clean_session=clean, manual_ack=True)


def connect(client: paho.Client, protocol: MQTTProtocolVersion, port: int) -> None:
    """Into the session that holds the messages."""
    if protocol != MQTTProtocolVersion.MQTTv5:
        client.connect("127.0.0.1", port)
        return
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    properties.ReceiveMaximum = 65_535
    client.connect("127.0.0.1", port, clean_start=False, properties=properties)


def fill(protocol: MQTTProtocolVersion, port: int, messages: int) -> None:
    """Leave the session with `messages` waiting."""
    client = plain_client(protocol)
    subscribed: list[int] = []
    client.on_subscribe = lambda *_: subscribed.append(1)
    connect(client, protocol, port)
    client.loop_start()
    client.subscribe(TOPIC, 1)
    while not subscribed:
        time.sleep(0.01)
    client.loop_stop()
    client.disconnect()
    load = Path(__file__).parent / "load.py"
    subprocess.run([sys.executable, load, str(port), "60", "0", "1", "100", "0", str(messages)], check=True)


def by_thread(protocol: MQTTProtocolVersion, port: int, messages: int) -> float:
    """Paho's own network thread."""
    count = [0]
    client = plain_client(protocol)

    def take(client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:  # noqa: ANN401 - paho's
        count[0] += 1
        client.ack(message.mid, message.qos)

    client.on_message = take
    began = time.process_time()
    connect(client, protocol, port)
    client.loop_start()
    while count[0] < messages:
        time.sleep(0.02)
    took = time.process_time() - began
    client.loop_stop()
    client.disconnect()
    return took


def by_loop(protocol: MQTTProtocolVersion, port: int, messages: int) -> float:
    """Paho's loop_read when the event loop says that there is something."""

    async def receive() -> float:
        loop, done, count = asyncio.get_running_loop(), asyncio.Event(), [0]
        client = plain_client(protocol)

        def take(client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:  # noqa: ANN401 - paho's
            count[0] += 1
            client.ack(message.mid, message.qos)
            if count[0] >= messages:
                done.set()

        client.on_message = take
        client.on_socket_register_write = lambda _c, _u, sock: loop.add_writer(sock, client.loop_write)
        client.on_socket_unregister_write = lambda _c, _u, sock: loop.remove_writer(sock)
        began = time.process_time()
        connect(client, protocol, port)
        loop.add_reader(client.socket(), client.loop_read)
        await done.wait()
        took = time.process_time() - began
        loop.remove_reader(client.socket())
        client.disconnect()
        return took

    return uvloop.run(receive())


def by_ours(protocol: MQTTProtocolVersion, port: int, messages: int) -> float:
    """Ours: large reads, PUBLISH taken apart in place, acknowledgements many at once."""

    async def receive() -> float:
        done, deliveries, count = asyncio.Event(), [], [0]
        name = "5" if protocol == MQTTProtocolVersion.MQTTv5 else "3.1.1"
        client = Mqtt(MqttSettings(host="127.0.0.1", port=port, protocol=name), client_id=NAME, subscriptions=[TOPIC])

        def take(_topic: str, _payload: bytes, delivery: int, _received_us: int, _size: int) -> None:
            deliveries.append(delivery)
            count[0] += 1
            if len(deliveries) >= 500 or count[0] >= messages:  # noqa: PLR2004 - a batch
                client.acknowledge(deliveries)
                deliveries.clear()
            if count[0] >= messages:
                done.set()

        client.receive = take
        began = time.process_time()
        await client.connect()
        await done.wait()
        took = time.process_time() - began
        await client.close()
        return took

    return uvloop.run(receive())


def main() -> None:
    """Print the table."""
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    ways: dict[str, Callable[[MQTTProtocolVersion, int, int], float]] = {
        "paho's network thread": by_thread,
        "paho's loop_read": by_loop,
        "ours (mqtt/wire.py)": by_ours,
    }
    print(f"{'CPU us a message':<24} {'MQTT 5':>8} {'3.1.1':>8}")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with embedded.Broker(Path(name) / "broker") as broker:
            for label, way in ways.items():
                cells = []
                for protocol in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
                    fill(protocol, broker.port, messages)
                    cells.append(way(protocol, broker.port, messages) / messages * 1e6)
                print(f"{label:<24} {cells[0]:>8.1f} {cells[1]:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
