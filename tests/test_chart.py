"""Charts: what can be seen in them."""

from __future__ import annotations

import pytest

from esp_ingestd.chart import LINES, Span, draw

S = 1_000_000
BLANK = "\u2800"


def plot(spans: list[Span], width: int = 51) -> tuple[str, list[str], str]:
    """Heading, rows without their labels, and the axis, of 40 characters, which are 80 dots, a second each."""
    head, *rows, axis = draw("pip, psi", spans, 0, 80 * S, width)
    return head, [row.partition("┤")[2].ljust(40, BLANK) for row in rows], axis


def test_a_spike_of_one_sample_is_seen() -> None:
    spans = [Span(second * S, 10.0, 10.0, 10.0) for second in range(80)]
    spans[40] = Span(40 * S, 100.0, 100.0, 100.0)
    head, rows, _ = plot(spans)
    assert head == "pip, psi: least 10, mean 11.1, greatest 100.0"
    assert [each for each, character in enumerate(rows[0]) if character != BLANK] == [20]
    assert all(character != BLANK for place, character in enumerate(rows[-1]) if place != 20)


def test_the_band_of_a_rollup_is_drawn_whole() -> None:
    _, rows, _ = plot([Span(0, 0.0, 5.0, 10.0), Span(40 * S, 5.0, 5.0, 5.0)])
    assert [row[0] != BLANK for row in rows] == [True] * LINES


def test_a_value_holds_until_the_next_but_a_gap_stays_one() -> None:
    spans = [Span(second * S, 1.0, 1.0, 1.0) for second in (*range(0, 20, 4), *range(60, 80, 4))]
    _, rows, _ = plot(spans)
    drawn = [character != BLANK for character in rows[-1]]
    assert all(drawn[:8])
    assert not any(drawn[9:30])
    assert all(drawn[30:38])


@pytest.mark.parametrize("value", [0.0, -5.0, 1e6])
def test_a_constant_is_a_line(value: float) -> None:
    _, rows, axis = plot([Span(0, value, value, value), Span(79 * S, value, value, value)])
    assert sum(character != BLANK for row in rows for character in row) == 40
    assert axis.split() == ["1970-01-01", "00:00Z", "1970-01-01", "00:01Z"]


@pytest.mark.parametrize("width", [1, 20, 80, 160])
def test_it_keeps_to_its_width(width: int) -> None:
    lines = draw("x", [Span(0, 1.0, 1.0, 2.0), Span(S, 3.0, 3.0, 3.0)], 0, S, width)
    assert max(map(len, lines[1:-1])) <= max(width, 13)
