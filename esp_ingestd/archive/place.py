"""Where the archive is: a directory, or an object store through fsspec. What has a name there is whole.

A directory gets a file under another name, fsyncs it and renames it; an object store shows an object once it is
uploaded, all of it. Every fault is an `ArchiveError` that says what was attempted, where, and why it failed.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from esp_ingestd.archive import ArchiveError, require_extra
from esp_ingestd.config import mask_url

FORMAT: Final = 1
_READ_BYTES: Final = 1 << 20


class ManifestError(ValueError):
    """What is wrong with a manifest, as a sentence about it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the archive has of one day of one table; times in ISO 8601, UTC."""

    format: int
    table: str
    day: str
    version: int
    file: str
    """Its name, beside the manifest."""
    size_bytes: int
    sha256: str
    rows: int
    first: str | None
    last: str | None
    wells: int
    columns: Mapping[str, str]
    """Column -> SHA-256 over its values, as `form.Content` has it."""
    archived_at: str
    program: str

    @property
    def path(self) -> str:
        """The file's name in the place."""
        return f"{self.table}/{self.file}"

    def to_json(self) -> bytes:
        """As it is written."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Manifest":
        """As it was written.

        Raises:
            ManifestError: it is none, or of a later program's; the text says what is wrong with it.
        """
        try:
            values = json.loads(content)
        except ValueError as error:
            raise ManifestError(f"it is no JSON: {error}") from None
        if not isinstance(values, dict):
            raise ManifestError("it is no JSON object")
        if values.get("format", FORMAT) != FORMAT:
            raise ManifestError(f"it has format {values['format']}; this program knows {FORMAT}")
        names = [each.name for each in fields(cls)]
        if missing := ", ".join(name for name in names if name not in values):
            raise ManifestError(f"it lacks {missing}")
        return cls(**{name: _checked(name, values[name]) for name in names})


_KINDS: Final[Mapping[str, type]] = {
    "version": int,
    "size_bytes": int,
    "rows": int,
    "columns": dict,
    "file": str,
    "sha256": str,
}


def _checked(key: str, value: Any) -> Any:  # noqa: ANN401 - as JSON has it
    """The value of a manifest's key.

    Raises:
        ManifestError: it is of another kind, or would lead out of the archive.
    """
    is_right = isinstance(value, _KINDS.get(key, object)) and not isinstance(value, bool)
    is_right = is_right and not (key == "file" and "/" in str(value))
    with suppress(ValueError, TypeError):
        if is_right and (key != "day" or date.fromisoformat(value)):
            return value
    raise ManifestError(f"its {key} is {json.dumps(value)[:40]}")


class Place(Protocol):
    """Names and what is stored under them; all of it raises ArchiveError."""

    url: str

    def sizes(self, folder: str) -> dict[str, int]:
        """What is in a folder: name -> bytes."""

    def read(self, name: str) -> bytes:
        """All of something small."""

    def write(self, name: str, content: bytes) -> None:
        """Store something small under a name, in place of what it had before."""

    def draft(self, name: str) -> Path:
        """A local file for `put`, not there yet; what a killed run left under it is gone."""

    def put(self, draft: Path, name: str) -> None:
        """Store a draft under a name; it is durable then, and the draft gone."""

    def remove(self, name: str) -> None:
        """Remove it; it may be gone already."""

    def fetched(self, name: str) -> Any:  # noqa: ANN401 - a context manager of Path
        """A context with a local file of the same content."""


def open_place(url: str) -> Place:
    """The place that a directory or a URL names.

    Raises:
        ArchiveError: no such kind of place, or its adapter is not installed.
    """
    if not url:
        raise ArchiveError("archive.url is not set: there is no archive")
    if "://" not in url:
        return Directory(Path(url))
    if url.startswith("file://"):
        return Directory(Path(urlsplit(url).path))
    return Bucket(url)


def manifest_name(table: str, day: date) -> str:
    """Where the manifest of a day is."""
    return f"{table}/{day.isoformat()}.json"


def days_of(names: Mapping[str, int]) -> list[date]:
    """The days that have a manifest."""
    days = []
    for name in names:
        with suppress(ValueError):
            days += [date.fromisoformat(name.removesuffix(".json"))] if name.endswith(".json") else []
    return sorted(days)


def read_manifest(place: Place, table: str, day: date) -> Manifest:
    """The manifest of a day.

    Raises:
        ArchiveError: it is missing, cannot be read, or is another day's.
    """
    name = manifest_name(table, day)
    try:
        manifest = Manifest.from_json(place.read(name))
    except ManifestError as error:
        raise ArchiveError(f"{name} in {mask_url(place.url)} is no manifest of that day: {error}") from None
    if (manifest.table, manifest.day) != (table, day.isoformat()):
        raise ArchiveError(f"{name} in {mask_url(place.url)} is that of {manifest.table} {manifest.day}")
    return manifest


@contextmanager
def fetched_whole(place: Place, manifest: Manifest) -> Iterator[Path]:
    """The file of a manifest, local, its size and hash compared with the manifest.

    Raises:
        ArchiveError: it is missing or another one.
    """
    with place.fetched(manifest.path) as path:
        if (size := path.stat().st_size) != manifest.size_bytes:
            raise ArchiveError(f"{manifest.file} has {size} bytes, its manifest says {manifest.size_bytes}")
        if (found := hash_of(path)) != manifest.sha256:
            raise ArchiveError(f"{manifest.file} was altered: its SHA-256 is {found}, not {manifest.sha256}")
        yield path


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _telling(url: str, what: str, name: str) -> Iterator[None]:
    """Faults as ArchiveError; adapters raise exceptions of libraries below them too."""
    try:
        yield
    except ArchiveError:
        raise
    except FileNotFoundError as error:
        raise ArchiveError(f"{name} is missing in {mask_url(url)}") from error
    except Exception as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise ArchiveError(f"cannot {what} {name} in {mask_url(url)}: {why}") from error


class Directory:
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = str(root)

    def sizes(self, folder: str) -> dict[str, int]:
        """What is in a folder."""
        with _telling(self.url, "list", folder):
            path = self._root / folder
            return {each.name: each.stat().st_size for each in path.iterdir()} if path.is_dir() else {}

    def read(self, name: str) -> bytes:
        """All of it."""
        with _telling(self.url, "read", name):
            return (self._root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Atomic and durable."""
        draft = self.draft(name)
        with _telling(self.url, "write", name):
            draft.write_bytes(content)
        self.put(draft, name)

    def draft(self, name: str) -> Path:
        """On the same file system, so that it can be renamed."""
        path = self._root / name
        with _telling(self.url, "write", name):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.partial")
            draft.unlink(missing_ok=True)
        return draft

    def put(self, draft: Path, name: str) -> None:
        """Fsync, rename, fsync the folder."""
        with _telling(self.url, "write", name):
            path = self._root / name
            _sync(draft)
            draft.replace(path)
            _sync(path.parent)

    def remove(self, name: str) -> None:
        """It may be gone already."""
        with _telling(self.url, "remove", name):
            (self._root / name).unlink(missing_ok=True)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """The file itself."""
        with _telling(self.url, "read", name):
            (self._root / name).stat()
        yield self._root / name


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Bucket:
    """An object store, by fsspec's adapter for it; its credentials and endpoint are set as the adapter says."""

    def __init__(self, url: str) -> None:
        self.url = url
        require_extra(url)
        try:
            import fsspec  # noqa: PLC0415 - an extra, and for object stores only

            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ArchiveError(f"archive.url {mask_url(url)}: {error}") from None

    def sizes(self, folder: str) -> dict[str, int]:
        """What is in a folder."""
        with _telling(self.url, "list", folder):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
            return {each["name"].rpartition("/")[2]: each["size"] or 0 for each in found if each["type"] == "file"}

    def read(self, name: str) -> bytes:
        """All of it."""
        with _telling(self.url, "read", name):
            return bytes(self._files.cat_file(self._at(name)))

    def write(self, name: str, content: bytes) -> None:
        """One object at once."""
        with _telling(self.url, "write", name):
            self._files.pipe_file(self._at(name), content)

    def draft(self, name: str) -> Path:
        """In the system's folder for such files."""
        with _telling(tempfile.gettempdir(), "write", name):
            descriptor, path = tempfile.mkstemp(prefix="esp-ingestd-", suffix=".parquet")
            os.close(descriptor)
        return Path(path)

    def put(self, draft: Path, name: str) -> None:
        """Upload it."""
        with _telling(self.url, "write", name):
            self._files.put_file(str(draft), self._at(name))
        draft.unlink()

    def remove(self, name: str) -> None:
        """It may be gone already."""
        with _telling(self.url, "remove", name), suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """A copy that goes away."""
        with tempfile.NamedTemporaryFile(prefix="esp-ingestd-", suffix=".parquet") as copy:
            with _telling(self.url, "read", name):
                self._files.get_file(self._at(name), copy.name)
            yield Path(copy.name)

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"
