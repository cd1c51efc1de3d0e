"""What a query costs: joined with other stages of the same machine only, priced, and unknown where it is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.experiments import Rows, alone, object_sets
from tests.experiments import experiment as make_experiment
from twinlens.config.prices import Prices, read_prices
from twinlens.core.errors import DataError, ParamsError
from twinlens.evaluation.cost import read_json
from twinlens.evaluation.machines import say_apart
from twinlens.evaluation.serving import build_serving
from twinlens.tasks.base import Task

HERE = "old, 2 cores"
MACHINE = {
    **{"processor": "old", "cores": 2, "usable_cores": 1, "gpu": "none", "torch": "2.11", "device": "cpu-float32"},
    **{"threads": 1, "digest": "abc"},
}
OWN = {
    "asks": ["captions"], "search_ms": 0.5, "searches_per_s": 1000.0, "vector_bytes": 512.0, "posting_bytes": 88.0,
    "encode_ms": 1.5, "ms_per_query": 2.0, "ms_p95": 3.0, "ms_mean": 2.5, "queries": 50, "cold_start_s": 4.0,
    "host_mb": 300.0,
}  # fmt: skip
PARTS: dict[str, Any] = {
    "embed_images": {"items": 100, "items_per_s": 500.0},
    "embed_captions": {"items": 500, "items_per_s": 1000.0},
    "caption_caption": {"items": 100, "items_per_s": 100.0},
}
NO_PRICES: dict[str, Any] = {"machine_hour": None, "thousand_calls": {}}
IMAGE = ("caption_to_image", "image")


def costs(machine: str = HERE, **parts: Any) -> dict[str, Any]:
    stages = {name: {"machine": machine, "device": "cpu-float32"} for name in ("caption", "embed")}
    return {"stages": stages, "parts": PARTS | parts}


def build(own: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    rows = {"image": OWN | (own or {})}
    given: dict[str, Any] = {
        "prices": NO_PRICES,
        "costs": costs(),
        "made_of": {IMAGE: ["embed_images"]},
        "untrained": {},
    } | more
    clocked = {"machine": MACHINE, "seconds": 1.0, "tasks": {"caption_to_image": rows}}
    return build_serving(clocked, model="clip", **given)


def row(found: dict[str, Any], name: str = "image") -> dict[str, Any]:
    return dict(found["tasks"]["caption_to_image"][name])


def test_a_row_has_latency_throughput_memory_and_disk_and_no_price_without_one() -> None:
    found = build()
    assert found["machine"]["digest"] == "abc"
    told = row(found)
    assert (told["ms_per_query"], told["ms_p95"], told["encode_ms"], told["search_ms"]) == (2.0, 3.0, 1.5, 0.5)
    assert told["queries_per_s"] == 500.0  # a thousandth of a second each for vector and search
    assert told["disk_mb_per_million"] == 600.0
    assert not any(name.startswith("price_") for name in told)


def test_prices_are_of_a_thousand_queries_and_of_a_million_pictures() -> None:
    told = row(build(prices={"machine_hour": 3.6, "thousand_calls": {}}))
    assert told["price_per_thousand_queries"] == pytest.approx(3.6 * 2.5 / 3600)  # the mean, not the median
    assert told["price_per_million_indexed"] == pytest.approx(3.6 * 2000 / 3600)  # two milliseconds each
    paid = costs(embed_images={"items": 100, "items_per_s": 500.0, "money": 0.01})
    assert row(build(costs=paid))["price_per_million_indexed"] == pytest.approx(100.0)


def test_a_service_has_the_price_of_its_calls_and_no_milliseconds() -> None:
    unknown = {"asks": ["captions"], "search_ms": 0.5, "searches_per_s": 1.0, "vector_bytes": 4.0, "posting_bytes": 0.0}
    clocked = {
        "machine": MACHINE,
        "seconds": 1.0,
        "tasks": {"caption_to_image": {"image": unknown | {"why": "a service"}}},
    }
    prices = {"machine_hour": 3.6, "thousand_calls": {"paid": 0.02, "other": 5.0}}
    told = row(build_serving(clocked, prices, costs(), {IMAGE: ["embed_images"]}, {}, "paid"))
    assert "ms_per_query" not in told
    assert told["why"] == "a service"
    assert told["price_per_thousand_queries"] == 0.02
    free = row(build_serving(clocked, prices, costs(), {IMAGE: ["embed_images"]}, {}, "clip"))
    assert "price_per_thousand_queries" not in free


def test_a_picture_that_asks_by_its_description_is_described_first() -> None:
    own = {"asks": ["captions_generated"]}
    parts = costs(embed_captions_generated={"items": 100, "items_per_s": 1000.0})
    told = row(build(own, costs=parts))
    assert (told["ms_per_query"], told["encode_ms"]) == (12.0, 11.5)  # ten milliseconds to be described
    assert told["queries_per_s"] == pytest.approx(1000 / 12, abs=0.05)


def test_figures_of_another_machine_are_left_out_rather_than_joined() -> None:
    told = row(build(costs=costs("new, 64 cores")))
    assert told["ms_per_query"] == 2.0
    assert "queries_per_s" not in told
    described = row(build({"asks": ["captions_generated"]}, costs=costs("new, 64 cores")))
    assert "ms_per_query" not in described
    assert "not measured on this machine" in described["why"]


def test_a_row_before_training_costs_what_it_costs_after_and_one_that_nobody_clocked_is_absent() -> None:
    before, other = ("caption_to_image", "image_untrained"), ("caption_to_image", "other")
    found = build(made_of={IMAGE: ["embed_images"], before: ["embed_images"], other: []}, untrained={before: "image"})
    assert row(found, "image_untrained") == row(found)
    assert list(found["tasks"]["caption_to_image"]) == ["image", "image_untrained"]


def test_words_alone_need_no_vector_of_a_query() -> None:
    told = row(build({"encode_ms": 0.0, "asks": ["captions"]}, costs=costs("new, 64 cores")))
    assert told["queries_per_s"] == 1000.0


def test_compare_says_that_two_experiments_ran_on_different_machines() -> None:
    task = object_sets_of_four()
    one = make_experiment("a", task, {"image": lists_of_four()})
    first, second = (
        type(one)(**vars(one) | {"costs": costs(machine), "name": name})
        for name, machine in (("a", HERE), ("b", "new, 64 cores"))
    )
    told = say_apart([(each.name, each.experiments) for each in alone(first, second)])
    assert told.startswith(
        "Run on different machines, so that their times and memory do not compare: a on old, 2 cores"
    )
    assert say_apart([(each.name, each.experiments) for each in alone(first, first)]) == ""
    assert say_apart([(each.name, each.experiments) for each in alone(one, first)]) == ""  # one is not known
    clocked = [
        type(one)(**vars(one) | {"costs": costs() | {"serving": {"machine": MACHINE | {"gpu": gpu}}}, "name": gpu})
        for gpu in ("H100", "A100")
    ]
    told = say_apart([(each.name, each.experiments) for each in alone(*clocked)])
    assert "H100 on old, 1 of 2 cores, H100, torch 2.11" in told


def object_sets_of_four() -> Task:
    return object_sets(np.array([0, 0, 1, 1]))


def lists_of_four() -> Rows:
    return np.array([[1, 2, 3], [0, 2, 3], [3, 0, 1], [2, 0, 1]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("machine_hour: -1", "machine_hour"),
        ("hour: 1", "hour"),
        ("thousand_calls: {a: x}", "thousand_calls"),
        ("- 1", "list"),
    ],
)
def test_prices_that_make_no_sense_are_refused_in_words(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(content)
    with pytest.raises(ParamsError, match=message):
        read_prices(tmp_path)


def test_prices_are_empty_as_delivered_and_missing_files_are_named(tmp_path: Path) -> None:
    assert read_prices() == Prices()
    with pytest.raises(ParamsError, match=r"prices\.yaml is not here"):
        read_prices(tmp_path)
    with pytest.raises(DataError, match=r"clock\.json is not here"):
        read_json(tmp_path / "clock.json")
