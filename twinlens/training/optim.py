"""Optimisers and the learning rate of each step."""

from __future__ import annotations

import math

import torch

from twinlens.config.training import Recipe
from twinlens.core.device import choose_matrix_dtype
from twinlens.training.muon import Muon


def make_optimisers(model: torch.nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the hidden matrices and convolutions and AdamW for the rest.

    On the small models trained from nothing here Muon reaches in one minute what AdamW does not in three.
    """
    decay, rate = recipe.weight_decay, recipe.learning_rate
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if recipe.optimizer == "adamw":
        flat = [p for p in trained.values() if p.ndim < 2]  # biases, norms and the temperature are not decayed
        rest = [p for p in trained.values() if p.ndim >= 2]
        groups = [{"params": rest, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=rate, betas=recipe.betas, eps=recipe.eps, fused=True)]
    matrices = [
        p for name, p in trained.items() if p.ndim in (2, 4) and "embed" not in name and "decoder.weight" not in name
    ]
    ids = {id(p) for p in matrices}
    rest = [p for p in trained.values() if id(p) not in ids]
    return [
        Muon(matrices, lr=rate, weight_decay=decay, numbers=choose_matrix_dtype(matrices[0].device)),
        torch.optim.AdamW(rest, lr=rate, betas=recipe.betas, eps=recipe.eps, weight_decay=0.0, fused=True),
    ]


def set_rate(optimisers: list[torch.optim.Optimizer], recipe: Recipe, step: int, steps_per_epoch: int) -> None:
    """Give every parameter the learning rate of a step, counted from 0 over all epochs."""
    rate = recipe.learning_rate * compute_rate_factor(recipe, step, steps_per_epoch)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate


def compute_rate_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Compute the share of the whole rate: linear warm-up, then a cosine or line down to zero, steps, or all of it."""
    steps = recipe.epochs * steps_per_epoch
    # A warm-up of no step still starts the descent after the first, which then has the whole rate.
    warmup = max(1, round(recipe.warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    left = (steps - step) / (steps - warmup)  # from 1 to nearly 0
    if recipe.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
    if recipe.schedule == "linear":
        return left
    if recipe.schedule == "step":
        return float(recipe.step_factor ** (step // steps_per_epoch // recipe.step_epochs))
    return 1.0
