"""Training of projection heads on the vectors of two towers that stay as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from twinlens.config.models import ModelCard
from twinlens.config.training import HeadsRecipe
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch
from twinlens.inference.features import Features
from twinlens.models.heads import CAPTION_TO_IMAGE, IMAGE_TO_CAPTION, ProjectionHeads
from twinlens.training.contrastive import DualEncoder, Inputs, Temperature, View, train_dual_encoder
from twinlens.training.data import Split, TrainingData, TrainingResult, fingerprint_training
from twinlens.training.loop import count_steps
from twinlens.training.losses import Anchors

log = logging.getLogger("twinlens")

ANCHORS: dict[str, Anchors] = {IMAGE_TO_CAPTION: "pictures", CAPTION_TO_IMAGE: "texts"}


class ArrayRows:
    """Rows of an array in memory, a batch at a time."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.rows[rows])


def train_heads(
    card: ModelCard, material: TrainingData, features: Features, placement: Placement, out: Path
) -> TrainingResult:
    """Train the heads of a card; write them into `out / "weights"`, and as they began into `out / "untrained"`.

    The towers' vectors of the whole training split are held in memory.

    Raises:
        DataError: the splits cannot be trained on, the vectors are not as wide as the card says, a
            loss is useless, or the vectors collapse.
    """
    recipe = card.train
    assert isinstance(recipe, HeadsRecipe)
    train, val = material.splits()
    count_steps(recipe, len(train.pictures))  # refused before anything is embedded, as widths are
    first = Split(train.pictures[:1], train.captions[: len(train.captions_of[0])], train.captions_of[:1])
    widths = _widths(recipe, _vectors(first, material.shards, features), features)
    taught, held_out = (_vectors(split, material.shards, features) for split in (train, val))
    torch.manual_seed(recipe.seed)
    pairs = ProjectionHeads(recipe.heads, widths["image"], widths["text"], features.table).to(placement.device)
    pairs.write(out / "untrained")
    described: dict[str, Any] = {"recipe": recipe.model_dump(mode="json"), "towers": features.identity}
    key = fingerprint_training(described, train, val, placement, __name__)
    temperature = Temperature(recipe).to(placement.device)
    module = torch.nn.ModuleDict({"heads": pairs, "temperature": temperature})
    views = [_view(pairs, direction, placement) for direction in pairs.directions]
    with Scratch("train", key) as scratch:
        inputs = [
            Inputs.of(split, ArrayRows(pictures), ArrayRows(texts))
            for split, (pictures, texts) in ((train, taught), (val, held_out))
        ]
        rows = train_dual_encoder(
            DualEncoder(module, views, temperature), recipe, inputs[0], inputs[1], placement, scratch
        )
        pairs.write(out / "weights")
        return TrainingResult(rows, scratch.total("seconds"), len(train.pictures))


def _vectors(split: Split, shards: Path, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Embed a split's pictures and captions for the heads."""
    texts = pl.DataFrame({"id": [str(n) for n in range(len(split.captions))], "text": split.captions})
    return features.embed_pictures(shards, split.pictures), features.embed_texts(texts)


def _widths(recipe: HeadsRecipe, vectors: tuple[np.ndarray, np.ndarray], features: Features) -> dict[str, int]:
    """Widths of the vectors of each side.

    Raises:
        DataError: not as wide as the card says.
    """
    pictures, texts = vectors
    of_text = texts if features.table is None else features.table
    widths = {"image": int(pictures.shape[1]), "text": int(of_text.shape[1])}
    for side, wanted in (("image", recipe.heads.image_width), ("text", recipe.heads.text_width)):
        if wanted not in (None, widths[side]):
            raise DataError(
                f"train.heads.{side}_width is {wanted}, but the {side} tower's vectors have {widths[side]} dimensions: "
                "name the tower that the heads were meant for, or change the width"
            )
    return widths


def _view(pairs: ProjectionHeads, direction: str, placement: Placement) -> View:
    def through(side: str) -> Callable[[torch.Tensor], torch.Tensor]:
        head = pairs.head(direction, side)
        return lambda rows: head(rows.to(placement.device))

    return View(direction, ANCHORS.get(direction, "both"), through("image"), through("text"))
