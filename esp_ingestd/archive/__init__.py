"""The archive: each closed UTC day of a table as a Parquet file with a manifest; nothing is dropped that is not there.

    table --COPY--> rows of a day --+--> Parquet file --> read back --> manifest --> archived_days --> drop
    old file of that day -----------+

Rules:
    1. A day in the archive is what its manifest says: the manifest names one file, with its hash, and is written last.
       A file that no manifest names is nothing. A new file has a new name, so that the old pair stays whole until the
       new manifest is in its place.
    2. The archive forgets nothing. A day that is archived again is the old file and the rows of the database together;
       a key that both have counts as it was received first. So late rows that come after a drop are added to what was
       dropped, and do not replace it.
    3. What this database held when a day was archived is noted as count and fingerprint, taken in the snapshot that
       was written. Retention drops a day only while the database still holds exactly that, looked at under a lock.
    4. One works at a time: all of them hold the same advisory lock of the database.

`tables` says what is archived, `form` how rows look in a file, `merge` what two versions of a day are together, `place`
where files are, `ledger` what the database knows; `archiving`, `retention` and `restoring` are what can be done.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from esp_ingestd.config import mask_url

NEEDED: Final = ("pyarrow", "numpy", "fsspec")
ADAPTERS: Final = {
    "s3": ("archive-s3", "s3fs"),
    "s3a": ("archive-s3", "s3fs"),
    "az": ("archive-azure", "adlfs"),
    "abfs": ("archive-azure", "adlfs"),
    "abfss": ("archive-azure", "adlfs"),
    "gs": ("archive-gcs", "gcsfs"),
    "gcs": ("archive-gcs", "gcsfs"),
}
"""Scheme of a URL -> our extra for it, and the module that comes with that."""


class ArchiveError(Exception):
    """Something of the archive cannot be done.

    Attributes:
        faults: one plain line each.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Busy(ArchiveError):  # noqa: N818 - a state of the other side, as Unavailable
    """Another one is at work on the archive of this database."""


class Outcome(StrEnum):
    """What became of a day."""

    ARCHIVED = "archived"
    MERGED = "merged"
    VERIFIED = "verified"
    DROPPED = "dropped"
    KEPT = "kept"
    RESTORED = "restored"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DayResult:
    """What became of one day of one table."""

    table: str
    day: date
    """The day, or the first of those that are dropped or kept together."""
    rows: int
    what: Outcome
    why: str = ""
    """One plain line; empty where there is nothing to say."""

    def __str__(self) -> str:
        return f"{self.table} {self.day}: {self.what}, {self.rows} rows" + (f": {self.why}" if self.why else "")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the days that were looked at."""

    days: Sequence[DayResult]

    def of(self, what: Outcome) -> list[DayResult]:
        """Those of which this became."""
        return [each for each in self.days if each.what is what]

    @property
    def faults(self) -> list[str]:
        """A line for each that failed."""
        return [f"{each.table} {each.day}: {each.why}" for each in self.of(Outcome.FAILED)]


class Pace:
    """How hard the database is worked: between two blocks of rows it rests, for some time, and then no more.

    So a day or two are archived beside ingest without its noticing; who is far behind catches up.
    """

    def __init__(self, rest: float = 0.0, for_s: float = 0.0) -> None:
        """Begin.

        Args:
            rest: how long, times that which the block took.
            for_s: s from now on.
        """
        self._rest = rest
        self._began = time.monotonic()
        self._until = self._began + for_s

    async def pause(self) -> None:
        """A block is through; come back when the next may begin."""
        now = time.monotonic()
        if now < self._until:
            await asyncio.sleep(self._rest * (now - self._began))
        self._began = time.monotonic()


def require_extra(url: str) -> None:
    """See that what an archive there needs is installed.

    Raises:
        ArchiveError: it is not; says what to install.
    """
    extra, adapter = ADAPTERS.get(urlsplit(url).scheme, ("archive", "fsspec"))
    if not all(map(find_spec, (*NEEDED, adapter))):
        where = f"archive.url {mask_url(url)}" if url else "the archive"
        raise ArchiveError(f"{where} needs the extra {extra}: pip install 'esp-ingestd[{extra}]'")
