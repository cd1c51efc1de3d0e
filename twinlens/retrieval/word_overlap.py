"""Word-overlap reranker: shared words of a caption and the generated captions of the best pictures.

A model that compares pixels with a caption as a whole may miss a word that matters ("red", "left"); the captioner
has said of each picture what it saw. Nothing but words is compared, so it costs no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, Int
from scipy import sparse

from twinlens.config.params import Params
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.fusion import fuse_weighted
from twinlens.retrieval.tokenize import tokenize
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import CAPTIONS, GENERATED

EVEN = 0.5  # of the run's own scores beside the overlap: nothing is tuned


def rerankers(task: Task, corpus: Corpus, params: Params) -> list[WordOverlap]:
    """List the reranker of pixels that captions have found, where there is a captioner."""
    if task.about.category != "t2i" or task.about.query_text != CAPTIONS or GENERATED not in corpus.texts:
        return []
    asked, said = (dict(corpus.texts[name].select("id", "text").iter_rows()) for name in (CAPTIONS, GENERATED))
    if any(item not in said for item in task.item_ids):
        return []
    return [
        WordOverlap(
            [frozenset(tokenize(asked[name])) for name in task.query_ids],
            [frozenset(tokenize(said[name])) for name in task.item_ids],
        )
    ]


@dataclass(frozen=True)
class WordOverlap:
    """Word-overlap reranker: half the run's own score, half the F1 of query and generated caption, both in 0..1."""

    queries: Sequence[frozenset[str]]
    items: Sequence[frozenset[str]]
    name: str = "word_overlap"
    retriever: str = "image"
    inputs: tuple[str, ...] = (GENERATED,)
    costs: tuple[str, ...] = ("caption_caption",)
    loads: bool = False

    def scores(
        self, first: int, rows: Int[np.ndarray, "queries depth"], scores: Float32[np.ndarray, "queries depth"]
    ) -> Float32[np.ndarray, "queries depth"]:
        """New scores; see `twinlens.retrieval.base.Reranker.scores`."""
        asked = np.repeat(np.arange(first, first + len(rows)), rows.shape[1])
        queries, items = (words[mine] for words, mine in zip(self._words, (asked, rows.ravel()), strict=True))
        shared = np.asarray((queries * items).sum(axis=1))
        overlap = compute_f1(shared, np.diff(queries.indptr), np.diff(items.indptr)).reshape(rows.shape)
        return fuse_weighted(scores, overlap.astype(np.float32), EVEN)

    @cached_property
    def _words(self) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Which words each query and each item has: 1 where it has one."""
        column_of: dict[str, int] = {}
        for words in (*self.queries, *self.items):
            for word in words:
                column_of.setdefault(word, len(column_of))
        return _mark(self.queries, column_of), _mark(self.items, column_of)


def compute_f1(
    both: Float64[np.ndarray, " pairs"], queries: Int[np.ndarray, " pairs"], items: Int[np.ndarray, " pairs"]
) -> Float64[np.ndarray, " pairs"]:
    """Compute the harmonic mean of the shares of the query's and of the item's words that both have.

    Args:
        both: words that query and item share.
        queries: words of the query.
        items: words of the item.
    """
    return 2.0 * both / np.maximum(queries + items, 1)


def _mark(texts: Sequence[frozenset[str]], column_of: Mapping[str, int]) -> sparse.csr_array:
    columns = np.array([column_of[word] for words in texts for word in words], dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum([len(words) for words in texts])])
    marked = sparse.csr_array((np.ones(len(columns)), columns, ends), shape=(len(texts), len(column_of)))
    marked.sort_indices()
    return marked
