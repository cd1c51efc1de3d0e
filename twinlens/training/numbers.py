"""Numbers that a training computes with on a GPU: which, and whether they repeat."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # without which cuBLAS may add up in another order where streams meet


@contextmanager
def fix_numbers(device: torch.device, precision: str, repeatable: bool = True) -> Iterator[None]:
    """Let a GPU compute by kernels that give the same bits each time, in float32 as it is or in TF32.

    A CPU does so anyway, and is left as it is. What torch has no such kernel for, it warns of by name.

    Args:
        device: where it is trained.
        precision: of the recipe. `float32` is that: torch would let convolutions take TF32.
        repeatable: false only to measure what it costs.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    filling: Any = torch.utils.deterministic  # a module whose setting torch's own types do not know
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        filling.fill_uninitialized_memory,
        cudnn.deterministic,
        cudnn.benchmark,
        matmul.allow_tf32,  # the newer names beside these let neither be asked for where they differ
        cudnn.allow_tf32,
    )
    torch.use_deterministic_algorithms(repeatable, warn_only=True)
    filling.fill_uninitialized_memory = False  # nothing here reads what was not written
    cudnn.deterministic, cudnn.benchmark = repeatable, False  # which chooses kernels by the clock
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory = before[2]
        cudnn.deterministic, cudnn.benchmark = before[3:5]
        matmul.allow_tf32, cudnn.allow_tf32 = before[5:]
