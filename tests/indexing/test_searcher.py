"""Every mode of search against a brute-force answer on a small real index."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.svm import LinearSVC

import twinlens
from tests.indexing.conftest import CAPTIONER, DATASET, MODEL, NEGATIVES, POOL
from twinlens import Results, Searcher, search
from twinlens.core import paths, tables
from twinlens.core.errors import QueryError
from twinlens.core.shards import iter_pixels
from twinlens.retrieval import exemplar
from twinlens.retrieval.tokenize import tokenize

TEXT = "a red car in the snow"


def stored(model: str = MODEL, source: str = "images") -> np.ndarray:
    return np.load(paths.embedded(DATASET, model) / f"{source}.npy").astype(np.float64)


def pool() -> pl.DataFrame:
    return tables.read_table(paths.grouped(DATASET) / "images.parquet", tables.GROUPS).filter("in_pool")


def ids() -> list[str]:
    return pool()["image_id"].to_list()


def caption_means(model: str) -> np.ndarray:
    """Unit means of the human captions' vectors, by picture."""
    of = tables.read_table(paths.embedded(DATASET, model) / "captions.parquet", tables.VECTORS)["image_id"].to_list()
    rows = stored(model, "captions")
    means = np.stack(
        [rows[[i for i, image_id in enumerate(of) if image_id == wanted]].mean(axis=0) for wanted in ids()]
    )
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))


def ranking(scores: np.ndarray, left_out: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    """Best first, equal ones by row; scores as float32."""
    rounded, names = scores.astype(np.float32), ids()
    order = sorted(range(len(names)), key=lambda row: (-rounded[row], row))
    return [(names[row], float(rounded[row])) for row in order if names[row] not in left_out]


def same(found: Results, wanted: list[tuple[str, float]]) -> bool:
    assert [hit.score for hit in found.hits] == pytest.approx(
        [score for _, score in wanted[: len(found.hits)]], abs=1e-6
    )
    assert [hit.rank for hit in found.hits] == list(range(1, len(found.hits) + 1))
    # Pictures that look alike have nearly one score: their order is that of the last digits.
    score = {image_id: round(value, 5) for image_id, value in wanted}
    assert {hit.image_id for hit in found.hits[:-1]} <= score.keys()
    return all(abs(score[hit.image_id] - value) < 2e-5 for hit, (_, value) in zip(found.hits, wanted, strict=False))


def picture_of(image_id: str) -> bytes:
    rows = pool().filter(pl.col("image_id") == image_id)
    return next(jpeg for _, jpeg in iter_pixels(paths.resized(DATASET), rows))


def text_vector(text: str, model: str = MODEL) -> np.ndarray:
    return Searcher(model=model).towers.text(text)[0].astype(np.float64)


@pytest.mark.usefixtures("root")
def test_words_search_among_pictures_where_the_model_is_joint() -> None:
    found = search(TEXT, k=7)
    assert (found.mode, found.model, found.dataset, found.captioner) == ("vector", MODEL, DATASET, CAPTIONER)
    assert len(found.hits) == 7
    assert same(found, ranking(stored() @ text_vector(TEXT)))
    assert set(found.seconds) == {"load", "embed", "search", "read"}


@pytest.mark.usefixtures("root")
def test_words_search_among_captions_where_the_towers_are_apart() -> None:
    found = search(TEXT, model="apart")
    assert found.mode == "vector"
    assert same(found, ranking(caption_means("apart") @ text_vector(TEXT, "apart")))


@pytest.mark.usefixtures("root")
def test_a_picture_of_the_pool_finds_itself_by_the_vector_it_has_there() -> None:
    wanted = ids()[11]
    found = search(image=picture_of(wanted), k=POOL)
    assert found.hits[0].image_id == wanted
    assert found.hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert same(found, ranking(stored() @ stored()[11]))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_text_and_picture_are_a_weighted_sum_of_unit_vectors(weight: float) -> None:
    found = search(TEXT, image=picture_of(ids()[4]), image_weight=weight)
    both = weight * stored()[4] + (1.0 - weight) * text_vector(TEXT)
    assert same(found, ranking(stored() @ (both / np.linalg.norm(both))))


@pytest.mark.usefixtures("root")
def test_where_towers_are_apart_text_and_picture_add_up_their_scores() -> None:
    found = search(TEXT, image=picture_of(ids()[4]), model="apart", image_weight=0.3)
    scores = 0.3 * stored("apart") @ stored("apart")[4] + 0.7 * caption_means("apart") @ text_vector(TEXT, "apart")
    assert same(found, ranking(scores))


@pytest.mark.usefixtures("root")
def test_liked_and_disliked_pictures_move_the_query_and_are_left_out() -> None:
    liked, disliked = ids()[3], ids()[8]
    only = search(like=liked, k=POOL)
    assert same(only, ranking(stored() @ stored()[3], (liked,)))
    assert len(only.hits) == POOL - 1
    moved = 1.0 * text_vector(TEXT) + 0.75 * stored()[3] - 0.15 * stored()[8]  # rocchio of params.yaml
    found = search(TEXT, like=[liked], unlike=[disliked], k=POOL)
    assert same(found, ranking(stored() @ (moved / np.linalg.norm(moved)), (liked, disliked)))
    assert len(found.hits) == POOL - 2


@pytest.mark.usefixtures("root")
def test_a_model_of_words_alone_searches_by_a_liked_pictures_captions() -> None:
    liked = ids()[3]
    vectors = caption_means("words")
    assert same(search(like=liked, model="words"), ranking(vectors @ vectors[3], (liked,)))
    with pytest.raises(QueryError, match="no image tower"):
        search(image=picture_of(liked), model="words")


@pytest.mark.usefixtures("root")
def test_disliked_pictures_move_words_among_captions_where_towers_are_apart() -> None:
    disliked = ids()[5]
    text, vectors = text_vector(TEXT, "apart"), caption_means("apart")
    moved = 1.75 * text - 0.15 * vectors[5]
    found = search(TEXT, unlike=disliked, model="apart")
    assert same(found, ranking(vectors @ (moved / np.linalg.norm(moved)), (disliked,)))


def bm25(query: str) -> np.ndarray:
    """BM25 with k1 1.2 and b 0.75 over all captions of a picture, human and generated."""
    documents = [
        tokenize(" ".join([*hit.captions, hit.caption_generated or ""])) for hit in map(Searcher().picture, ids())
    ]
    mean = sum(map(len, documents)) / len(documents)
    scores = np.zeros(len(documents))
    for word in tokenize(query):
        holding = sum(word in document for document in documents)
        idf = math.log(1.0 + (len(documents) - holding + 0.5) / (holding + 0.5))
        for row, document in enumerate(documents):
            count = Counter(document)[word]
            scores[row] += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(document) / mean))
    return scores


