"""How the daemon starts and stops: the one place where parts are built and joined.

Start: configuration, HTTP (live, not ready), then broker and database, each tried for ever, in any order; ready when
both are there. Stop on SIGTERM: not ready, intake stops but stays subscribed, what is under way is drained until the
deadline, then everything is closed; a second signal cuts at once. Whatever is not acknowledged by then the broker
keeps. A task that ends unexpectedly ends the service with an error, and systemd restarts it (I7).

Reload on SIGHUP: tree and wells file are read anew and checked whole, beside the work. What is right takes effect with
the next reading; where anything is wrong, one line names every fault and all stays as it was. Nothing else that can
be set changes before a restart; a line says so.
"""

import asyncio
import gc
import os
import re
import signal
import socket
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from esp_ingestd import __version__
from esp_ingestd.config import Settings, Wells, changed_settings, load_settings, load_wells
from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.diagnosis import Diagnostician
from esp_ingestd.core.topic import TopicPattern
from esp_ingestd.core.tree import Tree
from esp_ingestd.database import Database
from esp_ingestd.errors import ConfigurationError, Unavailable
from esp_ingestd.http import Health, HttpServer
from esp_ingestd.maintenance import Maintenance
from esp_ingestd.memory import Memory
from esp_ingestd.mqtt import Mqtt
from esp_ingestd.pipeline import MOST_COMMANDS, Pipeline
from esp_ingestd.shipped import core_form, load_tree
from esp_ingestd.spool import Spool
from esp_ingestd.telemetry import Metrics, PatientLog

PROBE_INTERVAL_S: Final = 2.0
GC_ALLOCATIONS: Final = (
    50_000  # containers made between two searches of the youngest; Python's own 700 is for small programs
)
RELOADED: Final = ("diagnosis.tree_file", "diagnosis.wells_file")
UNTOLD: Final = 1_000  # events at once that are published again
REFUSED_AGAIN_S: Final = 60.0  # a broker that refuses alerts is asked again so often: a person has to mend that
CLOSING_S: Final = 2.0  # kept of the shutdown's time for saying good-bye

_log = structlog.stdlib.get_logger(__name__)


