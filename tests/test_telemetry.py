"""The metrics as Prometheus meets them: names of CONTRACT §6, a sample of each series before its first event."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import select
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from esp_ingestd import maintenance
from esp_ingestd.database.verdict import UNAVAILABLE_KINDS
from esp_ingestd.telemetry import PREFIX, STEPS, STORE_ERRORS, Metrics, PatientLog, set_up_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
CONTRACT = {
    "readings_received_total": ("counter", ()),
    "readings_stored_total": ("counter", ()),
    "readings_duplicate_total": ("counter", ()),
    "readings_rejected_total": ("counter", ("reason",)),
    "readings_recovered_total": ("counter", ()),
    "readings_in_flight": ("gauge", ()),
    "readings_spooled": ("gauge", ()),
    "batch_rows": ("histogram", ()),
    "batch_write_seconds": ("histogram", ()),
    "reading_delay_seconds": ("histogram", ()),
    "alert_delay_seconds": ("histogram", ()),
    "alerts_published_total": ("counter", ("severity",)),
    "alarms_active": ("gauge", ("severity",)),
    "wells_active": ("gauge", ()),
    "store_errors_total": ("counter", ("kind",)),
    "spool_bytes": ("gauge", ()),
    "mqtt_connected": ("gauge", ()),
    "database_connected": ("gauge", ()),
    "build_info": ("gauge", ("tree_version", "version")),
}
DAYS = {PREFIX + name for name in ("archive_damaged_days", "archive_unarchived_days", "retention_overdue_days")}
LATER = {"table_chunks", "table_bytes", "table_compression_ratio"}  # measured, once the database was looked at


def at_start() -> str:
    """What a daemon exposes that has just begun."""
    metrics = Metrics()
    metrics.count_reload("abc")
    return generate_latest(metrics.registry).decode()


def samples() -> dict[str, list[dict[str, str]]]:
    """The labels of each series, by name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(at_start()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def selectors(text: str, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The series that a text names, each with the labels that it asks for."""
    for metric, _, matchers in re.findall(rf"({name})(\{{([^}}]*)\}})?", text):
        yield metric, dict(re.findall(r'(\w+)="([^"]*)"', matchers))


@pytest.mark.parametrize("name", CONTRACT)
def test_a_metric_of_the_contract_has_its_name_its_type_and_its_labels(name: str) -> None:
    kind, labels = CONTRACT[name]
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", at_start(), re.MULTILINE))
    assert types[PREFIX + name] == kind
    series = samples()[PREFIX + name + ("_count" if kind == "histogram" else "")]
    assert {tuple(sorted(each)) for each in series} == {labels}


def test_every_metric_says_what_it_is_and_is_there_from_the_start() -> None:
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", at_start(), re.MULTILINE))
    assert all(helps.values())
    found = samples()
    without = {
        name
        for name in helps
        if not any(each in found for each in (name, f"{name}_total", f"{name}_count", f"{name}_info"))
    }
    assert without == {PREFIX + name for name in LATER}


@pytest.mark.parametrize("page", ["config/prometheus/alerts.yml", "docs/operations.md", "docs/diagnosis.md"])
def test_a_series_that_is_named_has_a_sample_before_its_first_event(page: str) -> None:
    """`increase()` does not see the first event of a series that begins with it."""
    text = (ROOT / page).read_text()
    if page.endswith(".yml"):
        text = "\n".join(re.findall(r"expr: (.*)", text))
    named = list(selectors(text, rf"{PREFIX}[a-z_]+" if page.endswith(".yml") else r"\b[a-z_]+_total"))
    assert named
    found = samples()
    for name, wanted in named:
        series = found[name if name.startswith(PREFIX) else PREFIX + name]
        assert any(wanted.items() <= labels.items() for labels in series), (name, wanted)


def test_kinds_of_store_errors_are_all_that_there_are() -> None:
    package = ROOT / "esp_ingestd"
    files = [*package.glob("database/*.py"), *(package / f"{name}.py" for name in ("spool", "sqlite", "errors"))]
    source = "".join(file.read_text() for file in files)
    literal = set(re.findall(r'kind="([a-z_]+)"', source)) | {"other", "unkept", "spool", "spool_full"}
    assert set(STORE_ERRORS) == set(UNAVAILABLE_KINDS.values()) | literal
    assert len(set(STORE_ERRORS)) == len(STORE_ERRORS)


def test_steps_of_maintenance_are_all_that_there_are() -> None:
    assert set(STEPS) == {*maintenance.EVERYTHING, "health"}


def test_no_label_is_a_wells() -> None:
    names = {label for series in samples().values() for labels in series for label in labels}
    assert names <= {
        *("reason", "severity", "kind", "version", "tree_version", "trigger", "how", "window", "command", "outcome"),
        *("step", "table", "le", "generation", "implementation", "major", "minor", "patchlevel"),
    }


def test_promtool_finds_nothing_to_say() -> None:
    if not (program := shutil.which("promtool")):
        pytest.skip("Prometheus is not on this machine")
    done = subprocess.run([program, "check", "metrics"], input=at_start(), capture_output=True, text=True, check=False)
    faults = (done.stdout + done.stderr).splitlines()
    assert [each for each in faults if not each.endswith('use base unit "seconds" instead of "days"')] == []
    assert {each.split()[0] for each in faults} == DAYS, "counts of archived days, each a file; no durations"


# ------------------------------------------------------------------------------------------------------------- log


@pytest.fixture
def log_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], PatientLog]]:
    """Sets the log up for one test, to this descriptor."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level

    def set_up(descriptor: int) -> PatientLog:
        log = PatientLog(descriptor)
        set_up_log("warning", "json", log)
        return log

    yield set_up
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A small one: reader and writer."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4_096)
    yield reader, writer
    for descriptor in (reader, writer):
        os.close(descriptor)


def events(lines: bytes) -> list[str]:
    return [json.loads(line)["event"] for line in lines.splitlines()]


def test_log_lines_that_nobody_reads_are_kept_in_order(
    log_to: Callable[[int], PatientLog], pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    log = log_to(writer)
    said = [f"line {number} " + "." * 100 for number in range(500)]
    for line in said:
        logging.getLogger("t").warning(line)
    heard = b""
    while heard.count(b"\n") < 500:
        log.catch_up()
        heard += os.read(reader, 4_096)
    assert events(heard) == said
    assert log.lost == 0


def test_log_lines_beyond_what_is_kept_are_counted_and_told_of_once(
    log_to: Callable[[int], PatientLog], pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    log = log_to(writer)
    line = "." * 10_000
    for _ in range(300):
        logging.getLogger("t").warning(line)
    lost = log.lost
    assert 190 < lost < 200, "a MiB is kept"
    heard = b""
    while b"log lines were lost" not in heard:
        log.catch_up()
        heard += os.read(reader, 4_096)
    log.catch_up()
    assert not select.select([reader], [], [], 0)[0]
    assert [*map(len, events(heard)[:-1])] == [10_000] * (300 - lost)
    assert json.loads(heard.splitlines()[-1])["lines"] == lost
    assert log.lost == lost


def test_what_no_disk_has_room_for_is_counted_and_told_of_once_there_is(
    log_to: Callable[[int], PatientLog], tmp_path: Path
) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    log = log_to(descriptor)
    for _ in range(3):
        logging.getLogger("t").warning("nobody hears this")
        log.catch_up()
    assert log.lost == 3
    with (tmp_path / "log").open("wb") as room:
        os.dup2(room.fileno(), descriptor)
        log.catch_up()
        log.catch_up()
    os.close(descriptor)
    (told,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(told)["lines"] == log.lost == 3


def test_a_process_that_ends_waits_for_who_is_only_slow(
    log_to: Callable[[int], PatientLog], pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    log = log_to(writer)
    heard: list[bytes] = []
    for number in range(200):
        logging.getLogger("t").warning("line %d", number)
    slow = threading.Thread(target=lambda: heard.extend(iter(lambda: os.read(reader, 4_096), b"")))
    slow.start()
    log.flush()
    os.close(writer)
    os.dup2(reader, writer)  # closed by the fixture
    slow.join()
    assert events(b"".join(heard)) == [f"line {number}" for number in range(200)]
