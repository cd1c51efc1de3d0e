"""Runs as they are written: what stands beside them, reranked lists, first hits with and without distractors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.tasks.small import corpus, params
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.core import tables
from twinlens.core.ahead import map_in_order
from twinlens.core.errors import DataError
from twinlens.retrieval import registry
from twinlens.retrieval.base import Dense, Retriever
from twinlens.retrieval.rank import group_retrievers, rerank, search
from twinlens.retrieval.registry import list_retrievers
from twinlens.retrieval.runs import read_run
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.qrels import Pairs

ITEMS = [f"i{n}" for n in range(9)]
QUERIES = ["q0", "q1", "q2"]
SCORES = np.array(
    [
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        [0.5, 0.9, 0.5, 0.5, 0.1, 0.1, 0.2, 0.3, 0.4],
    ],
    dtype=np.float32,
)


@dataclass(frozen=True)
class Fixed:
    """Scores as they are."""

    scores: np.ndarray
    chosen: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    def block(self, start: int, stop: int) -> np.ndarray:
        return self.scores[start:stop].copy()


@dataclass
class Turning:
    """New scores by a function of an item's row."""

    of: Callable[[np.ndarray], np.ndarray]
    name: str = "again"
    retriever: str = "words"
    inputs: tuple[str, ...] = ("captions", "images")
    costs: tuple[str, ...] = ("rerank_images",)
    loads: bool = False
    asked: list[tuple[int, list[list[int]], list[list[float]]]] = field(default_factory=list)

    def scores(self, first: int, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        self.asked.append((first, rows.tolist(), scores.tolist()))
        return self.of(rows).astype(np.float32)


def task(*pairs: tuple[str, str], exclude: list[int] | None = None) -> Task:
    table = pl.DataFrame(
        {"query_id": [q for q, _ in pairs], "item_id": [i for _, i in pairs], "gain": [1.0] * len(pairs)}
    )
    qrels = Pairs.of(table, QUERIES, ITEMS)
    about = TaskMetadata("Some", "t2i", 0)
    return Task("some", about, QUERIES, QUERIES, ITEMS, qrels, None if exclude is None else np.array(exclude))


SOME = task(("q0", "i2"), ("q0", "i8"), ("q1", "i8"), ("q2", "i0"), ("q2", "i4"))


def retriever(scores: np.ndarray = SCORES, **told: Any) -> Retriever:
    given = {"inputs": ("captions",), "costs": ("embed_captions",)} | told
    return Retriever("words", lambda: Fixed(scores, {"image_weight": 0.5}), **given)


def run(folder: Path, name: str, whole: Task = SOME) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(read_run(folder / "runs" / f"{name}.parquet", whole.query_ids, whole.item_ids))
    return np.concatenate([rows for _, rows, _ in blocks]), np.concatenate([scores for _, _, scores in blocks])


def first_hits(folder: Path, name: str) -> tuple[list[int], list[int]]:
    table = tables.read_table(folder / "first_hits" / f"{name}.parquet", tables.FIRST_HITS)
    assert table["query_id"].to_list() == QUERIES
    return table["rank"].to_list(), table["rank_among_judged"].to_list()


def told(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / f"{name}.json").read_text())
    return found


def searched(folder: Path, whole: Task = SOME, depth: int = 6, **told: Any) -> tuple[np.ndarray, np.ndarray]:
    search(whole, retriever(**told), depth, "cpu", folder, Gates(read_params().gates))
    return run(folder, "words", whole)


def reranked(
    folder: Path, again: Turning, whole: Task = SOME, *, depth: int = 6, best: int = 3, **told: Any
) -> tuple[np.ndarray, np.ndarray]:
    rank = params(depth=depth, rerank_depth=best).rank
    rerank(whole, retriever(**told), again, rank, "cpu", folder)
    return run(folder, "words_again", whole)


def by_row() -> Turning:
    return Turning(lambda rows: 10.0 + rows)


# ------------------------------------------------------------------------ searched


def test_beside_a_run_stands_what_it_means(tmp_path: Path) -> None:
    searched(tmp_path)
    assert told(tmp_path, "words") == {
        "inputs": ["captions"],
        "costs": ["embed_captions"],
        "zero_is_miss": False,
        "before_training": False,
        "draws": 1,
        "untrained_of": None,
        "chosen": {"image_weight": 0.5},
    }
    searched(tmp_path, zero_is_miss=True, untrained_of="image")
    assert told(tmp_path, "words")["zero_is_miss"]
    assert told(tmp_path, "words")["before_training"]
    assert told(tmp_path, "words")["untrained_of"] == "image"
    dense = Retriever("image", lambda: Dense(np.eye(3, dtype=np.float32), np.eye(9, 3, dtype=np.float32)), (), ())
    search(SOME, dense, 6, "cpu", tmp_path, Gates(read_params().gates))
    assert told(tmp_path, "image")["chosen"] == {}


