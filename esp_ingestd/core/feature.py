"""The features: every quantity that a question of the decision tree may ask about, by name and place.

A well's features are one flat list of floats in the order of FEATURES. A feature that cannot be known (a channel is
missing or bad, a baseline is still being learned, a setting is not given) is NaN: every comparison with it is false,
so it can neither raise nor clear an alarm. The tree turns that into *not assessable*.
"""

from typing import Final, NamedTuple

NAN: Final = float("nan")

# Operating states, one bit each, so that a question's states are one mask.
UNKNOWN: Final = 0
OFF: Final = 1
STARTING: Final = 2
WARM_UP: Final = 4
TRANSIENT: Final = 8
RUNNING: Final = 16
TRIP: Final = 32

STATES: Final = {
    "off": OFF,
    "starting": STARTING,
    "warm-up": WARM_UP,
    "transient": TRANSIENT,
    "running": RUNNING,
    "trip": TRIP,
}
STATE_NAMES: Final = {UNKNOWN: "unknown", **{bit: name for name, bit in STATES.items()}}
TURNING: Final = STARTING | WARM_UP | TRANSIENT | RUNNING


class Feature(NamedTuple):
    """One quantity of a well that a question may ask about."""

    name: str
    unit: str
    describes: str
    instant: bool
    """True: known at each reading. False: known whenever the well's windows are worked out, at most once a minute."""


FEATURES: Final = (
    Feature("vsd_frequency", "Hz", "output frequency of the drive", instant=True),
    Feature("motor_current", "A", "motor current", instant=True),
    Feature("motor_temp", "degC", "motor winding temperature", instant=True),
    Feature("flow_rate", "bbl/d", "liquid rate at surface", instant=True),
    Feature("load", "1", "motor current over nameplate current", instant=True),
    Feature("trip_margin", "K", "trip temperature less motor temperature", instant=True),
    Feature("current_unbalance", "%", "unbalance of the phase currents", instant=True),
    Feature("voltage_unbalance", "%", "unbalance of the phase voltages", instant=True),
    Feature("insulation_resistance", "MOhm", "insulation resistance to ground", instant=True),
)
FEATURE_INDEX: Final = {feature.name: index for index, feature in enumerate(FEATURES)}
INSTANT_COUNT: Final = sum(feature.instant for feature in FEATURES)
