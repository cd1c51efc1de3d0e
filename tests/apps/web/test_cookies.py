"""How visitors are told apart, and that those who say nothing take no place from them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from twinlens.apps.web.routes import PICTURES, WorkQueue
from twinlens.apps.web.visitors import COOKIE, STRANGERS, Visitor, Visitors


def scope(cookie: str | None = None, client: tuple[str, int] = ("127.0.0.1", 1)) -> dict[str, Any]:
    headers = [] if cookie is None else [(b"cookie", cookie.encode("latin-1"))]
    return {"type": "http", "headers": headers, "client": client}


def test_a_browser_is_known_by_the_word_that_it_was_given() -> None:
    visitors = Visitors()
    first, second = visitors.word(), visitors.word()
    found = visitors.of(scope(f"other=1; {COOKIE}={first}"))
    assert found.known
    assert found == visitors.of(scope(f"{COOKIE}={first}", ("10.0.0.1", 9)))
    assert found.name != visitors.of(scope(f"{COOKIE}={second}")).name
    assert found.account == found.name


@pytest.mark.parametrize(
    "made", ["", "x", "{word}", "{word}.", ".{seal}", "{word}.{seal}0", "{other}.{seal}", "\xe9.\xff"]
)
def test_no_word_can_be_made_up(made: str) -> None:
    visitors = Visitors()
    word, _, seal = visitors.word().partition(".")
    cookie = made.format(word=word, seal=seal, other=Visitors().word().partition(".")[0])
    found = visitors.of(scope(f"{COOKIE}={cookie}"))
    assert not found.known
    assert found.account == STRANGERS


def test_a_word_of_another_run_of_the_page_is_none() -> None:
    assert not Visitors().of(scope(f"{COOKIE}={Visitors().word()}")).known


def test_strangers_are_told_apart_by_their_connections() -> None:
    visitors = Visitors()
    one, same, other = (visitors.of(scope(client=("127.0.0.1", port))) for port in (1, 1, 2))
    assert one == same != other


def test_however_many_strangers_ask_a_visitor_does_not_wait_for_them() -> None:
    kind, begun, ends = WorkQueue(PICTURES), threading.Semaphore(0), threading.Event()

    def slow() -> str:
        begun.release()
        assert ends.wait(300)
        return "late"

    def request(visitor: Visitor) -> Request:
        async def here() -> bool:
            return False

        return cast(Request, SimpleNamespace(state=SimpleNamespace(visitor=visitor), is_disconnected=here))

    async def tried() -> list[str]:
        strangers = [Visitor(f"connection {n}", known=False) for n in range(3 * PICTURES)]
        waiting = [asyncio.create_task(kind.take(request(one), slow)) for one in strangers]
        for _ in range(PICTURES):
            assert await asyncio.to_thread(begun.acquire, timeout=300)
        quick = await kind.take(request(Visitor("a browser", known=True)), lambda: "at once")
        ends.set()
        return [quick, *await asyncio.gather(*waiting)]

    with ThreadPoolExecutor(1) as thread:  # in this one Playwright may have left a loop running
        found = thread.submit(asyncio.run, tried()).result()
    assert found == ["at once", *["late"] * 3 * PICTURES]
