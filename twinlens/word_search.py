"""Search by words (BM25), and by words and pixels together, as retrievers of the tasks.

| retriever | of `caption_to_image` | of `object_sets` |
|---|---|---|
| `bm25_captions` | the picture's other human captions | its human captions, joined |
| `bm25_generated` | its generated caption | its generated caption |
| `hybrid_captions_rrf`, `hybrid_captions_weighted` | pixels and `bm25_captions` | |
| `hybrid_generated_rrf`, `hybrid_generated_weighted` | pixels and `bm25_generated` | |

A caption never finds its picture by itself: the document of its own picture is scored without it.
BM25 needs no model. The hybrids need a joint one; the weight of the weighted ones is chosen on
pictures of the validation split, never on the pool.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import polars as pl
from jaxtyping import Float32, Int
from scipy import sparse

from twinlens import hybrid
from twinlens.bm25 import Bm25
from twinlens.config.params import HybridParams, Params
from twinlens.costs import Cost
from twinlens.errors import DataError, ParamsError
from twinlens.sources import CAPTIONS, GENERATED, JOINED, VALIDATION_CAPTIONS, VALIDATION_IMAGES, text_sources
from twinlens.tables import BM25
from twinlens.tasks import Pair, Task, Vectors, caption_to_image
from twinlens.words import words

log = logging.getLogger("twinlens")

HYBRID = "hybrid_"
KINDS = {"captions": CAPTIONS, "generated": GENERATED}


@dataclass(frozen=True)
class WordScores:
    """BM25 scores of some queries against all documents."""

    index: Bm25
    queries: sparse.csr_array
    own_rows: Int[np.ndarray, " queries"] | None = None  # the document that holds the query

    def __len__(self) -> int:
        return int(self.queries.shape[0])

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "queries items"]:
        """Scores of the queries from `start` to before `stop` with all documents."""
        own = None if self.own_rows is None else self.own_rows[start:stop]
        return self.index.scores(self.queries[start:stop], own)

    @classmethod
    def between(cls, texts: pl.DataFrame, ids: list[str]) -> WordScores:
        """Of texts among themselves: query and document of a picture are the same text.

        Args:
            texts: `id`, `text`.
            ids: of the pictures, each of which has a text.
        """
        text_of = dict(texts.select("id", "text").iter_rows())
        mine = [words(text_of[own]) for own in ids]
        index = Bm25.of(mine)
        return cls(index, index.queries(mine))


def index_of(kind: str, texts: Mapping[str, pl.DataFrame], image_ids: list[str]) -> Bm25:
    """One document a picture: its human captions together, or its generated one; empty where it has none."""
    documents: dict[str, list[str]] = {image_id: [] for image_id in image_ids}
    for image_id, text in texts[KINDS[kind]].select("image_id", "text").iter_rows():
        documents[image_id] += words(text)
    return Bm25.of(list(documents.values()))


def of_captions(kind: str, index: Bm25, captions: pl.DataFrame, image_ids: list[str]) -> WordScores:
    """Scores of captions against the documents of `index_of`; a human caption left out of its own picture's."""
    queries = index.queries([words(text) for text in captions["text"]])
    return WordScores(index, queries, rows_of(captions, image_ids) if kind == "captions" else None)


def rows_of(captions: pl.DataFrame, image_ids: list[str]) -> Int[np.ndarray, " captions"]:
    """The row of the picture that each caption describes."""
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    return np.array([row_of[image_id] for image_id in captions["image_id"]])


@dataclass(frozen=True)
class Validation:
    """Captions and pictures outside the pool on which weights are chosen."""

    pair: Pair  # vectors of captions and of pictures
    texts: Mapping[str, pl.DataFrame]  # by source: CAPTIONS, and GENERATED where there is a captioner
    image_ids: list[str]

    def image_weight(self, kind: str, default: float) -> float:
        """The best weight of pixels beside one kind of words."""
        captions = self.texts[CAPTIONS]
        scores = of_captions(kind, index_of(kind, self.texts, self.image_ids), captions, self.image_ids)
        own_rows = rows_of(captions, self.image_ids)
        return hybrid.choose_weight(hybrid.Cosines.of(self.pair), scores, own_rows, default)


