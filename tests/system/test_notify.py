"""What systemd hears from the daemon over NOTIFY_SOCKET, as sd_notify(3) says it: a real process, broker, database."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from esp_ingestd import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services import FreshDatabase, Services

PATIENCE_S = 60.0


@dataclass(slots=True)
class Daemon:
    """`esp-ingestd run`, and what it tells."""

    process: subprocess.Popen[bytes]
    notifications: socket.socket
    port: int

    def hears(self, state: str) -> list[str]:
        """Everything it said until it said `state`, that included."""
        said: list[str] = []
        while not said or said[-1] != state:
            said.append(self.notifications.recv(4096).decode())
        return said

    def said_by_now(self) -> list[str]:
        said = []
        self.notifications.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(self.notifications.recv(4096).decode())
        self.notifications.settimeout(PATIENCE_S)
        return said

    def health(self, path: str) -> tuple[int, str]:
        """The answer's status and body; waits until the daemon listens."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()
            except OSError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline


def configuration(folder: Path, *, broker_port: int, http_port: int, dsn: str) -> Path:
    path = folder / "esp-ingestd.toml"
    path.write_text(f"""
        [mqtt]
        host = "127.0.0.1"
        port = {broker_port}
        [database]
        dsn = "{dsn}"
        [spool]
        directory = "spool"
        [http]
        port = {http_port}
    """)
    return path


@pytest.fixture
def broker(services: Services) -> embedded.Broker:
    """Not started yet."""
    if embedded.find_mosquitto() is None:
        pytest.skip(services.why_not("mosquitto"))
    return embedded.Broker(services.new_folder())


@pytest.fixture
def daemon(tmp_path: Path, broker: embedded.Broker, database: FreshDatabase) -> Iterator[Daemon]:
    """Started with the schema in place and no broker, under a watchdog of two seconds."""
    http_port = embedded.free_port()
    config = configuration(tmp_path, broker_port=broker.port, http_port=http_port, dsn=database.dsn)
    command = [sys.executable, "-m", "esp_ingestd"]
    subprocess.run([*command, "migrate", "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(address))
        notifications.settimeout(PATIENCE_S)
        environment = {**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "2000000"}
        with subprocess.Popen([*command, "run", "--config", str(config)], env=environment) as process:
            yield Daemon(process, notifications, http_port)
            process.kill()


def test_systemd_hears_ready_then_signs_of_life_then_stopping(daemon: Daemon, broker: embedded.Broker) -> None:
    assert daemon.health("/health/live")[0] == 200
    assert daemon.health("/health/ready")[0] == 503
    daemon.hears("WATCHDOG=1")  # a second of waiting for the broker is no reason to be killed
    assert "READY=1" not in daemon.said_by_now()

    with broker:
        daemon.hears("READY=1")
        assert daemon.health("/health/ready")[0] == 200
        daemon.said_by_now()
        daemon.hears("WATCHDOG=1")

        daemon.process.send_signal(signal.SIGTERM)
        daemon.hears("STOPPING=1")
        assert daemon.process.wait(PATIENCE_S) == 0


def test_systemd_hears_of_a_reload_and_not_before_the_first_ready(daemon: Daemon, broker: embedded.Broker) -> None:
    assert daemon.health("/health/live")[0] == 200
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hears("WATCHDOG=1")
    with broker:
        assert not [each for each in daemon.hears("READY=1") if "RELOADING" in each]
        daemon.process.send_signal(signal.SIGHUP)
        reloading: list[str] = []
        while not reloading:  # the reload asked for before may end after the first READY=1, with one of its own
            reloading = [each for each in daemon.hears("READY=1") if each.startswith("RELOADING=1\nMONOTONIC_USEC=")]
    assert 0 < int(reloading[0].rpartition("=")[2]) <= time.monotonic_ns() // 1_000


def test_a_process_that_stands_still_gives_no_sign_of_life(daemon: Daemon) -> None:
    daemon.hears("WATCHDOG=1")
    daemon.process.send_signal(signal.SIGSTOP)
    daemon.said_by_now()
    daemon.notifications.settimeout(4.0)  # systemd would have killed it after two
    with pytest.raises(TimeoutError):
        daemon.hears("WATCHDOG=1")
    daemon.process.send_signal(signal.SIGCONT)
    daemon.notifications.settimeout(PATIENCE_S)
    daemon.hears("WATCHDOG=1")
