"""A physics model of a pumped well, to try the diagnosis on: causes are entered, symptoms follow.

Independent of the decision tree: nothing in here knows a rule or a limit of it. Pump curve, inflow, annulus storage,
tubing with choke, check of gas at the intake, motor current and heat balance. Units as the channels'; time in seconds.

Sources: affinity laws for curve and power; a parabola for the head of a radial stage and a rising line for its power;
straight-line inflow; one lump of metal for the motor, warmed by its losses and cooled by the flow past it.
"""

# ruff: noqa: PLR2004  (a model is made of numbers)

import math
from dataclasses import dataclass, field
from random import Random

DAY_S = 86_400.0
HOUR_S = 3_600.0
ATMOSPHERE_PSI = 15.0


@dataclass(slots=True)
class Causes:
    """What is wrong, as causes; 1 or 0 is a sound well."""

    head: float = 1.0
    """Stage wear: head at the same flow."""
    capacity: float = 1.0
    """Flow that the stages pass at the same head: scale, wear."""
    friction: float = 1.0
    """Shaft power at the same hydraulics: scale, solids, viscosity."""
    gas: float = 0.0
    """Share of the head that free gas takes."""
    slugs: float = 0.0
    """Depth of slow swings of that share."""
    inflow: float = 1.0
    """The reservoir's productivity."""
    choke: float = 1.0
    """Opening of choke and flow line; 0 is shut."""
    plug: float = 0.0
    """Pressure lost in the intake at design flow, as a share of the pump's head."""
    leak: float = 0.0
    """Share of the design flow that runs back to the annulus through the tubing."""
    shaft: bool = True
    reverse: bool = False
    locked: bool = False
    cooling: float = 1.0
    shake: float = 1.0
    """Vibration at the same speed."""
    spikes: float = 0.0
    """Chance a minute of a burst of torque."""
    unbalance: float = 1.0
    insulation: float = 800.0
    open_phase: bool = False
    """The drive turns its frequency out, and no current flows."""


@dataclass
class Hole:
    """A well of some size, as drilled and equipped."""

    scale: float
    dice: Random
    noise: float = 0.01
    hertz: float = 55.0
    design_bpd: float = field(init=False)
    shutoff_psi: float = field(init=False)
    nameplate_a: float = field(init=False)
    trip_c: float = field(init=False)

    def __post_init__(self) -> None:
        dice = self.dice
        self.design_bpd = 2000 * self.scale
        self.shutoff_psi = dice.uniform(2800, 4500)
        self.nameplate_a = dice.uniform(40, 70) * self.scale**0.6
        self.full_load = dice.uniform(0.78, 0.92)
        self.magnetising = dice.uniform(0.28, 0.36)
        self.power_at_rest = dice.uniform(0.45, 0.6)
        self.curve_rise = dice.uniform(-0.05, 0.1)
        self.separator_psi = dice.uniform(80, 200)
        self.intake_c = dice.uniform(60, 110)
        self.rise_k = dice.uniform(15, 30)
        self.trip_c = self.intake_c + self.rise_k + dice.uniform(30, 45)
        self.shake = dice.uniform(0.1, 0.35)
        self.solution_gor = dice.uniform(150, 600)
        self.intake_psi = dice.uniform(450, 1400)
        # The design point: at 55 Hz and nine tenths of the design flow all pressures are in balance.
        speed = self.hertz / 60
        flow = 0.95 * self.design_bpd * speed
        self.drawdown_psi = dice.uniform(500, 1500)
        self.productivity = flow / self.drawdown_psi
        self.reservoir_psi = self.intake_psi + self.drawdown_psi
        self.storage = self.productivity * dice.uniform(900, 3600) / DAY_S
        lift = self.head_psi(flow, speed) + self.intake_psi
        self.choke_psi = dice.uniform(0.03, 0.08) * lift
        self.friction_psi = dice.uniform(0.03, 0.08) * lift
        self.static_psi = lift - self.choke_psi - self.friction_psi - self.separator_psi
        self.design_flow = flow

    def head_psi(self, flow: float, speed: float) -> float:
        """The sound pump's curve: parabola in flow, moved by the affinity laws."""
        x = flow / (self.design_bpd * speed)
        return self.shutoff_psi * speed**2 * (1 + self.curve_rise * x - 0.38 * x * x)


