"""What people are told when the system says no."""

from __future__ import annotations

import asyncio
import socket

import pytest

from esp_ingestd.embedded import free_port
from esp_ingestd.errors import in_words


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 5432)"), "Connection refused"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 113] x"),
            "Connection refused",
        ),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (FileNotFoundError(2, "No such file or directory", "ca.crt"), "ca.crt: No such file or directory"),
        (ConnectionError("unexpected connection_lost() call"), "unexpected connection_lost() call"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_an_error_of_the_system_is_told_in_its_words(error: OSError, said: str) -> None:
    assert in_words(error) == said


async def test_nobody_at_a_port_is_a_connection_refused() -> None:
    with pytest.raises(OSError, match="111") as raised:
        await asyncio.open_connection("127.0.0.1", free_port())
    assert in_words(raised.value) == "Connection refused"
