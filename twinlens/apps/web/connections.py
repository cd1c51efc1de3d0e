"""HTTP connections that take no capacity from others while they are silent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

UNFINISHED = (h11.IDLE, h11.SEND_BODY)


@dataclass(frozen=True)
class Limits:
    """Limits of connections: how many there may be, and how long each may keep the page waiting."""

    unfinished: int = 256  # of them may have a request that is not whole yet; a process may often have 1,024 files
    connections: int = 768  # of all, so that files are left for indexes and models
    head_s: float = 20.0  # from its first byte, or from connecting, to the end of a request's head
    request_s: float = 90.0  # from there to the end of its body, for which the guard waits a minute
    taken_s: float = 60.0  # in which a client takes something of its answer


class Room:
    """The connections that there are, the oldest first, and those among them that the page waits for."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.everyone: set[H11Protocol] = set()
        self.unfinished: dict[H11Protocol, None] = {}  # requests that are not whole yet, as they came
        self.untaken: dict[H11Protocol, None] = {}  # answers that wait for their clients, likewise
        self.idle: dict[H11Protocol, None] = {}  # all was answered, and the client may ask again

    def enter(self, one: H11Protocol) -> None:
        """Take in a connection; where there are too many, the oldest that is idle or waited for makes way."""
        self.everyone.add(one)
        self.unfinished[one] = None
        if len(self.unfinished) > self.limits.unfinished:
            self._drop(next(iter(self.unfinished)))
        if len(self.everyone) > self.limits.connections:
            self._drop(next(iter({**self.idle, **self.untaken, **self.unfinished})))

    def leave(self, one: H11Protocol) -> None:
        """Forget a connection."""
        self.everyone.discard(one)
        self.unfinished.pop(one, None)
        self.untaken.pop(one, None)
        self.idle.pop(one, None)

    def _drop(self, one: H11Protocol) -> None:
        self.leave(one)  # now: it is lost in the loop's next turn
        one.transport.abort()


class Patient(H11Protocol):
    """A connection that waits for its client, but not for ever."""

    room: ClassVar[Room]
    _deadline: asyncio.TimerHandle | None = None  # of the request
    _in_body = False
    _stall: asyncio.TimerHandle | None = None  # of the answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self._expect(self.room.limits.head_s)
        self.room.enter(self)

    def data_received(self, data: bytes) -> None:
        """Take what came; when a head or a body begins, its time does."""
        self.room.idle.pop(self, None)
        super().data_received(data)
        state, limits = self.conn.their_state, self.room.limits
        if state not in UNFINISHED:
            self.room.unfinished.pop(self, None)
            self._in_body = False
            self._expect(None)
        elif not self.transport.is_closing():
            self.room.unfinished.setdefault(self)
            if (state is h11.SEND_BODY) != self._in_body or self._deadline is None:
                self._in_body = state is h11.SEND_BODY
                self._expect(limits.request_s if self._in_body else limits.head_s)

    def on_response_complete(self) -> None:
        """Go on to the next request, and see that the answer is taken."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.room.idle[self] = None
        self._wait_until_taken()

    def pause_writing(self) -> None:
        """See that the answer is taken: there is more of it than the client takes at once."""
        super().pause_writing()
        self._wait_until_taken()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.room.leave(self)
        self._expect(None)
        if self._stall is not None:
            self._stall.cancel()
        super().connection_lost(exc)

    def _expect(self, seconds: float | None) -> None:
        """Wait so long for the rest of the request, or, with None, no more."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _wait_until_taken(self, before: int | None = None) -> None:
        """Give up on an answer of which nothing is taken; `before` bytes were left when it was last looked at."""
        left = self.transport.get_write_buffer_size()
        if left and left == before:
            self.transport.abort()
        elif left and (self._stall is None or before is not None):
            self.room.untaken.setdefault(self)
            self._stall = self.loop.call_later(self.room.limits.taken_s, self._wait_until_taken, left)
        elif not left:
            self.room.untaken.pop(self, None)
            self._stall = None


def make_patient_protocol(limits: Limits | None = None) -> type[Patient]:
    """Make a uvicorn protocol that waits for a bounded number of clients, and for each of them a bounded time.

    A request that was begun is there in a moment, or one of hundreds that somebody holds open: they would take up all
    of the files that a process may have, and nobody else could connect. The same goes for answers that nobody takes.
    uvicorn itself waits for either for ever.
    """

    class Ours(Patient):
        room = Room(limits or Limits())

    return Ours
