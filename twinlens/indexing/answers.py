"""Answers to single queries of a retriever: vectors are scanned and words looked up as the index does it.

What the index has no way for is scored as `rank` scores it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from twinlens.indexing.index import keep_possible
from twinlens.indexing.postings import Postings, write_counted
from twinlens.indexing.scans import Scans
from twinlens.retrieval import scores
from twinlens.retrieval.base import Dense, Scorer
from twinlens.retrieval.hybrid import Hybrid, Side, split_into_blocks
from twinlens.retrieval.lexical import WordScores
from twinlens.retrieval.scores import Block, bound_float32_error, compute_exact_scores, order_by_score
from twinlens.retrieval.tokenize import tokenize

FOUND = 10  # items that a query asks for

Found = tuple[Int[np.ndarray, "1 found"], Block]  # rows and scores, best first
Answer = Callable[[int, str], Found]  # of one query, by its row and its words


@dataclass
class Held:
    """What answers hold: bytes in memory and on disk of vectors and of postings, in the order of its making."""

    vector_bytes: int = 0
    posting_bytes: int = 0


def open_answer(made: Scorer, folder: Path, held: Held, depth: int = FOUND) -> Answer:
    """Open what answers single queries of a retriever.

    Args:
        made: what the retriever makes.
        folder: for postings; it is made.
        held: takes up what is held.
        depth: items wanted.
    """
    if isinstance(made, Dense):
        scans = _open_scans(made, held)
        return lambda n, text: find_best(scans, made.queries[n], depth)
    score = _open_scores(made, folder, held)

    def answer(n: int, text: str) -> Found:
        block = score(n, text)
        best = scores.select_best(block, depth)
        return best, np.take_along_axis(block, best, axis=1)

    return answer


def find_best(scans: Scans, vector: np.ndarray, depth: int = FOUND) -> Found:
    """Find the best items of one vector as the index does: a scan in float32, and exact scores for what may be best."""
    likely = keep_possible(scans.products(vector), depth, 2.0 * bound_float32_error(len(vector)))
    exact = compute_exact_scores(vector[None], scans.rows[likely], np.arange(len(likely))[None])
    rows, ordered = order_by_score(likely[None], exact)
    return rows[:, :depth], ordered[:, :depth]


def _open_scans(made: Dense, held: Held) -> Scans:
    held.vector_bytes += made.items.nbytes
    return Scans(np.ascontiguousarray(made.items, dtype=np.float32))


def _open_scores(made: Scorer, folder: Path, held: Held) -> Callable[[int, str], Block]:
    """Scores of one query with all items."""
    if isinstance(made, Dense):
        scans = _open_scans(made, held)
        return lambda n, text: scans.products(made.queries[n])[None]
    if isinstance(made, WordScores):
        folder.mkdir(parents=True)
        write_counted(folder, made.index)
        held.posting_bytes += sum(file.stat().st_size for file in folder.iterdir())
        postings = Postings(folder, made.index.counts.shape[0])
        return lambda n, text: postings.scores(tokenize(text))[None]
    if isinstance(made, Hybrid):
        image = _open_scores(made.image, folder / "image", held)
        words = _open_scores(made.words, folder / "words", held)
        return lambda n, text: made.fuse(Side(image(n, text)), Side(words(n, text)))
    return lambda n, text: made.block(n, n + 1)


def search_at_once(made: Scorer, items: int, queries: int, device: str) -> None:
    """Search the first queries together, as `rank` does."""
    if isinstance(made, Dense):
        from twinlens.retrieval.exact import find_nearest

        for _ in find_nearest(made.queries[:queries], made.items, FOUND, device=device):
            pass
        return
    for start, stop in split_into_blocks(made, items):
        if start >= queries:
            break
        scores.select_best(made.block(start, min(stop, queries)), FOUND)
