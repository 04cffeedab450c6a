"""Moments as people name them on the command line."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from esp_ingestd.core.reading import to_microseconds

_AGE: Final = re.compile(r"(\d{1,6})([smhd])")
_AGE_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


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
