"""Timing things against each other so that a machine's other work hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Row:
    """One line of the result table."""

    what: str
    figure: str
    against: str
    ratio: str
    wanted: str = ""


def alternate(
    ways: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round that is not counted; A B A B, never A A B B."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for counted in range(rounds + 1):
        for name, way in ways.items():
            wait_for_device()
            started = clock()
            way()
            wait_for_device()
            if counted:
                taken[name].append(clock() - started)
    return taken


def ratio(taken: dict[str, list[float]], of: str, to: str) -> float:
    """The median, over rounds, of one way's seconds over the other's in the same round."""
    return statistics.median(a / b for a, b in zip(taken[of], taken[to], strict=True))


def median(taken: dict[str, list[float]], name: str) -> float:
    """A way's median seconds."""
    return statistics.median(taken[name])


def wait_for_device() -> None:
    """Wait until a GPU has done what it was given, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def unit_vectors(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Random unit vectors, float32."""
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
