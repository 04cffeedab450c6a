"""What a socket gives, in pieces of any size, is taken apart the same; what is malformed ends the connection only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import MQTTProtocolVersion

from esp_ingestd.core.decode import KEPT_BYTES
from esp_ingestd.mqtt.wire import HEADERS_BYTES, BufferedPaho

PROTOCOLS = [MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311]
LONGEST = 1_000 + HEADERS_BYTES


class Owner(SimpleNamespace):
    """What mqtt.Mqtt is to its paho."""

    def __init__(self) -> None:
        super().__init__(
            paused=False, connection=3, longest_packet_bytes=LONGEST, taken=[], ended=0, receive_retained=None
        )

    def receive(self, topic: str, payload: bytes, delivery: int, _received_us: int, size_bytes: int) -> None:
        self.taken.append((topic, payload, delivery & 0xFFFF, size_bytes))


def make(protocol: MQTTProtocolVersion) -> tuple[Owner, Any]:
    owner = Owner()
    client = BufferedPaho(owner, protocol, "test", clean_session=True)  # type: ignore[arg-type]

    def end(_code: object) -> None:
        owner.ended += 1

    client._loop_rc_handle = end  # type: ignore[method-assign,assignment]
    return owner, client


def feed(client: Any, data: bytes, sizes: list[int]) -> None:  # noqa: ANN401 - a paho with a method replaced
    """As `read` does, from a socket that gives so many bytes at a time."""
    at = 0
    while at < len(data):
        piece = data[at : at + sizes[0]]
        sizes = [*sizes[1:], sizes[0]]
        at += len(piece)
        if client._skip_bytes:
            piece = client._skip(piece)
        client._buffer += piece
        client.take_packets()


def length_of(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def publish(
    protocol: MQTTProtocolVersion, topic: str, payload: bytes, identifier: int, properties: bytes = b""
) -> bytes:
    name = topic.encode()
    head = len(name).to_bytes(2, "big") + name + (identifier.to_bytes(2, "big") if identifier else b"")
    if protocol == MQTTProtocolVersion.MQTTv5:
        head += length_of(len(properties)) + properties
    return bytes([0x32 if identifier else 0x30]) + length_of(len(head) + len(payload)) + head + payload


messages = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=20),
        st.binary(max_size=300) | st.just(b"x" * 200_000),
        st.integers(0, 65_535),
        st.sampled_from([b"", b"\x01\x00", b"\x26\x00\x01a\x00\x7f" + b"b" * 127]),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(sent=messages, sizes=st.lists(st.integers(1, 70_000), min_size=1, max_size=5))
def test_pieces_of_any_size_give_the_same(protocol: MQTTProtocolVersion, sent: list[Any], sizes: list[int]) -> None:
    owner, client = make(protocol)
    stream = b"".join(publish(protocol, topic, payload, number, more) for topic, payload, number, more in sent)
    feed(client, stream, [max(size, len(stream) // 500) for size in sizes])
    assert [(topic, number, size) for topic, _, number, size in owner.taken] == [
        (topic, number, len(payload)) for topic, payload, number, _ in sent
    ]
    for (_, got, _, _), (_, payload, _, _) in zip(owner.taken, sent, strict=True):
        assert payload.startswith(got)
        assert len(got) >= min(len(payload), KEPT_BYTES)
    assert not owner.ended
    assert client._buffer == b""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "broken", [b"\x32\x00", b"\x32\x01\x00", b"\x32\x02\xff\xff", b"\x32\x03\x00\x01a", b"\x32\x04\x00\x01a\x01"]
)
def test_a_malformed_publish_ends_the_connection_and_nothing_else(protocol: MQTTProtocolVersion, broken: bytes) -> None:
    owner, client = make(protocol)
    feed(client, publish(protocol, "a", b"good", 1) + broken, [1_000])
    assert owner.taken == [("a", b"good", 1, 4)]
    assert owner.ended == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(data=st.binary(max_size=400), sizes=st.lists(st.integers(1, 100), min_size=1, max_size=3))
def test_whatever_the_bytes_nothing_is_raised(protocol: MQTTProtocolVersion, data: bytes, sizes: list[int]) -> None:
    _, client = make(protocol)
    feed(client, data, sizes)