def extend(
    tasks: list[Task],
    texts: Mapping[str, pl.DataFrame],
    pool_ids: list[str],
    validation: Validation | None,
    params: HybridParams,
    cost: Cost,
) -> list[Task]:
    """The tasks with the retrievers above; `caption_to_image` is made where the vectors allowed none of its own.

    Args:
        tasks: of `tasks.build`.
        texts: of `sources.text_sources`; words need no vectors.
        pool_ids: the pool's pictures.
        validation: what the weights are chosen on; without it they are `params.image_weight`.
        params: of the fusion.
        cost: where the seconds of making an index are noted.
    """
    by_name = {task.name: task for task in tasks}
    if (sets := by_name.get("object_sets")) is not None:
        for kind, source in (("captions", JOINED), ("generated", GENERATED)):
            if source in texts:
                sets.retrievers[BM25 + kind] = partial(WordScores.between, texts[source], sets.item_ids)
    if CAPTIONS not in texts:
        return tasks
    captions = texts[CAPTIONS]
    task = by_name.get("caption_to_image") or caption_to_image(captions["id"], captions["image_id"], pool_ids)
    pixels = partial(task.pair, "image") if "image" in task.retrievers else None
    alone = captions["image_id"].n_unique() == len(captions)  # then nothing is left without the query
    for kind, source in KINDS.items():
        if source in texts and not (kind == "captions" and alone):
            make = cache(partial(_timed, kind, texts, pool_ids, cost))  # its hybrids use it too
            task.retrievers[BM25 + kind] = make
            if pixels is not None:
                task.retrievers[f"{HYBRID}{kind}_rrf"] = partial(_by_ranks, pixels, make, params)
                task.retrievers[f"{HYBRID}{kind}_weighted"] = partial(
                    _by_weight, pixels, make, validation, kind, params
                )
    if "caption_to_image" in by_name or not task.retrievers:
        return tasks
    return [*(t for t in tasks if t.name == "object_sets"), task, *(t for t in tasks if t.name != "object_sets")]


def validation_of(
    params: Params,
    sources: Mapping[str, Vectors],
    captions: pl.DataFrame,
    generated: pl.DataFrame,
    pool: pl.DataFrame,
) -> Validation | None:
    """What `embed` and `caption` made of the drawn pictures; None where there is none, or where it may not be used.

    Args:
        params: whose dataset's card may forbid that anything is chosen on it.
        sources: vectors by name.
        captions: table CAPTIONS.
        generated: table GENERATED, of the drawn pictures.
        pool: `image_id`, `sha256`: what must not be among the drawn pictures.

    Raises:
        DataError: a drawn picture is in the pool.
    """
    if VALIDATION_IMAGES not in sources or VALIDATION_CAPTIONS not in sources:
        log.info("no validation split outside the pool: hybrid.image_weight is used as it is")
        return None
    try:
        params.refuse_selection("the weight of pixels beside words would be chosen on it")
    except ParamsError as refusal:
        log.warning("%s. hybrid.image_weight is used as it is", refusal)
        return None
    images, of_captions = sources[VALIDATION_IMAGES], sources[VALIDATION_CAPTIONS]
    if both := set(images.ids) & set(pool["image_id"]):
        raise DataError(
            f"{len(both)} pictures on which a weight would be chosen are in the pool, the first is '{min(both)}': "
            "`dvc repro -f embed`"
        )
    texts = text_sources(pl.DataFrame({"image_id": images.ids}), captions, generated)
    if texts[CAPTIONS]["id"].to_list() != of_captions.ids:
        raise DataError("the validation captions are not those that were embedded: `dvc repro -f embed`")
    return Validation((np.asarray(of_captions.rows), np.asarray(images.rows)), texts, images.ids)


def _timed(kind: str, texts: Mapping[str, pl.DataFrame], image_ids: list[str], cost: Cost) -> WordScores:
    started = time.perf_counter()
    index = index_of(kind, texts, image_ids)
    cost.add(BM25 + kind, seconds=time.perf_counter() - started, items=len(image_ids))
    return of_captions(kind, index, texts[CAPTIONS], image_ids)


def _by_ranks(pixels: Callable[[], Pair], make: Callable[[], WordScores], params: HybridParams) -> hybrid.Hybrid:
    fuse = partial(hybrid.reciprocal_rank_fusion, constant=params.rrf_constant, depth=params.rrf_depth)
    return hybrid.Hybrid(hybrid.Cosines.of(pixels()), make(), fuse)


def _by_weight(
    pixels: Callable[[], Pair],
    make: Callable[[], WordScores],
    validation: Validation | None,
    kind: str,
    params: HybridParams,
) -> hybrid.Hybrid:
    chosen = {"image_weight": params.image_weight, "validation_queries": 0}
    if validation is not None and KINDS[kind] in validation.texts:
        weight = validation.image_weight(kind, params.image_weight)
        chosen = {"image_weight": weight, "validation_queries": len(validation.texts[CAPTIONS])}
    fuse = partial(hybrid.weighted_sum, image_weight=chosen["image_weight"])
    return hybrid.Hybrid(hybrid.Cosines.of(pixels()), make(), fuse, chosen)
