"""The few exceptions that cross a module's border. Each text says what was attempted, with what, and what to do."""

import os
import re
from collections.abc import Sequence
from typing import Final

_NUMBER: Final = re.compile(r"\[Errno (-?\d+)\] ?")


class ConfigurationError(Exception):
    """The configuration is wrong; the program ends with status 78 (EX_CONFIG) and one line a fault.

    Attributes:
        faults: one plain line each: the key with its place, its value, what is allowed.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class Unavailable(Exception):  # noqa: N818 - a state of the other side, named as operators name it
    """The other side cannot take this now; the same call may succeed later.

    Attributes:
        kind: a short word for metrics (`connection`, `timeout`, `read_only`, `disk_full`, ...).
    """

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class SchemaOutdated(Unavailable):
    """The schema is missing or older than this program: `esp-ingestd migrate` mends it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="schema")


class Refused(Exception):  # noqa: N818 - a verdict of the database
    """The database refuses this for good; asking again cannot help."""


def in_words(error: BaseException) -> str:
    """What the system says, as people know it: no number, and none of what libraries put in place of its text.

    Of an attempt at several addresses, of which asyncio tells all, the first error counts.
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = str(error) or type(error).__name__
    number = _NUMBER.search(text)
    if number is None:
        return text
    return os.strerror(int(number[1])) if int(number[1]) > 0 else _NUMBER.sub("", text)
