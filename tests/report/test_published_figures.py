"""Published figures: transcribed whole, and shown only beside what is about the same thing."""

from __future__ import annotations

import pytest

from twinlens.config.load import read_params
from twinlens.report.published import read_published, select_published

NAMES = {"dataset": "coco", "model": "mpnet", "captioner": "blip-base"}
OURS = {"mrr": 0.45, "ndcg": 0.5, "map": 0.4, "precision": 0.3, "recall": 0.7}
METRICS = {
    "as_published": {"object_sets": {"captions_joined": OURS, "caption_generated": OURS, "image": OURS}},
    "retrieval": {"object_sets": {}},
}


def test_each_of_the_five_sources_has_its_figures() -> None:
    sources = read_published()
    assert {source["source"][:3] for source in sources} == {"000", "001", "002", "003", "004"}
    for source in sources:
        assert source["where"]
        assert source["why"]
        for figure in source["figures"]:
            assert len(figure["values"]) == len(source["measures"])
            assert all(value is None or 0 < value < 1 for value in figure["values"])


def test_figures_that_can_be_shown_are_of_cards_that_exist() -> None:
    params = read_params()
    shown = [source for source in read_published() if source["dataset"] in params.datasets and source["file"]]
    assert shown
    for source in shown:
        for figure in source["figures"]:
            assert set(figure["models"]) <= set(params.models)
            assert figure.get("captioner", "none") in params.captioners


def test_ours_stands_beside_theirs_with_the_difference_and_the_reason() -> None:
    found = [f for f in select_published(NAMES, METRICS) if f.retriever == "captions_joined"]
    assert [f.measure for f in found] == ["map", "mrr", "ndcg", "precision", "recall"]
    mrr = found[1]
    assert (mrr.published, mrr.ours) == (0.4611, 0.45)
    assert mrr.difference == pytest.approx(-0.0111)
    assert "ties are sorted" in mrr.why


def test_a_withdrawn_figure_and_its_correction_are_both_shown() -> None:
    values = [
        f.published
        for f in select_published(NAMES, METRICS)
        if (f.retriever, f.measure) == ("caption_generated", "mrr")
    ]
    assert values == [0.4659, 0.3819]


@pytest.mark.parametrize(("key", "other"), [("dataset", "coco-val"), ("model", "minilm")])
def test_another_dataset_or_model_has_none(key: str, other: str) -> None:
    assert select_published(NAMES | {key: other}, METRICS) == []


def test_captions_of_another_captioner_are_not_compared() -> None:
    found = select_published(NAMES | {"captioner": "blip-large"}, METRICS)
    assert {f.retriever for f in found} == {"captions_joined"}
