"""Connections that are held open and say or take nothing: each has its time, the oldest make way, nobody else does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from twinlens.apps.web.connections import Limits, Room, make_patient_protocol

AT_MOST = 5
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
LARGE = b"x" * 2**24  # more than the system takes for a client that reads nothing
SHORT_S = 0.5
LONG_S = 600.0  # is never reached


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers when the body is there, as the guard does."""
    more, body = True, LARGE if scope["path"] == "/large" else b"ok"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(limits: Limits) -> Iterator[int]:
    """A server with these limits; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        protocol = make_patient_protocol(limits)
        config = uvicorn.Config(
            app, http=protocol, lifespan="off", log_level="error", ws="none", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield int(listener.getsockname()[1])
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def port() -> Iterator[int]:
    """A server that waits for five requests to become whole, as long as it takes."""
    with serving(Limits(unfinished=AT_MOST, head_s=LONG_S, request_s=LONG_S, taken_s=LONG_S)) as port:
        yield port


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


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
SLOW_HEAD = Limits(head_s=SHORT_S, request_s=LONG_S, taken_s=LONG_S)


@pytest.mark.parametrize("held", [b"", b"GET /", HEAD])
def test_a_head_that_does_not_end_has_its_time(held: bytes) -> None:
    with serving(SLOW_HEAD) as port:
        assert ended(connect(port, held))
        assert answered(connect(port))


def test_the_head_of_a_second_request_has_its_time_too() -> None:
    with serving(SLOW_HEAD) as port:
        kept = connect(port)
        assert answered(kept)
        kept.sendall(b"GET /")
        assert ended(kept)


def test_a_body_has_longer_than_a_head_and_not_for_ever() -> None:
    with serving(SLOW_HEAD) as port:
        slow = connect(port, POST + b"1234")
        time.sleep(3 * SHORT_S)
        assert answered(slow, b"56789")
    with serving(Limits(head_s=LONG_S, request_s=SHORT_S, taken_s=LONG_S)) as port:
        assert ended(connect(port, POST + b"1234"))


def test_an_answer_that_nobody_takes_is_given_up_and_one_that_is_taken_slowly_is_not() -> None:
    with serving(Limits(head_s=LONG_S, request_s=LONG_S, taken_s=SHORT_S)) as port:
        slow = connect(port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(4 * SHORT_S)
        assert read_all(slow) < len(LARGE)
        steady = connect(port, b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(steady) > len(LARGE)


def read_all(connection: socket.socket) -> int:
    """The bytes that come until the connection ends."""
    count = 0
    try:
        while more := len(connection.recv(2**20)):
            count += more
    except ConnectionResetError:
        pass
    return count


def test_answers_that_nobody_takes_keep_nobody_out() -> None:
    with serving(Limits(connections=10, head_s=LONG_S, request_s=LONG_S, taken_s=LONG_S)) as port:
        greedy = []
        for _ in range(12):
            greedy.append(connect(port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"))
            assert greedy[-1].recv(10)  # the answer has begun
        assert answered(connect(port))
        assert read_all(greedy[0]) < len(LARGE)
        for connection in greedy:
            connection.close()


def test_what_has_ended_is_kept_nowhere() -> None:
    """Another connection finds all the room that there was."""
    with serving(Limits(unfinished=2, connections=2, head_s=LONG_S, request_s=LONG_S, taken_s=LONG_S)) as port:
        for _ in range(20):
            connection = connect(port)
            assert answered(connection)
            connection.close()


class Stub:
    """A connection that only notes whether it was ended."""

    def __init__(self) -> None:
        self.ended = False
        self.transport = self

    def abort(self) -> None:
        self.ended = True


def test_where_there_are_too_many_an_idle_connection_makes_way_and_not_the_one_that_just_came() -> None:
    room = Room(Limits(unfinished=5, connections=2))
    idle, asking, new = Stub(), Stub(), Stub()
    for one in (idle, asking):
        room.enter(one)  # type: ignore[arg-type]
    room.unfinished.pop(idle)  # type: ignore[call-overload]
    room.idle[idle] = None  # type: ignore[index]
    room.enter(new)  # type: ignore[arg-type]
    assert (idle.ended, asking.ended, new.ended) == (True, False, False)
