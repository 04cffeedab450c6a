"""The demo as it is: the program in a folder, without a terminal, until it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import asyncpg
import pytest

from esp_ingestd import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE_S = 200.0
# A shell that is set to a daemon of its own: none of the demo's business.
ELSEWHERE = os.environ | {"ESP_INGESTD_MQTT__HOST": "broker.invalid", "PGHOST": "database.invalid"}


class Start(Protocol):
    """Starts a demo in the test's folder, with these options, in this environment or the test's own."""

    def __call__(self, *options: str, environment: Mapping[str, str] = ...) -> subprocess.Popen[str]: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "the demo"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*options: str, environment: Mapping[str, str] = ELSEWHERE) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "esp_ingestd", "demo", "--folder", str(folder)]
            # The usual ports are looked at before they are taken: another demo, in a worker beside this, may be faster.
            for port in ("--port", "--broker-port", "--database-port"):
                command += [port, str(embedded.free_port())]
            command += options
            demo = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
            )
            stack.callback(demo.kill)
            return demo

        yield start


def read_until(demo: subprocess.Popen[str], wanted: str) -> str:
    """What the demo says up to the line with `wanted`, which it must say."""
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if wanted in line:
            return said
    pytest.fail(f"the demo never said {wanted!r}:\n{said}")


def number_after(label: str, text: str) -> int:
    match = re.search(rf"{label} +([\d,]+)", text)
    assert match, text
    return int(match[1].replace(",", ""))


def processes_in(folder: Path) -> list[str]:
    """The command lines of the processes that name the folder, or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command or (process / "cwd").readlink().is_relative_to(folder):
                found.append(command)
    return found


def await_none_in(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := processes_in(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


async def test_everything_runs_until_it_is_ended(start: Start, folder: Path) -> None:
    demo = start("--speed", "600", "--wells", "6")
    said = read_until(demo, "alarm raised")
    assert "ELECTRICAL_FAULT" in said
    assert re.search(r"metrics +http://127.0.0.1:\d+/metrics", said)
    assert re.search(r"edition (postgresql: it lacks TimescaleDB|timescaledb-(apache|community): )", said)
    dsn = re.search(r"psql (postgresql://\S+)", said)
    assert dsn
    database = await asyncpg.connect(dsn[1])
    assert await database.fetchval("SELECT count(DISTINCT well_id) FROM esp_telemetry") == 6
    alarms = "SELECT count(*) FROM diagnostic_results WHERE transition = 'raised'"
    async with asyncio.timeout(PATIENCE_S):  # told before it is stored: alerts do not wait for the database
        while not await database.fetchval(alarms):
            await database.execute("SELECT pg_sleep(0.02)")
    await database.close()
    assert len(processes_in(folder)) >= 4
    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0, said
    assert number_after("readings sent", said) == number_after("readings stored", said) > 0
    assert number_after("duplicates", said) == 0
    assert number_after("alarms raised", said) >= 1
    assert f"rm -r '{folder}'" in said
    assert processes_in(folder) == []


def test_nothing_outlives_a_demo_that_is_killed_and_the_next_begins_anew(start: Start, folder: Path) -> None:
    demo = start()
    read_until(demo, " wells ")
    assert len(processes_in(folder)) >= 4
    demo.kill()
    demo.wait()
    await_none_in(folder)
    again = start("--duration", "2")
    said, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, said
    assert number_after("readings sent", said) == number_after("readings stored", said) > 0
    assert processes_in(folder) == []
    made = {"broker", "daemon", "database", "demo.lock", "esp-ingestd.toml", "wells.toml"}
    assert {path.name for path in folder.iterdir()} == made


def test_an_empty_environment_is_enough(start: Start, folder: Path) -> None:
    """As a service or a cron job has it: no home, no locale, no user's name."""
    demo = start("--duration", "2", environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    said, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0, said
    assert number_after("readings sent", said) == number_after("readings stored", said) > 0
    assert processes_in(folder) == []


def test_two_demos_do_not_share_a_folder(start: Start, folder: Path) -> None:
    demo = start()
    read_until(demo, " broker ")
    second = start()
    said, _ = second.communicate(timeout=PATIENCE_S)
    assert (second.returncode, "another demo runs in" in said) == (1, True), said
    demo.send_signal(signal.SIGTERM)
    said, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0, said
    await_none_in(folder)  # initdb may have been at work: what it started ends a moment after it


def test_part_that_ends_by_itself_ends_the_demo_and_is_named(start: Start, folder: Path) -> None:
    demo = start()
    read_until(demo, "stored")
    os.kill(int((folder / "database" / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    said, _ = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, "the database ended by itself" in said) == (1, True), said
    await_none_in(folder)


def test_taken_port_is_named_with_what_to_do(start: Start) -> None:
    with socket.create_server(("127.0.0.1", embedded.free_port())) as taken:
        port = taken.getsockname()[1]
        demo = start("--broker-port", str(port))
        said, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert said.startswith(f"esp-ingestd demo: port {port} for the broker cannot be had (Address already in use)")
    assert "--broker-port" in said


def test_folder_with_other_things_in_it_is_left_alone(start: Start, folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("three years")
    demo = start()
    said, _ = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, "is not empty, and no demo made it" in said) == (1, True), said
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_folder_that_cannot_be_made_is_named_with_what_to_do(start: Start, folder: Path) -> None:
    folder.write_text("a file in its place")
    demo = start()
    said, _ = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, "choose another folder with --folder" in said) == (1, True), said
    assert str(folder) in said
