"""Threads of torch on a CPU, which in batches of few rows move last digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from twinlens.core.device import Placement


@contextmanager
def hold_threads(placement: Placement, few: bool) -> Iterator[None]:
    """Compute with one thread meanwhile, on a CPU and where a batch has few rows: the last one of a source, or a probe.

    Products of few rows are split among threads in other ways, which moves last digits: of a picture alone from two
    threads on, of 16 from eight on. So a process that has all cores and a worker that has one make the same bytes.
    """
    before = torch.get_num_threads()
    if not few or placement.device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
