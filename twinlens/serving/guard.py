"""What stands before the page: it lets in what the page itself asks for, as large as that can be, and nothing else."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from twinlens.indexing.queries import MAX_IMAGE_BYTES

MAX_REQUEST_BYTES = 2 * MAX_IMAGE_BYTES  # of an upload; the page sends one picture at a time
MAX_EVENT_BYTES = 2**20  # of any other request: words, settings and ids
MAX_UPLOADS_BYTES = 8 * MAX_IMAGE_BYTES  # of all uploads that arrive or lie there
KEPT_S = 300  # an upload that nobody searched by is deleted when so old

# Gradio has many more routes: for files, proxies, recordings, its API, its own editor. Some write to the disk, and a
# new release may bring others, so what the page uses is listed rather than what it does not use.
UPLOAD, EVENT = "/gradio_api/upload", "/gradio_api/queue/join"
READ = re.compile(
    r"/|/(assets|static)/.+|/(favicon\.ico|theme\.css|config)"
    r"|/gradio_api/(theme\.css|app_id|heartbeat/[^/]+|queue/data|upload_progress)"
)
HEADERS = {
    # Gradio's components come as inline scripts and compile their templates.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class RefusedError(Exception):
    """A request that is answered here, with a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """ASGI middleware: lets in what the page asks for, bounds bodies, and tells the browser to ask no other host."""

    def __init__(self, app: Any, uploads: Path) -> None:
        self.app, self.uploads = app, uploads
        self.arriving = 0  # bytes of uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # the page opens no WebSocket
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        started, size, left = False, 0, 0

        async def bounded() -> Any:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise RefusedError(413, "More arrived than the request said.")
            return message

        async def with_headers(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = message | {"headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            left = self._admit(scope["method"], scope["path"], dict(scope["headers"]))
            size = left if scope["path"] == UPLOAD else 0
            self.arriving += size
            await self.app(scope, bounded, with_headers)
        except RefusedError as refused:
            if not started:
                plain = [(b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": refused.status, "headers": plain})
                await send({"type": "http.response.body", "body": refused.reason.encode()})
        finally:
            self.arriving -= size

    def _admit(self, method: str, path: str, headers: dict[bytes, bytes]) -> int:
        """The bytes that the request's body says it has.

        Raises:
            RefusedError: the page makes no such request, another page made it, or its body is too large.
        """
        posted = method == "POST" and path in (UPLOAD, EVENT)
        if not posted and not (method in ("GET", "HEAD") and READ.fullmatch(path)):
            raise RefusedError(403, "The search page asks for nothing of this kind, and gives out no files.")
        origin = headers.get(b"origin")
        # Browsers send `null` for pages without an address; other programs send nothing.
        if posted and origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise RefusedError(403, "Only the search page itself may send something here.")
        # Where a body comes in chunks, Content-Length says nothing about it; no browser sends one so.
        length = headers.get(b"content-length", b"" if posted else b"0")
        if b"transfer-encoding" in headers or not length.isdigit():
            raise RefusedError(411, "A request has to say how large it is.")
        size = int(length)
        if size > (MAX_REQUEST_BYTES if path == UPLOAD else MAX_EVENT_BYTES if posted else 0):
            raise RefusedError(413, "The request is larger than the maximum allowed size.")
        if path == UPLOAD and self.arriving + lying(self.uploads) + size > MAX_UPLOADS_BYTES:
            raise RefusedError(503, "Too many uploads at once: try again in a minute.")
        return size


def lying(folder: Path) -> int:
    """The bytes in a folder of uploads, once those that nobody came for are deleted.

    Gradio deletes what arrived whole. A part of an upload that broke off is known to nobody, and would count for ever.
    """
    found, oldest = 0, time.time() - KEPT_S
    for parent, _, files in os.walk(folder):  # unlike rglob, it passes over a folder that vanishes
        for name in files:
            path = Path(parent, name)
            with suppress(FileNotFoundError):  # another request has read and deleted it
                stat = path.lstat()
                if stat.st_mtime < oldest:
                    path.unlink()
                else:
                    found += stat.st_size
    return found
