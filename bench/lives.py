"""Simulated lives of wells for the confusion table: healthy days, then one cause, seen through an RTU with dirt.

Two models, neither of which knows a rule of the tree: `bench` (physics.py beside this file, on which limits were also
tuned) and `field` (esp_ingestd.simulator, built without sight of the rules). What is not physics is the same for both:
sampling, jitter, gaps, spikes, zeros, channels that a well does not have, what happened to it before.
"""

# ruff: noqa: PLR2004  (lives are drawn with numbers)

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from types import MappingProxyType
from typing import Final, Protocol

from physics import DAY_S, HOUR_S, Hole, Sim, sensed

from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.reading import CHANNELS, SECOND_US, Reading, to_iso
from esp_ingestd.core.well import WellSettings
from esp_ingestd.simulator.faults import KINDS, Fault
from esp_ingestd.simulator.field import SENSORS, Rtu
from esp_ingestd.simulator.physics import WANDERS, Steps

START_US: Final = 1_760_000_000 * SECOND_US
INTERVALS_S: Final = (10, 30, 60, 300, 600, 1200)
FINE_S: Final = 60
FINE_BEFORE_S: Final = 4 * HOUR_S
FINE_AFTER_S: Final = 12 * HOUR_S
MODELS: Final = ("bench", "field")
NO_FLOW_METER: Final = ("flow_rate", "flow_variance")
NO_DISCHARGE: Final = ("discharge_pressure",)
ABSENT: Final = (
    (),
    ("torque", "gor"),
    NO_DISCHARGE,
    NO_FLOW_METER,
    ("wellhead_pressure", "casing_pressure", "torque"),
    ("vibration", "gor"),
)
Set = Callable[[Sim, float, float], None]


class Cause:
    """One cause: how it enters each model, what it may be called, and how soon.

    Args:
        right: the names that are right.
        besides: names that are true as well, or lead up to it, and are not counted against the first.
        hours: of life after the onset.
        build_h: what it needs to show beyond its own growth and the on-delay.
        needs: channels that no diagnosis of it can do without.
        bench: script for the bench model, called with (sim, seconds since onset, severity); None: not in that model.
        grows_h: of the bench script, until it is whole.
        kind: fault kind of the field model; "" for none, None: not in that model.
        severity: drawn from this range.
    """

    def __init__(
        self,
        *right: str,
        besides: tuple[str, ...] = (),
        hours: float = 12,
        build_h: float = 1,
        needs: tuple[str, ...] = (),
        bench: Set | None = None,
        grows_h: float = 0.0,
        kind: str | None = None,
        severity: tuple[float, float] = (0.9, 1.3),
        slow: bool = False,
    ) -> None:
        self.right, self.besides, self.hours, self.build_h = set(right), set(besides), hours, build_h
        self.needs, self.bench, self.grows_h, self.kind, self.severity = set(needs), bench, grows_h, kind, severity
        self.slow = slow

    def allows_h(self, life: "Life") -> float:
        """Hours from the onset within which it is to be named, on-delay apart."""
        window_h = max(0.5, 6 * life.interval_s / HOUR_S)
        return self.grown_h(life) + self.build_h + window_h

    def grown_h(self, life: "Life") -> float:
        """Hours until it is whole."""
        if life.model == "bench":
            return self.grows_h * life.pace
        return KINDS[self.kind].ramp_s * life.pace / HOUR_S if self.kind else 0.0


