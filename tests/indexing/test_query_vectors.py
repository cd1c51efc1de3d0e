"""What exemplars are told apart from: pictures that no search finds, or a few that it does."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.indexing.conftest import CAPTIONER, DATASET, MODEL
from tests.indexing.test_searcher import ids, stored
from twinlens import Searcher, search
from twinlens.config.load import read_params
from twinlens.core import paths, tables
from twinlens.indexing.material import gather


@pytest.mark.usefixtures("root")
def test_exemplars_are_told_apart_from_pictures_that_are_never_found() -> None:
    of = tables.read_table(paths.embedded(DATASET, MODEL) / "negatives.parquet", tables.VECTORS)
    assert not set(of["image_id"]) & set(ids())
    kept = Searcher().index.copy.negatives
    assert kept is not None
    assert np.array_equal(kept, stored(source="negatives").astype(np.float32))


@pytest.mark.usefixtures("root")
def test_without_negatives_of_its_own_a_fifth_of_the_pool_stands_in_and_it_is_said() -> None:
    found = search(like=ids()[2], mode="exemplar", model="words")  # a text tower alone: there are no pixels
    assert found.notes == (
        "the index has no negatives of its own: 12 of its pictures, drawn at random, stand in for them",
    )
    assert len(found.hits) == 10


@pytest.mark.usefixtures("copy")
def test_negatives_inside_the_pool_are_not_used() -> None:
    path = paths.embedded(DATASET, MODEL) / "negatives.parquet"
    of = tables.read_table(path, tables.VECTORS)
    path.unlink()
    mine = [ids()[0], *of["image_id"].to_list()[1:]]
    tables.write_table(of.with_columns(image_id=pl.Series(mine)), path, tables.VECTORS)
    material = gather(DATASET, MODEL, CAPTIONER, read_params().models[MODEL])
    assert material.negatives is not None
    assert np.array_equal(material.negatives, stored(source="negatives").astype(np.float32)[1:])
