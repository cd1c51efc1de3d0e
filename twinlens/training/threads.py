"""CPU threads of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 20_000_000  # parameters


def choose_threads(model: torch.nn.Module, available: int) -> int:
    """Choose two threads for a small model, all for others.

    A second thread takes a quarter off a step of the default's BLIP and two fifths off its CLIP's; a third would gain
    little. Threads of OpenMP spin while they wait for one that has lost its core, so that several trainings on the same
    cores hold each other up: stages let them spin a few microseconds only, and `OMP_NUM_THREADS=1` ends it. The number
    also decides the last digits, which so are the same on two cores and on sixty-four.
    """
    parameters = sum(p.numel() for p in model.parameters())
    return min(available, 2 if parameters < SMALL else available)


@contextmanager
def use_suited_threads(model: torch.nn.Module) -> Iterator[None]:
    """Let torch use the threads that suit a model, and afterwards as many as before."""
    before = torch.get_num_threads()
    if next(model.parameters()).device.type == "cpu":
        torch.set_num_threads(choose_threads(model, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
