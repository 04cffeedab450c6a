"""The demo: a broker, a database, simulated wells and the daemon in one process tree, and a live view of them.

Rules:
    1. Everything is in one folder: a second run there begins anew, and removing the folder removes every trace.
    2. Everything but the simulated wells is a child process that ends with us, even if we are killed (embedded.py).
    3. The daemon is the real one, `esp-ingestd run`, with a configuration that may be read and used beside it.
    4. The field's time begins in the past and runs fast, so that faults that take hours are seen in minutes; it
       never overtakes the clock, since a reading from the future would be a fault of its own.
"""

import asyncio
import fcntl
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console
from rich.live import Live
from rich.text import Text

from esp_ingestd import embedded
from esp_ingestd.config import ENV_PREFIX, Settings, load_settings
from esp_ingestd.core.reading import SECOND_US, to_datetime
from esp_ingestd.database import migrate
from esp_ingestd.embedded import HOST, StartError
from esp_ingestd.field_view import FieldView, Figures, describe
from esp_ingestd.mqtt import Mqtt
from esp_ingestd.publisher import Outgoing, Publisher, Tally, from_field, history_s, to_messages
from esp_ingestd.simulator import Fault, Field
from esp_ingestd.telemetry import set_up_log

LOCK: Final = "demo.lock"
HTTP_PORT: Final = 9464
BROKER_PORT: Final = 21883
DATABASE_PORT: Final = 25432
READINGS_PER_S: Final = 1000  # at most, of all wells together: a laptop is to stay quiet
LINE_S: Final = 5.0
FRAME_S: Final = 0.25
SCRAPE_S: Final = 1.0
SETTLE_S: Final = 15.0  # that the end waits for the daemon to have stored what was sent

# What goes wrong, by the clock: (kind, well, begins after s, lasts s, severity). The motor takes its time to warm.
OPENING: Final = (
    ("motor_overtemp", 2, 4.0, 150.0, 1.1),
    ("electrical_fault", 5, 8.0, 60.0, 1.0),
    ("overload", 9, 20.0, 60.0, 1.0),
    ("stall", 7, 30.0, 60.0, 1.0),
)
# Then, for an hour, one every minute in ever another well: kinds that end by themselves.
LATER: Final = ("overload", "electrical_fault")
LATER_FIRST_S, LATER_EVERY_S, LATER_LASTS_S, LATER_COUNT = 120.0, 60.0, 50.0, 60

EDITIONS: Final[Mapping[str, str]] = {
    "timescaledb-community": "TimescaleDB with everything it offers",
    "timescaledb-apache": "TimescaleDB with hypertables, without compression and continuous aggregates",
    "postgresql": "it lacks TimescaleDB, so there are no hypertables and no compression; all else works",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the demo is asked to be."""

    folder: Path
    wells: int = 12
    speed: float = 60.0
    duration_s: float = inf
    http_port: int | None = None
    """None: the usual one, or any that is free."""
    broker_port: int | None = None
    database_port: int | None = None
    plain: bool = False
    """Lines even on a terminal."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """What was started, and what is known of it."""

    wishes: Wishes
    settings: Settings
    wells: Field
    services: Mapping[str, embedded.Service]
    """The child processes, by name."""
    daemon: "Daemon"
    view: FieldView
    console: Console
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    """The figures were read again."""


class Daemon(embedded.Service):
    """`esp-ingestd run`, ready when its own health says so."""

    def __init__(self, folder: Path, port: int, configuration: Path) -> None:
        super().__init__(folder, port, None)
        self._configuration = configuration.absolute()

    def _prepare(self) -> list[str]:
        (self.folder / "spool").mkdir(exist_ok=True)
        return [sys.executable, "-P", "-m", "esp_ingestd", "run", "--config", str(self._configuration)]

    def _is_ready(self) -> bool:
        with suppress(OSError):
            return self.get("/health/ready")[0] == http.HTTPStatus.OK
        return False

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of what it answers.

        Raises:
            OSError: it does not.
        """
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=2.0)) as connection:
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except http.client.HTTPException as error:
                raise OSError(f"no HTTP from {self.host}:{self.port}: {error!r}") from error

    def figures(self) -> tuple[Figures, dict[str, str]]:
        """The counters, and why each dependency is away ("" where it is not).

        Raises:
            OSError: it does not answer.
        """
        health = json.loads(self.get("/health")[1])["dependencies"]
        return Figures.parse(self.get("/metrics")[1]), {name: each["why"] for name, each in health.items()}