@dataclass(slots=True)
class Life:
    """What was drawn for one well: instruments, past, onset, severity."""

    model: str
    seed: str
    cause: Cause
    dice: Random
    interval_s: float
    onset_s: float
    pace: float
    """How much slower than usual the cause grows."""
    severity: float
    absent: tuple[str, ...]
    noise: float
    unlisted: bool
    """The wells file does not know it."""
    stops: list[tuple[float, float]] = field(default_factory=list)
    """Planned stops, (from, hours)."""
    speeds: list[tuple[float, float]] = field(default_factory=list)
    """Changes of frequency, (from, by Hz)."""

    @property
    def end_s(self) -> float:
        """When it ends."""
        grown = self.cause.grown_h(self) if self.cause.right else 0.0
        return self.onset_s + (self.cause.hours + grown) * HOUR_S

    def step_s(self, at_s: float) -> float:
        """Until the next reading; the dullest parts of finely sampled lives are sampled once a minute."""
        fine = self.onset_s - FINE_BEFORE_S < at_s < self.onset_s + FINE_AFTER_S
        least = 0 if fine else 300 if self.cause.slow else FINE_S
        return max(self.interval_s, least) * self.dice.uniform(0.93, 1.07)


def draw_life(model: str, name: str, number: int, seed: str, causes: Mapping[str, "Cause"]) -> Life:
    """The life of well `number` with a cause: the same for the same arguments."""
    dice = Random(f"{seed}/{model}/{name}/{number}")  # noqa: S311  (repeatable)
    cause = causes[name]
    possible = [absent for absent in ABSENT if not cause.needs & set(absent)]
    life = Life(
        model=model,
        seed=f"{seed}/{name}/{number}",
        cause=cause,
        dice=dice,
        interval_s=INTERVALS_S[number % len(INTERVALS_S)],
        onset_s=dice.uniform(2, 5) * DAY_S + (6 * DAY_S if cause.slow else 0),
        pace=dice.choice((0.3, 1, 1, 1, 2)) if not cause.slow else dice.uniform(0.7, 2),
        severity=dice.uniform(*cause.severity),
        absent=dice.choice(possible) if dice.random() < 0.6 else (),
        noise=dice.choice((0.6, 1.0, 1.5)),
        unlisted=dice.random() < 0.15 and "settings" not in cause.needs,
    )
    past = dice.random()
    if past < 0.25:
        life.stops.append((life.onset_s - dice.uniform(9, 40) * HOUR_S, dice.uniform(0.5, 8)))
    elif past < 0.5:
        life.speeds.append((life.onset_s - dice.uniform(6, 40) * HOUR_S, dice.choice((-5, -3, -1.5, 1.5, 2.5))))
    elif past < 0.6 and not cause.slow:
        life.onset_s = dice.uniform(14, 24) * HOUR_S  # its normal is hardly known yet
    if not cause.right:
        for _ in range(int(cause.hours / 100)):
            at_s = life.onset_s + dice.uniform(0, cause.hours - 40) * HOUR_S
            if dice.random() < 0.5:
                life.stops.append((at_s, dice.uniform(0.3, 24)))
            else:
                life.speeds.append((at_s, dice.uniform(-4, 3)))
    return life


class Subject(Protocol):
    """A well of one of the models."""

    settings: WellSettings

    def go(self, at_s: float, step_s: float) -> Reading | None:
        """Live for a step until `at_s`; the reading then, None where the link is down."""


class BenchWell:
    """A well of physics.py."""

    def __init__(self, life: Life) -> None:
        dice = life.dice
        scale = 0.3 * (4 / 0.3) ** dice.random()
        self.hole = Hole(scale=scale, dice=dice, noise=0.008 * life.noise)
        self.settings = WellSettings(nameplate_current_a=self.hole.nameplate_a, trip_temperature_c=self.hole.trip_c)
        self._life = life
        self._sim = Sim(self.hole)

    def go(self, at_s: float, step_s: float) -> Reading | None:
        """Live for a step."""
        life, sim = self._life, self._sim
        sim.hertz = _hertz(life, self.hole.hertz, at_s)
        if at_s >= life.onset_s and life.cause.bench:
            life.cause.bench(sim, (at_s - life.onset_s) / life.pace, life.severity)
        return _reading(at_s, sensed(self.hole, sim.step(step_s)))


