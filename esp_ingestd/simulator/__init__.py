"""A simulated field of pumped wells: physics, faults entered as causes, and the payloads that RTUs would send.

`Field` is the face: `step()` gives the readings of the next instant. Nothing in here reads a clock or does I/O.
Read design.py (what a well is made of), physics.py (how it behaves), faults.py (what goes wrong), field.py.
"""

from esp_ingestd.simulator.faults import FAULT_KINDS, Fault, parse_fault
from esp_ingestd.simulator.field import Field

__all__ = ["FAULT_KINDS", "Fault", "Field", "parse_fault"]
