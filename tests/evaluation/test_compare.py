"""Comparisons: null ones come out as no difference, real ones are found, mixed pools are refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from twinlens.core.errors import DataError
from twinlens.evaluation.compare import check_same_pools, compare, find_changes, find_most_changed, holm, sign_flip_p
from twinlens.evaluation.experiments import Experiment
from twinlens.report.comparison_page import render
from twinlens.report.comparison_text import format_comparison

POOL = {
    "dataset": "d",
    "split": "test",
    "queries": 100,
    "items": 50,
    "queries_digest": "q",
    "items_digest": "i",
    "retrievers": ["image"],
    "k": 10,
}


def experiment(name: str, values: np.ndarray, clusters: np.ndarray, **pool: object) -> Experiment:
    table = pl.DataFrame(
        {
            "query_id": [f"q{n}" for n in range(len(values))],
            "group": [f"g{c}" for c in clusters],
            "cluster": [f"g{c}" for c in clusters],
            "first_hit": np.round(1 / np.clip(values, 0.01, 1)).astype(int),
            "hit_at_10": values,
        }
    )
    return Experiment(name, {}, {"t": POOL | pool}, [("t", "image")], lambda _: table)


def drawn(rng: np.random.Generator, clusters: int, gain: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Hits of five queries a cluster, of which some clusters are hard."""
    codes = np.repeat(np.arange(clusters), 5)
    chance = np.clip(np.random.default_rng(9).beta(2, 2, clusters) + gain, 0, 1)
    wobble = rng.normal(0, 0.15, clusters)  # what a model happens to know of a picture
    return (rng.random(len(codes)) < np.clip(chance + wobble, 0, 1)[codes]).astype(float), codes


@pytest.mark.slow
def test_planted_null_comparisons_come_out_as_no_difference_95_percent_of_the_time() -> None:
    rng = np.random.default_rng(0)
    single = several = naive = 0
    for seed in range(400):
        made = [experiment(name, *drawn(rng, 60)) for name in "abc"]
        two = compare(made[:2], ["hit_at_10"], seed=seed)
        single += two[0].verdict == "no difference"
        several += all(d.verdict == "no difference" for d in compare(made, ["hit_at_10"], seed=seed))
        differences = np.stack([m.read("t", "image")["hit_at_10"].to_numpy() for m in made[:2]])
        by_query = (differences[1] - differences[0])[:, None]
        naive += sign_flip_p(by_query, np.arange(len(by_query)), flips=400, seed=seed)[0] >= 0.05
    assert single / 400 == pytest.approx(0.95, abs=0.025)
    assert several / 400 >= 0.93  # of three pairs at once; Holm may be cautious, never bold
    assert naive < single


def test_a_real_difference_is_found_and_has_an_interval_on_its_side_of_zero() -> None:
    rng = np.random.default_rng(1)
    first, second = experiment("a", *drawn(rng, 200)), experiment("b", *drawn(rng, 200, gain=0.1))
    (found,) = compare([first, second], ["hit_at_10"])
    assert found.verdict == "b is better"
    assert found.interval.low is not None
    assert 0 < found.interval.low < found.effect
    (turned,) = compare([second, first], ["hit_at_10"])
    assert turned.verdict == "b is better"
    assert turned.effect == pytest.approx(-found.effect)


def test_with_few_clusters_all_flips_are_tried_and_the_p_value_is_exact() -> None:
    differences = np.array([[0.3], [0.1], [0.2], [-0.1], [0.4]])
    flips = [abs(np.dot(signs, differences[:, 0])) for signs in itertools.product([-1, 1], repeat=5)]
    exact = np.mean(np.array(flips) >= 0.9 - 1e-12)
    assert sign_flip_p(differences, np.arange(5))[0] == pytest.approx(exact)
    assert sign_flip_p(np.array([[0.5], [0.5]]), np.zeros(2, dtype=int))[0] == 1.0  # one cluster shows nothing


def test_drawn_flips_agree_with_all_flips() -> None:
    differences = np.random.default_rng(2).normal(0.2, 0.5, (13, 1))
    exact = sign_flip_p(differences, np.arange(13))[0]
    signs = np.random.default_rng(3).choice([-1, 1], (20_000, 13))
    drawn_p = np.mean(np.abs(signs @ differences[:, 0]) >= abs(differences.sum()))
    assert exact == pytest.approx(drawn_p, abs=0.01)
    padded = np.concatenate([differences, np.zeros((1, 1))])  # a 14th cluster without a difference
    assert sign_flip_p(padded, np.arange(14), flips=20_000)[0] == pytest.approx(exact, abs=0.01)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_same_results_are_no_difference_and_leave_no_nan() -> None:
    values, codes = drawn(np.random.default_rng(4), 30)
    (found,) = compare([experiment("a", values, codes), experiment("b", values, codes)], ["hit_at_10"])
    assert found.verdict == "no difference"
    assert found.as_json()["interval"] == {"not_defined": "every query has the same value"}
    for form in ("table", "markdown", "json"):
        assert "nan" not in format_comparison([found], [], form).lower()


