"""Published figures of a model beside ours: equal conditions are held to the interval, others are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.evaluation.card_figures import (
    HeldFigure,
    RunConditions,
    compare_figures,
    read_figures,
    read_precision,
    write_figures,
)

PARAMS = read_params()
RUN = RunConditions(dataset="flickr30k", precision="float32", stored_px=384)
POOLS = {
    "caption_to_image": {"split": "test", "queries": 5000, "items": 1000},
    "image_to_caption": {"split": "test", "queries": 1000, "items": 5000},
}


def measured(ours: float, pools: dict[str, Any] = POOLS) -> dict[str, Any]:
    return {task: {"pool": pool, "image": {"hit_at_1": ours}} for task, pool in pools.items()}


def compare(model: str, run: RunConditions = RUN, ours: float = 0.6678, **pool: Any) -> list[HeldFigure]:
    retrieval = measured(ours, {task: known | pool for task, known in POOLS.items()})
    intervals = {task: {"image": {"hit_at_1": {"low": ours - 0.013, "high": ours + 0.013}}} for task in POOLS}
    found = compare_figures(PARAMS.models[model], run, PARAMS.datasets, retrieval, intervals)
    return [figure for figure in found if figure.task == "caption_to_image" and figure.dataset.startswith("flickr")]


def test_a_value_within_the_interval_under_the_same_conditions_passes() -> None:
    (figure,) = compare("vit-b-32")
    assert (figure.published, figure.measure, figure.differs) == (0.6678, "hit_at_1", [])
    assert "openclip_retrieval_results" in figure.source
    assert figure.trouble() is None


@pytest.mark.parametrize(("ours", "warns"), [(0.6678, False), (0.6900, False), (0.6915, True), (0.6440, True)])
def test_more_than_a_hundredth_beyond_the_interval_is_told(ours: float, warns: bool) -> None:
    (figure,) = compare("vit-b-32", ours=ours)
    told = figure.trouble()
    assert (told is not None) is warns
    if told is not None:
        assert f"hit_at_1 is {ours:.4f}" in told and "reports 0.6678 for this model under the same conditions" in told


@pytest.mark.parametrize(
    ("model", "run", "pool", "told"),
    [
        ("vit-b-32", RUN, {"split": "val"}, "split: val of flickr30k here, test of flickr30k there"),
        ("vit-b-32", RUN, {"items": 31_014, "queries": 155_070}, "pool: 31,014 pictures here, 1,000 there"),
        ("vit-b-32", RUN, {"queries": 1000}, "captions: 1.00 of a picture here, 5 there"),
        ("vit-b-32", replace(RUN, stored_px=160), {}, "resolution: pictures are stored at 160 px here and enlarged"),
        ("vit-b-32", replace(RUN, dataset="flickr30k-sample"), {}, "split: test of flickr30k-sample here, test of"),
        ("vit-l-14-336-openai", RUN, {}, "prompt: none here, 'a photo of ' there"),
    ],
)
def test_a_condition_that_differs_is_named_and_nothing_is_held(
    model: str, run: RunConditions, pool: dict[str, Any], told: str
) -> None:
    figure = compare(model, run, ours=0.3, **pool)[0]
    assert any(told in condition for condition in figure.differs), figure.differs
    assert figure.trouble() is None


def test_precision_and_resolution_are_conditions_where_the_source_says_them() -> None:
    card = PARAMS.models["vit-b-32"]
    assert card.joint is not None
    about = card.joint.about
    said = about.published[2].model_copy(update={"precision": "float32", "input_px": 256, "counts": "any"})
    tower = card.joint.model_copy(update={"about": about.model_copy(update={"published": (said,)})})
    other = card.model_copy(update={"joint": tower})
    run = replace(RUN, precision="bfloat16", stored_px=None)
    (figure,) = compare_figures(other, run, PARAMS.datasets, measured(0.6), {})
    assert figure.differs == [
        "resolution: 224 px here, 256 px there",
        "precision: bfloat16 here, float32 there",
        "what counts: any of a picture's captions there",
    ]


def test_a_few_captions_more_than_five_of_a_picture_are_the_same_protocol() -> None:
    pools = {"caption_to_image": {"split": "test", "queries": 25_010, "items": 5000}}
    run = replace(RUN, dataset="coco-karpathy")
    found = compare_figures(PARAMS.models["vit-b-32"], run, PARAMS.datasets, measured(0.39, pools), {})
    (figure,) = [one for one in found if one.dataset == "coco-karpathy, test"]
    assert (figure.differs, figure.trouble()) == ([], None)


def test_other_data_other_weights_and_models_without_figures_have_none() -> None:
    assert compare("vit-b-32", replace(RUN, dataset="scenes")) == []
    assert compare("vit-b-32-finetuned") == []  # its base has figures; its weights are others
    assert compare("clip-scenes") == compare("minilm") == []


def test_figures_are_kept_for_the_report_and_the_command_line(tmp_path: Path) -> None:
    found = compare("vit-b-32")
    gates = Gates(PARAMS.gates)
    write_figures([*found, replace(found[0], published=0.8)], tmp_path, gates)
    assert read_figures(tmp_path)[:-1] == found
    (warned,) = gates.found
    assert warned["gate"] == "published" and "reports 0.8000 for this model" in warned["trouble"]
    assert read_figures(tmp_path / "before") == []


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu-float32", "float32"), ("cuda-bfloat16-pixels", "bfloat16"), ("cpu", "float32")],
)
def test_the_precision_is_that_of_the_embedding(device: str, precision: str, tmp_path: Path) -> None:
    (tmp_path / "cost.json").write_text(json.dumps({"device": device}))
    assert read_precision(tmp_path / "cost.json") == precision


@pytest.mark.parametrize("name", sorted(PARAMS.models))
def test_figures_on_cards_are_of_data_that_has_a_card_and_rise_with_the_cut(name: str) -> None:
    joint = PARAMS.models[name].joint
    for figures in joint.about.published if joint is not None else ():
        assert PARAMS.datasets[figures.dataset].origins
        assert figures.source and figures.pictures in (1000, 5000)
        assert figures.input_px == joint.about.input_px  # type: ignore[union-attr]
        by_cut = [figures.values[key] for key in sorted(figures.values, key=lambda key: int(key.rpartition("_")[2]))]
        assert by_cut == sorted(by_cut)
