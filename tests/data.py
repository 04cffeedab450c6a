"""Data sets that are not in the repository; tests on them skip where they are not."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(os.environ.get("ESP_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
ESP01 = FOLDER / "esp01" / "esp01_120d.csv"
"""120 days of a real pump, 34 560 readings."""
