"""Training loop: seeded, resumable after every epoch, and stopped by the first useless loss."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Int

from twinlens.config.training import Recipe
from twinlens.core.errors import DataError
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch
from twinlens.training.feed import Tensors, feed
from twinlens.training.numbers import fix_numbers
from twinlens.training.optim import make_optimisers, set_rate
from twinlens.training.threads import use_suited_threads
from twinlens.training.watch import LossWatch

log = logging.getLogger("twinlens")

CHECKPOINT = "epoch.pt"  # of the last finished epoch, to go on from
BEST = "best.pt"  # weights of the best one

# Pictures of a batch, and the caption of each, as rows of the caller's own tables.
Batch = tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]
Row = dict[str, float]  # the figures of an epoch


def run_epochs(
    model: torch.nn.Module,
    recipe: Recipe,
    captions_of: list[Int[np.ndarray, " captions"]],
    gather: Callable[[Batch], Tensors],
    loss_of: Callable[..., torch.Tensor],
    validate: Callable[[], Row],
    scratch: Scratch,
    merit: Callable[[Row], float],
    check: Callable[[list[Row]], None] = lambda rows: None,
    joined_of: Int[np.ndarray, " pictures"] | None = None,
    joined_share: float = 0.0,
) -> list[Row]:
    """Train a model in place; returns a row of figures per epoch.

    Everything random in an epoch comes from the seed and the epoch's number, so a run resumed from
    the last finished epoch ends with the same weights as one that was never stopped.

    Args:
        model: what is trained; in train mode while it is, in eval mode for `validate` and afterwards.
        recipe: epochs, batch, optimiser, schedule, stopping and seed.
        captions_of: the caption rows of each training picture.
        gather: the tensors of a batch, on the CPU; called in another thread, ahead of the step that needs them.
        loss_of: the loss of a batch, of its tensors on the model's device.
        validate: figures of the model as it is, after each epoch.
        scratch: where the checkpoints are kept.
        merit: of an epoch's figures, the higher the better; for `keep: best` and `patience`.
        check: called with the rows so far after each epoch; what it raises stops the training before that
            epoch is kept.
        joined_of: the row of each training picture's joined captions.
        joined_share: of the batches, drawn at random, that read those instead of a caption.

    Raises:
        DataError: the batch is larger than the split or than what an epoch draws, or a loss is NaN or infinite.
    """
    steps = count_steps(recipe, len(captions_of))
    optimisers = make_optimisers(model, recipe)
    rows: list[Row] = []
    if scratch.has(CHECKPOINT):
        rows = _restore(scratch.path(CHECKPOINT), model, optimisers)
        log.info("train: going on after epoch %d of %d", len(rows), recipe.epochs)
    whole = Progress("train", total=recipe.epochs * steps, unit="step", done=len(rows) * steps)
    device, validating = next(model.parameters()).device, 0.0
    numbers = fix_numbers(device, getattr(recipe, "precision", "float32"))
    with use_suited_threads(model), numbers, _Keeper(scratch) as keeper, whole as bar:
        for epoch in range(len(rows), recipe.epochs):
            if _patience_is_over(rows, recipe, merit):
                log.info("train: no better epoch in %d, so training stops after %d", recipe.patience, epoch)
                break
            started = time.perf_counter()
            kept = scratch.path(CHECKPOINT)
            drawn = draw_epoch(recipe, captions_of, epoch, steps, joined_of, joined_share)
            loss = _run_epoch(model, recipe, optimisers, drawn, gather, loss_of, epoch, steps, bar, kept)
            if not bool(torch.stack([p.isfinite().all() for p in model.parameters()]).all()):  # asked once
                raise DataError(f"a weight is NaN or infinite after epoch {epoch + 1}. Try a lower train.learning_rate")
            model.eval()
            trained = time.perf_counter()
            rows.append({"epoch": epoch + 1, "loss": round(loss, 6)} | {k: round(v, 6) for k, v in validate().items()})
            check(rows)
            log.info("train: %s", "  ".join(f"{key} {value:g}" for key, value in rows[-1].items()))
            ended = time.perf_counter()
            validating += ended - trained
            best = recipe.keep == "best" and find_best_epoch(rows, merit) == epoch
            keeper.keep(epoch, model, optimisers, rows, best, {"seconds": ended - started, "validate": ended - trained})
    if validating:
        log.info("train: %.1f s of that were validation", validating)
    if recipe.keep == "best":
        model.load_state_dict(torch.load(scratch.path(BEST), map_location="cpu", weights_only=True))
        log.info("train: the weights of epoch %d are kept", find_best_epoch(rows, merit) + 1)
    model.eval()
    return rows


def count_steps(recipe: Recipe, pictures: int) -> int:
    """Count the batches of an epoch.

    Raises:
        DataError: the batch is larger than the split or than what an epoch draws, or more is drawn than there is.
    """
    drawn = recipe.samples_per_epoch or pictures
    if recipe.samples_per_epoch and not recipe.replacement and drawn > pictures:
        raise DataError(
            f"train.samples_per_epoch is {drawn}, but the training split has {pictures} pictures: "
            "lower it, or set train.replacement"
        )
    # Drawn with replacement, a batch larger than the split would hold most pictures twice, as their own negatives.
    if min(drawn, pictures) < recipe.batch_size:
        raise DataError(
            f"train.batch_size is {recipe.batch_size}, but the training split has {pictures} pictures"
            + (f" of which {drawn} are drawn each epoch" if recipe.samples_per_epoch else "")
            + ": lower it"
        )
    # One picture that is left over has no negative, and a batch norm can read nothing from it: it is left out.
    return drawn // recipe.batch_size if recipe.drop_last else math.ceil((drawn - 1) / recipe.batch_size)


def find_best_epoch(rows: list[Row], merit: Callable[[Row], float]) -> int:
    """The first of the epochs with the highest merit, counted from 0."""
    return int(np.argmax([merit(row) for row in rows]))


def _patience_is_over(rows: list[Row], recipe: Recipe, merit: Callable[[Row], float]) -> bool:
    return (
        recipe.patience is not None and bool(rows) and len(rows) - 1 - find_best_epoch(rows, merit) >= recipe.patience
    )


def _run_epoch(
    model: torch.nn.Module,
    recipe: Recipe,
    optimisers: list[torch.optim.Optimizer],
    batches: list[Batch],
    gather: Callable[[Batch], Tensors],
    loss_of: Callable[..., torch.Tensor],
    epoch: int,
    steps: int,
    bar: Progress,
    kept: Path,
) -> float:
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)  # of dropout, and of negatives drawn at random
    model.train()

    def refuse(step: int, value: float) -> None:
        raise DataError(
            f"the loss is {value} at step {step + 1} of epoch {epoch + 1}; "
            + (f"the weights of epoch {epoch} are kept in {kept}" if epoch else "no epoch was finished")
            + ". Try a lower train.learning_rate"
        )

    device = next(model.parameters()).device
    watch = LossWatch(device, refuse)
    with closing(feed(batches, gather, device)) as fed:
        for step, tensors in enumerate(fed):
            set_rate(optimisers, recipe, epoch * steps + step, steps)
            loss = loss_of(*tensors)
            watch.add(loss)
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            for optimiser in optimisers:
                optimiser.step()
            bar.add(1, epoch=epoch + 1, loss=f"{watch.last:.3f}")
    return watch.finish() / steps


def draw_epoch(
    recipe: Recipe,
    captions_of: list[Int[np.ndarray, " captions"]],
    epoch: int,
    steps: int,
    joined_of: Int[np.ndarray, " pictures"] | None = None,
    joined_share: float = 0.0,
) -> list[Batch]:
    """Draw the batches of an epoch: which pictures, and the text of each."""
    rng = np.random.default_rng([recipe.seed, epoch])
    order = draw_pictures(len(captions_of), recipe, rng)
    chosen = draw_captions(captions_of, recipe, rng)
    # Whole batches, as a text is computed to the length of its batch's longest.
    joined = rng.random(steps) < joined_share
    parts = [order[step * recipe.batch_size : (step + 1) * recipe.batch_size] for step in range(steps)]
    return [
        (rows, joined_of[rows] if long and joined_of is not None else chosen[rows])
        for rows, long in zip(parts, joined, strict=True)
    ]


def draw_pictures(count: int, recipe: Recipe, rng: np.random.Generator) -> Int[np.ndarray, " drawn"]:
    """Draw the pictures of an epoch, in the order in which they are shown."""
    if recipe.replacement:
        return rng.integers(0, count, size=recipe.samples_per_epoch)
    return rng.permutation(count)[: recipe.samples_per_epoch]


def draw_captions(
    captions_of: list[Int[np.ndarray, " captions"]], recipe: Recipe, rng: np.random.Generator
) -> Int[np.ndarray, " pictures"]:
    """Draw the caption row that stands for each picture in this epoch."""
    if recipe.captions == "first":
        return np.array([rows[0] for rows in captions_of])
    share = rng.random(len(captions_of))
    return np.array([rows[int(s * len(rows))] for rows, s in zip(captions_of, share, strict=True)])


class _Keeper:
    """Checkpoints, written by a thread from a copy while the next epoch is trained.

    A large model's takes seconds to write, to digest and to reach the disk, which a GPU would wait for. Whoever is
    interrupted waits until the last one is whole; a process that is killed meanwhile has the one before it.
    """

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._writing: Future[None] | None = None

    def keep(
        self,
        epoch: int,
        model: torch.nn.Module,
        optimisers: list[torch.optim.Optimizer],
        rows: list[Row],
        best: bool,
        figures: dict[str, float],
    ) -> None:
        """Keep a finished epoch, and what it took; where it is the `best` so far, its weights by themselves too."""
        self._wait()
        state = {"model": model.state_dict(), "optimisers": [o.state_dict() for o in optimisers], "rows": rows}
        copied = _copy(state)
        self.scratch.note(f"epoch-{epoch:04d}", **figures)

        def write() -> None:
            if best:
                self.scratch.put(BEST, lambda path: torch.save(copied["model"], path))
            self.scratch.put(CHECKPOINT, lambda path: torch.save(copied, path))

        self._writing = self._pool.submit(write)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self._wait()  # where it failed, that is why training failed


def _copy(state: Any) -> Any:
    """Copy a state to the CPU, where its tensors stay what they are while training goes on."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copy(value) for value in state]
    return state


def _restore(path: Path, model: torch.nn.Module, optimisers: list[torch.optim.Optimizer]) -> list[Row]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    rows: list[Row] = state["rows"]
    return rows


def write_log(rows: list[Row], path: Path) -> None:
    """Write the figures of each epoch as CSV, for plotting; what an epoch lacks is left empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [",".join(f"{row[key]:g}" if key in row else "" for key in columns) for row in rows]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n", encoding="utf-8")
