"""The services that the other tests stand on do what those rely on."""

from __future__ import annotations

import asyncpg
import pytest
from services import EDITIONS, FreshDatabase, Services


@pytest.mark.parametrize("group", [*EDITIONS, "mosquitto"])
def test_the_group_can_be_had(services: Services, group: str) -> None:
    """Says in every run's summary which groups of tests were left out, and why."""
    services.skip_unless_offered(group)


async def test_a_fresh_database_is_of_its_edition(database: FreshDatabase) -> None:
    connection = await asyncpg.connect(database.dsn)
    try:
        extension = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
        licence = await connection.fetchval("SELECT current_setting('timescaledb.license', true)")
    finally:
        await connection.close()
    assert (extension is not None) == (database.edition != "postgresql")
    assert licence == {"postgresql": None, "timescaledb-apache": "apache"}.get(database.edition, "timescale")


async def test_an_empty_database_has_no_extension_yet(empty_database: FreshDatabase) -> None:
    connection = await asyncpg.connect(empty_database.dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 0
    finally:
        await connection.close()
