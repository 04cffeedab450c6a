"""The other side of the broker: an RTU that publishes and a SCADA system that listens, on paho as it comes."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from services import BrokerAddress


PATIENCE_S = 120.0
"""No test says how fast something is: this one ends what never comes, on a machine that is busy with other things."""


class Message(NamedTuple):
    topic: str
    payload: bytes
    retain: bool


class Peer:
    """A client of the broker in a thread of its own."""

    def __init__(self, broker: BrokerAddress, *, subscribe: str = "", user: str = "", password: str = "") -> None:
        self.messages: list[Message] = []
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(1_000)
        if user:
            self._client.username_pw_set(user, password)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        if subscribe:
            self._client.subscribe(subscribe, qos=1)
            assert self._subscribed.wait(PATIENCE_S)

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        self.messages.append(Message(message.topic, bytes(message.payload), message.retain))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes | str, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, and return once the broker has it."""
        self._client.publish(topic, payload, qos, retain).wait_for_publish(PATIENCE_S)

    def publish_all(self, messages: Iterable[tuple[str, bytes | str]]) -> None:
        """Publish many at QoS 1, and return once the broker has all of them."""
        for sent in [self._client.publish(topic, payload, 1) for topic, payload in messages]:
            sent.wait_for_publish(PATIENCE_S)


async def until(holds: Callable[[], object], what: str = "") -> None:
    """Wait until something observable holds."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110 - what is waited for is in another process
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"did not come to hold: {what or holds}") from None
