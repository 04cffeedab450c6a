"""A wire between the daemon and what it talks to, that can be cut, stalled, slowed and made to drop half a packet."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType


_Result = TypeVar("_Result")


class Wire:
    """A TCP proxy on 127.0.0.1 in a thread of its own; `port` leads to `target`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.connections = 0
        self.cut_at: list[int] = []
        """How many connections there had been when what `cut_after` asks for was done, each time."""
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cut_after: int | None = None
        self._pause_s = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._hang_up())
        self._server.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Close every connection now."""
        self._call(self._hang_up())

    def cut_after(self, sent_bytes: int) -> None:
        """Close a connection once it has sent so many more bytes to the target: in the middle of whatever it is."""
        self._cut_after = sent_bytes

    def stall(self) -> None:
        """Neither deliver nor close."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """Deliver again."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def slow(self, pause_s: float) -> None:
        """Wait before each piece that is delivered."""
        self._pause_s = pause_s

    def _call(self, work: Coroutine[object, object, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _hang_up(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(
            self._carry(reader, far_writer, up=True), self._carry(far_reader, writer, up=False), return_exceptions=True
        )
        for each in (writer, far_writer):
            self._writers.discard(each)
            each.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(4_096):
            await self._flowing.wait()
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
            if up and self._cut_after is not None:
                self._cut_after -= len(data)
                if self._cut_after <= 0:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    self._cut_after = None
                    self.cut_at.append(self.connections)
                    await self._hang_up()
                    return
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
