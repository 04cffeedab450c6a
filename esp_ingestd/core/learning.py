"""Learning: what is normal for one well, from its own frames; core/baseline.py has the rules.

A frame is the mean of half an hour of settled running, one every 15 minutes. It waits until it is sure that it was
healthy, and is then taken into the baseline of the frequency at which the well ran.
"""

import math
from array import array
from collections.abc import Mapping
from struct import Struct
from typing import Any, Final

from esp_ingestd.core.baseline import AMPERES, FLOW, QUANTITIES, READY_FRAMES, Baseline, recalled, remembered
from esp_ingestd.core.reading import DAY_US, HOUR_US, SECOND_US
from esp_ingestd.core.scale import UNKNOWN_SCALES, scales_of

FRAME_US: Final = 870 * SECOND_US
"""From then on the next frame is due: readings come a little early or late."""
YOUNG_FRAMES: Final = 672
TOGETHER_US: Final = HOUR_US
"""Frames that have waited are taken together, once an hour: they change little, and all that follows from them."""
WAITING: Final = 2 + QUANTITIES
"""Values of one frame that waits: its time, its whole Hz, and its means."""
BASELINES_MOST: Final = 10
STALE_US: Final = 20 * DAY_US
"""A real reservoir lost a fifth of its pressure in a month or two."""
NEIGHBOUR_HZ: Final = 0.55
NONE_OPEN: Final = -2
_FRAME: Final = Struct(f"{WAITING}d")
_NOTHING: Final = Baseline()
"""One for all wells of which nothing is known yet; nobody changes it."""


