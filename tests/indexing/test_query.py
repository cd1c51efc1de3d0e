"""The weight of words in a hybrid: as told, as chosen on validation, or even."""

from __future__ import annotations

import pytest

from tests.indexing.conftest import DATASET, MODEL
from tests.indexing.test_searcher import TEXT
from twinlens import Searcher
from twinlens.core import paths


@pytest.mark.usefixtures("copy")
def test_a_weighted_hybrid_takes_the_weight_that_was_chosen_on_validation() -> None:
    assert Searcher().text_weight == 0.5
    folder = paths.ranked(DATASET, MODEL) / "caption_to_image" / "runs"
    folder.mkdir(parents=True)
    (folder / "hybrid_generated_weighted.json").write_text('{"chosen": {"image_weight": 0.7, "validation_queries": 80}}')
    (folder / "hybrid_captions_weighted.json").write_text('{"chosen": {"image_weight": 0.9, "validation_queries": 0}}')
    searcher = Searcher()
    assert searcher.text_weight == 0.3
    asked = {"mode": "hybrid", "fusion": "weighted"}
    assert searcher.search(TEXT, **asked).hits == searcher.search(TEXT, text_weight=0.3, **asked).hits  # type: ignore[arg-type]
    params = searcher.params
    told = params.model_copy(update={"search": params.search.model_copy(update={"text_weight": 0.8})})
    assert Searcher(params=told).text_weight == 0.8