def close(found: Results, scores: np.ndarray) -> bool:
    """Whether the hits are a ranking by `scores`, which agree within what BM25 in float32 may differ."""
    names = ids()
    of_hits = [scores[names.index(hit.image_id)] for hit in found.hits]
    assert [hit.score for hit in found.hits] == pytest.approx(of_hits, rel=2e-3)
    best = np.sort(scores)[::-1][: len(found.hits)]
    return bool(np.allclose(of_hits, best, rtol=2e-3))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("query", [TEXT, "machine", "boats & trucks", "TRUCK truck"])
def test_text_mode_is_bm25_over_human_and_generated_captions(query: str) -> None:
    scores = bm25(query)
    assert scores.any()
    found = search(query, mode="text", k=POOL)
    assert close(found, scores)
    assert len(found.hits) == int((scores > 0).sum())
    equal = [(hit.score, ids().index(hit.image_id)) for hit in found.hits]
    assert equal == sorted(equal, key=lambda one: (-one[0], one[1]))


@pytest.mark.usefixtures("root")
def test_equal_bm25_scores_at_the_cut_go_to_the_earlier_row() -> None:
    every = search("machine", mode="text", k=POOL)  # a word of all generated captions: many equal scores
    assert len({hit.score for hit in every.hits}) < POOL / 2
    for k in (1, 3, 10):
        assert [hit.image_id for hit in search("machine", mode="text", k=k).hits] == [
            hit.image_id for hit in every.hits[:k]
        ]


