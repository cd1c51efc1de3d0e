"""The training loop: seeded, resumable after every epoch, and stopped by the first useless loss."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from twinlens.cards import Recipe
from twinlens.errors import DataError
from twinlens.progress import Progress
from twinlens.scratch import Scratch

log = logging.getLogger("twinlens")

CHECKPOINT = "epoch.pt"

# Pictures of a batch, and the caption of each, as rows of the caller's own tables.
Batch = tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]


def fit(
    model: torch.nn.Module,
    recipe: Recipe,
    captions_of: list[Int[np.ndarray, " captions"]],
    loss_of: Callable[[Batch], torch.Tensor],
    validate: Callable[[], dict[str, float]],
    scratch: Scratch,
) -> list[dict[str, float]]:
    """Train a model in place; returns a row of figures per epoch.

    Everything random in an epoch comes from the seed and the epoch's number, so a run resumed from
    the last finished epoch ends with the same weights as one that was never stopped.

    Args:
        model: what is trained; in train mode while it is, in eval mode for `validate` and afterwards.
        recipe: epochs, batch, optimiser, schedule and seed.
        captions_of: the caption rows of each training picture.
        loss_of: the loss of a batch.
        validate: figures of the model as it is, after each epoch.
        scratch: where the checkpoint is kept.

    Raises:
        DataError: the batch is larger than the training split, or a loss is NaN or infinite.
    """
    steps = len(captions_of) // recipe.batch_size
    if steps < 1:
        raise DataError(
            f"train.batch_size is {recipe.batch_size}, but the training split has {len(captions_of)} pictures"
        )
    optimisers = _optimisers(model, recipe)
    rows: list[dict[str, float]] = []
    if scratch.has(CHECKPOINT):
        rows = _restore(scratch.path(CHECKPOINT), model, optimisers)
        log.info("train: going on after epoch %d of %d", len(rows), recipe.epochs)
    with Progress("train", total=recipe.epochs * steps, unit="step", done=len(rows) * steps) as bar:
        for epoch in range(len(rows), recipe.epochs):
            started = time.perf_counter()
            loss = _run_epoch(model, recipe, optimisers, captions_of, loss_of, epoch, steps, bar)
            if not all(bool(p.isfinite().all()) for p in model.parameters()):
                raise DataError(f"a weight is NaN or infinite after epoch {epoch + 1}. Try a lower train.learning_rate")
            model.eval()
            rows.append({"epoch": epoch + 1, "loss": round(loss, 6)} | {k: round(v, 6) for k, v in validate().items()})
            log.info("train: %s", "  ".join(f"{key} {value:g}" for key, value in rows[-1].items()))
            scratch.note(f"epoch-{epoch:04d}", seconds=time.perf_counter() - started)
            _save(scratch, model, optimisers, rows)
    model.eval()
    return rows


def _run_epoch(
    model: torch.nn.Module,
    recipe: Recipe,
    optimisers: list[torch.optim.Optimizer],
    captions_of: list[Int[np.ndarray, " captions"]],
    loss_of: Callable[[Batch], torch.Tensor],
    epoch: int,
    steps: int,
    bar: Progress,
) -> float:
    rng = np.random.default_rng([recipe.seed, epoch])
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)  # of dropout
    order = rng.permutation(len(captions_of))
    chosen = draw_captions(captions_of, recipe, rng)
    model.train()
    total = 0.0
    for step in range(steps):
        pictures = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        _set_rate(optimisers, recipe, epoch * steps + step, recipe.epochs * steps)
        loss = loss_of((pictures, chosen[pictures]))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(
                f"the loss is {value} at step {step + 1} of epoch {epoch + 1}; the weights of epoch {epoch} are kept. "
                "Try a lower train.learning_rate"
            )
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        total += value
        bar.add(1, epoch=epoch + 1, loss=f"{value:.3f}")
    return total / steps


def draw_captions(
    captions_of: list[Int[np.ndarray, " captions"]], recipe: Recipe, rng: np.random.Generator
) -> Int[np.ndarray, " pictures"]:
    """The caption row that stands for each picture in this epoch."""
    if recipe.captions == "first":
        return np.array([rows[0] for rows in captions_of])
    share = rng.random(len(captions_of))
    return np.array([rows[int(s * len(rows))] for rows, s in zip(captions_of, share, strict=True)])


def _optimisers(model: torch.nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the hidden matrices and AdamW for the rest.

    Muon (Jordan et al. 2024) turns each matrix's step into an orthogonal one. On the small models
    trained from nothing here it reaches in one minute what AdamW does not in three.
    """
    decay = recipe.weight_decay
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [
        p for name, p in trained.items() if p.ndim == 2 and "embed" not in name and "decoder.weight" not in name
    ]
    if recipe.optimizer == "adamw":
        flat = [p for p in trained.values() if p.ndim < 2]  # biases, norms and the temperature are not decayed
        rest = [p for p in trained.values() if p.ndim >= 2]
        groups = [{"params": rest, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)]
    ids = {id(p) for p in matrices}
    rest = [p for p in trained.values() if id(p) not in ids]
    return [
        torch.optim.Muon(matrices, lr=recipe.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]


def _set_rate(optimisers: list[torch.optim.Optimizer], recipe: Recipe, step: int, steps: int) -> None:
    """Linear warm-up to the whole rate, then half a cosine down to zero."""
    warmup = max(1, round(recipe.warmup_share * steps))
    if step < warmup:
        factor = (step + 1) / warmup
    else:
        factor = 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * factor


def _save(
    scratch: Scratch, model: torch.nn.Module, optimisers: list[torch.optim.Optimizer], rows: list[dict[str, float]]
) -> None:
    state = {"model": model.state_dict(), "optimisers": [o.state_dict() for o in optimisers], "rows": rows}
    scratch.put(CHECKPOINT, lambda path: torch.save(state, path))


def _restore(path: Path, model: torch.nn.Module, optimisers: list[torch.optim.Optimizer]) -> list[dict[str, float]]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    rows: list[dict[str, float]] = state["rows"]
    return rows


def write_log(rows: list[dict[str, float]], path: Path) -> None:
    """Write the figures of each epoch as CSV, for plotting."""
    lines = [",".join(rows[0]), *(",".join(f"{value:g}" for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
