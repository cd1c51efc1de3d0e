"""Batches on their way to a device: gathered by a thread a little ahead, and copied beside the device's work."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import TypeVar

import torch

from twinlens.images.transforms import map_ahead

AHEAD = 2  # batches that are ready, or on their way, while one is trained on

T = TypeVar("T")
Tensors = tuple[torch.Tensor, ...]


def feed(batches: Iterable[T], gather: Callable[[T], Tensors], device: torch.device) -> Generator[Tensors, None, None]:
    """Iterate over batches as tensors on a device, in order, gathered by a thread of its own.

    A GPU's are copied from pinned memory on a stream of their own, so that neither it nor the thread that trains waits
    for pixels that lie in files.

    Args:
        batches: what the thread gathers by.
        gather: makes the tensors of a batch, on the CPU.
        device: where they are wanted.
    """
    if device.type != "cuda":
        with closing(map_ahead(gather, batches, threads=1, waiting=AHEAD)) as gathered:  # type: ignore[type-var]
            for tensors in gathered:
                yield tuple(tensor.to(device) for tensor in tensors)
        return
    copying = torch.cuda.Stream(device)

    def send(batch: T) -> tuple[Tensors, torch.cuda.Event]:
        tensors = gather(batch)
        with torch.cuda.device(device), torch.cuda.stream(copying):
            sent = tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors)
            arrived = torch.cuda.Event()
            arrived.record(copying)
        return sent, arrived

    with closing(map_ahead(send, batches, threads=1, waiting=AHEAD)) as underway:  # type: ignore[type-var]
        for sent, arrived in underway:
            working = torch.cuda.current_stream(device)
            working.wait_event(arrived)
            for tensor in sent:
                tensor.record_stream(working)  # its memory is not given away before that stream has read it
            yield sent