@pytest.mark.usefixtures("root")
def test_words_that_no_caption_holds_find_nothing_and_say_so() -> None:
    found = search("zeppelin", mode="text")
    assert found.hits == ()
    assert found.notes == ("no caption holds any of these words",)


@pytest.mark.usefixtures("root")
def test_hybrids_fuse_both_lists_by_ranks_or_by_scores() -> None:
    vector, text = search(TEXT, k=POOL), search(TEXT, mode="text", k=POOL)
    gains: dict[str, float] = {}
    for listed in (vector, text):
        for hit in listed.hits:
            gains[hit.image_id] = gains.get(hit.image_id, 0.0) + 1.0 / (60 + hit.rank)
    by_rank = search(TEXT, mode="hybrid")
    assert same(by_rank, ranking(np.array([gains[image_id] for image_id in ids()])))

    def normalised(found: Results) -> dict[str, float]:
        scores = [hit.score for hit in found.hits]
        return {hit.image_id: (hit.score - min(scores)) / (max(scores) - min(scores)) for hit in found.hits}

    one, other = normalised(vector), normalised(text)
    assert len(text.hits) == POOL
    wanted = np.array([0.8 * one[image_id] + 0.2 * other.get(image_id, 0.0) for image_id in ids()])
    assert same(search(TEXT, mode="hybrid", fusion="weighted", text_weight=0.2), ranking(wanted))


@pytest.mark.usefixtures("root")
def test_exemplar_mode_is_the_svm_of_scikit_learn_where_there_are_no_words() -> None:
    liked, disliked = [2, 9], [14]
    found = search(like=[ids()[i] for i in liked], unlike=[ids()[i] for i in disliked], mode="exemplar", k=POOL)
    vectors = stored()
    bad = np.vstack([vectors[disliked], stored(source="negatives")])
    assert len(bad) == 1 + NEGATIVES
    machine = LinearSVC(C=0.01, class_weight="balanced", tol=1e-8, max_iter=100_000)  # its default: with an intercept
    machine.fit(np.vstack([vectors[liked], bad]), [1] * len(liked) + [0] * len(bad))
    weights = machine.coef_[0] / np.linalg.norm(machine.coef_)
    scores = dict(ranking(vectors @ weights))
    assert found.notes == ()
    assert {hit.image_id for hit in found.hits} == set(ids()) - {ids()[i] for i in [*liked, *disliked]}
    assert [hit.score for hit in found.hits] == pytest.approx([scores[h.image_id] for h in found.hits], abs=2e-3)


@pytest.mark.usefixtures("root")
def test_words_pull_at_what_exemplars_learn_and_a_search_repeats_exactly() -> None:
    asked = {"text": TEXT, "like": [ids()[2]], "unlike": [ids()[9]], "mode": "exemplar", "k": POOL}
    found = search(**asked)  # type: ignore[arg-type]
    vectors = stored()
    examples = exemplar.Examples.of([vectors[[2]]], [vectors[[9]]])
    fitted = exemplar.fit_svms(
        examples, stored(source="negatives"), lambda_w=100.0, intercept="free", texts=text_vector(TEXT)[None],
        lambda_q=1000.0,
    )  # fmt: skip
    wanted = ranking(vectors @ exemplar.scale_to_unit(fitted.weights)[0], (ids()[2], ids()[9]))
    assert [hit.score for hit in found.hits] == pytest.approx([score for _, score in wanted], abs=1e-3)
    alone = search(like=[ids()[2]], unlike=[ids()[9]], mode="exemplar", k=POOL)
    assert [hit.image_id for hit in alone.hits] != [hit.image_id for hit in found.hits]
    assert search(**asked).hits == found.hits  # type: ignore[arg-type]


@pytest.mark.usefixtures("root")
def test_in_a_weighted_hybrid_who_shares_no_word_has_zero_for_it_and_the_last_who_does_has_more() -> None:
    text = search("truck", mode="text", k=POOL)
    assert 1 < len(text.hits) < POOL
    found = search("truck", mode="hybrid", fusion="weighted", text_weight=1.0, k=POOL)
    best = text.hits[0].score
    assert [hit.score for hit in found.hits[: len(text.hits)]] == pytest.approx([h.score / best for h in text.hits])
    assert {hit.score for hit in found.hits[len(text.hits) :]} == {0.0}


