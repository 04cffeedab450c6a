"""The broker: persistent sessions, deliveries in, acknowledgements and alerts out.

paho is driven from the event loop. It keeps the protocol: connecting, subscribing, publishing, keepalive. Only what
is hot goes a road of our own (docs/adr/0001): the socket is read in large pieces and a PUBLISH is taken apart
in place, and acknowledgements leave many to a packet queue entry. Measured, that is a third of paho's own cost.

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
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from esp_ingestd import __version__
from esp_ingestd.config import MqttSettings
from esp_ingestd.core.decode import KEPT_BYTES, LONGEST_TOPIC, MAX_TOPICS
from esp_ingestd.errors import Unavailable, in_words

READ_BYTES: Final = 65_536  # at once; about 250 single readings, 5 ms of work before the loop runs again
WINDOW: Final = 16  # publications that the broker has not accepted; Mosquitto takes 20 by default
CONNECT_TIMEOUT_S: Final = 10.0
CONNACK_TIMEOUT_S: Final = 10.0
BACKOFF_MAX_S: Final = 3.0  # a broker that is back must be noticed, and readings stored, within 5 s
REFUSED_MAX_S: Final = 30.0  # one that refuses us is not to be pestered: a person has to mend that
TAKEN_OVER_MAX_S: Final = 360.0  # another daemon of our client id has the session: no duel
TAKEN_OVER: Final = "session taken over"  # MQTT 5 reason code 0x8E, which Mosquitto 2.0 and MQTT 3.1.1 do not send:
THROWN_OFF: Final = 5  # so many connections in a row, each lost soon and made again at once, mean the same
HEADERS_BYTES: Final = 131_072  # of a PUBLISH beside its payload: topic and properties have at most 64 KiB each
MISC_INTERVAL_S: Final = 1.0

_PUBLISH: Final = 0x30
_RETAIN: Final = 0x01
_PUBACK: Final = 0x40
_QOS: Final = 0x06
_FAILURE: Final = 0x80  # MQTT 5 reason codes from here on, and SUBACK's only one in 3.1.1

_log = structlog.stdlib.get_logger(__name__)


class Receive(Protocol):
    """Who takes deliveries."""

    def __call__(self, topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
        """Take one. `delivery` is 0 where none is to be acknowledged (QoS 0)."""


@dataclass(slots=True)
class Publication:
    """A message for the broker, and what it says to it: "" once it has accepted it, else why it refuses it."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1
    answer: asyncio.Future[str] | None = field(default=None, repr=False)