class Sim:
    """The well in time."""

    def __init__(self, hole: Hole) -> None:
        self.hole = hole
        self.causes = Causes()
        self.hertz = hole.hertz
        self.pip = hole.intake_psi
        self.motor_c = hole.intake_c + hole.rise_k
        self.phase = hole.dice.uniform(0, 6)
        self.swing = 0.0
        self.flow = hole.design_flow
        self.burst = 0.0

    def step(self, dt: float) -> dict[str, float]:
        """Go on by `dt` seconds in steps of half a minute at most; the channels, without noise."""
        pieces = max(1, math.ceil(dt / 30))
        for _ in range(pieces):
            channels = self._piece(dt / pieces)
        return channels

    def _piece(self, dt: float) -> dict[str, float]:
        hole, causes = self.hole, self.causes
        speed = max(self.hertz, 0.0) / 60
        gas = self._gas(dt)
        turns = speed > 0.05 and causes.shaft and not causes.locked and not causes.open_phase
        flow, head = self._operate(speed, gas) if turns else (0.0, 0.0)
        leak = causes.leak * hole.design_flow * math.sqrt(max(0.0, head) / (0.7 * hole.shutoff_psi)) if turns else 0.0
        leak = min(leak, flow)
        surface = flow - leak
        inflow = hole.productivity * causes.inflow * (hole.reservoir_psi - self.pip)
        self.pip += (inflow - flow + leak) * dt / DAY_S / hole.storage
        self.pip = min(max(self.pip, 30.0), hole.reservoir_psi)
        self.flow = surface
        amperes, power = self._motor(speed, flow, gas, turns=turns, dt=dt)
        self._heat(amperes, flow, dt)
        wellhead = hole.separator_psi + self._choke(surface)
        discharge = self.pip + head
        if not turns:
            wellhead = hole.separator_psi
            discharge = max(self.pip, min(hole.static_psi * 0.9, self.pip + 0.05 * hole.shutoff_psi))
        elif flow <= 0 and causes.choke < 0.05:
            wellhead = max(hole.separator_psi, discharge - hole.static_psi)
        torque = 270 * hole.scale * hole.shutoff_psi / 3500 * power / max(speed, 0.05)
        vibration = hole.shake * causes.shake * (speed / (hole.hertz / 60)) ** 0.5 * (1 + 0.4 * abs(self.swing))
        return {
            "flow_rate": surface,
            "pip": self.pip,
            "motor_current": amperes,
            "motor_temp": self.motor_c,
            "vibration": vibration * (1 + self.burst) if turns else 0.005,
            "vsd_frequency": self.hertz,
            "torque": torque if turns else 0.0,
            "gor": hole.solution_gor * (1 + 3 * gas),
            "discharge_pressure": discharge,
            "intake_temp": hole.intake_c,
            "wellhead_pressure": wellhead,
            "casing_pressure": hole.separator_psi * (1 + 0.6 * causes.leak),
            "current_unbalance": 1.2 * causes.unbalance,
            "voltage_unbalance": 0.6 * min(causes.unbalance, 3),
            "insulation_resistance": causes.insulation,
        }

    def _gas(self, dt: float) -> float:
        causes, dice = self.causes, self.hole.dice
        self.phase += dt / 60 * dice.uniform(0.3, 1.2)
        self.swing += (math.sin(self.phase) + dice.gauss(0, 0.6) - self.swing) * min(1.0, dt / 90)
        self.swing *= 1 if causes.slugs else 0
        # Gas comes out of solution where the annulus is pumped down: the pump sucks in froth.
        froth = max(0.0, (150 - self.pip) / 150)
        froth *= 1 + 0.5 * self.hole.dice.gauss(0, 1) if froth else 0
        return min(0.97, max(0.0, causes.gas + causes.slugs * self.swing + froth))

    def _choke(self, flow: float) -> float:
        opening = max(self.causes.choke, 0.01)
        return self.hole.choke_psi * (flow / self.hole.design_flow / opening) ** 2

    def _operate(self, speed: float, gas: float) -> tuple[float, float]:
        """Where the pump's curve meets what the tubing asks: (flow, pressure over the pump)."""
        hole, causes = self.hole, self.causes
        reverse = 0.55 if causes.reverse else 1.0

        def pump(flow: float) -> float:
            passed = flow / (causes.capacity * (0.75 if causes.reverse else 1.0))
            head = hole.head_psi(passed, speed) * causes.head * (1 - gas) * reverse
            return head - causes.plug * hole.shutoff_psi * (flow / hole.design_flow) ** 2

        def asked(flow: float) -> float:
            return (
                hole.separator_psi
                + hole.static_psi * (1 - 0.25 * gas)
                + hole.friction_psi * (flow / hole.design_flow) ** 2
                + self._choke(flow)
                - self.pip
            )

        if pump(0.0) <= asked(0.0):
            return 0.0, max(pump(0.0), 0.0)
        low, high = 0.0, 3 * hole.design_bpd * max(speed, 0.1)
        for _ in range(22):
            middle = (low + high) / 2
            low, high = (middle, high) if pump(middle) > asked(middle) else (low, middle)
        return low, pump(low)

    def _motor(self, speed: float, flow: float, gas: float, *, turns: bool, dt: float) -> tuple[float, float]:
        """(current, hydraulic and friction power as a share of the design's)."""
        hole, causes = self.hole, self.causes
        if speed <= 0.05 or causes.open_phase:
            return 0.0, 0.0
        if causes.locked:
            return 3.2 * hole.nameplate_a, 0.0
        if not turns:
            return hole.nameplate_a * (hole.magnetising + 0.03), 0.03
        x = flow / (hole.design_bpd * speed)
        load = hole.power_at_rest + (1 - hole.power_at_rest) * min(x / 0.95, 1.3)
        self.burst *= math.exp(-dt / 45)
        if hole.dice.random() < causes.spikes * dt / 60:
            self.burst = hole.dice.uniform(0.2, 0.5)
        power = load * (1 - 0.55 * gas) * causes.friction * (speed / (hole.hertz / 60)) ** 3 * (1 + self.burst)
        # Constant volts per hertz: the active current follows torque, the magnetising one stays.
        active = math.sqrt(hole.full_load**2 - hole.magnetising**2) * power * (hole.hertz / 60) / speed
        return hole.nameplate_a * math.hypot(active, hole.magnetising), power

    def _heat(self, amperes: float, flow: float, dt: float) -> None:
        hole = self.hole
        losses = (amperes / (hole.full_load * hole.nameplate_a)) ** 2
        cooling = (0.12 + 0.88 * min(1.2, flow / hole.design_flow) ** 0.6) * self.causes.cooling
        warming = hole.rise_k / 1800 * (losses - cooling * (self.motor_c - hole.intake_c) / hole.rise_k)
        self.motor_c += warming * dt


def sensed(hole: Hole, channels: dict[str, float]) -> dict[str, float]:
    """What the instruments make of the channels: their noise, and the resolution of the slow ones."""
    dice = hole.dice
    noisy = {}
    for name, value in channels.items():
        share = {"vsd_frequency": 0.0, "motor_temp": 0.0, "intake_temp": 0.0, "vibration": 4 * hole.noise}.get(
            name, hole.noise if name not in ("pip", "discharge_pressure") else hole.noise / 3
        )
        noisy[name] = max(0.0, value * (1 + dice.gauss(0, share)))
    noisy["motor_temp"] += dice.gauss(0, 0.2)
    noisy["intake_temp"] = round(noisy["intake_temp"] + dice.gauss(0, 0.1), 1)
    return noisy
