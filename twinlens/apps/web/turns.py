"""Fair scheduling of requests: no visitor waits for another's requests, and the work done at once is bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")

WAITING = 256  # requests that may wait for one kind of work; more are refused
WAITING_OF_ONE = 16  # of those, by one visitor: the page itself sends one at a time from each of its windows


class FullError(Exception):
    """The queue is so long that one more request would wait too long."""


class GoneError(Exception):
    """The client has disconnected meanwhile."""


@dataclass
class _Visitor:
    turn: anyio.Lock = field(default_factory=anyio.Lock)
    asked: int = 0  # requests that wait or are worked on


class Turns:
    """Queue for one kind of work: each visitor's jobs one after another, several visitors' side by side, in threads."""

    def __init__(self, at_once: int) -> None:
        self._free = anyio.Semaphore(at_once)
        self._threads = anyio.CapacityLimiter(at_once)
        self._visitors: dict[str, _Visitor] = {}  # those who wait or are worked for, and nobody else
        self._waiting = 0

    @property
    def visitors(self) -> int:
        """Number of visitors of whom anything is kept."""
        return len(self._visitors)

    async def take(self, visitor: str, work: Callable[[], T], gone: Callable[[], Awaitable[bool]]) -> T:
        """Do the work in a thread when its turn comes.

        Args:
            visitor: what tells one visitor from the others.
            work: what to do.
            gone: whether the asker has gone; asked just before the work begins.

        Raises:
            FullError: too many wait.
            GoneError: the asker has gone, and nothing was done.
        """
        async with self._turn(visitor):
            if await gone():
                raise GoneError
            # The interpreter ends without those threads that are still at work.
            return await to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)

    @asynccontextmanager
    async def _turn(self, visitor: str) -> AsyncIterator[None]:
        one = self._visitors.get(visitor) or _Visitor()
        if self._waiting >= WAITING or one.asked > WAITING_OF_ONE:
            raise FullError
        self._visitors[visitor] = one
        one.asked += 1
        self._waiting += 1
        waits = True
        try:
            async with one.turn, self._free:
                self._waiting -= 1
                waits = False
                yield
        finally:
            self._waiting -= waits
            one.asked -= 1
            if not one.asked:
                del self._visitors[visitor]
