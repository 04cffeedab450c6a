"""Wells of another make than those the limits were set on: other curves and motors, instruments, habits of operators.

python bench/variants.py [--wells N] [--seed TEXT] [--of VARIANT ...] [CAUSE ...]

Prints one line for each variant: how the causes were named, and what was told before their onset or of health.
"""

# ruff: noqa: PLR2004  (wells are drawn with numbers)

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from types import MappingProxyType
from typing import Any, Final

from confusion import OPPOSITES, TREE, Outcome, outcome, report
from lives import CAUSES, FieldWell, Life, draw_life
from physics import DAY_S, HOUR_S

from esp_ingestd.core.reading import Reading
from esp_ingestd.core.tree import Tree
from esp_ingestd.core.well import WellSettings
from esp_ingestd.simulator.design import WATT_PER_BBLD_PSI, PumpDesign, WellDesign
from esp_ingestd.simulator.faults import Fault
from esp_ingestd.simulator.physics import Well

Read = Callable[[Reading, float], Reading]
WHOLE: Final = ("flow_rate", "pip", "motor_current", "motor_temp", "discharge_pressure", "wellhead_pressure", "torque")


def other_design(design: WellDesign, dice: Random) -> WellDesign:
    """Another pump, motor and annulus around the same operating point."""
    between, flow, head = dice.uniform, design.flow_bpd, design.head_psi
    speed = design.hz / design.pump.base_hz
    rise, rest, bend = between(0.15, 0.7), between(0.35, 0.75), between(-0.4, 0.05)
    best = flow / (speed * between(0.8, 1.15))
    head_best = head / (speed**2 * (1 + rise) - rise * (flow / best) ** 2)
    pump = PumpDesign(
        base_hz=design.pump.base_hz,
        bep_bpd=best,
        shutoff_psi=head_best * (1 + rise),
        head_k=head_best * rise / best**2,
        power_bep_w=WATT_PER_BBLD_PSI * best * head_best / between(0.5, 0.72),
        power_shutoff=rest,
        power_linear=1 - rest - bend,
        power_square=bend,
        gas_limit=between(0.1, 0.4),
        gas_floor=between(0.2, 0.55),
    )
    torque, warming = pump.torque_nm(flow, design.hz), between(8, 40)
    motor = replace(
        design.motor,
        rated_torque_nm=torque / between(0.55, 0.95),
        nameplate_a=round(between(15, 120), 1),
        no_load=between(0.22, 0.5),
        warming_k=warming,
        thermal_s=warming * 60 / between(0.4, 0.9),
        still_cooling=between(0.1, 0.4),
        trip_c=design.intake_c + warming + between(35, 70),
    )
    choke_k = design.choke_k * between(0.3, 3)
    return replace(
        design,
        pump=pump,
        motor=motor,
        current_a=motor.current_a(torque),
        storage_bbl_per_psi=design.storage_bbl_per_psi * between(0.3, 3),
        bubble_point_psi=design.pip_psi * between(1.5, 6),
        choke_k=choke_k,
        static_psi=design.pip_psi + head - design.line_psi - (choke_k + design.line_k + design.friction_k) * flow**2,
        valve_below_gauge=dice.random() < 0.3,
        load_wander=between(0.0, 0.05),
        inflow_wander=between(0.0, 0.03),
    )


def without(*names: str) -> Read:
    """Instruments that such a well does not have."""
    absent: Any = dict.fromkeys(names)
    return lambda reading, _at_s: reading._replace(**absent)


def whole_numbers(reading: Reading, _at_s: float) -> Reading:
    """An RTU that sends integers, a gauge that resolves 0.1 g and a degree."""
    values: dict[str, Any] = {}
    for name in (*WHOLE, "casing_pressure", "gor", "intake_temp", "vsd_frequency"):
        value = getattr(reading, name)
        values[name] = None if value is None else float(round(value))
    shake = reading.vibration
    return reading._replace(**values, vibration=None if shake is None else round(shake, 1))


def by_day(reading: Reading, at_s: float) -> Reading:
    """Sun on the wellhead and the gauge's electronics."""
    sun = math.sin(2 * math.pi * at_s / DAY_S)
    shares = {"wellhead_pressure": 0.06, "casing_pressure": 0.10, "flow_rate": -0.03}
    values: dict[str, Any] = {name: getattr(reading, name) for name in shares}
    values = {name: None if value is None else value * (1 + shares[name] * sun) for name, value in values.items()}
    degrees = {name: getattr(reading, name) for name in ("motor_temp", "intake_temp")}
    values |= {name: None if value is None else value + 2.5 * sun for name, value in degrees.items()}
    return reading._replace(**values)


