"""Backfill: history from files into the database, as fast as it takes it.

    file --> block --> columns or rows --> readings --> COPY, with the mark how far the file is loaded
             (a thread, one block ahead)                (the event loop)

Rules:
    1. A row is judged as a message off the broker is, by the same decoding; what is refused becomes a dead letter
       that names file and line. History raises no alarms: nothing in here diagnoses.
    2. The mark is committed in one transaction with the rows before it. A load that was cut anywhere goes on behind
       its last committed row when the same command is given again; once a command has loaded all its files it forgets
       their marks, so that giving it again reads everything again, and finds duplicates.
    3. Where that is not enough the key decides, as ever: the first delivery of a (well_id, timestamp) counts.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from pydantic_core import to_json

from esp_ingestd.columns import read_columns
from esp_ingestd.config import Settings, Wells
from esp_ingestd.core.batch import Batch, DeadLetter
from esp_ingestd.core.decode import KEPT_BYTES, Decoded, Decoder, Reason
from esp_ingestd.core.reading import DAY_US, Reading
from esp_ingestd.database import Database, LoadMark, to_dead_letter
from esp_ingestd.progress import Progress
from esp_ingestd.recording import Block, Position, RecordingError, Row, Unreadable, open_recording

MAX_DAYS: Final = 100  # a chunk is a day, and one transaction can lock only so many chunks


class BackfillError(Exception):
    """The load cannot go on.

    Attributes:
        faults: one plain line each.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(slots=True)
class Tally:
    """What became of a file's rows in this run; a row of an array counts each of its elements."""

    path: Path
    behind_line: int
    """Where an earlier run had left off; 0: at its start."""
    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    elapsed_s: float = 0.0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.stored + self.duplicates + self.refused

    def __str__(self) -> str:
        since = f" behind line {self.behind_line}, where an earlier run was cut" if self.behind_line else ""
        what = f"{self.stored} stored, {self.duplicates} duplicates, {self.refused} refused"
        rate = f"{self.rows / max(self.elapsed_s, 1e-9):.0f} rows/s"
        return f"{self.path}: {self.rows} rows{since}: {what}; {self.elapsed_s:.1f} s, {rate}"


async def backfill(
    settings: Settings,
    wells: Wells,
    paths: Sequence[Path],
    *,
    max_refused: int,
    restart: bool,
    say: Callable[[str], None],
) -> int:
    """Load files, one after the other.

    Args:
        settings: the configuration.
        wells: the wells file: the units that their RTUs send.
        paths: the files.
        max_refused: stop when more rows than this were refused.
        restart: read every file from its start, wherever an earlier run left off.
        say: hears one line a file.

    Returns:
        How many rows were refused.

    Raises:
        BackfillError: a file cannot be read (then nothing was touched), or too much was refused.
        Unavailable: the database cannot take it now; the same command goes on where this one was.
        OSError: a file cannot be read any further.

    Cancel: what was committed stays, and the same command goes on behind it.
    """
    _check(paths)
    database = Database(settings.database, name="esp-ingestd backfill")
    files = [str(path.resolve()) for path in paths]
    refused = 0
    try:
        await database.connect()
        if restart:
            await database.forget_loads(files)
        for path in paths:
            loader = _Loader(settings, wells, path, database)
            tally = await loader.load(max_refused - refused)
            say(str(tally))
            refused += tally.refused
            if refused > max_refused:
                await database.forget_loads(files)
                raise BackfillError([_too_many(path, refused, max_refused)])
        await database.forget_loads(files)
    finally:
        await database.close()
    return refused


def _check(paths: Sequence[Path]) -> None:
    """See that every file can be read before the first is loaded."""
    faults = []
    for path in paths:
        try:
            open_recording(path).close()
        except RecordingError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(f"{path}: cannot be read: {error.strerror}")
    if faults:
        raise BackfillError(faults)


def _too_many(path: Path, refused: int, max_refused: int) -> str:
    return (
        f"{path}: stopped, {refused} rows refused, more than --max-refused {max_refused}: "
        "`esp-ingestd dead-letters list` says why; mend the file or the configuration, then load it again"
    )


