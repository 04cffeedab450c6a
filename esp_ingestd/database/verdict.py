"""What an answer of PostgreSQL means: a verdict on a row, a reason to wait, or neither.

What the database cannot do now is Unavailable: the same call may succeed later. `REFUSES_ROWS` is the whole of what
counts as refused for good; everything else is kept and tried again.
"""

import re
import ssl
from typing import Final

import asyncpg

from esp_ingestd.errors import Unavailable, in_words

# PostgreSQL's error classes and codes (its manual, appendix A) that are a verdict on a row.
REFUSES_ROWS: Final = re.compile(
    "22...|"  # data exception: a value that the column cannot hold
    "23...|"  # integrity constraint violation: NOT NULL, CHECK, foreign key, exclusion
    "44000|"  # WITH CHECK OPTION violation
    "54...|"  # program limit exceeded: a row or a key too long
    "P0001|P0004|"  # raised or asserted by a trigger of the site's own
    "0A000"  # not supported, as TimescaleDB says of some rows for compressed chunks
)
INTERNAL_ERROR: Final = "XX000"
HINTS: Final = {"42501": "what each role may do: docs/operations.md, The database"}
UNAVAILABLE_KINDS: Final = {
    "08": "connection",
    "25": "read_only",
    "28": "authentication",
    "3D": "no_database",
    "40": "conflict",
    "42": "schema",
    "53": "resources",
    "55": "not_ready",
    "57": "shutdown",
    "58": "io",
    "XX": "internal",
}


def refuses_rows(error: BaseException) -> bool:
    """Whether the error is a verdict on a row; one of ours that no encoder takes is."""
    if isinstance(error, asyncpg.PostgresError):
        return REFUSES_ROWS.fullmatch(error.sqlstate or "") is not None
    return not isinstance(error, (asyncpg.InterfaceError, OSError))


def is_doubtful(error: BaseException) -> bool:
    """Whether the error may be a verdict on a row, or may pass."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate == INTERNAL_ERROR


def to_unavailable(error: BaseException, address: str) -> Unavailable | None:
    """What the error means to who called, or None where it is none of the database's."""
    if isinstance(error, Unavailable):
        return None
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        said = "; ".join(filter(None, (describe(error), HINTS.get(code))))
        return Unavailable(f"database {address}: {said}", kind=UNAVAILABLE_KINDS.get(code[:2], "other"))
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return Unavailable(f"database {address}: no host can be written to", kind="read_only")
    if isinstance(error, TimeoutError):
        return Unavailable(f"database {address}: no answer in time", kind="timeout")
    if isinstance(error, (OSError, ssl.SSLError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return Unavailable(f"database {address}: {in_words(error)}", kind="connection")
    return None


def describe(error: BaseException) -> str:
    """What was said, with its SQLSTATE."""
    if isinstance(error, asyncpg.PostgresError):
        detail = getattr(error, "detail", None)
        return f"{error.sqlstate} {error}" + (f" ({detail})" if detail else "")
    return f"{type(error).__name__}: {error}"
