"""Lexical (BM25) retrievers, and hybrids of words and pixels.

| retriever | of captions that search pictures | of pictures among themselves |
|---|---|---|
| `bm25_captions` | the picture's other human captions | its human captions, joined |
| `bm25_generated` | its generated caption | its generated caption |
| `hybrid_captions_rrf`, `hybrid_captions_weighted` | pixels and `bm25_captions` | |
| `hybrid_generated_rrf`, `hybrid_generated_weighted` | pixels and `bm25_generated` | |
| `bm25_captions_and_generated`, and its hybrids | all of these: what the search index holds | |

Captions that search captions do so as `bm25_caption`: each is a document.

A caption never finds its picture by itself: the document of its own picture is scored without it.
BM25 needs no model. The hybrids need a joint one; the weight of the weighted ones is chosen on
pictures of the validation split, never on the pool.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from typing import TypeVar

import numpy as np
import polars as pl
from jaxtyping import Float32, Int
from scipy import sparse

from twinlens.config.params import HybridParams, Params
from twinlens.core.costs import Cost
from twinlens.core.errors import DataError, ParamsError
from twinlens.core.vectors import Vectors
from twinlens.retrieval import hybrid
from twinlens.retrieval.base import Corpus, Dense, Retriever, Scorer, Validation, costs_of
from twinlens.retrieval.bm25 import Bm25
from twinlens.retrieval.dense import take_rows
from twinlens.retrieval.tokenize import tokenize
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import (
    CAPTIONS,
    GENERATED,
    IMAGES,
    JOINED,
    VALIDATION_CAPTIONS,
    VALIDATION_GENERATED,
    VALIDATION_IMAGES,
    Input,
)

log = logging.getLogger("twinlens")

Made = TypeVar("Made")

BM25, HYBRID = "bm25_", "hybrid_"
WORDS = "words"  # the group of those that captions search by, and of their hybrids
KINDS = {"captions": (CAPTIONS,), "generated": (GENERATED,), "captions_and_generated": (CAPTIONS, GENERATED)}


@lru_cache(maxsize=2**16)
def _split(text: str) -> tuple[str, ...]:
    """Tokenize a text once for all that is searched by it."""
    return tuple(tokenize(text))


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

    def restrict(self, first: int, last: int) -> WordScores:
        """See `base.Divisible.restrict`."""
        own = self.own_rows
        if own is not None:
            own = np.where((own >= first) & (own < last), own - first, -1)
        return WordScores(self.index.restrict(first, last), self.queries, own)

    @classmethod
    def between(cls, texts: pl.DataFrame, ids: list[str]) -> WordScores:
        """Build scores of texts among themselves: query and document of a picture are the same text.

        Args:
            texts: `id`, `text`.
            ids: of the pictures, each of which has a text.
        """
        text_of = dict(texts.select("id", "text").iter_rows())
        mine = [_split(text_of[own]) for own in ids]
        index = Bm25.of(mine)
        return cls(index, index.queries(mine))


def index_documents(kind: str, texts: Mapping[str, pl.DataFrame], image_ids: list[str]) -> Bm25:
    """Index one document per picture: its human captions, its generated one, or all; empty where it has none."""
    documents: dict[str, list[str]] = {image_id: [] for image_id in image_ids}
    for source in KINDS[kind]:
        for image_id, text in texts[source].select("image_id", "text").iter_rows():
            if image_id in documents:
                documents[image_id] += _split(text)
    return Bm25.of(list(documents.values()))


def score_captions(kind: str, index: Bm25, captions: pl.DataFrame, image_ids: list[str]) -> WordScores:
    """Score captions against the documents of `index_documents`; a human caption is left out of its own picture's."""
    queries = index.queries([_split(text) for text in captions["text"]])
    return WordScores(index, queries, find_described_rows(captions, image_ids) if CAPTIONS in KINDS[kind] else None)


def find_described_rows(captions: pl.DataFrame, image_ids: list[str]) -> Int[np.ndarray, " captions"]:
    """Look up the row of the picture that each caption describes."""
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    return np.array([row_of[image_id] for image_id in captions["image_id"]])


def retrievers(task: Task, corpus: Corpus, params: Params) -> list[Retriever]:
    """List the retrievers that the texts allow, and those of the vectors beside them."""
    if task.about.category == "i2i" and task.about.item_picture == IMAGES:
        return _among_themselves(task, corpus)
    if task.about.category == "t2i" and task.about.query_text == CAPTIONS:
        return _by_captions(task, corpus, params.hybrid)
    if task.about.category == "t2t" and task.about.query_text == task.about.item_text == CAPTIONS:
        make = partial(_between_captions, corpus.texts[CAPTIONS], task)
        timed = partial(_timed, "caption", make, len(task.item_ids), corpus.cost)
        return [Retriever(f"{BM25}caption", timed, (CAPTIONS,), (f"rank_{BM25}caption",), zero_is_miss=True)]
    return []


def _between_captions(captions: pl.DataFrame, task: Task) -> WordScores:
    words = {own: _split(text) for own, text in captions.select("id", "text").iter_rows()}
    index = Bm25.of([words[own] for own in task.item_ids])
    return WordScores(index, index.queries([words[own] for own in task.query_ids]))


def _among_themselves(task: Task, corpus: Corpus) -> list[Retriever]:
    found = []
    for kind, source in (("captions", JOINED), ("generated", GENERATED)):
        if source in corpus.texts:
            make = partial(WordScores.between, corpus.texts[source], task.item_ids)
            timed = partial(_timed, kind, make, len(task.item_ids), corpus.cost)
            found.append(replace(_by_words(kind, timed), asks=(source,)))
    return found


