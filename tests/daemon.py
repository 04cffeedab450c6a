"""The real daemon as a process, seen as operators see it: exit status, log, health, metrics."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from peer import PATIENCE_S, until
from prometheus_client.parser import text_string_to_metric_families

from esp_ingestd import embedded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from services import BrokerAddress

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


async def program(*arguments: str, answering_to: BinaryIO | None = None) -> tuple[int, str, str]:
    """Run `esp-ingestd …` to its end: status, standard output, unless it goes elsewhere, and error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "esp_ingestd", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=answering_to or asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("ESP_INGESTD_")},
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (output or b"").decode(), errors.decode()


class Daemon:
    """`esp-ingestd run` in a folder, with a broker and a database that may or may not be there."""

    def __init__(self, folder: Path, broker: BrokerAddress | None, dsn: str, *, client_id: str, prefix: str) -> None:
        self.folder = folder
        self.port = embedded.free_port()
        self.prefix = prefix
        self.config = folder / "esp-ingestd.toml"
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.settings: dict[str, dict[str, object]] = {
            "mqtt": {
                "host": broker.host if broker else "127.0.0.1",
                "port": broker.port if broker else 1,
                "client_id": client_id,
                "topics": [f"{prefix}/{{well_id}}/telemetry"],
            },
            "database": {"dsn": dsn, "connect_timeout_s": 2.0, "write_timeout_s": 5.0},
            "spool": {"directory": str(folder / "spool")},
            "http": {"port": self.port},
            "alerts": {"topic_prefix": f"{prefix}/alerts"},
        }

    def write_config(self) -> None:
        lines = []
        for section, values in self.settings.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, *, logging_to: BinaryIO | None = None) -> None:
        """In the background; `logging_to` is closed here, and its log file by default."""
        self.write_config()
        with logging_to or self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "esp_ingestd", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("ESP_INGESTD_")},
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        await until(lambda: self.process.poll() is not None, "the daemon ends")
        return self.process.returncode

    async def kill(self) -> None:
        self.send(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        self.send(signal.SIGTERM)
        return await self.ended()

    def get(self, path: str) -> tuple[int, str]:
        """HTTP status and body; 0 where nobody answers."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return 0, ""

    def is_ready(self) -> bool:
        return self.get("/health/ready")[0] == 200

    def metrics(self) -> Mapping[str, float]:
        """Every sample, `name` or `name{label}` by the value of its only label; the labelled ones also summed."""
        samples: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                name = sample.name.removeprefix("esp_ingestd_")
                samples[name] = samples.get(name, 0.0) + sample.value
                for value in sample.labels.values():
                    samples[f"{name}{{{value}}}"] = sample.value
        return samples

    def at_rest(self, received: int) -> bool:
        """So many readings came to this process, and what became of each is known."""
        now = self.metrics()
        return now.get("readings_received_total") == received and now["readings_in_flight"] == 0

    def said(self) -> list[dict[str, Any]]:
        """What it logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def balance(daemon: Daemon) -> float:
    """I2: 0 at rest."""
    now = daemon.metrics()
    came = now["readings_received_total"] + now["readings_recovered_total"]
    became = ("stored_total", "duplicate_total", "rejected_total", "spooled")
    return came - sum(now.get(f"readings_{each}", 0.0) for each in became)
