"""Vectors of frozen towers as the towers give them, and through heads that were trained on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32

from twinlens.config.models import ModelCard
from twinlens.config.params import ComputeParams
from twinlens.config.training import HeadsRecipe
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.core.probes import Probe, choose_rows
from twinlens.core.vectors import compute_lengths, normalise_rows, write_rows
from twinlens.engines.base import Engine
from twinlens.inference.jobs import make_job
from twinlens.inference.loop import iter_finished, join_parts, regroup
from twinlens.inference.tower import PROBE, TowerJob, count_cut_texts, write_ids
from twinlens.models.heads import AT_ONCE, ProjectionHeads

ROWS_AT_ONCE = 64 * AT_ONCE  # in memory, where vectors pass through heads: whole batches, so that none has other rows


class Features:
    """Inputs of heads: vectors of an image tower and of a text tower, or the words of texts one by one."""

    def __init__(self, image: TowerJob, text: TowerJob, words: bool) -> None:
        """Take two towers; `words` asks for the numbers of words in the text tower's table, for an LSTM."""
        self.image, self.text, self.words = image, text, words

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of these vectors: everything that decides them."""
        return {"image": self.image.identity, "text": self.text.identity, "words": self.words}

    @cached_property
    def table(self) -> Float32[torch.Tensor, "words width"] | None:
        """The text tower's word vectors, where words are read one by one."""
        return self._encoder.table if self.words else None

    def lookup(self, texts: list[str]) -> np.ndarray:
        """The numbers of the words of texts, (texts, words)."""
        return np.asarray(self._encoder.lookup(texts))

    @property
    def _encoder(self) -> Any:
        return self.text.loaded.text

    def embed_pictures(self, shards: Path, rows: pl.DataFrame) -> Float32[np.ndarray, "pictures width"]:
        """Embed pictures (`image_id`, `shard`, `row`, `sha256`) in memory."""
        with self.image.parts_of_pictures(shards, rows) as scratch:
            return join_parts(scratch)

    def embed_texts(self, texts: pl.DataFrame) -> np.ndarray:
        """Embed texts (`id`, `text`): vectors (texts, width), or the numbers of their words (texts, words)."""
        if self.words:
            return self.lookup(texts["text"].to_list())
        with self.text.parts_of_texts(texts) as scratch:
            return join_parts(scratch)


def load_features(
    card: ModelCard,
    weights: Mapping[str, Path],
    placement: Placement,
    compute: ComputeParams,
    cost: Cost,
    engine: Engine | None = None,
) -> Features:
    """Load the features that a card's heads are trained on.

    Args:
        card: an image tower, a text tower and a recipe with heads.
        weights: of the towers, by role.
        placement: as of `TowerJob`.
        compute: as of `TowerJob`.
        cost: as of `TowerJob`.
        engine: as of `TowerJob`.
    """
    assert card.image is not None and card.text is not None and isinstance(card.train, HeadsRecipe)
    image = make_job(card.image, weights["image"], placement, compute, cost, engine)
    text = make_job(card.text, weights["text"], placement, compute, cost, engine)
    return Features(image, text, words=card.train.heads.text == "lstm")


class HeadedJob:
    """Embedding job of two towers with heads that serve a direction, as `TowerJob` is of a tower."""

    def __init__(
        self,
        features: Features,
        pairs: ProjectionHeads,
        direction: str,
        placement: Placement,
        *,
        by_length: bool = False,
    ) -> None:
        """Take heads, and the direction that is to be served; `by_length` keeps the vectors' lengths beside them."""
        self.features, self.pairs, self.placement, self.by_length = features, pairs, placement, by_length
        self.direction = pairs.serving(direction)

    def pictures(self, name: str, shards: Path, pool: pl.DataFrame, out: Path) -> None:
        """Embed pictures into `out` as `<name>.npy` and `<name>.parquet`."""
        ids = pool.select(pl.col("image_id").alias("id"), "image_id")
        with self.features.image.parts_of_pictures(shards, pool) as scratch:
            dim = self._write(name, iter_finished(scratch), Probe.read(scratch.path(PROBE)), ids, out, "image")
            self.features.image.note_cost(name, scratch, len(pool), dim)

    def texts(self, name: str, texts: pl.DataFrame, out: Path) -> None:
        """Embed texts (`id`, `image_id`, `text`) into `out` as `<name>.npy` and `<name>.parquet`."""
        if self.features.words:
            dim = self._write(name, [self.features.embed_texts(texts)], self._probe_of_words(texts), texts, out, "text")
            self.features.text.cost.add(name, seconds=0.0, items=len(texts), dim=dim, vector_bytes=4 * dim)
            return
        with self.features.text.parts_of_texts(texts) as scratch:
            dim = self._write(name, iter_finished(scratch), Probe.read(scratch.path(PROBE)), texts, out, "text")
            self.features.text.note_cost(name, scratch, len(texts), dim, **count_cut_texts(name, scratch, len(texts)))

    def _probe_of_words(self, texts: pl.DataFrame) -> Probe:
        """Texts looked up one by one, and beside the longest."""
        rows = texts[choose_rows(len(texts))]
        longest = str(max(texts["text"], key=len))
        one_by_one = [self.features.lookup([text])[0] for text in rows["text"]]
        beside = [self.features.lookup([text, longest])[0] for text in rows["text"]]
        contents = texts["text"].n_unique()
        return Probe(rows["id"].to_list(), np.array(one_by_one), np.array(beside), float("nan"), contents, True)

    def _write(
        self, name: str, blocks: Iterable[np.ndarray], probed: Probe, ids: pl.DataFrame, out: Path, side: str
    ) -> int:
        def through(some: np.ndarray) -> np.ndarray:
            return self.pairs.apply_to(some, self.direction, side, self.placement.device)

        long: list[np.ndarray] = []

        def pass_through() -> Iterator[np.ndarray]:
            at = 0
            for block in regroup(blocks, ROWS_AT_ONCE):
                vectors = through(block)
                long.append(compute_lengths(vectors, ids["id"][at : at + len(block)].to_list()).astype(np.float32))
                yield normalise_rows(vectors)
                at += len(block)

        dim = write_rows(out / f"{name}.npy", pass_through(), len(ids))
        if self.by_length:  # their source compared them by distance
            np.save(out / f"{name}.length.npy", np.concatenate(long))
        write_ids(name, ids, probed.transform(lambda some: normalise_rows(through(some))), out)
        return dim
