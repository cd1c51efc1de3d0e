"""Copies between the host and a device: on a GPU beside its work, so that neither waits for the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from twinlens.core.device import Placement

Fetched = Callable[[], Float32[np.ndarray, "rows dim"]]  # waits until the rows are on the host


@dataclass
class Slot:
    """A batch's place in memory, used again and again."""

    host: UInt8[torch.Tensor, "images 3 height width"]  # threads decode into it
    pixels: UInt8[torch.Tensor, "images 3 height width"]  # the same on the device; on a CPU the same memory
    copied: Any = None  # events of a GPU: the pixels have left the host's memory,
    used: Any = None  # and the device's memory has been read
    registered: bool = False  # whether the host's memory was made known to the device, and is to be taken back


class Transfers:
    """Copies to and from a device that has done its work when a call returns, as a CPU has."""

    behind = 0  # parts that may be on their way back while the next one is computed

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def allocate(self, shape: tuple[int, ...], host: torch.Tensor | None = None) -> Slot:
        """Allocate a batch's place; `host` is memory that is there already."""
        host = torch.zeros(shape, dtype=torch.uint8) if host is None else host
        return Slot(host, host)

    def free(self, slot: Slot) -> None:
        """Give a batch's place back."""

    def send(self, slot: Slot, count: int) -> UInt8[torch.Tensor, "images 3 height width"]:
        """Send the first `count` pictures of a batch on their way; gives them on the device."""
        return slot.pixels[:count]

    def release(self, slot: Slot) -> None:
        """Say that all work on a batch has been handed to the device."""

    def wait_until_free(self, slot: Slot) -> None:
        """Wait until the host's memory of a batch may be written again."""

    def fetch(self, vectors: Sequence[Float32[torch.Tensor, "rows dim"]]) -> Fetched:
        """Send vectors on their way to the host, in one piece."""
        rows = torch.cat(list(vectors)).cpu().numpy()
        return lambda: rows

    def mark(self) -> Any:
        """Mark a moment in the device's work."""
        return time.perf_counter()

    def measure(self, start: Any, end: Any) -> float:
        """Seconds between two marks that the device has passed."""
        return float(end - start)


class CudaTransfers(Transfers):
    """Copies on streams of their own: pixels one way, vectors the other."""

    behind = 1

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._inwards, self._outwards = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def allocate(self, shape: tuple[int, ...], host: torch.Tensor | None = None) -> Slot:
        """Allocate a batch's place, the host's in memory that the device reads by itself."""
        pixels = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        if host is None:
            slot = Slot(torch.zeros(shape, dtype=torch.uint8, pin_memory=True), pixels)
        else:
            # Where the system locks no more memory, the copies are right all the same, and slower.
            registered = int(torch.cuda.cudart().cudaHostRegister(host.data_ptr(), host.nbytes, 0)) == 0
            slot = Slot(host, pixels, registered=registered)
        slot.copied, slot.used = torch.cuda.Event(), torch.cuda.Event()
        self.release(slot)
        return slot

    def send(self, slot: Slot, count: int) -> UInt8[torch.Tensor, "images 3 height width"]:
        """See `Transfers.send`."""
        pixels = slot.pixels[:count]
        with torch.cuda.stream(self._inwards):
            self._inwards.wait_event(slot.used)
            pixels.copy_(slot.host[:count], non_blocking=True)
            slot.copied.record(self._inwards)
        self._work().wait_event(slot.copied)
        return pixels

    def release(self, slot: Slot) -> None:
        """See `Transfers.release`."""
        slot.used.record(self._work())

    def free(self, slot: Slot) -> None:
        """See `Transfers.free`."""
        if slot.registered:
            slot.copied.synchronize()
            torch.cuda.cudart().cudaHostUnregister(slot.host.data_ptr())
            slot.registered = False

    def wait_until_free(self, slot: Slot) -> None:
        """See `Transfers.wait_until_free`: this alone holds the host back, several batches ahead of the device."""
        slot.copied.synchronize()

    def fetch(self, vectors: Sequence[Float32[torch.Tensor, "rows dim"]]) -> Fetched:
        """See `Transfers.fetch`."""
        rows = torch.cat(list(vectors))
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)  # torch keeps such memory for the next part
        computed, there = torch.cuda.Event(), torch.cuda.Event()
        computed.record(self._work())
        with torch.cuda.stream(self._outwards):
            self._outwards.wait_event(computed)
            host.copy_(rows, non_blocking=True)
            rows.record_stream(self._outwards)
            there.record(self._outwards)

        def wait() -> Float32[np.ndarray, "rows dim"]:
            there.synchronize()
            return host.numpy()

        return wait

    def mark(self) -> Any:
        """See `Transfers.mark`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._work())
        return event

    def measure(self, start: Any, end: Any) -> float:
        """See `Transfers.measure`."""
        return float(start.elapsed_time(end)) / 1000.0

    def _work(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.device)


def open_transfers(placement: Placement) -> Transfers:
    """Open the way to a device and back."""
    kind = CudaTransfers if placement.device.type == "cuda" else Transfers
    return kind(placement.device)
