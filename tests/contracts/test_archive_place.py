"""One suite for every place that an archive can be in: a directory, an object store in memory, and S3's protocol."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from archived import Store, became, odd_rows, opened
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from esp_ingestd.archive import ArchiveError, Outcome
from esp_ingestd.archive.archiving import archive_days, verify
from esp_ingestd.archive.place import Place, open_place
from esp_ingestd.archive.restoring import restore
from esp_ingestd.archive.retention import retain
from esp_ingestd.config import ArchiveSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from services import FreshDatabase


@dataclass(frozen=True, slots=True)
class Bucket:
    """An empty bucket, and the server that has it."""

    server: ThreadedMotoServer
    url: str


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    name = f"wells-{secrets.token_hex(6)}"
    S3FileSystem().mkdir(name)
    yield Bucket(server, f"s3://{name}/archive")
    server.stop()


@pytest.fixture(params=["directory", "file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("s3")
        return bucket.url
    return {
        "directory": str(tmp_path / "a" / "b"),
        "file": f"file://{tmp_path / 'a'}",
        "memory": f"memory://{tmp_path.name}/archive",
    }[request.param]


@pytest.fixture
def place(url: str) -> Place:
    return open_place(url)


def put(place: Place, name: str, content: bytes) -> None:
    draft = place.draft(name)
    draft.write_bytes(content)
    place.put(draft, name)
    assert not draft.exists()


def fetch(place: Place, name: str) -> bytes:
    with place.fetched(name) as path:
        content: bytes = path.read_bytes()
    return content


def test_what_is_put_is_listed_and_comes_back(place: Place) -> None:
    assert place.sizes("t") == {}
    put(place, "t/file", b"x" * 100_000)
    put(place, "t/file2", b"")
    place.write("t/small", b"one")
    assert place.sizes("t") == {"file": 100_000, "file2": 0, "small": 3}
    assert fetch(place, "t/file") == b"x" * 100_000
    assert place.read("t/small") == b"one"
    assert place.sizes("u") == {}


def test_the_newer_content_replaces_the_older(place: Place) -> None:
    for content in (b"one", b"three"):
        place.write("t/small", content)
        put(place, "t/file", content)
    assert (place.read("t/small"), fetch(place, "t/file")) == (b"three", b"three")
    assert place.sizes("t") == {"small": 5, "file": 5}


def test_a_draft_is_not_there_until_it_is_put(place: Place) -> None:
    draft = place.draft("t/file")
    draft.write_bytes(b"half")
    assert "file" not in place.sizes("t")
    draft.unlink()
    with pytest.raises(ArchiveError, match="t/file is missing in"):
        fetch(place, "t/file")
    put(place, "t/file", b"whole")
    assert fetch(place, "t/file") == b"whole"


def test_what_is_removed_is_gone_and_may_be_removed_again(place: Place) -> None:
    put(place, "t/file", b"x")
    place.remove("t/file")
    place.remove("t/file")
    assert place.sizes("t") == {}
    with pytest.raises(ArchiveError, match="t/file is missing in"):
        place.read("t/file")


def test_a_url_that_nothing_knows_is_told() -> None:
    with pytest.raises(ArchiveError, match="Protocol not known: ftpx"):
        open_place("ftpx://user:secret@host/x")
    with pytest.raises(ArchiveError, match="needs the extra archive-gcs"):
        open_place("gs://bucket/x")
    with pytest.raises(ArchiveError, match="not set"):
        open_place("")


@pytest.fixture
async def store(migrated: FreshDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(migrated, tmp_path / "unused") as made:
        yield made


@pytest.mark.best_edition
async def test_a_day_goes_to_any_place_and_comes_back(store: Store, url: str) -> None:
    there = store.with_(archive=ArchiveSettings(url=url))
    await store.add(odd_rows())
    before = await store.rows()
    assert became(await archive_days(there)) == [("archived", "")]
    assert became(await verify(there)) == [("verified", "")]
    assert became(await retain(there)) == [("dropped", "")]
    await restore(there, url=url)
    assert await store.rows() == before


@pytest.mark.best_edition
async def test_an_object_store_that_is_away_keeps_everything(store: Store, s3: Bucket) -> None:
    there = store.with_(archive=ArchiveSettings(url=s3.url))
    await store.add(odd_rows())
    assert became(await archive_days(there)) == [("archived", "")]
    s3.server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(s3.server.get_host_and_port()), "nobody listens"
    for work in (archive_days, verify):
        with pytest.raises(ArchiveError, match=s3.url):
            await work(there)
    (kept,) = (await retain(there)).days
    assert (kept.what, "is not whole: cannot" in kept.why) == (Outcome.KEPT, True), kept.why
    assert await store.count() == 10