def test_random_weights_may_give_equal_scores_and_trained_ones_may_not(tmp_path: Path) -> None:
    for untrained_of, found in (("image", []), (None, ["tied_scores"])):
        gates = Gates(read_params().gates)
        search(SOME, retriever(np.full((3, 9), 0.5, np.float32), untrained_of=untrained_of), 6, "cpu", tmp_path, gates)
        assert [one["gate"] for one in gates.found] == found


def test_first_hits_count_from_the_whole_pool_and_once_more_without_distractors(tmp_path: Path) -> None:
    rows, _ = searched(tmp_path)
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5], [8, 7, 6, 5, 4, 3], [1, 0, 2, 3, 8, 7]]
    # judged: i0, i2, i4, i8; i1 and i3 are in nobody's way then
    assert first_hits(tmp_path, "words") == ([3, 1, 2], [2, 1, 1])


def test_a_first_hit_beyond_the_run_is_counted_too(tmp_path: Path) -> None:
    whole = task(("q0", "i8"), ("q1", "i0"), ("q2", "i5"))
    searched(tmp_path, whole)
    assert first_hits(tmp_path, "words") == ([9, 9, 9], [3, 3, 3])


def test_what_scored_nothing_is_last_of_what_its_query_may_find(tmp_path: Path) -> None:
    scores = np.array([[5, 0, 0, 0, 0, 0, 0, 0, 0]] * 3, dtype=np.float32)
    whole = task(("q0", "i1"), ("q1", "i1"), ("q2", "i0"), exclude=[0, -1, 3])
    searched(tmp_path, whole, scores=scores, zero_is_miss=True)
    assert first_hits(tmp_path, "words") == ([8, 9, 1], [1, 2, 1])


@pytest.mark.parametrize("vectors", [False, True])
def test_what_must_not_be_found_is_in_no_run_where_other_queries_have_nothing_to_leave_out(
    vectors: bool, tmp_path: Path
) -> None:
    whole = task(("q0", "i2"), ("q1", "i8"), ("q2", "i0"), exclude=[0, -1, 1])
    made = Dense(np.eye(3, dtype=np.float32), np.ascontiguousarray(SCORES.T)) if vectors else Fixed(SCORES)
    search(whole, Retriever("words", lambda: made, (), ()), 50, "cpu", tmp_path, Gates(read_params().gates))
    rows, scores = run(tmp_path, "words", whole)  # which refuses a score that is infinite
    assert rows.shape == (3, 8)
    assert 0 not in rows[0]
    assert 1 not in rows[2]
    assert np.isfinite(scores).all()
    assert first_hits(tmp_path, "words")[0] == [2, 1, 1]


# ------------------------------------------------------------------------- reranked


def test_only_the_best_items_move(tmp_path: Path) -> None:
    before, found = searched(tmp_path)
    again = by_row()
    rows, scores = reranked(tmp_path, again)
    assert rows.tolist() == [[2, 1, 0, 3, 4, 5], [8, 7, 6, 5, 4, 3], [2, 1, 0, 3, 8, 7]]
    assert rows[:, 3:].tolist() == before[:, 3:].tolist()
    assert scores[:, :3].tolist() == (10.0 + rows[:, :3]).tolist()
    assert (np.diff(scores, axis=1) < 0).all()
    assert again.asked[0] == (0, before[:, :3].tolist(), found[:, :3].tolist())


def test_equal_new_scores_keep_the_order_of_the_retriever(tmp_path: Path) -> None:
    before, _ = searched(tmp_path)
    rows, scores = reranked(tmp_path, Turning(np.zeros_like))
    assert rows.tolist() == before.tolist()
    assert (np.diff(scores, axis=1) <= 0).all()
    rows, _ = reranked(tmp_path, Turning(lambda rows: rows == 2))
    assert rows.tolist() == [[2, 0, 1, 3, 4, 5], [8, 7, 6, 5, 4, 3], [2, 1, 0, 3, 8, 7]]


@pytest.mark.parametrize("scale", [-1e6, -1.0, 1e-6, 1.0, 1e6])
def test_scores_never_rise_whatever_the_new_ones_are(scale: float, tmp_path: Path) -> None:
    _, scores = reranked(tmp_path, Turning(lambda rows: scale * rows))
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (np.diff(scores[:, 2:], axis=1) < 0).all()


@pytest.mark.parametrize(("depth", "best"), [(6, 9), (6, 6), (50, 50), (50, 4)])
def test_lists_that_are_shorter_than_what_is_reranked_are_reranked_whole(depth: int, best: int, tmp_path: Path) -> None:
    before, _ = searched(tmp_path, depth=depth)
    rows, scores = reranked(tmp_path, by_row(), depth=depth, best=best)
    assert rows.shape == before.shape == (3, min(depth, 9))
    assert rows[:, :best].tolist() == (-np.sort(-before[:, :best], axis=1)).tolist()
    assert rows[:, best:].tolist() == before[:, best:].tolist()
    assert (np.diff(scores, axis=1) < 0).all()


