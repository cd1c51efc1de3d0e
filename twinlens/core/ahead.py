"""Work done a little ahead of whoever takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_in_order(work: Callable[[T], R], parts: Iterable[T], threads: int) -> Iterator[R]:
    """Iterate over what threads make of the parts, in order and at most `threads` results ahead of the caller.

    For what waits for a network, and for numpy and scipy, which leave the interpreter's lock while they work on whole
    blocks. What decodes pictures goes through `images.transforms.map_ahead`, which gives each thread a core.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(work, part))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
