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
from twinlens.models.heads import CAPTION_TO_IMAGE, IMAGE_TO_CAPTION, Pairs
from twinlens.training.contrastive import Inputs, Pair, Temperature, View, train_pair
from twinlens.training.data import Material, Split, Trained, training_key
from twinlens.training.loop import steps_of
from twinlens.training.losses import Anchors

log = logging.getLogger("twinlens")

ANCHORS: dict[str, Anchors] = {IMAGE_TO_CAPTION: "pictures", CAPTION_TO_IMAGE: "texts"}


class Vectors:
    """Rows of an array in memory, a batch at a time."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.rows[rows])


def train_heads(card: ModelCard, material: Material, features: Features, placement: Placement, out: Path) -> Trained:
    """Train the heads of a card; write them into `out / "weights"`, and as they began into `out / "untrained"`.

    The towers' vectors of the whole training split are held in memory.

    Raises:
        DataError: the splits cannot be trained on, the vectors are not as wide as the card says, a
            loss is useless, or the vectors collapse.
    """
    recipe = card.train
    assert isinstance(recipe, HeadsRecipe)
    train, val = material.splits()
    steps_of(recipe, len(train.pictures))  # refused before anything is embedded, as widths are
    first = Split(train.pictures[:1], train.captions[: len(train.captions_of[0])], train.captions_of[:1])
    widths = _widths(recipe, _vectors(first, material.shards, features), features)
    taught, held_out = (_vectors(split, material.shards, features) for split in (train, val))
    torch.manual_seed(recipe.seed)
    pairs = Pairs(recipe.heads, widths["image"], widths["text"], features.table).to(placement.device)
    pairs.write(out / "untrained")
    described: dict[str, Any] = {"recipe": recipe.model_dump(mode="json"), "towers": features.identity}
    key = training_key(described, train, val, placement, __name__)
    temperature = Temperature(recipe).to(placement.device)
    module = torch.nn.ModuleDict({"heads": pairs, "temperature": temperature})
    views = [_view(pairs, direction, placement) for direction in pairs.directions]
    with Scratch("train", key) as scratch:
        inputs = [
            Inputs.of(split, Vectors(pictures), Vectors(texts))
            for split, (pictures, texts) in ((train, taught), (val, held_out))
        ]
        rows = train_pair(Pair(module, views, temperature), recipe, inputs[0], inputs[1], placement, scratch)
        pairs.write(out / "weights")
        return Trained(rows, scratch.total("seconds"), len(train.pictures))


def _vectors(split: Split, shards: Path, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """What the heads read of a split's pictures and of its captions."""
    texts = pl.DataFrame({"id": [str(n) for n in range(len(split.captions))], "text": split.captions})
    return features.of_pictures(shards, split.pictures), features.of_texts(texts)


def _widths(recipe: HeadsRecipe, vectors: tuple[np.ndarray, np.ndarray], features: Features) -> dict[str, int]:
    """How wide the vectors of each side are.

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


def _view(pairs: Pairs, direction: str, placement: Placement) -> View:
    def through(side: str) -> Callable[[torch.Tensor], torch.Tensor]:
        head = pairs.head(direction, side)
        return lambda rows: head(rows.to(placement.device))

    return View(direction, ANCHORS.get(direction, "both"), through("image"), through("text"))
