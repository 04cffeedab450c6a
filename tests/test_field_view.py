"""What the demo shows of figures and alarms that are known here."""

from math import inf, isnan
from typing import Any

import pytest
from prometheus_client import generate_latest
from rich.console import Console

from esp_ingestd.core.decode import Reason
from esp_ingestd.field_view import Alarms, FieldView, Figures, Meter, bound_s, describe
from esp_ingestd.simulator import Fault, Field
from esp_ingestd.telemetry import Metrics

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000


def event(number: int = 1, transition: str = "raised", state: str = "active", **other: object) -> dict[str, Any]:
    return {
        "event_id": f"event {number} {transition}",
        "alarm_id": f"alarm {number}",
        "well_id": "WELL-002",
        "timestamp": "2023-11-14T22:13:20Z",
        "transition": transition,
        "reason": "returned" if transition == "cleared" else "",
        "state": state,
        "diagnosis": "OVERLOAD",
        "severity": "high",
        "priority": 3,
        "message": "The motor draws 1.20 times its nameplate current.",
        "recurring": False,
        "count": 1,
        **other,
    }


def view(wells: int = 3) -> FieldView:
    field = Field(wells, start_us=START_US, interval_s=1.0)
    shown = FieldView(
        well_ids=field.well_ids,
        faults=[Fault("overload", well=2, at_s=0.0, duration_s=60.0)],
        start_us=START_US,
        speed=60.0,
        edition="postgresql",
        places=[("metrics", "http://127.0.0.1:9464/metrics"), ("health", "/health"), ("to end", "Ctrl-C")],
    )
    for well_id, payload in field.step():
        shown.heard(well_id, payload, START_US)
    return shown


def render(shown: FieldView, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(shown)
    return capture.get().splitlines()


def test_figures_are_what_metrics_says() -> None:
    metrics = Metrics()
    metrics.readings_received.inc(7)
    metrics.readings_recovered.inc(1)
    metrics.readings_stored.inc(4)
    metrics.readings_duplicate.inc(1)
    metrics.readings_rejected.labels(Reason.NOT_JSON.value).inc(2)
    metrics.reading_delay.observe([START_US - 40_000] * 4, START_US)
    figures = Figures.parse(generate_latest(metrics.registry).decode())
    assert (figures.received, figures.stored, figures.duplicate, figures.rejected) == (8, 4, 1, 2)
    assert figures.settled == 7
    assert bound_s(0.99, Figures(), figures) == 0.05


def test_delay_is_the_bound_that_the_share_stayed_below() -> None:
    before = Figures(delays=((0.1, 10), (0.25, 10), (inf, 10)))
    after = Figures(delays=((0.1, 108), (0.25, 110), (inf, 110)))
    assert bound_s(0.98, before, after) == 0.1
    assert bound_s(0.99, before, after) == 0.25
    assert isnan(bound_s(0.99, after, after))


def test_rates_are_over_the_last_seconds() -> None:
    meter = Meter()
    assert meter.per_s("stored") == 0
    for second in range(20):
        meter.take(second, Figures(stored=10 * second * second))
    # Between second 14 and second 19, or thereabouts: nothing of the slow beginning is left in it.
    assert 300 <= meter.per_s("stored") <= 340
    assert meter.figures.stored == 3610


def test_alarm_stands_from_raised_to_cleared_and_a_repeated_event_counts_once() -> None:
    alarms = Alarms()
    assert alarms.take(event())
    assert not alarms.take(event())
    assert alarms.raised == {"OVERLOAD": 1}
    assert [each["diagnosis"] for each in alarms.of("WELL-002")] == ["OVERLOAD"]
    assert list(alarms.by_severity()) == [("high", 1)]
    assert alarms.take(event(transition="cleared", state="cleared"))
    assert alarms.of("WELL-002") == []
    assert alarms.raised == {"OVERLOAD": 1}


def test_worst_alarm_of_a_well_comes_first() -> None:
    alarms = Alarms()
    alarms.take(event(1))
    alarms.take(event(2, diagnosis="STALL", severity="critical", priority=4))
    assert [each["diagnosis"] for each in alarms.of("WELL-002")] == ["STALL", "OVERLOAD"]


def test_screen_shows_wells_alarms_and_what_is_away() -> None:
    shown = view()
    shown.alarms.take(event())
    shown.health = {"broker": "", "database": "connection refused"}
    screen = render(shown, 120, 40)
    row = next(line for line in screen if "WELL-002" in line)
    assert "running" in row
    assert "OVERLOAD" in row
    assert row.rstrip().endswith("overload")
    assert any("database is away" in line for line in screen)
    assert any("raised" in line and "The motor draws 1.20 times" in line for line in screen)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (120, 40), (200, 60)])
@pytest.mark.parametrize("wells", [1, 12, 200])
def test_screen_fits_the_terminal_and_keeps_its_last_line(width: int, height: int, wells: int) -> None:
    shown = view(wells)
    for number in range(30):
        shown.alarms.take(event(number, well_id=shown.well_ids[number % wells]))
    screen = render(shown, width, height)
    assert len(screen) <= height
    assert max(map(len, screen)) <= width
    assert screen[-1].split() == ["to", "end", "Ctrl-C"]


def test_the_longest_name_of_an_alarm_has_room_on_the_smallest_terminal() -> None:
    shown = view()
    shown.alarms.take(event(diagnosis="FLOWLINE_RESTRICTION"))
    assert any(line.startswith(" WELL-002") and "FLOWLINE_RESTRICTION" in line for line in render(shown, 80, 24))


def test_wells_in_alarm_come_first_where_not_all_have_room() -> None:
    shown = view(200)
    shown.alarms.take(event(well_id="WELL-177"))
    screen = render(shown, 120, 40)
    assert next(line for line in screen if line.startswith(" WELL-")).startswith(" WELL-177")
    assert any("more wells" in line for line in screen)


def test_alarm_that_keeps_coming_back_says_how_often() -> None:
    shown = view()
    shown.alarms.take(event(recurring=True, count=3))
    assert any(line.startswith(" WELL-002") and "OVERLOAD x3" in line for line in render(shown, 120, 40))


def test_silent_well_is_said_to_be_silent() -> None:
    shown = view(1)
    shown.well_ids = ["WELL-001", "WELL-002"]
    assert any("WELL-002" in line and "silent" in line for line in render(shown, 120, 40))


def test_line_says_what_is_away_and_what_stands() -> None:
    shown = view()
    shown.health = {"database": "connection refused"}
    shown.alarms.take(event())
    assert "1 high" in shown.line()
    assert "database is away: connection refused" in shown.line()


def test_cleared_alarm_is_told_with_its_reason() -> None:
    cleared = event(transition="cleared", state="cleared")
    assert describe(cleared).endswith("Back to normal.")
    assert describe({**cleared, "diagnosis": "TRIP"}).endswith("The pump was started again.")
    assert "WELL-002 OVERLOAD (high)" in describe(event())
