"""Muon: torch's own to the last digit, in numbers of one's choice, and cheaper than the pass before it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from tests.workspace import ROOT
from twinlens.training import muon
from twinlens.training.muon import Muon, orthogonalise

SHAPES = [(6, 6), (40, 9), (9, 40), (1, 7), (64, 64)]


class InFloat32(TorchFunctionMode):
    """What would become bfloat16 becomes float32: torch's Muon has no setting for it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)
        args = tuple(torch.float32 if arg is torch.bfloat16 else arg for arg in args)
        given = {key: torch.float32 if value is torch.bfloat16 else value for key, value in (kwargs or {}).items()}
        return func(*args, **given)


def matrices() -> list[torch.nn.Parameter]:
    made = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=made)) for shape in SHAPES]


def theirs(held: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Muon(held, lr=0.03, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")


def stepped(held: list[torch.nn.Parameter], optimiser: torch.optim.Optimizer, steps: int = 12) -> list[torch.Tensor]:
    """The matrices after some steps whose gradients and rates change, and with one that has none at times."""
    made = torch.Generator().manual_seed(1)
    for step in range(steps):
        for place, matrix in enumerate(held):
            gradient = torch.randn(matrix.shape, generator=made) * 10.0 ** (step % 5 - 3)
            matrix.grad = None if (place, step % 4) == (1, 3) else gradient
        for group in optimiser.param_groups:
            group["lr"] = 0.03 / (1 + step)
        optimiser.step()
    return [matrix.detach() for matrix in held]


def test_in_float32_it_is_torchs_own_to_the_last_digits() -> None:
    mine, others = matrices(), matrices()
    found = stepped(mine, Muon(mine, lr=0.03, weight_decay=0.2, numbers=torch.float32))
    with InFloat32():
        wanted = stepped(others, theirs(others))
    for mine_, theirs_ in zip(found, wanted, strict=True):
        assert torch.allclose(mine_, theirs_, rtol=0, atol=2e-5)  # a step of one matrix is 0.03, twelve are taken


def test_in_bfloat16_it_is_torchs_own_as_far_as_that_has_digits_and_another() -> None:
    mine, others, exact = matrices(), matrices(), matrices()
    found = stepped(mine, Muon(mine, lr=0.03, weight_decay=0.2, numbers=torch.bfloat16))
    for mine_, theirs_ in zip(found, stepped(others, theirs(others)), strict=True):
        assert torch.allclose(mine_, theirs_, rtol=0, atol=5e-3)
    other = stepped(exact, Muon(exact, lr=0.03, weight_decay=0.2, numbers=torch.float32))
    assert not any(torch.equal(*pair) for pair in zip(found, other, strict=True))


def test_a_convolution_is_stepped_as_the_matrix_of_its_filters() -> None:
    made = torch.Generator().manual_seed(2)
    filters, gradient = (torch.randn(8, 3, 5, 5, generator=made) for _ in range(2))
    convolution = torch.nn.Parameter(filters.to(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(filters.flatten(1))
    for held, own in ((convolution, gradient), (matrix, gradient.flatten(1))):
        optimiser = Muon([held], lr=0.03, weight_decay=0.2, numbers=torch.float32)
        for _ in range(3):
            held.grad = own.clone()
            optimiser.step()
    assert torch.allclose(convolution.detach().flatten(1), matrix.detach(), atol=1e-6)
    assert convolution.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(32, 32), (80, 20), (20, 80)])
def test_what_is_orthogonalised_has_its_directions_and_nearly_no_lengths(shape: tuple[int, int]) -> None:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    left, lengths, right = torch.linalg.svd(made, full_matrices=False)
    lengths = torch.linspace(0.1, 5.0, len(lengths))
    found = orthogonalise(left @ lengths.diag() @ right, torch.float32)
    turned = left.T @ found @ right.T  # diagonal: the singular vectors are as they were
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-3
    assert turned.diagonal().min() > 0.6
    assert turned.diagonal().max() < 1.2
    assert found.dtype == torch.float32


def test_matrices_of_one_shape_or_its_transpose_are_stepped_in_one_batch_of_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, ...]] = []
    usual = muon.orthogonalise

    def noting(matrix: torch.Tensor, numbers: torch.dtype) -> torch.Tensor:
        seen.append(tuple(matrix.shape))
        return usual(matrix, numbers)

    monkeypatch.setattr(muon, "orthogonalise", noting)
    shapes = [(8, 4), (4, 8), (4, 2, 2, 2), (5, 5), (300, 300), (300, 300)]
    held = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    alone = [torch.nn.Parameter(matrix.detach().clone()) for matrix in held]
    for one, other in zip(held, alone, strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    Muon(held, lr=0.03, weight_decay=0.2, numbers=torch.float32).step()
    assert sorted(seen) == [(3, 4, 8), (5, 5), (300, 300), (300, 300)]  # large ones gain nothing on a CPU
    for one, other in zip(held, alone, strict=True):
        Muon([other], lr=0.03, weight_decay=0.2, numbers=torch.float32).step()
        assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_a_gradient_of_zeros_moves_nothing_but_by_decay() -> None:
    matrix = torch.nn.Parameter(torch.ones(3, 4))
    matrix.grad = torch.zeros(3, 4)
    Muon([matrix], lr=0.5, weight_decay=0.1, numbers=torch.float32).step()
    assert torch.allclose(matrix, torch.full((3, 4), 0.95))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), ()])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Muon takes matrices, found a parameter of shape \("):
        Muon([torch.nn.Parameter(torch.zeros(shape))], lr=0.1, weight_decay=0.0, numbers=torch.float32)


def test_what_it_remembers_goes_on_from_a_file() -> None:
    whole, first, second = matrices(), matrices(), matrices()
    wanted = stepped(whole, Muon(whole, lr=0.03, weight_decay=0.2, numbers=torch.float32), steps=1)
    before = Muon(first, lr=0.03, weight_decay=0.2, numbers=torch.float32)
    stepped(first, before, steps=1)
    after = Muon(second, lr=0.03, weight_decay=0.2, numbers=torch.float32)
    after.load_state_dict(before.state_dict())
    for matrix, other in zip(second, first, strict=True):
        matrix.data.copy_(other.data)
    assert all(torch.equal(*pair) for pair in zip((m.detach() for m in second), wanted, strict=True))
    assert all(
        torch.equal(after.state[matrix]["momentum_buffer"], before.state[other]["momentum_buffer"])
        for matrix, other in zip(second, first, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["towers", "captioner"])
def test_a_step_of_the_optimiser_costs_less_than_the_pass_before_it(kind: str) -> None:
    """In CPU time, and as on a processor without AVX512 and bfloat16: there torch's own costs eight times the pass."""
    plain = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-m", "benchmarks.step", kind, "--steps", "3"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | plain, capture_output=True, text=True, timeout=600, check=True
    )
    passes, optimising, _ = map(float, done.stdout.split())
    assert optimising < passes