class _Paho(paho.Client):
    """paho with a buffered road for PUBLISH, told when it wants the event loop."""

    def __init__(self, owner: "Mqtt", protocol: MQTTProtocolVersion, client_id: str, *, clean_session: bool) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=protocol,
            clean_session=None if protocol == MQTTProtocolVersion.MQTTv5 else clean_session,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        self._owner = owner
        self._is_5 = protocol == MQTTProtocolVersion.MQTTv5
        self._buffer = b""
        self._skip_bytes = 0
        self._cut: tuple[bytes, int] | None = None
        self._topics: dict[bytes, str] = {}

    def reconnect(self) -> MQTTErrorCode:
        """Start a connection with nothing left over from the last."""
        self._buffer = b""
        self._skip_bytes = 0
        self._cut = None
        return super().reconnect()

    def read(self) -> None:
        """Take what the socket has, at most READ_BYTES, and deal with every whole packet."""
        try:
            data = self._sock_recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            return
        self._last_bytes_received = time.monotonic()
        if self._skip_bytes:
            data = self._skip(data)
        self._buffer = self._buffer + data if self._buffer else data
        self.take_packets()

    @property
    def heard_at(self) -> float:
        """When something last came, monotonic s."""
        return float(self._last_bytes_received)

    def has_pending(self) -> bool:
        """Whether TLS holds bytes that the socket will not announce again."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def take_packets(self) -> None:
        """Deal with every whole packet in the buffer, until intake is paused."""
        buffer = self._buffer
        end = len(buffer)
        at = 0
        received_us = time.time_ns() // 1_000
        owner = self._owner
        while not owner.paused and end - at > 1:
            command = buffer[at]
            start = at + 2
            length = buffer[at + 1]
            if length > 127:  # noqa: PLR2004 - the continuation bit (MQTT 1.5.5)
                if start < end and buffer[start] < 128:  # noqa: PLR2004 - two bytes, as nearly every reading has
                    length += (buffer[start] << 7) - 128
                    start += 1
                elif decoded := _read_length(buffer, at + 1, end):
                    length, start = decoded
                else:
                    break
            stop = start + length
            if stop > end:
                if length > owner.longest_packet_bytes:
                    self._cut_packet(buffer[at:], stop - end, start - at, length)
                    at = end
                break
            at = stop
            if command & 0xF0 == _PUBLISH:
                if not self._take_publish(command, buffer, start, stop, received_us):
                    self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_PROTOCOL)
                    return
            elif not self._take_other(command, buffer[start:stop]):
                return
        self._buffer = buffer[at:] if at < end else b""

    def _take_publish(self, command: int, buffer: bytes, at: int, stop: int, received_us: int, size: int = 0) -> bool:
        """Deliver one PUBLISH (MQTT 5 section 3.3) whose variable header begins at `at`; False if it is malformed."""
        if at + 2 > stop or (after_topic := at + 2 + (buffer[at] << 8 | buffer[at + 1])) > stop:
            return False
        raw_topic = buffer[at + 2 : after_topic]
        topic = self._topics.get(raw_topic) or self._name_topic(raw_topic)
        delivery = 0
        at = after_topic
        if command & _QOS:
            if at + 2 > stop:
                return False
            delivery = self._owner.connection << 16 | buffer[at] << 8 | buffer[at + 1]
            at += 2
        if self._is_5:
            if at >= stop:
                return False
            properties_bytes = buffer[at]
            at += 1
            if properties_bytes > 127:  # noqa: PLR2004 - the continuation bit
                properties_bytes, at = _read_length(buffer, at - 1, stop) or (0, stop)
            at += properties_bytes
        payload = buffer[at:stop]
        owner = self._owner
        receive = (owner.receive_retained or owner.receive) if command & _RETAIN else owner.receive
        receive(topic, payload, delivery, received_us, size - at if size else len(payload))
        return True

    def _name_topic(self, raw: bytes) -> str:
        topic = raw.decode(errors="replace")
        if len(raw) <= LONGEST_TOPIC:  # strangers' topics must not fill the memory
            if len(self._topics) >= MAX_TOPICS:
                self._topics.clear()
            self._topics[raw] = topic
        return topic

    def _take_other(self, command: int, packet: bytes) -> bool:
        """Leave a packet to paho; False where that ended the connection."""
        self._in_packet["command"] = command
        self._in_packet["packet"] = bytearray(packet)
        self._in_packet["remaining_length"] = len(packet)
        self._in_packet["pos"] = 0
        connection = self._owner.connection
        try:
            code = self._packet_handle()
        except (ValueError, IndexError, MalformedPacket):  # malformed
            code = MQTTErrorCode.MQTT_ERR_PROTOCOL
        if code > 0:
            self._loop_rc_handle(code)
        return self._sock is not None and connection == self._owner.connection

    def _cut_packet(self, begun: bytes, missing: int, header: int, length: int) -> None:
        """Begin to pass over a packet that is too large: its head is kept, memory stays bounded."""
        self._skip_bytes = missing
        self._cut = (begun[: header + HEADERS_BYTES + KEPT_BYTES], length)

    def _skip(self, data: bytes) -> bytes:
        """Pass over the rest of a packet that is too large; deliver its head when its end has come."""
        head, length = self._cut or (b"", 0)
        room = HEADERS_BYTES + KEPT_BYTES - len(head)
        if room > 0:
            head += data[: min(room, self._skip_bytes)]
            self._cut = (head, length)
        rest = data[self._skip_bytes :]
        self._skip_bytes = max(self._skip_bytes - len(data), 0)
        if not self._skip_bytes and head[0] & 0xF0 == _PUBLISH:
            self._cut = None
            _, start = _read_length(head, 1, len(head)) or (0, 5)
            self._deliver_cut(head, start, length)
        return rest

    def _deliver_cut(self, head: bytes, start: int, length: int) -> None:
        received_us = time.time_ns() // 1_000
        self._take_publish(head[0], head, start, len(head), received_us, size=start + length)

    def acknowledge(self, packet_identifiers: Sequence[int]) -> None:
        """Send PUBACK for each, in this order, in one write (MQTT 5 section 3.4: reason code 0 may be left out)."""
        packets = b"".join([b"\x40\x02" + identifier.to_bytes(2, "big") for identifier in packet_identifiers])
        self._packet_queue(_PUBACK, packets, 0, 0)

    def ping_unheard(self) -> None:
        """Keep the session alive while the answers are not read."""
        self._ping_t = 0.0
        self._last_bytes_received = time.monotonic()

    def _call_socket_register_write(self) -> None:
        if not self._registered_write and self._sock:
            self._registered_write = self._owner.want_write(self._sock)

    def _call_socket_unregister_write(self, sock: Any = None) -> None:  # noqa: ANN401 - paho's signature
        sock = sock or self._sock
        if self._registered_write and sock:
            self._registered_write = False
            self._owner.unwant_write(sock)

    def _call_socket_close(self, sock: Any) -> None:  # noqa: ANN401 - paho's signature
        self._owner.unwatch(sock)


def _ignore(topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
    """Nothing is subscribed to."""


def _read_length(buffer: bytes, at: int, end: int) -> tuple[int, int] | None:
    """A variable byte integer (MQTT 5 section 1.5.5) and where it ends, or None while it is not whole."""
    value = 0
    for shift in (0, 7, 14, 21):
        if at >= end:
            return None
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            break
    return value, at


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
        self._settings = settings
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._announce = announce
        self._keep_session = keep_session
        self._window = window
        self._receive_maximum = receive_maximum or settings.receive_maximum
        self._insists = insists
        self._is_5 = settings.protocol == "5"
        self._client: _Paho | None = None
        self._lost = asyncio.Event()
        self._lost_reason = ""
        self._failure: Exception | None = None
        self._answer: asyncio.Future[str] | None = None
        self._outbox: deque[Publication] = deque()
        self._sent: dict[int, Publication] = {}

    @property
    def address(self) -> str:
        """Where the broker is."""
        return f"{'mqtts' if self._settings.use_tls else 'mqtt'}://{self._settings.host}:{self._settings.port}"

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
        return len(self._outbox) + len(self._sent)

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
            await self._open_socket(client)
            self.connection += 1
            if sock := client.socket():
                if not self.paused:  # else `resume` does
                    asyncio.get_running_loop().add_reader(sock, self._on_readable)
                client.loop_write()
            await self._await_answer("CONNACK")
            if self._subscriptions:
                self._answer = asyncio.get_running_loop().create_future()
                client.subscribe(self._subscription_list())
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
            self._outbox.appendleft(self._status(online=True))
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
        self._outbox.append(Publication(topic, payload, retain, answer=answer))
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

    def _make_client(self) -> _Paho:
        settings = self._settings
        protocol = MQTTProtocolVersion.MQTTv5 if self._is_5 else MQTTProtocolVersion.MQTTv311
        client = _Paho(self, protocol, self._client_id, clean_session=not self._keep_session)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # `window` is ours; paho would walk through all of it at each PUBACK
        if settings.username:
            password = settings.password.get_secret_value() if settings.password else None
            client.username_pw_set(settings.username, password)
        if settings.use_tls:
            client.tls_set_context(self._tls_context())
        if self._announce:
            offline = self._status(online=False)
            client.will_set(offline.topic, offline.payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    def _tls_context(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.tls_ca_file)
            if settings.tls_cert_file:
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
        except OSError as error:
            raise Unavailable(
                f"certificates of broker {self.address}: {in_words(error)}", kind="certificate"
            ) from error
        return context

    async def _open_socket(self, client: _Paho) -> None:
        """Name resolution, TCP and TLS in a thread: paho blocks there. A daemon thread never delays the end."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(None)

        def connect() -> None:
            error: BaseException | None = None
            try:
                self._start_connection(client)
            except (OSError, ValueError) as failure:
                error = failure
            with suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(settle, error)

        threading.Thread(target=connect, name="mqtt connect", daemon=True).start()
        try:
            await done
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(f"broker {self.address}: {error.verify_message}", kind="certificate") from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"broker {self.address}: {in_words(error)}", kind="connection") from error

    def _start_connection(self, client: _Paho) -> None:
        settings = self._settings
        if not self._is_5:
            client.connect(settings.host, settings.port, settings.keepalive_s)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = settings.session_expiry_s if self._keep_session else 0
        properties.ReceiveMaximum = self._receive_maximum
        clean = not self._keep_session
        client.connect(settings.host, settings.port, settings.keepalive_s, clean_start=clean, properties=properties)

    def _subscription_list(self) -> list[Any]:
        if self._is_5:
            # Retained readings are not sent again at each reconnect: only to a new subscription.
            options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
            return [(each, options) for each in self._subscriptions]
        return [(each, 1) for each in self._subscriptions]

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
            if self._is_5 and reason.getName() == "Unsupported protocol version":
                self._is_5 = False
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
        # Not accepted: again on the next connection, in the same order. The status is made anew there.
        unanswered = [each for each in self._sent.values() if each.answer is not None]
        self._outbox.extendleft(reversed(unanswered))
        self._sent.clear()
        self._lost.set()

    def _on_publish(self, client: object, _userdata: object, mid: int, reason: ReasonCode, _properties: object) -> None:
        publication = self._sent.pop(mid, None) if client is self._client else None
        if publication is None:
            return
        if publication.answer is not None and not publication.answer.done():
            refused = f"broker refuses {publication.topic}: {reason.getName()}"
            publication.answer.set_result(refused if reason.value >= _FAILURE else "")
        self._send_more()

    def _send_more(self) -> None:
        client = self._client
        while self._outbox and len(self._sent) < self._window and self.connected.is_set() and client is not None:
            publication = self._outbox.popleft()
            info = client.publish(publication.topic, publication.payload, qos=1, retain=publication.retain)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS or not self.connected.is_set():
                if publication.answer is not None:
                    self._outbox.appendleft(publication)
                return
            self._sent[info.mid] = publication

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

    def _drop(self, client: _Paho) -> None:
        self.connected.clear()
        client.on_disconnect = None
        client._sock_close()  # noqa: SLF001 - ours, and paho has no public way to hang up
        if client is self._client:
            self._client = None
