"""An index of many vectors is written a block at a time, and finds what one that is written at once does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tests.retrieval.exemplar.problems import unit_rows
from twinlens.config.load import read_params
from twinlens.config.vector_forms import Precision, VectorForm
from twinlens.core import row_sources, tables
from twinlens.core.errors import ParamsError
from twinlens.core.row_sources import BLOCK, FileRows, RowBlocks, iter_blocks
from twinlens.core.vectors import write_rows as write_vectors
from twinlens.indexing import material
from twinlens.indexing.build import ROWS
from twinlens.indexing.candidates import check_candidates, write_candidates
from twinlens.indexing.index import Index, WeightedVector
from twinlens.indexing.manifest import FOLDER, Manifest
from twinlens.indexing.scans import Scans
from twinlens.indexing.store import write_rows, write_space
from twinlens.retrieval.codes import Floats, Int8Steps
from twinlens.retrieval.compression import encode
from twinlens.tasks.inputs import CAPTIONS, GENERATED

COUNT, DIM, CENTRES = 20_000, 128, 400
NONE = np.zeros(0, dtype=np.int64)


def clustered(count: int, seed: int) -> np.ndarray:
    """Unit vectors around the same centres."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIM))
    rng = np.random.default_rng([1, seed])
    rows = centres[rng.integers(0, CENTRES, count)] + 0.7 * rng.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(COUNT, 0)


