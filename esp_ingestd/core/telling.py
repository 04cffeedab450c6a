"""What is told of a question: its answer, what it saw, how sure it is, and the message made of that."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from string import Formatter
from typing import Final

from esp_ingestd.core.feature import FEATURE_INDEX, FEATURES
from esp_ingestd.core.reading import CHANNEL_NAMES, Reading
from esp_ingestd.core.tree import Diagnosis, Question

RELATIVE: Final = ("_ratio", "_mean", "_hour", "_reference")
"""What a feature's name ends in that stands for a channel set against its normal."""
ESSENTIAL: Final = frozenset({"flow", "head"})
"""Without them a diagnosis is made with a part of what it needs."""

OPTIONAL: Final = re.compile(r"\[([^\[\]]*)\]")
"""A part of a message that is left out where a figure in it is not known."""


def answer(question: Question, features: Sequence[float]) -> str:
    """`yes`, `no`, or what is missing for an answer; `yes` names the channels that it had to do without."""
    if question.met(features):
        without = missing(question, features)
        return f"yes, without {', '.join(without)}" if without else "yes"
    if question.not_met(features):
        return "no"
    unknown = [FEATURES[i].name for i in question.asks if features[i] != features[i]]
    return f"not assessable without {', '.join(unknown)}"


def missing(question: Question, features: Sequence[float]) -> list[str]:
    """The channels that a question reads and does not know, by the first word of their features."""
    names = [FEATURES[place].name for place in question.asks if features[place] != features[place]]
    return list(dict.fromkeys(name.split("_")[0] for name in names if name.endswith(RELATIVE)))


def confidence(question: Question, features: Sequence[float], met_us: float) -> float:
    """0 to 0.9: 0.9 with all confirmers, less for each that fails, less again for what is not known.

    Args:
        question: that was met.
        features: what it saw.
        met_us: for how long it has been met; at the end of its on-delay an answer counts 95 %.

    Source: DIAGNOSIS' product of confirmers, quality and duration; the weights are a proposal of our own, to be
    confirmed in the field.
    """
    value = 0.9
    for holds, fails in question.confirms:
        if fails(features):
            value *= 0.85
        elif not holds(features):
            value *= 0.93
    value -= 0.15 * len(ESSENTIAL.intersection(missing(question, features)))
    if question.on_delay_us:
        value *= 1 - math.exp(-3 * met_us / question.on_delay_us)
    return round(value, 3)


def evidence(question: Question, features: Sequence[float]) -> dict[str, float]:
    """The features that the question looked at and that were known, by name."""
    return {
        FEATURES[place].name: round(features[place], 4)
        for place in question.features
        if features[place] == features[place]
    }


def with_units(values: Mapping[str, float]) -> Iterator[str]:
    """Features and their values, as people read them."""
    for name, value in values.items():
        unit = FEATURES[FEATURE_INDEX[name]].unit
        yield f"{name} {value:g}" if unit == "1" else f"{name} {value:g} {unit}"


def message(diagnosis: Diagnosis, question: Question, features: Sequence[float], channels: str) -> str:
    """The question's text, or its diagnosis's, with features and the channels that cannot be trusted filled in.

    What stands in [brackets] is left out where a feature in it is not known.
    """
    figures: dict[str, object] = {FEATURES[place].name: _Figure(value) for place, value in enumerate(features)}
    figures["channels"] = channels or "none"
    return OPTIONAL.sub(partial(_if_known, figures), question.message or diagnosis.message).format_map(figures)


def _if_known(figures: Mapping[str, object], part: re.Match[str]) -> str:
    """A part of a message in brackets, without them; empty where a figure in it is not known."""
    named = [name for _, name, _, _ in Formatter().parse(part[1]) if name]
    return part[1] if all(figures[name] == figures[name] for name in named) else ""


class _Figure(float):
    """A float that says in words when it is not known."""

    def __format__(self, spec: str) -> str:
        return "?" if self != self else super().__format__(spec)  # noqa: PLR0124  (NaN)


def snapshot(reading: Reading) -> dict[str, object]:
    """The channels of a reading that it has, as JSON values."""
    values = dict(zip(CHANNEL_NAMES, reading[2:], strict=False))
    return {name: value for name, value in values.items() if value is not None}
