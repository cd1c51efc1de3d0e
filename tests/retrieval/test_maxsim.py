"""MaxSim against a plain loop without error, and against the library's own; blocks are counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers.util.similarity import maxsim

from tests.ranked import grouped
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import Params
from twinlens.core.token_matrices import TokenMatrices, join_matrices, pool_tokens
from twinlens.core.vectors import Vectors
from twinlens.retrieval import maxsim as module
from twinlens.retrieval.base import Corpus, Dense, Retriever, costs_of
from twinlens.retrieval.maxsim import (
    MaxSim,
    MaxSimReranker,
    bound_error,
    plan_blocks,
    retrievers,
    score_all,
    score_exactly,
)
from twinlens.retrieval.rank import rerank, search
from twinlens.retrieval.registry import list_rerankers
from twinlens.retrieval.runs import read_run
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, OTHER_WAY

DIM = 16


def draw(lengths: Sequence[int], seed: int, dim: int = DIM) -> TokenMatrices:
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal((length, dim)) for length in lengths]
    return join_matrices([one / np.linalg.norm(one, axis=1, keepdims=True) for one in drawn])


def by_loop(queries: TokenMatrices, items: TokenMatrices) -> np.ndarray:
    """Every product, every maximum and every sum without error."""
    found = np.empty((len(queries), len(items)), dtype=np.float32)
    for row in range(len(queries)):
        for item in range(len(items)):
            best = [
                max(math.fsum((q * d).tolist()) for d in items.matrix(item).astype(np.float64))
                for q in queries.matrix(row).astype(np.float64)
            ]
            found[row, item] = np.float64(math.fsum(best))
    return found


QUERIES = draw([1, 7, 3, 12], 0)
ITEMS = draw([5, 1, 9, 2, 30, 5, 4, 8, 3, 11, 6, 2], 1)


@pytest.mark.parametrize("block_bytes", [2**28, 2**15, 2**10])
def test_scores_without_error_are_those_of_a_plain_loop(block_bytes: int) -> None:
    wanted = by_loop(QUERIES, ITEMS)
    made = MaxSim(QUERIES, ITEMS, exact=len(ITEMS), block_bytes=block_bytes)
    assert (made.block(0, 4) == wanted).all()
    assert (made.block(1, 3) == wanted[1:3]).all()
    rows = np.array([4, 0, 11])
    assert (score_exactly(QUERIES.matrix(3), ITEMS, rows, "cpu", block_bytes) == wanted[3, rows]).all()
    assert made.block(0, 0).shape == (0, len(ITEMS))


@pytest.mark.parametrize("block_bytes", [2**28, 2**12])
def test_products_in_float32_err_by_less_than_is_said(block_bytes: int) -> None:
    queries, items = draw([20, 90], 2, 128), draw([40] * 25, 3, 128)
    found, error = score_all(queries, items, "cpu", block_bytes)
    wanted = np.stack(
        [score_exactly(queries.matrix(row), items, np.arange(len(items)), "cpu") for row in range(len(queries))]
    )
    assert (np.abs(found - wanted) <= error[:, None]).all()
    assert (error == bound_error(np.array([20, 90]), 128)).all()
    assert error.max() < 1e-3


def test_the_best_are_exact_and_in_their_order_however_few_are_asked_for() -> None:
    wanted = by_loop(QUERIES, ITEMS)
    for exact in (1, 3):
        found = MaxSim(QUERIES, ITEMS, exact).block(0, 4)
        best = np.argsort(-wanted, axis=1, kind="stable")[:, :exact]
        assert (np.argsort(-found, axis=1, kind="stable")[:, :exact] == best).all()
        assert (np.take_along_axis(found, best, axis=1) == np.take_along_axis(wanted, best, axis=1)).all()


def test_a_product_in_float32_that_errs_moves_nothing_that_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, honest = by_loop(QUERIES, ITEMS), score_all

    def err(queries: TokenMatrices, *others: object) -> tuple[np.ndarray, np.ndarray]:
        found, error = honest(queries, *others)  # type: ignore[arg-type]
        noise = np.random.default_rng(0).uniform(-1, 1, found.shape)
        return found + (0.1 * noise).astype(np.float32), error + 0.1

    monkeypatch.setattr(module, "score_all", err)
    found = MaxSim(QUERIES, ITEMS, exact=2).block(0, 4)
    best = np.argsort(-wanted, axis=1, kind="stable")[:, :2]
    assert (np.argsort(-found, axis=1, kind="stable")[:, :2] == best).all()


def test_the_librarys_own_similarity_is_the_same() -> None:
    sides = [
        [torch.from_numpy(one.matrix(row).astype(np.float32)) for row in range(len(one))] for one in (QUERIES, ITEMS)
    ]
    found = MaxSim(QUERIES, ITEMS, exact=len(ITEMS)).block(0, 4)
    assert np.abs(found - maxsim(*sides).numpy()).max() < 1e-5


def test_equal_items_are_ordered_by_row_in_any_block() -> None:
    one = ITEMS.matrix(2)
    items = join_matrices([one[::-1], one, ITEMS.matrix(0), np.concatenate([one, one[:2]])])  # the order says nothing
    for block_bytes in (2**28, 2**8):
        found = MaxSim(QUERIES, items, exact=1, block_bytes=block_bytes).block(0, 4)
        assert (found[:, 0] == found[:, 1]).all()
        assert (found[:, 0] == found[:, 3]).all()


@pytest.mark.parametrize("longest", [128, 700])
def test_blocks_take_no_more_than_they_may_and_hold_every_item_once(longest: int) -> None:
    lengths = np.random.default_rng(0).integers(1, longest + 1, 5000)
    tokens, block_bytes, product_bytes = 104 * 128, 2**28, 2**21
    plans = list(plan_blocks(lengths, tokens, 128, block_bytes, product_bytes))
    assert sorted(np.concatenate([plan.rows for plan in plans]).tolist()) == list(range(5000))
    assert max(plan.count_bytes(tokens, 128) for plan in plans) <= block_bytes
    assert all(4 * plan.step * plan.together * plan.width <= product_bytes for plan in plans)
    padded = sum(len(plan.rows) * plan.width for plan in plans)
    assert padded < 1.13 * lengths.sum()
    assert all(plan.width == lengths[plan.rows].max() for plan in plans)


def test_five_hundred_queries_of_five_thousand_items_need_a_quarter_of_a_gigabyte() -> None:
    lengths, of_block = np.full(5000, 128), 2**21 // (4 * 5000)  # queries that `rank` asks for at once
    plans = plan_blocks(lengths, of_block * 128, 128, module.BLOCK_BYTES, module.SHARED)
    assert max(plan.count_bytes(of_block * 128, 128) for plan in plans) <= 2**28
    items, scores = 5000 * 128 * 128 * 2, 4 * of_block * 5000  # the first is a map of a file
    assert 2**28 + items + 16 * scores < 2**30


def test_one_item_that_is_larger_than_a_block_is_scored_alone() -> None:
    plans = list(plan_blocks(np.array([3, 9000, 4]), 10, 128, 2**12, 2**10))
    assert [plan.rows.tolist() for plan in plans] == [[0], [2], [1]]


def test_padding_repeats_a_token_and_changes_no_maximum() -> None:
    padded = ITEMS.pad(np.array([1, 3]), 4)
    assert padded.shape == (2, 4, DIM)
    assert (padded[0] == ITEMS.matrix(1)[0]).all()
    assert (padded[1, :2] == ITEMS.matrix(3)).all()
    assert (padded[1, 2:] == ITEMS.matrix(3)[1]).all()


# ------------------------------------------------------------------- in the pipeline


def source(tokens: TokenMatrices, ids: Sequence[str]) -> Vectors:
    rows = pool_tokens(np.concatenate([tokens.matrix(row) for row in range(len(tokens))]), tokens.lengths)
    return Vectors(list(ids), list(ids), rows)


def on_cpu() -> Params:
    params = read_params()
    compute = params.compute.model_copy(update={"device": "cpu"})
    return params.model_copy(update={"compute": compute, "rank": params.rank.model_copy(update={"rerank_depth": 3})})


PICTURES = [f"p{n:02d}" for n in range(len(ITEMS))]
WORDS = ["c0", "c1", "c2", "c3"]
TOKENS = {IMAGES: ITEMS, CAPTIONS: QUERIES, GENERATED: draw([4] * len(ITEMS), 5)}
OF = {IMAGES: PICTURES, CAPTIONS: WORDS, GENERATED: PICTURES}


def corpus(joint: bool = True, more: Mapping[str, TokenMatrices] | None = None) -> Corpus:
    every = TOKENS | dict(more or {})
    vectors = {name: source(one, OF[name.removesuffix(OTHER_WAY)]) for name, one in every.items()}
    return Corpus(vectors, {}, joint, tokens=every)


def caption_to_image() -> Task:
    return grouped(
        "caption_to_image", dict(zip(WORDS, "abcd", strict=True)), {p: "abcd"[n % 4] for n, p in enumerate(PICTURES)}
    )


def image_to_caption() -> Task:
    return grouped(
        "image_to_caption", {p: "abcd"[n % 4] for n, p in enumerate(PICTURES)}, dict(zip(WORDS, "abcd", strict=True))
    )


def with_inputs(task: Task) -> Task:
    if task.about.category == "i2t":
        return replace(task, about=replace(task.about, item_text=CAPTIONS, query_picture=IMAGES))
    return replace(task, about=replace(task.about, query_text=CAPTIONS, item_picture=IMAGES))


def scorer(one: Retriever) -> MaxSim:
    made = one.make()
    assert isinstance(made, MaxSim)
    return made


def test_pictures_and_generated_captions_are_searched_where_they_can_be() -> None:
    task, params = with_inputs(caption_to_image()), on_cpu()
    found = {one.name: one for one in retrievers(task, corpus(), params)}
    assert list(found) == ["image_tokens", "caption_generated_tokens"]
    assert found["image_tokens"].costs == ("embed_images",)
    assert found["caption_generated_tokens"].costs == ("caption_caption", "embed_captions_generated")
    assert (scorer(found["image_tokens"]).block(0, 4) == by_loop(QUERIES, ITEMS)).all()
    assert [one.name for one in retrievers(task, corpus(joint=False), params)] == ["caption_generated_tokens"]
    assert not retrievers(task, Corpus(corpus().vectors, {}, joint=True), params)


def test_the_other_way_has_its_own_matrices_where_there_are_such() -> None:
    task, params = with_inputs(image_to_caption()), on_cpu()
    plain = {one.name: one for one in retrievers(task, corpus(), params)}["image_tokens"]
    assert (scorer(plain).block(0, 12) == by_loop(ITEMS, QUERIES)).all()
    other = draw([3] * len(QUERIES), 9)
    found = {one.name: one for one in retrievers(task, corpus(more={CAPTIONS + OTHER_WAY: other}), params)}
    assert (scorer(found["image_tokens"]).block(0, 12) == by_loop(ITEMS, other)).all()


def test_a_run_lists_the_best_and_a_reranked_one_what_one_vector_had_found(tmp_path: Path) -> None:
    task, params, made = with_inputs(caption_to_image()), on_cpu(), corpus()
    wanted = by_loop(QUERIES, ITEMS)
    (tmp_path / "runs").mkdir()
    search(task, retrievers(task, made, params)[0], 5, "cpu", tmp_path, Gates(params.gates))
    rows, listed = whole_run(tmp_path / "runs" / "image_tokens.parquet", task)
    best = np.argsort(-wanted, axis=1, kind="stable")[:, :5]
    assert (rows == best).all()
    assert (listed == np.take_along_axis(wanted, best, axis=1)).all()

    again = list_rerankers(task, made, params)
    assert [(one.retriever, one.name) for one in again] == [("image", "maxsim"), ("caption_generated", "maxsim")]
    by_mean = np.asarray(made.vectors[CAPTIONS].unit) @ np.asarray(made.vectors[IMAGES].unit).T
    dense = Retriever(
        "image", lambda: Dense(made.vectors[CAPTIONS].unit, made.vectors[IMAGES].unit), (IMAGES,), costs_of((IMAGES,))
    )
    rerank(task, dense, again[0], params.rank, "cpu", tmp_path)
    head = np.argsort(-by_mean, axis=1, kind="stable")[:, :3]
    order = np.argsort(-np.take_along_axis(wanted, head, axis=1), axis=1, kind="stable")
    rows, _ = whole_run(tmp_path / "runs" / "image_maxsim.parquet", task)
    assert (rows[:, :3] == np.take_along_axis(head, order, axis=1)).all()


def whole_run(path: Path, task: Task) -> tuple[np.ndarray, np.ndarray]:
    parts = [part[1:] for part in read_run(path, task.query_ids, task.item_ids)]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])


def test_a_reranker_scores_what_it_is_given() -> None:
    wanted = by_loop(QUERIES, ITEMS)
    rows = np.array([[3, 0, 7], [11, 4, 2]])
    found = MaxSimReranker(QUERIES, ITEMS, "image", IMAGES).scores(1, rows, np.zeros((2, 3), np.float32))
    assert (found == np.take_along_axis(wanted[1:3], rows, axis=1)).all()


@pytest.mark.gpu
def test_a_gpu_gives_the_same_lists() -> None:
    queries, items = draw([20] * 30, 2, 128), draw([50] * 400, 3, 128)
    on_host = MaxSim(queries, items, 20).block(0, 30)
    on_gpu = MaxSim(queries, items, 20, "cuda").block(0, 30)
    best = np.argsort(-on_host, axis=1, kind="stable")[:, :20]
    assert (np.argsort(-on_gpu, axis=1, kind="stable")[:, :20] == best).all()
    assert (np.take_along_axis(on_gpu, best, axis=1) == np.take_along_axis(on_host, best, axis=1)).all()
