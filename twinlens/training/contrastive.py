"""Contrastive training of towers or heads: each picture with its caption against the batch's others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.checkpoint import checkpoint

from twinlens.config.training import ContrastiveRecipe, TowerRecipe
from twinlens.core.device import Placement, warn_of_emulation
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch
from twinlens.training.collapse import describe_collapse, measure_spread
from twinlens.training.data import Split
from twinlens.training.feed import Tensors, feed
from twinlens.training.loop import Batch, Row, log, run_epochs
from twinlens.training.losses import Anchors, compute_loss

TEMPERATURE = {"siglip": 0.1}  # to begin with, where neither the card nor the model says; 0.07 as CLIP otherwise
EPOCHS_TO_SPREAD = 3  # what vectors that begin close together are given
# While validating; a GPU needs more at a time to be busy.
PICTURES_AT_ONCE, TEXTS_AT_ONCE = {"cpu": 64, "cuda": 512}, {"cpu": 256, "cuda": 2048}


class Rows(Protocol):
    """Inputs of one side: pixels, token numbers or vectors of frozen towers."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Int[np.ndarray, " batch"]) -> torch.Tensor: ...


@dataclass(frozen=True)
class Inputs:
    """One split as a model reads it."""

    pictures: Rows
    texts: Rows
    captions_of: list[Int[np.ndarray, " captions"]]  # rows of `texts`, a picture
    joined_of: Int[np.ndarray, " pictures"] | None = None  # the row of its captions joined, where they are there too

    @classmethod
    def of(cls, split: Split, pictures: Rows, texts: Rows, joined: bool = False) -> Inputs:
        """The inputs of a split's pictures and captions, in its order; where `joined`, those captions come last."""
        rows = len(split.captions) + np.arange(len(split.captions_of)) if joined else None
        return cls(pictures, texts, split.captions_of, rows)


@dataclass(frozen=True)
class View:
    """One way to embed a batch: vectors of pictures and of texts, with gradients."""

    name: str  # of its figures, where there are several
    anchors: Anchors
    pictures: Callable[[torch.Tensor], torch.Tensor]
    texts: Callable[[torch.Tensor], torch.Tensor]


class Temperature(torch.nn.Module):
    """The scale of the cosines, learnt as its logarithm, and the bias of a sigmoid."""

    def __init__(self, recipe: ContrastiveRecipe, log_scale: float | None = None, bias: float | None = None) -> None:
        """Begin with the recipe's temperature, else with the model's `log_scale`, else with the usual one."""
        super().__init__()
        if recipe.temperature is not None or log_scale is None:
            log_scale = -float(np.log(recipe.temperature or TEMPERATURE.get(recipe.objective, 0.07)))
        self.log_scale = torch.nn.Parameter(torch.tensor(log_scale))
        self.highest = None if recipe.max_logit_scale is None else float(np.log(recipe.max_logit_scale))
        # A fresh bias of -10 makes nearly all pairs count as known not to match, as they are (Zhai et al. 2023).
        begin = -10.0 if bias is None else bias
        self.bias = torch.nn.Parameter(torch.tensor(begin)) if recipe.objective == "siglip" else None
        self.requires_grad_(recipe.objective in ("clip", "siglip"))

    def scale(self) -> torch.Tensor:
        """Factor of the cosines."""
        if self.highest is not None:
            with torch.no_grad():  # the parameter is cut, as a clamp in its way would let no gradient bring it back
                self.log_scale.clamp_(max=self.highest)
        return self.log_scale.exp()


def freeze(module: torch.nn.Module) -> None:
    """Keep a module's weights and statistics as they are, whatever mode the model around it is put in."""
    module.eval().requires_grad_(False)
    module.train = lambda mode=True: module  # type: ignore[method-assign,misc]  # nothing turns dropout or norms on


def encode_in_parts(
    encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, size: int | None
) -> torch.Tensor:
    """Encode a batch in parts of `size`: the vectors and the gradients of the whole, in the memory of a part.

    Each part is computed again when its gradient is needed, so that every negative of the batch counts
    (Gao et al. 2021, GradCache), which adding up the losses of small batches would not do. Not for
    batch norms, which would take their statistics from each part.
    """
    if size is None or len(inputs) <= size:
        return encode(inputs)
    parts = [checkpoint(encode, part, use_reentrant=False) for part in inputs.split(size)]
    return torch.cat(parts)


@dataclass(frozen=True)
class DualEncoder:
    """A dual encoder in training: a module, the views it offers, and the temperature."""

    module: torch.nn.Module
    views: list[View]
    temperature: Temperature
    part_size: int | None = None

    def figures_of(self, view: View, row: Row) -> Row:
        """The figures of one view by their plain names; but for the last one, they are marked in the row."""
        mark = self._mark(view)
        return {name.removesuffix(mark): value for name, value in row.items() if name.endswith(mark)}

    def mark_figures(self, view: View, figures: Row) -> Row:
        """The figures of a view by the names that they have beside those of other views."""
        return {name + self._mark(view): value for name, value in figures.items()}

    def _mark(self, view: View) -> str:
        return "" if view is self.views[-1] else f"_{view.name}"


