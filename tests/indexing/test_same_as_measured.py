"""What a search finds is what `rank` measured: the same lists, by vectors, by words, and by both."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.indexing.conftest import CAPTIONER, DATASET, MODEL, POOL
from twinlens import Searcher
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.vectors import read_vectors
from twinlens.retrieval import hybrid, scores
from twinlens.retrieval.base import Dense, Scorer
from twinlens.retrieval.lexical import WordScores, index_documents
from twinlens.retrieval.tokenize import tokenize
from twinlens.tasks.inputs import read_inputs

K = 10


class Measured:
    """The scorers of `rank` over the pool, asked by captions of pictures that are not in it."""

    def __init__(self, text_weight: float) -> None:
        inputs = read_inputs(paths.tasks(DATASET, CAPTIONER) / "inputs")
        texts = {name: one.rows for name, one in inputs.items() if "text" in one.reads}
        self.ids = inputs["images"].rows["image_id"].to_list()
        self.queries: list[str] = inputs["validation_captions"].rows["text"].to_list()
        embedded, fusion = paths.embedded(DATASET, MODEL), read_params().hybrid
        pixels = Dense(read_vectors(embedded, "validation_captions").rows, read_vectors(embedded, "images").rows)
        index = index_documents("captions_and_generated", texts, self.ids)
        lexical = WordScores(index, index.queries([tokenize(text) for text in self.queries]))
        by_rank = partial(hybrid.fuse_by_rank, constant=fusion.rrf_constant, depth=fusion.rrf_depth)
        by_score = partial(hybrid.fuse_by_weight, image_weight=1.0 - text_weight)
        self.scorers: dict[str, Scorer] = {
            "vector": pixels,
            "text": lexical,
            "rrf": hybrid.Hybrid(pixels, lexical, by_rank),
            "weighted": hybrid.Hybrid(pixels, lexical, by_score),
        }

    def best(self, kind: str, query: int) -> tuple[list[str], np.ndarray]:
        block = self.scorers[kind].block(query, query + 1)
        rows = scores.select_best(block, K)[0]
        if kind == "text":
            rows = rows[block[0, rows] > 0]
        return [self.ids[row] for row in rows], block[0, rows]


@pytest.fixture
def in_built(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWINLENS_SCRATCH", str(built / "scratch"))
    monkeypatch.chdir(built)
    return built


@pytest.mark.usefixtures("in_built")
@pytest.mark.parametrize("kind", ["vector", "text", "rrf", "weighted"])
def test_a_search_finds_what_a_run_lists_in_the_same_order(kind: str) -> None:
    searcher = Searcher(model=MODEL)
    measured = Measured(searcher.text_weight)
    how = {"mode": kind} if kind in ("vector", "text") else {"mode": "hybrid", "fusion": kind}
    for query, text in enumerate(measured.queries):
        ids, of_ids = measured.best(kind, query)
        hits = searcher.search(text, k=K, **how).hits  # type: ignore[arg-type]
        assert [hit.image_id for hit in hits] == ids, text
        np.testing.assert_allclose([hit.score for hit in hits], of_ids, atol=1e-5)


@pytest.mark.usefixtures("in_built")
def test_a_weighted_hybrid_ranks_the_whole_pool() -> None:
    searcher = Searcher(model=MODEL)
    measured = Measured(searcher.text_weight)
    for text in measured.queries[:5]:
        found = [hit.image_id for hit in searcher.search(text, mode="hybrid", fusion="weighted", k=POOL).hits]
        assert sorted(found) == sorted(measured.ids)