def test_the_queries_that_changed_most_come_first() -> None:
    before, after = np.full(6, 0.5), np.array([0.5, 0.4, 1.0, 0.5, 0.0, 0.5])
    codes = np.arange(6)
    made = [experiment("a", before, codes), experiment("b", after, codes)]
    table = find_most_changed(made[0], made[1], "t", "image", "hit_at_10", 2)
    assert table["query_id"].to_list() == ["q4", "q2"]  # as large a change, but its first hit moved further
    assert table["change"].to_list() == [-0.5, 0.5]
    found = compare(made, ["hit_at_10"])
    listed = json.loads(format_comparison(found, find_changes(made, found, "hit_at_10", 2), "json"))
    assert [q["query_id"] for q in listed["changed"][0]["queries"]] == ["q4", "q2"]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"dataset": "e"}, "the dataset is d in a and e in b"),
        ({"items": 51}, "the number of items is 50 in a and 51 in b"),
        ({"items_digest": "x"}, "as many items, but not the same ones"),
        ({"queries_digest": "x"}, r"as many queries, but not the same ones \(row 3: q3 of 'g3' against q3 of 'g0'\)"),
    ],
)
def test_experiments_over_different_pools_are_refused_naming_the_difference(pool: dict, message: str) -> None:
    codes = np.arange(6)
    first = experiment("a", np.ones(6), codes)
    second = experiment("b", np.ones(6), codes % 3 if "queries_digest" in pool else codes, **pool)
    with pytest.raises(DataError, match=message):
        check_same_pools(first, second)


def test_a_measure_or_retriever_that_is_not_there_is_named() -> None:
    codes = np.arange(6)
    pair = [experiment(name, np.ones(6), codes) for name in "ab"]
    with pytest.raises(DataError, match=r"no hit_at_1 .*did you mean 'hit_at_10'"):
        compare(pair, ["hit_at_1"])
    with pytest.raises(DataError, match="share no retriever among those asked for: image against image"):
        compare(pair, ["hit_at_10"], retrievers=["caption_generated"])


@pytest.mark.parametrize(
    ("form", "wanted"), [("table", str.isprintable), ("markdown", lambda line: line.startswith("|"))]
)
def test_tables_have_a_row_for_each_comparison(form: str, wanted: Callable[[str], bool]) -> None:
    rng = np.random.default_rng(5)
    found = compare([experiment(name, *drawn(rng, 30)) for name in "abc"], ["hit_at_10"])
    lines = [line for line in format_comparison(found, [], form).splitlines() if "hit_at_10" in line]
    assert len(lines) == 3
    assert all(map(wanted, lines))


def test_the_page_of_a_comparison_has_a_cell_for_each_experiment_and_escapes_their_names() -> None:
    rng = np.random.default_rng(6)
    made = [experiment(name, *drawn(rng, 60, gain)) for name, gain in (("<b>a", 0.0), ("b", 0.0), ("c", 0.3))]
    found = compare(made, ["hit_at_10"])
    page = render(made, found, find_changes(made, found, "hit_at_10", 2))
    assert "<b>a" not in page
    assert "&lt;b&gt;a" in page
    for one in made:
        mean = float(one.read("t", "image")["hit_at_10"].to_numpy().mean())
        assert f"<td>{mean:.3f}<small>" in page
    assert page.count("c is better") == 2
    assert page.count("<td>no difference</td>") == 1
    assert page.count('<table class="changed">') == 3
    assert "nan" not in page.lower().replace("inance", "")
    assert "http" not in page


def test_a_run_that_one_experiment_lacks_is_said_to_be_not_run() -> None:
    codes = np.arange(20)
    values = np.random.default_rng(7).random(20)
    made = [experiment(name, values, codes) for name in "abc"]
    object.__setattr__(made[2], "runs", [])
    found = compare(made[:2], ["hit_at_10"])
    assert "<td>not run</td>" in render(made, found, [])


def test_runs_that_differ_in_no_query_are_not_corrected_for() -> None:
    rng = np.random.default_rng(8)
    first, second = experiment("a", *drawn(rng, 100)), experiment("b", *drawn(rng, 100, gain=0.06))
    (alone,) = compare([first, second], ["hit_at_10"])
    for made in (first, second):  # a second retriever, the same in both
        made.runs.append(("t", "captions_joined"))
        made.tables["t/captions_joined.parquet"] = first.read("t", "image")
    found = compare([first, second], ["hit_at_10"])
    assert [d.same for d in found] == [False, True]
    assert found[0].p_holm == alone.p_holm
    assert found[1].p_holm == 1
