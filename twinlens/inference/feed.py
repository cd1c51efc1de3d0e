"""The feed of a picture tower: pictures are decoded ahead of it, a few a task, into buffers that are used again.

By threads where a few suffice. Beyond, the interpreter's lock is in the way: sixteen threads and the one that gives
the device its work hinder each other; there processes decode, into memory that they share.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

import torch
from jaxtyping import UInt8

from twinlens.core.errors import ResourceError
from twinlens.images.transforms import PixelSpec, decode_and_fit, use_one_core
from twinlens.images.workers import ignore_fork_warnings, open_workers, threads_suffice
from twinlens.inference.transfers import Slot, Transfers

PICTURES_PER_TASK = 8  # so that all work on the batch that is wanted first
SLOTS, FEWEST_SLOTS = 4, 2  # batches that are decoded, copied or computed at one time
MOST_BYTES = 2**30  # of all slots

Pixels = UInt8[torch.Tensor, "images 3 height width"]


class Feed:
    """Batches of pixels on a device, in order."""

    def __init__(self, spec: PixelSpec, batch: int, transfers: Transfers, threads: int) -> None:
        """Take the size of the largest batch and how many decode: threads, or processes where those do not suffice."""
        self.spec, self.transfers, self.threads = spec, transfers, threads
        self.by_processes = not threads_suffice(threads)
        shape = (batch, 3, spec.height, spec.width)
        bytes_each = batch * 3 * spec.height * spec.width
        count = max(FEWEST_SLOTS, min(SLOTS, MOST_BYTES // bytes_each))
        shared = [_share_memory(shape) if self.by_processes else None for _ in range(count)]
        self._slots = [transfers.allocate(shape, host) for host in shared]

    def batches(self, pictures: Iterator[bytes], sizes: Iterable[int]) -> Generator[Pixels]:
        """Iterate over batches of pixels on the device; one is valid until the next is asked for.

        Args:
            pictures: JPEG bytes, of the `resize` stage.
            sizes: of the batches.

        Raises:
            ResourceError: the system ended a process that decodes, as it does where memory runs out.
        """
        free, waiting = deque(range(len(self._slots))), deque[tuple[int, int, list[Future[None]]]]()
        sizes = iter(sizes)
        pool = self._open_pool()
        try:
            while True:
                while free and (size := next(sizes, None)) is not None:
                    number = free.popleft()
                    self.transfers.wait_until_free(self._slots[number])
                    waiting.append((number, size, self._start(pool, list(islice(pictures, size)), number)))
                if not waiting:
                    return
                number, size, tasks = waiting.popleft()
                for task in tasks:
                    task.result()
                slot = self._slots[number]
                yield self.transfers.send(slot, size)
                self.transfers.release(slot)
                free.append(number)
        except BrokenProcessPool:
            raise ResourceError(
                "the system ended a process that was decoding pictures, as it does where memory runs out. Lower "
                f"compute.decode_threads (now {self.threads}) or compute.image_batch, which reruns nothing"
            ) from None
        finally:
            pool.shutdown(wait=self.by_processes, cancel_futures=True)
            for slot in self._slots:
                self.transfers.free(slot)

    def _open_pool(self) -> Executor:
        if self.by_processes:
            return open_workers(self.threads, _become_decoder, [slot.host for slot in self._slots], self.spec)
        # a thread that resizes would otherwise bring its own team of OpenMP threads and fight the model's
        return ThreadPoolExecutor(self.threads, "decode", use_one_core)

    def _start(self, pool: Executor, jpegs: list[bytes], number: int) -> list[Future[None]]:
        tasks = [(at, jpegs[at : at + PICTURES_PER_TASK]) for at in range(0, len(jpegs), PICTURES_PER_TASK)]
        if self.by_processes:
            with ignore_fork_warnings():
                return [pool.submit(_decode_into_shared, some, number, at) for at, some in tasks]
        slot: Slot = self._slots[number]
        return [pool.submit(_decode, some, self.spec, slot.host[at:]) for at, some in tasks]


def _decode(jpegs: list[bytes], spec: PixelSpec, out: Pixels) -> None:
    for place, jpeg in enumerate(jpegs):
        out[place] = decode_and_fit(jpeg, spec)


# ---------------------------------------------------------------- in processes


class _Decoder:
    """What a process that decodes was given when it was forked."""

    hosts: list[Pixels]
    spec: PixelSpec


def _become_decoder(hosts: list[Pixels], spec: PixelSpec) -> None:
    _Decoder.hosts, _Decoder.spec = hosts, spec


def _decode_into_shared(jpegs: list[bytes], number: int, at: int) -> None:
    _decode(jpegs, _Decoder.spec, _Decoder.hosts[number][at:])


def _share_memory(shape: tuple[int, ...]) -> Pixels:
    """Allocate memory that forks of this process write into for it to read."""
    size = 1
    for side in shape:
        size *= side
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8).view(shape)
