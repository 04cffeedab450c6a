"""Moments as people name them on the command line, and ages in words."""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from esp_ingestd.core.reading import SECOND_US, to_microseconds

_AGE: Final = re.compile(r"(\d{1,6})([smhd])")
_AGE_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_WORDS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class Every(StrEnum):
    """How far apart the rows of a history are: readings themselves, or what they came to in an hour or a day."""

    RAW = "raw"
    HOURLY = "hourly"
    DAILY = "daily"


def to_moment_us(option: str, text: str, now: datetime) -> int:
    """Microseconds since 1970 UTC of what an option says: ISO 8601 (without an offset UTC), or an age such as 12h.

    Args:
        option: its name, for the message.
        text: what was given.
        now: what an age counts back from.

    Raises:
        ValueError: it is neither; the text says what is allowed.
    """
    try:
        if age := _AGE.fullmatch(text):
            return to_microseconds(now - timedelta(**{_AGE_UNITS[age[2]]: int(age[1])}))
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{option} {text}: allowed are ISO 8601 and ages such as 90s, 30m, 12h or 7d") from None
    return to_microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def to_words(age_us: int) -> str:
    """An age for people, of one or two units: `41 s`, `3 min`, `2 h 5 min`, `12 d`; `in 3 min` if it is to come."""
    if age_us < 0:
        return f"in {to_words(-age_us)}"
    age_s = age_us // SECOND_US
    for place, (size_s, unit) in enumerate(_WORDS):
        count, rest_s = divmod(age_s, size_s)
        if count:
            finer_s, finer = _WORDS[min(place + 1, len(_WORDS) - 1)]
            more = rest_s // finer_s if unit in {"d", "h"} and count < 10 else 0  # noqa: PLR2004 - 12 d say enough
            return f"{count} {unit} {more} {finer}" if more else f"{count} {unit}"
    return "0 s"