@dataclass(slots=True)
class _Piece:
    """A block of a file, decoded."""

    block: Block
    received_us: int
    readings: list[Reading] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """For each reading the place of its row in the block."""
    letters: dict[bytes, DeadLetter] = field(default_factory=dict)
    refused: int = 0

    def line_of(self, reading: Reading) -> int:
        """The line that the reading stands in."""
        index = next(index for index, each in enumerate(self.readings) if each is reading)
        ((line, _),) = self.block.rows({self.places[index]})
        return line

    def batches(self) -> Iterator[Batch]:
        """What one transaction each can hold; the dead letters are in the last."""
        start, days = 0, set[int]()
        for index, reading in enumerate(self.readings):
            days.add(reading.timestamp_us // DAY_US)
            if len(days) > MAX_DAYS:
                yield Batch(self.readings[start:index])
                start, days = index, {reading.timestamp_us // DAY_US}
        yield Batch(self.readings[start:], dead_letters=self.letters)


class _Loader:
    """Loads one file."""

    def __init__(self, settings: Settings, wells: Wells, path: Path, database: Database) -> None:
        self._path = path
        self._file = str(path.resolve())
        self._database = database
        self._units_of = wells.units_of
        self._naive_is_utc = settings.mqtt.naive_timestamps == "utc"
        self._decoder = Decoder(
            (),  # a file has no topic: every row says of which well it is
            max_payload_bytes=settings.mqtt.max_payload_bytes,
            naive_timestamps=settings.mqtt.naive_timestamps,
            units_of=wells.units_of,
        )
        facts = path.stat()
        self._mark = LoadMark(self._file, facts.st_size, facts.st_mtime_ns, 0, 0)

    async def load(self, max_refused: int) -> Tally:
        """Load what is left of it, until more than `max_refused` rows were refused."""
        mark = await self._database.load_mark(self._file)
        if mark and mark[:3] == self._mark[:3]:
            self._mark = mark
        tally = Tally(self._path, self._mark.line)
        with (
            closing(open_recording(self._path, Position(self._mark.offset, self._mark.line))) as file,
            Progress(self._path.name, file.size, self._mark.offset) as progress,
        ):
            await self._load(file.blocks(), tally, max_refused, progress)
            tally.elapsed_s = progress.elapsed_s
        return tally

    async def _load(self, blocks: Iterator[Block], tally: Tally, max_refused: int, progress: Progress) -> None:
        """Decode a block in a thread while the one before it is written."""
        ahead = asyncio.ensure_future(asyncio.to_thread(self._next_piece, blocks))
        try:
            while (piece := await asyncio.shield(ahead)) and tally.refused <= max_refused:
                ahead = asyncio.ensure_future(asyncio.to_thread(self._next_piece, blocks))
                await self._write(piece, tally)
                progress.update(piece.block.position.offset, tally.rows)
        finally:
            # The thread cannot be cancelled, and the file is about to be closed.
            await asyncio.wait([ahead])
            ahead.exception()

    async def _write(self, piece: _Piece, tally: Tally) -> None:
        position = piece.block.position
        for batch in piece.batches():
            is_last = batch.dead_letters is piece.letters
            mark = self._mark._replace(offset=position.offset, line=position.line) if is_last else None
            written = await self._database.write(batch, mark=mark, letter_of=partial(self._letter_of, piece))
            tally.stored += written.stored
            tally.duplicates += written.duplicates
            tally.refused += len(written.refused)
        tally.refused += piece.refused

    def _letter_of(self, piece: _Piece, reading: Reading, why: str) -> DeadLetter:
        """The dead letter of a reading that the database refuses, with its place."""
        letter = to_dead_letter(reading, why)
        letter.detail = {"file": self._file, "line": piece.line_of(reading), **letter.detail}
        return letter

    def _next_piece(self, blocks: Iterator[Block]) -> _Piece | None:
        """The next block, decoded; None at the end of the file."""
        block = next(blocks, None)
        if block is None:
            return None
        piece = _Piece(block, time.time_ns() // 1_000)
        columns = block.columns(naive_is_utc=self._naive_is_utc)
        if columns is None:
            for place, (line, row) in enumerate(block.rows()):
                self._decode(piece, place, line, row)
            return piece
        readings, odd = read_columns(columns, piece.received_us, self._units_of)
        odd_rows = block.rows(set(odd)) if odd else iter(())
        start = 0
        for place, (line, row) in zip(odd, odd_rows, strict=True):
            piece.readings += readings[start:place]
            piece.places += range(start, place)
            self._decode(piece, place, line, row)
            start = place + 1
        piece.readings += readings[start:]
        piece.places += range(start, len(readings))
        return piece

    def _decode(self, piece: _Piece, place: int, line: int, row: Row) -> None:
        """Judge one row as a message off the broker is judged."""
        if isinstance(row, Unreadable):
            payload, decoded = row.raw, Decoded((), row.rejection)
        else:
            payload = row if isinstance(row, bytes) else to_json(row, inf_nan_mode="strings", bytes_mode="hex")
            decoded = self._decoder.decode("", payload, piece.received_us)
        piece.readings += decoded.readings
        piece.places += [place] * len(decoded.readings)
        if rejection := decoded.rejection:
            piece.refused += sum(rejection.counts.values())
            if rejection.reason is Reason.TOO_LARGE:
                payload = payload[:KEPT_BYTES]
            detail = {"file": self._file, "line": line, **rejection.detail}
            letter = DeadLetter("", payload, rejection.reason, detail, piece.received_us, piece.received_us)
            piece.letters.setdefault(letter.fingerprint, letter)
