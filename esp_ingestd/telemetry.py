"""What we tell of ourselves: every metric, and how the log is set up.

Rules:
    1. Names begin with esp_ingestd_, units are base units, labels are bounded: never a well (CONTRACT §6).
    2. What counts has a sample for each value of its labels from the start on, 0: to Prometheus the first event of a
       series that was not there before is no increase, and no rule fires. What is measured has one once it is known.
"""

import logging
import os
import select
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Final, Literal

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from esp_ingestd import __version__
from esp_ingestd.core.batch import Trigger
from esp_ingestd.core.command import WORDS, Refusal
from esp_ingestd.core.decode import Reason
from esp_ingestd.core.diagnosis import Figures

PREFIX: Final = "esp_ingestd_"
DELAY_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
WRITE_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROW_BOUNDS: Final = (1, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
SEVERITIES: Final = ("info", "low", "medium", "high", "critical")
STORE_ERRORS: Final = (
    *("connection", "timeout", "read_only", "authentication", "no_database", "conflict", "schema", "resources"),
    *("not_ready", "shutdown", "io", "internal", "other", "unkept", "spool", "spool_full"),
)
"""Kinds of `store_errors_total`."""
STEPS: Final = ("rollups", "health", "archive", "verify", "retention")
COMMAND_OUTCOMES: Final = ("heeded", "unchanged", "dropped", *(reason.value for reason in Refusal))
WINDOWS_MIN: Final = {"10m": 10, "1h": 60}
"""Over which annunciations are counted."""
KEPT_LOG_BYTES: Final = 1_048_576  # some thousand lines: a reader that is only slow misses none
LAST_LINES_S: Final = 1.0  # how long a process that ends waits for who reads its log
_US: Final = 1_000_000

_log = structlog.stdlib.get_logger(__name__)


class DelayHistogram(Collector):
    """A histogram that takes a whole batch at once: one bisection a bucket in place of one observation a reading."""

    def __init__(self, name: str, documentation: str, bounds_s: Sequence[float] = DELAY_BOUNDS_S) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds_us = [int(bound * _US) for bound in bounds_s]
        self._labels = [*map(str, bounds_s), "+Inf"]
        self._counts = [0] * len(self._labels)
        self._sum_us = 0

    def observe(self, since_us: Sequence[int], now_us: int) -> None:
        """Count how long ago each of `since_us` was, which must rise; microseconds."""
        later = len(since_us)
        for index, bound_us in enumerate(self._bounds_us):
            # What began after now - bound took less than the bound; of it, what no smaller bound took.
            first = bisect_right(since_us, now_us - bound_us - 1, 0, later)
            self._counts[index] += later - first
            later = first
        self._counts[-1] += later
        self._sum_us += now_us * len(since_us) - sum(since_us)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """For the registry."""
        total = 0
        buckets = []
        for label, count in zip(self._labels, self._counts, strict=True):
            total += count
            buckets.append((label, total))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum_us / _US)


