"""One pumped well as physics: reservoir, annulus, pump, tubing, choke, motor and drive, in steps of seconds.

Faults enter as causes (`Causes`: a closed choke, gas, a broken shaft), never as what the sensors then show;
the signatures come out of the equations. Pure: no clock, no I/O, no chance but the normals passed in.

The equations, all textbook:
  pump       head = shut-off head - k Q^2, power b0 + b1 x + b2 x^2, both moved by the affinity laws
             (Q ~ f, head ~ f^2, power ~ f^3), degraded by free gas at the intake
  system     intake + pump = static column + friction + choke + flow line; every loss ~ Q^2 (turbulent), so
             that the operating point is one square root
  inflow     Vogel's curve scaled to pass through the operating point
  annulus    the fluid level, hence the intake pressure, integrates inflow less pumped rate
  gas        Standing's shape: free gas per barrel ~ (1/PIP - 1/bubble point); stages break down beyond a
             limit of 10 to 30 % (Cirilo, Doty)
  motor      current = sqrt(magnetising^2 + torque^2); temperature by losses against cooling by the flow past

Units: bbl/d, psi, Hz, A, degC, N.m, s. A pressure loss coefficient k is in psi/(bbl/d)^2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import Final

from esp_ingestd.simulator.design import SECONDS_PER_DAY, WellDesign

STALL_CURRENT: Final = 3.0  # of nameplate: where a drive's stall limit typically stands
SOFT_STOP_HZ_PER_S: Final = 0.5
START_HZ: Final = 30.0  # a drive brings the motor here at once, before its ramp
SUCTION_MARGIN_PSI: Final = 10.0  # over casing pressure: the level stands at the intake
GAS_LOCKS: Final = 1.6  # of what the stages can take: the pocket builds
GAS_FREED: Final = 0.3  # a flow sweeps the pocket out
REVERSE_HEAD: Final = 0.56  # of a centrifugal pump run backwards
REVERSE_POWER: Final = 0.8
WANDERS: Final = 4
"""How many normals a step takes: load, inflow, line pressure, gas slugs."""
WANDER_S: Final = (360.0, 28_800.0, 3_600.0, 90.0)


@dataclass(slots=True)
class Causes:
    """What is wrong with a well, as physics; the defaults are a healthy one.

    Factors are of the healthy value; `drag` is of rated torque, `leak` of the healthy flow, `intake` of the
    healthy pump pressure lost at the intake at healthy flow, `vibration_g` is added.
    """

    running: bool = True
    soft_stop: bool = False
    rotor_locked: bool = False
    reversed: bool = False
    shaft_broken: bool = False
    tubing_parted: bool = False
    choke: float = 1.0
    """Opening: 1 as set, 0 shut."""
    line: float = 1.0
    inflow: float = 1.0
    head: float = 1.0
    power: float = 1.0
    drag: float = 0.0
    grit: float = 0.0
    """Mean drag of grains that pass, in bursts."""
    intake: float = 0.0
    leak: float = 0.0
    gas_share: float | None = None
    """Free gas at healthy intake pressure, of what the stages can take; None as designed."""
    slugs: float = 0.08
    """Spread of the gas fraction, natural logarithm."""
    cooling: float = 1.0
    vibration_g: float = 0.0
    current_unbalance: float = 0.0
    voltage_unbalance: float = 0.0
    insulation: float = 1.0


class Steps:
    """A time step and what random wandering does in it: exact for any length (Ornstein, Uhlenbeck)."""

    __slots__ = ("dt", "wanders")

    def __init__(self, dt: float) -> None:
        self.dt = dt
        keeps = [exp(-dt / tau) for tau in WANDER_S]
        self.wanders = tuple(value for keep in keeps for value in (keep, sqrt(1 - keep * keep)))


class Well:
    """A well as it stands: `advance` moves it by one step; its attributes are what perfect sensors say."""

    __slots__ = (
        "_gas",
        "_gas_factor",
        "_pocket",
        "_pumped_bpd",
        "_wander",
        "causes",
        "current_a",
        "design",
        "discharge_psi",
        "flow_bpd",
        "hz",
        "motor_c",
        "pip_psi",
        "torque_nm",
        "vibration_g",
        "wellhead_psi",
    )

    def __init__(self, design: WellDesign) -> None:
        self.design = design
        self.causes = Causes()
        self.hz = design.hz
        self.pip_psi = design.pip_psi
        self.flow_bpd = self._pumped_bpd = design.flow_bpd
        self.motor_c = design.intake_c + design.motor.warming_k
        self.current_a = design.current_a
        self.torque_nm = design.pump.torque_nm(design.flow_bpd, design.hz)
        self.discharge_psi = design.pip_psi + design.head_psi
        self.wellhead_psi = design.line_psi + (design.choke_k + design.line_k) * design.flow_bpd**2
        self.vibration_g = design.vibration_g
        self._wander = (0.0,) * WANDERS
        self._pocket = 0.0
        self._gas = design.gas_share
        self._gas_factor = 1.0

    @property
    def gas(self) -> float:
        """Free gas at the intake, of what the stages can take."""
        return self._gas

    def advance(self, steps: Steps, normals: Sequence[float]) -> None:
        """Move by one step.

        Args:
            steps: the step; at most 30 s, so that the fastest store (gas in the pump, 60 s) stays stable.
            normals: WANDERS independent standard normals.
        """
        self._drift(steps, normals)
        self._drive(steps.dt)
        self._breathe(steps.dt)
        self._lift()
        self._turn()
        self._store(steps.dt)

    def _drift(self, steps: Steps, normals: Sequence[float]) -> None:
        load, inflow, line, slug = self._wander
        k0, s0, k1, s1, k2, s2, k3, s3 = steps.wanders
        n0, n1, n2, n3 = normals
        self._wander = (load * k0 + n0 * s0, inflow * k1 + n1 * s1, line * k2 + n2 * s2, slug * k3 + n3 * s3)

    def _drive(self, dt: float) -> None:
        """Frequency towards its set point: up by the ramp, down at once unless it is stopped softly."""
        causes, target = self.causes, self.design.hz
        if causes.running:
            if self.hz < target:
                self.hz = min(target, max(self.hz, START_HZ) + self.design.ramp_hz_per_s * dt)
        elif self.hz > 0:
            self.hz = max(0.0, self.hz - SOFT_STOP_HZ_PER_S * dt) if causes.soft_stop else 0.0

    def _breathe(self, dt: float) -> None:
        """Gas at the intake, the pocket that locks the stages, and what is left of the head.

        A pump that no longer lifts keeps its gas until it stops.
        """
        design, causes, pump = self.design, self.causes, self.design.pump
        share = design.gas_share if causes.gas_share is None else causes.gas_share
        held = share * pump.gas_limit
        bubble = 1 / design.bubble_point_psi
        free = max(0.0, 1 / self.pip_psi - bubble) / (1 / design.pip_psi - bubble)
        free *= held / (1 - held) * exp(causes.slugs * self._wander[3])
        self._gas = gas = free / (1 + free) / pump.gas_limit
        if self.hz <= 0 or (gas < GAS_FREED and self._pumped_bpd > 0):
            self._pocket -= self._pocket * min(1.0, dt / 60)
        elif gas > GAS_LOCKS:
            self._pocket += (1 - self._pocket) * min(1.0, dt / 60)
        healthy = pump.gas_floor + (1 - pump.gas_floor) / (1 + design.gas_share**6)
        floor = pump.gas_floor * (1 + 0.4 * self._pocket * causes.slugs * self._wander[3])
        self._gas_factor = (floor + (1 - floor) * (1 - self._pocket) / (1 + gas**6)) / healthy

    def _lift(self) -> None:
        """The operating point: where what the pump makes meets what the system asks for."""
        design, causes, pump = self.design, self.causes, self.design.pump
        speed = self.hz / pump.base_hz
        head = 0.0 if causes.shaft_broken or causes.rotor_locked else self._gas_factor * causes.head
        head *= REVERSE_HEAD if causes.reversed else 1.0
        shutoff = pump.shutoff_psi * speed * speed * head
        line = design.line_psi * (1 + 0.04 * self._wander[2])
        spare = shutoff + self.pip_psi - design.static_psi - line
        surface = 0.0 if causes.tubing_parted else self._surface_share()
        choke_k = design.choke_k / max(causes.choke, 1e-3) ** 2 + design.line_k * causes.line
        pump_k = pump.head_k * head + causes.intake * design.head_psi / design.flow_bpd**2
        flow = sqrt(spare / (pump_k + design.friction_k + choke_k * surface * surface)) if spare > 0 else 0.0
        self._pumped_bpd = flow
        self.flow_bpd = flow * surface
        self.wellhead_psi = line + choke_k * self.flow_bpd**2
        self.discharge_psi = self.pip_psi + shutoff - pump_k * flow * flow
        if flow == 0 and design.valve_below_gauge:
            self.discharge_psi = max(self.discharge_psi, design.static_psi + line)

    def _surface_share(self) -> float:
        """Of the pumped rate, what reaches the surface past a leak in the tubing (an orifice)."""
        if self.causes.leak <= 0 or self._pumped_bpd <= 0:
            return 1.0
        over = max(0.0, self.discharge_psi - self.pip_psi) / self.design.head_psi
        return max(0.0, 1 - self.causes.leak * self.design.flow_bpd * sqrt(over) / self._pumped_bpd)

    def _turn(self) -> None:
        """Shaft torque, motor current and vibration."""
        design, causes = self.design, self.causes
        self.torque_nm = self.current_a = self.vibration_g = 0.0
        if self.hz <= 0:
            return
        rated = design.motor.rated_torque_nm
        if causes.rotor_locked:
            self.torque_nm = 1.5 * rated
            self.current_a = STALL_CURRENT * design.motor.nameplate_a
            return
        if causes.shaft_broken:
            self.torque_nm = 0.05 * rated
        else:
            torque = design.pump.torque_nm(self._pumped_bpd, self.hz) * (0.25 + 0.75 * self._gas_factor)
            torque *= causes.power * (1 + design.load_wander * self._wander[0])
            self.torque_nm = torque * (REVERSE_POWER if causes.reversed else 1.0) + rated * self._drag()
        self.current_a = design.motor.current_a(self.torque_nm) * (1 + 0.004 * causes.current_unbalance)
        self._shake()

    def _drag(self) -> float:
        """Of rated torque, what rubs; solids in bursts as slugs of sand pass, never negative."""
        causes = self.causes
        return causes.drag + (causes.grit * exp(0.6 * self._wander[3] - 0.18) if causes.grit else 0.0)

    def _shake(self) -> None:
        design, causes = self.design, self.causes
        speed = self.hz / design.hz
        off = min(1.0, abs(self._pumped_bpd / (design.flow_bpd * speed) - 1))
        flow = 0.3 if causes.shaft_broken else 1 + 0.3 * off * off + 0.25 * min(2.0, self._gas * self._gas)
        if causes.reversed:
            flow *= 1.2
        self.vibration_g = (design.vibration_g * flow + causes.vibration_g) * (0.3 + 0.7 * speed * speed)

    def _store(self, dt: float) -> None:
        """What is stored moves: fluid in the annulus (a leak falls back into it), heat in the motor."""
        design, causes, motor = self.design, self.causes, self.design.motor
        inflow = self.inflow_bpd()
        pip = self.pip_psi + (inflow - self.flow_bpd) * dt / (SECONDS_PER_DAY * design.storage_bbl_per_psi)
        lowest = design.casing_psi + SUCTION_MARGIN_PSI
        if pip < lowest:
            self.flow_bpd = min(self.flow_bpd, inflow)
        self.pip_psi = max(lowest, pip)
        current = self.current_a / design.current_a
        loss = 0.25 + 0.75 * current * current if self.hz > 0 else 0.0
        past = min(1.5, self.flow_bpd / design.flow_bpd) ** 0.8  # Dittus, Boelter: turbulent
        cooling = (motor.still_cooling + (1 - motor.still_cooling) * past) * causes.cooling
        self.motor_c += (loss * motor.warming_k - cooling * (self.motor_c - design.intake_c)) * dt / motor.thermal_s

    def inflow_bpd(self) -> float:
        """Inflow from the reservoir at the present intake pressure, by Vogel; negative where it drinks."""
        design = self.design
        y = self.pip_psi / design.reservoir_psi
        y0 = design.pip_psi / design.reservoir_psi
        shape = (1 - y * (0.2 + 0.8 * y)) / (1 - y0 * (0.2 + 0.8 * y0))
        return design.flow_bpd * shape * self.causes.inflow * (1 + design.inflow_wander * self._wander[1])