class Service:
    """The daemon."""

    def __init__(self, settings: Settings, config: Path | None = None, log: PatientLog | None = None) -> None:
        """Build the parts; nothing outside is touched. A reload reads `config`, the file of the settings, anew.

        Raises:
            ConfigurationError: the wells file or the decision tree is wrong.
        """
        self._settings = settings
        self._config = config
        self._wells, tree = load_diagnosis(settings)
        self.metrics = Metrics()
        self.metrics.count_reload(tree.version)
        self._log = log
        if log is not None:
            self.metrics.log_lines_lost.set_function(lambda: log.lost)
        self.health = Health("broker", "alerts", "database")
        self.http = HttpServer(settings.http, self.metrics.registry, self.health)
        self.database = Database(settings.database)
        mqtt = settings.mqtt
        self.spool = Spool(settings.spool)
        self.memory = Memory(settings.spool)
        field_id = field_id_of(settings.mqtt.client_id)
        self.diagnostician = Diagnostician(tree, self._wells, field_id=field_id, live=True)
        self._drain_database = Database(settings.database, name="esp-ingestd drain")
        self.broker = Mqtt(
            mqtt,
            client_id=mqtt.client_id,
            subscriptions=[TopicPattern(topic).subscription for topic in mqtt.topics],
            announce=True,
        )
        self.alerts = Mqtt(
            mqtt,
            client_id=f"{mqtt.client_id}-alerts",
            subscriptions=[f"{settings.alerts.topic_prefix}/+/command"],
            receive_maximum=MOST_COMMANDS,
            insists=False,  # a site that lets nobody command still wants its alerts
        )
        self.metrics.alerts_waiting.set_function(lambda: self.alerts.waiting)
        self.pipeline = Pipeline(
            settings,
            decoder=Decoder(
                mqtt.topics,
                max_payload_bytes=mqtt.max_payload_bytes,
                naive_timestamps=mqtt.naive_timestamps,
                units_of=self._units_of,
            ),
            diagnostician=self.diagnostician,
            store=self.database,
            drain_store=self._drain_database,
            overflow=self.spool,
            memory=self.memory,
            intake=self.broker,
            alerts=self.alerts,
            metrics=self.metrics,
            report=lambda name, why: self._on_database(why) if name == "database" else self._on_refused(why),
        )
        self.maintenance = Maintenance(settings, self.metrics.store, self.health.note)
        self.broker.receive = self.pipeline.receive
        self.alerts.receive = self.pipeline.receive_command
        self.alerts.receive_retained = self.pipeline.refuse_retained
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()
        self._told_ready = False
        self._is_untold = True
        """There may be events that no broker has accepted: of an earlier run, or refused."""
        self._refused = ""
        """Why the broker refuses alerts."""
        self._tell = asyncio.Event()

    async def run(self) -> None:
        """Run until a signal says stop.

        Raises:
            OSError: the HTTP address cannot be had.
            Unavailable: the spool's directory cannot be used.
            ExceptionGroup: a task ended unexpectedly.
        """
        # Readings hold no cycles and live for one batch: searching them for garbage cost 1 us of 12 in arrays.
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS)
        url = self.http.listen()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        _log.info(
            "starting",
            version=__version__,
            core=core_form(),
            http=url,
            broker=self.broker.address,
            database=self.database.address,
        )
        unusable: Unavailable | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_unending("http", self.http.serve()), name="http")
                try:
                    await self._recover()
                except Unavailable as unavailable:  # a fault to be told in a line, not one of ours
                    unusable = unavailable
                    raise _Stopped from None
                maintenance = {"rollups": self.maintenance.keep_rollups, "archive": self.maintenance.keep_archive}
                if not self._settings.maintenance.enabled:
                    maintenance = {"marks": self.maintenance.keep_marks}
                for name, task in {
                    "write": self.pipeline.write(),
                    "settle": self.pipeline.settle(),
                    "drain": self.pipeline.drain_overflow(),
                    "alerts": self.alerts.run(self._on_alerts),
                    "broker": self.broker.run(self._on_broker),
                    "database": self._keep_database(),
                    "told": self._keep_told(),
                    "clock": self._keep_time(),
                    "reload": self._keep_reloading(),
                    **{name: keep() for name, keep in maintenance.items()},
                }.items():
                    tasks.create_task(_unending(name, task), name=name)
                self.health.started = True
                await self._until_drained()
        except* _Stopped:
            pass
        finally:
            await self._close()
        if unusable:
            raise unusable
        _log.info("stopped")

    async def _recover(self) -> None:
        """See what an earlier run left on disk."""
        recovered = await self.spool.open()
        self.metrics.readings_recovered.inc(recovered.readings)
        self.metrics.readings_spooled.set_function(lambda: self.spool.status.readings)
        self.metrics.spool_bytes.set_function(lambda: self.spool.status.size_bytes)
        self.metrics.spool_damaged.set_function(lambda: self.spool.damaged_batches)
        self.pipeline.announce_again(event.payload() for event in recovered.unpublished)
        remembered = await self.memory.load()
        self.pipeline.recall_states(remembered.states)
        ended = 0
        for well_id, snapshot in remembered.snapshots.items():
            try:
                events = self.diagnostician.restore(well_id, snapshot)
            except ValueError as error:
                _log.warning("a well is learned anew", why=str(error))
            else:
                self.pipeline.tell(events)
                ended += len(events)
        if ended:
            _log.warning("alarms ended: nothing is asked for them any more", alarms_ended=ended)
        if recovered.readings:
            _log.info("found readings in the spool", readings=recovered.readings)

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            _log.warning("second signal, stopping at once", signal=signal.Signals(number).name)
            os._exit(1)  # what was not acknowledged the broker keeps
        _log.info("stopping", signal=signal.Signals(number).name)
        self._stop.set()

    async def _until_drained(self) -> None:
        """Wait for the signal, then finish what is under way, as long as there is time, and end the task group."""
        await self._stop.wait()
        self.health.stopping = True
        _notify("STOPPING=1")
        left_s = self._settings.service.shutdown_timeout_s - CLOSING_S
        try:
            await asyncio.wait_for(self.pipeline.drain(), max(left_s, CLOSING_S / 2))
        except TimeoutError:
            _log.warning("deadline: what is not acknowledged stays with the broker", readings=self.pipeline.in_flight)
        raise _Stopped

    async def _close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await self.broker.close()
                await self.alerts.close()
                await self.database.close()
                await self._drain_database.close()
                await self.memory.close()
                await self.spool.close()

    def _on_broker(self, why: str) -> None:
        self._report("broker", why)
        self.metrics.mqtt_connected.set(not why)
        if not why:
            self.metrics.mqtt_connections.inc()

    def _on_alerts(self, why: str) -> None:
        self._report("alerts", why or self._refused)
        if not why:
            self._tell.set()

    def _on_refused(self, why: str) -> None:
        self._is_untold = True
        if not self._refused:
            self._refused = f"{why}; see its access control list"
            self._report("alerts", self._refused)

    def _on_database(self, why: str) -> None:
        self._report("database", why)
        self.metrics.database_connected.set(not why)

    def _report(self, name: str, why: str) -> None:
        if self.health.report(name, why) and self.health.is_ready:
            _log.info("ready", edition=self.database.edition)
            self._told_ready = True
            _notify("READY=1")

    async def _keep_reloading(self) -> None:
        """At each SIGHUP read tree and wells anew; those that come while one is under way ask for one more."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            if self._told_ready:  # READY=1 must not be said before that is true
                _notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1_000}")
            try:
                self._adopt(*await asyncio.to_thread(self._read_anew))
            except ConfigurationError as error:
                self.metrics.count_reload(None)
                _log.error("reload refused: everything stays as it was", faults=list(error.faults))
            if self._told_ready:
                _notify("READY=1")

    def _read_anew(self) -> tuple[Settings, Wells, Tree]:
        """The configuration as it stands on disk now, checked whole.

        Raises:
            ConfigurationError: with every fault.
        """
        settings = load_settings(self._config) if self._config else self._settings
        return settings, *load_diagnosis(settings)

    def _units_of(self, well_id: str) -> Mapping[str, str]:
        return self._wells.units_of(well_id)

    def _adopt(self, settings: Settings, wells: Wells, tree: Tree) -> None:
        """Judge by these from now on."""
        self._wells = wells
        ended = self.pipeline.adopt(tree, wells)
        self.metrics.count_reload(tree.version)
        _log.info("reloaded", tree_version=tree.version, wells_listed=len(wells.listed), alarms_ended=ended)
        if changed := [key for key in changed_settings(self._settings, settings) if key not in RELOADED]:
            _log.warning("changed settings that take a restart", settings=changed)

    async def _keep_database(self) -> None:
        """See that the database is there, also while nothing is written."""
        while True:
            try:
                await self.database.connect()
            except Unavailable as unavailable:
                self._on_database(str(unavailable))
            else:
                if not self.pipeline.is_away:  # it may answer and still not take a batch
                    self._on_database("")
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _keep_told(self) -> None:
        """See that the broker has the state of each alarm, and every event, whatever became of it or of us.

        At each connection, since it may be another broker now, or one that was killed and lost what it had accepted;
        and every minute while it refuses something.
        """
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._tell.wait(), REFUSED_AGAIN_S)
            if self._tell.is_set() or self._refused:
                self._tell.clear()
                if not (await self.pipeline.restate() or await self._tell_untold()) and self._refused:
                    self._refused = ""
                    self._report("alerts", "" if self.alerts.connected.is_set() else "connection lost")

    async def _tell_untold(self) -> str:
        """Publish all events that no broker has accepted; why it refuses one, or "" once there are none."""
        refused = ""
        while self._is_untold and not refused:
            self._is_untold = self.spool.filled.is_set()  # what is in there comes to the database, and then here
            try:
                refused = await self._tell_stored()
            except Unavailable as unavailable:
                self._on_database(str(unavailable))
                self._is_untold = True
            if self._is_untold:
                await asyncio.sleep(PROBE_INTERVAL_S)
        return refused

    async def _tell_stored(self) -> str:
        """Those that are in the database, the oldest first."""
        last = None
        while found := await self.database.unpublished_events(last, UNTOLD):
            last = found[-1]
            answers = self.pipeline.announce_again(untold.event for untold in found)
            if answers:
                await asyncio.wait(answers)
            if refused := next(filter(None, (answer.result() for answer in answers)), ""):
                return refused
        return ""

    async def _keep_time(self) -> None:
        """Once a second: what falls due by time, and a sign of life to systemd while work moves."""
        watchdog_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
        moved, moved_at = -1, time.monotonic()
        notified_at = 0.0
        while True:
            self.pipeline.pass_time()
            if self._log is not None:
                self._log.catch_up()
            now = time.monotonic()
            # Waiting for a broker that is away, or with nothing to do, is no fault of ours.
            is_idle = self.pipeline.in_flight == 0 or not self.alerts.connected.is_set()
            if is_idle or self.pipeline.progress != moved:
                moved, moved_at = self.pipeline.progress, now
            stuck_s = 2 * self._settings.database.write_timeout_s + self._settings.database.connect_timeout_s
            if watchdog_s and now - notified_at >= watchdog_s and now - moved_at < stuck_s:
                _notify("WATCHDOG=1")
                notified_at = now
            await asyncio.sleep(1.0)


class _Stopped(Exception):  # noqa: N818 - ends the task group; no error
    pass


async def _unending(name: str, task: Coroutine[Any, Any, None]) -> None:
    """A task that is to run until it is cancelled: its end is a fault (I7)."""
    await task
    raise RuntimeError(f"task {name} ended by itself")


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); without systemd, nothing. Ten lines, where the known wheels are unkept."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.sendto(state.encode(), address)


def field_id_of(client_id: str) -> str:
    """Under which name the field as a whole raises alarms: the client id, as a well id is written."""
    return re.sub("[^A-Za-z0-9_-]", "_", client_id)[:64]


def load_diagnosis(settings: Settings) -> tuple[Wells, Tree]:
    """The wells file and the decision tree.

    Raises:
        ConfigurationError: with every fault of both.
    """
    faults: list[str] = []
    wells, tree = None, None
    try:
        wells = load_wells(settings.diagnosis.wells_file)
    except ConfigurationError as error:
        faults += error.faults
    try:
        tree = load_tree(settings.diagnosis.tree_file)
    except ConfigurationError as error:
        faults += error.faults
    field_id = field_id_of(settings.mqtt.client_id)
    if wells is not None and field_id in wells.listed:
        faults.append(f"{settings.diagnosis.wells_file}: wells.{field_id}: no well may be called as mqtt.client_id is")
    if wells is None or tree is None or faults:
        raise ConfigurationError(faults)
    return wells, tree
