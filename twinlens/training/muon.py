"""Muon: an optimiser of matrices and convolutions that says in which numbers it orthogonalises."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan's implementation, steepest at zero
ITERATIONS = 5
TINY = 1e-7
LARGE = 128 * 256  # numbers of a matrix whose product on a CPU takes longer than its start


class Muon(torch.optim.Optimizer):
    """Momentum whose every step is an orthogonal matrix (Jordan et al. 2024), as long as a step of AdamW.

    It is `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (Liu et al. 2025, arXiv 2502.16982), but for the
    numbers that the iteration computes with, and the way there. torch's numbers are bfloat16 everywhere, and most CPUs
    have no units for those: they emulate them, and a step of the default CLIP's matrices takes forty times as long as
    in float32. And torch steps one matrix after another, where matrices of one shape (or its transpose) are stepped
    here in one batched product: a small model's are so small that starting a product takes as long as computing it.
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
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            gradients = [matrix.grad for matrix in matrices]
            for matrix, gradient in zip(matrices, gradients, strict=True):
                if not self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(gradient)
            momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            for places in _group_by_shape(ahead):
                flat = [ahead[place].flatten(1) for place in places]
                length = group["lr"] * 0.2 * math.sqrt(max(flat[0].shape))  # the root mean square of AdamW's steps
                steps = _orthogonalise_alike(flat, self.numbers)
                for place, made in zip(places, steps, strict=True):
                    matrices[place].add_(made.view_as(ahead[place]), alpha=-length)


def _group_by_shape(updates: Sequence[torch.Tensor]) -> list[list[int]]:
    """The places of the matrices that are alike, but for which side is the longer one."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, update in enumerate(updates):
        rows = update.shape[0]
        columns = update.numel() // rows
        groups[min(rows, columns), max(rows, columns)].append(place)
    return list(groups.values())


def _orthogonalise_alike(matrices: list[torch.Tensor], numbers: torch.dtype) -> list[torch.Tensor]:
    """`orthogonalise` each of some matrices of one shape, tall or wide, in batched products.

    Large ones go one by one, as a batch of them would only cost the copy that makes it.
    """
    if len(matrices) == 1 or (matrices[0].device.type == "cpu" and matrices[0].numel() >= LARGE):
        return [orthogonalise(matrix, numbers) for matrix in matrices]
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    wide = torch.stack([matrix.T if turned else matrix for matrix, turned in zip(matrices, tall, strict=True)])
    found = orthogonalise(wide, numbers)
    return [made.T if turned else made for made, turned in zip(found, tall, strict=True)]


def orthogonalise(
    matrix: Float[torch.Tensor, "*batch rows columns"], numbers: torch.dtype
) -> Float[torch.Tensor, "*batch rows columns"]:
    """About U V' of a matrix U S V', or of each of a batch: singular values come to between 0.6 and 1.2, but tiny ones.

    Five Newton-Schulz iterations of a quintic: products of matrices, in `numbers`, and nothing else.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    found = matrix.to(numbers, copy=True)
    if tall:  # the products are as large as the shorter side
        found = found.mT
    found.div_(found.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY))  # no singular value is over 1 then
    add_product = torch.addmm if found.ndim == 2 else torch.baddbmm
    for _ in range(ITERATIONS):
        square = found @ found.mT
        found = add_product(found, add_product(square, square, square, beta=b, alpha=c), found, beta=a)
    return found.mT if tall else found
