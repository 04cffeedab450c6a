"""The broker: persistent sessions, deliveries in, acknowledgements and alerts out.

paho is driven from the event loop. It keeps the protocol: connecting, subscribing, publishing, keepalive. Read in this
order: `wire`, what a socket gives taken apart; `opening`, how a connection is opened; `outbox`, what is published and
not accepted yet; then how a connection is kept up, here.

Rules:
    1. A delivery is a number: connection * 65536 + packet identifier. Acknowledgements for a connection that is gone
       are dropped, since the broker delivers again.
    2. While intake is paused the socket is not read (I3), but keepalive goes on. A connection that is lost meanwhile
       is made again when intake goes on.
    3. What is published is kept until the broker has accepted or refused it, over every reconnect; at most `window`
       at once.
    4. Never unsubscribe: the broker keeps for us what arrives while we are away.
    5. Alerts have a connection of their own: the broker's answer to them must not stand behind readings on a
       socket that is not being read (docs/adr/0003).
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
from paho.mqtt.reasoncodes import ReasonCode

from esp_ingestd import __version__
from esp_ingestd.config import MqttSettings
from esp_ingestd.errors import Unavailable
from esp_ingestd.mqtt.opening import Opener
from esp_ingestd.mqtt.outbox import Outbox, Publication
from esp_ingestd.mqtt.wire import HEADERS_BYTES, READ_BYTES, BufferedPaho, Receive

__all__ = ("Mqtt", "Receive")

WINDOW: Final = 16  # publications that the broker has not accepted; Mosquitto takes 20 by default
CONNACK_TIMEOUT_S: Final = 10.0
BACKOFF_MAX_S: Final = 3.0  # a broker that is back must be noticed, and readings stored, within 5 s
REFUSED_MAX_S: Final = 30.0  # one that refuses us is not to be pestered: a person has to mend that
TAKEN_OVER_MAX_S: Final = 360.0  # another daemon of our client id has the session: no duel
TAKEN_OVER: Final = "session taken over"  # MQTT 5 reason code 0x8E, which Mosquitto 2.0 and MQTT 3.1.1 do not send:
THROWN_OFF: Final = 5  # so many connections in a row, each lost soon and made again at once, mean the same
MISC_INTERVAL_S: Final = 1.0

_log = structlog.stdlib.get_logger(__name__)


def _ignore(topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
    """Nothing is subscribed to."""


def _longest_pause_s(failures: int, why: str) -> float:
    """The longest pause before the next attempt: ever longer, up to what fits the reason."""
    if TAKEN_OVER in why.lower():
        return TAKEN_OVER_MAX_S if not why.endswith("?") else REFUSED_MAX_S  # a guess is looked at again sooner
    longest_s = REFUSED_MAX_S if "refused:" in why else BACKOFF_MAX_S
    return min(0.25 * 2.0 ** min(failures, 10), longest_s)


class Mqtt:
    """The connection to the broker, kept up for ever."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        subscriptions: Sequence[str] = (),
        receive: Receive | None = None,
        announce: bool = False,
        keep_session: bool = True,
        window: int = WINDOW,
        receive_maximum: int | None = None,
        insists: bool = True,
    ) -> None:
        """A connection as `client_id`; deliver what arrives on `subscriptions` to `receive`, in order of arrival.

        With `announce` it is said on the status topic whether we are online; without `keep_session` the broker
        forgets us as soon as we go. At most `window` publications are sent that the broker has not accepted, and with
        MQTT 5 it has at most `receive_maximum` deliveries in flight to us (`mqtt.receive_maximum` by default).
        Unless it `insists`, a subscription that the broker refuses is logged and done without.
        """
        self.receive: Receive = receive or _ignore
        self.receive_retained: Receive | None = None
        """Who takes what the broker had kept from before we subscribed; None: `receive`."""
        self.connection = 0
        self.paused = False
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self.connected = asyncio.Event()
        self.longest_packet_bytes = max(settings.max_payload_bytes, READ_BYTES) + HEADERS_BYTES
        self._opener = Opener(
            settings,
            client_id,
            keep_session=keep_session,
            receive_maximum=receive_maximum or settings.receive_maximum,
        )
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._announce = announce
        self._insists = insists
        self._client: BufferedPaho | None = None
        self._lost = asyncio.Event()
        self._lost_reason = ""
        self._failure: Exception | None = None
        self._answer: asyncio.Future[str] | None = None
        self._outbox = Outbox(window)

    @property
    def address(self) -> str:
        """Where the broker is."""
        return self._opener.address

    @property
    def status_topic(self) -> str:
        """Where it is said whether we are online (CONTRACT §5)."""
        return f"esp/ingestd/{self._client_id}/status"

    @property
    def is_listening(self) -> bool:
        """Whether what is sent to us now would arrive: connected, and reading the socket."""
        return self.connected.is_set() and not self.paused

    @property
    def waiting(self) -> int:
        """Publications that the broker has not answered."""
        return len(self._outbox)

    async def run(self, on_change: Callable[[str], None] = lambda _why: None) -> None:
        """Connect and stay connected, for ever; `on_change` hears why we are not, or "" when we are.

        Cancel: leaves the connection as it is; `close` ends it.
        """
        failures = thrown_off = 0
        ticker = asyncio.create_task(self._tick(), name="mqtt keepalive")
        try:
            while True:
                began = time.monotonic()
                try:
                    await self.connect()
                    if self.connected.is_set():
                        on_change("")
                    await self._lost.wait()
                    if self._failure is not None:
                        raise self._failure
                    why = self._lost_reason
                    thrown_off += 1
                except Unavailable as unavailable:
                    why = str(unavailable)
                    thrown_off = 0
                if time.monotonic() - began > REFUSED_MAX_S:  # what lasted is tried again at once
                    failures = thrown_off = 0
                failures += 1
                if thrown_off >= THROWN_OFF:
                    why += f"; is {TAKEN_OVER} by another daemon with client id {self._client_id!r}?"
                on_change(why)
                longest_s = _longest_pause_s(failures, why)
                await asyncio.sleep(random.uniform(longest_s / 4, longest_s))  # noqa: S311 - jitter, no secret
                await self._unpaused.wait()  # what a connection brings could not be read, its CONNACK neither
        finally:
            ticker.cancel()

    async def connect(self) -> None:
        """Connect once: session resumed, subscribed, announced, what was not accepted published again.

        It may be lost already when this returns: a broker may say goodbye together with its last answer.

        Raises:
            Unavailable: with what the broker or the network said.

        Cancel: the attempt is given up.
        """
        self._lost.clear()
        self._lost_reason = "connection lost"
        client = self._client = self._make_client()
        self._answer = asyncio.get_running_loop().create_future()
        try:
            await self._opener.open(client)
            self.connection += 1
            if sock := client.socket():
                if not self.paused:  # else `resume` does
                    asyncio.get_running_loop().add_reader(sock, self._on_readable)
                client.loop_write()
            await self._await_answer("CONNACK")
            if self._subscriptions:
                self._answer = asyncio.get_running_loop().create_future()
                client.subscribe(self._opener.subscription_list(self._subscriptions))
                await self._await_answer("SUBACK")
        except BaseException:
            self._drop(client)
            raise
        finally:
            self._answer = None
        if self._lost.is_set():
            return
        self.connected.set()
        if self._announce:
            self._outbox.add_first(self._status(online=True))
        self._send_more()

    def pause(self) -> None:
        """Stop reading the socket: the broker keeps what is to come."""
        self.paused = True
        self._unpaused.clear()
        if self._client and (sock := self._client.socket()):
            asyncio.get_running_loop().remove_reader(sock)

    def resume(self) -> None:
        """Read again."""
        if not self.paused:
            return
        self.paused = False
        self._unpaused.set()
        if self._client and (sock := self._client.socket()):
            asyncio.get_running_loop().add_reader(sock, self._on_readable)
            asyncio.get_running_loop().call_soon(self._take_buffered)

    def acknowledge(self, deliveries: Sequence[int]) -> int:
        """Acknowledge in this order; those of a connection that is gone are left out. How many were sent."""
        now = self.connection
        identifiers = [each & 0xFFFF for each in deliveries if each >> 16 == now]
        if not identifiers or self._client is None:
            return 0
        self._client.acknowledge(identifiers)
        return len(identifiers)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[str]:
        """Publish at QoS 1, now or as soon as there is a connection.

        Returns:
            The broker's answer, when it comes: "" if it has accepted it, else why it refuses it, as its access
            control list does. Only MQTT 5 tells; by 3.1.1 a broker accepts what it then throws away.
        """
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._outbox.add(Publication(topic, payload, retain, answer))
        self._send_more()
        return answer

    async def close(self) -> None:
        """Say that we are offline and disconnect; the session, and what the broker keeps in it, stays."""
        client = self._client
        if client is None:
            return
        if self.connected.is_set():
            if self._announce:  # not waited for: while intake is paused the answer is not read, but order is kept
                offline = self._status(online=False)
                client.publish(offline.topic, offline.payload, qos=1, retain=True)
            self.connected.clear()
            client.disconnect()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while client.want_write():  # noqa: ASYNC110 - paho tells no one
                        await asyncio.sleep(0.005)
        self._drop(client)

    def want_write(self, sock: Any) -> bool:  # noqa: ANN401 - paho's socket type
        """Paho could not write all: go on when the socket takes more. False outside the loop's thread."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        loop.add_writer(sock, self._on_writable)
        return True

    def unwant_write(self, sock: Any) -> None:  # noqa: ANN401 - paho's socket type
        """Paho has written all."""
        asyncio.get_running_loop().remove_writer(sock)

    def unwatch(self, sock: Any) -> None:  # noqa: ANN401 - paho's socket type
        """The socket is about to be closed."""
        with suppress(RuntimeError, ValueError):  # no loop in the connecting thread
            asyncio.get_running_loop().remove_reader(sock)

    def _make_client(self) -> BufferedPaho:
        client = self._opener.make_client(self, self._status(online=False) if self._announce else None)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    async def _await_answer(self, what: str) -> None:
        """Wait for it, for as long as something comes: what the session kept for us may come before it."""
        assert self._answer is not None  # noqa: S101 - set by connect
        heard_at = -1.0
        while not self._answer.done() and self._client is not None and self._client.heard_at != heard_at:
            heard_at = self._client.heard_at
            await asyncio.wait([self._answer], timeout=CONNACK_TIMEOUT_S)
        fault = self._answer.result() if self._answer.done() else f"no {what} within {CONNACK_TIMEOUT_S:g} s"
        if fault:
            raise Unavailable(f"broker {self.address}: {fault}", kind="refused")

    def _settle(self, fault: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(fault)

    def _on_connect(
        self, client: object, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if client is not self._client:
            return
        if reason.is_failure:
            if self._opener.is_5 and reason.getName() == "Unsupported protocol version":
                self._opener.is_5 = False
                _log.warning("broker refuses MQTT 5, going on with 3.1.1", broker=self.address)
            self._settle(f"connection refused: {reason.getName()}")
            return
        self._settle("")

    def _on_subscribe(
        self, client: object, _userdata: object, _mid: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        if client is self._client:
            refused = [
                f"{topic} ({reason.getName()})"
                for topic, reason in zip(self._subscriptions, reasons, strict=False)
                if reason.is_failure
            ]
            fault = f"subscription refused: {', '.join(refused)}; see its access control list" if refused else ""
            if fault and not self._insists:
                _log.error("broker refuses a subscription", broker=self.address, why=fault)
                fault = ""
            self._settle(fault)

    def _on_disconnect(
        self, client: object, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if client is not self._client:
            return
        self._lost_reason = f"disconnected: {reason.getName()}"
        self._settle(self._lost_reason)
        self.connected.clear()
        self._outbox.take_back()
        self._lost.set()

    def _on_publish(self, client: object, _userdata: object, mid: int, reason: ReasonCode, _properties: object) -> None:
        if client is self._client:
            self._outbox.settle(mid, reason)
            self._send_more()

    def _send_more(self) -> None:
        if self._client is not None:
            self._outbox.send(self._client, self.connected.is_set)

    def _status(self, *, online: bool) -> Publication:
        payload = {"online": online, "client_id": self._client_id, "version": __version__}
        return Publication(self.status_topic, json.dumps(payload).encode(), retain=True)

    def _on_readable(self) -> None:
        if (client := self._client) is not None and not self.paused:
            self._guard(client.read)
            if client.has_pending():
                asyncio.get_running_loop().call_soon(self._on_readable)

    def _take_buffered(self) -> None:
        if (client := self._client) is not None and not self.paused:
            self._guard(client.take_packets)
            self._on_readable()

    def _guard(self, work: Callable[[], None]) -> None:
        """An exception of who receives is a bug: it ends `run`, and with it the service (I7)."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again by `run`
            self._failure = error
            self._lost.set()

    def _on_writable(self) -> None:
        if self._client is not None:
            self._client.loop_write()

    async def _tick(self) -> None:
        """Keepalive, once a second."""
        while True:
            await asyncio.sleep(MISC_INTERVAL_S)
            if self._client is not None and self.connected.is_set():
                if self.paused:
                    self._client.ping_unheard()
                self._client.loop_misc()

    def _drop(self, client: BufferedPaho) -> None:
        self.connected.clear()
        client.on_disconnect = None
        client._sock_close()  # noqa: SLF001 - ours, and paho has no public way to hang up
        if client is self._client:
            self._client = None
