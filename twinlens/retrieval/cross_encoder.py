"""Cross-encoder reranker: a model reads a caption and each of the best pictures of a run together.

Far dearer than vectors (a pass of the model for each pair), so that only the best `rank.rerank_depth` of a run are
scored. Pairs go by picture, so that each is decoded once; scores are kept in parts, and a killed run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int

from twinlens.config.models import CrossEncoderCard, ModelCard
from twinlens.config.params import Params
from twinlens.core import paths
from twinlens.core.code import code_digest
from twinlens.core.device import choose_device
from twinlens.core.scratch import Scratch, fingerprint
from twinlens.core.shards import iter_pixels
from twinlens.retrieval.base import Corpus
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import IMAGES

PAIRS_PER_PART = 1024
BATCH, BATCH_ON_GPU = 8, 32
NOT_IDENTITY = {
    "checkpoint",
    "sha256",
    "revision",
    "retrievers",
    "trained_on",
}  # the weights' own digest says it better

Score = Callable[[Sequence[tuple[str, Any]]], Float32[np.ndarray, " pairs"]]


def rerankers(task: Task, corpus: Corpus, params: Params) -> list[CrossEncoderReranker]:
    """List the rerankers of the model card's cross-encoder: of pictures that texts have found."""
    card, about = params.model_card.reranker, task.about
    if card is None or corpus.shards is None or about.category != "t2i" or about.item_picture != IMAGES:
        return []
    if about.query_text is None or about.query_text not in corpus.texts or corpus.pictures is None:
        return []
    asked: dict[str, str] = dict(corpus.texts[about.query_text].select("id", "text").iter_rows())
    order = pl.DataFrame({"image_id": task.item_ids})
    pictures = order.join(corpus.pictures, on="image_id", how="left", maintain_order="left")
    scores = _Scores(card, [asked[name] for name in task.query_ids], pictures, corpus.shards, params, corpus.keep)
    return [CrossEncoderReranker(scores, name) for name in card.retrievers]


def find_shards(card: ModelCard, dataset: str) -> Path | None:
    """Find the folder of pictures, where a model's card has a reranker that reads them."""
    return None if card.reranker is None else paths.resized(dataset)


@dataclass(frozen=True)
class CrossEncoderReranker:
    """Cross-encoder over the best pictures of one retriever."""

    pairs: _Scores
    retriever: str
    name: str = "cross_encoder"
    inputs: tuple[str, ...] = (IMAGES,)
    costs: tuple[str, ...] = ()  # nothing is indexed for it: it costs at each query
    loads: bool = True

    def scores(
        self, first: int, rows: Int[np.ndarray, "queries depth"], scores: Float32[np.ndarray, "queries depth"]
    ) -> Float32[np.ndarray, "queries depth"]:
        """New scores; see `twinlens.retrieval.base.Reranker.scores`."""
        return self.pairs.score(np.repeat(np.arange(first, first + len(rows)), rows.shape[1]), rows.ravel()).reshape(
            rows.shape
        )


class _Scores:
    """Scores of pairs of a query and an item of one task."""

    def __init__(
        self,
        card: CrossEncoderCard,
        queries: list[str],
        pictures: pl.DataFrame,
        shards: Path,
        params: Params,
        keep: bool,
    ) -> None:
        self.card, self.queries, self.pictures, self.shards, self.params = card, queries, pictures, shards, params
        self.keep = keep

    def score(
        self, queries: Int[np.ndarray, " pairs"], items: Int[np.ndarray, " pairs"]
    ) -> Float32[np.ndarray, " pairs"]:
        """Score pairs, given by rows of the task's queries and items."""
        by_picture = np.lexsort((queries, items))
        found = np.empty(len(items), dtype=np.float32)
        for start in range(0, len(items), PAIRS_PER_PART):
            some = by_picture[start : start + PAIRS_PER_PART]
            found[some] = self._score_part(queries[some], items[some])
        return found

    def _score_part(
        self, queries: Int[np.ndarray, " pairs"], items: Int[np.ndarray, " pairs"]
    ) -> Float32[np.ndarray, " pairs"]:
        if not self.keep:
            return self._compute(queries, items)
        shown = self.pictures[items]["sha256"].to_list()
        key = fingerprint(pairs=list(zip((self.queries[row] for row in queries), shown, strict=True)), **self.identity)
        with Scratch("rerank", key) as scratch:
            if not scratch.has("scores.npy"):
                scores = self._compute(queries, items)
                scratch.put("scores.npy", lambda path: _save(scores, path))
            kept: np.ndarray = np.load(scratch.path("scores.npy"), allow_pickle=False)
        return kept

    def _compute(
        self, queries: Int[np.ndarray, " pairs"], items: Int[np.ndarray, " pairs"]
    ) -> Float32[np.ndarray, " pairs"]:
        return np.concatenate([self._model(batch) for batch in self._read(queries, items)])

    def _read(
        self, queries: Int[np.ndarray, " pairs"], items: Int[np.ndarray, " pairs"]
    ) -> Iterator[list[tuple[str, Any]]]:
        """Batches of pairs, each picture of which is decoded once."""
        from twinlens.models.native import decode_shown  # with torch, which is not waited for where all is kept

        distinct, counts = np.unique(items, return_counts=True)
        pending = iter(queries.tolist())
        batch: list[tuple[str, Any]] = []
        for (_, jpeg), count in zip(iter_pixels(self.shards, self.pictures[distinct]), counts, strict=True):
            (shown,) = decode_shown([jpeg], None)
            for _ in range(count):
                batch.append((self.queries[next(pending)], shown.picture))
                if len(batch) == self._batch:
                    yield batch
                    batch = []
        if batch:
            yield batch

    @cached_property
    def _batch(self) -> int:
        on_gpu = choose_device(self.params.compute.device).device.type == "cuda"
        return self.params.compute.image_batch or (BATCH_ON_GPU if on_gpu else BATCH)

    @cached_property
    def _path(self) -> Path:
        from twinlens.models import cross_encoder

        return cross_encoder.locate(self.card)

    @cached_property
    def identity(self) -> dict[str, object]:
        """Identity of a score: everything that decides it, besides its text and its picture."""
        from twinlens.models.weights import identify_weights

        return {
            "card": self.card.model_dump(mode="json", exclude=NOT_IDENTITY),
            "weights": identify_weights(self._path),
            "placement": choose_device(self.params.compute.device).name,
            "libraries": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
            "code": code_digest(__name__, "twinlens.models.cross_encoder"),
        }

    @cached_property
    def _model(self) -> Score:
        from twinlens.models.cross_encoder import PairScorer

        return PairScorer(self.card, self._path, choose_device(self.params.compute.device)).score


def _save(scores: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, scores)
