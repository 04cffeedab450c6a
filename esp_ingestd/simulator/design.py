"""What a simulated well is made of: pump, motor, tubing and reservoir, drawn by chance from what is common.

Units: bbl/d, psi, Hz, A, degC, N.m, s. A pressure loss coefficient k is in psi/(bbl/d)^2.
"""

from dataclasses import dataclass
from math import log10, pi, sqrt
from random import Random
from typing import Final

SECONDS_PER_DAY: Final = 86_400.0
WATT_PER_BBLD_PSI: Final = 0.012_687  # 0.158987 m3 / 86400 s * 6894.757 Pa
SLIP: Final = 0.03


def shaft_speed(hz: float) -> float:
    """Angular speed of a two-pole motor, rad/s."""
    return 2 * pi * hz * (1 - SLIP)


@dataclass(frozen=True, slots=True)
class PumpDesign:
    """A pump at its base frequency: a head and a power curve through its point of best efficiency."""

    base_hz: float
    bep_bpd: float
    shutoff_psi: float
    head_k: float
    power_bep_w: float
    power_shutoff: float
    """Of the power at best efficiency, as the two below."""
    power_linear: float
    power_square: float
    gas_limit: float
    """Gas fraction at which the stages break down."""
    gas_floor: float
    """Of the head, what gassed stages still make."""

    def head_psi(self, flow_bpd: float, hz: float) -> float:
        """Differential pressure on gas-free liquid."""
        speed = hz / self.base_hz
        return self.shutoff_psi * speed * speed - self.head_k * flow_bpd**2

    def torque_nm(self, flow_bpd: float, hz: float) -> float:
        """Shaft torque on gas-free liquid."""
        speed = hz / self.base_hz
        x = flow_bpd / (self.bep_bpd * speed)
        power = self.power_bep_w * speed**3 * (self.power_shutoff + x * (self.power_linear + x * self.power_square))
        return power / shaft_speed(hz)


@dataclass(frozen=True, slots=True)
class MotorDesign:
    """A motor: what it carries, and how it warms."""

    rated_torque_nm: float
    nameplate_a: float
    no_load: float
    """Magnetising current, of nameplate current."""
    warming_k: float
    """Over the intake, at the operating point."""
    thermal_s: float
    still_cooling: float
    """Cooling without flow, of that at the operating point."""
    trip_c: float

    def current_a(self, torque_nm: float) -> float:
        """Current at a torque: the magnetising and the torque current stand at right angles."""
        load = torque_nm / self.rated_torque_nm
        return self.nameplate_a * sqrt(self.no_load**2 + (1 - self.no_load**2) * load * load)


@dataclass(frozen=True, slots=True, kw_only=True)
class WellDesign:
    """What was installed, and the reservoir around it; a healthy well stays at this operating point."""

    pump: PumpDesign
    motor: MotorDesign
    hz: float
    flow_bpd: float
    pip_psi: float
    head_psi: float
    current_a: float
    reservoir_psi: float
    bubble_point_psi: float
    storage_bbl_per_psi: float
    static_psi: float
    line_psi: float
    casing_psi: float
    friction_k: float
    choke_k: float
    line_k: float
    gas_share: float
    """Free gas at the intake, of what the stages can take."""
    gor: float
    intake_c: float
    valve_below_gauge: bool
    """The check valve holds the column under the discharge gauge when the pump does not lift."""
    vibration_g: float
    load_wander: float
    inflow_wander: float
    ramp_hz_per_s: float
    current_unbalance: float
    voltage_unbalance: float
    insulation_mohm: float