def run_demo(wishes: Wishes) -> None:
    """Run until it is over or somebody ends it; then say what came of it.

    Raises:
        StartError: something could not be started, or ended by itself; the text says what to do.
        Unavailable: the schema could not be made.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    set_up_log("error", "text")
    _forget_environment()
    asked: list[int] = []

    def end(number: int, _frame: object) -> NoReturn:
        asked.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    tally = None
    try:
        with ExitStack() as stack:
            stack.enter_context(_folder_of_our_own(wishes.folder))
            stage = _start(stack, wishes, console)
            if asked:  # what is raised while Python cleans up behind something, it drops
                end(asked[0], None)
            began_s = time.monotonic()
            tally = asyncio.run(_play(stage))
            ran_s = time.monotonic() - began_s
    except KeyboardInterrupt:
        console.print("\nEnded before it had begun.")
    if tally is not None:
        _sum_up(stage, tally, ran_s)
    folder = shlex.quote(str(wishes.folder))
    console.print(f"Everything is in {folder}; to remove it: rm -r {folder}")


def _forget_environment() -> None:
    """The demo is to talk to its own broker and database, whatever this shell is set to."""
    for name in [name for name in os.environ if name.upper().startswith(ENV_PREFIX) or name.startswith("PG")]:
        del os.environ[name]


@contextmanager
def _folder_of_our_own(folder: Path) -> Iterator[None]:
    """Take the folder, empty but for our lock, until the end.

    Raises:
        StartError: it cannot be had; the text says why.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / LOCK).exists() and any(folder.iterdir()):
                raise StartError(f"{folder} is not empty, and no demo made it: choose another folder with --folder")
            _lock(folder, stack.enter_context((folder / LOCK).open("a")).fileno())
            _clear(folder)
        except OSError as error:
            raise StartError(
                f"{error.filename}: {error.strerror}. The demo keeps everything in {folder}: remove that, as whoever "
                "made it, or choose another folder with --folder"
            ) from error
        yield


def _lock(folder: Path, file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"another demo runs in {folder}: end it, or choose another folder with --folder") from None


def _clear(folder: Path) -> None:
    """Remove what an earlier run left; moved away first, since a child of one that was killed may still be ending."""
    for path in [path for path in folder.iterdir() if path.name != LOCK]:
        if path.is_dir():
            gone = path if path.name.startswith("old-") else path.rename(folder / f"old-{time.time_ns()}")
            shutil.rmtree(gone, ignore_errors=True)
        else:
            path.unlink()


def _start(stack: ExitStack, wishes: Wishes, console: Console) -> Stage:
    """Start everything but the field, each thing once those before it serve, and say where it is."""
    folder = wishes.folder
    http_port = _port(wishes.http_port, HTTP_PORT, "metrics and health", "--port")
    broker_port = _port(wishes.broker_port, BROKER_PORT, "the broker", "--broker-port")
    database_port = _port(wishes.database_port, DATABASE_PORT, "the database", "--database-port")
    broker = embedded.Broker(folder / "broker", broker_port)
    database = embedded.Database(folder / "database", database_port)
    daemon = Daemon(folder / "daemon", http_port, folder / "esp-ingestd.toml")
    wells = _make_field(wishes)
    console.print(f"esp-ingestd demo, everything in {folder}\n", style="bold")
    _begin(stack, broker)
    _say(console, "broker", broker.url, f"  ({broker.source})")
    _begin(stack, database)
    _say(console, "database", database.source)
    settings = _configure(folder, broker, database, http_port, wells)
    edition, _ = asyncio.run(migrate(settings.database))
    _say(console, "", f"edition {edition}: {EDITIONS[edition]}")
    _say(console, "", f"psql {database.dsn}")
    _begin(stack, daemon)
    _say(console, "daemon", f"esp-ingestd run --config {folder / 'esp-ingestd.toml'}", f"  (log: {daemon.log})")
    url = f"http://{HOST}:{http_port}"
    _say(console, "metrics", f"{url}/metrics")
    _say(console, "health", f"{url}/health")
    ask = f"{_program()} alarms --config {shlex.quote(str(folder / 'esp-ingestd.toml'))}"
    _say(console, "ask", ask)
    _say(console, "wells", _describe_wells(wishes, wells) + "\n")
    places = {"ask": ask, "metrics": f"{url}/metrics", "health": f"{url}/health", "broker": broker.url}
    places |= {"database": f"psql {database.dsn}", "to end": _ending(wishes)}
    return Stage(
        wishes=wishes,
        settings=settings,
        wells=wells,
        services={"broker": broker, "database": database, "daemon": daemon},
        daemon=daemon,
        view=FieldView(
            well_ids=wells.well_ids,
            faults=_faults(wishes),
            start_us=wells.now_us,
            speed=wishes.speed,
            edition=edition,
            places=tuple(places.items()),
        ),
        console=console,
    )


