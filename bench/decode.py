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


if __name__ == "__main__":
    main()
