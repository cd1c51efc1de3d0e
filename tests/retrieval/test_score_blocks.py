"""Words, and words with pixels, over pools read in blocks of items: the bytes of scores with the whole pool."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinlens.core import resources
from twinlens.core.errors import ResourceError
from twinlens.core.row_sources import DerivedRows
from twinlens.retrieval import block_ranking, hybrid, score_blocks
from twinlens.retrieval.base import Dense, Scorer
from twinlens.retrieval.block_ranking import choose_threads, rank_blocks, rank_together, reads_in_blocks
from twinlens.retrieval.bm25 import Bm25
from twinlens.retrieval.hybrid import Hybrid
from twinlens.retrieval.lexical import WordScores
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.qrels import Groups, Pairs

WORDS = [f"w{n}" for n in range(8)]


def draw_scorers(rng: np.random.Generator, queries: int, items: int, depth: int, own: bool) -> list[Scorer]:
    """Words, pixels, and both fused in two ways, with many equal scores."""
    documents = [rng.choice(WORDS, rng.integers(0, 5)).tolist() for _ in range(items)]
    mine = rng.integers(0, items, queries) if own else None
    asked = (
        [documents[row][:2] for row in mine]
        if mine is not None
        else [rng.choice(WORDS, 3).tolist() for _ in range(queries)]
    )
    index = Bm25.of(documents)
    words = WordScores(index, index.queries(asked), mine)
    dense = Dense(*(rng.integers(-2, 3, (count, 3)).astype(np.float32) for count in (queries, items)))
    by_rank = partial(hybrid.fuse_by_rank, constant=60, depth=depth)
    by_weight = partial(hybrid.fuse_by_weight, image_weight=0.3)
    return [words, Hybrid(dense, words, by_rank, depth=depth), Hybrid(dense, words, by_weight)]


def rank_all(
    made: list[Scorer], task: Task, depth: int, rows: np.ndarray | None, blocks: tuple[int, int] | None
) -> list[np.ndarray]:
    with pytest.MonkeyPatch.context() as patch:
        if blocks is not None:
            patch.setattr(block_ranking, "MOST_ITEMS", 0)
            patch.setattr(score_blocks, "ITEM_ROWS", blocks[0])
            patch.setattr(score_blocks, "STATE_BYTES", 4000)  # some of the queries
            patch.setattr(score_blocks, "LISTS", 3)
            patch.setattr(hybrid, "BLOCK_BYTES", 4 * blocks[0] * blocks[1])
        together = list(rank_together(made, [True, False, False], task, depth, "cpu"))
        alone = list(rank_blocks(made[2], task, depth, "cpu", rows=rows))
        span = list(rank_blocks(made[1], task, depth, "cpu", span=(0, len(made[1]))))
    assert [lists[0][0].first_query for lists in together] == np.cumsum(
        [0, *(len(lists[0][0].rows) for lists in together[:-1])]
    ).tolist()
    runs = [[lists[place][0] for lists in together] for place in range(3)] + [alone, span]
    found = [np.concatenate([getattr(one, part) for one in run]) for run in runs for part in ("rows", "scores")]
    found += [np.concatenate([one.first_hit for one in run if one.first_hit is not None]) for run in runs]
    ranks = [[lists[place][1] for lists in together] for place in range(3)]
    return found + [np.concatenate([one for one in own if one is not None]) for own in ranks]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    queries=st.integers(1, 9),
    items=st.integers(2, 60),
    depth=st.integers(1, 20),
    fused=st.integers(1, 70),
    block=st.integers(1, 40),
    step=st.integers(1, 4),
    own=st.booleans(),
    left_out=st.booleans(),
    pairs=st.booleans(),
)
def test_blocks_of_items_give_the_bytes_of_scores_with_all_items(
    seed: int, queries: int, items: int, depth: int, fused: int, block: int, step: int, own: bool, left_out: bool,
    pairs: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    made = draw_scorers(rng, queries, items, fused, own)
    exclude = np.where(rng.random(queries) < 0.5, rng.integers(0, items, queries), -1) if left_out else None
    if pairs:
        rows = [np.sort(rng.choice(items, rng.integers(0, min(4, items) + 1), replace=False)) for _ in range(queries)]
        rows = rows if exclude is None else [own[own != out] for own, out in zip(rows, exclude, strict=True)]
        starts = np.concatenate([[0], np.cumsum([len(own) for own in rows])])
        qrels: Groups | Pairs = Pairs(starts, np.concatenate(rows), np.ones(starts[-1], np.float32), items)
    else:
        qrels = Groups(rng.integers(0, 4, queries), rng.integers(0, 6, items), exclude)
    names = [f"q{n}" for n in range(queries)], [f"i{n}" for n in range(items)]
    task = Task("some", TaskMetadata("Some", "t2i", 0), names[0], names[0], names[1], qrels, exclude)
    chosen = np.sort(rng.permutation(items)[: int(rng.integers(2, items + 1))])
    if not qrels.judged().any():
        return
    whole = rank_all(made, task, depth, chosen, None)
    for mine, wanted in zip(rank_all(made, task, depth, chosen, (block, step)), whole, strict=True):
        assert mine.dtype == wanted.dtype
        assert mine.tobytes() == wanted.tobytes()


def test_a_score_is_the_exact_one_whatever_is_beside_it_and_on_the_path_of_a_device() -> None:
    rng = np.random.default_rng(0)
    queries, items = (rng.standard_normal((count, 48)).astype(np.float32) for count in (7, 90))
    items[3] = 0
    whole = Dense(queries, items)
    blocks = np.hstack([whole.restrict(first, first + 17).block(2, 7) for first in range(0, 90, 17)])
    assert blocks.tobytes() == whole.block(2, 7).tobytes()
    exact = [[np.float32(sum(map(lambda a, b: int(a * 2**60) * int(b * 2**60), q, i)) / 2**120) for i in items.tolist()]
             for q in queries[:2].tolist()]  # fmt: skip
    assert np.array_equal(whole.block(0, 2), np.array(exact))
    from twinlens.retrieval.exact import OnDevice

    assert OnDevice.of(queries, items, "cpu").block(2, 7).tobytes() == whole.block(2, 7).tobytes()


def test_pools_are_read_in_blocks_where_they_are_large_or_memory_is_short_and_never_where_the_pool_decides_a_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, few = Bm25.of([["a"], ["b"]]), Dense(np.zeros((1, 4), np.float32), np.zeros((2, 4), np.float32))
    scorer = WordScores(words, words.queries([["a"]]))
    both = Hybrid(few, scorer, lambda image, _: image.block)
    wide = DerivedRows((few.items,), lambda rows: rows, (2**18, 513))  # a little more than 1 GB in float64
    for free, wanted in ((2**40, False), (96 * 10**5, True)):
        monkeypatch.setattr(block_ranking, "measure_free_memory", lambda free=free: free)
        assert reads_in_blocks([both], 1000, "cpu") is wanted
    monkeypatch.setattr(block_ranking, "measure_free_memory", lambda: 2**40)
    assert reads_in_blocks([scorer], 2**19 + 1, "cpu")
    assert reads_in_blocks([Hybrid(Dense(few.queries, wide), scorer, both.fuse)], 2**18, "cpu")
    assert not reads_in_blocks([Hybrid(Dense(few.queries, wide), scorer, both.fuse)], 2**18, "cuda")

    class Other:
        def __len__(self) -> int:
            return 1

        def block(self, start: int, stop: int) -> np.ndarray:
            return np.zeros((stop - start, 2), np.float32)

    assert not reads_in_blocks([Other()], 10**9, "cpu")


def test_as_many_threads_score_as_memory_has_room_for_and_a_pool_too_large_for_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, dense = Bm25.of([["a"], ["b"]]), Dense(np.zeros((1, 4), np.float32), np.zeros((2, 4), np.float32))
    scorer = WordScores(words, words.queries([["a"]]))
    both = Hybrid(dense, scorer, lambda image, _: image.block)
    each, items = 96 * 10**6, 10**6
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for free, wanted in ((100 * each, 8), (3 * each, 3), (each, 1)):
        monkeypatch.setattr(resources, "measure_free_memory", lambda free=free: free)
        monkeypatch.setattr(block_ranking, "measure_free_memory", lambda free=free: free)
        assert choose_threads([scorer], items) == wanted
    with pytest.raises(ResourceError, match=r"scores of 1,000,000 items at once.* need 96,000,064 bytes .*`keep:`"):
        choose_threads([both], items)
    assert choose_threads([both], items, on_device=True) == 1
