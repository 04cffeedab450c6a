"""The pages on faults, held to the code: tests that are named exist, as do metrics and the words of the log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from esp_ingestd.database.verdict import REFUSES_ROWS, UNAVAILABLE_KINDS
from esp_ingestd.telemetry import PREFIX, Metrics

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "docs/faults.md"
OPERATIONS = ROOT / "docs/operations.md"
NO_METRICS = {
    *(
        "dead_letters",
        "diagnostic_results",
        "published_at",
        "esp_telemetry",
        "esp_ingest",
        "pg_stat_activity",
        "max_connections",
        "max_queued_messages",
        "event_id",
    ),
    *("read_only", "spool_full", "implausible_timestamp"),
}


def section(page: Path, title: str) -> str:
    """What stands under a heading."""
    return page.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_test_that_is_named_exists() -> None:
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", FAULTS.read_text()))
    assert len(named) > 30
    assert named - there == set()


@pytest.mark.parametrize(
    ("title", "numbers"),
    [("Promises", [str(each) for each in range(1, 8)]), ("Invariants", [f"I{each}" for each in range(1, 11)])],
)
def test_each_promise_and_each_invariant_has_a_test(title: str, numbers: list[str]) -> None:
    rows = re.findall(r"^\| (I?\d+) \| .* \| (.*) \|$", section(FAULTS, title), re.MULTILINE)
    assert [number for number, _ in rows] == numbers
    assert all("`test_" in held_by for _, held_by in rows)


def test_each_class_of_error_is_on_the_page_as_the_code_has_it() -> None:
    rows = re.findall(
        r"^\| (`.*`) \| .* \| (.*) \|$", section(FAULTS, "What the database says, and what it means"), re.MULTILINE
    )
    said = {code: meaning for codes, meaning in rows for code in re.findall(r"`(\w+)`", codes)}
    kinds = {code: re.findall("`([a-z_]+)`", meaning)[0] for code, meaning in said.items() if meaning != "a verdict"}
    assert kinds == UNAVAILABLE_KINDS
    verdicts = {code for code, meaning in said.items() if meaning == "a verdict"}
    assert verdicts == {code.rstrip(".") for code in REFUSES_ROWS.pattern.split("|")}


def test_what_operators_are_told_to_look_for_exists() -> None:
    text = section(OPERATIONS, "When something is wrong")
    source = "".join(file.read_text() for file in (ROOT / "esp_ingestd").glob("*.py"))
    said = set(re.findall(r"log: ((?:`[^`]+`(?:, )?)+)", text))
    lines = {line for each in said for line in re.findall(r"`([^`]+)`", each)}
    assert len(lines) > 5
    for line in lines:
        assert line in source or line.partition(" ")[2] in re.findall(r'f"\{name\} ([^"]+)"', source), line
    families = Metrics().registry.collect()
    metrics = {family.name.removeprefix(PREFIX) + "_total" * (family.type == "counter") for family in families}
    named = set(re.findall(r"`([a-z]+_[a-z_]+)(?:\{[^`]*\})?`", text))
    assert len(named & metrics) > 10
    assert named - metrics == NO_METRICS
    kinds = {kind for row in re.findall(r"kind `(\w+)`(?: or `(\w+)`)?", text) for kind in row if kind}
    assert kinds <= {*UNAVAILABLE_KINDS.values(), "timeout", "spool", "spool_full", "unkept"}
