"""Metrics and health over HTTP. The server answers before the broker and the database do, and while they are away."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from esp_ingestd.config import HttpSettings
from esp_ingestd.errors import in_words

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class Dependency:
    """One thing that we need: why it is not there, or "" when it is, and since when."""

    why: str = "not tried yet"
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_up(self) -> bool:
        """Whether it is there."""
        return not self.why


class Health:
    """What /health tells: each dependency, and whether we have started or are stopping."""

    def __init__(self, *names: str) -> None:
        self._dependencies = {name: Dependency() for name in names}
        self._notes: dict[str, str] = {}
        self.started = False
        self.stopping = False

    def report(self, name: str, why: str) -> bool:
        """Note why `name` is not there, or "" when it is; True where that is a change from up to down or back."""
        now = self._dependencies[name]
        changed = now.is_up == bool(why)
        self._dependencies[name] = Dependency(why, datetime.now(UTC) if changed else now.since)
        if changed and why:
            _log.warning(f"{name} is away", why=why)
        elif changed:
            _log.info(f"{name} is there")
        elif why != now.why:
            _log.warning(f"{name} is still away", why=why)
        return changed

    def note(self, name: str, why: str) -> None:
        """Tell, without being less ready for it, what is wrong with `name`, or "" when nothing is."""
        if why:
            self._notes[name] = why
        else:
            self._notes.pop(name, None)

    @property
    def is_ready(self) -> bool:
        """Everything that we need is there, and we are not stopping."""
        return not self.stopping and all(each.is_up for each in self._dependencies.values())

    def describe(self, *, ok: bool) -> dict[str, object]:
        """The body of an answer."""
        return {
            "status": "ok" if ok else "unavailable",
            "stopping": self.stopping,
            "notes": dict(self._notes),
            "dependencies": {
                name: {"state": "up" if each.is_up else "down", "since": each.since.isoformat(), "why": each.why}
                for name, each in self._dependencies.items()
            },
        }


class HttpServer:
    """Serves /metrics and /health."""

    def __init__(self, settings: HttpSettings, registry: CollectorRegistry, health: Health) -> None:
        self._settings = settings
        self._registry = registry
        self._health = health
        self._socket: socket.socket | None = None

    def listen(self) -> str:
        """Take the port; the URL that it is reached by.

        Raises:
            OSError: the address cannot be had.
        """
        family = socket.AF_INET6 if ":" in self._settings.host else socket.AF_INET
        address = self._settings.host, self._settings.port
        try:
            self._socket = socket.create_server(address, family=family)
        except OSError as error:  # which port, besides what the system says
            raise OSError(error.errno, in_words(error), f"http {address[0]}:{address[1]}") from error
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if family is socket.AF_INET6 else f"http://{host}:{port}"

    async def serve(self) -> None:
        """Answer, until cancelled."""
        routes = [
            Route("/metrics", self._metrics),
            Route("/health", self._ready),
            Route("/health/ready", self._ready),
            Route("/health/live", self._live),
            Route("/health/startup", self._startup),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=75,
        )
        await _Server(config).serve(sockets=[self._socket] if self._socket else None)

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})

    async def _live(self, _request: Request) -> Response:
        return self._answer(ok=True)

    async def _ready(self, _request: Request) -> Response:
        return self._answer(ok=self._health.is_ready)

    async def _startup(self, _request: Request) -> Response:
        return self._answer(ok=self._health.started)

    def _answer(self, *, ok: bool) -> Response:
        return JSONResponse(self._health.describe(ok=ok), status_code=200 if ok else 503)


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: stopping is the service's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