class Watched:
    """Rows that are taken in slices only, which it notes."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.shape, self.taken = rows, rows.shape, list[tuple[int, int]]()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: slice) -> np.ndarray:
        self.taken.append((some.start, some.stop))
        return self.rows[some]


def in_files(folder: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> FileRows:
    monkeypatch.setattr(row_sources, "ROWS_PER_FILE", 7_000)
    write_vectors(folder / "images.npy", [rows], len(rows))
    assert len(list((folder / "images").glob("part-*.npy"))) == 3
    return FileRows.open(folder / "images")


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_space_of_several_files_is_that_of_one(
    precision: Precision, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_space(tmp_path, "image_vector", in_files(tmp_path, vectors, monkeypatch), NONE, VectorForm(precision))
    kept = vectors.astype(precision)
    if precision == "int8":
        whole = encode(vectors, "int8")
        assert isinstance(whole, Int8Steps)
        kept = whole.numbers
        np.save(tmp_path / "steps.npy", whole.steps)
        assert (tmp_path / "image_vector.steps.npy").read_bytes() == (tmp_path / "steps.npy").read_bytes()
    np.save(tmp_path / "whole.npy", kept)
    assert (tmp_path / "image_vector.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize(("precision", "passes"), [("float32", 1), ("float16", 1), ("int8", 2)])
def test_no_more_than_a_block_is_read_at_once_and_all_of_them_no_more_often_than_needed(
    precision: Precision, passes: int, vectors: np.ndarray, tmp_path: Path
) -> None:
    rows = Watched(vectors)
    write_space(tmp_path, "image_vector", rows, NONE, VectorForm(precision))
    blocks = [(start, min(start + BLOCK, COUNT)) for start in range(0, COUNT, BLOCK)]
    assert len(blocks) == 3
    assert rows.taken == blocks * passes


def index_of(rows: RowBlocks, absent: np.ndarray = NONE, **settings: object) -> Index:
    """An index of vectors alone: as `write_table` leaves it, but for words."""
    chosen = read_params().index.model_dump() | {"from_rows": 256} | settings
    manifest = Manifest("key", "dataset", "model", "captioner", COUNT, chosen, {}, {})
    folder = manifest.folder / FOLDER
    folder.mkdir(parents=True)
    columns = [[f"p{row}" for row in range(COUNT)], [b""] * COUNT, [[]] * COUNT, [None] * COUNT, [[]] * COUNT]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ROWS, strict=True)]
    whole = pa.RecordBatch.from_arrays(arrays, schema=ROWS)
    write_rows(folder, [whole.slice(at, 256) for at in range(0, COUNT, 256)], ROWS)
    write_space(folder, "image_vector", rows, absent, VectorForm.read(chosen["vectors"]))
    if chosen["vector_index"] != "exact":
        write_candidates(folder, chosen["vector_index"])
    return Index(manifest)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_ivf_rq_of_several_files_finds_nearly_all_that_is_nearest_and_scores_it_by_the_stored_vectors(
    precision: Precision, vectors: np.ndarray, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, queries = in_files(elsewhere, vectors, monkeypatch), clustered(50, 1)
    index = index_of(source, vector_index="ivf_rq", vectors=precision)
    held = index.table.search().limit(COUNT).to_arrow().sort_by("row")
    assert held.schema.field("image_vector").type.value_type == pa.float16()
    kept = index.vectors("image_vector", np.arange(COUNT))
    numbers = held["image_vector"].combine_chunks().flatten().to_numpy()
    assert (numbers.reshape(COUNT, DIM) == kept.astype(np.float16)).all()
    assert index.table.index_stats("image_vector_idx").index_type == "IVF_RQ"
    monkeypatch.delattr(Scans, "products")  # nothing is scanned
    right, params = np.argsort(-(queries @ kept.T), axis=1)[:, :10], read_params().search
    found = [index.nearest([WeightedVector("image_vector", query)], 10, (), params) for query in queries]
    hits = [len(set(rows.tolist()) & set(best.tolist())) for (rows, _), best in zip(found, right, strict=True)]
    assert np.mean(hits) >= 9.5
    for query, (rows, scores) in zip(queries, found, strict=True):
        assert scores == pytest.approx(kept[rows] @ query, abs=1e-6)
        assert (np.diff(scores) <= 0).all()


def test_pictures_without_a_vector_or_left_out_are_not_found_by_ivf_rq(vectors: np.ndarray, elsewhere: Path) -> None:
    absent = np.arange(0, COUNT, 2)
    rows = vectors.copy()
    rows[absent] = 0
    index, params = index_of(rows, absent, vector_index="ivf_rq"), read_params().search
    found, _ = index.nearest([WeightedVector("image_vector", vectors[5])], 20, [5, 7], params)
    assert len(found) == 20
    assert not set(found.tolist()) & {5, 7, *absent.tolist()}


def test_the_table_of_candidates_is_written_in_blocks(
    vectors: np.ndarray, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    decode = Floats.decode

    def noted(codes: Floats, some: slice) -> np.ndarray:
        taken.append(len(range(*some.indices(COUNT))))
        return decode(codes, some)

    monkeypatch.setattr(Floats, "decode", noted)
    index_of(vectors, vector_index="ivf_rq")
    assert taken == [BLOCK, BLOCK, COUNT - 2 * BLOCK]


def test_a_picture_is_read_from_its_own_batch(vectors: np.ndarray, elsewhere: Path) -> None:
    index = index_of(vectors, vector_index="exact")
    assert [picture.image_id for picture in index.pictures([19_999, 0, 255, 256])] == ["p19999", "p0", "p255", "p256"]
    assert index.ids == [f"p{row}" for row in range(COUNT)]


def test_caption_vectors_are_the_means_of_captions_whatever_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_sources, "BLOCK", 3)
    rows = unit_rows(15, 8, 0).astype(np.float32)
    human, machine = ["b", "b", "b", "d", "d", "g", "g"], ["a", "b", "c", "e", "f", "g", "h", "i"]
    rows[6] = -rows[5]  # two captions of g that cancel: the generated one stands in
    for name, images, some in ((CAPTIONS, human, rows[:7]), (GENERATED, machine, rows[7:])):
        np.save(tmp_path / f"{name}.npy", some)
        ids = pl.DataFrame({"id": [f"{image}#{n}" for n, image in enumerate(images)], "image_id": images})
        tables.write_table(ids, tmp_path / f"{name}.parquet", tables.VECTORS)
    found = material._caption_vectors(tmp_path, list("abcdefghijk"))
    assert found is not None
    wanted = np.zeros((11, 8), dtype=np.float32)
    for row, image in enumerate("abcdefghijk"):
        for images, some in ((machine, rows[7:]), (human, rows[:7])):
            own = [some[at].astype(np.float64) for at, name in enumerate(images) if name == image]
            if own and (length := np.linalg.norm(np.mean(own, axis=0))) > 1e-6:
                wanted[row] = np.mean(own, axis=0) / length
    np.testing.assert_allclose(np.concatenate(list(iter_blocks(found))), wanted, atol=1e-7)
    np.testing.assert_array_equal(found[2:9], found[0:11][2:9])
    assert found.described.tolist() == [True] * 9 + [False] * 2


def test_dimensions_that_ivf_rq_cannot_take_are_refused_before_anything_is_written() -> None:
    check_candidates("ivf_rq", {"image_vector": 24, "caption_vector": 8})
    check_candidates("ivf", {"image_vector": 20})
    with pytest.raises(
        ParamsError, match="ivf_rq takes vectors of a multiple of 8 dimensions, and caption_vector has 20"
    ):
        check_candidates("ivf_rq", {"image_vector": 24, "caption_vector": 20})
