"""A service on this machine that answers JSON and misbehaves when told to, for those that embed and describe."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.web import WAIT_S, running


@dataclass(frozen=True)
class Fault:
    """How one request goes wrong."""

    status: int = 200
    body: bytes | None = None  # instead of the answer
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # the connection breaks after so many bytes of the answer
    hangs_up: bool = False


@dataclass(frozen=True)
class Asked:
    """What a client sent."""

    path: str
    body: Any
    authorization: str | None


@dataclass
class Service:
    """What answers, how requests go wrong, and what was asked so far."""

    answer: Callable[[Asked], Any]
    url: str = ""
    faults: list[Fault] = field(default_factory=list)  # of the next requests, in turn
    asked: list[Asked] = field(default_factory=list)
    together: threading.Barrier | None = None  # no request is answered before so many are there
    ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(answer: Callable[[Asked], Any]) -> Iterator[Service]:
    """A service that runs until the block is left."""
    service = Service(answer)
    with running(_Handler, service):
        yield service


class _Handler(BaseHTTPRequestHandler):
    serves: Service
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        service = self.serves
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.path, body, self.headers.get("Authorization"))
        service.asked.append(asked)
        if service.together is not None:
            service.together.wait(WAIT_S)
        fault = service.faults.pop(0) if service.faults else Fault()
        self.close_connection = fault.hangs_up or fault.cut_after is not None
        if fault.hangs_up:
            return
        content = fault.body
        if content is None:
            content = b"sorry" if fault.status != 200 else json.dumps(service.answer(asked)).encode()
        self.send_response(fault.status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: fault.cut_after])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; the tests look at `Service.asked`."""
