"""Diagrams in the documents, drawn from what they show, in Mermaid's language; tables of questions, terms, features.

    esp-ingestd diagram tree --into docs/decision-tree.md
    esp-ingestd diagram alarm --into docs/diagnosis.md

write one anew where it stands: in the block fenced as `mermaid`, or the table, behind its mark. A test compares, so
that none goes stale.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final, TypeVar

from esp_ingestd.core.alarm import Signal
from esp_ingestd.core.feature import FEATURES, STATES, TURNING
from esp_ingestd.core.reading import SECOND_US
from esp_ingestd.core.tree import SEVERITIES, Diagnosis, Group, Question, Tree

# Fill and border of a diagnosis, by severity; legible on light and dark pages.
_COLOURS: Final = {
    "info": ("#e8f0fe", "#4a6fa5"),
    "low": ("#e3f4e1", "#4c8c4a"),
    "medium": ("#fff4cc", "#b58900"),
    "high": ("#ffe0c2", "#c0651a"),
    "critical": ("#fbd5d5", "#b3261e"),
}
_WIDE: Final = '%%{init: {"flowchart": {"wrappingWidth": 420}}}%%'
TABLES: Final = ("questions", "terms", "features")  # those that are no pictures
_State = TypeVar("_State", bound=Enum)


def alarm_diagram(table: Mapping[tuple[_State, Signal], tuple[_State, str]]) -> str:
    """The transitions of an alarm as a Mermaid state diagram: what happens, and in bold what is told of it.

    Args:
        table: of `core.alarm`, whose first entry begins in the state in which there is no alarm.
    """
    start = next(iter(table))[0]
    arrows: dict[tuple[_State, _State], list[str]] = defaultdict(list)
    for (state, signal), (after, told) in table.items():
        arrows[state, after].append(f"{signal.value} <b>{told}</b>" if told else signal.value)
    states = dict.fromkeys(state for pair in arrows for state in pair if state is not start)
    lines = ["stateDiagram-v2", *(f'    state "{state.value}" as {state.name}' for state in states)]
    for (state, after), labels in arrows.items():
        ends = ("[*]" if each is start else each.name for each in (state, after))
        lines.append(f"    {' --> '.join(ends)}: {'<br/>'.join(labels)}")
    return "\n".join(lines) + "\n"


def tree_diagram(tree: Tree) -> str:
    """The questions of a decision tree in the order in which they precede each other, as a Mermaid flow chart."""
    lines = [_WIDE, "flowchart TB", '    reading(["a reading"]) --> state(["What does the pump do?"])']
    previous = "state"
    for group in tree.groups.values():
        lines += _group(tree, group)
        lines.append(f"    {previous} --> {group.name}")
        previous = group.name
    lines += _explained(tree)
    for severity, (fill, border) in _COLOURS.items():
        lines.append(f"    classDef {severity} fill:{fill},stroke:{border},color:#202020")
    return "\n".join(lines) + "\n"


def _group(tree: Tree, group: Group) -> Iterator[str]:
    """One group: its questions below each other, in their order, and to the right what a yes to each is called."""
    told = "the first yes is told, or a worse one" if group.exclusive else "each yes is told"
    yield f'    subgraph {group.name}["<b>{_text(group.ask)}</b> {group.name}, {told}"]'
    yield "        direction LR"
    for diagnosis in tree.diagnoses:
        if diagnosis.group == group.name:
            yield from _diagnosis(diagnosis)
    yield "    end"


def _diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    """Its questions, and what a yes to each is called."""
    latched = "<br/>latched" if diagnosis.latched else ""
    for question in diagnosis.questions:
        severity = SEVERITIES[question.severity]
        answer = f"{diagnosis.name}_{severity}"
        kept = latched if question.severity == diagnosis.severity else ""
        yield f'        q{question.index}["{_question(question)}"] -- yes --> {answer}'
        yield f'        {answer}["{diagnosis.name}<br/>{severity}{kept}"]:::{severity}'


def _explained(tree: Tree) -> Iterator[str]:
    for group in tree.groups.values():
        for other in group.yields_to:
            yield f'    {other} -. "explains what is no worse" .-> {group.name}'


def _question(question: Question) -> str:
    """What it asks, of a pump in which state, and by what conditions."""
    conditions = [_text(f"{'and ' if number else ''}{text}") for number, text in enumerate(question.when)]
    asked = "" if question.states == TURNING else f"<br/><i>{_text(_states(question.states))}</i>"
    return f"<b>{_text(question.ask)}</b>{asked}<br/>" + "<br/>".join(conditions)


def _states(states: int) -> str:
    if states == sum(STATES.values()):
        return "in every state"
    return "while " + ", ".join(name for name, bit in STATES.items() if bit & states)


def _text(text: str) -> str:
    """Text as Mermaid takes it between quotation marks."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def question_table(tree: Tree) -> str:
    """When each diagnosis is met, and how long that must stand, as a table in Markdown."""
    head = "| diagnosis | is met when | state of the pump | severity | on-delay, readings | off-delay |\n"
    rows = (_question_row(diagnosis, question) for diagnosis in tree.diagnoses for question in diagnosis.questions)
    return "".join([head, "| --- | --- | --- | --- | --- | --- |\n", *rows])


def _question_row(diagnosis: Diagnosis, question: Question) -> str:
    states = ", ".join(state for state, bit in STATES.items() if question.states & bit)
    cells = (
        diagnosis.name,
        " and ".join(f"`{condition}`" for condition in question.when),
        "turning" if question.states == TURNING else states,
        SEVERITIES[question.severity],
        f"{_lasting(question.on_delay_us)}, {question.min_samples}",
        _lasting(question.off_delay_us),
    )
    return f"| {' | '.join(cells)} |\n"


def _lasting(time_us: int) -> str:
    for unit, length_s in (("h", 3600), ("min", 60)):
        if time_us >= length_s * SECOND_US:
            return f"{time_us / (length_s * SECOND_US):g} {unit}"
    return f"{time_us / SECOND_US:g} s"


def term_table(tree: Tree) -> str:
    """The conditions that have a name, as a table in Markdown."""
    rows = (f"| `{name}` | `{text}` |\n" for name, text in tree.terms.items())
    return "".join(["| term | condition |\n| --- | --- |\n", *rows])


def feature_table() -> str:
    """What questions may ask about, as a table in Markdown: by name, in which unit, and what it is."""
    rows = (f"| `{each.name}` | {'' if each.unit == '1' else each.unit} | {each.describes} |\n" for each in FEATURES)
    return "".join(["| feature | unit | what it is |\n| --- | --- | --- |\n", *rows])


def _block(name: str) -> re.Pattern[str]:
    inside = r"()((?:\|[^\n]*\n)+)()" if name in TABLES else r"(```mermaid\n)(.*?)(```\n)"
    return re.compile(rf"(<!-- esp-ingestd diagram {name}\b[^>]*-->\n+){inside}", re.DOTALL)


def drawn(page: str, name: str) -> str | None:
    """The diagram of this name that a page holds; None if it has no place for it."""
    found = _block(name).search(page)
    return found[3] if found else None


def redraw(page: str, name: str, diagram: str) -> str:
    """The page with this diagram in its place.

    Raises:
        ValueError: the page has no place for it.
    """
    if drawn(page, name) is None:
        what = "table" if name in TABLES else "block fenced as mermaid"
        raise ValueError(f"no {what} behind `<!-- esp-ingestd diagram {name} -->`")
    return _block(name).sub(lambda found: found[1] + found[2] + diagram + found[4], page)
