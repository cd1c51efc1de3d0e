"""ASGI middleware of the page: allow-list of its routes, limits on body sizes, everything else refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from twinlens.apps.web.hosts import Hosts
from twinlens.apps.web.turns import GoneError
from twinlens.apps.web.visitors import Visitors
from twinlens.indexing.validate import MAX_IMAGE_BYTES

MAX_ASKED_BYTES = 2**20  # words, settings and marks
MAX_ARRIVING_BYTES = 8 * MAX_IMAGE_BYTES  # of all bodies for one route, until they are answered
MAX_ARRIVING_OF_ONE = 2 * MAX_IMAGE_BYTES  # of those, for one visitor, or for all strangers together
ARRIVES_WITHIN_S = 60.0

ASSETS = ("/assets/page.css", "/assets/page.js")
LIMITS = {  # what is posted, and how large it may be
    "/picture": MAX_IMAGE_BYTES + MAX_ASKED_BYTES,
    "/search": MAX_IMAGE_BYTES + MAX_ASKED_BYTES,
    "/tray": MAX_ASKED_BYTES,
}
METHODS = dict.fromkeys(("/", *ASSETS), ("GET", "HEAD")) | dict.fromkeys(LIMITS, ("POST",))
CONTENT = b"application/octet-stream"  # no form of another page can send it without asking us first
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class RefusedError(Exception):
    """A request that is answered here, with a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """ASGI middleware: admits the page's own requests, bounds bodies, and tells the browser to ask no other host."""

    def __init__(self, app: Any, hosts: Hosts, visitors: Visitors) -> None:
        self.app, self.hosts, self.visitors = app, hosts, visitors
        # Bytes by route, as pictures leave room for searches, and by route and visitor.
        self.arriving: Counter[tuple[str, ...]] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # the page opens no WebSocket
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        visitor = scope.setdefault("state", {})["visitor"] = self.visitors.of(scope)
        answer, arrived = Answer(send), Arrived(scope["path"], visitor.account, self.arriving)
        try:
            size = self._admit(scope)
            body = await self._body(arrived, size, receive) if scope["method"] == "POST" else None
            await self.app(scope, _again(body, receive), answer)
        except GoneError:
            pass
        except RefusedError as refused:
            await answer.refuse(refused)
        except asyncio.CancelledError:  # the page ends; uvicorn would write a traceback for each request
            await answer.refuse(RefusedError(503, "The page was ended."))
        finally:
            arrived.forget()

    def _admit(self, scope: Any) -> int:
        """The bytes that the request's body says it has.

        Raises:
            RefusedError: the page makes no such request, another page made it, or its body is too large.
        """
        method, path, headers = scope["method"], scope["path"], _by_name(scope["headers"])
        host = self._host(headers)
        if path not in METHODS:
            raise RefusedError(404, "There is nothing here: the search page is at /, and gives out no files.")
        if method not in METHODS[path]:
            raise RefusedError(405, "The search page asks for nothing in this way.")
        if method == "POST":
            self._sent_by_the_page(headers, host)
            if headers.get(b"content-type") != [CONTENT]:
                raise RefusedError(415, "What is sent here is of the type application/octet-stream.")
        elif headers.get(b"sec-fetch-site") == [b"cross-site"] and headers.get(b"sec-fetch-mode") != [b"navigate"]:
            raise RefusedError(403, "Another page may lead here, but not load anything from here.")
        return _size(headers, LIMITS[path] if method == "POST" else None)

    def _host(self, headers: Mapping[bytes, list[bytes]]) -> str:
        given = headers.get(b"host", [])
        host = given[0].decode("latin-1") if len(given) == 1 else ""
        if not self.hosts.has(host):
            raise RefusedError(
                400,
                f"This page does not go by the name {host[:200]!r}. If it should, start it with that name: "
                "twinlens serve --allow-host NAME",
            )
        return host

    def _sent_by_the_page(self, headers: Mapping[bytes, list[bytes]], host: str) -> None:
        """Nothing, where the page itself sent this, or a program that is no browser.

        Raises:
            RefusedError: it says that it is of another page.
        """
        origins, sites = headers.get(b"origin", []), headers.get(b"sec-fetch-site", [])
        ours = [self.hosts.sends(origin.decode("latin-1"), host) for origin in origins]
        if len(origins) > 1 or not all(ours) or any(site not in (b"same-origin", b"none") for site in sites):
            raise RefusedError(403, "Only the search page itself may send something here.")

    async def _body(self, arrived: Arrived, size: int, receive: Any) -> bytes:
        """The body, whole: what has come counts, not what was announced.

        Raises:
            RefusedError: it is larger than was said, too slow, or there is too much of other requests.
            GoneError: the asker went before it was there.
        """
        chunks, more = [], True
        try:
            async with asyncio.timeout(ARRIVES_WITHIN_S):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise GoneError
                    chunks.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    arrived.add(len(chunks[-1]))
                    if arrived.bytes > size:
                        raise RefusedError(413, "More arrived than the request said.")
        except TimeoutError:
            raise RefusedError(408, "What was sent here did not arrive in time: try again.") from None
        return b"".join(chunks)


