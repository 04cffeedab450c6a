"""Chaos: the real daemon under load, and every few seconds a fault; at the end everything is counted.

usage: PYTHONPATH=tests python -m faults.chaos [--seconds S] [--rate HZ] [--wells N] [--seed N]
The faults and their times follow from the seed. Every reading has a number of its own, in its value too. Counted is
what the broker accepted: a reading that is missing in the database at the end is lost, one that is there twice is
doubled, one whose value is not the one that was sent is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from esp_ingestd import embedded

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND_MS = 1_000
POISON = (b"", b"\xff", b"nothing", b"[]", b"{}", b'{"timestamp":1}', b"[" * 5_000, b"9" * 2_000_000)


@dataclass
class Sent:
    """What one message carries."""

    topic: bytes
    payload: bytes
    readings: int


class Load(threading.Thread):
    """An RTU for all wells: publishes at QoS 1, and again after each reconnect what was not acknowledged.

    It speaks MQTT 3.1.1 on a bare socket, so that what is under test is not tested with itself.
    """

    def __init__(self, port: int, wells: int, rate: float, start_ms: int) -> None:
        super().__init__(name="load", daemon=True)
        self.port, self.wells, self.rate, self.start_ms = port, wells, rate, start_ms
        self.accepted = 0
        self.numbered = 0
        self.poison = 0
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
                self._waiting.extend(self._recent)
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
        out = []
        for _ in range(count):
            number = self.numbered
            self.numbered += 1
            well, step = number % self.wells, number // self.wells
            body = b'{"timestamp":%d,"flow_rate":%d}' % (self.start_ms + step * SECOND_MS, step % 40_000)
            out.append(Sent(b"esp/WELL-%03d/telemetry" % well, body, 1))
        return out

    def pour(self, poison: int, source: random.Random) -> None:
        """A flood of nonsense among the readings."""
        for _ in range(poison):
            self._waiting.append(Sent(b"esp/WELL-BAD/telemetry", source.choice(POISON), 0))
        self.poison += poison


def _length(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


@dataclass
class Daemon:
    """The real program, started again whenever it is killed, as systemd would."""

    folder: Path
    config: Path
    http_port: int
    process: subprocess.Popen[bytes] | None = None
    peak_mb: float = 0.0

    def start(self) -> None:
        with (self.folder / "daemon.log").open("ab") as log:
            command = [sys.executable, "-m", "esp_ingestd", "run", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.note_peak()
        self.process.send_signal(number)
        return self.process.wait(60)

    def note_peak(self) -> None:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status")
        if self.process.poll() is None and "VmHWM:" in (text := status.read_text()):
            self.peak_mb = max(self.peak_mb, int(text.partition("VmHWM:")[2].split()[0]) / 1000)

    def metrics(self) -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        return {name: float(value) for line in lines if line[0] != "#" for name, value in [line.rsplit(" ", 1)]}


@dataclass
class Result:
    """What was counted at the end."""

    seed: int
    seconds: float
    faults: Counter[str]
    accepted: int
    stored: int
    lost: int
    wrong: int
    dead_letters: int
    peak_mb: float
    recovery_s: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        faults = "\n".join(
            f"  {name:<24} {count:>4} times, longest recovery {self.recovery_s.get(name, 0.0):5.1f} s"
            for name, count in sorted(self.faults.items())
        )
        return (
            f"seed {self.seed}, {self.seconds:.0f} s, {sum(self.faults.values())} faults\n{faults}\n"
            f"readings accepted by the broker {self.accepted}\nstored {self.stored}\n"
            f"lost {self.lost}\nwrong {self.wrong}\ndead letters {self.dead_letters}\npeak memory {self.peak_mb:.0f} MB"
        )


class Chaos:
    """One run."""

    def __init__(self, folder: Path, *, seconds: float, rate: float, wells: int, seed: int) -> None:
        self.folder, self.seconds, self.rate, self.wells, self.seed = folder, seconds, rate, wells, seed
        self.random = random.Random(seed)  # noqa: S311 - repeatable, no secret
        lines = (*embedded.RAISED_LIMITS, "autosave_interval 1")
        self.broker = embedded.Broker(folder / "broker", lines=lines)
        self.database = embedded.Database(folder / "database")
        self.faults: Counter[str] = Counter()
        self.recovery_s: dict[str, float] = {}

    def run(self) -> Result:
        with self.broker, self.database:
            self.daemon = self.make_daemon()
            self.daemon.start()
            self.await_that(lambda: bool(self.daemon.metrics().get("esp_ingestd_mqtt_connected")))
            start_ms = int(time.time() * 1000) - 20 * 86_400_000
            self.load = Load(self.broker.port, self.wells, self.rate, start_ms)
            self.load.start()
            try:
                self._strike_for_a_while()
                self.load.stopping.set()
                self.load.join(120)
                self.await_that(self.is_at_rest, 120)
                return asyncio.run(self._count(start_ms))
            finally:
                self.daemon.kill(signal.SIGTERM)

    def make_daemon(self) -> Daemon:
        port = embedded.free_port()
        config = self.folder / "chaos.toml"
        config.write_text(
            f'[mqtt]\nhost = "127.0.0.1"\nport = {self.broker.port}\n'
            f'[database]\ndsn = "{self.database.dsn}"\nwrite_timeout_s = 2.0\nconnect_timeout_s = 2.0\n'
            f'[http]\nport = {port}\n[spool]\ndirectory = "{self.folder}/spool"\n[log]\nlevel = "info"\n'
        )
        migrate = [sys.executable, "-m", "esp_ingestd", "migrate", "--config", str(config)]
        subprocess.run(migrate, check=True, stdout=subprocess.DEVNULL)
        return Daemon(self.folder, config, port)

    def _strike_for_a_while(self) -> None:
        blows: list[Callable[[], None]] = [
            self.daemon_killed,
            self.daemon_killed_writing,
            self.daemon_stopped,
            self.daemon_frozen,
            self.database_killed,
            self.database_frozen,
            self.broker_restarted,
            self.broker_killed,
            self.poison_flood,
        ]
        until = time.monotonic() + self.seconds
        order: list[Callable[[], None]] = []
        while time.monotonic() < until:
            time.sleep(self.random.uniform(0.5, 3.0))
            if not order:  # each once before any again
                order = self.random.sample(blows, len(blows))
            blow = order.pop()
            blow()
            self.faults[blow.__name__] += 1
            stored = self._stored()
            began = time.monotonic()
            self.await_that(lambda stored=stored: self._stored() > stored, 60)  # type: ignore[misc]
            took = time.monotonic() - began
            self.recovery_s[blow.__name__] = max(took, self.recovery_s.get(blow.__name__, 0.0))

    def daemon_killed(self) -> None:
        self.daemon.kill()
        self.daemon.start()

    def daemon_killed_writing(self) -> None:
        """With a batch at the database that is not committed: what was acknowledged too early is lost here."""
        self.database.pause()
        time.sleep(self.random.uniform(0.3, 1.5))
        self.daemon.kill()
        self.database.resume()
        self.daemon.start()

    def daemon_stopped(self) -> None:
        status = self.daemon.kill(signal.SIGTERM)
        assert status == 0, f"the daemon ended with {status}"
        self.daemon.start()

    def daemon_frozen(self) -> None:
        assert self.daemon.process is not None
        self.daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.5, 4.0))
        self.daemon.process.send_signal(signal.SIGCONT)

    def database_killed(self) -> None:
        self.database.kill()
        time.sleep(self.random.uniform(0.0, 4.0))
        self.database.start()

    def database_frozen(self) -> None:
        self.database.pause()
        time.sleep(self.random.uniform(0.5, 5.0))
        self.database.resume()

    def broker_restarted(self) -> None:
        self.broker.stop()
        time.sleep(self.random.uniform(0.0, 3.0))
        self.broker.start()

    def broker_killed(self) -> None:
        # What Mosquitto accepted since its last save dies with it, before us: RTUs send their last seconds again.
        self.broker.kill()
        self.load.again.set()
        self.broker.start()

    def poison_flood(self) -> None:
        self.load.pour(300, self.random)

    def _stored(self) -> float:
        now = self.daemon.metrics()
        names = ("stored_total", "duplicate_total", "spooled")
        return sum(now.get(f"esp_ingestd_readings_{name}", 0.0) for name in names)

    def is_at_rest(self) -> bool:
        now = self.daemon.metrics()
        self.daemon.note_peak()
        still = ("in_flight", "spooled")
        if not now or any(now[f"esp_ingestd_readings_{name}"] for name in still):
            return False
        before = now["esp_ingestd_readings_received_total"]
        time.sleep(1.0)
        return self.daemon.metrics().get("esp_ingestd_readings_received_total") == before

    async def _count(self, start_ms: int) -> Result:
        connection = await asyncpg.connect(self.database.dsn)
        rows = await connection.fetch(
            "SELECT well_id, (extract(epoch FROM timestamp) * 1000)::bigint AS ms, flow_rate FROM esp_telemetry"
        )
        letters = await connection.fetchval("SELECT count(*) FROM dead_letters")
        await connection.close()
        found = {(row["well_id"], row["ms"]): row["flow_rate"] for row in rows}
        lost = wrong = 0
        for number in range(self.load.numbered):
            well, step = number % self.wells, number // self.wells
            value = found.get((f"WELL-{well:03}", start_ms + step * SECOND_MS))
            lost += value is None
            wrong += value is not None and value != step % 40_000
        return Result(
            self.seed, self.seconds, self.faults, self.load.numbered, len(rows), lost, wrong, letters,
            self.daemon.peak_mb, self.recovery_s,
        )  # fmt: skip

    def await_that(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                log = (self.folder / "daemon.log").read_text()[-4_000:]
                raise SystemExit(f"seed {self.seed}: gave up waiting after {sum(self.faults.values())} faults\n{log}")
            time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the load, s (default 120)")
    parser.add_argument("--rate", type=float, default=2_000.0, help="readings a second (default 2000)")
    parser.add_argument("--wells", type=int, default=50, help="wells (default 50)")
    parser.add_argument("--seed", type=int, help="of the faults (default: any)")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = time.time_ns() % 1_000_000
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        result = Chaos(Path(name), **vars(options)).run()
    print(result.table())
    return 1 if result.lost or result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
