"""Retention: what is old enough goes, if it is in the archive as it is; and what the database knows, for metrics.

`overdue` decides nothing but dates; whether something may be dropped is looked at three times: the day is noted as
archived and verified, its file is read once more and has the hash that was noted, and `esp_drop_days` (sql/) compares
the rows with what was archived, under a lock, in the transaction that drops them.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from esp_ingestd.archive import ArchiveError, DayResult, Outcome, Report
from esp_ingestd.archive.ledger import (
    Known,
    days_between,
    drop_days,
    droppable,
    first_open_day,
    known_days,
    looking,
    present_days,
    today,
    working,
)
from esp_ingestd.archive.place import Place, fetched_whole, open_place, read_manifest
from esp_ingestd.archive.tables import DIAGNOSTICS, TABLES, TELEMETRY, Table
from esp_ingestd.config import RetentionSettings, Settings
from esp_ingestd.core.reading import to_datetime

NO_ARCHIVE: Final = "there is no archive (archive.url), and retention.require_verified_archive is true"


@dataclass(frozen=True, slots=True)
class Status:
    """How the archive stands, as the database knows it; times in microseconds since 1970 UTC."""

    archived_days: int
    archived_bytes: int
    unarchived_days: int
    """Closed days that the database has rows of and the archive has not, or not verified."""
    oldest_unarchived_day: date | None
    newest_archived_us: int | None
    newest_verified_us: int | None
    overdue_days: int
    """Days that are older than retention keeps them and are still here."""


async def retain(settings: Settings) -> Report:
    """Drop what is older than `retention` says and may be dropped; the rest is kept, and the report says why.

    Raises:
        ArchiveError: the place of the archive cannot be opened, or another run is at work on it (Busy).
        Unavailable: the database is away.
    """
    guarded = settings.retention.require_verified_archive
    place = open_place(settings.archive.url) if guarded and settings.archive.url else None
    results: list[DayResult] = []
    async with working(settings) as (session, edition):
        now = await today(session)
        for table in TABLES:
            cutoff = first_kept(settings.retention, table, now)
            present = set(await present_days(session, edition, table, cutoff))
            known = await known_days(session, table)
            for first_us, past_us in await droppable(session, edition, table, cutoff):
                days = [day for day in days_between(first_us, past_us) if day in present]
                why = await asyncio.to_thread(_why_kept, place, table, days, known) if guarded else None
                if why is None:
                    why = await drop_days(session, edition, table, first_us, past_us, guarded=guarded)
                rows = sum(max(known[day].stored.rows, 0) for day in days if day in known)
                what = Outcome.KEPT if why else Outcome.DROPPED
                results.append(DayResult(table.name, to_datetime(first_us).date(), rows, what, why or ""))
    return Report(results)


def first_kept(retention: RetentionSettings, table: Table, now: date) -> date:
    """The first day that stays in the database."""
    return now - timedelta(days={TELEMETRY: retention.telemetry_days, DIAGNOSTICS: retention.diagnostics_days}[table])


def _why_kept(place: Place | None, table: Table, days: list[date], known: Mapping[date, Known]) -> str | None:
    """Why these days may not be dropped, as far as archive and ledger say."""
    if place is None:
        return NO_ARCHIVE if days else None
    for day in days:
        if (noted := known.get(day)) is None:
            return f"{day} is not archived"
        if noted.verified_us is None:
            return f"the archive of {day} is not verified"
        try:
            manifest = read_manifest(place, table.name, day)
            if manifest.sha256 != noted.sha256:
                return f"the archive of {day} is another than was noted"
            with fetched_whole(place, manifest):
                pass
        except ArchiveError as error:
            return f"the archive of {day} is not whole: {error}"
    return None


async def status(settings: Settings) -> Status:
    """How the archive stands; asks the database alone.

    Raises:
        Unavailable: the database is away.
    """
    async with looking(settings) as (session, edition):
        past, now = await first_open_day(session, settings.archive.closes_after_s), await today(session)
        noted: list[Known] = []
        missing: list[date] = []
        overdue = 0
        for table in TABLES:
            known = await known_days(session, table)
            present = await present_days(session, edition, table, past)
            noted += known.values()
            missing += [day for day in present if not _is_safe(known.get(day))]
            cutoff = first_kept(settings.retention, table, now)
            overdue += sum(day < cutoff for day in present)
    return Status(
        archived_days=len(noted),
        archived_bytes=sum(each.size_bytes for each in noted),
        unarchived_days=len(missing),
        oldest_unarchived_day=min(missing, default=None),
        newest_archived_us=max((each.archived_us for each in noted), default=None),
        newest_verified_us=max((each.verified_us for each in noted if each.verified_us), default=None),
        overdue_days=overdue,
    )


def _is_safe(known: Known | None) -> bool:
    """Whether rows of a day that the database has may be those that are archived."""
    return known is not None and known.verified_us is not None and known.stored.rows > 0
