"""The features: every quantity that a question of the decision tree may ask about, by name and place.

A well's features are one flat list of floats in the order of FEATURES. A feature that cannot be known (a channel is
missing or bad, a baseline is still being learned, a setting is not given) is NaN: every comparison with it is false,
so it can neither raise nor clear an alarm. The tree turns that into *not assessable*.

Features end in `_ratio` where the newest minute is set against the well's own baseline, in `_mean` where the last half
hour is, and in `_reference` where half a day (of vibration an hour) is set against what the well was when it was new.
Each reads exactly 1 (a difference 0) while it is within four spreads of its baseline (a reference two, since half a day
varies less), so that no limit lies inside a well's own noise. Those that end in `_hour` do so only within what a change
of speed may have done: they do not say whether something moved, but what moved more than what.
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

_RELATIVE: Final = {"temp_rise", "current_spikes", "pip_slope", "channels_astray", "temp_halfway", "unit_shifts"}


class Feature(NamedTuple):
    """One quantity of a well that a question may ask about."""

    name: str
    unit: str
    describes: str
    instant: bool = False
    """True: known at each reading. False: known whenever the well's windows are worked out, at most once a minute."""

    @property
    def is_relative(self) -> bool:
        """Whether it compares the well with its own normal, as that was learned."""
        return self.name.endswith(("_ratio", "_mean", "_reference", "_usual")) or self.name in _RELATIVE


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
    Feature("clock_ahead_s", "s", "how far the timestamp is ahead of arrival; below 0: steadily behind", instant=True),
    Feature("silence_s", "s", "how long nothing has come, once that is longer than allowed; else 0", instant=True),
    Feature("flow_ratio", "1", "flow over its baseline, newest minute"),
    Feature("pip_ratio", "1", "intake pressure over its baseline, newest minute"),
    Feature("current_ratio", "1", "motor current over its baseline, newest minute"),
    Feature("temp_rise", "K", "motor temperature over its baseline, newest minute"),
    Feature("vibration_ratio", "1", "vibration over its baseline, newest minute"),
    Feature("torque_ratio", "1", "torque over its baseline, newest minute"),
    Feature("gor_ratio", "1", "gas-oil ratio over its baseline, newest minute"),
    Feature("head_ratio", "1", "pressure over the pump over its baseline, newest minute"),
    Feature("wellhead_ratio", "1", "wellhead pressure over its baseline, newest minute"),
    Feature("casing_ratio", "1", "casing pressure over its baseline, newest minute"),
    Feature("flow_mean", "1", "flow over its baseline, half an hour"),
    Feature("pip_mean", "1", "intake pressure over its baseline, half an hour"),
    Feature("current_mean", "1", "motor current over its baseline, half an hour"),
    Feature("temp_mean", "K", "motor temperature over its baseline, half an hour"),
    Feature("vibration_mean", "1", "vibration over its baseline, half an hour"),
    Feature("torque_mean", "1", "torque over its baseline, half an hour"),
    Feature("gor_mean", "1", "gas-oil ratio over its baseline, half an hour"),
    Feature("head_mean", "1", "pressure over the pump over its baseline, half an hour"),
    Feature("wellhead_mean", "1", "wellhead pressure over its baseline, half an hour"),
    Feature("casing_mean", "1", "casing pressure over its baseline, half an hour"),
    Feature("flow_reference", "1", "flow, half a day, over what it was when the well was new"),
    Feature("pip_reference", "1", "intake pressure, half a day, over what it was when the well was new"),
    Feature("current_reference", "1", "motor current, half a day, over what it was when the well was new"),
    Feature("temp_reference", "K", "motor temperature, half a day, over what it was when the well was new"),
    Feature("vibration_reference", "1", "vibration, an hour, over what it was when the well was new"),
    Feature("head_reference", "1", "pressure over the pump, half a day, over what it was when the well was new"),
    Feature("current_cv", "%", "coefficient of variation of the motor current, half an hour"),
    Feature("flow_cv", "%", "coefficient of variation of the flow, half an hour"),
    Feature("current_cv_usual", "%", "its own usual value"),
    Feature("flow_cv_usual", "%", "its own usual value"),
    Feature("current_spikes", "1", "readings of the last half hour a tenth above the baseline current"),
    Feature("pip_slope", "1/h", "change of intake pressure over half an hour, against its baseline"),
    Feature("temp_rate", "K/10 min", "change of motor temperature over half an hour"),
    Feature("vibration_sustained", "1", "vibration over 0.5 g, 2.5 mm/s or 0.1 in/s, half an hour"),
    Feature("current_step", "1", "motor current after its last sudden change over that before it"),
    Feature("current_step_min", "min", "how long ago that was"),
    Feature("current_cv_after", "%", "coefficient of variation of the motor current since then"),
    Feature("current_cv_before", "%", "that of the half hour before it"),
    Feature("pressure_moved_before", "%", "how far intake pressure or head had moved in the half hour before it"),
    Feature("channels_astray", "1", "how many of flow, head, intake pressure and current left 0.85 to 1.15"),
    Feature("temp_halfway", "1", "way of the motor temperature from its baseline (0) to the trip temperature (1)"),
    Feature("vibration_level", "1", "vibration over 0.5 g, 2.5 mm/s or 0.1 in/s, newest minute"),
    Feature("intake_margin", "psi", "intake pressure less the well's minimum"),
    Feature("run_min", "min", "how long the pump has been turning"),
    Feature("healthy_run", "1", "1 once this run has lifted as it should, else 0"),
    Feature("interval_min", "min", "usual time between two readings"),
    Feature("flow_hour", "1", "flow over its baseline, some hours, to the last percent"),
    Feature("pip_hour", "1", "intake pressure over its baseline, some hours, to the last percent"),
    Feature("current_hour", "1", "motor current over its baseline, some hours, to the last percent"),
    Feature("head_hour", "1", "pressure over the pump over its baseline, some hours, to the last percent"),
    Feature("current_cv_hour", "%", "coefficient of variation of the motor current, some hours"),
    Feature("flow_turn", "1", "flow, half an hour, over what it was in the last half day"),
    Feature("pip_turn", "1", "intake pressure, half an hour, over what it was in the last half day"),
    Feature("current_turn", "1", "motor current, half an hour, over what it was in the last half day"),
    Feature("head_turn", "1", "pressure over the pump, half an hour, over what it was in the last half day"),
    Feature("unplanned_stop", "1", "from a stop that nobody asked for to the next start how sure that is, else 0"),
    Feature("frozen_channels", "1", "gauge channels that repeat one value longer than they ever did"),
    Feature("dead_channels", "1", "channels that stay away or implausible"),
    Feature("unit_shifts", "1", "channels that look as if sent in another unit"),
    Feature("load_before_stop", "1", "motor current over nameplate current in the last reading before the stop"),
    Feature("current_before_stop", "1", "motor current over its baseline in the last minute before the stop"),
    Feature("margin_before_stop", "K", "trip temperature less motor temperature in the last reading before the stop"),
)
FEATURE_INDEX: Final = {feature.name: index for index, feature in enumerate(FEATURES)}
INSTANT_COUNT: Final = sum(feature.instant for feature in FEATURES)
