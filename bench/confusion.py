"""Which diagnosis each cause gets: simulated wells of many sizes and samplings, one cause entered in each.

python bench/confusion.py [WELLS_A_CAUSE] [CAUSE ...]
"""

import math
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from physics import DAY_S, HOUR_S, Hole, Sim, readings

from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import SECOND_US, Reading
from esp_ingestd.core.tree import Tree
from esp_ingestd.core.well import WellSettings

TREE = Path(__file__).parents[1] / "config" / "decision_tree.toml"
START_US = 1_760_000_000 * SECOND_US
ONSET_S = 2.0 * DAY_S
Set = Callable[[Sim, float], None]


def at_once(**causes: float | bool) -> Set:
    """The causes enter whole at the onset."""

    def script(sim: Sim, _since_s: float) -> None:
        for name, value in causes.items():
            setattr(sim.causes, name, value)

    return script


def over(hours: float, **causes: float) -> Set:
    """The causes grow in a straight line for some hours from the onset."""

    def script(sim: Sim, since_s: float) -> None:
        share = min(1.0, since_s / (hours * HOUR_S))
        for name, value in causes.items():
            sound = 1.0 if name in ("head", "capacity", "friction", "inflow", "choke", "cooling", "shake") else 0.0
            setattr(sim.causes, name, sound + share * (value - sound))

    return script


def gas_lock(sim: Sim, since_s: float) -> None:
    """A quarter of an hour of slugs, then the pump is full of gas."""
    sim.causes.slugs = 0.2
    sim.causes.gas = 0.1 if since_s < HOUR_S / 4 else 0.75


def stop(ramp_s: float) -> Set:
    """The drive goes down in `ramp_s`, stands six hours, and comes back."""

    def script(sim: Sim, since_s: float) -> None:
        full = sim.hole.hertz
        if since_s < 6 * HOUR_S:
            sim.hertz = max(0.0, full * (1 - since_s / ramp_s)) if ramp_s and since_s < ramp_s else 0.0
        else:
            sim.hertz = min(full, full * (since_s - 6 * HOUR_S) / 120)

    return script


def speed(step_hz: float) -> Set:
    """The drive changes its frequency."""

    def script(sim: Sim, _since_s: float) -> None:
        sim.hertz = sim.hole.hertz + step_hz

    return script


def reverse(sim: Sim, since_s: float) -> None:
    """After a planned stop of some hours two phases are swapped."""
    stop(600)(sim, since_s)
    sim.causes.reverse = since_s > 5 * HOUR_S


# cause -> (script, days after the onset, names that are right)
CAUSES: dict[str, tuple[Set, float, set[str]]] = {
    "healthy": (lambda _sim, _since: None, 3, set()),
    "planned stop": (stop(900), 2, set()),
    "speed up": (speed(+4), 3, set()),
    "speed down": (speed(-6), 3, set()),
    "trip": (stop(0), 0.5, {"TRIP"}),
    "gas lock": (gas_lock, 0.3, {"GAS_LOCK", "GAS_INTERFERENCE"}),
    "gas interference": (over(0.5, gas=0.12, slugs=0.22), 0.5, {"GAS_INTERFERENCE"}),
    "pump-off": (over(6, inflow=0.4), 1, {"PUMP_OFF"}),
    "broken shaft": (at_once(shaft=False), 0.3, {"BROKEN_SHAFT"}),
    "closed choke": (over(0.05, choke=0.0), 0.3, {"DEADHEAD"}),
    "flow-line restriction": (over(12, choke=0.3), 2, {"FLOWLINE_RESTRICTION"}),
    "plugged intake": (over(12, plug=0.3), 2, {"INTAKE_RESTRICTION"}),
    "tubing leak": (over(1, leak=0.3), 1, {"TUBING_LEAK"}),
    "reverse rotation": (reverse, 1, {"REVERSE_ROTATION"}),
    "solids": (over(1, friction=1.12, shake=2.2, spikes=0.15), 0.5, {"SOLIDS"}),
    "overload": (over(1, friction=1.6), 0.5, {"OVERLOAD"}),
    "cooling lost": (over(0.2, cooling=0.2), 0.5, {"MOTOR_OVERTEMP"}),
    "bearing": (over(120, shake=5.0), 7, {"VIBRATION"}),
    "unbalance": (at_once(unbalance=6.0), 0.3, {"ELECTRICAL_FAULT"}),
    "insulation": (over(2, insulation=0.0), 0.3, {"ELECTRICAL_FAULT"}),
    "open phase": (at_once(open_phase=True), 0.2, {"ELECTRICAL_FAULT"}),
    "wear": (over(500, head=0.84, capacity=0.88), 26, {"PUMP_WEAR"}),
    "scale": (over(400, capacity=0.78, friction=1.35, shake=1.5), 20, {"SCALE"}),
}


