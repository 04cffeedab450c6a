"""Which diagnosis each cause gets: simulated wells of many sizes and samplings, one cause entered in each.

python bench/confusion.py [--model bench|field] [--wells N] [--seed TEXT] [CAUSE ...]

Prints tables in Markdown: what was told of each cause, which of the opposites was ever told of which, and what was
told of wells with nothing wrong.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from lives import CAUSES, MODELS, BenchWell, FieldWell, Life, Subject, draw_life, readings_of
from physics import DAY_S, HOUR_S

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.tree import Tree
from esp_ingestd.core.well import WellSettings

OPPOSITES = {
    "gas lock": "GAS_LOCK",
    "pump-off": "PUMP_OFF",
    "broken shaft": "BROKEN_SHAFT",
    "closed choke": "DEADHEAD",
    "planned stop": "TRIP",
}
"""Causes that must never be taken for each other, and the name of each; a planned stop has none, TRIP least of all."""
TREE = Path(__file__).parents[1] / "config" / "decision_tree.toml"


@dataclass(slots=True)
class Outcome:
    """What was told of one life."""

    life: Life
    told: list[str] = field(default_factory=list)
    """After the onset, in order; without what is true besides."""
    early: list[str] = field(default_factory=list)
    """Before the onset."""
    right_h: float = math.nan
    """Hours from the onset to the right name."""
    first_h: float = math.nan
    """Hours from the onset to the first name."""
    first: str = "-"
    event: AlarmEvent | None = None
    """That of the first name."""
    allowed_h: float = math.inf
    healthy_days: float = 0.0

    @property
    def in_time(self) -> bool:
        """The right name was told before the time allowed was over."""
        return self.right_h <= self.allowed_h


def subject_of(life: Life) -> Subject:
    """A well of the life's model."""
    return BenchWell(life) if life.model == "bench" else FieldWell(life)


def outcome(tree: Tree, life: Life, subject: Subject | None = None) -> Outcome:
    """Live one life under diagnosis, as a well of its model or as `subject`."""
    cause, subject = life.cause, subject or subject_of(life)
    settings = WellSettings() if life.unlisted else subject.settings
    diagnostician = Diagnostician(tree, lambda _: settings)
    result = Outcome(life, healthy_days=(life.onset_s if cause.right else life.end_s) / DAY_S)
    delays = [q.on_delay_us for d in tree.diagnoses if d.name in cause.right for q in d.questions]
    result.allowed_h = cause.allows_h(life) + max(delays, default=0) / 3.6e9
    for at_s, reading in readings_of(life, subject):
        for event in diagnostician.observe(reading):
            if event.transition == "raised":
                _tell(result, event, (at_s - life.onset_s) / HOUR_S)
    return result


def _tell(result: Outcome, event: AlarmEvent, since_h: float) -> None:
    cause = result.life.cause
    if since_h < 0:
        result.early.append(event.diagnosis)
        return
    if event.diagnosis in cause.besides:
        return
    result.told.append(event.diagnosis)
    if result.first == "-":
        result.first, result.first_h, result.event = event.diagnosis, since_h, event
    if event.diagnosis in cause.right and math.isnan(result.right_h):
        result.right_h = since_h


def row(cause: str, outcomes: Sequence[Outcome]) -> str:
    """One line of the table of causes."""
    right = outcomes[0].life.cause.right
    firsts = Counter(o.first for o in outcomes)
    besides = Counter(name for o in outcomes for name in set(o.told) - {o.first})
    hours = sorted(o.right_h for o in outcomes if not math.isnan(o.right_h))
    cells = (
        cause,
        f"{len(outcomes)}",
        f"{len(hours)}",
        f"{sum(o.in_time for o in outcomes)}",
        f"{sum(o.first in right for o in outcomes)}",
        f"{median(hours):.1f}" if hours else "",
        f"{hours[math.ceil(0.9 * len(hours)) - 1]:.1f}" if hours else "",
        _listed(firsts),
        _listed(besides),
    )
    return f"| {' | '.join(cells)} |"


