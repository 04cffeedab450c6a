"""Chaos: the real daemon under load, and every few seconds a fault; at the end everything is counted.

usage: PYTHONPATH=tests python -m faults.chaos [--seconds S] [--rate HZ] [--wells N] [--seed N]
The services are those that the tests find (services.py), the database of the best edition there is.
The faults and their times follow from the seed. Every reading has a number of its own, in its value too. Counted is
what the broker accepted: a reading that is missing in the database at the end is lost, one that nobody sent, or with
another value than was sent, is wrong. The wells ail, and what the pure core says of the same readings without any
fault must have been told, by the same ids and no others, be kept in the database, marked as told, and stand on the
retained topics.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import asyncpg
from faults.field import DAYS_BACK, STEP_MS, Field
from faults.load import Load
from faults.scada import Scada, retained
from peer import PATIENCE_S
from services import Services

from esp_ingestd import embedded
from esp_ingestd.core.decode import KEPT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, TypeAlias

    from esp_ingestd.core.alarm import AlarmEvent

    Connection: TypeAlias = asyncpg.Connection[Any]

LARGEST = 1_048_576  # payload that is taken, by default

_Key = TypeVar("_Key")


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
        return self.process.wait(PATIENCE_S)

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


@dataclass(frozen=True)
class Count:
    """Of one kind of thing: how many there must be, how many are missing, how many are there and should not be."""

    expected: int
    lost: int
    wrong: int
    example: str = ""
    """One that is not as it must be."""

    @classmethod
    def of(cls, expected: Mapping[_Key, object], found: Mapping[_Key, object]) -> Count:
        """Compare by key; one that has another value than expected is wrong."""
        lost = [f"{key} is lost" for key in expected if key not in found]
        wrong = [
            f"{key} is {value}, expected {expected.get(key)}"
            for key, value in found.items()
            if key not in expected or expected[key] != value
        ]
        return cls(len(expected), len(lost), len(wrong), next(iter([*lost, *wrong]), ""))


@dataclass
class Result:
    """What was counted at the end."""

    seed: int
    edition: embedded.Edition
    seconds: float
    faults: Counter[str]
    recovery_s: dict[str, float]
    counts: dict[str, Count]
    told_again: int
    """Events that SCADA heard more than once, by the same id."""
    outage_delay_s: list[float]
    """From the making of a reading to hearing its alarm, of those made while the database was away."""
    stop_s: float
    peak_mb: float

    @property
    def is_flawless(self) -> bool:
        """Nothing is lost, and nothing there that should not be."""
        return not any(each.lost or each.wrong for each in self.counts.values())

    def table(self) -> str:
        faults = "\n".join(
            f"  {name:<24} {count:>4} times, longest recovery {self.recovery_s.get(name, 0.0):5.1f} s"
            for name, count in sorted(self.faults.items())
        )
        counts = "\n".join(
            f"  {name:<24} {each.expected:>9} {each.lost:>9} {each.wrong:>9}  {each.example}".rstrip()
            for name, each in self.counts.items()
        )
        alerts = f"{len(self.outage_delay_s)} alarms while the database was away"
        return (
            f"seed {self.seed}, {self.edition}, {self.seconds:.0f} s, {sum(self.faults.values())} faults\n{faults}\n"
            f"  {'':<24} {'expected':>9} {'lost':>9} {'wrong':>9}\n{counts}\n"
            f"  alarm events told again by the same id {self.told_again}\n"
            f"  {alerts}, told after at most {max(self.outage_delay_s, default=0.0):.2f} s\n"
            f"  longest stop {self.stop_s:.1f} s, peak memory {self.peak_mb:.0f} MB"
        )


class Chaos:
    """One run."""

    def __init__(self, folder: Path, services: Services, *, seconds: float, rate: float, wells: int, seed: int) -> None:
        self.folder, self.seconds, self.rate, self.seed = folder, seconds, rate, seed
        self.random = random.Random(seed)  # noqa: S311 - repeatable, no secret
        self.field = Field(wells, int(time.time() * 1000) - DAYS_BACK * 86_400_000)
        lines = (*embedded.RAISED_LIMITS, "autosave_interval 1")
        self.broker = services.own_broker("mosquitto", lines=lines)
        self.database = services.own_database(None, {})
        self.faults: Counter[str] = Counter()
        self.recovery_s: dict[str, float] = {}
        self.outages: list[tuple[float, float]] = []
        """Of the database, monotonic s."""
        self.stop_s = 0.0

    def run(self) -> Result:
        with self.broker, self.database, Scada(self.broker.port) as self.scada:
            self.daemon = self.make_daemon()
            self.daemon.start()
            self.await_that(lambda: bool(self.daemon.metrics().get("esp_ingestd_mqtt_connected")))
            self.load = Load(self.broker.port, self.field, self.rate)
            self.load.start()
            try:
                self._strike_for_a_while()
                self.load.stopping.set()
                self.load.join(PATIENCE_S)
                self.await_that(self.is_at_rest)
                return asyncio.run(self._count())
            finally:
                self.daemon.kill(signal.SIGTERM)

    def make_daemon(self) -> Daemon:
        port = embedded.free_port()
        config = self.folder / "chaos.toml"
        (self.folder / "wells.toml").write_text(self.field.wells_file)
        config.write_text(
            f'[mqtt]\nhost = "127.0.0.1"\nport = {self.broker.port}\n'
            f'[database]\ndsn = "{self.database.dsn}"\nwrite_timeout_s = 5.0\nconnect_timeout_s = 2.0\n'
            f'[http]\nport = {port}\n[spool]\ndirectory = "{self.folder}/spool"\n[log]\nlevel = "info"\n'
            f'[diagnosis]\nwells_file = "wells.toml"\n'
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
        self.load.pour(50, random.Random(0))  # noqa: S311 - in every run, however short, and it costs no fault its turn
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
            self.await_that(lambda stored=stored: self._has_recovered(stored))  # type: ignore[misc]
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
        began = time.monotonic()
        status = self.daemon.kill(signal.SIGTERM)
        self.stop_s = max(self.stop_s, time.monotonic() - began)
        assert status == 0, f"the daemon ended with {status}"
        self.daemon.start()

    def daemon_frozen(self) -> None:
        assert self.daemon.process is not None
        self.daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.5, 4.0))
        self.daemon.process.send_signal(signal.SIGCONT)

    def database_killed(self) -> None:
        began = time.monotonic()
        self.database.kill()
        time.sleep(self.random.uniform(0.0, 4.0))
        self.outages.append((began, time.monotonic()))
        self.database.start()

    def database_frozen(self) -> None:
        began = time.monotonic()
        self.database.pause()
        time.sleep(self.random.uniform(0.5, 8.0))
        self.outages.append((began, time.monotonic()))
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
        return sum(now.get(f"esp_ingestd_readings_{name}_total", 0.0) for name in ("stored", "duplicate"))

    def _has_recovered(self, stored: float) -> bool:
        """Broker and database are connected, and the database has taken more than `stored`."""
        now = self.daemon.metrics()
        connected = [now.get(f"esp_ingestd_{name}_connected") for name in ("mqtt", "database")]
        return connected == [1.0, 1.0] and self._stored() > stored

    def is_at_rest(self) -> bool:
        """Whether nothing is on its way, nor waits at the broker for a daemon that has yet to come back to it."""
        now = self.daemon.metrics()
        self.daemon.note_peak()
        still = ("in_flight", "spooled")
        if not now or any(now[f"esp_ingestd_readings_{name}"] for name in still):
            return False
        if not now["esp_ingestd_mqtt_connected"]:
            return False
        before = now["esp_ingestd_readings_received_total"]
        time.sleep(1.0)
        now = self.daemon.metrics()
        return now.get("esp_ingestd_mqtt_connected") == 1 and now["esp_ingestd_readings_received_total"] == before

    async def _count(self) -> Result:
        connection = await asyncpg.connect(self.database.dsn)
        try:
            expected = self.field.expected(self.load.numbered)
            return Result(
                seed=self.seed,
                edition=self.database.edition_hint,
                seconds=self.seconds,
                faults=self.faults,
                recovery_s=self.recovery_s,
                counts={
                    "readings": await self._count_readings(connection),
                    "dead letters": await self._count_letters(connection),
                    **await self._count_alarms(connection, expected),
                },
                told_again=len(self.scada.heard) - len(self.scada.first_heard_at),
                outage_delay_s=list(self._delays_in_outages(expected)),
                stop_s=self.stop_s,
                peak_mb=self.daemon.peak_mb,
            )
        finally:
            await connection.close()

    async def _count_readings(self, connection: Connection) -> Count:
        rows = await connection.fetch(
            "SELECT well_id, (extract(epoch FROM timestamp) * 1000)::bigint AS ms, flow_rate FROM esp_telemetry"
        )
        sent = {self.field.key(number): float(self.field.flow(number)) for number in range(self.load.numbered)}
        return Count.of(sent, {(row["well_id"], row["ms"]): row["flow_rate"] for row in rows})

    async def _count_letters(self, connection: Connection) -> Count:
        """Each different payload is one letter, counted at least as often as it was sent: redelivery counts too."""
        rows = await connection.fetch("SELECT payload, times FROM dead_letters")
        poured = self.load.poison.items()
        kept = {each[:KEPT_BYTES] if len(each) > LARGEST else each: count for each, count in poured}
        return Count.of(kept, {row["payload"]: min(row["times"], kept.get(row["payload"], 0)) for row in rows})

    async def _count_alarms(self, connection: Connection, expected: Sequence[AlarmEvent]) -> dict[str, Count]:
        """As the core says: told, kept and marked, standing in the view, and as retained on the state topics."""
        ids = {event.event_id: event.alarm_id for event in expected}
        last = {(event.well_id, event.diagnosis): event for event in expected}
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if self.scada.first_heard_at.keys() >= ids.keys() and await self._are_marked(connection):
                break
            await asyncio.sleep(0.05)
        rows = await connection.fetch(
            "SELECT event_id::text, alarm_id::text, published_at IS NOT NULL AS told FROM diagnostic_results"
        )
        standing = await connection.fetch("SELECT well_id, diagnosis, alarm_id::text FROM active_alarms")
        topics = {
            f"esp/alerts/{well}/state/{name}": (event.alarm_id, event.state != "cleared")
            for (well, name), event in last.items()
        }
        states = retained(self.broker.port, "esp/alerts/+/state/+", len(topics))
        return {
            "alarm events told": Count.of(ids, {each["event_id"]: each["alarm_id"] for each in self.scada.heard}),
            "alarm events kept": Count.of(ids, {row["event_id"]: row["alarm_id"] for row in rows}),
            "marked as told": Count.of(ids, {row["event_id"]: row["alarm_id"] for row in rows if row["told"]}),
            "standing alarms": Count.of(
                {key: event.alarm_id for key, event in last.items() if event.state != "cleared"},
                {(row["well_id"], row["diagnosis"]): row["alarm_id"] for row in standing},
            ),
            "retained states": Count.of(
                topics, {topic: (state["alarm_id"], state["active"]) for topic, state in states.items()}
            ),
        }

    @staticmethod
    async def _are_marked(connection: Connection) -> bool:
        open_ends = await connection.fetchval("SELECT count(*) FROM diagnostic_results WHERE published_at IS NULL")
        return not open_ends

    def _delays_in_outages(self, expected: Sequence[AlarmEvent]) -> Iterator[float]:
        heard_at, wells, start_ms = self.scada.first_heard_at, self.field.wells, self.field.start_ms
        for event in expected:
            step = (event.timestamp_us // 1_000 - start_ms) // STEP_MS
            made_at = self.load.made_at[step * wells + int(event.well_id.removeprefix("WELL-"))]
            if event.event_id in heard_at and any(began <= made_at < ended for began, ended in self.outages):
                yield heard_at[event.event_id] - made_at

    def await_that(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
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
    with closing(Services.find()) as services:
        result = Chaos(services.new_folder(), services, **vars(options)).run()
    print(result.table())
    return 0 if result.is_flawless else 1


if __name__ == "__main__":
    sys.exit(main())