def first_told(tree: Tree, cause: str, seed: int, interval_s: float) -> tuple[list[str], float, int]:
    """(diagnoses in order of their raising, hours from onset to the right one, false ones before the onset)."""
    script, days, right = CAUSES[cause]
    dice = Random(f"{cause}/{seed}")  # noqa: S311  (the same wells at each run)
    hole = Hole(scale=dice.choice((0.3, 0.6, 1.0, 1.8, 4.0)), dice=dice, noise=dice.choice((0.003, 0.01, 0.02)))
    absent = dice.choice(((), (), ("torque", "gor"), ("wellhead_pressure", "casing_pressure", "torque")))
    settings = WellSettings(nameplate_current_a=hole.nameplate_a, trip_temperature_c=hole.trip_c)
    diagnostician = Diagnostician(tree, lambda _: settings)

    def play(sim: Sim, at_s: float) -> None:
        if at_s >= ONSET_S:
            script(sim, at_s - ONSET_S)

    told: list[str] = []
    early, delay_h = 0, float("nan")
    for at_s, channels in readings(hole, play, ONSET_S / DAY_S + days, interval_s, absent):
        at_us = START_US + int(at_s * SECOND_US)
        reading = Reading("W", at_us, received_us=at_us, **channels)  # type: ignore[arg-type]
        for event in diagnostician.observe(reading):
            if event.transition == "raised":
                early += at_s < ONSET_S
                told.append(event.diagnosis)
                if event.diagnosis in right and math.isnan(delay_h):
                    delay_h = (at_s - ONSET_S) / HOUR_S
    return told, delay_h, early


def main() -> None:
    """Print one row a cause."""
    tree = Tree.parse(TREE.read_text())
    wells = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    chosen = sys.argv[2:] or list(CAUSES)
    print("| cause | wells | found | first name right | median delay, h | told first | told besides |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for cause in chosen:
        right = CAUSES[cause][2]
        firsts: Counter[str] = Counter()
        besides: Counter[str] = Counter()
        found, delays, early = 0, [], 0
        for seed in range(wells):
            interval_s = (30, 60, 300, 600, 1200, 300)[seed % 6]
            told, delay_h, before = first_told(tree, cause, seed, interval_s)
            firsts[told[0] if told else "-"] += 1
            besides.update(told[1:])
            early += before
            found += bool(right & set(told)) if right else not told
            if not math.isnan(delay_h):
                delays.append(delay_h)
        named = sum(count for name, count in firsts.items() if name in right or (not right and name == "-"))
        middle = f"{sorted(delays)[len(delays) // 2]:.1f}" if delays else ""
        first = ", ".join(f"{name} {count}" for name, count in firsts.most_common())
        more = ", ".join(f"{name} {count}" for name, count in besides.most_common(5))
        print(f"| {cause} | {wells} | {found} | {named} | {middle} | {first} | {more} |", flush=True)
        if early:
            print(f"({early} told before the onset)")


if __name__ == "__main__":
    main()
