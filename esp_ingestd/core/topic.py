"""Topics: which to subscribe to, and which well a delivery's topic names."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

_CAPTURES: Final = ("{well_id}", "{field}")
_SHARED_LEVELS: Final = 3  # $share/{group}/{filter} at the least


class TopicPattern:
    """One of `mqtt.topics`: {well_id} and {field} capture one level each, + and # are MQTT's, the rest is literal."""

    def __init__(self, pattern: str) -> None:
        """Compile `pattern`.

        Raises:
            ValueError: it is no topic filter; the text says why.
        """
        levels = pattern.split("/")
        _check(pattern, levels)
        self.subscription = "/".join("+" if level in _CAPTURES else level for level in levels)
        if levels[0] == "$share":  # the broker takes `$share/{group}/` off before it delivers
            levels = levels[2:]
        regex = "/".join(map(_regex, levels))
        # MQTT 5 section 4.7.1.2: # also matches its parent level.
        self._regex = re.compile(regex.removesuffix("/.*") + "(?:/.*)?" if regex.endswith("/.*") else regex, re.DOTALL)

    def match(self, topic: str) -> Mapping[str, str] | None:
        """The captured levels, or None where the topic is not of this pattern."""
        found = self._regex.fullmatch(topic)
        return found.groupdict() if found else None


def _regex(level: str) -> str:
    if level in _CAPTURES:
        return f"(?P<{level[1:-1]}>[^/]*)"
    return {"+": "[^/]*", "#": ".*"}.get(level, re.escape(level))


def _check(pattern: str, levels: Sequence[str]) -> None:
    if not pattern or "\0" in pattern:
        raise ValueError("a topic must not be empty nor hold NUL")
    if levels[0] == "$share" and (len(levels) < _SHARED_LEVELS or not levels[1]):
        raise ValueError("a shared subscription is $share/GROUP/TOPIC")
    for number, level in enumerate(levels):
        if level == "#" and number != len(levels) - 1:
            raise ValueError("# may only be the last level")
        if level not in {*_CAPTURES, "+", "#"} and re.search(r"[+#{}]", level):
            raise ValueError(f"{level!r}: {{well_id}}, {{field}}, + and # each stand alone in a level")
    for capture in _CAPTURES:
        if levels.count(capture) > 1:
            raise ValueError(f"{capture} may stand in one level only")
