"""How sure a hit is: by the rule in the manifest, where it is about what was asked, and plainly not known elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.indexing.conftest import CAPTIONER, DATASET, MODEL, POOL
from twinlens import Searcher
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.errors import DataError, QueryError
from twinlens.core.vectors import read_vectors
from twinlens.indexing.build import publish
from twinlens.indexing.manifest import Manifest
from twinlens.retrieval.confidence import compute_signal

RULE: dict[str, Any] = {
    "temperature": 0.05,
    "thresholds": {"0.5": 0.0, "0.8": 0.9999},
    "pictures": 200,
    "captions": 1000,
}
TEXT = "two red circles"


def calibrate(told: dict[str, Any] | None) -> Manifest:
    params = read_params()
    path = paths.calibrated(DATASET, MODEL)
    path.parent.mkdir(parents=True, exist_ok=True)
    if told is not None:
        path.write_text(json.dumps(told | {"figures": {}}))
    return publish(DATASET, MODEL, CAPTIONER, params.models[MODEL], params.index, 1)


@pytest.mark.usefixtures("copy")
def test_the_first_picture_alone_is_rated_by_the_scores_of_the_whole_pool_and_hits_stay_the_same() -> None:
    before = Searcher(model=MODEL).search(TEXT, k=5)
    assert [hit.confidence for hit in before.hits] == [None] * 5
    key = Searcher(model=MODEL).index.manifest.key
    manifest = calibrate({"rule": RULE, "why": ""})
    assert manifest.key == key  # the table is the same
    found = Searcher(model=MODEL).search(TEXT, k=5)
    assert [hit.confidence for hit in found.hits] == [0.5, None, None, None, None]
    assert [(hit.image_id, hit.score) for hit in found.hits] == [(hit.image_id, hit.score) for hit in before.hits]
    assert found.to_dict()["hits"][0]["confidence"] == 0.5


@pytest.mark.usefixtures("copy")
def test_a_search_rates_as_validation_was_rated() -> None:
    """The signal of each validation caption over the pool is the one that the search compares with."""
    calibrate({"rule": RULE, "why": ""})
    searcher = Searcher(model=MODEL)
    vectors = read_vectors(paths.embedded(DATASET, MODEL), "captions").unit
    texts = {caption: None for row in range(POOL) for caption in searcher.index.pictures([row])[0].captions}
    text = next(iter(texts))
    scores = np.sort(
        searcher.towers.text(text)[0] @ np.asarray(read_vectors(paths.embedded(DATASET, MODEL), "images").unit).T
    )[::-1]
    assert vectors.shape[1] == len(searcher.towers.text(text)[0])
    signal = float(compute_signal(scores[None], 0.05)[0])
    for least, expected in ((signal - 1e-4, 0.9), (signal + 1e-4, 0.0)):
        calibrate({"rule": RULE | {"thresholds": {"0.9": least}}, "why": ""})
        assert Searcher(model=MODEL).search(text, k=1).hits[0].confidence == expected


@pytest.mark.usefixtures("copy")
def test_only_if_sure_answers_or_says_that_it_may_be_there_all_the_same() -> None:
    calibrate({"rule": RULE, "why": ""})
    searcher = Searcher(model=MODEL)
    assert len(searcher.search(TEXT, k=5, only_if_sure=0.5).hits) == 5
    refused = searcher.search(TEXT, k=5, only_if_sure=0.8)
    assert refused.hits == ()
    assert refused.notes[-1].startswith("no answer is as sure as 0.8")
    assert refused.notes[-1].endswith("it may be there all the same")
    with pytest.raises(
        QueryError, match=r"0.9 is more than 200 validation pictures show: at most 0.8 is promised here"
    ):
        searcher.search(TEXT, only_if_sure=0.9)
    with pytest.raises(QueryError, match=r"only_if_sure: 1.5 is not a number from 0 to 1"):
        searcher.search(TEXT, only_if_sure=1.5)


@pytest.mark.usefixtures("copy")
def test_what_the_rule_is_not_about_has_no_confidence() -> None:
    calibrate({"rule": RULE, "why": ""})
    searcher = Searcher(model=MODEL)
    own = searcher.index.ids[3]
    asked: list[dict[str, Any]] = [
        {"text": TEXT, "mode": "text"},
        {"text": TEXT, "mode": "hybrid"},
        {"text": TEXT, "like": own},
        {"text": TEXT, "unlike": own},
        {"like": own},
    ]
    for query in asked:
        assert all(hit.confidence is None for hit in searcher.search(**query).hits)
        with pytest.raises(QueryError, match="measured for words alone, in mode 'vector'"):
            searcher.search(**query, only_if_sure=0.5)


@pytest.mark.usefixtures("copy")
def test_without_a_rule_the_reason_is_told() -> None:
    calibrate({"rule": None, "why": "there are no validation captions"})
    with pytest.raises(QueryError, match="not known here: there are no validation captions"):
        Searcher(model=MODEL).search(TEXT, only_if_sure=0.5)


@pytest.mark.usefixtures("copy")
def test_an_index_from_before_tells_how_it_gets_one_and_a_damaged_rule_is_said(copy: Path) -> None:
    with pytest.raises(QueryError, match="built without it: `dvc repro index`"):
        Searcher(model=MODEL).search(TEXT, only_if_sure=0.5)
    path = copy / paths.calibrated(DATASET, MODEL)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    with pytest.raises(DataError, match=r"is damaged .*`dvc repro -f -s calibrate`"):
        calibrate(None)
