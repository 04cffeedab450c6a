"""The daemon behind a bad wire: to the database, and to the broker. Readings are numbered and counted at the end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import asyncpg
import pytest
from faults.chaos import Chaos
from faults.load import Load
from faults.wire import Wire
from peer import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services import Services


class Site(Chaos):
    """Broker, database, daemon, with wires between them."""

    def metric(self, name: str) -> float:
        return self.daemon.metrics().get(f"esp_ingestd_{name}", 0.0)

    def await_more(self, name: str, by: float = 1.0) -> None:
        before = self.metric(name)
        self.await_that(lambda: self.metric(name) >= before + by)

    def await_cut(self, wire: Wire, sent_bytes: int) -> None:
        """Cut in the middle, and see the daemon come back."""
        cuts = len(wire.cut_at)
        wire.cut_after(sent_bytes)
        self.await_that(lambda: len(wire.cut_at) > cuts)
        self.await_that(lambda: wire.connections > wire.cut_at[-1])

    def finish(self) -> None:
        self.load.stopping.set()
        self.load.join(PATIENCE_S)
        self.await_that(self.is_at_rest)

    async def missing(self) -> int:
        connection = await asyncpg.connect(self.database.dsn)
        rows = await connection.fetch(
            "SELECT well_id, (extract(epoch FROM timestamp) * 1000)::bigint FROM esp_telemetry"
        )
        await connection.close()
        found = set(map(tuple, rows))
        return sum(self.field.key(number) not in found for number in range(self.load.numbered))


@pytest.fixture
def wired(tmp_path: Path, services: Services) -> Iterator[tuple[Site, Wire, Wire]]:
    """A site under load; the wires to its database and its broker."""
    site = Site(tmp_path, services, seconds=0, rate=500, wells=10, seed=0)
    with site.broker, site.database, Wire(site.database.port) as to_database, Wire(site.broker.port) as to_broker:
        site.daemon = site.make_daemon()
        text = site.daemon.config.read_text()
        text = text.replace(f"port = {site.broker.port}\n", f"port = {to_broker.port}\nkeepalive_s = 5\n", 1)
        site.daemon.config.write_text(text.replace(f":{site.database.port}/", f":{to_database.port}/"))
        site.daemon.start()
        site.await_that(lambda: site.metric("mqtt_connected") == 1 and site.metric("database_connected") == 1)
        site.load = Load(site.broker.port, site.field, site.rate)
        site.load.start()
        site.await_more("readings_stored_total")
        try:
            yield site, to_database, to_broker
        finally:
            site.daemon.kill(signal.SIGTERM)


def test_i1_a_wire_to_the_database_cut_in_the_middle_of_copy(wired: tuple[Site, Wire, Wire]) -> None:
    site, to_database, _ = wired
    for sent_bytes in (1, 100, 3_000, 20_000, 50_000):
        site.await_cut(to_database, sent_bytes)
        site.await_more("readings_stored_total")
    site.finish()
    assert asyncio.run(site.missing()) == 0
    assert site.metric('store_errors_total{kind="connection"}') >= 3


def test_i1_a_database_that_neither_answers_nor_closes(wired: tuple[Site, Wire, Wire]) -> None:
    site, to_database, _ = wired
    to_database.stall()
    # A batch may go to the spool for being slow, before the one that is being written is given up.
    site.await_that(lambda: site.metric('store_errors_total{kind="timeout"}') >= 1)
    site.await_that(lambda: site.metric("readings_spooled") > 0 and site.metric("database_connected") == 0)
    to_database.flow()
    site.await_that(lambda: site.metric("readings_spooled") == 0)
    site.finish()
    assert asyncio.run(site.missing()) == 0


def test_a_slow_database_delays_and_loses_nothing(wired: tuple[Site, Wire, Wire]) -> None:
    site, to_database, _ = wired
    to_database.slow(0.05)
    site.await_more("readings_stored_total", 500)
    to_database.slow(0.0)
    site.finish()
    assert asyncio.run(site.missing()) == 0


def test_i1_a_wire_to_the_broker_that_drops_half_a_packet(wired: tuple[Site, Wire, Wire]) -> None:
    site, _, to_broker = wired
    for sent_bytes in (1, 3, 50, 500):
        site.await_cut(to_broker, sent_bytes)
        site.await_more("readings_stored_total")
    site.finish()
    assert asyncio.run(site.missing()) == 0


def test_a_broker_that_falls_silent_is_noticed_and_left(wired: tuple[Site, Wire, Wire]) -> None:
    site, _, to_broker = wired
    to_broker.stall()
    site.await_that(lambda: site.metric("mqtt_connected") == 0)
    to_broker.flow()
    site.await_that(lambda: site.metric("mqtt_connected") == 1)
    site.finish()
    assert asyncio.run(site.missing()) == 0
