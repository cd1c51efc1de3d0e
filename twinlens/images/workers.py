"""Worker processes for pictures, where a machine has more cores than threads of one interpreter can use.

Opening a picture file holds the interpreter's lock for about a seventh of its time (0.95 of 6.5 ms: headers, EXIF,
the perceptual hash), so that threads end at the speed of some seven cores however many there are. A few cores gain
nothing from processes, and pay for sending pictures to and fro; there threads stay.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from twinlens.core.errors import ResourceError
from twinlens.images.transforms import MAX_WAITING_BYTES, map_ahead, use_one_core

THREADS_SUFFICE = 4  # so many hold the lock for half of the time together
PER_TASK = 8  # pictures sent at once: what a task costs besides is then a small part
PR_SET_PDEATHSIG = 1  # linux/prctl.h

T = TypeVar("T")
R = TypeVar("R")


def map_on_cores(
    work: Callable[[T], R],
    tasks: Iterable[T],
    cores: int,
    bytes_of: Callable[[T], int],
    remedy: str,
) -> Generator[R, None, None]:
    """Iterate over the results of `work` in order, computed a little ahead of the caller on so many cores.

    By threads where those suffice, or where this system has no fork; else by processes, which are forks of this one
    and so start at once.

    Args:
        work: what is done with a task; for processes, it, its tasks and its results are pickled.
        tasks: whatever `work` takes.
        cores: how many work at a time.
        bytes_of: size of a task; not much over `MAX_WAITING_BYTES` wait.
        remedy: what makes it need less memory, as an advice.

    Raises:
        ResourceError: the system ended a worker, as it does where memory runs out.
    """
    if threads_suffice(cores):
        yield from map_ahead(work, tasks, cores, waiting=8 * cores, bytes_of=bytes_of)
        return
    try:
        yield from _map_by_processes(_Each(work), tasks, cores, bytes_of)
    except BrokenProcessPool:
        raise ResourceError(
            f"the system ended a process that was opening pictures, as it does where memory runs out. {remedy}"
        ) from None


def threads_suffice(cores: int) -> bool:
    """Whether threads do as well as processes, or have to: where this system has no fork that can be relied on."""
    return cores <= THREADS_SUFFICE or not sys.platform.startswith("linux")


def open_workers(cores: int, prepare: Callable[..., None] | None = None, *given: object) -> ProcessPoolExecutor:
    """Open a pool of processes that are forks of this one, so that they start at once and see its shared memory.

    Args:
        cores: how many.
        prepare: called in each, with what is given.
        *given: handed over as it is, not pickled.
    """
    return ProcessPoolExecutor(
        cores, multiprocessing.get_context("fork"), _become_worker, (os.getpid(), prepare, given)
    )


@contextmanager
def ignore_fork_warnings() -> Iterator[None]:
    """Silence the warning of forks beside threads: workers use no library that has them (Arrow, polars)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class _Each(Generic[T, R]):
    """`work` on each of several tasks; a class, as processes are sent no closures."""

    def __init__(self, work: Callable[[T], R]) -> None:
        self.work = work

    def __call__(self, tasks: list[T]) -> list[R]:
        return [self.work(task) for task in tasks]


def _map_by_processes(work: _Each[T, R], tasks: Iterable[T], cores: int, bytes_of: Callable[[T], int]) -> Iterator[R]:
    pending: deque[tuple[Future[list[R]], int]] = deque()
    held = 0
    pool = open_workers(cores)
    try:
        for some in _in_tasks(tasks, bytes_of):
            with ignore_fork_warnings():
                pending.append((pool.submit(work, some), sum(map(bytes_of, some))))
            held += pending[-1][1]
            del some
            while len(pending) > 3 * cores or (len(pending) > 1 and held > MAX_WAITING_BYTES):
                held -= pending[0][1]
                yield from pending.popleft()[0].result()
        while pending:
            yield from pending.popleft()[0].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_tasks(tasks: Iterable[T], bytes_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Lists of `PER_TASK` tasks; fewer where they are large."""
    source, some, size = iter(tasks), list[T](), 0
    for task in source:
        some.append(task)
        size += bytes_of(task)
        if len(some) == PER_TASK or size > MAX_WAITING_BYTES // 64:
            yield some
            some, size = [], 0
    if some:
        yield some


def _become_worker(parent: int, prepare: Callable[..., None] | None, given: tuple[object, ...]) -> None:
    """Work on one core, leave interruptions to the parent, and end when it ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
    use_one_core()
    if prepare is not None:
        prepare(*given)
