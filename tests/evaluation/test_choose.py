"""The choice: as good as any and the cheapest, in one sentence; what is no fair comparison is refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests import experiments
from tests.evaluation import drawn
from tests.experiments import experiment
from twinlens.core.errors import DataError
from twinlens.evaluation.candidate_costs import allow_licence, read_costs
from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.choose import Choice, choose, observe_pair
from twinlens.evaluation.entries import Limits, choose_task, expand_rows, merge_seeds
from twinlens.evaluation.experiments import Experiment
from twinlens.report.choice_text import describe_need, format_choice, write_sentence

TASK, IMAGE, MEASURE = "caption_to_image", "image", "ndcg_at_10"
MACHINE = {
    **{"processor": "old", "cores": 4, "usable_cores": 2, "gpu": "none", "torch": "2.11", "device": "cpu-float32"},
    **{"threads": 1, "digest": "abc"},
}
SERVED = {"ms_per_query": 0.2, "ms_p95": 0.5, "cold_start_s": 1.5, "host_mb": 150.0, "disk_mb_per_million": 512.0}
RUN = {"costs": ["embed_images"], "before_training": False}


def costs(ms: float = 2.0, dim: int = 128, machine: str = "old, 2 cores", **more: Any) -> dict[str, Any]:
    """What a run of the pipeline leaves in metrics/cost.json."""
    images = {"seconds": 1.0, "items": 100, "items_per_s": 1000.0 / ms, "parameters": 10 * dim, "vector_bytes": 4 * dim}
    captions = {"seconds": 1.0, "items": 100, "items_per_s": 5000.0, "parameters": 7}
    stage = {"device": "cpu-float32", "machine": machine}
    return {
        "stages": {"embed": stage},
        "parts": {"embed_images": images | more, "embed_captions": captions},
        "serving": {"machine": MACHINE, "tasks": {TASK: {IMAGE: SERVED}}},
    }


def with_costs(one: Experiment, name: str, found: Mapping[str, Any], run: Mapping[str, Any] = RUN) -> Experiment:
    about = replace(one.open_run(TASK, IMAGE)[0].about, query_text="captions", query_picture=None)

    def open_run(task: str, row: str) -> Any:
        own, lists = one.open_run(task, row)
        return replace(own, about=about), lists

    return replace(
        one, name=name, costs=found, open_told=lambda task, row: run, open_run=open_run, choice={"model": name}
    )


def three(pictures: int = 80) -> list[Candidate]:
    """Two that are equally good, the second at a tenth of the cost, and a third that is worse and cheaper still."""
    task, (worse, *equal) = drawn.draw_captions(np.random.default_rng(0), pictures, 3, 2.5)
    told = zip("abc", (*equal, worse), (costs(10.0, 512), costs(1.0, 64), costs(0.1, 16)), strict=True)
    made = [with_costs(experiment(name, task, {IMAGE: rows}), name, found) for name, rows, found in told]
    return experiments.alone(*made)


def of(made: list[Candidate], **more: Any) -> Choice:
    return choose(made, None, MEASURE, **more)


def test_the_cheapest_of_those_that_cannot_be_told_from_the_best_is_taken() -> None:
    found = of(three())
    assert {entry.name for entry in found.group} == {"a", "b"}
    assert found.chosen.name == "b"
    assert found.compared == ("ms_per_query", "embed_ms", "vector_bytes", "parameters")
    said = write_sentence(found)
    assert said.startswith("Take b: as good as any on your data (nDCG@10 .")
    assert " and the cheapest to index (1 ms) of the 2 that cannot be told from the best; " in said
    assert "\n" not in said
    assert [entry.letter for entry in sorted(found.entries, key=lambda e: e.name)] == ["a", "a", "b"]


def test_the_cost_that_is_named_first_decides_first_and_its_frontier_is_marked() -> None:
    found = of(three(), costs=["vector_bytes"])
    by_name = {entry.name: entry for entry in found.entries}
    assert found.costs == ("vector_bytes",)
    assert by_name["c"].efficient  # the smallest
    best = max(found.entries, key=lambda entry: entry.mean)
    assert best.efficient
    assert by_name["a"].efficient == (best.name == "a")
    with pytest.raises(DataError, match=r"there is no cost 'vektor_bytes' \(.*vector_bytes"):
        of(three(), costs=["vektor_bytes"])


def test_what_is_worse_and_far_cheaper_is_told_beside() -> None:
    for asked in (["embed_ms"], ["ms_per_query", "embed_ms"], []):  # the first is the same for all: it tells nothing
        said = write_sentence(of(three(), costs=asked))
        assert "; c costs a tenth (0.1 ms) for ." in said


def test_what_would_tell_the_two_apart_is_said_in_pictures_and_queries() -> None:
    found = of(three())
    assert found.rival is not None
    assert found.rival.name == "a"
    assert found.plan is not None
    assert describe_need(found.plan, found.clusters) in write_sentence(found)
    assert found.plan.queries is None or found.plan.clusters is None or found.plan.queries == 5 * found.plan.clusters


def test_a_limit_leaves_out_and_says_why_and_the_best_of_the_others_is_taken() -> None:
    found = of(three(), limits=Limits(max_bytes=100))
    assert found.chosen.name == "c"
    refused = {entry.name: entry.refused for entry in found.entries}
    assert refused == {"a": ("vector_bytes 2048 over 100",), "b": ("vector_bytes 256 over 100",), "c": ()}
    assert write_sentence(found).startswith("Take c: the only one of 3 that meets what you ask (nDCG@10 .")


def test_a_limit_that_nobody_meets_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"none of the 3 candidates .* nearest is c: vector_bytes 64 over 10\. Raise"):
        of(three(), limits=Limits(max_bytes=10))
    with pytest.raises(DataError, match=r"the nearest is \w: licence not said"):
        of(three(), limits=Limits(licence="permissive"))


def test_a_licence_is_what_the_cards_say() -> None:
    found = of(three(), limits=Limits(licence="permissive"), licences={"a": "MIT", "b": "CC-BY-NC-4.0", "c": "MIT"})
    assert {e.name: e.refused for e in found.entries if e.refused} == {"b": ("licence CC-BY-NC-4.0",)}
    for licence, asked, wanted in (
        ("Apache-2.0", "permissive", True),
        ("BSD-3-Clause, MIT", "permissive", True),
        ("MIT, CC-BY-SA-3.0", "permissive", False),
        ("trained here", "permissive", True),
        (None, "permissive", False),
        ("CC-BY-SA-3.0", "mit, cc-by-sa-3.0", True),
        ("GPL-3.0", "MIT", False),
    ):
        assert allow_licence(licence, asked) == wanted


def test_times_of_different_machines_are_not_compared_and_it_is_said() -> None:
    made = three()
    other = with_costs(made[0].first, "a", costs(0.01, 512, machine="new, 64 cores"))
    found = of([Candidate("a", (other,)), *made[1:]])
    assert found.compared == ("ms_per_query", "vector_bytes", "parameters")
    (said,) = [note for note in found.notes if note.startswith("Not compared by embed_ms, which are")]
    assert "a on new, 64 cores, cpu-float32; b and c on old, 2 cores, cpu-float32" in said
    assert found.chosen.name == "b"


def test_queries_clocked_on_different_machines_are_not_compared_and_it_is_said_whatever_the_name() -> None:
    made = three()
    there = costs(10.0, 512)
    there["serving"] = {"machine": MACHINE | {"threads": 8, "digest": "def"}, "tasks": {TASK: {IMAGE: SERVED}}}
    found = of([Candidate("a", (with_costs(made[0].first, "a", there),)), *made[1:]])
    assert found.compared == ("embed_ms", "vector_bytes", "parameters")
    (said,) = [note for note in found.notes if note.startswith("Not compared by ms_per_query, which are")]
    assert "a on old, 2 of 4 cores, torch 2.11, cpu-float32, 8 threads (def); b and c on old, 2 of 4" in said
    on_disk = of([Candidate("a", (with_costs(made[0].first, "a", there),)), *made[1:]], costs=["ms_p95", "disk_mb"])
    assert on_disk.compared == ("disk_mb",)  # bytes are the same anywhere


def test_every_row_has_its_own_milliseconds_and_a_limit_is_held_against_them() -> None:
    made = three()
    there = costs(1.0, 64)
    there["serving"] = {"machine": MACHINE, "tasks": {TASK: {IMAGE: SERVED | {"ms_per_query": 3.0}}}}
    words = with_costs(made[1].first, "b", there, {"costs": ["rank_bm25_captions"], "before_training": False})
    found = of([made[0], Candidate("b", (words,)), made[2]], limits=Limits(max_ms=1.0), costs=["ms_per_query"])
    assert {e.name: e.refused for e in found.entries} == {"a": (), "b": ("ms_per_query 3 over 1",), "c": ()}
    asked = of(made, costs=["cold_start_s", "host_mb", "query_price"])
    assert asked.compared == ("cold_start_s", "host_mb")
    assert "query_price is unknown of all: not compared by it." in asked.notes
    told = format_choice(asked, "table")
    assert "1.5 s" in told
    assert "150 MB" in told


def test_milliseconds_that_a_clock_cannot_tell_apart_are_a_tie_and_the_next_cost_decides() -> None:
    made = three()

    def at(ms: float, place: int, embed_ms: float, dim: int) -> Candidate:
        there = costs(embed_ms, dim)
        there["serving"] = {"machine": MACHINE, "tasks": {TASK: {IMAGE: SERVED | {"ms_per_query": ms}}}}
        return Candidate(made[place].name, (with_costs(made[place].first, made[place].name, there),))

    near = [at(1.0, 0, 10.0, 512), at(1.2, 1, 1.0, 64), made[2]]
    found = of(near, costs=["ms_per_query", "embed_ms"])
    assert found.chosen.name == "b"  # a fifth slower, and a tenth to index
    assert "and the cheapest to index (1 ms) of the 2" in write_sentence(found)
    apart = [at(1.0, 0, 10.0, 512), at(1.3, 1, 1.0, 64), made[2]]
    assert of(apart, costs=["ms_per_query", "embed_ms"]).chosen.name == "a"
    assert "the fastest to ask (1 ms)" in write_sentence(of(apart, costs=["ms_per_query"]))


def test_a_record_without_clocked_queries_does_not_pass_throughput_off_as_latency() -> None:
    old = costs()
    del old["serving"]
    one = with_costs(three()[0].first, "a", old)
    found = read_costs(Candidate("a", (one,)), TASK, IMAGE, one.open_run(TASK, IMAGE)[0].about, {})
    assert found.values["ms_per_query"] is None
    assert found.values["embed_ms"] == pytest.approx(2.0)
    assert found.machine_of("ms_per_query") == "a machine that is not named"


def test_without_costs_the_data_cannot_decide_between_equals_and_it_is_said() -> None:
    made = [Candidate(c.name, (replace(c.first, costs={}),)) for c in three()]
    found = of(made)
    said = write_sentence(found)
    assert found.compared == ()
    assert "with the highest mean of the 2 that cannot be told from the best (" in said
    assert any("No costs are known" in note for note in found.notes)
    assert write_sentence(of(made[:2])).startswith("The data cannot decide between ")


def test_a_cost_that_some_lack_is_unknown_and_not_compared() -> None:
    made = three()
    there = costs(10.0, 512)
    del there["parts"]["embed_images"]["vector_bytes"]
    found = of([Candidate("a", (with_costs(made[0].first, "a", there),)), *made[1:]], costs=["vector_bytes"])
    assert found.compared == ()
    assert "vector_bytes is unknown of a: not compared by it." in found.notes
    assert "unknown" in format_choice(found, "table")


def test_what_a_service_took_is_told_a_picture() -> None:
    paid = with_costs(three()[0].first, "a", costs(tokens=500, money=0.02))
    about = paid.open_run(TASK, IMAGE)[0].about
    found = read_costs(Candidate("a", (paid,)), TASK, IMAGE, about, {}).values
    assert found["tokens"] == 5.0
    assert found["money"] == pytest.approx(0.2)
    assert found["ms_per_query"] == pytest.approx(0.2)
    assert found["parameters"] == 1287
    assert found["peak_gpu_mb"] is None


def test_one_candidate_alone_and_two_identical_ones_are_refused() -> None:
    made = three()
    with pytest.raises(DataError, match="choose needs two candidates or more on caption_to_image, found a: name"):
        of(made[:1])
    twin = Candidate("twin", (replace(made[0].first, name="twin"),))
    with pytest.raises(DataError, match=r"nothing to choose .*: twin: the same to every query as a, told once\. Name"):
        of([made[0], twin])
    found = of([*made, twin])
    assert len(found.entries) == 3
    assert "twin: the same to every query as a, told once." in found.notes


def test_another_pool_is_refused() -> None:
    made = three()
    other = replace(made[1].first, pools={TASK: made[1].first.pools[TASK] | {"queries_digest": "x"}})
    with pytest.raises(DataError, match="as many queries, but not the same ones"):
        of([made[0], Candidate("b", (other,))])
    with pytest.raises(DataError, match="b, c has no task 'other'"):
        pools = {"other": made[0].first.pools[TASK]} | made[0].first.pools
        choose([Candidate("a", (replace(made[0].first, pools=pools),)), *made[1:]], "other", MEASURE)


def test_values_that_the_lists_do_not_give_are_of_another_version_and_refused() -> None:
    made = three()
    file = f"{TASK}/{IMAGE}.parquet"
    table = made[1].first.open_table(file).with_columns(pl.col(MEASURE) * 0.9)
    other = replace(made[1].first, open_table=lambda _: table, tables={})
    with pytest.raises(DataError, match=r"b, caption_to_image, image: its lists give .*measured by another version"):
        of([made[0], Candidate("b", (other,)), made[2]])


def test_with_fewer_than_ten_pictures_nobody_is_called_worse() -> None:
    found = of(three(9))
    assert len(found.group) == 3
    said = write_sentence(found)
    assert said.startswith("Your data cannot decide: 9 pictures or classes to draw queries from, of 10 that are needed")
    assert found.plan is None


def test_experiments_that_differ_in_the_seed_alone_are_one_row_with_the_seeds_in_its_interval() -> None:
    made = three()
    told = {"model card: train.lr": "1", "params": "x"}
    one, two = (replace(c.first, trained=True, settings=told | {"model card: train.seed": c.name}) for c in made[:2])
    merged, notes = merge_seeds([Candidate("a", (one,)), Candidate("b", (two,)), made[2]])
    assert [c.name for c in merged] == ["a+b", "c"]
    assert notes == ["a+b differ in the seed alone: one row, the mean over 2 seeds."]
    swept = [replace(each, name=f"x-clip-seed{n}") for n, each in enumerate((one, two))]
    (named,), (note,) = merge_seeds([Candidate(each.name, (each,)) for each in swept])
    assert named.name == "x-clip (2 seeds)"
    assert note == (
        "x-clip (2 seeds) is x-clip-seed0+x-clip-seed1, which differ in the seed alone: one row, the mean over 2 seeds."
    )
    other = replace(two, settings=told | {"model card: train.lr": "2"})
    assert len(merge_seeds([Candidate("a", (one,)), Candidate("b", (other,))])[0]) == 2
    found = of([Candidate("a", (one,)), made[2]])
    assert any(note.startswith("One seed only: a. ") for note in found.notes)
    pair = observe_pair([merged[0], made[2]], None, MEASURE, None)
    assert pair.observed.training > 0
    assert pair.observed.seeds == 2


def test_rows_before_training_are_no_candidates_unless_they_are_named() -> None:
    task, runs = drawn.draw_captions(np.random.default_rng(0), 30, 3)
    rows = dict(zip(("image", "joined", "image_untrained"), runs, strict=True))
    one = experiment("w", task, rows)
    one = replace(one, open_told=lambda task, row: {"before_training": row.endswith("untrained"), "costs": []})
    found = of([Candidate("w", (one,))])
    assert sorted(entry.name for entry in found.entries) == ["image", "joined"]
    assert len(of([Candidate("w", (one,))], retrievers=["image", "image_untrained"]).entries) == 2


def test_every_form_tells_the_same_and_json_has_no_nan() -> None:
    found = of(three())
    read = json.loads(format_choice(found, "json"))
    assert read["chosen"] == "b"
    assert read["group"] == [entry.name for entry in found.group]
    assert read["sentence"] == write_sentence(found)
    for form in ("table", "markdown"):
        text = format_choice(found, form)
        assert text.startswith(read["sentence"])
        assert "nan" not in text.lower()
        assert all(entry.name in text for entry in found.entries)


def test_plan_needs_one_row_of_each_of_two() -> None:
    made = three()
    with pytest.raises(DataError, match="one row of each of two different candidates"):
        observe_pair([made[0], made[0]], None, MEASURE, None)
    with pytest.raises(DataError, match="9 clusters of queries, of 10 that are needed to plan by"):
        observe_pair(three(9)[:2], None, MEASURE, None)


def test_named_rows_choose_the_task_that_has_them_and_a_row_of_another_is_told_where_it_is() -> None:
    first = three()[0].first
    pools = {"object_sets": first.pools[TASK], TASK: first.pools[TASK]}
    runs = [("object_sets", IMAGE), ("object_sets", "captions_joined"), (TASK, IMAGE)]
    made = [Candidate(f"a:{row}", (replace(first, pools=pools, runs=runs),), row) for row in (IMAGE, "captions_joined")]
    assert choose_task(made[:1], None) == TASK
    assert choose_task(made, None) == "object_sets"
    wanted = r"^a:captions_joined has no row of caption_to_image: it is one of object_sets \(--task\); .* are image$"
    with pytest.raises(DataError, match=wanted):
        list(expand_rows(made, TASK, []))