class FieldWell:
    """A well of the simulator that ships with the daemon."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.rtu = Rtu("W", int.from_bytes(life.seed.encode()) % 1_000_003)
        design = self.rtu.well.design
        self.settings = WellSettings(
            nameplate_current_a=design.motor.nameplate_a,
            trip_temperature_c=design.motor.trip_c,
            base_frequency_hz=design.pump.base_hz,
        )
        kind = life.cause.kind
        self.rtu.faults = [Fault("planned_stop", at_s=at_s) for at_s, _ in life.stops]
        if kind:
            ramp_s = KINDS[kind].ramp_s * life.pace
            self.rtu.faults.append(Fault(kind, at_s=life.onset_s, severity=life.severity, ramp_s=ramp_s))
        self._hertz = design.hz
        self._decoder = Decoder(["esp/{well_id}/telemetry"])

    def go(self, at_s: float, step_s: float) -> Reading | None:
        """Live for a step."""
        life, rtu = self._life, self.rtu
        well, gauss = rtu.well, life.dice.gauss
        if life.speeds:
            self._turn(self._hertz + sum(by for since_s, by in life.speeds if at_s >= since_s))
        pieces = max(1, -(-int(step_s) // 30))
        steps = Steps(step_s / pieces)
        for piece in range(1, pieces + 1):
            rtu.face(at_s - step_s + piece * steps.dt)
            well.advance(steps, [gauss(0, 1) for _ in range(WANDERS)])
        now_us = START_US + int(at_s * SECOND_US)
        noise = [life.noise * gauss(0, 1) for _ in range(SENSORS)]
        payload = rtu.report(now_us, to_iso(now_us).encode(), noise, 0.9)
        if payload is None:
            return None
        return self._decoder.decode("esp/W/telemetry", payload, now_us).readings[0]

    def _turn(self, hertz: float) -> None:
        well = self.rtu.well
        if well.design.hz != hertz:
            well.design = replace(well.design, hz=hertz)
            well.hz = min(well.hz, hertz)


def _hertz(life: Life, full: float, at_s: float) -> float:
    """The drive's frequency with the planned stops and changes of a life."""
    hertz = full + sum(by for since_s, by in life.speeds if at_s >= since_s)
    for since_s, hours in life.stops:
        into_s, back_s = at_s - since_s, at_s - since_s - hours * HOUR_S
        if into_s >= 0 > back_s:
            hertz *= max(0.0, 1 - into_s / 600)
        elif 0 <= back_s < 120:
            hertz *= back_s / 120
    return hertz


def _reading(at_s: float, channels: Mapping[str, float]) -> Reading:
    at_us = START_US + int(at_s * SECOND_US)
    return Reading("W", at_us, received_us=at_us, **channels)  # type: ignore[arg-type]


def readings_of(life: Life, subject: Subject) -> Iterator[tuple[float, Reading]]:
    """(time in s, reading) of a whole life: with jitter, gaps, spikes, zeros, channels that stay away."""
    dice, at_s, silent_until_s = life.dice, 0.0, 0.0
    absent = dict.fromkeys(life.absent)
    while at_s < life.end_s:
        step_s = life.step_s(at_s)
        at_s += step_s
        reading = subject.go(at_s, step_s)
        if reading is None or at_s < silent_until_s:
            continue
        chance = dice.random()
        if chance < 0.005:
            continue
        if chance < 0.005 + step_s / (4 * DAY_S) and not -4 < (at_s - life.onset_s) / HOUR_S < 2:
            silent_until_s = at_s + dice.uniform(0.2, 4) * HOUR_S
        if absent:
            bad = tuple(name for name in reading.bad_channels or () if name not in absent) or None
            reading = reading._replace(**absent, bad_channels=bad)  # type: ignore[arg-type]
        if chance > 0.998:
            reading = soiled(reading, dice)
        yield at_s, reading


