"""What is let in to the page, and how much of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from twinlens.apps.web import guard
from twinlens.apps.web.guard import CONTENT, HEADERS, Guard
from twinlens.apps.web.hosts import list_hosts
from twinlens.apps.web.visitors import COOKIE, Visitors

HOST = (b"host", b"127.0.0.1:7860")
TYPE = (b"content-type", CONTENT)
Sent = list[dict[str, Any]]


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with ThreadPoolExecutor(1) as thread:  # in this one Playwright may have left a loop running
        return thread.submit(asyncio.run, work()).result()


class Asker:
    """Sends requests to a guard before an application that reads all of what is let in."""

    def __init__(self, *allowed: str) -> None:
        self.visitors = Visitors()
        self.guard = Guard(self.app, list_hosts("127.0.0.1", allowed), self.visitors)
        self.read: bytes | None = None
        self.arriving = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.arriving = self.guard.arriving[(scope["path"],)]
        self.read = (await receive())["body"] if scope["method"] == "POST" else b""
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def ask(
        self, receive: Any, *headers: tuple[bytes, bytes], path: str = "/picture", method: str = "POST"
    ) -> Sent:
        sent: Sent = []
        self.read = None

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.guard({"type": "http", "method": method, "path": path, "headers": list(headers)}, receive, send)
        return sent

    def sent(self, *headers: tuple[bytes, bytes], chunks: tuple[int, ...] = (0,), **request: str) -> Sent:
        """The answer to a request whose body comes in these chunks."""
        waiting = [{"type": "http.request", "body": bytes(size), "more_body": True} for size in chunks]
        waiting[-1]["more_body"] = False

        async def receive() -> dict[str, Any]:
            return waiting.pop(0)

        return run(lambda: self.ask(receive, *headers, **request))  # type: ignore[no-any-return]

    def status(self, *headers: tuple[bytes, bytes], chunks: tuple[int, ...] = (0,), **request: str) -> int:
        given = {name for name, _ in headers}
        usual = [one for one in (HOST, TYPE) if one[0] not in given]
        return int(self.sent(*usual, *headers, chunks=chunks, **request)[0]["status"])


@pytest.fixture
def asker(monkeypatch: pytest.MonkeyPatch) -> Asker:
    monkeypatch.setattr(guard, "LIMITS", {"/picture": 100, "/search": 100, "/tray": 20})
    monkeypatch.setattr(guard, "MAX_ARRIVING_BYTES", 150)
    monkeypatch.setattr(guard, "MAX_ARRIVING_OF_ONE", 150)
    return Asker()


def length(count: int) -> tuple[bytes, bytes]:
    return b"content-length", str(count).encode()


def test_bodies_are_bounded_by_their_route(asker: Asker) -> None:
    assert asker.status() == 411
    assert asker.status(length(101)) == 413
    assert [asker.status(length(100), chunks=(100,)), asker.arriving] == [200, 100]
    assert asker.guard.arriving[("/picture",)] == 0
    assert asker.status(length(20), path="/tray", chunks=(20,)) == 200
    assert asker.status(length(21), path="/tray", chunks=(21,)) == 413
    assert asker.status(path="/tray", chunks=(5,)) == 411
    assert asker.read is None


@pytest.mark.parametrize("said", [b"", b"-1", b"1e3", b"0x10", b"10, 10", b"+5", "٣".encode(), b"9" * 5_000])
def test_a_size_that_is_none_is_refused(asker: Asker, said: bytes) -> None:
    assert asker.status((b"content-length", said)) in (411, 413)
    assert asker.status(length(5), (b"content-length", b"6"), chunks=(5,)) == 411


def test_what_arrives_is_counted_whatever_was_said(asker: Asker) -> None:
    assert [asker.status(length(60), chunks=(30, 30)), len(asker.read or b"")] == [200, 60]
    assert asker.status(length(60), chunks=(30, 31, 30)) == 413
    assert [asker.read, asker.guard.arriving[("/picture",)]] == [None, 0]
    assert asker.status(length(10), (b"transfer-encoding", b"chunked"), chunks=(10,)) == 411
    assert asker.read is None


def test_a_get_has_no_body(asker: Asker) -> None:
    assert asker.status(method="GET", path="/") == 200
    assert asker.status(length(0), method="GET", path="/") == 200
    assert asker.status(length(1), method="GET", path="/", chunks=(1,)) == 413
    assert asker.status((b"transfer-encoding", b"chunked"), method="GET", path="/") == 411


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def slow(arrived: int) -> Callable[[], Coroutine[Any, Any, dict[str, Any]]]:
    """A body of which so much comes, and then nothing."""
    chunks = [{"type": "http.request", "body": bytes(arrived), "more_body": True}]

    async def receive() -> dict[str, Any]:
        return chunks.pop() if chunks else await asyncio.Future()

    return receive


def whole(size: int) -> Callable[[], Coroutine[Any, Any, dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(size), "more_body": False}

    return receive


def test_who_announces_much_and_sends_nothing_holds_up_nobody(asker: Asker) -> None:
    async def tried() -> list[int]:
        others = [asyncio.create_task(asker.ask(slow(0), HOST, TYPE, length(100))) for _ in range(50)]
        await settled()
        answer = await asker.ask(whole(100), HOST, TYPE, length(100))
        for other in others:
            other.cancel()
        return [answer[0]["status"], *{(await other)[0]["status"] for other in others}]

    assert run(tried) == [200, 503]  # those that were waiting are told that the page ends


def test_what_has_arrived_counts_in_sum_and_by_route(asker: Asker) -> None:
    async def tried() -> list[int]:
        other = asyncio.create_task(asker.ask(slow(90), HOST, TYPE, length(100)))
        await settled()
        statuses = [
            (await asker.ask(whole(size), HOST, TYPE, length(size), path=path))[0]["status"]
            for path, size in (("/picture", 60), ("/picture", 61), ("/search", 100))
        ]
        other.cancel()
        await other
        return [*statuses, asker.guard.arriving[("/picture",)]]

    assert run(tried) == [200, 503, 200, 0]


def test_a_body_that_does_not_come_is_not_waited_for(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "ARRIVES_WITHIN_S", 0.01)
    sent = run(lambda: asker.ask(slow(40), HOST, TYPE, length(100)))
    assert [sent[0]["status"], asker.guard.arriving[("/picture",)]] == [408, 0]


def test_who_goes_before_the_body_is_there_is_not_answered(asker: Asker) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert run(lambda: asker.ask(receive, HOST, TYPE, length(100))) == []
    assert asker.read is None


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/assets/page.js", 200), ("POST", "/", 405),
        ("PUT", "/picture", 405), ("GET", "/search", 405), ("OPTIONS", "/search", 405), ("TRACE", "/", 405),
        ("DELETE", "/assets/page.css", 405), ("GET", "/assets/", 404), ("GET", "/assets/../page.js", 404),
        ("GET", "/assets/page.js/", 404), ("GET", "//", 404), ("GET", "", 404), ("GET", "/docs", 404),
        ("POST", "/search/", 404), ("POST", "/SEARCH", 404),
        ("GET", "http://127.0.0.1:7860/", 404),  # a target as proxies are asked: the path says where, the host does not
    ],
)  # fmt: skip
def test_what_the_page_does_not_ask_for_is_refused(asker: Asker, method: str, path: str, status: int) -> None:
    assert asker.status(length(0), method=method, path=path) == status


def test_the_host_has_to_be_ours_and_one(asker: Asker) -> None:
    def status(*given: bytes) -> int:
        sent = asker.sent(*((b"host", host) for host in given), TYPE, method="GET", path="/")
        return int(sent[0]["status"])

    assert [status(host) for host in (b"127.0.0.1", b"LOCALHOST:1", b"[::1]:7860")] == [200, 200, 200]
    assert [status(host) for host in (b"evil.example", b"", b"127.0.0.1:a", b"\xff", b"[::2]")] == [400] * 5
    assert [status(), status(b"127.0.0.1", b"127.0.0.1"), status(b"127.0.0.1", b"evil.example")] == [400] * 3
    reason = asker.sent((b"host", b"evil.example"), method="GET", path="/")[1]["body"]
    assert b"evil.example" in reason
    assert b"--allow-host NAME" in reason


def test_only_the_page_itself_may_send_something(asker: Asker) -> None:
    def status(*headers: tuple[bytes, bytes]) -> int:
        return asker.status(length(0), *headers)

    assert status() == 200  # a program
    assert status((b"origin", b"http://127.0.0.1:7860"), (b"sec-fetch-site", b"same-origin")) == 200
    assert status((b"origin", b"https://127.0.0.1:7860")) == 200  # what encrypts stands before us
    for origin in (
        b"http://evil.example", b"http://127.0.0.1", b"http://127.0.0.1:1", b"http://localhost:7860", b"null", b"",
        b"ftp://127.0.0.1:7860", b"127.0.0.1:7860", b"http://127.0.0.1:7860/", b"http://127.0.0.1:7860@evil.example",
        b"file://", b"http://",
    ):  # fmt: skip
        assert status((b"origin", origin)) == 403, origin
    assert status((b"origin", b"http://127.0.0.1:7860"), (b"origin", b"http://evil.example")) == 403
    for site in (b"cross-site", b"same-site", b"anything"):
        assert status((b"sec-fetch-site", site)) == 403


def test_a_proxy_that_names_us_anew_is_let_in_by_its_own_name() -> None:
    asker = Asker("search.example")
    for origin in (b"https://search.example", b"https://search.example:8443", b"http://Search.Example"):
        assert asker.status(length(0), (b"origin", origin)) == 200
    assert asker.status(length(0), (b"origin", b"https://evil.example")) == 403


def test_another_page_may_lead_here_but_load_nothing(asker: Asker) -> None:
    def status(mode: bytes) -> int:
        return asker.status((b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", mode), method="GET", path="/")

    assert [status(mode) for mode in (b"navigate", b"no-cors", b"cors")] == [200, 403, 403]


@pytest.mark.parametrize(
    "kind",
    [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=b", b"application/json", b""],
)
def test_what_a_form_of_another_page_could_send_is_refused(asker: Asker, kind: bytes) -> None:
    assert asker.status(length(0), (b"content-type", kind)) == 415


def test_every_answer_tells_the_browser_to_ask_nobody_else_and_to_keep_nothing(asker: Asker) -> None:
    answers = [
        asker.sent(HOST, TYPE, length(0)),
        asker.sent(HOST, method="GET", path="/"),
        asker.sent(HOST, method="GET", path="/docs"),
        asker.sent(method="GET", path="/"),
    ]
    assert [answer[0]["status"] for answer in answers] == [200, 200, 404, 400]
    for answer in answers:
        headers = dict(answer[0]["headers"])
        assert headers[b"cache-control"] == b"no-store"
        assert {name: headers[name.encode()].decode() for name in HEADERS} == HEADERS
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_websocket_is_closed(asker: Asker) -> None:
    sent: Sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    run(lambda: asker.guard({"type": "websocket", "path": "/"}, None, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_what_one_visitor_leaves_half_sent_takes_no_room_from_another(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_ARRIVING_BYTES", 1_000)
    words = [asker.visitors.word() for _ in range(2)]

    def headers(word: str | None) -> list[tuple[bytes, bytes]]:
        cookie = [] if word is None else [(b"cookie", f"{COOKIE}={word}".encode())]
        return [HOST, TYPE, length(100), *cookie]

    async def tried() -> list[int]:
        held = [asyncio.create_task(asker.ask(slow(60), *headers(word))) for word in (*words[:1] * 2, *[None] * 2)]
        await settled()
        asked = [await asker.ask(whole(60), *headers(word)) for word in (words[0], None, words[1])]
        for one in held:
            one.cancel()
        await asyncio.gather(*held)
        return [int(sent[0]["status"]) for sent in asked]

    assert run(tried) == [503, 503, 200]
    assert asker.guard.arriving == {}
    assert len(asker.guard.arriving) == 0


def test_of_what_is_answered_or_refused_nothing_is_kept(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_ARRIVING_OF_ONE", 1_000)  # so that it is the sum of all that is too large

    async def tried() -> list[int]:
        other = asyncio.create_task(asker.ask(slow(90), HOST, TYPE, length(100)))
        await settled()
        held = dict(asker.guard.arriving)
        asked = [await asker.ask(whole(80), HOST, TYPE, length(80)) for _ in range(3)]
        asked += [await asker.ask(whole(0), HOST, method="GET", path=f"/{n}") for n in range(3)]
        asked += [await asker.ask(whole(0), HOST, method="GET", path="/")]
        assert dict(asker.guard.arriving) == held
        other.cancel()
        await other
        return [int(sent[0]["status"]) for sent in asked]

    assert run(tried) == [503, 503, 503, 404, 404, 404, 200]
    assert len(asker.guard.arriving) == 0