class Answer:
    """Sender of an answer, with the headers that all answers have."""

    def __init__(self, send: Any) -> None:
        self.send, self.started = send, False

    async def __call__(self, message: Any) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.started = True
            message = message | {"headers": _completed(message.get("headers", []))}
        await self.send(message)

    async def refuse(self, refused: RefusedError) -> None:
        """Send the reason, unless something else was begun."""
        if not self.started:
            plain = [(b"content-type", b"text/plain; charset=utf-8")]
            await self({"type": "http.response.start", "status": refused.status, "headers": plain})
            await self({"type": "http.response.body", "body": refused.reason.encode("utf-8", "replace")})


class Arrived:
    """The bytes of one request among those of all for its route, and of its visitor's."""

    def __init__(self, path: str, account: str, sums: Counter[tuple[str, ...]]) -> None:
        self.everyone, self.own, self.sums, self.bytes = (path,), (path, account), sums, 0

    def add(self, count: int) -> None:
        """Count some more.

        Raises:
            RefusedError: there is too much of all requests together, or of this visitor's.
        """
        self.bytes += count
        self.sums.update({self.everyone: count, self.own: count})
        if self.sums[self.everyone] > MAX_ARRIVING_BYTES or self.sums[self.own] > MAX_ARRIVING_OF_ONE:
            raise RefusedError(503, "Too much arrives at once: try again in a minute.")

    def forget(self) -> None:
        """Release an answered request; paths and visitors without another one are forgotten."""
        for key in (self.everyone, self.own):
            self.sums[key] -= self.bytes
            if not self.sums[key]:
                del self.sums[key]
        self.bytes = 0


def _by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value.strip())
    return found


def _size(headers: Mapping[bytes, list[bytes]], limit: int | None) -> int:
    """Parse Content-Length; no limit where no body is wanted.

    Raises:
        RefusedError: it says nothing, or too much.
    """
    given = headers.get(b"content-length", [b"0"] if limit is None else [])
    # Where a body comes in chunks, Content-Length says nothing about it; no browser sends one so.
    if b"transfer-encoding" in headers or len(given) != 1 or not given[0].isdigit():
        raise RefusedError(411, "A request has to say how large it is.")
    if len(given[0]) > 20 or int(given[0]) > (limit or 0):
        raise RefusedError(413, "The request is larger than it may be.")
    return int(given[0])


def _completed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    extra = HEADERS if any(name == b"cache-control" for name, _ in given) else HEADERS | {"cache-control": "no-store"}
    return [*given, *((name.encode(), value.encode()) for name, value in extra.items())]


def _again(body: bytes | None, receive: Any) -> Any:
    """Build a receiver that gives out a body that was read already, and then tells when the asker has gone."""
    bodies = [] if body is None else [body]

    async def read() -> Any:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        return await receive()

    return read
