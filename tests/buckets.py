"""A real S3 server on this machine (moto's, over HTTP) that misbehaves when told to.

>>> def test_it(bucket_host):                                              # doctest: +SKIP
...     bucket_host.faults = lambda request: 503 if len(bucket_host.requests) < 3 else None
"""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from twinlens.core import bucket_faults, buckets

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str  # with the query
    range: str | None = None


@dataclass
class BucketHost:
    """The server, how requests go wrong, and what was asked for so far."""

    url: str = ""
    # The status to answer, 0 to hang up, None to do as asked; may wait, to hold a request back
    faults: Callable[[Request], int | None] = lambda request: None
    requests: list[Request] = field(default_factory=list)

    def count(self, method: str, part: str = "") -> int:
        """How many requests of a method there were whose path has a part."""
        return sum(one.method == method and part in one.path for one in self.requests)


@contextmanager
def serving_buckets() -> Iterator[BucketHost]:
    """Run the server."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    moto = DomainDispatcherApplication(create_backend_app)
    host = BucketHost()

    def answer(environ: dict[str, Any], start: Any) -> Any:
        path = environ["PATH_INFO"] + (f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else "")
        request = Request(environ["REQUEST_METHOD"], path, environ.get("HTTP_RANGE"))
        host.requests.append(request)
        status = host.faults(request)
        if status is None:
            return moto(environ, start)
        if length := int(environ.get("CONTENT_LENGTH") or 0):
            environ["wsgi.input"].read(length)  # as a real one, it has heard all before it refuses
        if status == 0:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        code = CODES[status]
        start(f"{status} {code}", [("Content-Type", "application/xml")])
        if request.method == "HEAD":
            return []
        return [f"<Error><Code>{code}</Code><Message>{code} on purpose</Message></Error>".encode()]

    class Quiet(MotoRequestHandler):  # type: ignore[misc]
        def log(self, *_: Any, **__: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()


def point_at(host: BucketHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients of this test find the server, as they find any: by the environment."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": host.url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    buckets._open.cache_clear()
    bucket_faults._last_said[0] = -math.inf
