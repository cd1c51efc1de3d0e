"""An index in any form of the vector budget: exactly the order that `compress` measures, in the bytes that it tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.retrieval.exemplar.problems import unit_rows
from twinlens import Searcher
from twinlens.config.budget import read_budget
from twinlens.config.load import read_params
from twinlens.config.params import IndexParams
from twinlens.config.vector_forms import VectorForm
from twinlens.core import paths
from twinlens.core.errors import DataError, ParamsError, QueryError
from twinlens.core.vectors import Vectors, read_vectors
from twinlens.indexing import scans
from twinlens.indexing.build import publish
from twinlens.indexing.candidates import find_candidates, open_candidates, write_candidates
from twinlens.indexing.index import Index, WeightedVector
from twinlens.indexing.manifest import FOLDER, Manifest
from twinlens.indexing.store import RowStore, write_rows, write_space
from twinlens.retrieval.budget import MeasuredSearch, Searchable, choose_search, list_settings
from twinlens.retrieval.calibration import find_answers, fit_or_explain
from twinlens.retrieval.compression import FittedForm, score_exactly
from twinlens.retrieval.known import Known, check_form, learn
from twinlens.tasks.base import read_tasks

from .conftest import CAPTIONER, DATASET, MODEL, POOL

NAMES = (DATASET, MODEL, CAPTIONER)
MATRYOSHKA = [16]
NONE = np.zeros(0, dtype=np.int64)
FORMS = [
    *("float32", "float16", "int8", "binary", "rotated bits"),
    *("16 principal dimensions, float32", "16 principal dimensions, int8"),
    *("8 principal dimensions, float32", "8 principal dimensions, int8"),
    *("16 first dimensions, float32", "16 first dimensions, int8"),
    *("binary, the best 12 again by int8", "rotated bits, the best 12 again by int8"),
]


def read_all(folder: Path) -> dict[str, Vectors]:
    return {path.stem: read_vectors(folder, path.stem) for path in folder.glob("*.npy")}


def find_measured() -> MeasuredSearch:
    """What `compress` measures of the small pool."""
    vectors = read_all(paths.embedded(DATASET, MODEL))
    found = choose_search(read_tasks(paths.tasks(DATASET, CAPTIONER)), vectors, True, MATRYOSHKA)
    assert found is not None
    return found


def build(name: str) -> Manifest:
    params = read_params()
    settings = IndexParams.model_validate(params.index.model_dump() | {"vectors": name})
    return publish(*NAMES, params.models[MODEL].model_copy(update={"matryoshka": MATRYOSHKA}), settings, 1)


@pytest.mark.usefixtures("copy")
def test_an_index_in_any_form_finds_what_the_stage_measures_in_its_order_and_bytes() -> None:
    measured, params = find_measured(), read_params()
    budget = read_budget().model_copy(update={"rescored": [12]})
    queries = measured.queries[::4]
    assert [one.name for one in list_settings(measured.items.shape[1], budget, measured.known)] == FORMS
    assert measured.task.item_ids == Searcher(model=MODEL).index.ids
    for name in FORMS:
        manifest = build(name)
        index, form = Index(manifest), VectorForm.read(name)
        kept = Searchable.of(form, measured.items, measured.known)
        for own in (None, np.full(len(queries), 7)):
            ranked = kept.rank(queries, 10, own)
            for query, rows in zip(queries, ranked, strict=True):
                left_out = () if own is None else (7,)
                found, scores = index.nearest([WeightedVector("image_vector", query)], 10, left_out, params.search)
                assert found.tolist() == rows.tolist(), name
                assert (np.diff(scores) <= 0).all()
        # on disk: what the stage tells a picture takes, and float32 of no picture unless that is the form
        files = [np.load(path, mmap_mode="r") for path in (manifest.folder / FOLDER).glob("image_vector*.npy")]
        grow = [one for one in files if one.shape[:1] == (POOL,)]
        assert sum(one.nbytes for one in grow) == kept.item_bytes * POOL, name
        assert any(one.dtype == np.float32 and one.ndim == 2 for one in grow) == (form.precision == "float32")
        assert index.copy.negatives is not None
        assert index.copy.negatives.dtype == np.float32  # what is learned from stays as it was


@pytest.mark.parametrize("name", FORMS)
def test_scores_of_a_scan_are_within_their_bound_and_restored_vectors_are_near(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "CHUNK", 70)
    monkeypatch.setattr(scans, "NARROW", 32)  # rows are left over at the end of each
    rows, queries = unit_rows(300, 24, 1).astype(np.float32), unit_rows(5, 24, 2).astype(np.float32)
    form, known = VectorForm.read(name), Known(rows, False, queries[0], MATRYOSHKA)
    write_space(tmp_path, "image_vector", rows, NONE, form, known)
    space, every = RowStore(tmp_path).space("image_vector"), np.arange(300)
    assert space.form == form
    for query in queries:
        assert np.abs(space.products(query) - space.score(query, every)).max() <= space.bound_error(query)
    restored = space.take(slice(None))
    assert restored.shape == rows.shape
    assert (space.take(np.array([7, 3])) == restored[[7, 3]]).all()
    assert np.linalg.norm(restored, axis=1) == pytest.approx(np.ones(300), abs=0.03)
    assert (restored * rows).sum(axis=1).min() > (0.4 if form.by_bits or form.dimensions else 0.99)


@pytest.mark.usefixtures("copy")
def test_what_is_asked_beside_a_query_goes_by_the_better_vectors_too() -> None:
    """Hybrids and marked pictures work in every form; where a form scores anew, that is what a hit's score is."""
    for name in ("8 principal dimensions, int8", "rotated bits", "rotated bits, the best 60 again by int8"):
        build(name)
        found = Searcher(model=MODEL)
        ids = found.index.ids
        others: list[dict[str, Any]] = [{"mode": "hybrid", "fusion": "weighted"}, {"mode": "hybrid"}]
        others += [{"like": ids[3]}, {"unlike": ids[4]}]
        for asked in others:
            hits = found.search("two red circles", k=5, **asked).hits
            assert len({hit.image_id for hit in hits}) == 5
        assert found.search(like=ids[3], unlike=ids[4], mode="exemplar", k=5).hits
    # all are scored anew: the lists are those of int8
    anew = [found.search("two red circles", k=7, mode="hybrid", fusion="weighted").hits]
    build("int8")
    anew.append(Searcher(model=MODEL).search("two red circles", k=7, mode="hybrid", fusion="weighted").hits)
    assert [hit.image_id for hit in anew[0]] == [hit.image_id for hit in anew[1]]