def _program() -> str:
    """How this program is called, to be called again."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "esp-ingestd" else f"{sys.executable} -m esp_ingestd"


def _describe_wells(wishes: Wishes, wells: Field) -> str:
    every = f"one reading each every {wells.interval_s:g} s of their time"
    pace = "at the clock's pace" if wishes.speed == 1 else f"{wishes.speed:g} times as fast as the clock"
    return f"{wishes.wells:,}, simulated; {every}, which runs {pace}"


def _begin(stack: ExitStack, service: embedded.Service) -> None:
    """Start it, to be stopped at the end, also if a Ctrl-C comes before it is ready."""
    stack.callback(service.stop)
    service.start()


def _say(console: Console, what: str, where: str, aside: str = "") -> None:
    console.print(f"  {what:<9} {where}", Text(aside, style="dim"), sep="")


def _ending(wishes: Wishes) -> str:
    by_itself = "" if wishes.duration_s == inf else f", or by itself after {_duration(wishes.duration_s)}"
    return f"Ctrl-C{by_itself}; nothing stays but {wishes.folder}"


def _port(wanted: int | None, usual: int, what: str, option: str) -> int:
    """The port that was asked for; else the usual one or, where that is taken, any that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted or usual))
        except OSError as error:
            if wanted:
                raise StartError(
                    f"port {wanted} for {what} cannot be had ({error.strerror}): choose another with {option}, or "
                    "leave the option out"
                ) from None
            return embedded.free_port()
    return wanted or usual


def _make_field(wishes: Wishes) -> Field:
    """The wells; so seldom heard, by their own time, that the clock hears no more than READINGS_PER_S."""
    interval_s = max(1.0, round(wishes.wells * wishes.speed / READINGS_PER_S, 1))
    start_us = time.time_ns() // 1000 - round(history_s(wishes.speed, wishes.duration_s) * SECOND_US)
    return Field(wishes.wells, start_us=start_us, faults=_faults(wishes), interval_s=interval_s)


def _faults(wishes: Wishes) -> list[Fault]:
    """What is entered into which well, in the field's own time."""
    later = (
        (LATER[n % len(LATER)], 4 + 5 * n, LATER_FIRST_S + n * LATER_EVERY_S, LATER_LASTS_S, 1.0)
        for n in range(LATER_COUNT)
    )
    return [
        Fault(
            kind,
            well=(well - 1) % wishes.wells + 1,
            at_s=at_s * wishes.speed,
            duration_s=lasts_s * wishes.speed,
            severity=severity,
        )
        for kind, well, at_s, lasts_s, severity in (*OPENING, *later)
    ]


def _configure(
    folder: Path, broker: embedded.Broker, database: embedded.Database, http_port: int, wells: Field
) -> Settings:
    """Write the daemon's files as an operator would, and read them back."""
    secret = folder / "daemon" / "dsn"
    secret.parent.mkdir()
    secret.touch(mode=0o600)
    secret.write_text(database.dsn)
    (folder / "wells.toml").write_text(wells.wells_toml())
    configuration = folder / "esp-ingestd.toml"
    configuration.write_text(
        "# Made by `esp-ingestd demo`; what is not here has its default.\n"
        f'[mqtt]\nhost = "{broker.host}"\nport = {broker.port}\n\n'
        '[database]\ndsn_file = "daemon/dsn"\n\n'
        "[service]\nshutdown_timeout_s = 8\n\n"
        '[spool]\ndirectory = "daemon/spool"\n\n'
        f'[http]\nhost = "{HOST}"\nport = {http_port}\n\n'
        '[diagnosis]\nwells_file = "wells.toml"\n\n'
        '[log]\nformat = "text"\n'
    )
    for path in (configuration, folder / "wells.toml"):
        path.chmod(0o644)  # whatever the umask: started by root, the daemon runs as another user
    return load_settings(configuration)