def _by_captions(task: Task, corpus: Corpus, params: HybridParams) -> list[Retriever]:
    captions = corpus.texts[CAPTIONS]
    alone = captions["image_id"].n_unique() == len(captions)  # then nothing is left without the query
    asked = pl.DataFrame({"id": task.query_ids}).join(captions, on="id", how="left", maintain_order="left")
    pixels: Callable[[], Dense] | None = None
    if corpus.joint and IMAGES in corpus.vectors and CAPTIONS in corpus.vectors:
        sides = (corpus.vectors[CAPTIONS], task.query_ids), (corpus.vectors[IMAGES], task.item_ids)
        pixels = cache(lambda: Dense(*(take_rows(source, ids) for source, ids in sides)))
    found = []
    for kind, sources in KINDS.items():
        if any(source not in corpus.texts for source in sources) or (kind == "captions" and alone):
            continue

        def make(kind: str = kind) -> WordScores:
            index = _timed(
                kind,
                partial(index_documents, kind, corpus.texts, task.item_ids),
                len(task.item_ids),
                corpus.cost,
            )
            return score_captions(kind, index, asked, task.item_ids)

        made = cache(make)  # its hybrids use it too
        found.append(replace(_by_words(kind, made), group=WORDS))
        if pixels is not None:
            inputs = (IMAGES, *sources)
            costs = (*costs_of((IMAGES,)), *_costs_of_words(kind))
            by_ranks = partial(_by_ranks, pixels, made, params)
            by_weight = partial(_by_weight, pixels, made, corpus.validation, kind, params)
            found.append(Retriever(f"{HYBRID}{kind}_rrf", by_ranks, inputs, costs, group=WORDS))
            found.append(Retriever(f"{HYBRID}{kind}_weighted", by_weight, inputs, costs, group=WORDS))
    return found


def _by_words(kind: str, make: Callable[[], Scorer]) -> Retriever:
    return Retriever(BM25 + kind, make, KINDS[kind], _costs_of_words(kind), zero_is_miss=True)


def _costs_of_words(kind: str) -> tuple[str, ...]:
    return (*(("caption_caption",) if GENERATED in KINDS[kind] else ()), f"rank_{BM25}{kind}")


def choose_image_weight(validation: Validation, kind: str, default: float) -> float:
    """Choose the best weight of pixels beside one kind of words."""
    captions = validation.texts[CAPTIONS]
    index = index_documents(kind, validation.texts, validation.image_ids)
    scores = score_captions(kind, index, captions, validation.image_ids)
    own_rows = find_described_rows(captions, validation.image_ids)
    return hybrid.choose_weight(validation.pixels, scores, own_rows, default)


def read_validation(
    params: Params, vectors: Mapping[str, Vectors], inputs: Mapping[str, Input], pool_ids: list[str]
) -> Validation | None:
    """Read what `embed` and `caption` made of the drawn pictures; None where there is none, or it may not be used.

    Args:
        params: whose dataset's card may forbid that anything is chosen on it.
        vectors: by name.
        inputs: of the tasks.
        pool_ids: what must not be among the drawn pictures.

    Raises:
        DataError: a drawn picture is in the pool.
    """
    if VALIDATION_IMAGES not in vectors or VALIDATION_CAPTIONS not in vectors:
        log.info("no validation split outside the pool: hybrid.image_weight is used as it is")
        return None
    try:
        params.refuse_selection("the weight of pixels beside words would be chosen on it")
    except ParamsError as refusal:
        log.warning("%s. hybrid.image_weight is used as it is", refusal)
        return None
    images, captions = vectors[VALIDATION_IMAGES], vectors[VALIDATION_CAPTIONS]
    if both := set(images.ids) & set(pool_ids):
        raise DataError(
            f"{len(both)} pictures on which a weight would be chosen are in the pool, the first is '{min(both)}': "
            "`dvc repro -f tasks`"
        )
    texts = {CAPTIONS: inputs[VALIDATION_CAPTIONS].rows}
    if VALIDATION_GENERATED in inputs:
        texts[GENERATED] = inputs[VALIDATION_GENERATED].rows
    return Validation(Dense(np.asarray(captions.unit), np.asarray(images.unit)), texts, images.ids)


def _timed(kind: str, make: Callable[[], Made], items: int, cost: Cost) -> Made:
    started = time.perf_counter()
    made = make()
    cost.add(BM25 + kind, seconds=time.perf_counter() - started, items=items)
    return made


def _by_ranks(pixels: Callable[[], Dense], make: Callable[[], WordScores], params: HybridParams) -> hybrid.Hybrid:
    fuse = partial(hybrid.fuse_by_rank, constant=params.rrf_constant, depth=params.rrf_depth)
    return hybrid.Hybrid(pixels(), make(), fuse, depth=params.rrf_depth)


def _by_weight(
    pixels: Callable[[], Dense],
    make: Callable[[], WordScores],
    validation: Validation | None,
    kind: str,
    params: HybridParams,
) -> hybrid.Hybrid:
    chosen = {"image_weight": params.image_weight, "validation_queries": 0}
    if validation is not None and all(source in validation.texts for source in KINDS[kind]):
        weight = choose_image_weight(validation, kind, params.image_weight)
        chosen = {"image_weight": weight, "validation_queries": len(validation.texts[CAPTIONS])}
    fuse = partial(hybrid.fuse_by_weight, image_weight=chosen["image_weight"])
    return hybrid.Hybrid(pixels(), make(), fuse, chosen)
