"""CPU threads of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

TINY, SMALL = 1_000_000, 20_000_000  # parameters


def choose_threads(model: torch.nn.Module, available: int) -> int:
    """Choose one thread for a tiny model, two for a small one, all for others.

    A tiny model's products are over before threads have divided them up: a second one gains the default's BLIP a
    quarter, its CLIP two fifths. They cost much where cores are short, as threads of OpenMP spin while they wait for
    one that has lost its core: two trainings at once on two cores, with two threads each, take three times as long as
    with one each (benchmarks/RESULTS.md), which `OMP_NUM_THREADS=1` prevents. The number also decides the last
    digits, which so are the same on two cores and on sixty-four.
    """
    parameters = sum(p.numel() for p in model.parameters())
    return min(available, 1 if parameters < TINY else 2 if parameters < SMALL else available)


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
