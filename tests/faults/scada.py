"""What a SCADA system hears: every alarm event, in a session that the broker keeps while it is away."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from peer import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

RECONNECT_S = 0.05


class Scada(threading.Thread):
    """Subscribed to the events of all wells at QoS 1, for as long as the broker of a test lives and dies."""

    def __init__(self, port: int, prefix: str = "esp/alerts") -> None:
        super().__init__(name="scada", daemon=True)
        self.port, self.prefix = port, prefix
        self.heard: list[Mapping[str, Any]] = []
        self.first_heard_at: dict[str, float] = {}
        """By event_id, monotonic s."""
        self.subscribed = threading.Event()
        self._stopping = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, "scada", clean_session=False, reconnect_on_failure=False
        )
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_message = self._on_message

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._client.connect("127.0.0.1", self.port)
                self._client.loop_forever()
            except OSError:
                pass
            self._stopping.wait(RECONNECT_S)

    def __enter__(self) -> Self:
        self.start()
        assert self.subscribed.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._client.disconnect()
        self.join(PATIENCE_S)

    def _on_connect(self, *_: object) -> None:
        self._client.subscribe(f"{self.prefix}/+/events", qos=1)

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        event = json.loads(message.payload)
        self.first_heard_at.setdefault(event["event_id"], time.monotonic())
        self.heard.append(event)


def retained(port: int, topics: str, count: int) -> dict[str, Mapping[str, Any]]:
    """What the broker keeps on these topics, as one finds it who comes now; at least `count`, or what came in 10 s."""
    found: dict[str, Mapping[str, Any]] = {}
    enough = threading.Event()

    def on_message(_client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        found[message.topic] = json.loads(message.payload)
        if len(found) >= count:
            enough.set()

    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe(topics, qos=1)
    enough.wait(PATIENCE_S)
    client.disconnect()
    client.loop_stop()
    return found