@pytest.mark.usefixtures("root")
def test_the_constant_of_reciprocal_ranks_is_the_runs() -> None:
    params = Searcher().params
    other = params.model_copy(update={"hybrid": params.hybrid.model_copy(update={"rrf_constant": 1.0})})
    assert Searcher(params=other).search(TEXT, mode="hybrid").hits[0].score > 2 / 60


@pytest.mark.usefixtures("root")
def test_words_that_the_tower_does_not_know_are_named() -> None:
    found = search("two dogs in a kennel 🐕 dogs")
    assert found.notes == ("clip-scenes does not know: two, dogs, kennel, 🐕",)
    assert search(TEXT).notes == ()
    assert search(f"{'x' * 40} {'y' * 41}").notes == (f"clip-scenes does not know: {'x' * 40}, {'y' * 39}…",)


@pytest.mark.usefixtures("root")
def test_auto_takes_what_the_model_can_do() -> None:
    assert search(TEXT, model="pixels").mode == "text"
    assert search(TEXT, model="pixels", like=ids()[0]).mode == "hybrid"
    assert search(like=ids()[0], model="pixels").mode == "vector"
    assert search(TEXT, model="words").mode == "vector"


@pytest.mark.usefixtures("root")
def test_a_searcher_says_what_it_can_do_and_loads_it_when_told() -> None:
    every = ("vector", "text", "hybrid", "exemplar")
    able = {model: Searcher(model=model) for model in (MODEL, "pixels", "words")}
    assert {one.modes for one in able.values()} == {every}
    assert [(one.embeds_text, one.embeds_pictures) for one in able.values()] == [
        (True, True),
        (False, True),
        (True, False),
    ]
    able[MODEL].warm()
    assert set(able[MODEL].towers._loaded) == {"joint"}
    assert set(able[MODEL].index._spaces) == {"image_vector", "caption_vector"}
    shown = able[MODEL].picture(ids()[6])
    assert (shown.image_id, len(shown.captions)) == (ids()[6], 5)


@pytest.mark.usefixtures("root")
def test_a_hit_has_what_the_pipeline_knows_of_the_picture() -> None:
    hit = search(TEXT, k=1).hits[0]
    captions = tables.read_table(paths.filtered(DATASET) / "captions.parquet", tables.CAPTIONS)
    images = tables.read_table(paths.filtered(DATASET) / "images.parquet", tables.IMAGES)
    mine = captions.filter(pl.col("image_id") == hit.image_id)["text"].to_list()
    labels = images.filter(pl.col("image_id") == hit.image_id)["labels"].to_list()[0]
    assert list(hit.captions) == mine
    assert list(hit.labels) == labels
    assert hit.caption_generated == f"machine says {' '.join(reversed(labels))}"
    assert hit.thumbnail.startswith(b"\xff\xd8")
    assert "thumbnail" not in hit.to_dict()


@pytest.mark.usefixtures("root")
def test_many_threads_get_the_answers_that_one_gets() -> None:
    from concurrent.futures import ThreadPoolExecutor

    searcher = Searcher()
    asked = [{"text": TEXT, "mode": mode} for mode in ("vector", "text", "hybrid")] * 8
    alone = [searcher.search(**query).hits for query in asked]  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda query: Searcher.search(searcher, **query).hits, asked)) == alone


def test_importing_the_package_imports_no_library_that_is_slow(built: Path) -> None:
    import subprocess
    import sys

    code = "import sys, twinlens; sys.exit(bool({'torch', 'lancedb', 'numpy', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    text = (
        "import sys; from twinlens import search; found = search('car', mode='text'); "
        "sys.exit(not found.hits or bool({'torch', 'open_clip'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "TWINLENS_SCRATCH": str(built / "scratch")}
    assert subprocess.run([sys.executable, "-c", text], cwd=built, env=environment, check=False).returncode == 0


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        twinlens.serach  # type: ignore[attr-defined]  # noqa: B018