async def _play(stage: Stage) -> Tally:
    """Let the field run and show it, until it is over or a signal comes; then wait until all that was sent is stored.

    Raises:
        StartError: a child process ended by itself.
    """
    publisher = Publisher(stage.settings.mqtt, tell=lambda _line: None)
    alerts = _listen(stage)
    readings = to_messages(_noted(stage), stage.settings.mqtt.topics[0])
    wishes = stage.wishes
    try:
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(each) for each in (alerts.run(), _scrape(stage), _show(stage))]
            await alerts.connected.wait()
            tally = await publisher.run(readings, speed=wishes.speed, duration_s=wishes.duration_s, live=True)
            await _settled(stage, tally)
            for each in others:
                each.cancel()
    except BaseExceptionGroup as group:
        if ended := group.subgroup(StartError):
            raise ended.exceptions[0] from None
        raise
    await alerts.close()
    return tally


def _noted(stage: Stage) -> Iterator[Outgoing]:
    for reading in from_field(stage.wells):
        stage.view.heard(reading.well_id, reading.payload, reading.due_us)
        yield reading


def _listen(stage: Stage) -> Mqtt:
    """A connection on which alarm events arrive."""

    def receive(topic: str, payload: bytes, delivery: int, received_us: int, size_bytes: int) -> None:
        del topic, received_us, size_bytes
        event = json.loads(payload)
        if stage.view.alarms.take(event) and not _on_screen(stage):
            stage.console.print(_stamped(describe(event)))
        connection.acknowledge([delivery])

    topic = f"{stage.settings.alerts.topic_prefix}/+/events"
    connection = Mqtt(
        stage.settings.mqtt, client_id="esp-ingestd-demo", subscriptions=[topic], receive=receive, keep_session=False
    )
    return connection


async def _scrape(stage: Stage) -> None:
    """Read the daemon's figures again and again.

    Raises:
        StartError: a child process ended by itself.
    """
    while True:
        for name, service in stage.services.items():
            if service.pid is None:
                last = "\n".join(service.log.read_text("utf-8", errors="replace").splitlines()[-10:])
                raise StartError(f"the {name} ended by itself; the end of {service.log}:\n{last}")
        with suppress(OSError):  # busy
            figures, stage.view.health = await asyncio.to_thread(stage.daemon.figures)
            stage.view.meter.take(time.monotonic(), figures)
        stage.fresh.set()
        await asyncio.sleep(SCRAPE_S)


def _on_screen(stage: Stage) -> bool:
    return stage.console.is_terminal and not stage.wishes.plain


async def _show(stage: Stage) -> None:
    if not _on_screen(stage):
        while True:
            await asyncio.sleep(LINE_S)
            stage.console.print(_stamped(stage.view.line()))
    with Live(stage.view, console=stage.console, screen=True, auto_refresh=False) as live:
        while True:
            live.refresh()
            await asyncio.sleep(FRAME_S)


async def _settled(stage: Stage, tally: Tally) -> None:
    """Wait until the daemon has had its say on every reading that the broker accepted."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while stage.view.meter.figures.settled < tally.accepted_readings:
                stage.fresh.clear()
                await stage.fresh.wait()


def _sum_up(stage: Stage, tally: Tally, ran_s: float) -> None:
    view, figures = stage.view, stage.view.meter.figures
    raised = ", ".join(f"{count} {diagnosis}" for diagnosis, count in view.alarms.raised.most_common())
    passed = _duration((view.now_us - view.start_us) / SECOND_US)
    until = to_datetime(view.now_us).strftime("%d %b %Y, %H:%M:%S UTC")
    stage.console.print(f"\nIn {_duration(ran_s)}, {passed} passed in the field, until {until}.")
    for what, value in _totals(tally, figures):
        stage.console.print(f"  {what:<24}{value:>12,}")
    stage.console.print(f"  {'alarms raised':<24}{view.alarms.raised.total():>12,}    {raised}".rstrip())


def _totals(tally: Tally, figures: Figures) -> Iterable[tuple[str, int]]:
    yield "readings sent", tally.accepted_readings
    yield "readings stored", figures.stored
    yield "duplicates", figures.duplicate
    yield "refused", figures.rejected
    if missing := tally.accepted_readings - figures.settled:
        yield "not stored yet", missing


def _stamped(line: str) -> str:
    return f"{time.strftime('%H:%M:%S')}  {line}"


def _duration(seconds: float) -> str:
    """As people say it: 45 s, 12 min, 3.5 h, 30 days."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
