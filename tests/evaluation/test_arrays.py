"""`twinlens.evaluate`: the pipeline's numbers from arrays alone, and one clear error for arrays that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

import twinlens
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import EvaluateParams
from twinlens.core.errors import DataError
from twinlens.core.vectors import Vectors
from twinlens.evaluation.evaluate import compute_intervals, measure_run
from twinlens.evaluation.pool import Pool
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.dense import retrievers
from twinlens.retrieval.rank import search
from twinlens.tasks import captions
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import CAPTIONS, IMAGES

PARAMS = EvaluateParams(ks=[1, 5, 10], referee_queries=5, resamples=1000, seed=0)
COUNT = 70  # pictures, more than a list is deep
EACH = 3  # captions of a picture
OWN = np.repeat(np.arange(COUNT), EACH)


def unit(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, 6))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


PICTURES = unit(COUNT, 1)
TEXTS = unit(COUNT * EACH, 2) + PICTURES[OWN]
TEXTS = (TEXTS / np.linalg.norm(TEXTS, axis=1, keepdims=True)).astype(np.float32)
IDS = [f"i{n:02d}" for n in range(COUNT)]


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pipeline's `rank` writes of the same vectors."""
    folder = tmp_path_factory.mktemp("ranked")
    groups = pl.DataFrame(
        {"image_id": IDS, "split": "test", "in_pool": True, "object_set": None, "shard": 0, "row": 0, "sha256": IDS}
    )
    of = [IDS[row] for row in OWN]
    ids = [f"{image_id}#{n % EACH}" for n, image_id in enumerate(of)]
    table = pl.DataFrame({"caption_id": ids, "image_id": of, "text": ids})
    none = pl.DataFrame(schema={"image_id": pl.String, "text": pl.String})
    sources = {IMAGES: Vectors(IDS, IDS, PICTURES), CAPTIONS: Vectors(ids, of, TEXTS)}
    params = read_params()
    for task in captions.build(Collection(groups, pl.DataFrame(), table, none, none, pl.DataFrame()), params)[0]:
        task.write(folder / task.name)
        for one in retrievers(task, Corpus(sources, {}, joint=True), params):
            search(task, one, params.rank.depth, "cpu", folder / task.name, Gates(params.gates))
    return folder


@pytest.mark.parametrize(
    ("direction", "task", "clusters"),
    [("t2i", "caption_to_image", [IDS[row] for row in OWN]), ("i2t", "image_to_caption", IDS)],
)
def test_the_numbers_are_those_of_the_pipeline(ranked: Path, direction: Any, task: str, clusters: list[str]) -> None:
    pool = Pool.read(ranked / task)
    wanted = measure_run(pool, "image", PARAMS)
    found = twinlens.evaluate(PICTURES, TEXTS, OWN, direction=direction, clusters=clusters)
    assert found.measures == wanted.means
    whole = compute_intervals(wanted.per_query, wanted.lists, pool.task, PARAMS)
    assert set(found.intervals) == set(whole)
    for name, own in found.intervals.items():
        assert (own.low, own.high) == pytest.approx((whole[name].main.low, whole[name].main.high), abs=1e-9), name
    both = [name for name in found.per_query.columns if name in wanted.per_query.columns]
    assert {"cluster", "first_hit", "tied", "ndcg_at_10"} <= set(both)
    assert found.per_query.select(both).equals(wanted.per_query.select(both))
    assert (found.queries, found.items) == (len(pool.queries), len(pool.items))
    assert found.clusters == COUNT


FORMS: dict[str, Callable[[], Any]] = {
    "list": OWN.tolist,
    "lists": lambda: [[int(row)] for row in OWN],
    "sets and arrays": lambda: [{int(row)} if row % 2 else np.array([row]) for row in OWN],
    "truth": lambda: OWN[:, None] == np.arange(COUNT),
    "lists of truth": (OWN[:, None] == np.arange(COUNT)).tolist,
    "gains": lambda: (OWN[:, None] == np.arange(COUNT)).astype(np.float64),
    "sparse": lambda: sparse.csr_array(OWN[:, None] == np.arange(COUNT)),
    "coordinates": lambda: sparse.coo_matrix((np.ones(len(OWN)), (np.arange(len(OWN)), OWN)), (len(OWN), COUNT)),
    "column": lambda: OWN[:, None],
    "torch": lambda: torch.from_numpy(OWN),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_every_form_of_the_same_judgements_gives_the_same(form: str, direction: Any) -> None:
    wanted = twinlens.evaluate(PICTURES, TEXTS, OWN, direction=direction)
    found = twinlens.evaluate(torch.from_numpy(PICTURES), TEXTS, FORMS[form](), direction=direction)
    assert found.measures == wanted.measures
    assert found.intervals == wanted.intervals
    assert not found.notes


def test_a_case_worked_by_hand() -> None:
    """Text 0 finds its pictures at ranks 1 and 3, text 1 its only one at rank 2, with a negative cosine."""
    pictures = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]
    texts = [[1.0, 0.0], [0.0, -1.0]]
    found = twinlens.evaluate(pictures, texts, [[2, 0], [3]], ks=(1, 2, 3))
    assert found.measures["hit_at_1"] == 0.5
    assert found.measures["recall_at_3"] == 1.0
    assert found.measures["mrr_at_3"] == 0.75  # text 1: pictures 0 and 3 tie at 0, the earlier row stands first
    assert found.measures["ndcg_at_3"] == pytest.approx(
        ((1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3)) + 1 / np.log2(3)) / 2, abs=1e-6
    )
    assert found.measures["median_rank"] == 1.5
    assert found.per_query["first_hit"].to_list() == [1, 2]