class StoreMetrics:
    """How the store is, and what became of its maintenance."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(PREFIX + name, documentation, labels, registry=registry)

        self.runs = Counter(
            PREFIX + "maintenance_runs",
            "Steps of maintenance by this daemon, by what became of them",
            ("step", "outcome"),
            registry=registry,
        )
        for step, outcome in product(STEPS, ("done", "failed")):
            self.runs.labels(step, outcome)
        self.kept = gauge(
            "maintenance_success_timestamp_seconds", "When rollups were last kept without a fault, or the start"
        )
        self.kept.set_to_current_time()
        self.rolled_up = gauge(
            "rollups_timestamp_seconds", "What was stored before is in the rollups; 0: not known yet"
        )
        self.chunks = gauge("table_chunks", "Chunks of the table; 0 where tables have none", "table")
        self.table_bytes = gauge("table_bytes", "Size of the table on disk, indexes included", "table")
        self.compression_ratio = gauge(
            "table_compression_ratio", "Size of the compressed chunks before to after; 0 where there are none", "table"
        )
        self.jobs_failed = gauge("database_jobs_failed", "Jobs of the database whose last run failed")
        self.archive_bytes = gauge("archive_bytes", "Size of the archive's files")
        self.damaged_days = gauge("archive_damaged_days", "Archived days that were found damaged")
        self.unarchived_days = gauge("archive_unarchived_days", "Closed days that are not archived")
        self.unarchived_since = gauge(
            "archive_unarchived_since_timestamp_seconds", "End of the oldest closed day that is not archived; 0: none"
        )
        self.verified = gauge(
            "archive_verified_timestamp_seconds", "When an archived day was last found whole; 0: never"
        )
        self.overdue_days = gauge(
            "retention_overdue_days", "Days that are older than retention keeps them, and are still here"
        )


class Metrics:
    """Every metric of the daemon, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that nobody reads
        registry = self.registry = CollectorRegistry()
        GCCollector(registry)
        PlatformCollector(registry)
        ProcessCollector(registry=registry)

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, documentation, labels, registry=registry)

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(PREFIX + name, documentation, labels, registry=registry)

        self.readings_received = counter(
            "readings_received", "Readings that arrived; what cannot be read counts as one"
        )
        self.readings_stored = counter("readings_stored", "Readings that the database has committed")
        self.readings_duplicate = counter("readings_duplicate", "Readings that the database had already")
        self.readings_rejected = counter("readings_rejected", "Readings that were refused, by reason", "reason")
        self.readings_recovered = counter("readings_recovered", "Readings found in the spool at start")
        self.readings_in_flight = gauge("readings_in_flight", "Readings taken in and not yet acknowledged")
        self.readings_spooled = gauge("readings_spooled", "Readings in the spool on disk")
        self.messages_received = counter("messages_received", "Messages that arrived")
        self.acknowledged = counter("deliveries_acknowledged", "Deliveries acknowledged to the broker")
        self.batches = counter("batches", "Batches closed, by what closed them", "trigger")
        self.batch_rows = Histogram(PREFIX + "batch_rows", "Rows in a batch", buckets=ROW_BOUNDS, registry=registry)
        self.batch_write_seconds = Histogram(
            PREFIX + "batch_write_seconds", "Writing a batch to the database", buckets=WRITE_BOUNDS_S, registry=registry
        )
        self.rows_at_once = gauge(
            "database_rows_at_once", "Most rows that the database is given at once: fewer after it took too long"
        )
        self.reading_delay = DelayHistogram(PREFIX + "reading_delay_seconds", "From arrival of a reading to durable")
        self.alert_delay = DelayHistogram(
            PREFIX + "alert_delay_seconds", "From arrival of a reading to its alert accepted by the broker"
        )
        registry.register(self.reading_delay)
        registry.register(self.alert_delay)
        self.alerts_published = counter("alerts_published", "Alert events accepted by the broker", "severity")
        self.alerts_refused = counter("alerts_refused", "Alert messages that the broker refused")
        self.alerts_waiting = gauge("alerts_waiting", "Alert messages that the broker has not answered yet")
        self.alerts_held_back = counter("alerts_held_back", "Alert events that a flood left to its summary")
        self.alarm_flood = gauge("alarm_flood", "1 while a flood of alarms is under way")
        self.alarms_active = gauge("alarms_active", "Standing alarms", "severity")
        self.alarms_treated = gauge(
            "alarms_treated", "Standing alarms that are acknowledged, shelved, latched, recurring, or a day old", "how"
        )
        self.annunciations = gauge(
            "annunciations", "Alarms that called for people in the last 10 minutes or hour", "window"
        )
        self.commands = counter("commands", "Commands from SCADA, by what became of them", "command", "outcome")
        self.wells_active = gauge("wells_active", "Wells that sent a reading in the last hour")
        self.store_errors = counter(
            "store_errors", "Failed attempts to keep something in the database or on disk, by kind", "kind"
        )
        self.spool_bytes = gauge("spool_bytes", "Size of the spool on disk")
        self.spool_damaged = gauge(
            "spool_batches_damaged", "Batches in the spool that could not be read since the start"
        )
        self.intake_paused = gauge("intake_paused", "1 while the socket is not read because the pipeline is full")
        self.mqtt_connected = gauge("mqtt_connected", "1 while subscribed at the broker")
        self.mqtt_connections = counter("mqtt_connections", "Connections made to the broker")
        self.database_connected = gauge("database_connected", "1 while the database takes batches")
        self.reload_successful = gauge(
            "config_last_reload_successful", "1 if the last reload of decision tree and wells file was taken"
        )
        self.reload_timestamp = gauge(
            "config_last_reload_success_timestamp_seconds", "When decision tree and wells file were last read and taken"
        )
        self.log_lines_lost = gauge("log_lines_lost", "Log lines that nobody took in time, since the start")
        self.store = StoreMetrics(registry)
        self.build = Info(PREFIX + "build", "Version of program and decision tree", registry=registry)
        self._begin()

    def _begin(self) -> None:
        """Let every series be there from the start (rule 2)."""
        for metric, values in (
            (self.readings_rejected, Reason),
            (self.store_errors, STORE_ERRORS),
            (self.batches, Trigger),
            (self.alerts_published, SEVERITIES),
            (self.alarms_active, SEVERITIES),
            (self.alarms_treated, Figures._fields),
            (self.annunciations, WINDOWS_MIN),
        ):
            for value in values:
                metric.labels(str(value))
        for command, outcome in product((*WORDS, "unknown"), COMMAND_OUTCOMES):
            self.commands.labels(command, outcome)

    def count_reload(self, tree_version: str | None) -> None:
        """Tree and wells file were read and taken, at start too; None: they were refused."""
        self.reload_successful.set(tree_version is not None)
        if tree_version is not None:
            self.reload_timestamp.set_to_current_time()
            self.build.info({"version": __version__, "tree_version": tree_version})


