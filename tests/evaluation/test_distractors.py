"""Hit against the number of distractors: against drawing them, and against the whole pool."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.ranked import grouped, listed, write_run
from twinlens.evaluation.distractors import build_curve, choose_sizes, compute_expected_hit
from twinlens.retrieval.rank import restate_as_published
from twinlens.tasks.base import Task, TaskMetadata


def test_the_ladder_holds_the_sizes_of_source_004() -> None:
    assert {0, 2000, 10_000, 60_000, 66_009} <= set(choose_sizes(66_009))
    assert choose_sizes(0) == [0]
    assert choose_sizes(49) == [0, 1, 2, 3, 6, 10, 20, 30, 49]
    assert choose_sizes(60) == [0, 1, 2, 3, 6, 10, 20, 30, 60]


def test_none_and_all_of_the_distractors_are_the_two_ranks() -> None:
    rank, among = np.array([1, 12, 30, 4]), np.array([1, 2, 11, 4])
    assert compute_expected_hit(rank, among, 40, 0, 10) == 0.75
    assert compute_expected_hit(rank, among, 40, 40, 10) == 0.5


def test_a_case_worked_by_hand() -> None:
    # Three distractors, of which two stand above the hit; k = 1. One drawn: a hit if it is the third, 1/3.
    assert compute_expected_hit(np.array([3]), np.array([1]), 3, 1, 1) == pytest.approx(1 / 3)
    # Two drawn of three: both would have to be the third one.
    assert compute_expected_hit(np.array([3]), np.array([1]), 3, 2, 1) == pytest.approx(0.0)
    # k = 2 allows one of the two above: two drawn hold both in one case of three.
    assert compute_expected_hit(np.array([3]), np.array([1]), 3, 2, 2) == pytest.approx(2 / 3)


def test_the_closed_form_is_what_drawing_gives() -> None:
    rng = np.random.default_rng(0)
    own, others = rng.random((30, 8)), rng.random((30, 50))  # scores; the first of its own is relevant
    among = 1 + (own[:, 1:] > own[:, :1]).sum(axis=1)
    rank = among + (others > own[:, :1]).sum(axis=1)
    for size in (5, 20, 45):
        drawn = []
        for _ in range(3000):
            chosen = others[:, rng.permutation(50)[:size]]
            drawn.append(np.mean(among + (chosen > own[:, :1]).sum(axis=1) <= 10))
        assert compute_expected_hit(rank, among, 50, size, 10) == pytest.approx(np.mean(drawn), abs=0.006)


def test_more_distractors_never_help() -> None:
    rng = np.random.default_rng(1)
    among = rng.integers(1, 20, 200)
    rank = among + rng.binomial(5000, 0.01, 200)
    hits = [compute_expected_hit(rank, among, 5000, size, 10) for size in choose_sizes(5000)]
    assert hits == sorted(hits, reverse=True)


def ranked(folder: Path, item_groups: list[str]) -> Path:
    task = grouped("caption_to_image", {"q1": "a", "q2": "b"}, {name: name for name in item_groups}, images=["a", "b"])
    lists = np.tile(np.arange(2), (2, 1)), np.tile(np.array([0.9, 0.5], np.float32), (2, 1))
    write_run(folder / task.name, task, *lists, ranks=([1, 4], [1, 2]))
    return folder


def test_items_that_no_query_is_about_are_distractors(tmp_path: Path) -> None:
    task = grouped("caption_to_image", {"q1": "a", "q2": "a", "q3": "c"}, {name: name for name in "abcd"})
    assert task.qrels.judged().tolist() == [True, False, True, False]
    task.write(tmp_path / "caption_to_image")
    assert Task.read(tmp_path / "caption_to_image").qrels.judged().tolist() == [True, False, True, False]


def test_the_curve_ends_at_what_the_whole_pool_gives(tmp_path: Path) -> None:
    rows = build_curve(ranked(tmp_path, ["a", "b", "x", "y", "z"]), k=2)
    assert [(row["distractors"], row["hit"]) for row in rows] == [
        (0, 1.0), (1, 0.666667), (2, 0.5), (3, 0.5),
    ]  # fmt: skip
    assert {(row["task"], row["retriever"]) for row in rows} == {("caption_to_image", "image")}


def test_a_task_without_distractors_has_one_row(tmp_path: Path) -> None:
    assert [(row["distractors"], row["hit"]) for row in build_curve(ranked(tmp_path, ["a", "b"]), k=2)] == [(0, 1.0)]


def test_items_that_no_pair_names_are_distractors_too(tmp_path: Path) -> None:
    gains = {"q1": {"a": 2.0, "b": 1.0}, "q2": {"b": 3.0}}
    task = listed("composed", TaskMetadata("Composed", "it2i", 9), gains, ["a", "b", "x", "y", "z"])
    lists = np.tile(np.arange(2), (2, 1)), np.tile(np.array([0.9, 0.5], np.float32), (2, 1))
    write_run(tmp_path / "composed", task, *lists, ranks=([1, 4], [1, 2]))
    assert [row["distractors"] for row in build_curve(tmp_path, k=2)] == [0, 1, 2, 3]


def test_a_protocol_of_a_source_has_no_curve_of_its_own(tmp_path: Path) -> None:
    folder = ranked(tmp_path, ["a", "b", "x"])
    rows = build_curve(folder, k=2)
    copy = restate_as_published(Task.read(folder / "caption_to_image"))
    shutil.copytree(folder / "caption_to_image", folder / copy.name)
    copy.write(folder / copy.name)
    assert build_curve(folder, k=2) == rows
