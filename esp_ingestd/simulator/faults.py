"""Faults that can be entered into a simulated well: each a physical cause that grows from a moment on.

The kinds are the diagnoses of CONTRACT §5 in lower case, and a few causes beside them. A kind's name says what
a good diagnosis should call it; what the sensors show follows from the physics alone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Final, NamedTuple

from esp_ingestd.simulator.physics import Causes

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86_400.0
TRIP_OFF_S: Final = 30 * MINUTE
PLANNED_OFF_S: Final = 2 * HOUR
REWIRING_S: Final = 30 * MINUTE
STALL_FIRST_S, STALL_EVERY_S, STALL_HELD_S, STALL_TRIES = 120.0, 400.0, 90.0, 5
PSI_IN_KPA: Final = 6.894757


@dataclass(slots=True)
class Dirt:
    """What is wrong between the well and the broker: gauge, scaling, clock, link."""

    gauge_frozen: bool = False
    gauge_dead: bool = False
    pressure_factor: float = 1.0
    clock_ahead_s: float = 0.0
    silent: bool = False


@dataclass(slots=True)
class Situation:
    """All that can be wrong with one well at one moment; made anew for each, so that causes can end."""

    causes: Causes = field(default_factory=Causes)
    dirt: Dirt = field(default_factory=Dirt)


class FaultKind(NamedTuple):
    """How one kind of fault comes about."""

    ramp_s: float
    """From nothing to full severity, by default."""
    enter: Callable[[Situation, float, float], None]
    """Takes the situation, the seconds since the fault began, and how far it has grown (0...severity)."""


def _stall(now: Situation, elapsed_s: float, _grown: float) -> None:
    """A trip, then starts against a seized rotor, each held at the stall limit until the drive gives up."""
    tries, held = divmod(elapsed_s - STALL_FIRST_S, STALL_EVERY_S)
    now.causes.running = now.causes.rotor_locked = 0 <= tries < STALL_TRIES and held < STALL_HELD_S


def _motor_overtemp(now: Situation, _elapsed_s: float, grown: float) -> None:
    """Deposits on the motor: heat no longer leaves it."""
    now.causes.cooling = max(0.05, 1 - 0.85 * grown)


def _overload(now: Situation, _elapsed_s: float, grown: float) -> None:
    """An emulsion as thick as syrup."""
    now.causes.drag, now.causes.power, now.causes.head = 0.50 * grown, 1 + 0.05 * grown, 1 - 0.01 * grown


def _vibration(now: Situation, _elapsed_s: float, grown: float) -> None:
    """A bearing wears out."""
    now.causes.vibration_g, now.causes.drag = 0.85 * grown, 0.01 * grown


def _electrical_fault(now: Situation, _elapsed_s: float, grown: float) -> None:
    """A cable splice lets water in: phases unbalanced, insulation falling."""
    now.causes.current_unbalance, now.causes.voltage_unbalance = 9 * grown, 3.5 * grown
    now.causes.insulation = max(0.0005, 1 - grown)


def _broken_shaft(now: Situation, _elapsed_s: float, _grown: float) -> None:
    now.causes.shaft_broken = True


def _deadhead(now: Situation, _elapsed_s: float, grown: float) -> None:
    """A valve at the wellhead shuts."""
    now.causes.choke = max(0.0, 1 - grown)


def _pump_off(now: Situation, _elapsed_s: float, grown: float) -> None:
    """The reservoir gives less than the pump takes."""
    now.causes.inflow = max(0.05, 1 - 0.6 * grown)


def _gas_lock(now: Situation, _elapsed_s: float, grown: float) -> None:
    """A gas cap reaches the intake."""
    now.causes.gas_share, now.causes.slugs = 0.35 + 3.0 * grown, 0.30


def _reverse_rotation(now: Situation, elapsed_s: float, _grown: float) -> None:
    """Stopped for electrical work; two phases are swapped when it starts again."""
    now.causes.running, now.causes.reversed = elapsed_s >= REWIRING_S, elapsed_s >= REWIRING_S


def _no_flow(now: Situation, _elapsed_s: float, _grown: float) -> None:
    """The tubing parts below the wellhead: all that is pumped falls back into the annulus."""
    now.causes.tubing_parted = True


def _gas_interference(now: Situation, _elapsed_s: float, grown: float) -> None:
    """Gas comes in slugs, about as much as the stages can take."""
    now.causes.gas_share, now.causes.slugs = 0.35 + 0.43 * grown, 0.08 + 0.24 * grown


def _solids(now: Situation, _elapsed_s: float, grown: float) -> None:
    """Sand passes the stages."""
    now.causes.grit, now.causes.power, now.causes.vibration_g = 0.10 * grown, 1 + 0.08 * grown, 0.45 * grown
    now.causes.head = 1 - 0.03 * grown


def _tubing_leak(now: Situation, _elapsed_s: float, grown: float) -> None:
    now.causes.leak = 0.40 * grown


def _intake_restriction(now: Situation, _elapsed_s: float, grown: float) -> None:
    """Debris on the screen; the gauge sits upstream of it. What boils off behind it slugs through the stages."""
    now.causes.intake, now.causes.slugs = 0.36 * grown, 0.08 + 0.20 * grown


def _flowline_restriction(now: Situation, _elapsed_s: float, grown: float) -> None:
    """Wax narrows the flow line."""
    now.causes.line = 1 / max(0.05, 1 - 0.84 * grown) ** 2


def _scale(now: Situation, _elapsed_s: float, grown: float) -> None:
    """Scale in the stages: less head, more friction, and a coat on the motor."""
    now.causes.head, now.causes.power, now.causes.drag = 1 - 0.12 * grown, 1 + 0.10 * grown, 0.08 * grown
    now.causes.cooling, now.causes.vibration_g = 1 - 0.15 * grown, 0.08 * grown


def _pump_wear(now: Situation, _elapsed_s: float, grown: float) -> None:
    now.causes.head, now.causes.vibration_g = 1 - 0.15 * grown, 0.03 * grown


def _low_flow(now: Situation, _elapsed_s: float, grown: float) -> None:
    """Worn stages over a reservoir that declines as fast: the rate falls, the intake pressure does not rise."""
    now.causes.head, now.causes.inflow = 1 - 0.15 * grown, 1 - 0.24 * grown


def _unclassified(now: Situation, _elapsed_s: float, grown: float) -> None:
    """Injected water breaks through: the well gives far more than it did."""
    now.causes.inflow = 1 + 2.0 * grown


def _trip(now: Situation, elapsed_s: float, _grown: float) -> None:
    now.causes.running = elapsed_s >= TRIP_OFF_S


def _planned_stop(now: Situation, elapsed_s: float, _grown: float) -> None:
    now.causes.running = over = elapsed_s >= PLANNED_OFF_S
    now.causes.soft_stop = not over  # what stops it after that is another thing


def _sensor_fault(now: Situation, _elapsed_s: float, _grown: float) -> None:
    """The downhole gauge repeats its last frame."""
    now.dirt.gauge_frozen = True


def _sensor_dead(now: Situation, _elapsed_s: float, _grown: float) -> None:
    """The downhole gauge loses its line: zeros and full scale."""
    now.dirt.gauge_dead = True


def _unit_suspect(now: Situation, _elapsed_s: float, _grown: float) -> None:
    """A new RTU sends pressures in kPa."""
    now.dirt.pressure_factor = PSI_IN_KPA


def _clock_fault(now: Situation, _elapsed_s: float, grown: float) -> None:
    now.dirt.clock_ahead_s = HOUR * grown


def _comm_loss(now: Situation, _elapsed_s: float, _grown: float) -> None:
    now.dirt.silent = True


KINDS: Final[Mapping[str, FaultKind]] = MappingProxyType(
    {
        "stall": FaultKind(0, _stall),
        "motor_overtemp": FaultKind(5 * MINUTE, _motor_overtemp),
        "overload": FaultKind(20 * MINUTE, _overload),
        "vibration": FaultKind(1 * HOUR, _vibration),
        "electrical_fault": FaultKind(10 * MINUTE, _electrical_fault),
        "broken_shaft": FaultKind(0, _broken_shaft),
        "deadhead": FaultKind(30, _deadhead),
        "pump_off": FaultKind(20 * MINUTE, _pump_off),
        "gas_lock": FaultKind(20 * MINUTE, _gas_lock),
        "reverse_rotation": FaultKind(0, _reverse_rotation),
        "no_flow": FaultKind(0, _no_flow),
        "gas_interference": FaultKind(20 * MINUTE, _gas_interference),
        "solids": FaultKind(15 * MINUTE, _solids),
        "tubing_leak": FaultKind(10 * MINUTE, _tubing_leak),
        "intake_restriction": FaultKind(12 * HOUR, _intake_restriction),
        "flowline_restriction": FaultKind(4 * HOUR, _flowline_restriction),
        "scale": FaultKind(4 * DAY, _scale),
        "pump_wear": FaultKind(10 * DAY, _pump_wear),
        "low_flow": FaultKind(3 * HOUR, _low_flow),
        "unclassified": FaultKind(2 * HOUR, _unclassified),
        "trip": FaultKind(0, _trip),
        "sensor_fault": FaultKind(0, _sensor_fault),
        "unit_suspect": FaultKind(0, _unit_suspect),
        "clock_fault": FaultKind(0, _clock_fault),
        "comm_loss": FaultKind(0, _comm_loss),
        "planned_stop": FaultKind(0, _planned_stop),
        "sensor_dead": FaultKind(0, _sensor_dead),
    }
)
FAULT_KINDS: Final = tuple(KINDS)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to enter.

    Raises:
        ValueError: an unknown kind, or a number that makes no sense; the sentence lists what is allowed.
    """

    kind: str
    well: str | int | None = None
    """Its id, or its number from 1; None: the field chooses the next well that has no fault."""
    at_s: float = 0.0
    """Seconds after the field's start; the reading at that moment is the first that can show it."""
    severity: float = 1.0
    """1 is a plain case of its kind, 0 none, 2 twice as strong; kinds that are or are not take no notice."""
    ramp_s: float | None = None
    """From nothing to full severity; None: what suits the kind, from seconds (a valve) to days (wear)."""
    duration_s: float = inf
    """After that the cause is gone; a trip, a planned stop and a reversed start end by themselves."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.kind.lower())
        if self.kind not in KINDS:
            raise ValueError(f"there is no fault {self.kind!r}: allowed are {', '.join(FAULT_KINDS)}")
        for name, value in (("at_s", self.at_s), ("severity", self.severity), ("duration_s", self.duration_s)):
            if not value >= 0:
                raise ValueError(f"the {name} of fault {self.kind} is {value}: it must be 0 or more")

    def enter(self, now: Situation, time_s: float) -> None:
        """Add what this fault does at `time_s` seconds after the field's start."""
        elapsed = time_s - self.at_s
        if not 0 <= elapsed < self.duration_s:
            return
        kind = KINDS[self.kind]
        ramp = kind.ramp_s if self.ramp_s is None else self.ramp_s
        grown = min(1.0, elapsed / ramp) if ramp > 0 else 1.0
        kind.enter(now, elapsed, grown * self.severity)