class PatientLog(logging.Handler):
    """Lines to a file descriptor that never wait for who reads it: in write(2) to a full pipe the daemon would stand.

    What cannot be written now is kept, up to KEPT_LOG_BYTES; what comes then is lost, counted, and told of later.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLOUT)
        self._kept = bytearray()
        self._told = 0
        self.lost = 0
        """Lines, since the start."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or keep or lose it."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - as the standard library's handlers: no line is worth a fault elsewhere
            self.handleError(record)
            return
        if len(self._kept) + len(line) > KEPT_LOG_BYTES:
            self.lost += 1
        else:
            self._kept += line
        self._write(0.0)

    def catch_up(self) -> None:
        """Write what can be written of what is kept, and then how many lines were lost."""
        self.acquire()
        try:
            self._write(0.0)
            if self.lost > self._told and not self._kept:
                lost = self.lost
                _log.warning("log lines were lost: nobody took them", lines=lost - self._told)
                if self.lost == lost:
                    self._told = lost
                self.lost = lost  # where this line is lost too it does not count: it is told again
        finally:
            self.release()

    def flush(self) -> None:
        """Wait a little for who reads; the standard library calls it when the process ends."""
        self._write(LAST_LINES_S)

    def _write(self, patience_s: float) -> None:
        until_s = time.monotonic() + patience_s
        while self._kept and self._ready.poll(1_000 * max(until_s - time.monotonic(), 0.0)):
            try:
                # A pipe that is ready has room for this much, pipe(7); of more, write(2) would wait for the rest.
                written = os.write(self._descriptor, self._kept[: select.PIPE_BUF])
            except BlockingIOError:  # it is shared with somebody who lets nobody wait
                return
            except OSError:  # nobody is there any more, or its disk is full
                written = len(self._kept)
                self.lost += self._kept.count(b"\n")
            del self._kept[:written]


def set_up_log(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["auto", "json", "text"],
    handler: logging.Handler | None = None,
) -> None:
    """One line an event on standard error, as JSON or for people; the standard library's loggers go the same way."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    last = [structlog.processors.format_exc_info, renderer] if as_json else [renderer]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler = handler or logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel("WARNING")  # what it says beyond that, we say


class Annunciations:
    """How often alarms called for people lately: by the minute, over the last hour."""

    def __init__(self) -> None:
        self._minutes = [0] * 60
        self._now = 0

    def count(self, now_us: int) -> None:
        """One alarm called."""
        self._move(now_us)
        self._minutes[self._now % 60] += 1

    def within(self, minutes: int, now_us: int) -> int:
        """How many called in the last so many minutes, the present one included; at most 60."""
        self._move(now_us)
        return sum(self._minutes[(self._now - back) % 60] for back in range(minutes))

    def _move(self, now_us: int) -> None:
        now = now_us // (60 * _US)
        for minute in range(max(self._now + 1, now - 59), now + 1):
            self._minutes[minute % 60] = 0
        self._now = max(self._now, now)


Clock = Callable[[], int]
"""Microseconds since 1970 UTC."""
