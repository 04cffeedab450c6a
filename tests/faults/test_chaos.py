from __future__ import annotations

from typing import TYPE_CHECKING

from faults.chaos import Chaos

if TYPE_CHECKING:
    from pathlib import Path

    from services import Services


def test_i1_a_short_run_of_chaos_loses_doubles_and_invents_nothing(tmp_path: Path, services: Services) -> None:
    """Readings, dead letters, and alarms as told, as kept, as marked, as standing and as retained."""
    result = Chaos(tmp_path, services, seconds=15, rate=1_000, wells=20, seed=216).run()
    assert result.faults["daemon_killed_writing"]  # the one that shows an acknowledgement that came too early
    assert result.is_flawless, result.table()
    assert all(each.expected for each in result.counts.values()), result.table()
    assert result.peak_mb < 300, result.table()
