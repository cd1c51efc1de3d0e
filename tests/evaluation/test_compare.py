"""Comparisons: null ones come out as not shown, real ones are found, mixed pools are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests import experiments
from tests.evaluation import drawn
from tests.experiments import Rows, alone, experiment
from twinlens.core.errors import DataError
from twinlens.evaluation.candidates import (
    Candidate,
    check_same_pools,
    describe_settings,
    list_changed_settings,
    read_candidate,
)
from twinlens.evaluation.compare import NOT_SHOWN, compare, find_changes, find_most_changed, holm
from twinlens.evaluation.experiments import Experiment, ExperimentError, flatten_settings
from twinlens.report.comparison_page import render
from twinlens.report.comparison_text import format_comparison

IMAGE = "image"


def two(seed: int = 0, better: float = 1.0, pictures: int = 60) -> list[Experiment]:
    """Two models over one draw of pictures; the noise of the first is `better` times that of the second."""
    task, runs = drawn.draw_captions(np.random.default_rng(seed), pictures, 2, better)
    return [experiment(name, task, {IMAGE: rows}) for name, rows in zip("ab", runs, strict=True)]


def found_at(places: list[int], pictures: int = 12) -> Rows:
    """Lists of single captions, whose picture stands at the place told."""
    rows = []
    for query, place in enumerate(places):
        others = [item for item in range(pictures) if item != query]
        rows.append([*others[: place - 1], query, *others[place - 1 :]])
    return np.array(rows)


def of_places(name: str, places: list[int], **pool: Any) -> Experiment:
    return experiment(
        name, experiments.caption_to_image(len(places), 1), {IMAGE: found_at(places, len(places))}, **pool
    )


@pytest.mark.slow
def test_of_three_models_alike_none_is_called_better_in_95_percent_of_draws() -> None:
    rng, shown = np.random.default_rng(0), 0
    for _ in range(60):
        task, runs = drawn.draw_object_sets(rng, 80, 3)
        made = [experiment(name, task, {IMAGE: rows}) for name, rows in zip("abc", runs, strict=True)]
        shown += any(d.shown for d in compare(alone(*made), ["ndcg_at_10"]))
    assert shown <= 6


def test_a_real_difference_is_found_and_has_an_interval_on_its_side_of_zero() -> None:
    first, second = alone(*two(better=2.5))
    (found,) = compare([first, second], ["ndcg_at_10"])
    assert found.verdict == "b is better"
    assert found.interval.low is not None
    assert 0 < found.interval.low < found.effect
    (turned,) = compare([second, first], ["ndcg_at_10"])
    assert turned.verdict == "b is better"
    assert turned.effect == pytest.approx(-found.effect)
    assert turned.p == pytest.approx(found.p)


def test_the_interval_is_the_test_turned_round() -> None:
    for seed in range(4):
        (found,) = compare(alone(*two(seed, better=1.3)), ["mrr_at_10"])
        assert found.interval.low is not None
        assert found.interval.high is not None
        assert (found.p < 0.05) == (found.interval.low > 0 or found.interval.high < 0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_same_results_are_not_shown_to_differ_and_leave_no_nan() -> None:
    one = two()[0]
    made = alone(one, replace(one, name="b"))
    (found,) = compare(made, ["hit_at_10"])
    assert found.verdict == NOT_SHOWN == "not shown"
    assert found.as_json()["interval"] == {"not_defined": "every query has the same value"}
    for form in ("table", "markdown", "json"):
        assert "nan" not in format_comparison(made, [found], [], form).lower()


def test_with_fewer_than_six_pictures_nothing_is_claimed_and_it_is_said_why() -> None:
    for pictures, claimed in ((5, False), (6, True)):
        made = alone(of_places("a", [3] * pictures), of_places("b", [1] * pictures))
        (found,) = compare(made, ["mrr_at_10"])
        assert found.clusters == pictures
        assert found.tested == claimed
        assert found.shown == claimed
        if not claimed:
            assert found.p == 1
    made = alone(of_places("a", [3, 2, 4, 2, 1]), of_places("b", [1, 1, 1, 3, 1]))
    (few,) = compare(made, ["mrr_at_10"])
    assert "5 clusters, of 6 that are needed" in few.interval.why
    assert ".48, .77, .87, .90" in few.interval.why


def test_where_all_clusters_agree_exactly_the_p_value_is_that_of_their_signs() -> None:
    (found,) = compare(alone(of_places("a", [3] * 8), of_places("b", [1] * 8)), ["mrr_at_10"])
    assert found.p == 2 * 0.5**8
    assert found.effect == pytest.approx(2 / 3)


def test_the_queries_that_changed_most_come_first() -> None:
    made = alone(of_places("a", [2, 2, 2, 2, 1, 2, 3, 3]), of_places("b", [2, 3, 1, 2, 2, 2, 3, 3]))
    table = find_most_changed(made[0], made[1], "caption_to_image", (IMAGE, IMAGE), "mrr_at_10", 3)
    assert table["query_id"].to_list() == ["p0002#0", "p0004#0", "p0001#0"]
    assert table["change"].to_list() == pytest.approx([0.5, -0.5, 1 / 3 - 1 / 2])
    found = compare(made, ["mrr_at_10"])
    listed = json.loads(format_comparison(made, found, find_changes(made, found, "mrr_at_10", 2), "json"))
    assert [q["query_id"] for q in listed["changed"][0]["queries"]] == ["p0002#0", "p0004#0"]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"dataset": "e"}, "the dataset is d in a and e in b"),
        ({"items": 51}, "the number of items is 6 in a and 51 in b"),
        ({"items_digest": "x"}, "as many items, but not the same ones"),
        ({"queries_digest": "x"}, r"as many queries, but not the same ones; only"),
        ({"texts_digest": "x"}, "the texts of the queries or items in a are not those in b, though their ids are"),
    ],
)
def test_experiments_over_different_pools_are_refused_naming_the_difference(pool: dict, message: str) -> None:
    first = of_places("a", [1] * 6, texts_digest="t")
    second = of_places("b", [1] * 6, **({"texts_digest": "t"} | pool))
    with pytest.raises(DataError, match=message):
        check_same_pools(first, second)
    with pytest.raises(DataError, match=message):
        compare(alone(first, second), ["hit_at_10"])
    with pytest.raises(DataError, match=message):  # among the seeds of one candidate too
        compare([Candidate("a+b", (first, second)), *alone(of_places("c", [1] * 6, texts_digest="t"))], ["hit_at_10"])


def test_queries_of_other_groups_are_refused_naming_the_first() -> None:
    made = []
    for name, sets in (("a", [0, 0, 0, 1, 1, 1]), ("b", [0, 0, 1, 1, 0, 1])):
        task = experiments.object_sets(np.array(sets))
        rows = experiments.rank(np.eye(6), np.eye(6), 5, np.arange(6))
        made.append(experiment(name, task, {IMAGE: rows}, queries_digest=name))
    with pytest.raises(DataError, match=r"not the same ones \(row 2: p0002 of 'g0' against p0002 of 'g1'\)"):
        check_same_pools(*made)


def test_a_measure_or_retriever_that_is_not_there_is_named() -> None:
    pair = alone(*two())
    with pytest.raises(DataError, match=r"no hit_at_2 .*did you mean 'hit_at_"):
        compare(pair, ["hit_at_2"])
    with pytest.raises(DataError, match="share no retriever among those asked for: image against image"):
        compare(pair, ["hit_at_10"], retrievers=["caption_generated"])


def test_values_that_are_not_those_of_the_runs_are_refused() -> None:
    first, second = two()
    name = f"caption_to_image/{IMAGE}.parquet"
    second.tables[name] = second.read("caption_to_image", IMAGE).with_columns(hit_at_10=0.5)
    with pytest.raises(DataError, match="they are not of one run of the pipeline"):
        compare(alone(first, second), ["hit_at_10"])


def test_a_measure_of_the_whole_ranking_is_compared_over_other_queries_alone() -> None:
    first, second = two(better=2.5)
    name, rng = f"caption_to_image/{IMAGE}.parquet", np.random.default_rng(0)
    gains = rng.random(300)
    for one, values in ((first, gains / 2), (second, gains)):
        one.tables[name] = one.read("caption_to_image", IMAGE).with_columns(average_precision=values)
    found = compare(alone(first, second), ["average_precision", "ndcg_at_10"])
    assert found[0].effect == pytest.approx(gains.mean() / 2)
    by_picture = (gains / 2).reshape(60, 5).mean(axis=1)
    half = stats.t.ppf(0.975, 59) * by_picture.std(ddof=1) / np.sqrt(60)
    assert found[0].interval.high == pytest.approx(gains.mean() / 2 + half, abs=1e-3)
    assert found[1].verdict == "b is better"


# ---------------------------------------------------------------- rows and seeds


def rows_of_one(known: dict[str, Experiment], *names: str) -> list[Candidate]:
    return [read_candidate(name, known) for name in names]


def with_rows(name: str = "main", seed: int = 0) -> Experiment:
    task, runs = drawn.draw_captions(np.random.default_rng(seed), 60, 3, 2.5)
    return experiment(name, task, dict(zip(("image", "captions_joined", "words"), runs, strict=True)))


def test_two_rows_of_one_table_are_compared() -> None:
    known = {"main": with_rows()}
    made = rows_of_one(known, "main:image", "main:captions_joined")
    (found,) = compare(made, ["ndcg_at_10"])
    assert (found.retriever, found.retriever_second) == ("image", "captions_joined")
    assert found.verdict == "main:captions_joined is better"
    table = known["main"].read
    wanted = [table("caption_to_image", row)["ndcg_at_10"].mean() for row in ("image", "captions_joined")]
    assert [found.mean_first, found.mean_second] == pytest.approx(wanted)
    text = format_comparison(made, [found], find_changes(made, [found], "ndcg_at_10", 1), "table")
    assert "image and captions_joined" in text
    page = render(made, [found], [])
    assert page.count("<td>not run</td>") == 2


def test_a_row_of_one_experiment_is_compared_with_that_of_another() -> None:
    known = {"main": with_rows(), "other": with_rows("other", 0)}
    (found,) = compare(rows_of_one(known, "main:image", "other:words"), ["ndcg_at_10"])
    assert (found.retriever, found.retriever_second) == ("image", "words")
    for names in (("main:words", "other"), ("main", "other:words")):
        (found,) = compare(rows_of_one(known, *names), ["ndcg_at_10"])
        assert (found.retriever, found.retriever_second) == ("words", "words")


@pytest.mark.parametrize("name", ["main:", ":image", "main+", "main+main"])
def test_a_name_that_is_none_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(ExperimentError, match=r"wanted `experiment`, `experiment:row` such as `main:image`"):
        read_candidate(name, {"main": with_rows()})


def test_a_row_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ExperimentError, match=r"main has no row 'imag' \(did you mean 'image'"):
        read_candidate("main:imag", {"main": with_rows()})


def test_seeds_are_one_candidate_whose_values_are_their_means_and_whose_spread_counts() -> None:
    task, runs = drawn.draw_captions(np.random.default_rng(3), 80, 6)
    known = {f"s{n}": experiment(f"s{n}", task, {IMAGE: rows}) for n, rows in enumerate(runs)}
    made = rows_of_one(known, "s0+s1+s2", "s3+s4+s5")
    (found,) = compare(made, ["ndcg_at_10"])
    tables = [known[f"s{n}"].read("caption_to_image", IMAGE) for n in range(6)]
    means = [float(table["ndcg_at_10"].to_numpy().mean()) for table in tables]
    assert found.mean_first == pytest.approx(np.mean(means[:3]))
    assert found.effect == pytest.approx(np.mean(means[3:]) - np.mean(means[:3]))
    assert found.first == "s0+s1+s2"
    assert found.interval.low is not None
    assert found.interval.high is not None
    between = float(np.var(means[:3], ddof=1) + np.var(means[3:], ddof=1)) / 3
    assert (found.interval.high - found.interval.low) / 2 > 1.96 * np.sqrt(between)
    hits = made[0].read("caption_to_image", IMAGE)["first_hit"].to_numpy()
    each = [table["first_hit"].to_numpy() for table in tables[:3]]
    assert hits.tolist() == np.median(each, axis=0).tolist()


def test_seeds_that_spread_widely_show_nothing_where_one_of_each_would() -> None:
    good, bad = of_places("good", [1] * 30), of_places("bad", [4] * 30)
    known = {"g": good, "b": bad, "h": good, "i": of_places("i", [2] * 15 + [4] * 15)}
    (one,) = compare(rows_of_one(known, "b", "g"), ["mrr_at_10"])
    (several,) = compare(rows_of_one(known, "b+h", "g+i"), ["mrr_at_10"])
    assert one.shown
    assert not several.shown


# ---------------------------------------------------------------- what differs


def settings(model: str, seed: int, **params: object) -> dict[str, str]:
    given = {"dataset": "scenes", "model": model, "rank": {"image_weight": 0.5}, "compute": {"device": "cpu"}} | params
    return flatten_settings(given, {"model": {"train": {"seed": seed, "epochs": 4}}, "captioner": {}})


def test_the_heading_names_what_differs_and_that_one_seed_is_one_seed() -> None:
    base = replace(two()[0], trained=True, settings=settings("clip", 0))
    made = {
        "seed": replace(base, settings=settings("clip", 1)),
        "weight": replace(base, settings=settings("clip", 0, rank={"image_weight": 0.8}, compute={"device": "cuda"})),
        "model": replace(base, settings=settings("siglip", 0)),
        "same": replace(base, name="again"),
    }
    first, seed, weight, model, same = alone(base, *made.values())
    assert list(list_changed_settings(first, seed)) == ["model card: train.seed 0 → 1"]
    assert list(list_changed_settings(first, weight)) == ["rank.image_weight 0.5 → 0.8"]
    assert list(list_changed_settings(first, model)) == ["model clip → siglip"]
    said = describe_settings(first, seed)
    assert said.startswith(
        "What differs: model card: train.seed 0 → 1. One seed each: this compares two sets of weights"
    )
    assert describe_settings(first, same).startswith("No setting differs.")
    several = Candidate("a+b", (base, made["seed"]))
    assert "One seed" not in describe_settings(several, several)
    text = format_comparison([first, seed], compare([first, replace(seed, name="b")], ["hit_at_10"])[:0], [], "table")
    assert "corrected together for 0 comparisons" in text


def test_two_rows_of_a_trained_model_are_of_one_seed() -> None:
    known = {"main": replace(with_rows(), trained=True)}
    said = describe_settings(*rows_of_one(known, "main:image", "main:words"))
    assert said.startswith("One seed: with other weights of the same recipe it may come out otherwise")


def test_what_differs_heads_every_form() -> None:
    first, second = two()
    first, second = replace(first, settings={"model": "x"}), replace(second, settings={"model": "<y>"})
    made = alone(first, second)
    found = compare(made, ["hit_at_10"])
    assert "What differs: model x → <y>." in format_comparison(made, found, [], "markdown")
    assert json.loads(format_comparison(made, found, [], "json"))["pairs"][0]["settings"].startswith("What differs")
    assert "What differs: model x → &lt;y&gt;." in render(made, found, [])


def test_a_long_list_of_settings_is_cut_and_counted() -> None:
    first, second = two()
    first = replace(first, settings={f"k{n}": "1" for n in range(11)})
    second = replace(second, settings={f"k{n}": "2" for n in range(11)})
    assert "k7 1 → 2; and 3 more." in describe_settings(*alone(first, second))


# ---------------------------------------------------------------- how it is told


@pytest.mark.parametrize(
    ("form", "wanted"), [("table", str.isprintable), ("markdown", lambda line: line.startswith("|"))]
)
def test_tables_have_a_row_for_each_comparison(form: str, wanted: Callable[[str], bool]) -> None:
    task, runs = drawn.draw_captions(np.random.default_rng(5), 30, 3)
    made = alone(*(experiment(name, task, {IMAGE: rows}) for name, rows in zip("abc", runs, strict=True)))
    found = compare(made, ["hit_at_10"])
    lines = [line for line in format_comparison(made, found, [], form).splitlines() if "hit_at_10" in line]
    assert len(lines) == 3
    assert all(map(wanted, lines))


def test_the_page_of_a_comparison_has_a_cell_for_each_candidate_and_escapes_their_names() -> None:
    task, runs = drawn.draw_captions(np.random.default_rng(6), 60, 3, 2.5)
    made = alone(*(experiment(name, task, {IMAGE: rows}) for name, rows in zip(("c", "<b>a", "b"), runs, strict=True)))
    found = compare(made, ["ndcg_at_10"])
    page = render(made, found, find_changes(made, found, "ndcg_at_10", 2))
    assert "<b>a" not in page
    assert "&lt;b&gt;a" in page
    for one in made:
        mean = float(one.read("caption_to_image", IMAGE)["ndcg_at_10"].to_numpy().mean())
        assert f"<td>{mean:.3f}<small>" in page
    assert page.count("b is better") == 1
    assert page.count("<td>not shown</td>") == 1
    assert page.count('<table class="changed">') == 3
    assert "nan" not in page.lower().replace("inance", "")
    assert "http" not in page


def test_a_run_that_one_experiment_lacks_is_said_to_be_not_run() -> None:
    first, second = two()
    made = alone(first, second, replace(first, name="c", runs=[]))
    assert "<td>not run</td>" in render(made, compare(made[:2], ["hit_at_10"]), [])


def test_runs_that_differ_in_no_query_are_not_corrected_for() -> None:
    task, runs = drawn.draw_captions(np.random.default_rng(8), 60, 2, 1.5)
    both = [
        experiment(name, task, {IMAGE: rows, "captions_joined": runs[0]}) for name, rows in zip("ab", runs, strict=True)
    ]
    (only,) = compare(alone(*both), ["hit_at_10"], retrievers=[IMAGE])
    found = compare(alone(*both), ["hit_at_10"])
    assert [d.tested for d in found] == [True, False]
    assert found[0].p_holm == only.p_holm
    assert found[1].p_holm == 1
