"""The vector budget: known figures on genuine CLIP vectors, and which setting is recommended."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from tests.evaluation.drawn import draw_captions
from tests.experiments import caption_to_image, object_sets
from twinlens.config.budget import BudgetParams, read_budget
from twinlens.config.vector_forms import VectorForm
from twinlens.core.errors import ParamsError
from twinlens.core.vectors import Vectors
from twinlens.evaluation.budget import COLUMNS, compare_with_first, measure_budget
from twinlens.evaluation.recommendation import choose_setting, format_index_command, say_recommended
from twinlens.retrieval.budget import Searchable, choose_search, list_settings
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.exemplar import scale_to_unit
from twinlens.retrieval.known import Known
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.inputs import CAPTIONS, IMAGES, NEGATIVES, VALIDATION_CAPTIONS, VALIDATION_IMAGES
from twinlens.tasks.qrels import Groups

CLIP = Path("clip-vectors/flickr8k_clip_vit_b_32.npz")


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    return scale_to_unit(np.random.default_rng(seed).standard_normal((count, dim))).astype(np.float32)


def captions_of(items: np.ndarray, each: int, noise: float, seed: int) -> np.ndarray:
    said = np.repeat(items, each, axis=0)
    return scale_to_unit(said + noise * np.random.default_rng(seed).standard_normal(said.shape)).astype(np.float32)


def params(**changes: Any) -> BudgetParams:
    return read_budget().model_copy(update={"queries": 5, **changes})


def test_on_genuine_clip_vectors_the_known_figures_come_out(shared_data: Path) -> None:
    """Differences from float32 in hit@10 over 500 captions of 100 pictures, and half the 95 % interval."""
    path = shared_data / CLIP
    if not path.exists():
        pytest.skip(f"the CLIP vectors are not at {path}")
    with np.load(path, allow_pickle=False) as stored:
        vectors = {name: stored[name] for name in stored}
    ids = [str(name) for name in vectors["image_names"]]
    described = [str(name) for name in vectors["text_image"]]
    wanted = np.array([ids.index(name) for name in described])
    about = TaskMetadata("words to pictures", "t2i", 0)
    groups = Groups(wanted, np.arange(len(ids)))
    task = Task("caption_to_image", about, [str(n) for n in range(len(wanted))], described, ids, groups)
    items, queries = (scale_to_unit(vectors[name]).astype(np.float32) for name in ("image_emb", "text_emb"))
    others = items[[row for row in range(len(ids)) if row not in set(wanted)]]
    known = Known(others, True, queries[:100].mean(axis=0), [256])
    settings = [
        VectorForm(),
        VectorForm("int8"),
        VectorForm("float32", "principal", 256),
        VectorForm("float32", "first", 256),
        VectorForm("rotated_bits", rescored=40),
    ]
    lists = [Searchable.of(one, items, known).rank(queries, 11) for one in settings]
    exact, int8, principal, first, rotated = compare_with_first(task, lists, 10)
    assert round(exact.means[0], 3) == 0.862
    assert int8.differences[0] == pytest.approx(-0.002, abs=5e-4)
    assert list(int8.bounds[0]) == pytest.approx([-0.006, 0.002], abs=5e-4)
    assert first.differences[0] == pytest.approx(-0.160, abs=5e-4)
    assert list(first.bounds[0]) == pytest.approx([-0.210, -0.110], abs=0.003)
    for loss, known_difference, half in ((principal, -0.018, 0.033), (rotated, -0.010, 0.021)):
        assert abs(loss.differences[0] - known_difference) < half  # another rotation, other pictures for the axes
        low, high = loss.bounds[0]
        assert low is not None
        assert high is not None
        assert low <= known_difference <= high
        assert (high - low) / 2 < half


def test_what_is_ranked_is_exact_search_of_the_written_out_vectors_and_a_single_query_finds_the_same() -> None:
    items, queries = unit(400, 32, 0), unit(9, 32, 1)
    known = Known(items, False, queries.mean(axis=0))
    for setting in list_settings(32, params(rescored=[20]), known):
        if setting.precision == "binary" and setting.rescored:
            continue  # many have equal scores, and which of them get new ones is the lower rows' right only in `rank`
        kept = Searchable.of(setting, items, known)
        ranked = kept.rank(queries, 5)
        for query, rows in zip(queries, ranked, strict=True):
            single = kept.search(query, 5)
            if set(single) != set(rows):  # equal scores across the cut, as signs have them
                scores = kept.products(query) if kept.better is None else kept.better.products(query)
                assert np.allclose(np.sort(scores[single]), np.sort(scores[rows]), atol=1e-6)


def test_float32_is_exact_search_and_own_pictures_are_left_out() -> None:
    items = unit(60, 16, 0)
    own = np.arange(60)
    found = Searchable.of(VectorForm(), items, Known(items, False)).rank(items, 7, own)
    exact = np.concatenate([one.rows for one in find_nearest(items, items, 7, own_rows=own)])
    assert (found == exact).all()
    bits = Searchable.of(VectorForm("binary", rescored=20), items, Known(items, False)).rank(items, 7, own)
    assert not (bits == own[:, None]).any()


def test_rows_of_a_budget_have_every_setting_paired_with_float32() -> None:
    items = unit(80, 32, 0)
    queries = captions_of(items, 5, 0.2, 1)
    rows = measure_budget(caption_to_image(80, 5), queries, items, params(), Known(unit(100, 32, 2), True, None, [16]))
    assert [row["setting"] for row in rows] == [
        *("float32", "float16", "int8", "binary", "rotated bits"),
        *("16 principal dimensions, float32", "16 principal dimensions, int8"),
        *("8 principal dimensions, float32", "8 principal dimensions, int8"),
        *("16 first dimensions, float32", "16 first dimensions, int8"),
        *("binary, the best 40 again by int8", "binary, the best 100 again by int8"),
        *("rotated bits, the best 40 again by int8", "rotated bits, the best 100 again by int8"),
    ]
    assert all(tuple(row) == COLUMNS for row in rows)
    by_name = {row["setting"]: row for row in rows}
    assert [row["bytes"] for row in rows[:5]] == [128, 64, 32, 8, 12]
    assert by_name["rotated bits, the best 40 again by int8"]["bytes"] == 12 + 32
    assert rows[0]["recall"] == 1.0
    assert by_name["binary, the best 100 again by int8"]["recall"] == by_name["int8"]["recall"]  # of 80 items, all
    assert all(row["hit_low"] <= row["hit_difference"] <= row["hit_high"] for row in rows)
    assert by_name["binary"]["recall"] < by_name["rotated bits"]["recall"] < by_name["int8"]["recall"]
    assert sum(row["recommended"] for row in rows) <= 1


def test_object_sets_are_measured_and_few_pictures_recommend_nothing() -> None:
    kinds = np.repeat(np.arange(4), 5)
    centres = unit(4, 24, 0)[kinds]
    items = scale_to_unit(centres + 0.1 * unit(20, 24, 1)).astype(np.float32)
    rows = measure_budget(object_sets(kinds), items, items, params(), Known(items, False))
    assert rows[0]["hit"] == 1.0
    assert rows[0]["hit_least"] is None
    assert not any(row["recommended"] for row in rows)
    assert say_recommended(rows) == "float32: fewer than 30 pictures search, too few to recommend less"
    assert any(row["axes"] == "principal, of the pool" for row in rows)


def test_fewer_than_six_pictures_have_no_interval() -> None:
    items = unit(4, 16, 0)
    rows = measure_budget(
        caption_to_image(4, 5), captions_of(items, 5, 0.5, 1), items, params(k=2), Known(items, False)
    )
    assert all(row["hit_low"] is None and row["hit_least"] is None for row in rows)


def row(name: str, item_bytes: float, least: float | None, ms: float = 1.0) -> dict[str, Any]:
    return {
        "setting": name, "bytes": item_bytes, "hit_least": least, "ms_per_query": ms, "hit": 0.861, "hit_low": -0.002,
        "hit_high": 0.001, "k": 10, "tolerance": 0.01, "recommended": False,
    }  # fmt: skip


def test_the_smallest_setting_whose_loss_is_bounded_is_recommended_and_said_in_a_sentence() -> None:
    rows = [row("float32", 2048, 0.0), row("int8", 512, -0.008, 0.5), row("bits", 72, -0.011), row("half", 1024, 0.0)]
    chosen = choose_setting(rows, 0.01)
    assert chosen is rows[1]
    rows[1]["recommended"] = True
    assert say_recommended(rows) == (
        "int8: hit@10 0.861 is within 0.002 of float32's, at 0.25 of the bytes (512 for 2048 a picture) and 0.50 of "
        "the time of a query; `dvc exp run -S index.vectors=int8` builds the search index so"
    )


def test_the_command_that_builds_the_index_is_one_that_dvc_reads(tmp_path: Path) -> None:
    for name in ("int8", "rotated bits", "32 principal dimensions, int8", "binary, the best 40 again by int8"):
        (tmp_path / "params.yaml").write_text("index:\n  vectors: float32\n")
        override = shlex.split(format_index_command(name))[-1]
        apply_overrides(tmp_path / "params.yaml", [override])
        assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == {"index": {"vectors": name}}


def test_of_equal_bytes_the_quicker_is_taken_and_where_none_is_shown_to_lose_little_float32_stays() -> None:
    rows = [row("float32", 2048, 0.0), row("slow", 512, 0.0, 3.0), row("quick", 512, -0.01, 1.0)]
    assert choose_setting(rows, 0.01) is rows[2]
    none = [rows[0], row("bits", 72, -0.011), row("unknown", 36, None), row("no smaller", 2048, 0.0)]
    assert choose_setting(none, 0.01) is None
    assert "none is shown to lose at most 0.01 of hit@10" in say_recommended(none)


def test_a_setting_that_loses_nothing_is_seldom_called_worse_and_a_loss_is_seen() -> None:
    """Two models equally good are within their interval; the jackknife is paired, as it is for two models."""
    inside = 0
    for seed in range(40):
        task, runs = draw_captions(np.random.default_rng(seed), 60)
        _, loss = compare_with_first(task, runs, 10)
        low, high = loss.bounds[0]
        assert low is not None
        assert high is not None
        inside += low <= 0 <= high
    assert inside >= 35


# ----------------------------------------------------------------- what is measured


def vectors_of(rows: np.ndarray, ids: list[str], image_ids: list[str] | None = None) -> Vectors:
    return Vectors(ids, image_ids or ids, rows)


def test_captions_search_pictures_where_a_space_is_shared_else_object_sets() -> None:
    t2i, i2i = caption_to_image(12, 5), object_sets(np.repeat(np.arange(4), 3))
    items, mine = unit(12, 4, 0), unit(60, 4, 1)
    apart = [f"other {n}" for n in range(5)]
    vectors = {
        IMAGES: vectors_of(items, t2i.item_ids),
        CAPTIONS: vectors_of(mine, t2i.query_ids, t2i.query_images),
        VALIDATION_IMAGES: vectors_of(unit(5, 4, 2), apart),
        VALIDATION_CAPTIONS: vectors_of(unit(10, 4, 3), [str(n) for n in range(10)], apart * 2),
        NEGATIVES: vectors_of(unit(6, 4, 4), ["a", "b", "c", "p0000", "other 1", "d"]),
    }
    found = choose_search([i2i, t2i], vectors, joint=True, matryoshka=[2])
    assert found is not None
    assert found.task is t2i
    assert (found.queries == mine).all()
    assert found.known.mean_query is not None
    np.testing.assert_allclose(
        found.known.mean_query, np.asarray(vectors[VALIDATION_CAPTIONS].rows).mean(axis=0), atol=1e-6
    )
    assert (
        len(found.known.fitted_on) == 9
    )  # five, and of the negatives those that are neither of the pool nor among them
    assert found.known.other_pictures
    alone = choose_search([i2i, t2i], vectors, joint=False)
    assert alone is not None
    assert alone.task is i2i
    assert (alone.queries == items).all()
    few = choose_search([t2i], {name: vectors[name] for name in (IMAGES, CAPTIONS)}, joint=True)
    assert few is not None
    assert few.known.mean_query is None
    assert not few.known.other_pictures
    assert few.known.fitted_on is few.items
    assert (few.items == items).all()


def test_where_nothing_is_measured_the_sentence_says_so() -> None:
    assert choose_search([caption_to_image(3, 5)], {}, joint=True) is None
    assert say_recommended([]).startswith("Not measured: its vectors search pictures neither by captions")


# ------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("k: 10\nprecison: [int8]\n", "precison: no such key .did you mean 'precisions'"),
        ("- 1\n", "should hold keys and values, found list"),
        ("k: 0\n", "k: .* greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_said(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "budget.yaml").write_text(content)
    with pytest.raises(ParamsError, match=said):
        read_budget(tmp_path)


def test_without_the_file_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"budget\.yaml is not here: take it from the repository"):
        read_budget(tmp_path)
