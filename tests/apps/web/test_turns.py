"""Whose work is done next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from twinlens.apps.web import turns
from twinlens.apps.web.turns import FullError, GoneError, Turns


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with ThreadPoolExecutor(1) as thread:  # in this one Playwright may have left a loop running
        return thread.submit(asyncio.run, work()).result()


async def here() -> bool:
    return False


async def gone() -> bool:
    return True


class Work:
    """Something that goes on until it is let go, and says when it has begun."""

    def __init__(self) -> None:
        self.begun, self.ends = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.ends.wait(300)
        return "done"

    async def began(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 60)


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_visitor_waits_for_no_other() -> None:
    async def tried() -> list[str]:
        kind, slow = Turns(2), Work()
        waiting = asyncio.create_task(kind.take("slow", slow, here))
        await slow.began()
        quick = [await kind.take("quick", lambda: "at once", here) for _ in range(20)]
        slow.ends.set()
        return [*set(quick), await waiting]

    assert run(tried) == ["at once", "done"]


def test_what_one_visitor_asks_goes_one_after_another_however_much_is_free() -> None:
    async def tried() -> None:
        kind, order, works = Turns(8), list[int](), [Work() for _ in range(4)]

        def work(place: int) -> None:
            works[place]()
            order.append(place)

        tasks = [asyncio.create_task(kind.take("one", partial(work, place), here)) for place in range(4)]
        for place, one in enumerate(works):
            await one.began()
            await settled()
            assert [other.begun.is_set() for other in works] == [other <= place for other in range(4)]
            one.ends.set()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3]

    run(tried)


def test_only_so_many_are_worked_for_at_once() -> None:
    async def tried() -> None:
        kind, works = Turns(2), [Work() for _ in range(3)]
        tasks = [asyncio.create_task(kind.take(str(i), work, here)) for i, work in enumerate(works)]
        await works[0].began()
        await works[1].began()
        await settled()
        assert not works[2].begun.is_set()
        works[0].ends.set()
        await works[2].began()
        for work in works:
            work.ends.set()
        assert await asyncio.gather(*tasks) == ["done"] * 3

    run(tried)


def test_who_has_gone_while_waiting_is_not_worked_for() -> None:
    async def tried() -> None:
        kind, slow, never = Turns(1), Work(), Work()
        first = asyncio.create_task(kind.take("one", slow, here))
        await slow.began()
        second = asyncio.create_task(kind.take("two", never, gone))
        await settled()
        assert not second.done()  # it is asked when its turn comes, not before
        slow.ends.set()
        await first
        with pytest.raises(GoneError):
            await second
        assert not never.begun.is_set()

    run(tried)


def test_nothing_is_kept_of_who_has_been_answered() -> None:
    async def tried() -> None:
        kind, slow = Turns(2), Work()
        task = asyncio.create_task(kind.take("one", slow, here))
        await slow.began()
        assert kind.visitors == 1
        slow.ends.set()
        await task
        for visitor in "abc":
            with pytest.raises(ZeroDivisionError):
                await kind.take(visitor, lambda: 1 / 0, here)
            with pytest.raises(GoneError):
                await kind.take(visitor, lambda: 1, gone)
        assert kind.visitors == 0

    run(tried)


def test_more_than_can_wait_are_refused_and_one_visitor_takes_not_all_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAITING", 5)
    monkeypatch.setattr(turns, "WAITING_OF_ONE", 3)

    async def tried() -> None:
        kind, slow = Turns(1), Work()
        tasks = [asyncio.create_task(kind.take("greedy", slow, here)) for _ in range(4)]
        await slow.began()
        await settled()
        with pytest.raises(FullError):
            await kind.take("greedy", slow, here)
        tasks += [asyncio.create_task(kind.take(visitor, slow, here)) for visitor in ("b", "c")]
        await settled()
        with pytest.raises(FullError):
            await kind.take("d", slow, here)
        slow.ends.set()
        assert await asyncio.gather(*tasks) == ["done"] * 6
        assert kind.visitors == 0
        assert await kind.take("d", slow, here) == "done"

    run(tried)