@pytest.mark.usefixtures("copy")
def test_what_a_form_learns_from_is_part_of_the_index_and_of_no_other() -> None:
    keys = {name: build(name).key for name in ("int8", "rotated bits", "8 principal dimensions, int8")}
    for learned, moved in (("validation_captions", {"rotated bits"}), ("validation_images", {"8 principal"})):
        file = paths.embedded(DATASET, MODEL) / f"{learned}.npy"
        rows = np.load(file)
        np.save(file, np.roll(rows, 1, axis=0))
        for name, key in keys.items():
            changed = build(name).key != key
            assert changed >= any(name.startswith(one) for one in moved)
            assert not (changed and name == "int8")
        np.save(file, rows)


@pytest.mark.usefixtures("copy")
def test_an_older_index_is_opened_and_its_rule_is_not_taken_for_one_of_int8() -> None:
    manifest = build("int8")
    folder = manifest.folder / FOLDER
    for path in folder.glob("*.form.json"):
        path.unlink()
    settings = {"precision" if key == "vectors" else key: value for key, value in manifest.settings.items()}
    rule = {"temperature": 0.05, "thresholds": {"0.5": 0.0}, "pictures": 200, "captions": 1000}
    before = Index(manifest).space("image_vector").take(slice(None))
    older = replace(manifest, settings=settings, confidence={"rule": rule, "why": ""})
    older.write(paths.indexed(*NAMES))
    searcher = Searcher(model=MODEL)
    assert searcher.index.manifest.form == VectorForm("int8")
    assert (searcher.index.space("image_vector").take(slice(None)) == before).all()
    assert searcher.search("two red circles", k=1).hits[0].confidence is None
    with pytest.raises(QueryError, match="fitted on float32 vectors, and the index holds int8: `dvc repro index`"):
        searcher.search("two red circles", only_if_sure=0.5)


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("name", ["int8", "rotated bits", "16 principal dimensions, float32", "binary"])
def test_the_rule_of_an_index_is_fitted_to_the_scores_that_it_gives(name: str) -> None:
    """Each validation caption searches the index as it is, with its own picture beside it in the same form."""
    index, params = Index(build(name)), read_params().search
    vectors, form = read_all(paths.embedded(DATASET, MODEL)), VectorForm.read(name)
    captions, pictures = (vectors[one] for one in ("validation_captions", "validation_images"))
    known = learn(vectors, vectors["images"].unit, index.ids, pictures=True, captions_ask=True)
    fitted = FittedForm.of(form, vectors["images"].unit, known)
    of_captions = np.array([pictures.ids.index(image_id) for image_id in captions.image_ids])
    asked, own = np.asarray(captions.unit), np.asarray(pictures.unit)
    answers = find_answers(asked, own, of_captions, vectors["images"].unit, "cpu", fitted)
    for query, best, mine in zip(asked, answers.best, answers.own, strict=True):
        _, scores = index.nearest([WeightedVector("image_vector", query)], POOL, (), params)
        assert -np.sort(-np.append(scores, mine)) == pytest.approx(best, abs=1e-6)
    codes = fitted.make_codes(fitted.encode(own))
    assert score_exactly(asked[:1], codes, of_captions[None, :1], fitted) == pytest.approx(answers.own[None, :1])


