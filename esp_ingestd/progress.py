"""Progress of long work on standard error: a bar on a terminal, elsewhere a plain line every few seconds."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

EVERY_S: Final = 5.0


class Progress:
    """How far one piece of work is, how fast it goes and how long it will take."""

    def __init__(self, name: str, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        """Begin.

        Args:
            name: what it works on.
            total: how much there is, in any unit.
            done: how much of it an earlier run has done; it counts as done, not as speed.
            stream: where to; standard error by default.
        """
        self._name = name
        self._total = max(total, 1)
        self._began_with = done
        self._stream = stream or sys.stderr
        self._began = self._said = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        if self._stream.isatty():
            self._bar, self._task = _make_bar(name, self._total, done, self._stream)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def elapsed_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def update(self, done: int, rows: int) -> None:
        """Tell how much of `total` is done, and how many rows were done since it began."""
        rate = rows / max(self.elapsed_s, 1e-9)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, rows=f"{rows:,}", rate=f"{rate:,.0f}")
        elif time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            left_s = self.elapsed_s * (self._total - done) / max(done - self._began_with, 1)
            line = f"{self._name}: {done / self._total:.0%}, {rows} rows, {rate:.0f} rows/s, {left_s:.0f} s left"
            print(line, file=self._stream, flush=True)


def _make_bar(name: str, total: int, done: int, stream: TextIO) -> tuple["Bar", "TaskID"]:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and for terminals only
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]} rows, {task.fields[rate]} rows/s"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(file=stream),
    )
    return bar, bar.add_task(name, total=total, completed=done, rows="0", rate="0")