def design_well(seed: str) -> WellDesign:
    """A well drawn from what is common: 0.3 to 4 times 2000 bbl/d, built around its own operating point.

    Args:
        seed: the same text gives the same well, on any machine.
    """
    draw = Random(seed)  # noqa: S311 - repeatable chance is the point
    between = draw.uniform
    flow = 2000 * 0.3 * (4 / 0.3) ** draw.random()
    base_hz = draw.choice((50.0, 60.0))
    hz = round(base_hz * between(0.85, 1.0), 1)
    pip = between(300, 800)
    reservoir = pip * between(1.7, 2.3)
    line, choke, flowline, friction = between(80, 150), between(40, 110), between(10, 40), between(60, 180)
    static = between(4500, 8000) * between(0.36, 0.42)
    head = line + choke + flowline + friction + static - pip
    intake = between(60, 105)
    pump = _fit_pump(draw, flow, head, hz, base_hz)
    torque = pump.torque_nm(flow, hz)
    motor = _fit_motor(draw, torque, base_hz, intake)
    return WellDesign(
        pump=pump,
        motor=motor,
        hz=hz,
        flow_bpd=flow,
        pip_psi=pip,
        head_psi=head,
        current_a=motor.current_a(torque),
        reservoir_psi=reservoir,
        bubble_point_psi=pip * between(2.5, 4),
        storage_bbl_per_psi=flow / (reservoir - pip) * between(1200, 3000) / SECONDS_PER_DAY,
        static_psi=static,
        line_psi=line,
        casing_psi=between(40, 110),
        friction_k=friction / flow**2,
        choke_k=choke / flow**2,
        line_k=flowline / flow**2,
        gas_share=between(0.12, 0.35),
        gor=between(150, 900),
        intake_c=intake,
        valve_below_gauge=draw.random() < 0.15,  # noqa: PLR2004 - of completions
        vibration_g=between(0.08, 0.30),
        load_wander=between(0.020, 0.034),
        inflow_wander=between(0.008, 0.02),
        ramp_hz_per_s=between(0.05, 0.2),
        current_unbalance=between(0.8, 2.2),
        voltage_unbalance=between(0.4, 1.0),
        insulation_mohm=between(60, 600),
    )


def _fit_pump(draw: Random, flow: float, head: float, hz: float, base_hz: float) -> PumpDesign:
    """A pump that makes `head` psi at `flow` bbl/d and `hz`, near its best efficiency.

    The power curve is the one whose efficiency peaks where x = 1, given its shut-off power and the head.
    """
    speed = hz / base_hz
    rise = draw.uniform(0.28, 0.36)  # shut-off head over that at best efficiency, less 1
    power_shutoff = draw.uniform(0.50, 0.58)
    bep = flow / (speed * draw.uniform(0.90, 1.08))
    head_bep = head / (speed**2 * (1 + rise) - rise * (flow / bep) ** 2)
    efficiency = 0.75 + 0.05 * log10(bep / 2000)
    return PumpDesign(
        base_hz=base_hz,
        bep_bpd=bep,
        shutoff_psi=head_bep * (1 + rise),
        head_k=head_bep * rise / bep**2,
        power_bep_w=WATT_PER_BBLD_PSI * bep * head_bep / efficiency,
        power_shutoff=power_shutoff,
        power_linear=1 - 2 * power_shutoff + 2 * rise,
        power_square=power_shutoff - 2 * rise,
        gas_limit=draw.uniform(0.12, 0.30),
        gas_floor=draw.uniform(0.34, 0.42),
    )


def _fit_motor(draw: Random, torque: float, base_hz: float, intake_c: float) -> MotorDesign:
    """A motor that carries `torque` N.m with some reserve, on a voltage that suits its power."""
    rated = torque / draw.uniform(0.72, 0.86)
    power_w = rated * shaft_speed(base_hz)
    volts = min(4000.0, max(700.0, 1000 * sqrt(power_w / 44_000)))
    warming = draw.uniform(14, 28)
    return MotorDesign(
        rated_torque_nm=rated,
        nameplate_a=round(power_w / (sqrt(3) * volts * 0.84 * 0.88), 1),  # power factor, efficiency
        no_load=draw.uniform(0.34, 0.39),
        warming_k=warming,
        thermal_s=warming * 60 / 0.62 * draw.uniform(0.92, 1.08),  # 0.62 K/min without cooling
        still_cooling=draw.uniform(0.22, 0.30),
        trip_c=5.0 * round((intake_c + warming + draw.uniform(45, 65)) / 5),
    )
