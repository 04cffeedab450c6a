"""Wells of the independent simulator, read at any sampling, with any channels left out, and what is told of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from core.test_diagnosis import TREE

from esp_ingestd.core.alarm import AlarmEvent
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.reading import SECOND_US
from esp_ingestd.core.tree import Tree
from esp_ingestd.core.well import WellSettings
from esp_ingestd.simulator import Fault, Field

MINUTE_S = 60.0
HOUR_S = 3600.0
FIELD_START_US = 1_760_000_000 * SECOND_US
Soil = Callable[[float, dict[str, Any]], dict[str, Any] | None]
"""What becomes of a payload on its way, by the seconds since the onset; None: it is lost."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event, and how long after the onset it was told, by event time."""

    after_s: float
    event: AlarmEvent

    def __str__(self) -> str:
        return f"{self.event.transition} {self.event.diagnosis}"


class Series(NamedTuple):
    """What a field sent, instant by instant, whoever asks: many tests soil the same series."""

    field: Field
    instants: list[tuple[int, list[tuple[str, dict[str, Any]]]]]
    """Event time in microseconds, and the payload of each well."""


@lru_cache(maxsize=16)
def simulated(
    kind: str | Fault | None,
    interval_s: float,
    *,
    wells: int,
    settled_s: float,
    after_s: float,
    began_s: float,
    seed: int,
) -> Series:
    """The payloads of `play`."""
    fault = Fault(kind) if isinstance(kind, str) else kind
    faults = [replace(fault, well=number + 1, at_s=began_s) for number in range(wells)] if fault else []
    field = Field(wells + 1, start_us=FIELD_START_US, seed=seed, faults=faults, interval_s=interval_s)
    instants = []
    for _ in range(int((settled_s + after_s) / interval_s)):
        now_us = field.now_us
        instants.append((now_us, [(well_id, json.loads(sent)) for well_id, sent in field.step()]))
    return Series(field, instants)


def settings_of(field: Field) -> dict[str, WellSettings]:
    """What the wells file says of each well."""
    return {
        well_id: WellSettings(
            nameplate_current_a=well.design.motor.nameplate_a, trip_temperature_c=well.design.motor.trip_c
        )
        for well_id, well in zip(field.well_ids, field.wells, strict=True)
    }


def play(
    kind: str | Fault | None,
    interval_s: float,
    *,
    wells: int = 2,
    settled_s: float | None = None,
    after_s: float | None = None,
    onset: float = 0.4,
    without: Sequence[str] = (),
    soil: Soil = lambda _, payload: payload,
    settings: Mapping[str, WellSettings] | None = None,
    delay_s: Callable[[float], float] = lambda _: 0.0,
    seed: int = 1,
    tree: Tree = TREE,
) -> list[list[Told]]:
    """What is told of each well: `settled_s` of health, then the fault; one more well stays healthy at the end.

    Args:
        kind: of the simulator's faults, or one with a ramp or severity of its own; None: nothing goes wrong.
        interval_s: between two readings of a well.
        wells: how many have the fault.
        settled_s: until the onset; None: 12 h (4 h of readings closer than a minute), or 40 readings.
        after_s: until the end; None: 4 h, or 20 readings.
        onset: of an interval after a reading.
        without: channels that no well has.
        soil: changes the payloads of the wells with the fault.
        settings: None: nameplate and trip temperature of each motor.
        delay_s: by the seconds since the onset, how much later a reading arrives.
        seed: of the field.
        tree: the one that ships, or another one.
    """
    settled_s = max((12 if interval_s >= MINUTE_S else 4) * HOUR_S, 40 * interval_s) if settled_s is None else settled_s
    after_s = max(4 * HOUR_S, 20 * interval_s) if after_s is None else after_s
    began_s = settled_s + onset * interval_s
    field, instants = simulated(
        kind, interval_s, wells=wells, settled_s=settled_s, after_s=after_s, began_s=began_s, seed=seed
    )
    known = settings_of(field) if settings is None else settings
    diagnostician = Diagnostician(tree, lambda well_id: known.get(well_id, WellSettings()))
    decoder = Decoder(("esp/{well_id}/telemetry",))
    told: dict[str, list[Told]] = {well_id: [] for well_id in field.well_ids}

    def tell(events: Sequence[AlarmEvent]) -> None:
        for event in events:
            assert "?" not in event.message, "a text with a figure that is not known"
            told[event.well_id].append(Told((event.timestamp_us - FIELD_START_US) / SECOND_US - began_s, event))

    for now_us, payloads in instants:
        since_s = (now_us - FIELD_START_US) / SECOND_US - began_s
        tell(diagnostician.pass_time(now_us))
        for well_id, sent in payloads:
            payload = {name: value for name, value in sent.items() if name not in without}
            soiled = soil(since_s, payload) if well_id != field.well_ids[-1] else payload
            if soiled is not None:
                arrived_us = now_us + int(delay_s(since_s) * SECOND_US)
                decoded = decoder.decode(f"esp/{well_id}/telemetry", json.dumps(soiled).encode(), arrived_us)
                for reading in decoded.readings:
                    tell(diagnostician.observe(reading))
    *ailing, healthy = told.values()
    assert not healthy, [str(each) for each in healthy]
    assert not [str(each) for well in ailing for each in well if each.after_s < 0]
    return ailing


def raised(told: Sequence[Told]) -> list[str]:
    """The diagnoses in the order in which they were raised."""
    return [each.event.diagnosis for each in told if each.event.transition == "raised"]
