"""Charts for a terminal: for each column of dots the band from the least to the greatest value in that time.

A library would bring much that is not needed, and none draws bands: the mean of a spike of one sample is no spike, and
spikes are what people look for. Braille characters hold two by four dots each.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple

from esp_ingestd.core.reading import to_datetime

LINES: Final = 6
GAP_STEPS: Final = 3  # the usual step between values, so many times, is a gap
_DOTS_HIGH: Final = 4
_DOTS_WIDE: Final = 2
_BLANK: Final = 0x2800
_BITS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column, then from the top: Unicode, Braille
_LABEL: Final = 9


class Span(NamedTuple):
    """What was measured at a time, or from it on: least, mean and greatest value."""

    time_us: int
    low: float
    mean: float
    high: float


def draw(title: str, spans: Sequence[Span], since_us: int, until_us: int, width: int) -> list[str]:
    """The lines of a chart.

    Args:
        title: what is shown, with its unit.
        spans: at least one, by time, each within the period.
        since_us: where the chart begins, microseconds since 1970 UTC.
        until_us: where it ends.
        width: characters of a line.
    """
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    mean = sum(span.mean for span in spans) / len(spans)
    columns = max(width - _LABEL - 2, 1) * _DOTS_WIDE
    bands = _bands(spans, since_us, max(until_us - since_us, 1), columns)
    rows = _rows(bands, low, high)
    labels = [_number(high), *[""] * (LINES - 2), _number(low)]
    lines = [f"{label:>{_LABEL}} ┤{row}".rstrip() for label, row in zip(labels, rows, strict=True)]
    head = f"{title}: least {_number(low)}, mean {_number(mean)}, greatest {_number(high)}"
    begin, end = (_moment(to_datetime(each)) for each in (since_us, until_us))
    axis = " " * (_LABEL + 2) + begin + end.rjust(columns // _DOTS_WIDE - len(begin))
    return [head, *lines, axis]


def _bands(spans: Sequence[Span], since_us: int, length_us: int, columns: int) -> list[tuple[float, float] | None]:
    """For each column of dots the least and the greatest value; None where nothing was measured.

    A value holds until the next one, unless that is long in coming: a gap stays one.
    """
    bands: list[tuple[float, float] | None] = [None] * columns
    steps = [after.time_us - span.time_us for span, after in pairwise(spans)]
    longest_us = GAP_STEPS * sorted(steps)[len(steps) // 2] if steps else 0
    for span, step_us in zip(spans, [*steps, 0], strict=True):
        first, last = (
            min(max((moment_us - since_us) * columns // length_us, 0), columns - 1)
            for moment_us in (span.time_us, span.time_us + (step_us - 1 if 0 < step_us <= longest_us else 0))
        )
        for place in range(first, last + 1):
            low, high = bands[place] or (span.low, span.high)
            bands[place] = min(low, span.low), max(high, span.high)
    return bands


def _rows(bands: Sequence[tuple[float, float] | None], low: float, high: float) -> list[str]:
    """The dots as text, from the top line down."""
    steps = LINES * _DOTS_HIGH - 1
    scale = steps / (high - low) if high > low else 0.0
    cells = [[_BLANK] * (len(bands) // _DOTS_WIDE) for _ in range(LINES)]
    for column, band in enumerate(bands):
        if band is None:
            continue
        top, bottom = (steps - round((value - low) * scale) for value in (band[1], band[0]))
        for dot in range(top, bottom + 1):
            line, place = divmod(dot, _DOTS_HIGH)
            cells[line][column // _DOTS_WIDE] |= _BITS[column % _DOTS_WIDE][place]
    return ["".join(map(chr, line)) for line in cells]


def _number(value: float) -> str:
    value += 0.0  # a sensor's -0.0 is 0
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - four digits either way


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%MZ")
