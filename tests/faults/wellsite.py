"""A daemon between a broker and a database of its own, and wells that number their readings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from daemon import Daemon, balance
from peer import Peer, until
from pydantic import SecretStr
from services import execute, fetch

from esp_ingestd.config import DatabaseSettings
from esp_ingestd.database import migrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services import BrokerAddress

    from esp_ingestd.embedded import Database

T0_MS = 1_700_000_000_000


class Rtu:
    """Wells that number their readings; it publishes as whom the broker lets in."""

    def __init__(self, broker: BrokerAddress, *, user: str = "", password: str = "") -> None:
        self.broker, self.user, self.password = broker, user, password
        self.sent = 0

    def send(
        self, count: int, *, well: str = "W1", beside: Callable[[], bytes] | None = None, **channels: float
    ) -> None:
        """So many more readings, of these channels too; with `beside` another message before each."""
        messages: list[tuple[str, bytes | str]] = []
        for number in range(self.sent, self.sent + count):
            if beside:
                messages.append((f"d/{well}/telemetry", b"%d %s" % (number, beside())))
            body = {"timestamp": T0_MS + 1_000 * number, "pip": number % 10_000, "number": number, **channels}
            messages.append((f"d/{well}/telemetry", json.dumps(body)))
        self.sent += count
        with Peer(self.broker, user=self.user, password=self.password) as peer:
            peer.publish_all(messages)

    def send_array(self, count: int, *, well: str = "W1") -> None:
        """So many more readings in one message, which makes them one batch."""
        body = [
            {"timestamp": T0_MS + 1_000 * number, "pip": number % 10_000, "number": number}
            for number in range(self.sent, self.sent + count)
        ]
        self.sent += count
        with Peer(self.broker, user=self.user, password=self.password) as peer:
            peer.publish(f"d/{well}/telemetry", json.dumps(body))


class Site:
    """A daemon between a database of its own, as a role of its own, and the broker."""

    def __init__(self, folder: Path, broker: BrokerAddress, server: Database) -> None:
        self.server = server
        self.rtu = Rtu(broker)
        self.dsn = urlsplit(server.dsn)._replace(netloc=f"esp:secret@127.0.0.1:{server.port}").geturl()
        self.daemon = Daemon(folder, broker, self.dsn, client_id="d", prefix="d")
        self.sent = 0

    async def admin(self, *statements: str) -> None:
        for statement in statements:
            await execute(self.server.dsn, statement)

    async def hang_up(self) -> None:
        """End the daemon's connections, as an administrator does."""
        await self.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'esp'")

    async def counted(self, *servers: str) -> list[int]:
        return sorted([number for dsn in servers or [self.server.dsn] for number in await numbers(dsn)])

    async def settled(self) -> None:
        """Everything that was sent is stored, once, and the counters say so."""
        await until(lambda: self.daemon.metrics().get("readings_stored_total") == self.rtu.sent)
        await until(lambda: self.daemon.metrics()["readings_in_flight"] == 0)
        assert self.daemon.metrics()["readings_spooled"] == 0
        assert balance(self.daemon) == 0
        assert await self.counted() == list(range(self.rtu.sent))


async def numbers(dsn: str) -> list[int]:
    return [row[0] for row in await fetch(dsn, "SELECT (extra->>'number')::int FROM esp_telemetry")]


def why_not(daemon: Daemon, name: str) -> str:
    """What /health says of a dependency; "" where it is there."""
    said = daemon.get("/health")[1]
    return str(json.loads(said)["dependencies"][name]["why"]) if said else "no answer"


async def add_role(dsn: str) -> None:
    await migrate(DatabaseSettings(dsn=SecretStr(dsn)))
    await execute(dsn, "CREATE ROLE esp LOGIN PASSWORD 'secret' IN ROLE esp_ingest")
