"""A field of simulated wells and the RTUs that report them: noise, quantisation, dirt, JSON payloads.

Pure and repeatable: the same arguments give the same bytes. Event time is what `start_us` and the interval say;
there is no clock in here.
"""

import json
from collections.abc import Iterable, Sequence
from math import ceil, exp, sqrt
from random import Random
from typing import Final

from esp_ingestd.core.reading import SECOND_US, to_iso
from esp_ingestd.simulator.design import design_well
from esp_ingestd.simulator.faults import Fault, Situation
from esp_ingestd.simulator.physics import WANDERS, Steps, Well

LONGEST_STEP_S: Final = 30.0
RTU_WINDOW_S: Final = 900.0
"""Over which an RTU computes its flow_variance."""
RTU_FULL_SCALE: Final = 500.0  # %, of flow_variance
NORMALS: Final = 16_384
SENSORS: Final = 15
"""How many normals a reading takes."""

# Resolution of each channel as it reaches an RTU. Gauges have more than they hold (0.1 psi, 0.1 degC, 0.001 g); what is
# of a drive, a flow computer or a transmitter at the surface comes through a register of 16 bits, which has room for
# 50 000 bbl/d, 10 000 N.m or MOhm, 15 000 psi in whole units and for 1 000 A in tenths.
PAYLOAD: Final = (
    b'{"well_id":"%b","timestamp":"%b","flow_rate":%.0f,"pip":%.1f,"motor_current":%.1f,"motor_temp":%.1f,'
    b'"vibration":%.3f,"vsd_frequency":%.2f,"flow_variance":%.2f,"torque":%.0f,"gor":%.0f,'
    b'"discharge_pressure":%.1f,"intake_temp":%.1f,"wellhead_pressure":%.0f,"casing_pressure":%.0f,'
    b'"current_unbalance":%.2f,"voltage_unbalance":%.2f,"insulation_resistance":%.0f}'
)
PRESSURES: Final = ("pip", "discharge_pressure", "wellhead_pressure", "casing_pressure")
GAUGE: Final = ("pip", "motor_temp", "vibration", "discharge_pressure", "intake_temp")
DEAD_GAUGE: Final = {
    "pip": 0.0,
    "motor_temp": 6361.0,
    "vibration": 0.0,
    "discharge_pressure": None,
    "intake_temp": -5.0,
}


class Rtu:
    """One well with its instruments: what it reports at each instant."""

    __slots__ = ("_frame", "_mean", "_name", "_situation", "_square", "faults", "well", "well_id")

    def __init__(self, well_id: str, seed: int) -> None:
        self.well_id = well_id
        self.well = Well(design_well(f"{seed}/{well_id}"))
        self.faults: list[Fault] = []
        self._name = well_id.encode()
        self._mean = self.well.design.flow_bpd
        self._square = (0.012 * self._mean) ** 2
        self._situation = Situation()
        self._frame: dict[str, float | None] = {}

    def face(self, time_s: float) -> None:
        """Put the well into what is wrong with it at `time_s` seconds after the field's start."""
        self._situation = Situation()
        for fault in self.faults:
            fault.enter(self._situation, time_s)
        self.well.causes = self._situation.causes

    def report(self, now_us: int, stamp: bytes, z: Sequence[float], keep: float) -> bytes | None:
        """The payload at this instant; None where the link is down.

        Args:
            now_us: event time; `stamp` is the same as ISO 8601.
            stamp: shared by all wells of the field.
            z: SENSORS independent standard normals, the sensors' noise.
            keep: of the RTU's window, what is left after one interval.
        """
        dirt = self._situation.dirt
        values = self._measure(z, keep)
        if dirt.silent:
            return None
        if dirt.clock_ahead_s:
            stamp = to_iso(now_us + round(dirt.clock_ahead_s * SECOND_US)).encode()
        payload = PAYLOAD % (self._name, stamp, *values)
        if dirt.gauge_frozen or dirt.gauge_dead or dirt.pressure_factor != 1:
            return self._soil(payload)
        self._frame = {}
        return payload

    def _measure(self, z: Sequence[float], keep: float) -> tuple[float, ...]:
        """What the sensors say, in the order of PAYLOAD."""
        well, design, causes = self.well, self.well.design, self.well.causes
        flow = well.flow_bpd * (1 + 0.012 * z[0])
        off = flow - self._mean
        self._mean += off * (1 - keep)
        self._square = keep * (self._square + (1 - keep) * off * off)
        on = well.hz > 0
        gas = 1.0 if causes.gas_share is None else max(1.0, causes.gas_share / design.gas_share)
        return (
            flow,
            well.pip_psi + 0.8 * z[1],
            well.current_a * (1 + 0.005 * z[2]),
            well.motor_c + 0.12 * z[3],
            well.vibration_g * (1 + 0.05 * z[4]),
            well.hz + 0.01 * z[5] if on else 0.0,
            min(RTU_FULL_SCALE, 100 * sqrt(self._square) / self._mean) if self._mean > 1 else 0.0,
            well.torque_nm * (1 + 0.01 * z[6]),
            design.gor * (0.8 + 0.2 * gas) * (1 + 0.02 * z[7]),
            well.discharge_psi + 1.5 * z[8],
            design.intake_c + 0.08 * z[9],
            well.wellhead_psi + 0.6 * z[10],
            design.casing_psi + 0.4 * z[11],
            abs(design.current_unbalance + causes.current_unbalance + 0.12 * z[12]) if on else 0.0,
            abs(design.voltage_unbalance + causes.voltage_unbalance + 0.05 * z[13]) if on else 0.0,
            design.insulation_mohm * causes.insulation * (1 + 0.01 * z[14]),
        )

    def _soil(self, payload: bytes) -> bytes:
        """The payload as a frozen or dead gauge, or an RTU that scales pressures wrongly, sends it."""
        reading: dict[str, float | None] = json.loads(payload)
        dirt = self._situation.dirt
        if dirt.gauge_frozen:
            self._frame = self._frame or {name: reading[name] for name in GAUGE}
            reading.update(self._frame)
        if dirt.gauge_dead:
            reading.update(DEAD_GAUGE)
        for name in PRESSURES:
            value = reading[name]
            if value is not None:
                reading[name] = round(value * dirt.pressure_factor, 1)
        return json.dumps(reading, separators=(",", ":")).encode()