class Learning:
    """The baselines of one well, and what follows from that of its present frequency."""

    __slots__ = (
        "_lag_us",
        "_memory_us",
        "_open",
        "_open_hz",
        "_packed",
        "_used_us",
        "_waiting",
        "_whole_hz",
        "frame_us",
        "frames",
        "frames_at",
        "is_found",
        "scales",
        "usual",
    )

    def __init__(self) -> None:
        self.frames_at: dict[int, int] = {}
        """How many frames each baseline has learned, by whole Hz."""
        self._packed: dict[int, bytes] = {}
        """The baselines but for the open one, as it was."""
        self._used_us: dict[int, int] = {}
        """When each learned last."""
        self._open_hz = NONE_OPEN
        self._open = _NOTHING
        """The baseline that was asked for last."""
        self.frames = 0
        self.frame_us = 0
        """When the newest frame was taken."""
        self._waiting = array("d")
        """Frames that may be learned later, oldest first."""
        self._lag_us = 0
        self._memory_us = 0.0
        self._whole_hz = -1
        self.usual = _NOTHING
        """Of the present frequency; a guess where it has none of its own."""
        self.scales = UNKNOWN_SCALES
        self.is_found = False
        """The scales are those of the present frequency."""

    def configure(self, lag_h: float, memory_days: float) -> None:
        """For how long frames wait, and over how many days a baseline forgets."""
        self._lag_us = int(lag_h * HOUR_US)
        self._memory_us = memory_days * DAY_US

    def forget(self) -> None:
        """Begin to learn anew: the well is another one."""
        for hertz in list(self.frames_at):
            self._drop(hertz)
        self.distrust()
        self.frames = self.frame_us = 0
        self.leave()

    def distrust(self) -> None:
        """Do not learn what still waits."""
        del self._waiting[:]

    def leave(self) -> None:
        """The frequency is another one, or will be: by what the well is judged is to be found anew."""
        self.scales = UNKNOWN_SCALES
        self.is_found = False

    def find(self, hertz: float) -> None:
        """Work out the scales at a frequency; those of before stand while its baseline may not be judged by."""
        self.is_found = True
        self._whole_hz = self._bin(hertz)
        if self._is_stale(self._whole_hz):
            self._refresh(self._whole_hz)
        self.usual = self.at(self._whole_hz) or self._guess(self._whole_hz)
        found = scales_of(self.usual)
        if found.known:
            self.scales = found

    def is_due(self, now_us: int) -> bool:
        """Whether a frame is to be taken."""
        return now_us - self.frame_us >= FRAME_US

    def take(self, now_us: int, hertz: float, frame: list[float]) -> None:
        """Let a frame wait until it is sure that it was healthy, and learn those that have waited.

        Args:
            now_us: when it ended.
            hertz: the present frequency, that of the scales.
            frame: the means, in the order of the quantities; NaN where not known.
        """
        if frame[AMPERES] != frame[AMPERES] and frame[FLOW] != frame[FLOW]:
            return
        span_us = max(now_us - self.frame_us, FRAME_US) if self.frame_us else FRAME_US
        self.frame_us = now_us
        # While a baseline is new it takes frames at once.
        lag_us = 0 if self.frames_at.get(self._whole_hz, 0) < READY_FRAMES else self._lag_us
        waiting = self._waiting
        waiting.frombytes(_FRAME.pack(now_us, self._whole_hz, *frame))
        if lag_us and now_us - waiting[0] < lag_us + TOGETHER_US:
            return
        memory = max(self._memory_us / min(span_us, 4 * FRAME_US), 4.0)
        due = 0
        while due < len(waiting) and now_us - waiting[due] >= lag_us:
            waited: tuple[float, ...] = _FRAME.unpack_from(waiting, due * waiting.itemsize)
            waited_hz, means = int(waited[1]), waited[2:]
            if self.frames_at.get(waited_hz, 0) < READY_FRAMES:
                guess = self._guess(waited_hz)
                means = guess.within(means) if guess.doubt else means
            known = self.at(waited_hz) or self._begin(waited_hz)
            self.frames += 1
            known.learn(means, memory, young=self.frames <= YOUNG_FRAMES)
            self.frames_at[waited_hz] = known.frames
            self._used_us[waited_hz] = int(waited[0])
            due += WAITING
        del waiting[:due]
        self.find(hertz)

    def at(self, hertz: int) -> Baseline | None:
        """The baseline of a whole frequency, if there is one; it may be changed until another is asked for."""
        if hertz not in self.frames_at:
            return None
        if hertz != self._open_hz:
            self._pack()
            self._open_hz, self._open = hertz, Baseline.unpacked(self._packed[hertz])
        return self._open

    def remember(self) -> dict[str, Any]:
        """As JSON values; NaN where not known."""
        self._pack()
        frames = [list(self._waiting[at : at + WAITING]) for at in range(0, len(self._waiting), WAITING)]
        return {
            "baselines": {str(hertz): remembered(packed) for hertz, packed in self._packed.items()},
            "used": {str(hertz): at_us for hertz, at_us in self._used_us.items()},
            "waiting": [[int(at_us), int(hertz), frame] for at_us, hertz, *frame in frames],
            "scaled": self.scales.known,
        }

    def recall(self, known: Mapping[str, Any], hertz: float) -> None:
        """Take back what `remember` gave, of a well at this frequency."""
        self._packed = {int(whole): recalled(values) for whole, values in known["baselines"].items()}
        self.frames_at = {int(whole): int(values[0]) for whole, values in known["baselines"].items()}
        self._used_us = {int(whole): at_us for whole, at_us in known.get("used", {}).items()}
        self._open_hz = NONE_OPEN
        self._waiting = array(
            "d", [value for at_us, at_hz, frame in known["waiting"] for value in (at_us, at_hz, *frame)]
        )
        if known["scaled"]:
            self.find(hertz)

    def _pack(self) -> None:
        if self._open_hz in self.frames_at:
            self._packed[self._open_hz] = self._open.packed()

    def _bin(self, hertz: float) -> int:
        """The whole Hz of a frequency, or a known one close by; -1 where there is no drive."""
        if hertz != hertz:  # noqa: PLR0124  (NaN: no drive)
            return -1
        whole = round(hertz)
        if whole not in self.frames_at:
            for other in (whole - 1, whole + 1):
                if abs(hertz - other) < NEIGHBOUR_HZ and self.frames_at.get(other, 0) >= READY_FRAMES:
                    return other
        return whole

    def _begin(self, hertz: int) -> Baseline:
        """Begin a baseline, from its neighbour's."""
        begun = self._guess(hertz)
        if len(self.frames_at) == BASELINES_MOST:  # the least known goes, not the one that begins
            self._drop(min(self.frames_at, key=lambda known: self.frames_at[known]))
        self._pack()
        self._open_hz, self._open = hertz, begun
        return begun

    def _is_stale(self, hertz: int) -> bool:
        """The well has not run at this frequency for weeks, and at another since."""
        newest_us = max(self._used_us.values(), default=0)
        return newest_us - self._used_us.get(hertz, newest_us) > STALE_US

    def _refresh(self, hertz: int) -> None:
        """Judge by what the well is now at another frequency; only what it was when new is as it was."""
        guess = self._guess(hertz)
        known = self.at(hertz)  # the open one from here on
        if known is None or not guess.ready:
            return  # of no other frequency is known more
        for fresh, stale in zip(guess.of, known.of, strict=True):
            fresh.reference = stale.reference
        guess.reference_doubt = known.reference_doubt
        self._open = guess
        self.frames_at[hertz] = guess.frames
        self._used_us[hertz] = max(self._used_us.values())

    def _drop(self, hertz: int) -> None:
        del self.frames_at[hertz]
        self._packed.pop(hertz, None)
        self._used_us.pop(hertz, None)
        if self._open_hz == hertz:
            self._open_hz = NONE_OPEN

    def _guess(self, hertz: int) -> Baseline:
        learned = [other for other, frames in self.frames_at.items() if frames >= READY_FRAMES and other > 0]
        known = [other for other in learned if not self._is_stale(other)] or learned
        if not known or hertz <= 0:
            return Baseline()
        nearest = min(known, key=lambda other: (abs(other - hertz), other))
        neighbour = self.at(nearest) or Baseline()
        return neighbour.moved(hertz / nearest, abs(math.log(hertz / nearest)))