def test_first_hits_are_those_of_the_new_lists_with_and_without_distractors(tmp_path: Path) -> None:
    reranked(tmp_path, by_row())
    # without distractors the best three of q0 are i0, i2, i4; of q1 i8, i4, i2; of q2 i0, i2, i8
    assert first_hits(tmp_path, "words_again") == ([1, 1, 3], [2, 1, 3])
    reranked(tmp_path, Turning(lambda rows: -rows))
    assert first_hits(tmp_path, "words_again") == ([3, 3, 1], [2, 3, 1])


def test_first_hits_beyond_what_moves_stay_where_they_were(tmp_path: Path) -> None:
    whole = task(("q0", "i4"), ("q1", "i0"), ("q2", "i5"))
    searched(tmp_path, whole)
    before = first_hits(tmp_path, "words")
    assert before[0] == [5, 9, 9]
    reranked(tmp_path, by_row(), whole, best=2)
    assert first_hits(tmp_path, "words_again")[0] == before[0]


def test_blocks_of_queries_make_no_difference_to_a_reranked_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reranked(tmp_path / "whole", by_row())
    monkeypatch.setattr("twinlens.retrieval.hybrid.BLOCK_BYTES", 4 * 9 * 2)  # two queries
    again = by_row()
    parts = reranked(tmp_path / "parts", again)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])
    assert [first for first, _, _ in again.asked] == [0, 2, 0, 2]  # with and without distractors
    assert first_hits(tmp_path / "whole", "words_again") == first_hits(tmp_path / "parts", "words_again")


def test_beside_a_reranked_run_stands_what_both_read_and_cost(tmp_path: Path) -> None:
    reranked(tmp_path, by_row(), zero_is_miss=True)
    assert told(tmp_path, "words_again") == {
        "inputs": ["captions", "images"],
        "costs": ["embed_captions", "rerank_images"],
        "zero_is_miss": False,
        "before_training": False,
        "draws": 1,
        "untrained_of": None,
        "chosen": {"reranked": 3},
    }


# ---------------------------------------------------------------------- registered


def test_two_retrievers_of_one_name_are_refused_unless_one_is_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[Retriever]] = [[retriever()], [retriever(published=True)]]
    monkeypatch.setattr(registry, "_functions", lambda _: iter([lambda *_, own=own: own for own in made]))
    assert list_retrievers(SOME, corpus({}), params()) == [*made[0], *made[1]]
    made.append([retriever()])
    with pytest.raises(DataError, match="some: two retrievers are called 'words': give one of them another name"):
        list_retrievers(SOME, corpus({}), params())


def test_two_rerankers_whose_runs_would_have_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [by_row(), by_row()]
    monkeypatch.setattr(registry, "_functions", lambda _: iter([lambda *_: made]))
    with pytest.raises(DataError, match="two rerankers make the run 'words_again'"):
        registry.list_rerankers(SOME, corpus({}), params())


def test_blocks_come_in_order_whichever_thread_is_done_first() -> None:
    later = Event()

    def work(part: int) -> int:
        if part == 0:
            assert later.wait(60)
        if part == 1:
            later.set()
        return part * part

    if len(os.sched_getaffinity(0)) == 1:
        later.set()
    assert list(map_in_order(work, range(40), 4)) == [part * part for part in range(40)]


def test_what_a_thread_refuses_is_refused() -> None:
    def work(part: int) -> int:
        if part == 3:
            raise DataError("the third")
        return part

    with pytest.raises(DataError, match="the third"):
        list(map_in_order(work, range(9), 4))


def test_neighbours_of_one_group_are_searched_together_and_all_others_alone() -> None:
    alone, published = retriever(), retriever(published=True, group="a")
    one, other = retriever(group="a"), retriever(group="b")
    wanted = [[alone], [alone], [one, one], [published], [other], [one]]
    assert group_retrievers([alone, alone, one, one, published, other, one]) == wanted
    assert group_retrievers([]) == []


def test_scorers_prepare_before_threads_ask_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinlens.retrieval.hybrid.BLOCK_BYTES", 4 * 9)  # one query
    asked: list[tuple[int, int, bool]] = []

    class Noting(Fixed):
        def block(self, start: int, stop: int) -> np.ndarray:
            asked.append((start, stop, current_thread() is main_thread()))
            return super().block(start, stop)

    made = Noting(SCORES)
    search(SOME, Retriever("words", lambda: made, (), ()), 6, "cpu", tmp_path, Gates(read_params().gates))
    assert asked[0] == (0, 0, True)
    assert sorted(asked[1:]) == [(0, 1, False), (1, 2, False), (2, 3, False)]
