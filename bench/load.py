"""A load generator that is not the bottleneck: MQTT 3.1.1 on a bare socket, packets made by bytes formatting.

usage: load.py PORT SECONDS RATE ARRAY WELLS [START_MS [MESSAGES]]
Publishes at QoS 1 for SECONDS, RATE readings/s (0: as fast as the broker takes them), ARRAY readings to a message,
over WELLS wells; each reading has a timestamp of its own (from START_MS, a day ago when 0); MESSAGES at the most.
Prints how many readings the broker accepted.
"""

import select
import socket
import sys
import time

WINDOW = 2_000  # messages that the broker has not acknowledged
CHUNK = 50  # messages to a write


def reading(timestamp_ms: int) -> bytes:
    """One reading of about 230 bytes, as an RTU sends it."""
    return (
        b'{"timestamp":%d,"flow_rate":2001.5,"pip":850.25,"motor_current":45.2,"motor_temp":92.0,"vibration":0.12,'
        b'"vsd_frequency":58.0,"flow_variance":3.1,"torque":220.5,"gor":410.0,"discharge_pressure":2950.0,'
        b'"wellhead_pressure":210.0}' % timestamp_ms
    )


def length_of(value: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def publish(topic: bytes, identifier: int, payload: bytes) -> bytes:
    """A PUBLISH packet, QoS 1."""
    body = len(topic).to_bytes(2, "big") + topic + identifier.to_bytes(2, "big") + payload
    return b"\x32" + length_of(len(body)) + body


def connect(port: int) -> socket.socket:
    """A connection to the broker on this machine."""
    sock = socket.create_connection(("127.0.0.1", port))
    name = b"load-%d" % time.monotonic_ns()
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + len(name).to_bytes(2, "big") + name
    sock.sendall(b"\x10" + length_of(len(body)) + body)
    if sock.recv(4)[3:] != b"\x00":
        raise SystemExit("the broker refuses the load generator")
    return sock


def run(port: int, seconds: float, rate: float, array: int, wells: int, start_ms: int, most: int) -> int:
    """Send; the number of readings that the broker has acknowledged."""
    sock = connect(port)
    topics = [b"esp/WELL-%05d/telemetry" % well for well in range(wells)]
    sent = acknowledged_bytes = 0
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds and sent < most:
        window = sent - acknowledged_bytes // 4
        ahead = rate and sent * array - rate * elapsed
        if window < WINDOW and ahead <= 0:
            chunk = []
            for _ in range(min(most - sent, CHUNK, max(1, int(-ahead / array)) if rate else CHUNK)):
                well = sent % wells
                first_ms = start_ms + sent // wells * array
                payload = (
                    reading(first_ms)
                    if array == 1
                    else b"[" + b",".join([reading(first_ms + k) for k in range(array)]) + b"]"
                )
                chunk.append(publish(topics[well], sent % 65_535 + 1, payload))
                sent += 1
            sock.sendall(b"".join(chunk))
        wait = 0.0 if window < WINDOW and ahead <= 0 else (0.001 if rate else 0.05)
        if select.select([sock], [], [], wait)[0]:
            acknowledged_bytes += len(sock.recv(65_536))
    while acknowledged_bytes < 4 * sent:
        data = sock.recv(65_536)
        if not data:
            break
        acknowledged_bytes += len(data)
    return acknowledged_bytes // 4 * array


if __name__ == "__main__":
    port, seconds, rate, array, wells, start, most = (*map(float, sys.argv[1:]), 0.0, 0.0)[:7]
    start = start or time.time() * 1000 - 86_400_000
    print(run(int(port), seconds, rate, int(array), int(wells), int(start), int(most) or sys.maxsize))
