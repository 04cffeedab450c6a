"""Unit shifts: a channel that, from one look to the next, is sent in another unit.

An RTU that was replaced or set up anew sends kPa where psi came, or degrees Fahrenheit where Celsius came. Rules:
    1. The value jumps between two looks, at most a minute or a reading apart, to what the old one is in another unit,
       while current and flow go on as they were. No process does that: a motor that loses its cooling warms by less
       than 1 K a minute, a valve that shuts changes the current.
    2. It stays at its new level for five looks; until then it is suspected, and read by nobody else already.
    3. Where something else changed meanwhile (a start, a stop, another speed, a gap in the data) two pressures must
       jump by the same factor; of a channel that was not sent since, however long ago that was. Another speed heats no
       motor by half between two readings, if its current is what it was.
       A flow that rises after a start comes because the tubing is full.
    4. It is over when the value jumps back, or is what it was for five looks.
    5. What jumps once and back was a spike, and so was what is back where it was before it jumped; what jumps on and on
       is no level to compare with.
    6. The values are those sent, also where they are out of their plausible range: 3000 psi in kPa is.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from esp_ingestd.core.feature import NAN
from esp_ingestd.core.reading import CHANNEL_NAMES, Values

_PLACE: Final = {name: place for place, name in enumerate(CHANNEL_NAMES)}
_FLOW: Final = _PLACE["flow_rate"]
_AMPERES: Final = _PLACE["motor_current"]
_TEMPERATURES: Final = (_PLACE["motor_temp"], _PLACE["intake_temp"])
_PRESSURES: Final = tuple(
    _PLACE[name] for name in ("pip", "discharge_pressure", "wellhead_pressure", "casing_pressure")
)
_WATCHED: Final = [_FLOW, *_PRESSURES, *_TEMPERATURES]
_PUMPED: Final = (_FLOW, *_PRESSURES)
_MARKED: Final = [_AMPERES, *_WATCHED]

# psi in kPa, Pa, bar, MPa, kgf/cm2, and back; bbl/d in m3/d, m3/h, l/s, and back (core/unit.py has the sources).
_PRESSURE_FACTORS: Final = (6.894757, 6894.757, 0.06894757, 0.006894757, 0.0703070, 0.1450377, 0.000145038, 14.50377)
_FLOW_FACTORS: Final = (0.1589873, 6.289811, 0.00662447, 150.955, 0.00184013, 543.44)
ALIKE: Final = 0.06
"""How far a unit's factor may be missed: a well goes on changing between two readings."""
ALIKE_K: Final = 4.0
"""The same of a temperature, K; 400, at which a register of some tool stands, is no 121 degC in kelvin."""
LEVEL: Final = 0.20
"""How far a shifted value may stray from where it first jumped to while it is still suspected."""
LOOKS: Final = 5
STEADY_A: Final = 0.10
STEADY_BPD: Final = 0.20
LEAST_JUMP: Final = 0.4
AGREE: Final = 2
EDGE_LOOKS: Final = 2


