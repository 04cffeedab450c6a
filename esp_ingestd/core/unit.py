"""Units that RTUs send, and what makes them the contract's.

value_in_contract_unit = value * factor + offset. Source of the factors: NIST SP 811, appendix B.8, and the
definitions of barrel (42 US gallons = 0.158987294928 m3) and standard cubic foot (0.028316846592 m3).
"""

from typing import Final, NamedTuple

from esp_ingestd.core.reading import CHANNELS


class Conversion(NamedTuple):
    """A linear change of unit."""

    factor: float
    offset: float = 0.0

    def apply(self, value: float) -> float:
        """`value` of an RTU's unit in the contract's unit."""
        return value * self.factor + self.offset


_PSI_PA: Final = 6_894.757293168
_BARREL_M3: Final = 0.158987294928
_CUBIC_FOOT_M3: Final = 0.028316846592

# Contract unit -> the units that are converted into it.
CONVERSIONS: Final[dict[str, dict[str, Conversion]]] = {
    "psi": {
        "psi": Conversion(1.0),
        "Pa": Conversion(1 / _PSI_PA),
        "kPa": Conversion(1e3 / _PSI_PA),
        "MPa": Conversion(1e6 / _PSI_PA),
        "bar": Conversion(1e5 / _PSI_PA),
        "kgf/cm2": Conversion(98_066.5 / _PSI_PA),
    },
    "degC": {
        "degC": Conversion(1.0),
        "degF": Conversion(5 / 9, -160 / 9),
        "K": Conversion(1.0, -273.15),
    },
    "bbl/d": {
        "bbl/d": Conversion(1.0),
        "m3/d": Conversion(1 / _BARREL_M3),
        "m3/h": Conversion(24 / _BARREL_M3),
        "l/s": Conversion(86.4 / _BARREL_M3),
    },
    "N.m": {"N.m": Conversion(1.0), "kN.m": Conversion(1e3), "lbf.ft": Conversion(1.3558179483314)},
    "scf/bbl": {"scf/bbl": Conversion(1.0), "m3/m3": Conversion(_BARREL_M3 / _CUBIC_FOOT_M3)},
    "MOhm": {
        "MOhm": Conversion(1.0),
        "kOhm": Conversion(1e-3),
        "GOhm": Conversion(1e3),
        "Ohm": Conversion(1e-6),
    },
    "A": {"A": Conversion(1.0), "mA": Conversion(1e-3)},
    "Hz": {"Hz": Conversion(1.0), "rpm": Conversion(1 / 60)},
    "%": {"%": Conversion(1.0), "1": Conversion(100.0)},
}
CHANNEL_CONVERSIONS: Final[dict[str, dict[str, Conversion]]] = {
    channel.name: CONVERSIONS.get(channel.unit, {}) for channel in CHANNELS
}
