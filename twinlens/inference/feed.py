"""The feed of a picture tower: pictures are decoded ahead of it, a few a task, into buffers that are used again.

By threads where a few suffice. Beyond, the interpreter's lock is in the way: sixteen threads and the one that gives
the device its work hinder each other; there processes decode, into memory that they share.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue

import torch
from jaxtyping import UInt8

from twinlens.core.errors import ResourceError
from twinlens.images.transforms import PixelSpec, decode_and_fit, use_one_core
from twinlens.images.workers import ignore_fork_warnings, open_workers, threads_suffice
from twinlens.inference.transfers import Transfers

PICTURES_PER_TASK = 8  # so that all work on the batch that is wanted first
SLOTS, FEWEST_SLOTS = 4, 2  # batches that are decoded, copied or computed at one time
MOST_BYTES = 2**30  # of all slots
JPEG_BYTES = 200_000  # of a picture, as room that processes share; what is larger is sent to them

Pixels = UInt8[torch.Tensor, "images 3 height width"]


@dataclass(frozen=True)
class _Batch:
    """A batch that is being decoded: the number of its slot, its size, and the tasks."""

    slot: int
    size: int
    tasks: list[Future[None]]


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
        # Through a pipe they would be copied twice, by the thread that gives the device its work or one beside it.
        self._raws = [mmap.mmap(-1, batch * JPEG_BYTES) for _ in range(count if self.by_processes else 0)]
        self._pool = self._open_pool()

    def batches(self, pictures: Iterator[bytes], sizes: Iterable[int]) -> Generator[Pixels]:
        """Iterate once over batches of pixels on the device; one is valid until the next is asked for.

        Args:
            pictures: JPEG bytes, of the `resize` stage.
            sizes: of the batches.

        Raises:
            ResourceError: the system ended a process that decodes, as it does where memory runs out.
        """
        free, ready = SimpleQueue[int | None](), SimpleQueue[_Batch | BaseException | None]()
        for number in range(len(self._slots)):
            free.put(number)
        reader = threading.Thread(
            target=self._read, args=(pictures, iter(sizes), free, ready), name="reader", daemon=True
        )
        reader.start()
        try:
            while (batch := ready.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                for task in batch.tasks:
                    task.result()
                slot = self._slots[batch.slot]
                yield self.transfers.send(slot, batch.size)
                self.transfers.release(slot)
                free.put(batch.slot)
        except BrokenProcessPool:
            raise ResourceError(
                "the system ended a process that was decoding pictures, as it does where memory runs out. Lower "
                f"compute.decode_threads (now {self.threads}) or compute.image_batch, which reruns nothing"
            ) from None
        finally:
            free.put(None)
            reader.join()
            self._pool.shutdown(wait=self.by_processes, cancel_futures=True)
            for slot in self._slots:
                self.transfers.free(slot)

    def _read(
        self,
        pictures: Iterator[bytes],
        sizes: Iterator[int],
        free: SimpleQueue[int | None],
        ready: SimpleQueue[_Batch | BaseException | None],
    ) -> None:
        """Read pictures for slots that are free and have them decoded: in a thread, as it takes a fifth of a core."""
        try:
            for size in sizes:
                if (number := free.get()) is None:
                    return
                self.transfers.wait_until_free(self._slots[number])
                ready.put(_Batch(number, size, self._start(pictures, size, number)))
            ready.put(None)
        except BaseException as error:  # told where batches are asked for
            ready.put(error)

    def _open_pool(self) -> Executor:
        if not self.by_processes:
            # a thread that resizes would otherwise bring its own team of OpenMP threads and fight the model's
            return ThreadPoolExecutor(self.threads, "decode", use_one_core)
        hosts = [slot.host for slot in self._slots]
        pool = open_workers(self.threads, _become_decoder, hosts, self._raws, self.spec)
        with ignore_fork_warnings():
            pool.submit(int).result()  # all are forked here, before there is another thread
        return pool

    def _start(self, pictures: Iterator[bytes], size: int, number: int) -> list[Future[None]]:
        """Hand out the pictures of a batch as they are read."""
        tasks: list[Future[None]] = []
        used = 0  # bytes of the batch's room for JPEGs
        for at in range(0, size, PICTURES_PER_TASK):
            jpegs = list(islice(pictures, min(PICTURES_PER_TASK, size - at)))
            if self.by_processes:
                places, used = _share(jpegs, self._raws[number], used)
                tasks.append(self._pool.submit(_decode_into_shared, places, number, at))
            else:
                tasks.append(self._pool.submit(_decode, jpegs, self.spec, self._slots[number].host[at:]))
        return tasks


def _decode(jpegs: list[bytes], spec: PixelSpec, out: Pixels) -> None:
    for place, jpeg in enumerate(jpegs):
        out[place] = decode_and_fit(jpeg, spec)


# ---------------------------------------------------------------- in processes

_Place = tuple[int, int] | bytes  # where the JPEG lies in the shared memory, or the JPEG


def _share(jpegs: list[bytes], raw: mmap.mmap, used: int) -> tuple[list[_Place], int]:
    """Lay JPEGs into shared memory, of which some bytes are used; returns their places and what is used then."""
    places: list[_Place] = []
    for jpeg in jpegs:
        end = used + len(jpeg)
        if end > len(raw):
            places.append(jpeg)
            continue
        raw[used:end] = jpeg
        places.append((used, len(jpeg)))
        used = end
    return places, used


class _Decoder:
    """What a process that decodes was given when it was forked."""

    hosts: list[Pixels]
    raws: list[mmap.mmap]
    spec: PixelSpec


def _become_decoder(hosts: list[Pixels], raws: list[mmap.mmap], spec: PixelSpec) -> None:
    _Decoder.hosts, _Decoder.raws, _Decoder.spec = hosts, raws, spec


def _decode_into_shared(places: list[_Place], number: int, at: int) -> None:
    raw = _Decoder.raws[number]
    jpegs = [place if isinstance(place, bytes) else raw[place[0] : place[0] + place[1]] for place in places]
    _decode(jpegs, _Decoder.spec, _Decoder.hosts[number][at:])


def _share_memory(shape: tuple[int, ...]) -> Pixels:
    """Allocate memory that forks of this process write into for it to read."""
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=torch.uint8).view(shape)