def test_gains_count_in_ndcg() -> None:
    pictures, texts = [[1.0, 0.0], [0.0, 1.0]], [[0.8, 0.6]]
    found = twinlens.evaluate(pictures, texts, np.array([[1.0, 3.0]]), ks=[2])
    assert found.measures["ndcg_at_2"] == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)), abs=1e-6)


def test_the_table_has_every_measure_with_its_interval_and_says_what_was_done() -> None:
    found = twinlens.evaluate(PICTURES * 10, TEXTS, OWN)
    lines = str(found).splitlines()
    assert lines[0] == "210 texts search 70 images; 70 clusters of queries"
    assert [line.split()[0] for line in lines[3:-1]] == [*found.measures]
    low, high = found.intervals["hit_at_10"].low, found.intervals["hit_at_10"].high
    assert low is not None and high is not None
    assert next(line for line in lines if line.startswith("hit_at_10 ")).endswith(f"{low:.3f} to {high:.3f}")
    assert "image_vectors: 70 of 70 rows were not of unit length (10 to 10) and were brought to it" in lines[-1]
    assert found.measures == twinlens.evaluate(PICTURES, TEXTS, OWN).measures


def test_texts_with_several_pictures_are_independent_unless_clusters_say_otherwise() -> None:
    lists = [[int(row), int(row + 1) % COUNT] for row in OWN]
    found = twinlens.evaluate(PICTURES, TEXTS, lists)
    assert found.clusters == len(TEXTS)
    assert "each counts as independent" in found.notes[0]
    assert twinlens.evaluate(PICTURES, TEXTS, lists, clusters=OWN).clusters == COUNT


def test_a_picture_without_a_text_is_found_but_does_not_ask() -> None:
    more = np.concatenate([PICTURES, unit(5, 9)])
    found = twinlens.evaluate(more, TEXTS, OWN, direction="i2t")
    assert (found.queries, found.items) == (COUNT, len(TEXTS))
    assert found.notes == ("5 of 75 pictures have no text and do not ask",)
    assert twinlens.evaluate(more, TEXTS, OWN).items == COUNT + 5


def test_one_query_has_measures_and_no_interval() -> None:
    found = twinlens.evaluate(PICTURES[:9], TEXTS[:1], [0])
    assert found.intervals["hit_at_1"].low is None
    assert "not defined: one cluster" in str(found)


def test_cuts_beyond_the_pool_are_measured_as_missing_ranks() -> None:
    found = twinlens.evaluate(PICTURES[:4], TEXTS[: 4 * EACH], OWN[: 4 * EACH], ks=(100,))
    assert found.measures["hit_at_100"] == 1.0
    assert found.measures["precision_at_100"] == 0.01


def with_row(rows: np.ndarray, value: float) -> np.ndarray:
    changed = rows.copy()
    changed[3] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_vectors": PICTURES[:, :5]}, "image_vectors have 5 dimensions and text_vectors 6"),
        ({"image_vectors": PICTURES[0]}, r"image_vectors has shape \(6,\)"),
        ({"text_vectors": [[1.0], [1.0, 2.0]]}, "text_vectors cannot be read as an array"),
        ({"text_vectors": TEXTS.astype(str)}, "give numbers of shape"),
        ({"text_vectors": TEXTS[:0]}, r"text_vectors has shape \(0, 6\)"),
        ({"image_vectors": with_row(PICTURES, np.nan)}, "image_vectors: 1 of 70 vectors are useless, the first is NaN"),
        ({"image_vectors": with_row(PICTURES, 0)}, "the first is zero: row 3"),
        ({"text_vectors": TEXTS.astype(np.float64) * 1e300}, "beyond what float32 can"),
        ({"relevance": OWN[:-1]}, r"relevance has shape \(209,\) and type int64: give the row of the right picture"),
        ({"relevance": OWN + 1}, "relevance: 3 rows are out of range, the first is 70 of text 207: .* rows 0 to 69"),
        ({"relevance": OWN - 1}, "the first is -1 of text 0"),
        ({"relevance": OWN.astype(float)}, "type float64"),
        ({"relevance": [[0]] * 4}, "relevance has 4 entries for 210 texts"),
        ({"relevance": [[row, row] for row in OWN]}, "relevance lists picture 0 twice for text 0"),
        ({"relevance": [[row] if row else [] for row in OWN]}, "3 of 210 texts have no right picture, .* rows 0, 1, 2"),
        ({"relevance": [["i00"]] * 210}, "relevance holds 'i00', which is no row"),
        ({"relevance": np.zeros((210, 70), dtype=bool)}, "210 of 210 texts have no right picture"),
        ({"relevance": np.zeros((70, 210), dtype=bool)}, "images by texts: give"),
        ({"relevance": np.full((210, 70), -1.0)}, "relevance holds a gain of -1.0"),
        ({"relevance": np.full((210, 70), np.nan)}, "relevance holds a gain of nan"),
        ({"relevance": sparse.csr_array(np.eye(4))}, r"relevance has shape \(4, 4\)"),
        ({"clusters": [1, 2]}, "clusters has 2 labels for 210 texts that ask"),
        ({"direction": "i2i"}, "direction is 'i2i'"),
        ({"ks": (0, 5)}, r"ks is \[0, 5\]"),
        ({"ks": (5, 5)}, "each once"),
        ({"ks": ()}, "whole numbers above 0"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"image_vectors": PICTURES, "text_vectors": TEXTS, "relevance": OWN} | change
    with pytest.raises(DataError, match=message):
        twinlens.evaluate(**given)


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    twinlens.evaluate(PICTURES, TEXTS, OWN)
    assert not [*tmp_path.iterdir()]
