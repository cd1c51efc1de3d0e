"""Word-overlap reranker: shared words of a caption and the generated captions of the best pictures.

A model that compares pixels with a caption as a whole may miss a word that matters ("red", "left"); the captioner
has said of each picture what it saw. Nothing but words is compared, so it costs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

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

    def scores(
        self, first: int, rows: Int[np.ndarray, "queries depth"], scores: Float32[np.ndarray, "queries depth"]
    ) -> Float32[np.ndarray, "queries depth"]:
        """New scores; see `twinlens.retrieval.base.Reranker.scores`."""
        shared = [[f1(self.queries[first + n], self.items[item]) for item in listed] for n, listed in enumerate(rows)]
        return fuse_weighted(scores, np.array(shared, dtype=np.float32), EVEN)


def f1(query: frozenset[str], item: frozenset[str]) -> float:
    """Harmonic mean of the shares of the query's and of the item's words that both have."""
    both = len(query & item)
    return 2.0 * both / (len(query) + len(item)) if both else 0.0
