"""An index in any form of the vector budget: exactly the order that `compress` measures, in the bytes that it tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twinlens import Searcher
from twinlens.config.budget import read_budget
from twinlens.config.load import read_params
from twinlens.config.params import IndexParams
from twinlens.config.vector_forms import VectorForm
from twinlens.core import paths
from twinlens.core.vectors import Vectors, read_vectors
from twinlens.indexing.build import publish
from twinlens.indexing.index import Index, WeightedVector
from twinlens.indexing.manifest import FOLDER, Manifest
from twinlens.retrieval.budget import MeasuredSearch, Searchable, choose_search, list_settings
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
    assert [one.name for one in list_settings(measured.items.shape[1], budget, measured.known)] == FORMS
    assert measured.task.item_ids == Searcher(model=MODEL).index.ids
    for name in FORMS:
        manifest = build(name)
        index, form = Index(manifest), VectorForm.read(name)
        kept = Searchable.of(form, measured.items, measured.known)
        for own in (None, np.full(len(measured.queries), 7)):
            ranked = kept.rank(measured.queries, 10, own)
            for query, rows in zip(measured.queries, ranked, strict=True):
                left_out = () if own is None else (7,)
                found, scores = index.nearest([WeightedVector("image_vector", query)], 10, left_out, params.search)
                assert found.tolist() == rows.tolist(), name
                assert (np.diff(scores) <= 0).all()
        # on disk: what the stage tells a picture takes, and what does not grow with the pool
        files = {path.name: path for path in (manifest.folder / FOLDER).glob("image_vector*.npy")}
        grows = [np.load(path, mmap_mode="r") for path in files.values()]
        assert sum(one.nbytes for one in grows if one.shape[:1] == (POOL,)) == kept.item_bytes * POOL, name
        assert all(
            one.dtype != np.float32 or one.ndim == 1 for one in grows if len(one.shape) and len(one) == POOL
        ) == (form.precision != "float32")