class Shifts:
    """The unit shifts of one well."""

    __slots__ = ("_doubted", "_edge", "_left", "_marks", "_stale", "_turning", "places")

    def __init__(self) -> None:
        self._marks: list[float] = [NAN] * len(CHANNEL_NAMES)
        """Each channel as last sent, but for spikes."""
        self._doubted: dict[int, float] = {}
        """Channels that jumped at the last look -> to what."""
        self._left: dict[int, float] = {}
        """Where channels were before they jumped to what they are."""
        self._edge = 0
        self._stale: set[int] = set()
        """The channels that were not sent since something else changed."""
        self._turning = False
        self.places: dict[int, list[float]] = {}
        """Place of a channel that is suspected -> looks, value before, value after, looks at the value before."""

    def look(self, sent: Values, *, turning: bool, gap: bool, changing: bool = False, filling: bool = False) -> None:
        """Take in the values of a reading, as they were sent.

        Args:
            sent: in the order of the channels.
            turning: the pump turns.
            gap: the look before was too long ago to continue from.
            changing: the pump's speed is being changed, or it does not lift.
            filling: the pump was started not long ago: its tubing may be filling still, and no flow come out of it.
        """
        if gap or changing or turning != self._turning:
            self._edge = EDGE_LOOKS
            self._stale.update(_WATCHED if gap or turning != self._turning else _PUMPED)
            self._turning = turning
        marks, places = self._marks, self.places
        if not places and not self._doubted and not self._edge and not _any_jumps(sent, marks):
            _mark(sent, marks)
            if self._stale:
                self._freshen(sent)
            return
        over = [place for place, known in places.items() if self._is_over(known, place, sent[place])]
        for place in over:
            marks[place] = places.pop(place)[1]
        jumped: dict[int, tuple[int, float]] = {}
        for place in _WATCHED:
            value, old = sent[place], marks[place]
            if value is None or place in places or place in over or (filling and place == _FLOW and value > old):
                continue
            jumps = abs(value - old) > LEAST_JUMP * abs(old) and not self._is_back(place, value)
            if jumps and (unit := _other_unit(place, value, old)) is not None:
                jumped[place] = unit, value
        if jumped:
            for place in self._believable(jumped, sent):
                places[place] = [1.0, marks[place], jumped[place][1], 0.0]
        self._remember_marks(sent)
        self._freshen(sent)

    def _freshen(self, sent: Values) -> None:
        """What was sent, but for what is doubted still, is known since the last change."""
        self._stale = {place for place in self._stale if sent[place] is None or place in self._doubted}

    def _remember_marks(self, sent: Values) -> None:
        """Remember what was sent; a value that jumps only if it is sent again, or is of another unit."""
        marks, doubted = self._marks, self._doubted
        self._edge -= self._edge > 0
        for place in _WATCHED:
            if (value := sent[place]) is None:
                continue
            old = marks[place]
            if abs(value - old) > LEAST_JUMP * abs(old) and place not in self.places and not self._again(place, value):
                doubted[place] = value
                continue
            if doubted.pop(place, None) is not None and place not in self.places and place not in self._stale:
                self._left[place] = old
            marks[place] = value
        # The second look at a jump, too, is judged by what the motor did at the first, not by the calm after it.
        if (amperes := sent[_AMPERES]) is not None and not doubted:
            marks[_AMPERES] = amperes

    def _again(self, place: int, value: float) -> bool:
        """It jumped to about the same at the look before: what jumps on is a gauge gone wild, and no level."""
        jumped = self._doubted.get(place, NAN)
        return abs(value - jumped) <= LEVEL * abs(jumped)

    def _is_back(self, place: int, value: float) -> bool:
        """It is where it was before it last jumped: that is no unit, whatever lies between."""
        left = self._left.get(place, NAN)
        return abs(value - left) <= LEVEL / 2 * abs(left)

    def count(self) -> int:
        """How many channels are sent in another unit."""
        return sum(looks >= LOOKS for looks, *_ in self.places.values()) if self.places else 0

    def found(self) -> Iterator[tuple[str, str, float]]:
        """Each such channel, and how many times its value it became: (channel, what, how much)."""
        for place, (looks, before, after, _) in self.places.items():
            if looks >= LOOKS:
                yield CHANNEL_NAMES[place], "times", after / before

    def remember(self) -> list[Any]:
        """As JSON values; NaN where not known."""
        places = {str(place): known for place, known in self.places.items()}
        return [
            self._marks,
            [[place, value] for place, value in sorted(self._doubted.items())],
            self._edge,
            self._turning,
            places,
            sorted(self._stale),
            [list(each) for each in sorted(self._left.items())],
        ]

    def recall(self, remembered: Sequence[Any]) -> None:
        """Take back what `remember` gave."""
        self._marks, doubted, self._edge, self._turning, places, *later = remembered
        self._stale = {place for stale in later[:1] for place in stale}
        self._left = {place: value for left in later[1:] for place, value in left}
        # Once only the channels were remembered, and what was doubted was believed at the next look.
        pairs = [each if isinstance(each, list) else [each, self._marks[each]] for each in doubted]
        self._doubted = {int(place): value for place, value in pairs}
        self.places = {int(place): known for place, known in places.items()}

    def _believable(self, jumped: dict[int, tuple[int, float]], sent: Values) -> Iterator[int]:
        """Of the channels that jumped as if to another unit, those that nothing else explains."""
        pressures = [unit for place, (unit, _) in jumped.items() if place in _PRESSURES]
        steady = _steady(sent[_AMPERES], self._marks[_AMPERES], STEADY_A)
        flows = _steady(sent[_FLOW], self._marks[_FLOW], STEADY_BPD)
        for place, (unit, _) in jumped.items():
            together = place in _PRESSURES and pressures.count(unit) >= AGREE
            calm = place in _TEMPERATURES or (not self._edge and (flows or _FLOW in jumped))
            if together or (steady and calm and place not in self._stale):
                yield place

    def _is_over(self, known: list[float], place: int, value: float | None) -> bool:
        """Follow a channel that is suspected; True if it is sent as it was before, or was in no other unit."""
        if value is None:
            return False
        looks, before, after, back = known
        known[3] = back + 1 if abs(value - before) <= LEVEL / 2 * abs(before) else 0.0
        if looks < LOOKS:
            known[0] = looks + 1
            return abs(value - after) > LEVEL * abs(after)
        mark = self._marks[place]
        jumps = _other_unit(place, value, mark) is not None and abs(value - before) < abs(mark - before)
        return jumps or known[3] >= LOOKS


def _any_jumps(sent: Values, marks: list[float]) -> bool:
    """Whether a watched channel is far from where it was; not known before is not far."""
    for place in _WATCHED:
        if (value := sent[place]) is not None:
            old = marks[place]
            change, most = value - old, LEAST_JUMP * old if old > 0 else -LEAST_JUMP * old
            if change > most or change < -most:
                return True
    return False


def _mark(sent: Values, marks: list[float]) -> None:
    for place in _MARKED:
        value = sent[place]
        if value is not None:
            marks[place] = value


def _other_unit(place: int, value: float, old: float) -> int | None:
    """Which unit `value` would be in if `old` was in the right one; None where it is none known."""
    if place in _TEMPERATURES:
        guesses: tuple[float, ...] = (1.8 * old + 32, (old - 32) / 1.8, old + 273.15, old - 273.15)
        strays = [ALIKE_K * kelvin for kelvin in (1.8, 1.0, 1.0, 1.0)]
    else:
        guesses = tuple(old * factor for factor in (_FLOW_FACTORS if place == _FLOW else _PRESSURE_FACTORS))
        strays = [ALIKE * abs(guess) for guess in guesses]
    near = zip(guesses, strays, strict=True)
    return next((unit for unit, (guess, stray) in enumerate(near) if abs(value - guess) <= stray), None)


def _steady(value: float | None, old: float, within: float) -> bool:
    """The value goes on as it was; true too where it is not known on either side."""
    return value is None or old != old or abs(value - old) <= within * abs(old)  # noqa: PLR0124  (NaN: not known)
