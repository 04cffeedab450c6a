"""Decision tree and wells file read anew while the daemon runs: a real process, broker and database."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from daemon import Daemon
from peer import PATIENCE_S, Peer, until

from esp_ingestd.core.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services import BrokerAddress, FreshDatabase

TREE = (Path(__file__).parents[2] / "config" / "decision_tree.toml").read_text()
WELLS = "[defaults]\nnameplate_current_a = 100.0\nsettle_s = 0.0\ntransient_hold_s = 0.0\n"


def changed(before: str, after: str) -> str:
    """The tree that ships, with something else in the place of a text that it surely holds."""
    assert before in TREE
    return TREE.replace(before, after)


def tree_without(name: str) -> str:
    """The tree that ships, less a diagnosis."""
    parts = TREE.split("[[diagnosis]]\n")
    kept = [part for part in parts if not part.startswith(f'name = "{name}"')]
    assert len(kept) == len(parts) - 1
    return "[[diagnosis]]\n".join(kept)


pytestmark = pytest.mark.best_edition


@pytest.fixture
def daemon(daemon: Daemon, tmp_path: Path) -> Daemon:
    (tmp_path / "tree.toml").write_text(TREE)
    (tmp_path / "wells.toml").write_text(WELLS)
    daemon.settings["diagnosis"] = {"tree_file": "tree.toml", "wells_file": "wells.toml"}
    return daemon


class Field:
    """One well, a reading every 10 s of event time, up to now; and what is told of it."""

    def __init__(self, broker: BrokerAddress, prefix: str) -> None:
        self.scada = Peer(broker, subscribe=f"{prefix}/alerts/#")
        self._prefix = prefix
        self._at_s = int(time.time()) - 80_000

    def send(self, count: int, **channels: float) -> None:
        messages = []
        for _ in range(count):
            self._at_s += 10
            pip = 900.0 + self._at_s % 7 / 10  # no gauge says the same twice
            values = {"motor_current": 70.0, "vsd_frequency": 60.0, "pip": pip, **channels}
            messages.append((f"{self._prefix}/W1/telemetry", json.dumps({"timestamp": self._at_s, **values})))
        self.scada.publish_all(messages)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(each.payload) for each in self.scada.messages if each.topic.endswith("/events")]

    def told(self) -> list[str]:
        return [f"{each['transition']} {each['diagnosis']} {each['reason']}".strip() for each in self.events()]


@pytest.fixture
def field(broker: BrokerAddress, prefix: str) -> Iterator[Field]:
    made = Field(broker, prefix)
    with made.scada:
        yield made


async def reload(daemon: Daemon, *, taken: bool) -> dict[str, Any]:
    """Send SIGHUP; what the daemon said to it."""
    said = "reloaded" if taken else "reload refused: everything stays as it was"
    before = sum(line["event"] == said for line in daemon.said())
    daemon.send(signal.SIGHUP)
    await until(lambda: sum(line["event"] == said for line in daemon.said()) > before, said)
    assert daemon.metrics()["config_last_reload_successful"] == taken
    return [line for line in daemon.said() if line["event"] == said][-1]


async def until_cleared_everywhere(daemon: Daemon, field: Field, topic: str, migrated: FreshDatabase) -> None:
    """At the broker, in the metrics and in the table."""
    await until(
        lambda: [json.loads(m.payload)["state"] for m in field.scada.messages if m.topic == topic][-1] == "cleared"
    )
    await until(lambda: daemon.metrics()["alarms_active"] == 0)
    await until_none("active_alarms", migrated)


async def until_none(rows: str, migrated: FreshDatabase) -> None:
    """Wait until the database has no such rows."""
    connection = await asyncpg.connect(migrated.dsn)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while await connection.fetchval(f"SELECT count(*) FROM {rows}"):  # noqa: ASYNC110, S608 - another process; ours
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


def version_in_force(daemon: Daemon) -> str:
    (version,) = (name for name in daemon.metrics() if name.startswith("build_info{") and "." not in name)
    return version.removeprefix("build_info{").removesuffix("}")


async def test_a_new_limit_is_in_force_and_standing_alarms_keep_their_ids(daemon: Daemon, field: Field) -> None:
    daemon.start()
    await until(daemon.is_ready)
    field.send(10)
    field.send(10, current_unbalance=7.0)
    await until(lambda: field.told() == ["raised ELECTRICAL_FAULT"])
    tree = changed("1.15 < load", "1.05 < load").replace("Are the phases out of balance?", "Out of balance?")
    (daemon.folder / "tree.toml").write_text(tree)
    line = await reload(daemon, taken=True)
    assert (line["tree_version"], line["alarms_ended"]) == (Tree.parse(tree).version, 0)
    assert version_in_force(daemon) == Tree.parse(tree).version != Tree.parse(TREE).version

    field.send(10, current_unbalance=7.0, motor_current=110.0)
    await until(lambda: field.told()[1:] == ["raised OVERLOAD"])
    assert field.events()[-1]["tree_version"] == Tree.parse(tree).version
    field.send(80, current_unbalance=1.0, voltage_unbalance=1.0)
    await until(lambda: len(field.told()) == 4, "both are cleared")
    raised = {each["diagnosis"]: each["alarm_id"] for each in field.events()[:2]}
    assert {each["diagnosis"]: each["alarm_id"] for each in field.events()[2:]} == raised


async def test_settings_and_units_of_a_well_take_effect_with_its_next_reading(
    daemon: Daemon, field: Field, migrated: FreshDatabase
) -> None:
    daemon.start()
    await until(daemon.is_ready)
    field.send(10, motor_current=110.0)
    await until(lambda: daemon.at_rest(10))
    (daemon.folder / "wells.toml").write_text(
        WELLS + '[wells."W1"]\nnameplate_current_a = 90.0\nunits = { pip = "kPa" }\n'
    )
    await reload(daemon, taken=True)
    field.send(10, motor_current=110.0, pip=700.0)
    await until(lambda: field.told() == ["raised OVERLOAD"])
    await until(lambda: daemon.at_rest(20))
    connection = await asyncpg.connect(migrated.dsn)
    try:
        found = await connection.fetch("SELECT DISTINCT round(pip::numeric, -1) FROM esp_telemetry ORDER BY 1")
    finally:
        await connection.close()
    assert [int(row[0]) for row in found] == [100, 900]


async def test_what_is_wrong_is_refused_whole_with_every_fault_in_one_line(daemon: Daemon, field: Field) -> None:
    daemon.start()
    await until(daemon.is_ready)
    field.send(10)
    field.send(10, motor_current=120.0)
    await until(lambda: field.told() == ["raised OVERLOAD"])
    before = version_in_force(daemon), daemon.metrics()["config_last_reload_success_timestamp_seconds"]
    (daemon.folder / "tree.toml").write_text(
        changed("1.15 < load", "1.15 < lood").replace("off_delay_s = 60", "of_s = 60", 1)
    )
    (daemon.folder / "wells.toml").write_text("[defaults]\nnameplate_current_a = -1\n")
    faults = "\n".join((await reload(daemon, taken=False))["faults"])
    for fault in ("unknown feature 'lood'", "unknown key 'of_s'", "nameplate_current_a = -1"):
        assert fault in faults
    (daemon.folder / "tree.toml").unlink()
    assert "cannot be read" in str((await reload(daemon, taken=False))["faults"])
    after = version_in_force(daemon), daemon.metrics()["config_last_reload_success_timestamp_seconds"]
    assert after == before

    field.send(40, motor_current=70.0)
    await until(lambda: field.told()[1:] == ["cleared OVERLOAD returned"])
    (daemon.folder / "tree.toml").write_text(TREE)
    (daemon.folder / "wells.toml").write_text(WELLS)
    await reload(daemon, taken=True)


async def test_an_alarm_that_is_asked_about_no_more_is_cleared_everywhere(
    daemon: Daemon, field: Field, prefix: str, migrated: FreshDatabase
) -> None:
    daemon.start()
    await until(daemon.is_ready)
    field.send(10)
    field.send(10, motor_current=120.0)
    await until(lambda: field.told() == ["raised OVERLOAD"])
    (daemon.folder / "wells.toml").write_text(WELLS + 'enabled_rules = ["STALL"]\n')
    assert (await reload(daemon, taken=True))["alarms_ended"] == 1
    await until(lambda: field.told()[1:] == ["cleared OVERLOAD reset"])
    await until_cleared_everywhere(daemon, field, f"{prefix}/alerts/W1/state/OVERLOAD", migrated)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("lost", ["tree", "wells"])
async def test_an_alarm_that_a_restart_asks_about_no_more_is_cleared_everywhere_and_once(
    daemon: Daemon, field: Field, prefix: str, migrated: FreshDatabase, lost: str, *, killed: bool
) -> None:
    """Nobody hears of the well again: the restart alone ends its alarm."""
    daemon.start()
    await until(daemon.is_ready)
    field.send(10)
    field.send(10, motor_current=120.0)
    await until(lambda: field.told() == ["raised OVERLOAD"])
    await until(lambda: daemon.at_rest(20))
    # Killed before it is marked as told, an event is told again, by the same id.
    await until_none("diagnostic_results WHERE published_at IS NULL", migrated)
    await (daemon.kill() if killed else daemon.stop())
    if lost == "tree":
        (daemon.folder / "tree.toml").write_text(tree_without("OVERLOAD"))
    else:
        (daemon.folder / "wells.toml").write_text(WELLS + 'enabled_rules = ["STALL"]\n')
    daemon.start()
    await until(lambda: field.told()[1:] == ["cleared OVERLOAD reset"])
    raised, cleared = field.events()
    assert cleared["alarm_id"] == raised["alarm_id"]
    assert cleared["comment"] == "not asked any more: decision tree or wells file have changed"
    await until_cleared_everywhere(daemon, field, f"{prefix}/alerts/W1/state/OVERLOAD", migrated)
    (line,) = (each for each in daemon.said() if each["event"].startswith("alarms ended"))
    assert line["alarms_ended"] == 1

    await daemon.stop()
    daemon.start()
    await until(daemon.is_ready)
    field.send(10, motor_current=120.0)
    await until(lambda: daemon.at_rest(10))
    assert field.told() == ["raised OVERLOAD", "cleared OVERLOAD reset"]


async def test_other_settings_wait_for_a_restart_and_that_is_said(daemon: Daemon) -> None:
    daemon.start()
    await until(daemon.is_ready)
    daemon.settings["batch"] = {"max_rows": 77}
    daemon.settings["mqtt"]["host"] = "elsewhere"
    daemon.settings["diagnosis"] = {"wells_file": "wells.toml"}
    daemon.write_config()
    line = await reload(daemon, taken=True)
    assert line["tree_version"] == Tree.parse(TREE).version
    (warned,) = [each for each in daemon.said() if "restart" in each["event"]]
    assert warned["settings"] == ["mqtt.host", "batch.max_rows"]
    assert daemon.is_ready()
    daemon.config.write_text("[mqtt\n")
    assert "is no TOML" in str((await reload(daemon, taken=False))["faults"])


async def test_a_storm_of_reloads_under_load_loses_and_repeats_nothing(daemon: Daemon, field: Field) -> None:
    daemon.start()
    await until(daemon.is_ready)
    field.send(10)
    field.send(10, motor_current=120.0)
    await until(lambda: field.told() == ["raised OVERLOAD"])
    trees = [TREE, changed("1.15 < load", "1.12 < load"), changed("1.15 < load", "lood"), "[["]
    for number in range(40):
        (daemon.folder / "tree.toml").write_text(trees[number % 4])
        for _ in range(5):
            daemon.send(signal.SIGHUP)
        field.send(50, motor_current=120.0)
    (daemon.folder / "tree.toml").write_text(TREE)
    await until(lambda: daemon.at_rest(2020), "all readings are dealt with")
    await reload(daemon, taken=True)
    assert daemon.metrics()["readings_stored_total"] == 2020
    field.send(40)
    await until(lambda: field.told()[1:], "told")
    assert field.told() == ["raised OVERLOAD", "cleared OVERLOAD returned"]
    assert len({each["alarm_id"] for each in field.events()}) == 1
    assert version_in_force(daemon) == Tree.parse(TREE).version
    assert await daemon.stop() == 0


async def test_a_hangup_at_any_moment_of_the_start_ends_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path, None, "postgresql://nobody@127.0.0.1:1/none", client_id="c", prefix="p") as daemon:
        await until(lambda: daemon.log.exists() and "starting" in daemon.log.read_text())
        daemon.send(signal.SIGHUP)
        await until(lambda: any(line["event"] == "reloaded" for line in daemon.said()))
        assert daemon.get("/health/live")[0] == 200
        assert await daemon.stop() == 0
