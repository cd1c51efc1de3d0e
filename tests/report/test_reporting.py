"""Tables that people and plots read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twinlens.core import paths
from twinlens.core.costs import Cost
from twinlens.core.errors import DataError
from twinlens.evaluation.cost import (
    STAGES,
    TRAINING,
    build_quality_cost_rows,
    build_training_rows,
    summarise_costs,
    write_csv,
)
from twinlens.report.summary import describe_pool, format_markdown, format_results_table, summarise_results

VALUES = {f"{m}_at_10": 0.5 for m in ("hit", "recall", "precision", "mrr", "ndcg", "map")} | {"median_rank": 2.5}
POOL = {
    "queries": 5_000,
    "items": 1_000,
    "chance_hit_at_10": 0.01,
    "distinct_queries": 2_689,
    "ceiling": {"hit_at_1": 0.5688, "mrr_at_10": 0.700028, "ndcg_at_10": 0.76689, "hit_at_10": 0.977},
}
RETRIEVAL = {
    "object_sets": {"pool": {"queries": 5, "items": 7}, "image_and_caption_generated": VALUES},
    "caption_to_image": {"pool": POOL, "image": VALUES},
}
MADE_OF = {
    ("object_sets", "image_and_caption_generated"): ["embed_images", "caption_caption", "embed_captions_generated"],
    ("caption_to_image", "image"): ["embed_images"],
}
PARTS = {
    "embed_images": {"items_per_s": 100.0},
    "embed_captions_generated": {"items_per_s": 1000.0},
    "caption_caption": {"items_per_s": 20.0},
}


def test_columns_line_up_and_numbers_stand_at_the_right() -> None:
    table = format_markdown(["name", "value"], [["a", "10.5"], ["longer", "2"]])
    assert table.splitlines() == [
        "| name   | value |",
        "| ------ | ----: |",
        "| a      |  10.5 |",
        "| longer |     2 |",
    ]


def test_the_results_are_told_in_the_order_of_the_tasks() -> None:
    lines = format_results_table(RETRIEVAL, 10).splitlines()
    assert lines[2].startswith("| object_sets      | image_and_caption_generated |     0.500 |")
    assert lines[3].startswith("| caption_to_image | image")
    assert lines[3].endswith("|         2.5 |")


def test_the_pool_of_each_task_is_told_below_the_results() -> None:
    lines = format_results_table(RETRIEVAL, 10).splitlines()
    assert lines[-3:] == [
        "",
        "object_sets: 5 queries, 7 items",
        "caption_to_image: 5,000 queries of which 2,689 distinct, 1,000 items, chance hit@10 0.010, "
        "best possible MRR@10 0.700, nDCG@10 0.767, hit@10 0.977",
    ]


def test_a_chance_above_one_half_and_a_ceiling_are_told_beside_each_other() -> None:
    easy = {"queries": 60, "items": 358, "chance_hit_at_10": 0.5537, "ceiling": {"mrr_at_10": 1.0, "hit_at_10": 1.0}}
    assert describe_pool("category_search", easy, 10) == (
        "category_search: 60 queries, 358 items, chance hit@10 0.554 (more than one half: look at a smaller k)"
    )


def test_a_picture_in_an_index_costs_all_that_it_is_made_of() -> None:
    rows = {row["retriever"]: row for row in build_quality_cost_rows(RETRIEVAL, MADE_OF, {"parts": PARTS}, 10)}
    assert rows["image"]["ms_per_picture"] == pytest.approx(10)
    assert rows["image_and_caption_generated"]["ms_per_picture"] == pytest.approx(10 + 50 + 1)


def test_the_summary_has_a_measure_by_task_and_retriever_and_what_is_paid_once() -> None:
    rows = build_quality_cost_rows(RETRIEVAL, MADE_OF, {"parts": PARTS}, 10)
    assert summarise_results(RETRIEVAL, rows, 10) == {
        "ndcg": {"object_sets": {"image_and_caption_generated": 0.5}, "caption_to_image": {"image": 0.5}},
        "ms_per_picture": {"image": pytest.approx(10)},
    }


def test_a_part_of_the_costs_that_no_stage_recorded_is_refused_by_name() -> None:
    parts = {name: part for name, part in PARTS.items() if name != "caption_caption"}
    with pytest.raises(DataError, match="no stage has recorded what caption_caption takes; there are embed_images"):
        build_quality_cost_rows(RETRIEVAL, MADE_OF, {"parts": parts}, 10)


def test_a_part_without_a_rate_costs_nothing() -> None:
    parts = PARTS | {"embed_images": {"items_per_s": 0.0}}
    rows = {row["retriever"]: row for row in build_quality_cost_rows(RETRIEVAL, MADE_OF, {"parts": parts}, 10)}
    assert rows["image"]["ms_per_picture"] == 0
    assert rows["image_and_caption_generated"]["ms_per_picture"] == pytest.approx(51)


def test_costs_are_gathered_from_the_stages_own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"dataset": "d", "captioner": "captioner", "model": "model"}
    for stage, kinds in STAGES.items():
        cost = Cost()
        if stage == "embed":
            cost.add("images", seconds=2.0, items=10, dim=4, vector_bytes=16)
        cost.write(paths.cost(stage, *(named[kind] for kind in kinds)), items=10, seconds=4.0)
    costs = summarise_costs("d", "model", "captioner")
    assert costs["stages"]["embed"]["items_per_s"] == 2.5
    assert list(costs["stages"]) == list(STAGES)
    assert costs["parts"]["embed_images"]["items_per_s"] == 5
    assert "null" not in json.dumps(costs)


def test_what_was_trained_is_told_epoch_by_epoch_and_what_was_not_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "model.csv").write_text("epoch,loss,val_hit_at_10\n1,3.5,0.25\n2,2.5,0.5\n")
    rows = build_training_rows({"model": tmp_path / "model.csv", "captioner": tmp_path / "none.csv"})
    assert rows[0] == {"trained": "model", "epoch": 1, "figure": "loss", "value": 3.5}
    assert [row["value"] for row in rows if row["figure"] == "val_hit_at_10"] == [0.25, 0.5]
    assert {row["trained"] for row in rows} == {"model"}
    write_csv([], tmp_path / "empty.csv", TRAINING)
    assert (tmp_path / "empty.csv").read_text() == "trained,epoch,figure,value\n"
