"""Dead letters: what was refused, why, and trying it again.

Rules of a replay:
    1. A letter is decoded with the configuration of today, as of the time when it came first.
    2. What is good now is stored; the key makes sure that what was stored before is not doubled. A letter of which
       nothing is refused any more is dropped; of any other the reason and detail are those of today.
    3. It is history: nothing is diagnosed, no alarm is raised.
    4. A reading that the database refused is kept in the contract's units: it is not converted again.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from esp_ingestd.config import Settings, Wells
from esp_ingestd.core.batch import Batch
from esp_ingestd.core.decode import Decoded, Decoder, Reason, Rejection
from esp_ingestd.core.reading import Reading, to_iso
from esp_ingestd.database import Database, LetterFilter, StoredLetter
from esp_ingestd.moment import to_moment_us
from esp_ingestd.table import Column

LETTERS_AT_ONCE: Final = 100
WHOLE_BYTES: Final = 1 << 30  # more than PostgreSQL keeps in one value
PREVIEW_BYTES: Final = 60
COLUMNS: Final = ("id", "received_at", "times", "topic", "reason", "why", "payload_bytes", "payload")
SHOWN: Final = tuple(Column(name, is_prose=name in {"topic", "why", "payload"}) for name in COLUMNS)
"""The same for a table: what strangers sent may be long."""


def to_filter(
    ids: Sequence[int], reason: str | None, topic: str | None, since: str | None, now: datetime
) -> LetterFilter:
    """The filter that the options say.

    Args:
        ids: numbers; none leaves them open.
        reason: one of `Reason`.
        topic: a topic in which * stands for anything; empty: rows of files, which have none.
        since: ISO 8601, without an offset UTC, or an age such as 90s, 30m, 12h or 7d.
        now: what an age counts from.

    Raises:
        ValueError: `since` is neither, or there is no such reason; the text says what is allowed.
    """
    if reason is not None and reason not in set(Reason):
        raise ValueError(f"--reason {reason}: there is none; allowed are {', '.join(Reason)}")
    pattern = None if topic is None else re.sub(r"([\\%_])", r"\\\1", topic).replace("*", "%")
    return LetterFilter(tuple(ids), reason, pattern, to_moment_us("--since", since, now) if since else None)


async def list_letters(settings: Settings, which: LetterFilter, limit: int) -> list[dict[str, object]]:
    """The dead letters that came last, the newest first, with COLUMNS each.

    Raises:
        Unavailable: the database cannot be reached.
    """
    database = Database(settings.database, name="esp-ingestd dead-letters")
    try:
        letters = await database.find_dead_letters(which, limit=limit, payload_bytes=PREVIEW_BYTES)
    finally:
        await database.close()
    return [_to_row(letter) for letter in letters]


def _to_row(letter: StoredLetter) -> dict[str, object]:
    detail = letter.detail
    elements = detail.get("elements") or [{}]
    where = f"{detail['file']}:{detail['line']}: " if "file" in detail else ""
    values = (
        letter.dead_letter_id,
        to_iso(letter.received_us),
        letter.times,
        letter.topic,
        letter.reason,
        f"{where}{detail.get('why') or elements[0].get('why', '')}",
        letter.payload_bytes,
        letter.payload.decode(errors="replace"),
    )
    return dict(zip(COLUMNS, values, strict=True))


async def show_letters(settings: Settings, ids: Sequence[int]) -> list[str]:
    """Everything about these letters, one text each; the payload as text if it is UTF-8, else in hex.

    Raises:
        ValueError: there is none of one of these numbers.
        Unavailable: the database cannot be reached.
    """
    database = Database(settings.database, name="esp-ingestd dead-letters")
    try:
        which = LetterFilter(ids=tuple(ids))
        letters = await database.find_dead_letters(which, limit=len(ids), payload_bytes=WHOLE_BYTES, after_id=0)
    finally:
        await database.close()
    if missing := set(ids).difference(letter.dead_letter_id for letter in letters):
        raise ValueError(f"no dead letter has the number {', '.join(map(str, sorted(missing)))}")
    return [_to_text(letter) for letter in letters]


def _to_text(letter: StoredLetter) -> str:
    try:
        payload = letter.payload.decode()
        kind = "text"
    except UnicodeDecodeError:
        payload = letter.payload.hex(" ")
        kind = "hex"
    lines = (
        f"dead letter {letter.dead_letter_id}",
        f"first received {to_iso(letter.first_received_us)}, last {to_iso(letter.received_us)}, times {letter.times}",
        f"topic {letter.topic or '(none: a row of a file, or a reading that the database refused)'}",
        f"reason {letter.reason}",
        f"detail {json.dumps(letter.detail, ensure_ascii=False, indent=2)}",
        f"payload, {letter.payload_bytes} bytes, {kind}:",
        payload,
    )
    return "\n".join(lines)


@dataclass(slots=True)
class Replayed:
    """What became of dead letters that were tried again."""

    dropped: int = 0
    """Letters of which everything is stored now."""
    kept: Counter[str] = field(default_factory=Counter)
    """Reason -> letters of which something is still refused."""
    stored: int = 0
    duplicates: int = 0

    def __str__(self) -> str:
        still = ", ".join(f"{count} {reason}" for reason, count in sorted(self.kept.items()))
        return (
            f"{self.dropped} dead letters are good now and dropped: {self.stored} readings stored, {self.duplicates} "
            f"were there already; {self.kept.total()} still refused" + (f": {still}" if still else "")
        )


async def replay(settings: Settings, wells: Wells, which: LetterFilter, say: Callable[[str], None]) -> Replayed:
    """Try dead letters again, oldest first; `say` hears of each that is still refused, and why.

    Raises:
        Unavailable: the database cannot be reached; what was done stays done, and it is safe to begin again.

    Cancel: likewise.
    """
    mqtt = settings.mqtt
    decoder = Decoder(
        mqtt.topics,
        max_payload_bytes=mqtt.max_payload_bytes,
        naive_timestamps=mqtt.naive_timestamps,
        units_of=wells.units_of,
    )
    # Rows of files have no topic, and readings that the database refused no units but ours.
    of_files = Decoder((), naive_timestamps=mqtt.naive_timestamps, units_of=wells.units_of)
    rebuilt = Decoder(())
    database = Database(settings.database, name="esp-ingestd dead-letters")
    replayed = Replayed()
    after_id = 0
    try:
        while letters := await database.find_dead_letters(
            which, limit=LETTERS_AT_ONCE, payload_bytes=WHOLE_BYTES, after_id=after_id
        ):
            after_id = letters[-1].dead_letter_id
            decoded = []
            for letter in letters:
                is_rebuilt = "payload" in letter.detail  # to_dead_letter says so
                by = rebuilt if is_rebuilt else decoder if letter.topic else of_files
                size_bytes = letter.detail.get("size_bytes")
                decoded.append(by.decode(letter.topic, letter.payload, letter.first_received_us, size_bytes))
            await _store(database, letters, decoded, replayed, say)
    finally:
        await database.close()
    return replayed


async def _store(
    database: Database,
    letters: Sequence[StoredLetter],
    decoded: Sequence[Decoded],
    replayed: Replayed,
    say: Callable[[str], None],
) -> None:
    """Store what is good, then drop its letters: cut in between, the next replay finds duplicates and drops them."""
    batch = Batch([reading for each in decoded for reading in each.readings])
    # What the database refuses is kept as the letter that it came from.
    written = await database.write(batch, letter_of=lambda _reading, _why: None)
    replayed.stored += written.stored
    replayed.duplicates += written.duplicates
    gone: list[int] = []
    changed: list[tuple[int, Reason, str]] = []
    for letter, each in zip(letters, decoded, strict=True):
        rejection = each.rejection or _refused_by_database(each.readings, written.refused)
        if rejection is None:
            gone.append(letter.dead_letter_id)
            continue
        replayed.kept[rejection.reason.value] += 1
        place = {key: letter.detail[key] for key in ("file", "line", "payload") if key in letter.detail}
        detail = json.dumps({**place, **rejection.detail})
        changed.append((letter.dead_letter_id, rejection.reason, detail))
        say(f"dead letter {letter.dead_letter_id}: {rejection.reason}: {detail}")
    await database.settle_dead_letters(gone, changed)
    replayed.dropped += len(gone)


def _refused_by_database(readings: Sequence[Reading], refused: Sequence[tuple[Reading, str]]) -> Rejection | None:
    own = set(map(id, readings))
    whys: Iterator[str] = (why for reading, why in refused if id(reading) in own)
    if (why := next(whys, None)) is None:
        return None
    return Rejection(Reason.REFUSED_BY_DATABASE, {Reason.REFUSED_BY_DATABASE: 1}, {"why": why})
