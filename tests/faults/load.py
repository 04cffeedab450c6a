"""The load of the fault tests: what RTUs publish, good and bad, and publish again until the broker has it."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from faults.field import Sent

if TYPE_CHECKING:
    import random

    from faults.field import Field

POISON: Final = (b"", b"\xff", b"nothing", b"[]", b"{}", b'{"timestamp":1}', b"[" * 5_000, b"9" * 2_000_000)


class Load(threading.Thread):
    """An RTU for all wells: publishes at QoS 1, and again after each reconnect what was not acknowledged.

    It speaks MQTT 3.1.1 on a bare socket, so that what is under test is not tested with itself.
    """

    def __init__(self, port: int, field: Field, rate: float) -> None:
        super().__init__(name="load", daemon=True)
        self.port, self.field, self.rate = port, field, rate
        self.accepted = 0
        self.numbered = 0
        self.made_at: list[float] = []
        """Of each number, monotonic s."""
        self.poison: Counter[bytes] = Counter()
        self.stopping = threading.Event()
        self.again = threading.Event()
        """Set after the broker was killed: it may have lost what it accepted in the last seconds."""
        self._waiting: deque[Sent] = deque()
        self._recent: deque[Sent] = deque(maxlen=20_000)

    def run(self) -> None:
        while not self._is_done():
            try:
                self._converse()
            except OSError:
                time.sleep(0.1)

    def _is_done(self) -> bool:
        return self.stopping.is_set() and not self._waiting

    def _converse(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
            name = b"chaos-load"
            body = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(name).to_bytes(2, "big") + name
            sock.sendall(bytes([0x10, len(body)]) + body)
            if sock.recv(4)[3:] != b"\x00":
                raise OSError("refused")
            if self.again.is_set():
                self.again.clear()
                # In their order: a reading that comes after a newer one of its well is stored and raises nothing.
                self._waiting.extendleft(reversed(self._recent))
                self._recent.clear()
            sock.settimeout(0.02)
            self._pump(sock)

    def _pump(self, sock: socket.socket) -> None:
        in_flight = 0
        heard = b""
        began, done = time.monotonic(), 0
        while not self._is_done() and not self.again.is_set():
            due = int((time.monotonic() - began) * self.rate) - done
            if due > 0 and not self.stopping.is_set():
                done += due
                self._waiting.extend(self._make(due))
            while in_flight < min(len(self._waiting), 500):
                each = self._waiting[in_flight]
                in_flight += 1
                body = len(each.topic).to_bytes(2, "big") + each.topic + in_flight.to_bytes(2, "big") + each.payload
                sock.sendall(b"\x32" + _length(len(body)) + body)
            try:
                data = sock.recv(65_536)
            except TimeoutError:
                continue
            if not data:
                raise OSError("closed")
            heard += data
            for _ in range(len(heard) // 4):
                accepted = self._waiting.popleft()
                in_flight -= 1
                self._recent.append(accepted)
                self.accepted += accepted.readings
            heard = heard[len(heard) // 4 * 4 :]

    def _make(self, count: int) -> list[Sent]:
        first = self.numbered
        self.numbered += count
        self.made_at += [time.monotonic()] * count
        return [self.field.message(number) for number in range(first, self.numbered)]

    def pour(self, poison: int, source: random.Random) -> None:
        """A flood of nonsense among the readings."""
        poured = [source.choice(POISON) for _ in range(poison)]
        self._waiting.extend(Sent(b"esp/WELL-BAD/telemetry", each, 0) for each in poured)
        self.poison.update(poured)


def _length(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)