_FAULT: Final = re.compile(
    r"(?P<kind>\w+)(:(?P<well>[A-Za-z0-9_-]{1,64}))?(@(?P<at>\d+(\.\d+)?)(?P<unit>[smhd]?))?(\*(?P<severity>\d+(\.\d+)?))?"
)
_UNIT_S: Final = MappingProxyType({"": 1.0, "s": 1.0, "m": MINUTE, "h": HOUR, "d": DAY})


def parse_fault(text: str) -> Fault:
    """A fault from `KIND[:WELL][@TIME][*SEVERITY]`, such as `gas_lock`, `GAS_LOCK:WELL-003@600` or `scale@2h*1.5`.

    WELL is an id or a number from 1; TIME is after the start, in seconds or with s, m, h or d.

    Raises:
        ValueError: a sentence that says what is allowed.
    """
    match = _FAULT.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is no fault: write KIND[:WELL][@TIME][*SEVERITY], as in gas_lock:WELL-003@10m*1.5; "
            f"kinds are {', '.join(FAULT_KINDS)}"
        )
    well = match["well"]
    return Fault(
        match["kind"],
        well=int(well) if well and well.isdecimal() else well,
        at_s=float(match["at"] or 0) * _UNIT_S[match["unit"] or ""],
        severity=float(match["severity"] or 1),
    )
