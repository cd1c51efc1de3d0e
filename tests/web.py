"""A real HTTP host on this machine that misbehaves when told to, so that the real client code is what runs.

>>> with serving({"photos.zip": b"..."}) as host:                       # doctest: +SKIP
...     host.faults["photos.zip"] = [Fault(status=503), Fault(cut_after=1000)]
...     download(Wanted("photos.zip"), f"{host.url}/photos.zip", folder)  # the third request is answered well
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import unquote

WAIT_S = 20.0  # for what a test holds back; only reached when the test itself is wrong


@dataclass(frozen=True)
class Fault:
    """How one request goes wrong; what is not given is done as an honest host does it."""

    status: int | None = None  # answered instead of the file
    body: bytes | None = None  # sent instead of the file
    content_type: str = "application/octet-stream"
    location: str | None = None  # where the file is said to have gone, with a status of 3xx
    cut_after: int | None = None  # the connection breaks after so many bytes of the answer
    silent_after: int | None = None  # nothing more is sent after so many bytes, but the connection stays
    hangs_up: bool = False  # the connection breaks before any answer
    ignores_range: bool = False  # the whole file is sent, whatever part was asked for
    ignores_if_range: bool = False  # the part is sent though the file is another one now
    hides_length: bool = False
    length: str | None = None  # is said in place of the true one
    held_until: threading.Event | None = None  # nothing is answered before


@dataclass(frozen=True)
class Request:
    """What a client asked for, and what it got."""

    name: str
    range: str | None
    if_range: str | None
    status: int  # 0 where there was no answer
    sent: int  # bytes of the answer, after its head


@dataclass
class Host:
    """What is served, how requests go wrong, and what was asked for so far."""

    files: dict[str, bytes]
    url: str = ""
    stamped: bool = True  # files are sent with an ETag, a digest of their content
    faults: dict[str, list[Fault]] = field(default_factory=dict)  # by name: of the next requests, in turn
    requests: list[Request] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def etag(self, name: str) -> str:
        """The stamp of a file as it is now."""
        return f'"{hashlib.sha256(self.files[name]).hexdigest()[:16]}"'

    def next_fault(self, name: str) -> Fault:
        """How the next request for `name` goes wrong."""
        waiting = self.faults.get(name)
        return waiting.pop(0) if waiting else Fault()


@contextmanager
def serving(files: Mapping[str, bytes] | None = None) -> Iterator[Host]:
    """A host that runs until the block is left."""
    host = Host(dict(files or {}))
    with running(_Handler, host):
        yield host


class Served(Protocol):
    """What a handler serves; `running` fills in its address and says when it has ended."""

    url: str
    ended: threading.Event


@contextmanager
def running(handler: type[BaseHTTPRequestHandler], served: Served) -> Iterator[None]:
    """Answer requests by `handler`, whose `serves` is `served`, until the block is left."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"serves": served}))
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        served.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    serves: Host
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host, name = self.serves, unquote(self.path.lstrip("/"))
        fault = host.next_fault(name)
        if fault.held_until is not None:
            fault.held_until.wait(WAIT_S)
        self.close_connection = True
        if fault.hangs_up:
            host.requests.append(Request(name, self.headers.get("Range"), self.headers.get("If-Range"), 0, 0))
            return
        status, body, headers = self._answer(name, fault)
        sent = body[: fault.cut_after if fault.silent_after is None else fault.silent_after]
        # Noted before it is sent: a client that has its answer may look at once.
        asked = self.headers
        host.requests.append(Request(name, asked.get("Range"), asked.get("If-Range"), status, len(sent)))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if not fault.hides_length:
            self.send_header("Content-Length", (fault.length or str(len(body))).encode("utf-8").decode("latin-1"))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(sent)
        if fault.silent_after is not None:
            self.wfile.flush()
            host.ended.wait(WAIT_S)

    def _answer(self, name: str, fault: Fault) -> tuple[int, bytes, dict[str, str]]:
        host = self.serves
        headers = {"Content-Type": fault.content_type}
        if fault.location is not None:
            headers["Location"] = fault.location
        if fault.status is not None or fault.body is not None:
            return fault.status or 200, fault.body if fault.body is not None else b"sorry", headers
        if name not in host.files:
            return 404, b"no such file", headers
        whole = host.files[name]
        if host.stamped:
            headers["ETag"] = host.etag(name)
        first = self._first_byte(name, fault)
        if first is None or fault.ignores_range:
            return 200, whole, headers
        if first >= len(whole):
            return 416, b"", headers | {"Content-Range": f"bytes */{len(whole)}"}
        return 206, whole[first:], headers | {"Content-Range": f"bytes {first}-{len(whole) - 1}/{len(whole)}"}

    def _first_byte(self, name: str, fault: Fault) -> int | None:
        """Where the part that is asked for begins; None for the whole file."""
        stamp = None if fault.ignores_if_range else self.headers.get("If-Range")
        if stamp is not None and (not self.serves.stamped or stamp != self.serves.etag(name)):
            return None  # the client's part is of another file
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found else None

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; the tests look at `Host.requests`."""
