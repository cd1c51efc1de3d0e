"""Work done a little ahead of whoever takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(read: Callable[[T], R], tasks: Iterable[T], threads: int) -> Iterator[R]:
    """Iterate over what threads read, in order and at most `threads` results ahead: for what waits for a network.

    What computes goes through `images.transforms.map_ahead`, which gives each thread a core.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(read, task))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
