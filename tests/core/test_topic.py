from __future__ import annotations

import pytest

from esp_ingestd.core.topic import TopicPattern


@pytest.mark.parametrize(
    ("pattern", "subscription", "topic", "captured"),
    [
        ("esp/{well_id}/telemetry", "esp/+/telemetry", "esp/W-1/telemetry", {"well_id": "W-1"}),
        ("{field}/{well_id}", "+/+", "north/W1", {"field": "north", "well_id": "W1"}),
        ("a/+/{well_id}/#", "a/+/+/#", "a/b/W1/c/d", {"well_id": "W1"}),
        ("a/{well_id}/#", "a/+/#", "a/W1", {"well_id": "W1"}),
        ("#", "#", "any/thing", {}),
        ("$share/pool/esp/{well_id}", "$share/pool/esp/+", "esp/W1", {"well_id": "W1"}),
        ("esp/a.b", "esp/a.b", "esp/a.b", {}),
    ],
)
def test_patterns(pattern: str, subscription: str, topic: str, captured: dict[str, str]) -> None:
    compiled = TopicPattern(pattern)
    assert compiled.subscription == subscription
    assert compiled.match(topic) == captured


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("esp/{well_id}/telemetry", "esp/W1/other"),
        ("esp/{well_id}/telemetry", "esp/W1/x/telemetry"),
        ("esp/a.b", "esp/axb"),
        ("a/{well_id}/#", "a"),
    ],
)
def test_other_topics_do_not_match(pattern: str, topic: str) -> None:
    assert TopicPattern(pattern).match(topic) is None


@pytest.mark.parametrize(
    "pattern",
    ["", "a\0b", "a/#/b", "a/b+", "a/{well}", "x{well_id}", "{well_id}/{well_id}", "$share/x", "$share//a", "a/b#"],
)
def test_what_is_no_filter_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        TopicPattern(pattern)
