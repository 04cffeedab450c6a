"""Runs the services' programs in containers, where a Docker daemon answers and already has their images.

A container shares the machine's network and, at the same path, the folder for temporary files, and runs as the owner
of the service's folder. So a broker or a database in a container is configured, paused, killed and started again just
as one on the machine, with its data where it was.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esp_ingestd import embedded

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from docker.models.containers import Container

TIMESCALEDB_IMAGE: Final = "timescale/timescaledb:latest-pg17"
MOSQUITTO_IMAGE: Final = "eclipse-mosquitto:2"

# Asks an image's PostgreSQL for its folder, its version, and the libraries of TimescaleDB beside it.
_INQUIRY: Final = """\
folder=$(dirname "$(readlink -f "$(command -v postgres)")")
echo "$folder"
postgres --version
find "${folder%/bin}" -name 'timescaledb*.so'
"""


class ContainerProcess(embedded.Process):
    """A command in a container of `image`, which is removed once it has ended."""

    def __init__(self, image: str, command: list[str], folder: Path, stop_signal: signal.Signals) -> None:
        embedded.hand_over(folder)
        owner = folder.stat()
        self._stop_signal = stop_signal
        logged = ["sh", "-c", f'exec "$0" "$@" >>{shlex.quote(str(folder / "log"))} 2>&1', *command]
        self._container: Container | None = _start(image, logged, user=f"{owner.st_uid}:{owner.st_gid}")

    @property
    def pid(self) -> int | None:
        if self._container is None:
            return None
        self._container.reload()
        if self._container.status in {"running", "paused"}:
            return int(self._container.attrs["State"]["Pid"])
        self.wait(timeout_s=1)
        return None

    def wait(self, timeout_s: float) -> int | None:
        from requests.exceptions import ConnectionError, ReadTimeout  # noqa: A004, PLC0415 here alone, where Docker is

        if self._container is None:
            return 0
        with contextlib.suppress(ConnectionError, ReadTimeout):
            code = int(self._container.wait(timeout=timeout_s)["StatusCode"])
            self._container.remove()
            self._container = None
            return code
        return None

    def stop(self) -> None:
        self._signal(self._stop_signal.name)

    def kill(self) -> None:
        self._signal("SIGKILL")
        self.wait(embedded.STOP_S)

    def pause(self) -> None:
        if self.pid and self._container:
            self._container.pause()

    def resume(self) -> None:
        if self.pid and self._container and self._container.status == "paused":
            self._container.unpause()

    def _signal(self, name: str) -> None:
        if self.pid and self._container:
            self._container.kill(name)


def _start(image: str, command: list[str], *, user: str) -> Container:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 takes a while, and Docker is rare

    container = DockerContainer(image, entrypoint=[], network_mode="host", user=user, shm_size="256m")
    container.with_command(command)
    shared = tempfile.gettempdir()
    container.with_volume_mapping(shared, shared, "rw")
    container.with_volume_mapping("/etc/passwd", "/etc/passwd", "ro")  # initdb looks its user up
    return container.start().get_wrapped_container()


def runner(variable: str, default: str) -> tuple[str, Callable[..., ContainerProcess]] | None:
    """The image that the environment names, or the default, and how to run it; None where it cannot be had here."""
    socket = Path("/var/run/docker.sock")
    if "DOCKER_HOST" not in os.environ and not socket.exists():
        return None
    import docker  # noqa: PLC0415 takes a while, and Docker is rare

    image = os.environ.get(variable, default)
    # Reaping would want one more image; what is started here is stopped here.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    try:
        with contextlib.closing(docker.from_env(timeout=5)) as client:
            client.images.get(image)
    except docker.errors.DockerException:
        return None
    return image, partial(ContainerProcess, image)


def installation(image: str) -> embedded.Installation:
    """The PostgreSQL in an image, its folder being one inside of containers."""
    container = _start(image, ["sh", "-c", _INQUIRY], user="65534:65534")
    try:
        container.wait(timeout=embedded.START_S)
        says = container.logs().decode()
    finally:
        container.remove(force=True)
    folder, version = says.splitlines()[:2]
    edition: embedded.Edition = "postgresql"
    if "timescaledb.so" in says:
        edition = "timescaledb-community" if "timescaledb-tsl" in says else "timescaledb-apache"
    found = re.search(r"\d+(\.\d+)?", version)
    assert found, says
    return embedded.Installation(Path(folder), found.group(), edition)
