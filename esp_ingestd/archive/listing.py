"""What is in the archive, day by day, and how that stands to the database, if it is there."""

import asyncio
from collections.abc import Mapping
from datetime import date
from typing import Final

from esp_ingestd.archive import ArchiveError
from esp_ingestd.archive.ledger import Known, count_rows, first_open_day, known_days, looking, present_days
from esp_ingestd.archive.place import Manifest, Place, days_of, manifest_name, open_place, read_manifest
from esp_ingestd.archive.tables import TABLES, Table
from esp_ingestd.config import Settings
from esp_ingestd.core.reading import to_iso
from esp_ingestd.errors import Unavailable

COLUMNS: Final = (
    "table",
    "day",
    "state",
    "rows",
    "in_database",
    "wells",
    "bytes",
    "file",
    "archived_at",
    "verified_at",
)
_NOTHING: Final[Mapping[str, object]] = dict.fromkeys(COLUMNS)
_Found = dict[date, "Manifest | str"]


async def list_days(settings: Settings, url: str) -> tuple[list[Mapping[str, object]], str | None]:
    """Every day that the archive or the database has, and why the database could not be asked, if so.

    Raises:
        ArchiveError: the archive cannot be listed.
    """
    place = open_place(url)
    found = {table: await asyncio.to_thread(_manifests, place, table) for table in TABLES}
    known: dict[Table, dict[date, Known]] = {table: {} for table in TABLES}
    stored: dict[Table, dict[date, int]] = {table: {} for table in TABLES}
    away = None
    try:
        async with looking(settings) as (session, edition):
            past = await first_open_day(session, settings.archive.closes_after_s)
            for table in TABLES:
                known[table] = await known_days(session, table)
                days = await present_days(session, edition, table, past)
                stored[table] = {day: await count_rows(session, table, day) for day in days}
    except Unavailable as unavailable:
        away = str(unavailable)
    rows = []
    for table in TABLES:
        for day in sorted({*found[table], *known[table], *stored[table]}):
            here = None if away else stored[table].get(day, 0)
            rows.append(_row(table, day, found[table].get(day), known[table].get(day), here))
    return rows, away


def _manifests(place: Place, table: Table) -> _Found:
    """The manifest of each day that has one, or what is wrong with it or its file."""
    found: _Found = {}
    sizes = place.sizes(table.name)
    for day in days_of(sizes):
        try:
            manifest = read_manifest(place, table.name, day)
            if manifest.file not in sizes:
                found[day] = f"{manifest.file} is missing"
            elif sizes[manifest.file] != manifest.size_bytes:
                found[day] = f"{manifest.file} has {sizes[manifest.file]} bytes instead of {manifest.size_bytes}"
            else:
                found[day] = manifest
        except ArchiveError as error:
            found[day] = str(error)
    return found


def _row(
    table: Table, day: date, found: Manifest | str | None, known: Known | None, here: int | None
) -> Mapping[str, object]:
    row = {**_NOTHING, "table": table.name, "day": day.isoformat(), "in_database": here}
    row["verified_at"] = to_iso(known.verified_us) if known and known.verified_us else None
    if not isinstance(found, Manifest):
        missing = f"{manifest_name(table.name, day)} is missing" if known else "not archived"
        return {**row, "state": found or missing}
    row |= {"rows": found.rows, "wells": found.wells, "bytes": found.size_bytes, "file": found.path}
    row |= {"archived_at": found.archived_at, "state": _state(found, known, here)}
    return row


def _state(manifest: Manifest, known: Known | None, here: int | None) -> str:
    if here is None:
        return "database away"
    if known is None or known.sha256 != manifest.sha256:
        return "not of this database" if not here else "stale"
    if here not in (0, known.stored.rows):
        return "stale"
    return "verified" if known.verified_us else "not verified"
