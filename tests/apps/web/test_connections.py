"""Connections that are held open and say nothing: the oldest of them make way, and nobody else does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from twinlens.apps.web.connections import make_patient_protocol

AT_MOST = 5
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers when the body is there, as the guard does."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port() -> Iterator[int]:
    """A server that waits for five requests to become whole."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        protocol = make_patient_protocol(AT_MOST)
        server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off", log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield int(listener.getsockname()[1])
        server.should_exit = True
        thread.join(30)


def connect(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.sendall(sent)
    return connection


def answered(connection: socket.socket, sent: bytes = HEAD + b"\r\n") -> bool:
    """Whether a request gets its answer, and not the end of the connection."""
    found = b""
    try:
        connection.sendall(sent)
        while not found.endswith(b"\r\n\r\nok") and (more := connection.recv(1000)):
            found += more
    except OSError:
        return False
    return found.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("held", [b"", b"GET /", HEAD, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"])
def test_hundreds_that_are_held_open_keep_nobody_out(port: int, held: bytes) -> None:
    open_ones = [connect(port, held) for _ in range(60)]
    for _ in range(3):
        assert answered(connect(port))
    oldest = open_ones[: 60 - AT_MOST]
    assert all(map(ended, oldest))
    for connection in open_ones:
        connection.close()


def ended(connection: socket.socket) -> bool:
    """Whether the server has ended a connection, for which this waits."""
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


def test_few_may_take_their_time(port: int) -> None:
    slow = [connect(port, HEAD) for _ in range(AT_MOST - 1)]
    for _ in range(20):
        assert answered(connect(port))
    assert all(answered(connection, b"\r\n") for connection in slow)


def test_a_connection_that_goes_on_is_not_one_that_is_held_open(port: int) -> None:
    kept = connect(port)
    for _ in range(3):
        assert answered(kept)
        others = [connect(port) for _ in range(AT_MOST)]
        assert answered(kept)
        for connection in others:
            connection.close()
