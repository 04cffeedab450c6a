"""Data quality: what of a reading can be believed, channel by channel.

Rules:
    1. A channel that is missing keeps its last value for a while, since RTUs report by exception; then it is unknown.
       One that has stayed away longer, and more than once, keeps it for as long as that. One that stays away longer
       than it ever did is dead; before it is known how often it is sent, after six hours.
    2. A jump by three tenths is believed when the next value is another too, however much later it comes; until then
       the last value stands. So does one of vibration or of wellhead pressure, to five times as much. Pressures at the
       pump do not leap to and fro: theirs is believed only when the next value is close, or goes on the same way and
       has not doubled, and nothing that cannot be came between; a burst of nonsense lifts no head. What no pump does at
       a current that goes on as before, such as 9999 psi, is believed when it was sent six times, and unknown until
       then. Nothing is believed of a downhole tool's pressures that leap as its temperatures leave what can be, until
       these are back or the pump stood. Flow and current that fall or rise together are believed at once: two
       instruments say the same, and at rare readings a pump that gasps is seen no other way. No current at all is
       believed when it is sent twice running, and what follows it at once.
    3. Pressure or temperature of exactly 0 while the pump turns is a gauge's way to say that it does not know: the
       channel is missing. One that sends that, or what is out of range, or pressures that are gone at the next reading,
       again and again among sound ones is erratic, and as good as dead.
    4. A gauge that repeats one value each time that it is sent, for half an hour and four times longer than it ever
       did, while motor current or flow move, is frozen. Each channel's own habit of repeating is learned first:
       quantised channels do so all day long, and one that was sound and did so for four hours, or at two readings in
       five, is not judged alone. The same is asked of all gauges together, which repeat less often: so a frozen tool
       with quantised channels is found too.
    5. A channel that from one reading to the next is sent in another unit: core/shift.py.
    6. Frozen and wrongly scaled channels are unknown to all other rules.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import log
from typing import Any, Final

from esp_ingestd.core.feature import NAN
from esp_ingestd.core.reading import CHANNEL_NAMES, MINUTE_US, SECOND_US, Values
from esp_ingestd.core.shift import Shifts

PLACE: Final = {name: place for place, name in enumerate(CHANNEL_NAMES)}
FLOW_AT: Final = 0
PIP_AT: Final = 1
AMPERES_AT: Final = 2
TEMP_AT: Final = 3
SHAKE_AT: Final = 4
HERTZ_AT: Final = 5
DISCHARGE_AT: Final = PLACE["discharge_pressure"]
INTAKE_AT: Final = PLACE["intake_temp"]
WELLHEAD_AT: Final = PLACE["wellhead_pressure"]
CASING_AT: Final = PLACE["casing_pressure"]
UNBALANCE_A_AT: Final = PLACE["current_unbalance"]
UNBALANCE_V_AT: Final = PLACE["voltage_unbalance"]
INSULATION_AT: Final = PLACE["insulation_resistance"]

HOLD_US: Final = 900 * SECOND_US
HOLD_MOST_US: Final = 5400 * SECOND_US
"""By exception every channel is sent once an hour, or it says little."""
DEAD_US: Final = 900 * SECOND_US
DEAD_INTERVALS: Final = 4
MENDED_US: Final = 1800 * SECOND_US
MENDED_INTERVALS: Final = 6
ERRATIC: Final = 4.0
"""So many values that cannot be, less one for every three sound ones between them, are no chance."""
ERRATIC_MOST: Final = 8.0
SOUND: Final = 1 / 3
NEW_US: Final = 7200 * SECOND_US
NEWLY_DEAD_US: Final = 21_600 * SECOND_US
"""One that goes away so soon after the well was first heard may be one that is sent by the hour."""
SELDOM: Final = 0.5
"""A gauge that is in fewer of the readings that have any is sent by exception, and may be still for the hour."""
HEARTBEAT_US: Final = 3900 * SECOND_US
"""An hour, and what a message may be late."""
FROZEN_US: Final = 1800 * SECOND_US
FROZEN_READINGS: Final = 6
FROZEN_TIMES: Final = 4
"""Of its longest habit of repeating. A real quantised channel went to 3 times its longest run so far, not further."""
HABIT_MOVES: Final = 12
"""How often a gauge must have moved until its habit is known."""
HABIT_KNOWN_US: Final = 36_000 * SECOND_US
"""By then it is known how one gauge repeats itself, which is with few digits the habit of a quiet hour, not of those in
which a motor warms up; all gauges together do so by chance no more at first than later."""
HABIT_SHARE: Final = 0.4
"""Of its readings: a gauge that repeats itself more often has so few digits that it stands still for as long as the
well does, longer than ever at another speed; it alone shows no freeze. All together are known after two days."""
COARSE_US: Final = 14_400 * SECOND_US
"""A gauge that was sound and repeated itself so long has too few digits for a well as steady as this: it alone shows
no freeze, all gauges together do."""
NEVER_LOG: Final = -16.0
"""Logarithm of one in ten million: how likely a sound gauge repeats itself so often, were each reading by chance."""
HABIT_US: Final = 172_800 * SECOND_US
JUMP: Final = 0.3
FAR_JUMP: Final = 4.0
"""Sand and a failing bearing shake a pump by more than twice, a valve more than doubles what stands before it, from one
reading to the next."""
_JUMPING: Final = [FLOW_AT, PIP_AT, AMPERES_AT, DISCHARGE_AT, SHAKE_AT, WELLHEAD_AT]
_FAR_JUMPING: Final = (SHAKE_AT, WELLHEAD_AT)
_PRESSURES: Final = (PIP_AT, DISCHARGE_AT)
_TOOL_TEMPS: Final = (TEMP_AT, INTAKE_AT)
FAR: Final = {PIP_AT: 3.0, DISCHARGE_AT: 1.6}
"""So many times what it was no pressure becomes while the motor draws what it drew: a shut valve raises the head by
half at most, and an intake fills that far within one reading only where the pump has lost its load."""
FAR_TIMES: Final = 6
AS_EVER: Final = 0.15
"""Of the current, beside a pressure that leaps."""
_FLOW_KNOWN: Final = _JUMPING.index(FLOW_AT)
_AMPERES_KNOWN: Final = _JUMPING.index(AMPERES_AT)
DOUBLED: Final = 0.02
"""How closely a value must be twice the one before to have been summed twice upstream."""
_GAUGES: Final = [PIP_AT, TEMP_AT, SHAKE_AT, DISCHARGE_AT, INTAKE_AT]
_TOGETHER: Final = len(_GAUGES)
_MOVING: Final = [AMPERES_AT, FLOW_AT]
"""What moves while the pump works, whatever a gauge says."""
ZERO_IS_BAD: Final = [PIP_AT, TEMP_AT, DISCHARGE_AT]


class Quality:
    """What is believed of one well's channels."""

    __slots__ = (
        "_absent",
        "_began_us",
        "_broken",
        "_doubted",
        "_erratic",
        "_far",
        "_habit",
        "_known",
        "_last",
        "_longest",
        "_moved_us",
        "_out_of_range",
        "_raves",
        "_repeated",
        "_repeats",
        "_seen",
        "_since",
        "_usual",
        "_without_current",
        "erratic",
        "held",
        "shifts",
    )

    def __init__(self) -> None:
        self.held = [NAN] * len(CHANNEL_NAMES)
        """The last value believed of each channel, NaN where unknown."""
        self._last: Values = [*self.held]
        self._known = [NAN] * len(_JUMPING)
        """What was believed last of those that may jump, however long ago."""
        self._doubted: dict[int, float] = {}
        self._far: dict[int, int] = {}
        """The pressures of these that no pump could make -> how often they were sent."""
        self._raves = False
        """The downhole tool sends nonsense."""
        self._without_current = False
        """It was believed that the motor draws nothing, though it turns."""
        self._absent: dict[int, int] = {}
        self._out_of_range: set[int] = set()
        """Of the absent ones."""
        self._longest: dict[int, int] = {}
        self._usual: dict[int, int] = {}
        """The second longest time for which a channel stayed away: that is habit."""
        self._broken: dict[int, int] = {}
        """The channels called dead -> when they were last; forgotten once they have been well for a while."""
        self._erratic: dict[int, tuple[float, int]] = {}
        """The channels that sent what cannot be -> how often, less what was sound since, and since when."""
        self.erratic: list[int] = []
        """Those that do so again and again."""
        self._moved_us = 0
        self._began_us = 0
        # Of each gauge, and of all together:
        self._seen = [0] * (_TOGETHER + 1)
        """How many readings had it."""
        self._repeats = [0] * (_TOGETHER + 1)
        """How many readings have repeated the one before, to now."""
        self._since = [0] * (_TOGETHER + 1)
        self._repeated = [0] * (_TOGETHER + 1)
        """How many did in all the times that are over."""
        self._habit = [0] * (_TOGETHER + 1)
        """The longest of those times, microseconds."""
        self.shifts = Shifts()

    def take(self, values: Values, sent: Values, last_us: int, now_us: int, interval_us: int) -> bool:
        """Work in the values of one reading while the pump turns, as they were sent and what of that can be.

        True where flow and current jumped together: then something has happened to the pump. `last_us` is the time of
        the reading before.
        """
        filled: list[Any] = list(values)
        absurd: list[int] = []
        if self._erratic:
            self._calm(values)
        if (self._absent or self._broken or self._erratic) and 0 < last_us < now_us - max(3 * interval_us, HOLD_US):
            self._pass_over(now_us - last_us)
        if some_missing(values):
            self._fill(filled, last_us, now_us, max(3 * interval_us, HOLD_US))
            absurd = [place for place, value in enumerate(values) if value is None is not sent[place]]
            self._spoil(absurd, now_us)
            for place in absurd:
                self._doubted.pop(place, None)
        else:
            for place in list(self._absent):
                self._return(place, now_us)
        believed: list[float] = filled
        hot = [self._absent.get(place, 0) for place in _TOOL_TEMPS if place in absurd]
        self._raves = self._raves and bool(hot)
        agree = self._believe(values, believed, now_us, wild=bool(hot) and max(hot) >= last_us)
        self.erratic = [place for place, _ in self._erratic_since(now_us, max(DEAD_US, DEAD_INTERVALS * interval_us))]
        for place in self.erratic:
            believed[place] = NAN
        if not self._began_us:
            self._began_us = now_us
        self._watch_gauges(values, believed, last_us, now_us)
        if self.shifts.places:
            for place in self.shifts.places:
                believed[place] = NAN
                self._erratic.pop(place, None)  # 3000 psi in kPa cannot be, and is no bad gauge
        self.held = believed
        return agree

    def _spoil(self, places: Iterable[int], now_us: int, times: float = 1.0) -> None:
        """These channels have sent what cannot be."""
        for place in places:
            if place not in self.shifts.places:
                before, since_us = self._erratic.get(place, (0.0, now_us))
                self._erratic[place] = min(before + times, ERRATIC_MOST), since_us

    def _calm(self, values: Values) -> None:
        """Let what cannot be be forgotten where the channel is sound."""
        for place, (times, since_us) in list(self._erratic.items()):
            if values[place] is not None:
                self._erratic[place] = times - SOUND, since_us
                if times <= SOUND:
                    del self._erratic[place]

    def _erratic_since(self, now_us: int, least_us: int) -> list[tuple[int, int]]:
        """The erratic channels: place, and since when."""
        erratic = self._erratic.items()
        return [(place, since) for place, (times, since) in erratic if times >= ERRATIC and now_us - since >= least_us]

    def _believe(self, values: Values, believed: list[float], now_us: int, *, wild: bool) -> bool:
        """Hold jumps until they are confirmed, however long after the value before and however far apart.

        `wild`: a temperature of the downhole tool left what can be at this reading or at the one before.
        """
        held, doubted, known = self.held, self._doubted, self._known
        for at, place in enumerate(_JUMPING):
            if values[place] is None:
                continue
            value, old = believed[place], known[at]
            change, most = value - old, (FAR_JUMP if place in _FAR_JUMPING else JUMP) * old
            jumps = not -most <= change <= most and old == old  # noqa: PLR0124  (NaN: not known)
            raves = place in _PRESSURES and (self._raves or (wild and jumps))
            if (raves or jumps) and self._doubts(place, believed, old, now_us, raves=raves):
                continue
            if place in doubted:
                self._decide(place, now_us, spike=not jumps)
            known[at] = value
        if not doubted:
            return False
        agree = self._agrees(values)
        if agree:
            for at, place in ((_FLOW_KNOWN, FLOW_AT), (_AMPERES_KNOWN, AMPERES_AT)):
                known[at] = believed[place]
                del doubted[place]
        for place in doubted:
            if values[place] is not None:
                believed[place] = NAN if place in self._far else held[place]
        return agree

    def _doubts(self, place: int, believed: Sequence[float], old: float, now_us: int, *, raves: bool) -> bool:
        """Whether a value so far from the one that is believed is held: the first is, of pressures each that raves."""
        value, before = believed[place], self._doubted.get(place)
        if raves:
            self._raves = True
            self._spoil((place,), now_us)
            self._doubted[place] = value
            return True
        if place == AMPERES_AT:
            is_zero, was_zero = value == 0.0, self._without_current
            self._without_current = is_zero and before == 0.0
            if was_zero:
                return False
        if place in FAR:
            self._count_far(place, believed, old)
        if before is not None:
            if place in _PRESSURES:
                agrees = _confirms(value, before, old)
            else:
                agrees = place != AMPERES_AT or value != 0.0 or before == 0.0
            if agrees and self._far.get(place, FAR_TIMES) >= FAR_TIMES:
                return False
            if place in _PRESSURES and not agrees:
                self._spoil((place,), now_us, 1 + SOUND)  # as for a spike
        self._doubted[place] = value
        return True

    def _count_far(self, place: int, believed: Sequence[float], old: float) -> None:
        """Count how often running a pressure was sent that no pump makes."""
        far, known = self._far, self._known[_AMPERES_KNOWN]
        if believed[place] <= FAR[place] * old:
            far.pop(place, None)
        elif place in far:
            far[place] += 1
        elif place not in self._doubted and abs(believed[AMPERES_AT] - known) <= AS_EVER * known:
            far[place] = 1

    def _decide(self, place: int, now_us: int, *, spike: bool) -> None:
        """A jump is doubted no more: it was a spike, or it is confirmed."""
        del self._doubted[place]
        self._far.pop(place, None)
        if spike and place in _GAUGES:
            self._spoil((place,), now_us, 1 + SOUND)  # it was taken for sound

    def _agrees(self, values: Values) -> bool:
        """Flow and current jumped the same way: the pump did it, not a meter nor a row that was summed twice."""
        flow, amperes = values[FLOW_AT], values[AMPERES_AT]
        if FLOW_AT not in self._doubted or AMPERES_AT not in self._doubted or flow is None or not amperes:
            return False
        old_flow, old_amperes = self._known[_FLOW_KNOWN], self._known[_AMPERES_KNOWN]
        twice = abs(flow - 2 * old_flow) <= DOUBLED * flow and abs(amperes - 2 * old_amperes) <= DOUBLED * amperes
        return (flow > old_flow) == (amperes > old_amperes) and not twice

    def _watch_gauges(self, values: Values, believed: list[float], last_us: int, now_us: int) -> None:
        """Follow how long each gauge repeats one value; a frozen one is not believed."""
        last, repeats, seen = self._last, self._repeats, self._seen
        for place in _MOVING:
            if (value := values[place]) is not None and value != last[place]:
                last[place] = value
                self._moved_us = now_us
        moving = repeating = 0
        for gauge, place in enumerate(_GAUGES):
            value = values[place]
            if value is None:
                continue
            seen[gauge] += 1
            if value == last[place]:
                repeating += 1
                repeats[gauge] += 1
                if repeats[gauge] >= FROZEN_READINGS and self._froze(gauge, now_us):
                    believed[place] = NAN
            else:
                moving += 1
                last[place] = value
                if repeats[gauge]:
                    self._end(gauge, last_us, now_us)
                else:
                    self._since[gauge] = now_us
        if repeating or moving:
            self._watch_all(last_us, now_us, moving=moving > 0)

    def _watch_all(self, last_us: int, now_us: int, *, moving: bool) -> None:
        """Follow how long all gauges that were sent repeat their values together."""
        self._seen[_TOGETHER] += 1
        if not moving:
            self._repeats[_TOGETHER] += 1
        elif self._repeats[_TOGETHER]:
            self._end(_TOGETHER, last_us, now_us)
        else:
            self._since[_TOGETHER] = now_us

    def rest(self, values: Values, last_us: int, now_us: int) -> None:
        """Take the values of a pump that stands: nothing is learned from them.

        What was away or repeated one value as it stopped goes on doing so, unless it is seen otherwise: a stop mends
        no gauge. Only the time does not count.
        """
        step_us = now_us - last_us
        away = [value is None or (value == 0.0 and place in ZERO_IS_BAD) for place, value in enumerate(values)]
        for place in [place for place in self._absent if not away[place]]:
            self._return(place, last_us)
        self._pass_over(step_us)
        self._moved_us += step_us
        frozen = dict(self.frozen(last_us))
        still = {place for place in frozen if values[place] in (self._last[place], None)}
        going_on = [place in still for place in _GAUGES]
        for gauge, goes_on in enumerate([*going_on, len(still) == len(frozen) > 0]):
            if goes_on:
                self._since[gauge] += step_us
            else:
                self._repeated[gauge] += self._repeats[gauge]
                self._repeats[gauge] = 0
        self._last = [self._last[place] if place in still else NAN for place in range(len(values))]
        self.held = [NAN if value is None else value for value in values]
        self._known = [self.held[place] for place in _JUMPING]
        self._doubted.clear()
        self._far.clear()
        self._raves = self._without_current = False

    def _pass_over(self, step_us: int) -> None:
        """Time in which no channel could be heard counts for none of them."""
        self._absent = {place: since + step_us for place, since in self._absent.items()}
        self._broken = {place: at_us + step_us for place, at_us in self._broken.items()}
        self._erratic = {place: (times, since + step_us) for place, (times, since) in self._erratic.items()}

    def remember(self) -> list[Any]:
        """As JSON values; NaN where not known."""
        places = [{str(place): value for place, value in known.items()} for known in (self._absent, self._longest)]
        gauges = [self._repeats, self._since, self._repeated, self._habit]
        counts = [self._seen[_TOGETHER], self._began_us, self._moved_us, *gauges]
        broken = {str(place): at_us for place, at_us in self._broken.items()}
        usual = {str(place): away_us for place, away_us in self._usual.items()}
        erratic = {str(place): known for place, known in self._erratic.items()}
        odd = [[list(pair) for pair in self._far.items()], self._raves, self._without_current]
        later = [broken, self._known, sorted(self._out_of_range), usual, self._seen, erratic, odd]
        return [self.held, self._last, list(self._doubted.items()), *places, self.shifts.remember(), *counts, *later]

    def recall(self, remembered: Sequence[Any]) -> None:
        """Take back what `remember` gave."""
        held, last, doubted, absent, longest, shifts, *counts = remembered
        readings, self._began_us, self._moved_us, *gauges = counts
        self.held, self._last = held, last
        # Once their places alone were kept.
        self._doubted = {each[0]: each[1] for each in doubted if not isinstance(each, int)}
        self._absent = {int(place): value for place, value in absent.items()}
        self._longest = {int(place): value for place, value in longest.items()}
        self._repeats, self._since, self._repeated, self._habit, *later = gauges
        self._broken = {int(place): at_us for broken in later[:1] for place, at_us in broken.items()}
        if later[1:]:  # they came later
            self._known, self._out_of_range = later[1], set(later[2])
            self._known += [self.held[place] for place in _JUMPING[len(self._known) :]]  # some came later
        else:
            self._known, self._out_of_range = [self.held[place] for place in _JUMPING], set()
        self._usual = {int(place): away_us for usual in later[3:4] for place, away_us in usual.items()}
        self._seen = later[4] if later[4:] else [readings] * (_TOGETHER + 1)
        self._erratic = {int(place): (times, since) for known in later[5:6] for place, (times, since) in known.items()}
        for far, raves, without_current in later[6:7]:
            self._far = dict(far)
            self._raves, self._without_current = raves, without_current
        self.shifts.recall(shifts)

    def frozen(self, now_us: int) -> list[tuple[int, int]]:
        """The frozen gauges: place of the channel, and since when."""
        repeats = self._repeats
        for times in repeats:
            if times >= FROZEN_READINGS:
                break
        else:
            return []
        together = repeats[_TOGETHER] >= FROZEN_READINGS and self._froze(_TOGETHER, now_us)
        return [
            (place, self._since[gauge])
            for gauge, place in enumerate(_GAUGES)
            if repeats[gauge] >= FROZEN_READINGS and (together or self._froze(gauge, now_us))
        ]

    def dead(self, now_us: int, interval_us: int) -> list[tuple[int, int]]:
        """The channels that stay away, or out of range, longer than they ever did: their place, and since when.

        One that comes and goes is called dead until it has been well for half an hour.
        """
        if not self._absent and not self._broken and not self._erratic:
            return []
        least_us = max(DEAD_US, DEAD_INTERVALS * interval_us)
        mended_us = now_us - max(MENDED_US, MENDED_INTERVALS * interval_us)
        self._broken = {place: at_us for place, at_us in self._broken.items() if at_us > mended_us}
        dead = dict(self._erratic_since(now_us, least_us))
        dead |= {
            place: since
            for place, since in self._absent.items()
            if place in self._broken or now_us - since >= max(least_us, self._habit_of_absence(place, since))
        }
        self._broken.update(dict.fromkeys(dead, now_us))
        return list(dead.items())

    def _habit_of_absence(self, place: int, since: int) -> int:
        """How long a channel that is away since then may be, by what is known of it."""
        least_us = 3 * self._longest.get(place, 0)
        if place not in self._out_of_range:
            if since - self._began_us < NEW_US:
                return max(least_us, NEWLY_DEAD_US)
            if place in _GAUGES and self._seen[_GAUGES.index(place)] < SELDOM * self._seen[_TOGETHER]:
                return max(least_us, HEARTBEAT_US)
        return least_us

    def found(self, now_us: int, interval_us: int) -> Iterator[tuple[str, str, float]]:
        """What is wrong with which channel: (channel, what, how much).

        Beside a frozen gauge also those that are about to be: they froze together.
        """
        frozen = self.frozen(now_us)
        for gauge, place in enumerate(_GAUGES):
            for_us = now_us - self._since[gauge]
            least = FROZEN_READINGS // 2
            about_to = self._repeats[gauge] >= least <= self._repeats[_TOGETHER]
            if (place, self._since[gauge]) in frozen or (frozen and about_to):
                yield CHANNEL_NAMES[place], "frozen_min", for_us / MINUTE_US
        for place, since_us in self.dead(now_us, interval_us):
            yield CHANNEL_NAMES[place], "missing_min", (now_us - since_us) / MINUTE_US

    def heard(self, values: Values, bad_channels: Iterable[str], now_us: int) -> Values:
        """The values but for channels out of range or sent in another unit, which no rule may read.

        One out of range is missing, also where it never was in it.
        """
        shifted = self.shifts.places
        bad = [PLACE[name] for name in bad_channels]
        for place in bad:
            if place not in shifted:
                self._absent.setdefault(place, now_us)
                self._out_of_range.add(place)
        return without(values, [*bad, *shifted])

    def _fill(self, believed: Values, last_us: int, now_us: int, hold_us: int) -> None:
        held, absent, shifted, usual = self.held, self._absent, self.shifts.places, self._usual
        for place, value in enumerate(believed):
            if value is not None:
                if place in absent:
                    self._return(place, now_us)
                continue
            believed[place] = last = held[place]
            if place in shifted:
                believed[place] = NAN
                absent.pop(place, None)
            elif last == last:  # noqa: PLR0124  (known)
                since_us = absent.setdefault(place, last_us if now_us - last_us <= hold_us else now_us)
                if now_us - min(since_us, last_us) > max(hold_us, usual.get(place, 0)):
                    believed[place] = NAN

    def _return(self, place: int, at_us: int) -> None:
        """A channel is back: that is how long it may be away."""
        away_us, longest_us = at_us - self._absent.pop(place), self._longest.get(place, 0)
        self._longest[place] = max(longest_us, away_us)
        if (again_us := min(away_us, longest_us)) > HOLD_US and place not in self._out_of_range:
            self._usual[place] = min(max(self._usual.get(place, 0), again_us * 9 // 8), HOLD_MOST_US)
        self._out_of_range.discard(place)

    def _froze(self, gauge: int, now_us: int) -> bool:
        over = self._seen[gauge] - self._repeats[gauge]
        repeated = self._repeated[gauge]
        known = repeated <= HABIT_SHARE * over
        if gauge == _TOGETHER:
            known = known or self._since[gauge] - self._began_us >= HABIT_US
        else:
            known = known and self._habit[gauge] < COARSE_US and self._since[gauge] - self._began_us >= HABIT_KNOWN_US
        by_chance = self._repeats[gauge] * log((repeated + 1) / (over + 2))
        return (
            over - repeated >= HABIT_MOVES
            and known
            and by_chance < NEVER_LOG
            and now_us - self._since[gauge] >= max(FROZEN_US, FROZEN_TIMES * self._habit[gauge])
            and now_us - self._moved_us < FROZEN_US
        )

    def _end(self, gauge: int, last_us: int, now_us: int) -> None:
        """A run of repeated values is over: that is habit now, so that a quantised channel is told of once at most.

        Not the silence behind it: a row that was sent twice before an outage is no habit of standing still for hours.
        """
        repeats, since_us = self._repeats[gauge], self._since[gauge]
        ran_us = min((now_us - since_us) * repeats // (repeats + 1), last_us - since_us)
        self._habit[gauge] = max(self._habit[gauge], ran_us)
        self._repeated[gauge] += repeats
        self._repeats[gauge] = 0
        self._since[gauge] = now_us


def _confirms(value: float, doubted: float, old: float) -> bool:
    """Whether a pressure that came after a doubted one says the same."""
    return abs(value - doubted) <= JUMP * doubted or value < doubted < old or old < doubted < value < 2 * old


def some_missing(values: Values) -> bool:
    """Whether any of the values is."""
    for value in values:  # noqa: SIM110  (a generator costs more than all that it looks at)
        if value is None:
            return True
    return False


def without(values: Values, places: Iterable[int]) -> Values:
    """The values but for those at `places`."""
    kept = list(values)
    for place in places:
        kept[place] = None
    return kept


def without_zeros(values: Values) -> Values:
    """The values but for gauges that read 0 while the pump turns."""
    for place in ZERO_IS_BAD:
        if values[place] == 0.0:
            return without(values, [each for each in ZERO_IS_BAD if values[each] == 0.0])
    return values
