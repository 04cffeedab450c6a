from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults.wellsite import Site, add_role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import OwnBroker, OwnDatabase


@pytest.fixture
async def site(tmp_path: Path, own_broker: OwnBroker, own_database: OwnDatabase) -> AsyncIterator[Site]:
    """Not started yet."""
    server = own_database(settings={"max_connections": "8", "superuser_reserved_connections": "3"})
    await add_role(server.dsn)
    made = Site(tmp_path, own_broker(), server)
    yield made
    made.daemon.__exit__()
