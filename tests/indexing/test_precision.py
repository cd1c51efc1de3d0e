"""An index of float16 or int8: exact search of what it holds, by the code that `compress` measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.retrieval.exemplar.problems import unit_rows
from twinlens.config.load import read_params
from twinlens.config.params import IndexParams
from twinlens.core import paths
from twinlens.indexing import scans
from twinlens.indexing.build import publish
from twinlens.indexing.index import Index, WeightedVector
from twinlens.indexing.manifest import FOLDER
from twinlens.indexing.scans import Scans
from twinlens.indexing.store import RowStore, write_space
from twinlens.retrieval.budget import BudgetSetting, Known, Searchable
from twinlens.retrieval.compression import encode

from .conftest import CAPTIONER, DATASET, MODEL

NAMES = (DATASET, MODEL, CAPTIONER)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_scan_multiplies_what_is_written_out_whatever_the_blocks(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "CHUNK", 70)
    monkeypatch.setattr(scans, "NARROW", 32)  # rows are left over at the end of each
    rows, queries = unit_rows(300, 24, 1).astype(np.float32), unit_rows(5, 24, 2).astype(np.float32)
    write_space(tmp_path, "image_vector", rows, np.zeros(0, dtype=np.int64), precision)
    space = RowStore(tmp_path).space("image_vector")
    assert space.rows.dtype == precision
    assert (space.take(slice(None)) == encode(rows, precision).decode()).all()
    assert (space.take(np.array([7, 3])) == encode(rows, precision).decode()[[7, 3]]).all()
    scanned = Scans(space.rows, space.steps)
    for query in queries:
        np.testing.assert_allclose(scanned.products(query), space.take(slice(None)) @ query, atol=1e-6)


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize(("precision", "item_bytes"), [("float16", 2), ("int8", 1)])
def test_an_index_in_fewer_bytes_finds_what_the_stage_measures_in_its_order(precision: str, item_bytes: int) -> None:
    params = read_params()
    settings = IndexParams.model_validate(params.index.model_dump() | {"precision": precision})
    manifest = publish(*NAMES, params.models[MODEL], settings, 1)
    assert manifest.settings["precision"] == precision
    index = Index(manifest)
    items = np.load(paths.embedded(DATASET, MODEL) / "images.npy")
    queries = np.load(paths.embedded(DATASET, MODEL) / "captions.npy")[:20]
    assert index.space("image_vector").rows.nbytes == items.size * item_bytes
    ranked = Searchable(BudgetSetting(precision), items, Known(items, False)).rank(queries, 10)
    for query, rows in zip(queries, ranked, strict=True):
        found, scores = index.nearest([WeightedVector("image_vector", query)], 10, (), params.search)
        assert found.tolist() == rows.tolist()
        assert scores == pytest.approx(encode(items, precision).decode()[rows] @ query, abs=1e-6)
    assert (manifest.folder / FOLDER / "negatives.npy").exists()
    assert index.copy.negatives is not None
    assert index.copy.negatives.dtype == np.float32  # what is learned from stays as it was


def test_a_form_that_an_index_does_not_promise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no vectors as binary"):
        write_space(tmp_path, "image_vector", unit_rows(3, 8, 0), np.zeros(0, dtype=np.int64), "binary")
