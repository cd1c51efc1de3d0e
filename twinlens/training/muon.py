"""Muon: an optimiser of matrices and convolutions that says in which numbers it orthogonalises."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan's implementation, steepest at zero
ITERATIONS = 5
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum whose every step is an orthogonal matrix (Jordan et al. 2024), as long as a step of AdamW.

    It is `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (Liu et al. 2025, arXiv 2502.16982), but for the
    numbers that the iteration computes with. torch's are bfloat16 everywhere, and most CPUs have no units for those:
    they emulate them, and a step of the default CLIP's matrices takes forty times as long as in float32.
    """

    def __init__(
        self, params: Iterable[torch.nn.Parameter], *, lr: float, weight_decay: float, numbers: torch.dtype
    ) -> None:
        """Take over parameters.

        Args:
            params: matrices, or filters of convolutions, which are stepped as the matrix of all of them.
            lr: the learning rate, which suits AdamW as well.
            weight_decay: decoupled from the gradient, times the rate.
            numbers: what the iteration computes with; see `twinlens.core.device.choose_matrix_dtype`.

        Raises:
            ValueError: a parameter is neither.
        """
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.numbers = numbers
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.ndim not in (2, 4):
                    raise ValueError(f"Muon takes matrices, found a parameter of shape {tuple(matrix.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients that there are."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - MOMENTUM)
                ahead = matrix.grad.lerp(momentum, MOMENTUM)  # Nesterov's
                flat = ahead.flatten(1)
                length = group["lr"] * 0.2 * math.sqrt(max(flat.shape))  # the root mean square of AdamW's steps
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(orthogonalise(flat, self.numbers).view_as(ahead), alpha=-length)


def orthogonalise(
    matrix: Float[torch.Tensor, "rows columns"], numbers: torch.dtype
) -> Float[torch.Tensor, "rows columns"]:
    """About U V' of a matrix U S V': singular values that are not tiny are brought to between 0.6 and 1.2.

    Five Newton-Schulz iterations of a quintic: products of matrices, in `numbers`, and nothing else.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.to(numbers, copy=True)
    if tall:  # the products are as large as the shorter side
        found = found.T
    found.div_(found.norm().clamp(min=TINY))  # no singular value is over 1 then
    for _ in range(ITERATIONS):
        square = found @ found.T
        found = torch.addmm(found, torch.addmm(square, square, square, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found
