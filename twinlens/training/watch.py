"""Watch over the losses of an epoch: the first useless one stops it, and a GPU is not stopped by being asked."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch

LATE = 8  # steps that a GPU may be ahead of the loss that is looked at


class LossWatch:
    """The losses of an epoch, looked at in their order as soon as they can be without waiting for the device.

    On a CPU that is at once, before anything is learnt from a useless one. A GPU's come by a copy that it makes when it
    gets there, and are looked at `late` steps later, so that it always has work. Nothing learnt from a useless loss is
    kept, as an epoch ends only when all its losses have been looked at.
    """

    def __init__(self, device: torch.device, refuse: Callable[[int, float], None], late: int | None = None) -> None:
        """Begin an epoch.

        Args:
            device: where the losses are computed.
            refuse: told the step, counted from 0, and the value of a loss that is NaN or infinite; raises.
            late: steps; by default 0 on a CPU and `LATE` elsewhere.
        """
        self.late = late if late is not None else 0 if device.type == "cpu" else LATE
        self.refuse, self.total, self.last = refuse, 0.0, math.nan
        self._seen = 0
        self._waiting: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque()

    def add(self, loss: torch.Tensor) -> None:
        """Take the loss of a step, and look at those that are old enough."""
        value, arrived = loss.detach(), None
        if value.device.type == "cuda":
            host = torch.empty((), dtype=value.dtype, pin_memory=True)
            host.copy_(value, non_blocking=True)
            value, arrived = host, torch.cuda.Event()
            arrived.record()
        self._waiting.append((value, arrived))
        while len(self._waiting) > self.late:
            self._look()

    def finish(self) -> float:
        """Look at those that are left; returns the sum of all."""
        while self._waiting:
            self._look()
        return self.total

    def _look(self) -> None:
        loss, arrived = self._waiting.popleft()
        if arrived is not None:
            arrived.synchronize()
        self.last = float(loss)
        if not math.isfinite(self.last):
            self.refuse(self._seen, self.last)
        self.total += self.last
        self._seen += 1
