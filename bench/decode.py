"""What taking a message apart costs: CPU microseconds a reading, by kind of message. The least of several runs."""

import json
import time

from esp_ingestd.core.decode import Decoder

NOW_US = 1_795_000_000_000_000
TOPIC = "esp/WELL-001/telemetry"
READING = {
    "well_id": "WELL-001",
    "timestamp": "2026-11-18T01:02:03.250Z",
    "flow_rate": 1830.5,
    "pip": 742.1,
    "motor_current": 48.2,
    "motor_temp": 98.4,
    "vibration": 0.21,
    "vsd_frequency": 55.0,
    "flow_variance": 2.4,
    "torque": 312.0,
    "gor": 420.0,
}
ODD: dict[str, dict[str, object]] = {
    "as usual": {},
    "epoch in ms": {"timestamp": 1_794_963_723_250},
    "two keys more": {"seq": 12345, "rtu": "A7"},
    "dead sensor, -9999": {"motor_temp": -9999.0},
    "dead sensor, NaN": {"motor_temp": float("nan")},
    "dead sensor, text": {"motor_temp": "BAD"},
    "refused": {"timestamp": None},
}
HOPELESS = (
    "1",
    "[]",
    "{}",
    '{"pip":1}',
    '{"timestamp":1}',
    '{"timestamp":1795000000}',
    '{"timestamp":"2026-01-01T00:00"}',
)
MIB = 1_048_576
RUNS = 15
READINGS = 5_000  # a run


def cpu_us(decoder: Decoder, payload: bytes, readings: int) -> float:
    """CPU microseconds a reading of `payload`, which holds as many as `readings`."""
    messages = READINGS // readings
    runs = []
    for _ in range(RUNS):
        began = time.process_time()
        for _ in range(messages):
            decoder.decode(TOPIC, payload, NOW_US)
        runs.append((time.process_time() - began) / messages / readings * 1e6)
    return min(runs)


def whole_ms(decoder: Decoder, element: str) -> float:
    """CPU milliseconds of the largest payload taken, an array of one element again and again."""
    payload = f"[{','.join([element] * ((MIB - 2) // (len(element) + 1)))}]".encode()
    runs = []
    for _ in range(3):
        began = time.process_time()
        decoder.decode(TOPIC, payload, NOW_US)
        runs.append((time.process_time() - began) * 1e3)
    return min(runs)


def main() -> None:
    """Print the table; in the last column one reading of a hundred is odd."""
    decoder = Decoder(["esp/{well_id}/telemetry"])
    print(f"{'CPU us a reading':<20} {'single':>8} {'array of 100':>14} {'one in it odd':>14}")
    for name, odd in ODD.items():
        element = {**READING, **odd}
        single = cpu_us(decoder, json.dumps(element).encode(), 1)
        every = cpu_us(decoder, json.dumps([element] * 100).encode(), 100)
        one = cpu_us(decoder, json.dumps([READING] * 99 + [element]).encode(), 100)
        print(f"{name:<20} {single:>8.1f} {every:>14.1f} {one:>14.1f}")
    print("\nCPU ms a payload of 1 MiB, for so long the others wait")
    for element in (json.dumps(READING), *HOPELESS):
        print(f"{element[:34]:<34} {whole_ms(decoder, element):>8.0f}")


if __name__ == "__main__":
    main()