def train_dual_encoder(
    pair: DualEncoder, recipe: ContrastiveRecipe, train: Inputs, val: Inputs, placement: Placement, scratch: Scratch
) -> list[Row]:
    """Train in place; returns the figures of every epoch, those before training as epoch 0.

    Raises:
        DataError: a batch is larger than the split, a loss is NaN or infinite, or the vectors collapse.
    """
    if recipe.precision == "bfloat16":
        warn_of_emulation(placement.device, "train.precision")

    def gather(batch: Batch) -> Tensors:
        rows, captions = batch
        return train.pictures[rows], train.texts[captions], torch.from_numpy(rows)

    def loss_of(pictures: torch.Tensor, texts: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
        losses = [_loss(pair, view, recipe, pictures, texts, names, placement) for view in pair.views]
        return torch.stack(losses).mean()

    chance = min(1.0, 10 / len(val.pictures))

    def validate() -> Row:
        return measure_split(pair, recipe, val, placement)

    def flat(row: Row) -> dict[str, str]:
        """Describe what has collapsed, by the name of the view."""
        found = {view.name: describe_collapse(pair.figures_of(view, row), recipe, chance) for view in pair.views}
        return {name: what for name, what in found.items() if what is not None}

    def refuse_collapse(rows: list[Row]) -> None:
        for name, what in flat(rows[-1]).items():
            if name in flat_before and len(rows) < EPOCHS_TO_SPREAD:
                continue
            said = what if len(pair.views) == 1 else f"{name}: {what}"
            if recipe.on_collapse == "stop":
                raise DataError(f"{said}. `on_collapse: record` goes on all the same")
            log.warning("train: %s", said)

    before = validate()
    # The vectors of a deep model with random weights are close together, too, and take an epoch or two to spread.
    flat_before = flat(before)
    rows = run_epochs(
        pair.module,
        recipe,
        train.captions_of,
        gather,
        loss_of,
        validate,
        scratch,
        merit=lambda row: row["val_mrr"],
        check=refuse_collapse,
        joined_of=train.joined_of,
        joined_share=recipe.joined_share if isinstance(recipe, TowerRecipe) else 0.0,
    )
    return [{"epoch": 0} | {name: round(value, 6) for name, value in before.items()}, *rows]


def _loss(
    pair: DualEncoder,
    view: View,
    recipe: ContrastiveRecipe,
    pictures: torch.Tensor,
    texts: torch.Tensor,
    names: torch.Tensor,
    placement: Placement,
) -> torch.Tensor:
    with _autocast(recipe, placement):
        image = encode_in_parts(view.pictures, pictures, pair.part_size)
        text = encode_in_parts(view.texts, texts, pair.part_size)
    temperature = pair.temperature
    return compute_loss(recipe, image.float(), text.float(), names, temperature.scale(), temperature.bias, view.anchors)


def _autocast(recipe: ContrastiveRecipe, placement: Placement) -> torch.autocast:
    return torch.autocast(placement.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")


@torch.inference_mode()
def measure_split(pair: DualEncoder, recipe: ContrastiveRecipe, val: Inputs, placement: Placement) -> Row:
    """Compute the figures of a model as it is, on a whole split, in the precision that it is trained in.

    * `val_loss`: over whole batches of first captions (or the one there is), as in training;
    * `val_mrr`, `val_hit_at_10`: captions search all pictures by cosine; equal scores count as nearer;
    * `measure_spread` of the pictures and of the captions.

    Where there are several views, the loss is their mean, and the rest is told of each.
    """
    pair.module.eval()
    found: Row = {}
    losses = []
    for view in pair.views:
        own = _figures(pair, view, recipe, val, placement)
        losses.append(own.pop("val_loss"))
        found |= pair.mark_figures(view, own)
    return {"val_loss": float(np.mean(losses))} | found


def _figures(pair: DualEncoder, view: View, recipe: ContrastiveRecipe, val: Inputs, placement: Placement) -> Row:
    with _autocast(recipe, placement):
        image = _all(view.pictures, val.pictures, PICTURES_AT_ONCE, placement)
        text = _all(view.texts, val.texts, TEXTS_AT_ONCE, placement)
    first = np.array([rows[0] for rows in val.captions_of])
    size = min(recipe.batch_size, len(first))
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # of negatives drawn at random
        for start in range(0, len(first) - size + 1, size):
            rows = np.arange(start, start + size)
            texts, names = text[first[rows]], torch.from_numpy(rows).to(image.device)
            temperature = pair.temperature
            loss = compute_loss(recipe, image[rows], texts, names, temperature.scale(), temperature.bias, view.anchors)
            losses.append(loss)
    ranks = rank_own(text, image, np.repeat(np.arange(len(first)), [len(rows) for rows in val.captions_of]))
    found = {"val_loss": float(np.mean(torch.stack(losses).tolist())), "val_mrr": float((1.0 / ranks).mean())}
    found["val_hit_at_10"] = float((ranks <= 10).float().mean())
    return found | measure_spread(image, "image") | measure_spread(text, "text")


def _all(
    encode: Callable[[torch.Tensor], torch.Tensor], inputs: Rows, at_once: dict[str, int], placement: Placement
) -> torch.Tensor:
    size = at_once.get(placement.device.type, at_once["cpu"])
    pieces = [np.arange(start, min(start + size, len(inputs))) for start in range(0, len(inputs), size)]
    with closing(feed(pieces, lambda rows: (inputs[rows],), placement.device)) as fed:
        return torch.cat([encode(piece).float() for (piece,) in fed])


def rank_own(
    queries: torch.Tensor, items: torch.Tensor, own: Int[np.ndarray, " queries"]
) -> Int[torch.Tensor, " queries"]:
    """Rank each query's own item, whose row `own` names, by cosine; equal scores count as nearer."""
    queries, items = (torch.nn.functional.normalize(side, dim=-1) for side in (queries, items))
    places = torch.from_numpy(own).to(queries.device)
    ranks = []
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024] @ items.T
        mine = scores.gather(1, places[start : start + 1024, None])
        ranks.append((scores >= mine).sum(dim=1))
    return torch.cat(ranks)
