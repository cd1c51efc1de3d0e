"""How many threads a training on the CPU takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 5_000_000  # parameters


def threads_for(model: torch.nn.Module, available: int) -> int:
    """One thread for a small model, all for others.

    A small model's products are over before two threads have divided them up, so a second one gains the default's
    CLIP two fifths and its BLIP a quarter. It costs more than that wherever anything else runs: threads of OpenMP spin
    while they wait for one that has lost its core, and two BLIPs with two threads each on two cores took four times as
    long as with one each (LOG.md). One thread also gives the same last digits on two cores and on sixty-four.
    """
    return 1 if sum(p.numel() for p in model.parameters()) < SMALL else available


@contextmanager
def suited_threads(model: torch.nn.Module) -> Iterator[None]:
    """Let torch use the threads that suit a model, and afterwards as many as before."""
    before = torch.get_num_threads()
    if next(model.parameters()).device.type == "cpu":
        torch.set_num_threads(threads_for(model, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