def soiled(reading: Reading, dice: Random) -> Reading:
    """The reading with one channel spiking, zero, missing or absurd."""
    names = [c for c in CHANNELS if getattr(reading, c.name) is not None and c.name != "vsd_frequency"]
    channel = dice.choice(names)
    value = getattr(reading, channel.name) * dice.choice((0.0, 2.0, 1.6, 0.5, 50.0))
    if dice.random() < 0.3:
        return reading._replace(**{channel.name: None})  # type: ignore[arg-type]
    bad = None if channel.low <= value <= channel.high else (*(reading.bad_channels or ()), channel.name)
    return reading._replace(**{channel.name: value, "bad_channels": bad or reading.bad_channels})


def whole(**causes: float | bool) -> Set:
    """The causes enter whole at the onset."""

    def script(sim: Sim, _since_s: float, _severity: float) -> None:
        for name, value in causes.items():
            setattr(sim.causes, name, value)

    return script


def over(hours: float, **causes: float) -> Set:
    """The causes grow in a straight line from the onset, to as much of their value as the severity says."""
    sound = {"head", "capacity", "friction", "inflow", "choke", "cooling", "shake", "unbalance"}

    def script(sim: Sim, since_s: float, severity: float) -> None:
        share = min(1.0, since_s / (hours * HOUR_S)) * severity
        for name, value in causes.items():
            start = 1.0 if name in sound else 800.0 if name == "insulation" else 0.0
            setattr(sim.causes, name, max(0.0, start + share * (value - start)))

    return script


def gas_lock(sim: Sim, since_s: float, severity: float) -> None:
    """A quarter of an hour of slugs, then the pump is full of gas."""
    sim.causes.slugs = 0.2
    sim.causes.gas = 0.1 if since_s < HOUR_S / 4 else 0.75 * min(1.1, severity)


def stopped(ramp_s: float, hours: float = 6.0) -> Set:
    """The drive goes down in `ramp_s`, stands some hours, and comes back."""

    def script(sim: Sim, since_s: float, _severity: float) -> None:
        full = sim.hertz
        if since_s < hours * HOUR_S:
            sim.hertz = max(0.0, full * (1 - since_s / ramp_s)) if ramp_s and since_s < ramp_s else 0.0
        else:
            sim.hertz = min(full, full * (since_s - hours * HOUR_S) / 120)

    return script


def reverse(sim: Sim, since_s: float, _severity: float) -> None:
    """After a planned stop of some hours two phases are swapped."""
    stopped(600, 4.0)(sim, since_s, 1.0)
    sim.causes.reverse = since_s > 2 * HOUR_S


