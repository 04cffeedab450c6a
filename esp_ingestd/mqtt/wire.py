"""What a socket gives, taken apart: paho, with a road of our own for what is hot (docs/adr/0001).

The socket is read in large pieces and a PUBLISH is taken apart in place; acknowledgements leave many to a packet queue
entry. Every other packet is paho's. These are private parts of paho: pyproject.toml lets in only the releases that were
read.
"""

import ssl
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket

from esp_ingestd.core.decode import KEPT_BYTES, LONGEST_TOPIC, MAX_TOPICS

READ_BYTES: Final = 65_536  # at once; about 250 single readings, 5 ms of work before the loop runs again
HEADERS_BYTES: Final = 131_072  # of a PUBLISH beside its payload: topic and properties have at most 64 KiB each

_PUBLISH: Final = 0x30
_RETAIN: Final = 0x01
_PUBACK: Final = 0x40
_QOS: Final = 0x06


class Receive(Protocol):
    """Who takes deliveries."""

    def __call__(self, topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
        """Take one. `delivery` is 0 where none is to be acknowledged (QoS 0)."""


class Owner(Protocol):
    """Who drives the connection: what it has to know, and whom it tells."""

    connection: int
    """Its number, the upper bits of a delivery."""
    paused: bool
    """Whether nothing is to be taken now."""
    longest_packet_bytes: int
    """A longer one is passed over, and its head delivered."""
    receive: Receive
    receive_retained: Receive | None
    """Who takes what the broker had kept from before we subscribed; None: `receive`."""

    def want_write(self, sock: Any) -> bool:  # noqa: ANN401 - paho's socket type
        """Paho could not write all: go on when the socket takes more. False outside the loop's thread."""

    def unwant_write(self, sock: Any) -> None:  # noqa: ANN401 - paho's socket type
        """Paho has written all."""

    def unwatch(self, sock: Any) -> None:  # noqa: ANN401 - paho's socket type
        """The socket is about to be closed."""


class BufferedPaho(paho.Client):
    """paho with a buffered road for PUBLISH, told when it wants the event loop."""

    def __init__(self, owner: Owner, protocol: MQTTProtocolVersion, client_id: str, *, clean_session: bool) -> None:
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