def test_a_rule_for_bits_that_are_scored_anew_is_refused() -> None:
    told = fit_or_explain({}, MODEL, True, form=VectorForm("binary", rescored=40))
    assert told.rule is None
    assert told.why.startswith("'binary, the best 40 again by int8' scores anew only the 40 that its bits find")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rotated bit", "no setting 'rotated bit': did you mean 'rotated bits'"),
        ("int4", "did you mean 'int8'"),
        ("principal 256, int8", "did you mean '256 principal dimensions, int8'"),
        ("binary, the best 40 again by float32", "did you mean 'binary, the best 40 again by int8'"),
        ("256 principal dimensions, binary", "did you mean '256 principal dimensions, "),
        ("4 principal dimensions, int8", "no setting '4 principal dimensions, int8'"),
        ("recommended", "take the name of a setting, such as the one that `compress` recommends"),
        ("", "no setting ''"),
    ],
)
def test_a_setting_that_there_is_not_is_refused_with_the_nearest(name: str, said: str) -> None:
    given = read_params().index.model_dump()
    with pytest.raises(ValidationError) as refused:
        IndexParams.model_validate(given | {"vectors": name})
    assert said in str(refused.value)


def test_bits_are_searched_exactly() -> None:
    given = read_params().index.model_dump()
    with pytest.raises(ValidationError, match="`rotated bits` is searched exactly"):
        IndexParams.model_validate(given | {"vectors": "rotated bits", "vector_index": "ivf"})


def test_every_name_that_the_budget_prints_can_be_read() -> None:
    for form in list_settings(512, read_budget(), Known(unit_rows(2, 512, 0), False, None, [256])):
        assert VectorForm.read(form.name) == form


@pytest.mark.parametrize(
    ("name", "pictures", "said"),
    [
        ("24 principal dimensions, int8", 99, "leaves nothing out: vectors of m have 24 dimensions"),
        ("8 first dimensions, int8", 99, r"first 8 dimensions of m do not stand alone \(`matryoshka`: 16\)"),
        ("16 principal dimensions, int8", 15, "wants at least 16 pictures to fit its axes to, and there are 15"),
    ],
)
def test_a_form_that_vectors_cannot_have_is_refused(name: str, pictures: int, said: str) -> None:
    with pytest.raises((ParamsError, DataError), match=said):
        check_form(VectorForm.read(name), 24, Known(unit_rows(pictures, 24, 0), False, None, [16]), "m")


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize(
    ("name", "number"), [("int8", "halffloat"), ("16 principal dimensions, int8", "halffloat"), ("float32", "float")]
)
def test_the_table_of_candidates_holds_no_more_than_half_precision_beside_fewer_bytes(
    kind: str, name: str, number: str, tmp_path: Path
) -> None:
    rows = unit_rows(600, 24, 1).astype(np.float32)
    form = VectorForm.read(name)
    schema = pa.schema([pa.field("image_id", pa.string(), nullable=False)])
    ids = [f"p{row}" for row in range(len(rows))]
    write_rows(tmp_path, [pa.RecordBatch.from_arrays([pa.array(ids)], schema=schema)], schema)
    write_space(tmp_path, "image_vector", rows, NONE, form)
    write_candidates(tmp_path, kind)
    table, space = open_candidates(tmp_path), RowStore(tmp_path).space("image_vector")
    assert str(table.schema.field("image_vector").type.value_type) == number
    params, hits = read_params().search, 0
    for query in unit_rows(20, 24, 2).astype(np.float32):
        asked = space.items.prepare(query[None])[0]
        found = find_candidates(table, "image_vector", asked, 5, params, kind)
        hits += len({*np.argsort(-space.score(query, np.arange(600)))[:5].tolist()} & {*found.tolist()})
    assert hits >= 98
