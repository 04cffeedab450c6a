"""What is published: kept until the broker has accepted or refused it, over every reconnect, in order."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

_FAILURE: Final = 0x80  # MQTT 5 reason codes from here on


@dataclass(slots=True)
class Publication:
    """A message for the broker, and what it says to it: "" once it has accepted it, else why it refuses it."""

    topic: str
    payload: bytes
    retain: bool = False
    answer: asyncio.Future[str] | None = field(default=None, repr=False)
    """None where nobody asks: then it is not sent again on another connection."""


class Outbox:
    """Publications that the broker has not answered."""

    def __init__(self, window: int) -> None:
        """At most `window` of them are sent."""
        self._window = window
        self._waiting: deque[Publication] = deque()
        self._sent: dict[int, Publication] = {}

    def __len__(self) -> int:
        """How many, sent or not."""
        return len(self._waiting) + len(self._sent)

    def add(self, publication: Publication) -> None:
        """Behind all others."""
        self._waiting.append(publication)

    def add_first(self, publication: Publication) -> None:
        """Before all that are not sent."""
        self._waiting.appendleft(publication)

    def send(self, client: paho.Client, is_connected: Callable[[], bool]) -> None:
        """As many as the window lets; a connection may be lost in between."""
        while self._waiting and len(self._sent) < self._window and is_connected():
            publication = self._waiting.popleft()
            try:
                info = client.publish(publication.topic, publication.payload, qos=1, retain=publication.retain)
            except ValueError as error:  # a topic that MQTT does not have, such as one that is too long
                if publication.answer is not None:
                    publication.answer.set_result(f"{publication.topic[:64]} cannot be published to: {error}")
                continue
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS or not is_connected():
                if publication.answer is not None:
                    self._waiting.appendleft(publication)
                return
            self._sent[info.mid] = publication

    def settle(self, mid: int, reason: ReasonCode) -> None:
        """The broker has answered the one with this packet identifier."""
        publication = self._sent.pop(mid, None)
        if publication is not None and publication.answer is not None and not publication.answer.done():
            refused = f"broker refuses {publication.topic}: {reason.getName()}"
            publication.answer.set_result(refused if reason.value >= _FAILURE else "")

    def take_back(self) -> None:
        """The connection is lost: what was not answered is sent again on the next, in the same order."""
        self._waiting.extendleft(reversed([each for each in self._sent.values() if each.answer is not None]))
        self._sent.clear()