class Variant(FieldWell):
    """A well of the field of other make; `kind` names what else is unusual."""

    def __init__(self, life: Life, kind: str) -> None:
        dice = Random(f"{life.seed}/{kind}")  # noqa: S311  (repeatable)
        life.noise *= {"noisy": dice.uniform(2, 4), "quiet": 0.1}.get(kind, 1.0)
        if kind == "operator":
            life.speeds = [(day * DAY_S, dice.choice((-3, -2, 2, 3))) for day in range(1, int(life.end_s / DAY_S), 2)]
        super().__init__(life)
        design = other_design(self.rtu.well.design, dice)
        self.rtu.well, self._hertz = Well(design), design.hz
        self.settings = WellSettings(
            nameplate_current_a=design.motor.nameplate_a,
            trip_temperature_c=design.motor.trip_c,
            base_frequency_hz=design.pump.base_hz,
        )
        self._read = READS.get(kind)
        self.rtu.faults[:0] = [
            Fault(name, at_s=at_s, severity=share, ramp_s=s) for name, at_s, share, s in habits(kind)
        ]

    def go(self, at_s: float, step_s: float) -> Reading | None:
        """Live for a step."""
        reading = super().go(at_s, step_s)
        return reading if reading is None or self._read is None else self._read(reading, at_s)


def habits(kind: str) -> Sequence[tuple[str, float, float, float]]:
    """What goes on at such a well all its life, as (cause, from, severity, ramp in s), and is no fault."""
    if kind == "cyclic":
        return [("planned_stop", hour * HOUR_S, 1.0, 0.0) for hour in range(8, 24 * 40, 10)]
    if kind == "choke":
        return [("deadhead", day * DAY_S, 0.08 * (1 + day % 3), 60.0) for day in range(2, 40, 3)]
    return [("pump_off", 0.0, 0.2, 30 * DAY_S)] if kind == "decline" else []


READS: Final[Mapping[str, Read]] = MappingProxyType(
    {
        "integers": whole_numbers,
        "day and night": by_day,
        "gauge only": without(
            "vibration", "wellhead_pressure", "casing_pressure", "torque", "gor", "current_unbalance",
            "voltage_unbalance", "insulation_resistance", "intake_temp", "flow_variance",
        ),
        "no flow meter": without("flow_rate", "flow_variance", "vibration", "torque", "gor"),
        "no discharge": without("discharge_pressure", "torque"),
        "no drive": without("vsd_frequency"),
    }
)  # fmt: skip
VARIANTS: Final = ("curves", "noisy", "quiet", "operator", "choke", "cyclic", "decline", *READS)


def row(kind: str, outcomes: Sequence[Outcome]) -> str:
    """One line of the table."""
    ill = [o for o in outcomes if o.life.cause.right]
    false = [name for o in outcomes for name in (*o.early, *(() if o.life.cause.right else o.told))]
    taken = [name for o in ill for name in o.told if name in OPPOSITES.values() and name not in o.life.cause.right]
    cells = (
        kind,
        f"{len(ill)}",
        f"{sum(o.in_time for o in ill)}",
        f"{sum(o.first in o.life.cause.right for o in ill)}",
        ", ".join(taken),
        f"{sum(o.healthy_days for o in outcomes):.0f}",
        ", ".join(false),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--wells", type=int, default=6, help="wells a cause and variant (6)")
    parser.add_argument("--seed", default="1", help="another one draws other wells (1)")
    parser.add_argument("--of", action="append", choices=VARIANTS, help="variants (all)")
    parser.add_argument("cause", nargs="*", help=f"of: {', '.join(CAUSES)}")
    asked = parser.parse_args()
    tree = Tree.parse(TREE.read_text())
    print(f"{asked.wells} wells a cause, seed {asked.seed}, tree {tree.version}\n")
    print(
        "| variant | wells with a cause | in time | first name right | opposites told | well-days of health | alarms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in asked.of or VARIANTS:
        outcomes: list[Outcome] = []
        for name in asked.cause:
            lives = [draw_life("field", name, number, asked.seed, CAUSES) for number in range(asked.wells)]
            of_cause = [outcome(tree, life, Variant(life, kind)) for life in lives]
            report(f"{kind}, {name}", of_cause)
            outcomes += of_cause
        print(row(kind, outcomes), flush=True)


if __name__ == "__main__":
    main()
