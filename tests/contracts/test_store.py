"""What the pipeline relies on in a store, held by the fake and by the real database on every edition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fakes import FakeStore
from pydantic import SecretStr

from esp_ingestd.config import DatabaseSettings
from esp_ingestd.core.batch import Batch, Batcher, Trigger
from esp_ingestd.core.decode import Reason, Rejection
from esp_ingestd.core.reading import Reading
from esp_ingestd.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from services import FreshDatabase

    from esp_ingestd.storing import Store

T0 = 1_700_000_000_000_000


def batch(seconds: Sequence[int], *, poison: bool = False) -> Batch:
    batcher = Batcher(max_rows=1_000, max_age_ms=1)
    readings = [Reading("W1", T0 + second * 1_000_000, pip=1.0, received_us=T0) for second in seconds]
    batcher.add_message("t", b"", readings, None, 1, T0)
    if poison:
        batcher.add_message("t", b"x", (), Rejection(Reason.NOT_JSON, {Reason.NOT_JSON: 1}), 2, T0)
    return batcher.take(Trigger.DRAIN)


class StoreContract:
    """Every store counts what it stored and what it had already; writing twice equals writing once (I4)."""

    async def test_new_readings_are_stored(self, store: Store) -> None:
        written = await store.write(batch(range(10)))
        assert (written.stored, written.duplicates, list(written.refused)) == (10, 0, [])

    async def test_a_batch_that_is_written_again_is_all_duplicates(self, store: Store) -> None:
        await store.write(batch(range(10), poison=True))
        written = await store.write(batch(range(10), poison=True))
        assert (written.stored, written.duplicates, list(written.refused)) == (0, 10, [])

    async def test_duplicates_within_a_batch_count_once(self, store: Store) -> None:
        written = await store.write(batch([1, 2, 2, 3, 1]))
        assert (written.stored, written.duplicates) == (3, 2)

    async def test_a_batch_without_readings_is_written_too(self, store: Store) -> None:
        written = await store.write(batch([], poison=True))
        assert (written.stored, written.duplicates) == (0, 0)

    async def test_events_that_it_does_not_know_may_be_marked(self, store: Store) -> None:
        await store.mark_published(["no such event"], T0)


class TestFakeStore(StoreContract):
    @pytest.fixture
    async def store(self) -> FakeStore:
        return FakeStore()


class TestDatabase(StoreContract):
    @pytest.fixture
    async def store(self, migrated: FreshDatabase) -> AsyncIterator[Database]:
        database = Database(DatabaseSettings(dsn=SecretStr(migrated.dsn)))
        yield database
        await database.close()
