"""Vectors in one file or in several: the same rows, read a block at a time, and faults that are named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twinlens.core import resources, row_sources
from twinlens.core.errors import DataError, ResourceError
from twinlens.core.row_sources import FileRows, RowSource, choose_rows
from twinlens.core.tables import VECTORS, write_table
from twinlens.core.vectors import (
    bring_to_unit,
    has_vectors,
    list_files,
    measure_lengths,
    normalise_rows,
    read_vectors,
    write_rows,
)
from twinlens.retrieval.fusion import concatenate

ROWS = normalise_rows(np.random.default_rng(0).standard_normal((25, 6)).astype(np.float32))


def blocks(rows: np.ndarray, size: int = 4) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def store(folder: Path, name: str = "images", rows: np.ndarray = ROWS) -> None:
    assert write_rows(folder / f"{name}.npy", blocks(rows), len(rows)) == rows.shape[1]
    ids = [f"{n}" for n in range(len(rows))]
    write_table(pl.DataFrame({"id": ids, "image_id": ids}), folder / f"{name}.parquet", VECTORS)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowSource:
    monkeypatch.setattr(row_sources, "ROWS_PER_FILE", 10)
    monkeypatch.setattr(row_sources, "CELLS", 30)
    store(tmp_path)
    found = read_vectors(tmp_path, "images").rows
    assert isinstance(found, RowSource)
    return found


def test_many_rows_are_files_of_equally_many_with_a_manifest_and_few_are_one_file(
    stored: RowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads((tmp_path / "images" / "manifest.json").read_text())
    assert told == {"rows": 25, "dim": 6, "dtype": "float32", "rows_per_file": 10}
    assert [path.name for path in list_files(tmp_path, "images")] == [
        "manifest.json",
        *(f"part-0000{n}.npy" for n in range(3)),
    ]
    for number, rows in enumerate((ROWS[:10], ROWS[10:20], ROWS[20:])):
        np.testing.assert_array_equal(np.load(tmp_path / "images" / f"part-0000{number}.npy"), rows)
    assert not (tmp_path / "images.npy").exists()
    assert has_vectors(tmp_path, "images")
    assert not has_vectors(tmp_path, "captions")
    monkeypatch.setattr(row_sources, "ROWS_PER_FILE", 25)
    store(tmp_path, "few")
    assert list_files(tmp_path, "few") == [tmp_path / "few.npy"]
    np.testing.assert_array_equal(read_vectors(tmp_path, "few").rows, ROWS)


@pytest.mark.parametrize(
    "asked",
    [
        slice(None), slice(3, 17), slice(9, 11), slice(20, 99), slice(7, 3), slice(-4, None), slice(2, 24, 5),
        np.array([24, 0, 9, 10, 10, -1]), [3, 4], np.arange(25) % 3 == 0, np.array([[0, 24], [11, 5]]), 7,
        np.zeros(0, dtype=np.int64),
    ],
)  # fmt: skip
def test_rows_are_asked_for_as_of_numpy(stored: RowSource, asked: object) -> None:
    wanted = ROWS[asked]  # type: ignore[call-overload]
    np.testing.assert_array_equal(stored[asked], wanted)
    again = pickle.loads(pickle.dumps(stored))
    np.testing.assert_array_equal(again[asked], wanted)


def test_a_row_source_looks_like_a_matrix(stored: RowSource) -> None:
    assert (len(stored), stored.shape, stored.nbytes) == (25, (25, 6), ROWS.nbytes)
    assert stored.dtype == ROWS.dtype
    np.testing.assert_array_equal(np.asarray(stored), ROWS)
    np.testing.assert_array_equal(np.asarray(stored, dtype=np.float64), ROWS.astype(np.float64))
    np.testing.assert_array_equal(np.stack(list(stored)), ROWS)
    np.testing.assert_array_equal(measure_lengths(stored), measure_lengths(ROWS))
    for wrong in ([25], [-26]):
        with pytest.raises(IndexError, match="are asked for of 25"):
            stored[wrong]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(stored, copy=False)


def test_some_rows_and_joined_rows_are_read_when_they_are_asked_for(stored: RowSource) -> None:
    chosen = np.array([20, 3, 3, 11])
    some, joined = choose_rows(stored, chosen), concatenate(stored, np.asarray(stored)[:, :4], 0.3)
    assert isinstance(some, RowSource)
    assert isinstance(joined, RowSource)
    assert (some.shape, joined.shape) == ((4, 6), (25, 10))
    np.testing.assert_array_equal(some[1:3], ROWS[chosen[1:3]])
    np.testing.assert_array_equal(some[np.array([3, 0])], ROWS[chosen[[3, 0]]])
    wanted = concatenate(ROWS, ROWS[:, :4], 0.3)
    np.testing.assert_array_equal(np.asarray(joined), wanted)
    np.testing.assert_array_equal(joined[np.array([24, 9])], wanted[[24, 9]])


def test_rows_of_another_length_are_brought_to_unit_length_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_sources, "ROWS_PER_FILE", 10)
    longer = ROWS * np.float32(3)
    store(tmp_path, rows=longer)
    found = read_vectors(tmp_path, "images")
    assert isinstance(found.unit, RowSource)
    np.testing.assert_array_equal(np.asarray(found.unit), bring_to_unit(longer))
    longer[13] = 0
    store(tmp_path, "zero", longer)
    with pytest.raises(DataError, match="1 of 25 vectors are useless, the first is zero: 13"):
        _ = read_vectors(tmp_path, "zero").unit


def test_all_rows_at_once_are_refused_where_memory_has_no_room_for_them(
    stored: RowSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "measure_free_memory", lambda: 599)
    with pytest.raises(ResourceError, match=r"25 vectors at once need 600 bytes of memory, and 599 are free\. Take"):
        np.asarray(stored)
    assert len(stored[:20]) == 20


def test_a_part_that_is_gone_cut_short_or_of_another_size_is_named(stored: RowSource, tmp_path: Path) -> None:
    part, manifest = tmp_path / "images" / "part-00001.npy", tmp_path / "images" / "manifest.json"
    whole, told = part.read_bytes(), manifest.read_text()
    part.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"part-00001\.npy was cut short: `dvc repro -f -s embed`"):
        stored[:]
    with pytest.raises(DataError, match=r"part-00001\.npy is damaged .*`dvc repro -f -s embed`"):
        read_vectors(tmp_path, "images")
    np.save(part, ROWS[:9])
    with pytest.raises(DataError, match=r"part-00001\.npy has \(9, 6\) float32 and not \(10, 6\) float32"):
        read_vectors(tmp_path, "images")
    part.unlink()
    with pytest.raises(DataError, match=r"part-00001\.npy is not here"):
        read_vectors(tmp_path, "images")
    part.write_bytes(whole)
    for damaged in (told[:9], "[]", told.replace("25", "0"), told.replace("float32", "float16")):
        manifest.write_text(damaged)
        with pytest.raises(DataError, match=r"manifest\.json is damaged or gone \(.*\): `dvc repro -f -s embed`"):
            FileRows.open(tmp_path / "images")
    manifest.write_text(told)
    write_table(pl.DataFrame({"id": ["a"], "image_id": ["a"]}), tmp_path / "images.parquet", VECTORS)
    with pytest.raises(DataError, match="25 vectors for 1 ids"):
        read_vectors(tmp_path, "images")


def test_free_memory_is_that_of_the_system_within_the_control_group() -> None:
    assert 0 < resources.measure_free_memory() < 2**50
