"""The story of one alarm, for people: what was told of it, when, and the questions that led to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from shlex import quote
from typing import Any, Final

from esp_ingestd.answer import EVENT_COLUMNS, Answer, to_second
from esp_ingestd.core.feature import FEATURE_INDEX
from esp_ingestd.core.telling import with_units

EXPLAINED: Final = frozenset({"raised", "escalated", "cleared"})
"""Transitions to which questions lead; people make the others."""
OF_ARRIVALS: Final = frozenset({"COMM_LOSS", "CLOCK_FAULT"})
"""What when readings arrived has told: a history of readings does not."""


@dataclass(frozen=True, slots=True)
class Story:
    """The events of one alarm, oldest first, as they were published; never none."""

    events: Sequence[Mapping[str, Any]]

    @property
    def answer(self) -> Answer:
        """As rows."""
        return Answer(EVENT_COLUMNS, self.events)

    def lines(self) -> Iterator[str]:
        """In words."""
        last = self.events[-1]
        yield f"{last['diagnosis']} of {last['well_id']}, alarm {last['alarm_id']}"
        for event in self.events:
            yield ""
            yield from _lines_of(event)
        if last["state"] != "cleared":
            yield ""
            yield f"To do (resolution time: {last['resolution_time']}):"
            yield from (f"  {action}" for action in last["actions"])

    def explain(self, config: str) -> str:
        """The command that shows what every question saw when the alarm was raised; "" where none can."""
        raised = self.events[0]
        if raised["diagnosis"] in OF_ARRIVALS:
            return ""
        second = datetime.fromisoformat(raised["raised_at"]).replace(microsecond=0)
        window = f"--explain-since {_bare(second)} --until {_bare(second + timedelta(seconds=1))}"
        return f"esp-ingestd diagnose --config {quote(config)} --well {raised['well_id']} {window}"


def _lines_of(event: Mapping[str, Any]) -> Iterator[str]:
    """One event: what happened, what it says, what was asked and what the answers saw."""
    said = ": ".join(filter(None, (event["transition"], event["reason"])))
    by = f" by {event['by']}" if event["by"] else ""
    comment = f": {event['comment']}" if event["comment"] else ""
    yield f"{to_second(event['timestamp'])} {said}{by}, {event['severity']}, {event['state']}{comment}"
    if event["transition"] not in EXPLAINED or event["by"]:
        return
    if event["transition"] != "cleared":
        yield f"  {event['message']} ({event['confidence']:.0%} sure)"
    yield from (f"  {step}" for step in event["path"])
    evidence = event["evidence"]
    seen = [*with_units({name: value for name, value in evidence.items() if name in FEATURE_INDEX})]
    seen += [f"{name} {value:g}" for name, value in evidence.items() if name not in FEATURE_INDEX]
    if seen:
        yield f"  saw {', '.join(seen)}"


def _bare(moment: datetime) -> str:
    """As options take it: UTC, without an offset."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S")
