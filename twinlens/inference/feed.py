"""The feed of a picture tower: threads decode ahead of it, a few pictures a task, into buffers that are used again."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch
from jaxtyping import UInt8

from twinlens.images.transforms import PixelSpec, decode_and_fit
from twinlens.inference.transfers import Slot, Transfers

PICTURES_PER_TASK = 8  # so that all threads work on the batch that is wanted first
SLOTS, FEWEST_SLOTS = 4, 2  # batches that are decoded, copied or computed at one time
MOST_BYTES = 2**30  # of all slots


class Feed:
    """Batches of pixels on a device, in order."""

    def __init__(self, spec: PixelSpec, batch: int, transfers: Transfers, threads: int) -> None:
        """Take the size of the largest batch and the number of threads that decode."""
        self.spec, self.transfers, self.threads = spec, transfers, threads
        shape = (batch, 3, spec.height, spec.width)
        bytes_each = batch * 3 * spec.height * spec.width
        count = max(FEWEST_SLOTS, min(SLOTS, MOST_BYTES // bytes_each))
        self._slots = [transfers.allocate(shape) for _ in range(count)]

    def batches(
        self, pictures: Iterator[bytes], sizes: Iterable[int]
    ) -> Generator[UInt8[torch.Tensor, "images 3 height width"]]:
        """Iterate over batches of pixels on the device; one is valid until the next is asked for.

        Args:
            pictures: JPEG bytes, of the `resize` stage.
            sizes: of the batches.
        """
        free, waiting = deque(self._slots), deque[tuple[Slot, int, list[Future[None]]]]()
        sizes = iter(sizes)
        # a thread that resizes would otherwise bring its own team of OpenMP threads and fight the model's
        with ThreadPoolExecutor(self.threads, "decode", torch.set_num_threads, (1,)) as pool:
            try:
                while True:
                    while free and (size := next(sizes, None)) is not None:
                        slot = free.popleft()
                        self.transfers.wait_until_free(slot)
                        waiting.append((slot, size, self._start(pool, list(islice(pictures, size)), slot)))
                    if not waiting:
                        return
                    slot, size, tasks = waiting.popleft()
                    for task in tasks:
                        task.result()
                    yield self.transfers.send(slot, size)
                    self.transfers.release(slot)
                    free.append(slot)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, jpegs: list[bytes], slot: Slot) -> list[Future[None]]:
        places = range(0, len(jpegs), PICTURES_PER_TASK)
        return [pool.submit(self._decode, jpegs[at : at + PICTURES_PER_TASK], slot.host[at:]) for at in places]

    def _decode(self, jpegs: list[bytes], out: UInt8[torch.Tensor, "images 3 height width"]) -> None:
        for place, jpeg in enumerate(jpegs):
            out[place] = decode_and_fit(jpeg, self.spec)
