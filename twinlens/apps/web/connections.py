"""HTTP connections that take no capacity from others while they are silent."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_UNFINISHED = 256  # connections; a process may often have no more than 1,024 files
UNFINISHED = (h11.IDLE, h11.SEND_BODY)


def make_patient_protocol(at_most: int = MAX_UNFINISHED) -> type[H11Protocol]:
    """Make a uvicorn protocol that waits for a bounded number of unfinished requests, beyond that for the latest.

    A request that was begun is there in a moment, or one of hundreds that somebody holds open: they would take up all
    of the files that a process may have, and nobody else could connect. The oldest of them make way.
    """
    unfinished: dict[H11Protocol, None] = {}  # in the order in which they came

    class Patient(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            unfinished[self] = None
            if len(unfinished) > at_most:
                oldest = next(iter(unfinished))
                del unfinished[oldest]
                oldest.transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state not in UNFINISHED:
                unfinished.pop(self, None)
            elif not self.transport.is_closing():
                unfinished.setdefault(self)

        def connection_lost(self, exc: Exception | None) -> None:
            unfinished.pop(self, None)
            super().connection_lost(exc)

    return Patient
