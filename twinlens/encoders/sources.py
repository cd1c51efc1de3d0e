"""Every source of a pool, embedded by whatever a card names: towers, towers with heads, and both before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from twinlens.config.models import ModelCard, Tower
from twinlens.config.params import ComputeParams
from twinlens.config.training import HeadsRecipe
from twinlens.costs import Cost
from twinlens.encoders.features import HeadedJob, features_of
from twinlens.encoders.towers import TowerJob
from twinlens.heads import CAPTION_TO_IMAGE, IMAGE_TO_CAPTION, Pairs
from twinlens.placement import Placement
from twinlens.sources import (
    CAPTIONS,
    CLASSES,
    GENERATED,
    IMAGES,
    NEGATIVES,
    OTHER_WAY,
    UNTRAINED,
    VALIDATION_CAPTIONS,
    VALIDATION_IMAGES,
)
from twinlens.trained import heads_of, weights_before, weights_of


@dataclass(frozen=True)
class Sources:
    """What is embedded."""

    shards: Path
    pool: pl.DataFrame  # pictures of table GROUPS
    negatives: pl.DataFrame  # pictures that are never ranked; may have no rows
    prompts: pl.DataFrame  # of classes; may have no rows
    texts: dict[str, pl.DataFrame]  # of `twinlens.sources.text_sources`
    validation: pl.DataFrame  # pictures to choose weights on; may have no rows
    validation_captions: pl.DataFrame | None  # of those


Job = TowerJob | HeadedJob


@dataclass(frozen=True)
class Embedder:
    """A card with its weights, and where they are run."""

    card: ModelCard
    trained: Path  # folder of the `train` stage
    placement: Placement
    compute: ComputeParams
    cost: Cost

    def embed(self, sources: Sources, out: Path) -> None:
        """Write the vectors and ids of every source that the card's towers can read.

        A trained model embeds the pool's pictures and captions once more as it was before training,
        so that what training gave can be measured on the same queries.

        Raises:
            DataError: the weights are not those that `train` noted, or a vector is useless.
        """
        if isinstance(self.card.train, HeadsRecipe):
            self._embed_by_heads(sources, out)
            return
        for role, tower in self.card.towers().items():
            job = self._job(tower, weights_of(role, self.card, self.trained))
            if role in ("joint", "image"):
                _pictures(job, sources, out)
            if role == "joint":
                _of_a_shared_space(job, sources, out)
            if role in ("joint", "text"):
                _texts(job, sources, out)
            if self.card.train is not None:
                before = self._job(tower, weights_before(role, self.card, self.trained))
                _both_sides(before, sources, out, UNTRAINED, (CAPTIONS,))

    def _embed_by_heads(self, sources: Sources, out: Path) -> None:
        recipe = self.card.train
        assert isinstance(recipe, HeadsRecipe)
        by_length = recipe.by_length

        def through(pairs: Pairs, direction: str) -> HeadedJob:
            return HeadedJob(features, pairs, direction, self.placement, by_length=by_length)

        weights = {role: weights_of(role, self.card, self.trained) for role in self.card.towers()}
        features = features_of(self.card, weights, self.placement, self.compute, self.cost)
        pairs = Pairs.read(heads_of(self.trained), features.table)
        job = through(pairs, CAPTION_TO_IMAGE)
        _pictures(job, sources, out)
        _of_a_shared_space(job, sources, out)
        _texts(job, sources, out)
        if IMAGE_TO_CAPTION in pairs.directions:
            _both_sides(through(pairs, IMAGE_TO_CAPTION), sources, out, OTHER_WAY, (CAPTIONS, GENERATED))
        untrained = Pairs.read(heads_of(self.trained, before=True), features.table)
        _both_sides(through(untrained, CAPTION_TO_IMAGE), sources, out, UNTRAINED, (CAPTIONS,))

    def _job(self, tower: Tower, weights: Path) -> TowerJob:
        return TowerJob(tower, weights, self.placement, self.compute, self.cost)


def _pictures(job: Job, sources: Sources, out: Path) -> None:
    job.pictures(IMAGES, sources.shards, sources.pool, out)
    if len(sources.negatives):
        job.pictures(NEGATIVES, sources.shards, sources.negatives, out)


def _texts(job: Job, sources: Sources, out: Path) -> None:
    for name, table in sources.texts.items():
        job.texts(name, table, out)


def _of_a_shared_space(job: Job, sources: Sources, out: Path) -> None:
    """What is of use only where words and pictures can be compared."""
    if len(sources.prompts):
        job.texts(CLASSES, sources.prompts, out)
    if sources.validation_captions is not None:
        job.pictures(VALIDATION_IMAGES, sources.shards, sources.validation, out)
        job.texts(VALIDATION_CAPTIONS, sources.validation_captions, out)


def _both_sides(job: Job, sources: Sources, out: Path, suffix: str, names: Sequence[str]) -> None:
    """The pool's pictures and the texts of some `names` once more, as `<name><suffix>`."""
    if names[0] in sources.texts:
        job.pictures(f"{IMAGES}{suffix}", sources.shards, sources.pool, out)
    for name in names:
        if name in sources.texts:
            job.texts(f"{name}{suffix}", sources.texts[name], out)
