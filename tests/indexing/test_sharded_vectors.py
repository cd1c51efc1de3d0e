"""Vectors in several files: every stage that reads them finds what it finds in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages import calibrate, compress, embed, index, rank
from tests.indexing.conftest import CAPTIONER, DATASET, MODEL, POOL
from twinlens.config.load import read_params
from twinlens.core import paths, row_sources
from twinlens.core.row_sources import RowSource
from twinlens.core.vectors import read_vectors
from twinlens.indexing.manifest import FOLDER, Manifest
from twinlens.indexing.open import can_answer, open_index

pytestmark = pytest.mark.slow
BOUND = 25


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def search_all() -> tuple[dict[str, bytes], ...]:
    """What the stages after `embed` write, but for times and keys."""
    rank.main(DATASET, MODEL)
    index.main(DATASET, MODEL, CAPTIONER)
    calibrate.main(DATASET, MODEL, CAPTIONER)
    compress.main(DATASET, MODEL, CAPTIONER)
    table = read_all(Manifest.read(paths.indexed(DATASET, MODEL, CAPTIONER)).folder / FOLDER)
    budget = [line.split(",")[:3] for line in (paths.METRICS / "budget.csv").read_text().splitlines()]
    return (
        read_all(paths.ranked(DATASET, MODEL)),
        {name: content for name, content in table.items() if name.endswith(".npy")},
        {"rule": paths.calibrated(DATASET, MODEL).read_bytes(), "budget": repr(budget).encode()},
    )


@pytest.mark.usefixtures("copy")
def test_sharded_vectors_give_the_runs_the_index_and_the_figures_of_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = paths.embedded(DATASET, MODEL)
    together = {path.stem: np.load(path) for path in embedded.glob("*.npy")}
    wanted = search_all()
    monkeypatch.setattr(row_sources, "ROWS_PER_FILE", BOUND)
    embed.main(DATASET, MODEL)
    many = [name for name, rows in together.items() if len(rows) > BOUND]
    assert {path.name for path in embedded.iterdir() if path.is_dir()} == set(many) > {"images", "captions"}
    for name, rows in together.items():
        found = read_vectors(embedded, name).rows
        assert isinstance(found, RowSource) == (name in many)
        np.testing.assert_array_equal(np.asarray(found), rows)
    found_again = search_all()
    for before, after in zip(wanted, found_again, strict=True):
        assert before.keys() == after.keys()
        assert [name for name in before if before[name] != after[name]] == []
    named = Manifest.read(paths.indexed(DATASET, MODEL, CAPTIONER)).vectors
    assert {"images/manifest.json", "images/part-00000.npy", "captions/part-00000.npy"} < set(named)
    assert can_answer(DATASET, MODEL, CAPTIONER)
    assert len(open_index(read_params(), DATASET, MODEL, CAPTIONER).ids) == POOL
