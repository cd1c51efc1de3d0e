"""Uploads of finished parts that go on while the next parts are made, in order and a bounded number at a time.

A worker's parts are put into a bucket by one thread, first come, first served: what is put last of a part (its table of
outcomes, say) is there last. A result is handed on when all that was put for it is there, so a receipt never speaks of
what is still under way. A failed upload is raised at the next put, or where its result would be handed on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

AHEAD = 2  # results that wait for their uploads while the next one is made
WAITING = 8  # uploads, each a file on this machine's disk

R = TypeVar("R")

_taking: list[Uploads] = []  # of this process; the last one takes what is put


class Uploads:
    """Uploads of one stream of results; a context, at whose end what has not begun is dropped."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._room = threading.BoundedSemaphore(WAITING)
        self._begun: list[Future[None]] = []  # since the last `take`
        self._drafts: set[Path] = set()
        self._fault: BaseException | None = None

    def add(self, upload: Callable[[], object], draft: Path) -> None:
        """Have a file uploaded, which is removed then; wait where too many are under way.

        Raises:
            BucketError: an earlier upload failed; as every error of it.
        """
        self._room.acquire()
        if self._fault is not None:
            self._room.release()
            draft.unlink(missing_ok=True)
            raise self._fault
        self._drafts.add(draft)
        self._begun.append(self._pool.submit(self._run, upload, draft))

    def take(self) -> list[Future[None]]:
        """The uploads that were added since the last call."""
        begun, self._begun = self._begun, []
        return begun

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Take what is put meanwhile, by whichever thread."""
        _taking.append(self)
        try:
            yield
        finally:
            _taking.remove(self)

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for draft in self._drafts:
            draft.unlink(missing_ok=True)

    def _run(self, upload: Callable[[], object], draft: Path) -> None:
        try:
            if self._fault is not None:  # what follows a fault might stand there without what came before it
                raise self._fault
            upload()
        except BaseException as error:
            self._fault = error
            raise
        finally:
            draft.unlink(missing_ok=True)
            self._drafts.discard(draft)
            self._room.release()


def put_behind(upload: Callable[[], object], draft: Path) -> None:
    """Have a finished file uploaded and removed: behind the work of a worker's stream, else at once."""
    if _taking:
        _taking[-1].add(upload, draft)
        return
    try:
        upload()
    finally:
        draft.unlink(missing_ok=True)


def settle(results: Iterator[R]) -> Iterator[R]:
    """Iterate over results, each when all that was put for it is there; a few are made ahead, where something was."""
    uploads = Uploads()
    held: deque[tuple[R, list[Future[None]]]] = deque()
    try:
        while True:
            with uploads.taking():
                try:
                    result = next(results)
                except StopIteration:
                    break
            held.append((result, uploads.take()))
            while held and (len(held) > AHEAD or all(one.done() for one in held[0][1])):
                yield _finish(*held.popleft())
        while held:
            yield _finish(*held.popleft())
    finally:
        uploads.close()


def _finish(result: R, uploads: list[Future[None]]) -> R:
    for one in uploads:
        one.result()
    return result
