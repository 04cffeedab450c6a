"""Moments and ages as people give and read them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from esp_ingestd.core.reading import to_iso
from esp_ingestd.moment import to_moment_us, to_words

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND_US = 1_000_000


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", "2026-03-01T11:58:30Z"),
        ("30m", "2026-03-01T11:30:00Z"),
        ("12h", "2026-03-01T00:00:00Z"),
        ("7d", "2026-02-22T12:00:00Z"),
        ("2026-02-28", "2026-02-28T00:00:00Z"),
        ("2026-02-28T10:00:00+02:00", "2026-02-28T08:00:00Z"),
    ],
)
def test_ages_and_iso(text: str, moment: str) -> None:
    assert to_iso(to_moment_us("--since", text, NOW)) == moment


@pytest.mark.parametrize("text", ["soon", "", "-3d", "7 d", "7w", "999999999d", "999999d", "2026-02-30"])
def test_nonsense_is_refused_by_the_name_of_its_option(text: str) -> None:
    with pytest.raises(ValueError, match=f"^--until {text}: allowed are ISO 8601 and ages such as"):
        to_moment_us("--until", text, NOW)


@pytest.mark.parametrize(
    ("age_s", "words"),
    [
        (0, "0 s"),
        (41, "41 s"),
        (60, "1 min"),
        (3_599, "59 min"),
        (7_500, "2 h 5 min"),
        (7_200, "2 h"),
        (90_000, "1 d 1 h"),
        (12 * 86_400 + 3_600, "12 d"),
        (-180, "in 3 min"),
    ],
)
def test_ages_in_words(age_s: int, words: str) -> None:
    assert to_words(age_s * SECOND_US) == words