class Field:
    """A field of wells, `WELL-001` on, that all report at the same instants.

    Args:
        wells: how many; each differs in size, depth, gas, motor, by its id and `seed`.
        seed: another one gives another field.
        faults: what to enter, and when. One that names no well goes to the first well that has none.
        interval_s: event time between two readings of a well.
        start_us: event time of the first reading, microseconds since 1970 UTC.

    Raises:
        ValueError: a fault names a well that is not there, or a number makes no sense.
    """

    def __init__(
        self, wells: int, *, start_us: int, seed: int = 1, faults: Sequence[Fault] = (), interval_s: float = 1.0
    ) -> None:
        if wells < 1 or not interval_s > 0:
            raise ValueError(f"a field of {wells} wells every {interval_s} s cannot be: both must be above 0")
        width = max(3, len(str(wells)))
        self._rtus = {well_id: Rtu(well_id, seed) for well_id in (f"WELL-{n:0{width}}" for n in range(1, wells + 1))}
        self.interval_s = interval_s
        self._start_us = start_us
        self._instant = 0
        count = ceil(interval_s / LONGEST_STEP_S)
        self._steps = Steps(interval_s / count)
        self._step_count = count
        self._keep = exp(-interval_s / RTU_WINDOW_S)
        self._chance = Random(seed)  # noqa: S311 - repeatable chance is the point
        # Drawn once: a slice from a random place is ten times as fast as fresh ones.
        self._normals = tuple(self._chance.gauss(0, 1) for _ in range(NORMALS))
        for fault in faults:
            self._rtu(fault).faults.append(fault)

    @property
    def well_ids(self) -> tuple[str, ...]:
        """The ids of the wells, in order."""
        return tuple(self._rtus)

    @property
    def wells(self) -> tuple[Well, ...]:
        """The wells as they stand, in the order of `well_ids`."""
        return tuple(rtu.well for rtu in self._rtus.values())

    @property
    def now_us(self) -> int:
        """Event time of the next step, microseconds since 1970 UTC."""
        return self._start_us + round(self._instant * self.interval_s * SECOND_US)

    def step(self) -> Iterable[tuple[str, bytes]]:
        """The next instant: (well id, JSON payload per CONTRACT §3) of each well whose link is up."""
        now_us, instant, chance, normals = self.now_us, self._instant, self._chance.random, self._normals
        stamp = to_iso(now_us).encode()
        self._instant += 1
        readings: list[tuple[str, bytes]] = []
        for rtu in self._rtus.values():
            self._advance(rtu, instant)
            start = int(chance() * (NORMALS - SENSORS))
            payload = rtu.report(now_us, stamp, normals[start : start + SENSORS], self._keep)
            if payload is not None:
                readings.append((rtu.well_id, payload))
        return readings

    def _advance(self, rtu: Rtu, instant: int) -> None:
        """Bring a well from the instant before to this one."""
        chance, normals, steps = self._chance.random, self._normals, self._steps
        for step in range(self._step_count):
            if rtu.faults:
                rtu.face((instant - 1) * self.interval_s + (step + 1) * steps.dt)
            start = int(chance() * (NORMALS - WANDERS))
            rtu.well.advance(steps, normals[start : start + WANDERS])

    def wells_toml(self) -> str:
        """The wells file (CONTRACT §2) that belongs to this field."""
        lines = [
            "[defaults]",
            'field = "simulated"',
            'vibration_unit = "g"',
            f"expected_interval_s = {self.interval_s}",
        ]
        for well_id, rtu in self._rtus.items():
            design = rtu.well.design
            lines += [
                "",
                f'[wells."{well_id}"]',
                f"nameplate_current_a = {design.motor.nameplate_a}",
                f"trip_temperature_c = {design.motor.trip_c}",
                f"base_frequency_hz = {design.pump.base_hz}",
                f"flow_range_bpd = [{0.6 * design.pump.bep_bpd:.0f}, {1.3 * design.pump.bep_bpd:.0f}]",
            ]
        return "\n".join(lines) + "\n"

    def _rtu(self, fault: Fault) -> Rtu:
        ids = self.well_ids
        if fault.well is None:
            return next((rtu for rtu in self._rtus.values() if not rtu.faults), self._rtus[ids[0]])
        if isinstance(fault.well, int) and 1 <= fault.well <= len(ids):
            return self._rtus[ids[fault.well - 1]]
        if fault.well in self._rtus:
            return self._rtus[str(fault.well)]
        raise ValueError(f"fault {fault.kind} is for well {fault.well!r}: this field has {ids[0]} to {ids[-1]}")
