"""Where the daemon's CPU goes: microseconds a reading by stage, each stage alone, in one process.

usage: stages.py      with a database of its own, so that COPY is measured too

The stage `diagnose` is that of wells just started, one reading a second; what settled wells cost by how often they
report follows (bench/diagnosis.py).
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

from diagnosis import INTERVALS_S, cost, settled
from load import publish, reading
from paho.mqtt.enums import MQTTProtocolVersion

from esp_ingestd import embedded
from esp_ingestd.config import DatabaseSettings, Settings
from esp_ingestd.core.batch import Batch, Batcher, Trigger
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import Reading
from esp_ingestd.core.well import WellSettings
from esp_ingestd.database import Database, migrate
from esp_ingestd.mqtt.wire import BufferedPaho
from esp_ingestd.shipped import load_tree
from esp_ingestd.telemetry import Metrics

WELLS = 1_000
SETTINGS = WellSettings(nameplate_current_a=64.0, trip_temperature_c=150.0)
Message = tuple[str, bytes]


def messages(readings: int, array: int, start_ms: int) -> list[Message]:
    """`readings` readings over WELLS wells, `array` to a message, newer ones later."""
    out = []
    for number in range(readings // array):
        well, first_ms = number % WELLS, start_ms + number // WELLS * array * 1000
        each = [reading(first_ms + k * 1000) for k in range(array)]
        out.append((f"esp/WELL-{well:05}/telemetry", each[0] if array == 1 else b"[" + b",".join(each) + b"]"))
    return out


def cpu_us(work: Callable[[], object], readings: int) -> float:
    """CPU microseconds a reading."""
    gc.collect()
    began = time.process_time()
    work()
    return (time.process_time() - began) / readings * 1e6


def receive(sent: Sequence[Message], protocol: MQTTProtocolVersion) -> None:
    """Take packets apart as they come from a socket, 64 KiB at a time."""
    properties = b"\0" if protocol == MQTTProtocolVersion.MQTTv5 else b""
    stream = b"".join(
        publish(topic.encode(), k % 65_535 + 1, properties + payload) for k, (topic, payload) in enumerate(sent)
    )
    owner = SimpleNamespace(paused=False, connection=1, longest_packet_bytes=2_000_000, receive=lambda *_: None)
    client = BufferedPaho(owner, protocol, "bench", clean_session=True)  # type: ignore[arg-type]
    for at in range(0, len(stream), 65_536):
        client._buffer += stream[at : at + 65_536]  # noqa: SLF001 - measured from inside
        client.take_packets()


def measure(readings: int, array: int, settings: DatabaseSettings) -> dict[str, float]:
    """Stage -> CPU microseconds a reading."""
    start_ms = int(time.time() * 1000) - 3_000_000_000 // (3 if array == 1 else 1)
    sent = messages(readings, array, start_ms)
    now_us = int(time.time() * 1e6)
    decoder = Decoder(["esp/{well_id}/telemetry"])
    diagnostician = Diagnostician(load_tree(None), lambda _: SETTINGS)
    batcher = Batcher(max_rows=5_000, max_age_ms=100)
    decoded = [decoder.decode(topic, payload, now_us) for topic, payload in sent]
    rows: list[Reading] = [each for one in decoded for each in one.readings]
    metrics = Metrics()
    return {
        "receive, MQTT 5": cpu_us(lambda: receive(sent, MQTTProtocolVersion.MQTTv5), readings),
        "receive, MQTT 3.1.1": cpu_us(lambda: receive(sent, MQTTProtocolVersion.MQTTv311), readings),
        "decode": cpu_us(lambda: [decoder.decode(topic, payload, now_us) for topic, payload in sent], readings),
        "diagnose": cpu_us(lambda: [diagnostician.observe(row) for row in rows], readings),
        "batch": cpu_us(lambda: fill(batcher, sent, decoded, now_us), readings),
        "count": cpu_us(lambda: metrics.reading_delay.observe([row[-1] for row in rows], now_us), readings),
        "COPY": asyncio.run(copy(rows, settings)),
    }


def fill(batcher: Batcher, sent: Sequence[Message], decoded: Sequence[object], now_us: int) -> None:
    """Put everything into batches."""
    for (topic, payload), (readings, rejection) in zip(sent, decoded, strict=True):  # type: ignore[misc]
        batcher.add_message(topic, payload, readings, rejection, 1, now_us)
        if batcher.due(now_us):
            batcher.take(Trigger.ROWS)


async def copy(rows: Sequence[Reading], settings: DatabaseSettings) -> float:
    """Our side of COPY."""
    database = Database(settings)
    await database.connect()
    began = time.process_time()
    for at in range(0, len(rows), 5_000):
        await database.write(Batch(readings=list(rows[at : at + 5_000])))
    took = time.process_time() - began
    await database.close()
    return took / len(rows) * 1e6


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with embedded.Database(Path(name) / "database") as database:
            settings = Settings(database={"dsn": database.dsn}).database  # type: ignore[arg-type]
            asyncio.run(migrate(settings))
            singles, arrays = measure(100_000, 1, settings), measure(100_000, 100, settings)
    print(f"{'CPU us a reading':<22} {'single':>8} {'array of 100':>14}")
    for stage, spent in singles.items():
        print(f"{stage:<22} {spent:>8.2f} {arrays[stage]:>14.2f}")
    tree = load_tree(None)
    memory = settled(tree, wells=20)
    for interval_s in INTERVALS_S:
        print(f"{f'diagnose, {interval_s} s apart':<22} {cost(tree, memory, 1_000, interval_s).reading_us:>8.2f}")


if __name__ == "__main__":
    main()