FLOW_OR_HEAD: Final = ("flow_rate",)
CAUSES: Final[Mapping[str, Cause]] = MappingProxyType(
    {
        # Nothing to name. The hours are those in which stops and changes of frequency are drawn.
        "healthy": Cause(hours=24 * 15, bench=whole(), kind=""),
        "healthy, steady": Cause(hours=24 * 8, bench=whole(), kind=""),
        "planned stop": Cause(hours=36, bench=stopped(600), kind="planned_stop"),
        # Loss of production.
        "gas lock": Cause(
            "GAS_LOCK", besides=("GAS_INTERFERENCE",), bench=gas_lock, grows_h=0.3, kind="gas_lock", severity=(0.9, 1.4)
        ),
        "pump-off": Cause(
            "PUMP_OFF",
            hours=24,
            build_h=8,
            needs=("pip",),
            bench=over(6, inflow=0.4),
            grows_h=6,
            kind="pump_off",
            severity=(0.9, 1.3),
        ),
        "broken shaft": Cause("BROKEN_SHAFT", hours=8, bench=whole(shaft=False), kind="broken_shaft"),
        "closed choke": Cause(
            "DEADHEAD", hours=8, bench=over(0.05, choke=0.0), grows_h=0.05, kind="deadhead", severity=(1, 1.2)
        ),
        "reverse rotation": Cause(
            "REVERSE_ROTATION", besides=("TRIP",), hours=20, build_h=9, bench=reverse, kind="reverse_rotation"
        ),
        "tubing parted": Cause("NO_FLOW", besides=("TUBING_LEAK",), hours=8, kind="no_flow", needs=("flow_rate",)),
        # The well does worse than it used to.
        "gas interference": Cause(
            "GAS_INTERFERENCE",
            build_h=2,
            bench=over(0.5, gas=0.12, slugs=0.22),
            grows_h=0.5,
            kind="gas_interference",
            severity=(0.9, 1.2),
        ),
        "solids": Cause(
            "SOLIDS",
            besides=("VIBRATION", "OVERLOAD"),
            needs=("vibration",),
            bench=over(1, friction=1.12, shake=2.2, spikes=0.15),
            grows_h=1,
            kind="solids",
        ),
        "tubing leak": Cause(
            "TUBING_LEAK",
            hours=16,
            build_h=4,
            needs=("flow_rate",),
            bench=over(1, leak=0.3),
            grows_h=1,
            kind="tubing_leak",
        ),
        "plugged intake": Cause(
            "INTAKE_RESTRICTION", hours=24, build_h=6, bench=over(12, plug=0.3), grows_h=12, kind="intake_restriction"
        ),
        "flow-line restriction": Cause(
            "FLOWLINE_RESTRICTION",
            hours=24,
            build_h=4,
            bench=over(12, choke=0.3),
            grows_h=12,
            kind="flowline_restriction",
            severity=(0.85, 1.1),
        ),
        "wear": Cause(
            "PUMP_WEAR",
            hours=60,
            build_h=48,
            bench=over(480, head=0.84, capacity=0.88),
            grows_h=480,
            kind="pump_wear",
            severity=(0.9, 1.4),
            slow=True,
        ),
        "scale": Cause(
            "SCALE",
            hours=60,
            build_h=48,
            bench=over(400, capacity=0.78, friction=1.35, shake=1.5),
            grows_h=400,
            kind="scale",
            severity=(0.9, 1.4),
            slow=True,
        ),
        "less inflow, worn": Cause(
            "LOW_FLOW", hours=24, build_h=6, needs=("flow_rate",), kind="low_flow", severity=(1.1, 1.4)
        ),
        "water breaks through": Cause("UNCLASSIFIED", hours=24, build_h=6, kind="unclassified"),
        # The machine is in danger.
        "trip": Cause("TRIP", hours=6, bench=stopped(0), kind="trip"),
        "locked rotor": Cause("STALL", besides=("TRIP",), hours=4, kind="stall", needs=("settings",)),
        "overload": Cause(
            "OVERLOAD", needs=("settings",), bench=over(1, friction=1.6), grows_h=1, kind="overload", severity=(1, 1.3)
        ),
        "cooling lost": Cause(
            "MOTOR_OVERTEMP",
            needs=("settings",),
            build_h=2,
            bench=over(0.2, cooling=0.2),
            grows_h=0.2,
            kind="motor_overtemp",
        ),
        "bearing": Cause(
            "VIBRATION", hours=24, build_h=2, needs=("vibration",), bench=over(120, shake=5.0), grows_h=120,
            kind="vibration",
        ),
        "unbalance": Cause(
            "ELECTRICAL_FAULT", hours=6, bench=over(0.1, unbalance=6.0), grows_h=0.1, kind="electrical_fault"
        ),
        "insulation": Cause("ELECTRICAL_FAULT", hours=6, bench=over(2, insulation=0.0), grows_h=2),
        "open phase": Cause("ELECTRICAL_FAULT", hours=5, needs=("settings",), bench=whole(open_phase=True)),
        # The data.
        "gauge frozen": Cause("SENSOR_FAULT", hours=8, kind="sensor_fault"),
        "gauge dead": Cause("SENSOR_FAULT", hours=8, kind="sensor_dead"),
        "wrong unit": Cause("UNIT_SUSPECT", hours=8, kind="unit_suspect"),
        "clock ahead": Cause("CLOCK_FAULT", hours=8, kind="clock_fault"),
    }
)  # fmt: skip
