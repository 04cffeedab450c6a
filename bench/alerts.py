"""How soon an alarm is told, while readings arrive at a steady rate: percentiles of the delay, through a real broker.

usage: alerts.py [--seconds S] [--rate READINGS_A_SECOND] [--tree protection|whole] [--profile FILE]
A motor goes into overload 20 times a second, each time on another well. Measured by the clock of the one who published
the reading and hears the event: RTU to broker to daemon to broker to SCADA. Beside it the daemon's own histogram, from
the arrival of the reading to the broker's acceptance of the event, which is what the promise of 100 ms is about.
Broker, database, load generator, RTU, SCADA and daemon share the machine; the share of its CPUs that others took
meanwhile is said, since that is where most of a tail comes from.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import paho.mqtt.client as paho
from ingest import HERE, Daemon, daemon, load, wait_until
from paho.mqtt.enums import CallbackAPIVersion

from esp_ingestd import embedded

ALARMS_A_SECOND = 20
CURRENT_A = 78.0  # 1.22 of the nameplate current: high, after a minute
WARM_UP_S = 6.0  # every well of the load is new, and is remembered for the first time


class Scada:
    """Publishes the readings of failing wells, and hears what is told of them."""

    def __init__(self, port: int) -> None:
        self.sent_s: dict[str, float] = {}
        self.delay_s: dict[str, float] = {}
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(1_000)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe("esp/alerts/+/events", qos=1)
        self._subscribed.wait(10)

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        now_s = time.perf_counter()
        event = json.loads(message.payload)
        if event["transition"] == "raised" and event["well_id"] in self.sent_s:
            self.delay_s.setdefault(event["well_id"], now_s - self.sent_s[event["well_id"]])

    def fail(self, well_id: str, at_s: int) -> None:
        """Overload a motor; the third reading, a minute after the second, raises it."""
        for step, amperes in enumerate((45.0, CURRENT_A, CURRENT_A)):
            payload = json.dumps({"timestamp": at_s + 70 * step, "motor_current": amperes, "vsd_frequency": 58.0})
            self.sent_s[well_id] = time.perf_counter()
            self._client.publish(f"esp/{well_id}/telemetry", payload, qos=1)

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()


def accepted_within(subject: Daemon, before: dict[str, float]) -> list[tuple[str, float]]:
    """For each bucket of the daemon's histogram, what share of the events it holds with those before it."""
    name = "esp_ingestd_alert_delay_seconds_bucket"
    now = subject.metrics()
    counts = {key.split('"')[1]: now[key] - before.get(key, 0) for key in now if key.startswith(name)}
    return [(bound, count / max(counts["+Inf"], 1)) for bound, count in counts.items()]


def cpu_used_s() -> float:
    """What all programs of the machine have used of its CPUs so far, s."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def own_cpu_s() -> float:
    """What this process and all that it started have used."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], used[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(used.get(pid, 0.0) for pid in ours)


def measure(subject: Daemon, port: int, seconds: float, rate: int) -> str:
    """One row of the table."""
    before = subject.metrics()
    scada = Scada(port)
    generator = load(port, WARM_UP_S + seconds + 1, rate, 1, 1000, 2.0) if rate else None
    time.sleep(WARM_UP_S)
    own_s, all_s, began_s = own_cpu_s(), cpu_used_s(), time.perf_counter()
    at_s = int(time.time()) - 3600
    for number in range(int(seconds * ALARMS_A_SECOND)):
        scada.fail(f"R{rate}-{number}", at_s)
        time.sleep(max(0.0, began_s + (number + 1) / ALARMS_A_SECOND - time.perf_counter()))
    took_s = time.perf_counter() - began_s
    others = max(0.0, ((cpu_used_s() - all_s) - (own_cpu_s() - own_s)) / took_s / (os.cpu_count() or 1))
    wait_until(lambda: len(scada.delay_s) == len(scada.sent_s))
    if generator:
        generator.communicate()
    scada.close()
    delays = sorted(scada.delay_s.values())
    p50, p99 = (delays[min(int(q * len(delays)), len(delays) - 1)] * 1000 for q in (0.5, 0.99))
    shares = dict(accepted_within(subject, before))
    within = "/".join(f"{shares[bound]:.1%}" for bound in ("0.025", "0.05", "0.1", "0.25"))
    row = f"{rate:>7} {len(delays):>7} {p50:>8.1f} {p99:>8.1f} {delays[-1] * 1000:>8.1f}   {within:<28}{others:>6.0%}"
    return row + ("" if shares["0.1"] >= 0.99 else "   BROKEN: p99 above 100 ms")  # noqa: PLR2004 - the promise


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each row, s (default 15)")
    parser.add_argument("--rate", type=int, default=5_000, help="readings/s of the load (default 5000)")
    parser.add_argument("--tree", default="whole", choices=["protection", "whole"], help="(default the whole tree)")
    parser.add_argument("--profile", default="", help="write the daemon's cProfile there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded.Broker(folder / "broker") as broker, embedded.Database(folder / "database") as database:
            tree = str(HERE / "protection.toml") if options.tree == "protection" else ""
            print(f"{os.cpu_count()} cores shared by all; {ALARMS_A_SECOND} alarms/s; diagnosis: {options.tree}")
            print("                heard by SCADA after, ms     accepted by the broker within      CPU of")
            print(" rate/s  alarms      p50      p99      max   25/50/100/250 ms                   others")
            with daemon(folder, broker, database.dsn, "5", options.profile, tree) as subject:
                for rate in (0, options.rate):
                    print(measure(subject, broker.port, options.seconds, rate), flush=True)


if __name__ == "__main__":
    main()
