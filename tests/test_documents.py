"""The documents as a whole: links lead somewhere, records have numbers of their own, the map shows what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECORDS = sorted((ROOT / "docs/adr").iterdir())


def anchors(page: Path) -> set[str]:
    """What a link may name of a page: its headings, as GitHub and GitLab write them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each).strip().lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        place, _, anchor = target.partition("#")
        linked = (page.parent / place).resolve() if place else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_each_record_has_a_number_of_its_own() -> None:
    numbers = [int(record.name[:4]) for record in RECORDS]
    assert numbers == [int(record.read_text().removeprefix("# ").partition(".")[0]) for record in RECORDS]
    assert numbers == list(range(1, len(RECORDS) + 1))


def test_the_map_of_the_readme_shows_what_is_there() -> None:
    map_ = (ROOT / "README.md").read_text().partition("\n## The map\n")[2]
    shown = {
        ROOT / place for row in re.findall(r"^\| (`.+?) \|", map_, re.MULTILINE) for place in re.findall("`(.+?)`", row)
    }
    named = {place if place.exists() else ROOT / "esp_ingestd" / place.name for place in shown}
    assert len(named) > 20
    assert [place for place in named if not place.exists()] == []