def _listed(names: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in names.most_common())


def healthy_row(label: str, days: float, names: Sequence[str]) -> str:
    """One line of the table of false alarms."""
    return f"| {label} | {days:.0f} | {len(names)} | {30 * len(names) / days:.2f} | {_listed(Counter(names))} |"


def opposites_table(outcomes: Sequence[Outcome]) -> list[str]:
    """Of how many wells with one of the opposites each name of theirs was told at all; no lines for none."""
    of = {name: [o for o in outcomes if o.life.cause is CAUSES[name]] for name in OPPOSITES}
    rows = [
        f"| {name} | {len(lives)} | "
        + " | ".join(f"{sum(told in (*o.early, *o.told) for o in lives) or ''}" for told in OPPOSITES.values())
        + " |"
        for name, lives in of.items()
        if lives
    ]
    head = f"\n| opposites | wells | {' | '.join(OPPOSITES.values())} |\n|{' --- |' * (2 + len(OPPOSITES))}"
    return [head, *rows] if rows else []


def live(tree: Tree, model: str, causes: Sequence[str], wells: int, seed: str) -> Iterator[tuple[str, list[Outcome]]]:
    """The outcomes of each cause that the model has."""
    for name in causes:
        cause = CAUSES[name]
        if (cause.bench if model == "bench" else cause.kind) is not None:
            yield name, [outcome(tree, draw_life(model, name, number, seed, CAUSES)) for number in range(wells)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, default="field")
    parser.add_argument("--wells", type=int, default=6, help="wells a cause (6); each has the next of six samplings")
    parser.add_argument("--seed", default="1", help="another one draws other wells (1)")
    parser.add_argument("cause", nargs="*", help=f"of: {', '.join(CAUSES)}")
    asked = parser.parse_args()
    tree = Tree.parse(TREE.read_text())
    print(f"model {asked.model}, {asked.wells} wells a cause, seed {asked.seed}, tree {tree.version}\n")
    print("| cause | wells | found | in time | first name right | median, h | p90, h | told first | told besides |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    healthy = []
    all_outcomes: list[Outcome] = []
    for name, outcomes in live(tree, asked.model, asked.cause or list(CAUSES), asked.wells, asked.seed):
        all_outcomes += outcomes
        if CAUSES[name].right:
            print(row(name, outcomes), flush=True)
        else:
            told = [diagnosis for o in outcomes for diagnosis in o.early + o.told]
            healthy.append(healthy_row(name, sum(o.healthy_days for o in outcomes), told))
        report(name, outcomes)
    ill = [o for o in all_outcomes if o.life.cause.right]
    early = [diagnosis for o in ill for diagnosis in o.early]
    if ill:
        healthy.append(healthy_row("before the onset of a cause", sum(o.healthy_days for o in ill), early))
        total = len(ill)
        found, named = sum(o.in_time for o in ill), sum(o.first in o.life.cause.right for o in ill)
        print(f"| all | {total} | | {found} ({found / total:.0%}) | {named} ({named / total:.0%}) | | | | |")
    print("\n".join(opposites_table(all_outcomes)))
    print("\n| healthy life | well-days | alarms | in 30 days | told |\n| --- | --- | --- | --- | --- |")
    print("\n".join(healthy))


def report(name: str, outcomes: Sequence[Outcome]) -> None:
    """Say on standard error which lives were not as they should be, so that they can be looked at."""
    for number, o in enumerate(outcomes):
        right = o.life.cause.right
        if o.early or (right and not (o.in_time and o.first in right)) or (not right and o.told):
            life = o.life
            print(
                f"{name} {number}: {life.interval_s} s, absent {','.join(life.absent) or '-'}, pace {life.pace:.1f}, "
                f"severity {life.severity:.2f}, onset {life.onset_s / HOUR_S:.0f} h, allowed {o.allowed_h:.1f}, "
                f"right {o.right_h:.1f}, stops {len(life.stops)} speeds {len(life.speeds)}: "
                f"early {o.early} told {o.told[:6]} first {o.first_h:.1f}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
