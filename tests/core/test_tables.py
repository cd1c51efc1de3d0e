"""Tables between stages: exactly the columns they promise, and pixels that belong to their index."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.core.shards import iter_pixels, shard_path

INDEX_ROW: dict[str, Any] = {"image_id": "a", "shard": 0, "row": 0, "width": 9, "height": 9, "sha256": "0"}
SCHEMAS = {name: schema for name, schema in vars(tables).items() if isinstance(schema, pa.Schema)}


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    frame = pl.DataFrame({"image_id": ["a", "é"], "file": ["x", "y"], "split": ["val"] * 2, "labels": [["cat"], []]})
    tables.write_table(frame, tmp_path / "deep" / "er" / "images.parquet", tables.IMAGES)
    assert tables.read_table(tmp_path / "deep" / "er" / "images.parquet", tables.IMAGES).equals(frame)


def test_columns_are_put_in_order_narrowed_and_cleared_of_others(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    tables.write_table(pl.DataFrame([{"extra": 1.5} | dict(reversed(INDEX_ROW.items()))]), path, tables.INDEX)
    assert pq.read_schema(path).remove_metadata() == tables.INDEX


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_writes_and_reads_an_empty_table(name: str, tmp_path: Path) -> None:
    tables.write_table(SCHEMAS[name].empty_table(), tmp_path / "t.parquet", SCHEMAS[name])
    assert tables.read_table(tmp_path / "t.parquet", SCHEMAS[name]).columns == SCHEMAS[name].names


def test_the_same_table_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tables.write_table(pl.DataFrame([INDEX_ROW] * 100), tmp_path / name, tables.INDEX)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_missing_column_is_refused_by_name(tmp_path: Path) -> None:
    frame = pl.DataFrame([INDEX_ROW]).drop("row", "sha256")
    with pytest.raises(DataError, match=r"index.parquet: columns \['row', 'sha256'\] are missing; found \['image_id'"):
        tables.write_table(frame, tmp_path / "index.parquet", tables.INDEX)
    assert not (tmp_path / "index.parquet").exists()


@pytest.mark.parametrize(
    ("column", "value"),
    [("shard", "first"), ("shard", 1.5), ("width", 2**40), ("image_id", ["a"]), ("row", b"\xff")],
)
def test_a_column_of_another_type_is_refused(column: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index.parquet: .*wanted image_id: string not null"):
        tables.write_table(pl.DataFrame([INDEX_ROW | {column: value}]), tmp_path / "index.parquet", tables.INDEX)
    assert not (tmp_path / "index.parquet").exists()


def test_a_null_is_refused_where_there_may_be_none(tmp_path: Path) -> None:
    frame = pl.DataFrame([INDEX_ROW, INDEX_ROW | {"sha256": None}])
    with pytest.raises(DataError, match=r"index.parquet: .*sha256"):
        tables.write_table(frame, tmp_path / "index.parquet", tables.INDEX)


def test_a_null_is_kept_where_there_may_be_one(tmp_path: Path) -> None:
    row = {"image_id": "a", "split": "test", "in_pool": True, "object_set": None, "shard": 0, "row": 0, "sha256": "0"}
    tables.write_table(pl.DataFrame([row]), tmp_path / "groups.parquet", tables.GROUPS)
    assert tables.read_table(tmp_path / "groups.parquet", tables.GROUPS)["object_set"].to_list() == [None]


def test_a_table_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.parquet is not here: `dvc repro` makes it, `dvc pull` fetches it"):
        tables.read_table(tmp_path / "nowhere.parquet", tables.INDEX)


def test_a_table_with_other_columns_is_refused_when_it_is_read(tmp_path: Path) -> None:
    tables.write_table(pl.DataFrame([INDEX_ROW]), tmp_path / "index.parquet", tables.INDEX)
    with pytest.raises(DataError, match=r"columns \['kept', 'note'\] are missing"):
        tables.read_table(tmp_path / "index.parquet", tables.NOTES)


# ---------------------------------------------------------------- pixels


def shards(folder: Path, *contents: list[str]) -> Path:
    """Shards of pictures; the bytes of picture `a` are `pixels of a`."""
    for number, ids in enumerate(contents):
        rows = {"image_id": ids, "jpeg": [f"pixels of {i}".encode() for i in ids]}
        pq.write_table(pa.table(rows, schema=tables.PIXELS), shard_path(folder, number))
    return folder


def rows(*wanted: tuple[str, int, int]) -> pl.DataFrame:
    return pl.DataFrame(wanted, schema=["image_id", "shard", "row"], orient="row")


def test_pixels_come_in_the_order_they_are_asked_for(tmp_path: Path) -> None:
    folder = shards(tmp_path, ["a", "b", "c"], ["d", "e"])
    wanted = rows(("c", 0, 2), ("a", 0, 0), ("e", 1, 1))
    assert list(iter_pixels(folder, wanted)) == [
        ("c", b"pixels of c"),
        ("a", b"pixels of a"),
        ("e", b"pixels of e"),
    ]


def test_no_rows_are_no_pixels(tmp_path: Path) -> None:
    assert list(iter_pixels(tmp_path, rows(("a", 0, 0)).clear())) == []


def test_a_shard_is_read_once_and_only_when_its_turn_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = shards(tmp_path, ["a", "b"], ["c"]), []
    whole = pq.read_table

    def reading(path: Path, **options: Any) -> pa.Table:
        read.append(path.name)
        return whole(path, **options)

    monkeypatch.setattr(pq, "read_table", reading)
    pixels = iter_pixels(folder, rows(("a", 0, 0), ("b", 0, 1), ("c", 1, 0)))
    seen = [(image_id, list(read)) for image_id, _ in pixels]
    first, second = "shard-00000.parquet", "shard-00001.parquet"
    assert seen == [("a", [first]), ("b", [first]), ("c", [first, second])]


@pytest.mark.parametrize(
    "wanted",
    [("b", 0, 0), ("a", 0, 1), ("a", 0, 7), ("a", 3, 0)],
    ids=["another picture", "another row", "a row beyond the end", "a shard that is not there"],
)
def test_an_index_that_does_not_belong_to_the_shards_is_an_error(wanted: tuple[str, int, int], tmp_path: Path) -> None:
    folder = shards(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match=r"shard-0000\d.parquet: .*do not belong together: `dvc repro -f -s resize`"):
        list(iter_pixels(folder, rows(wanted)))


def test_pixels_before_the_mismatch_are_still_right(tmp_path: Path) -> None:
    pixels = iter_pixels(shards(tmp_path, ["a", "b"]), rows(("a", 0, 0), ("c", 0, 1)))
    assert next(pixels) == ("a", b"pixels of a")
    with pytest.raises(DataError, match="row 1 is b, expected c"):
        next(pixels)


def test_a_picture_whose_bytes_are_not_those_of_the_index_is_found(tmp_path: Path) -> None:
    folder = shards(tmp_path, ["a", "b"])
    wanted = rows(("a", 0, 0), ("b", 0, 1))
    right = {name: hashlib.sha256(jpeg).hexdigest() for name, jpeg in iter_pixels(folder, wanted)}
    assert len(list(iter_pixels(folder, wanted.with_columns(sha256=pl.Series(right.values()))))) == 2
    wrong = wanted.with_columns(sha256=pl.Series([right["a"], right["a"]]))
    read = iter_pixels(folder, wrong)
    assert next(read)[0] == "a"
    with pytest.raises(DataError, match=r"row 1, b, has other bytes than were written: `dvc repro -f -s resize`"):
        next(read)


@pytest.mark.parametrize("damage", [b"", b"PAR1 and no more", b"x" * 5_000])
def test_a_damaged_table_is_named_with_the_stage_that_makes_it(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data" / "grouped" / "scenes" / "images.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    with pytest.raises(DataError, match=r"images.parquet is damaged \(.*\): `dvc repro -f -s group` makes it again"):
        tables.read_table(path, tables.GROUPS)


def test_a_table_written_in_pieces_is_the_file_of_one_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pl.DataFrame([INDEX_ROW | {"image_id": f"{n:02d}"} for n in range(25)])
    for name, cuts, group in (("many", [0, 3, 3, 17, 25], 2**20), ("one", [0, 25], 2**20)):
        monkeypatch.setattr(tables, "ROWS_PER_GROUP", group)
        with tables.TableWriter(tmp_path / f"{name}.parquet", tables.INDEX) as table:
            for start, stop in pairwise(cuts):
                table.add(frame[start:stop])
            assert table.rows == 25
    tables.write_table(frame, tmp_path / "whole.parquet", tables.INDEX)
    assert (tmp_path / "many.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    tables.write_table(frame[:0], tmp_path / "whole.parquet", tables.INDEX)
    with tables.TableWriter(tmp_path / "none.parquet", tables.INDEX):
        pass
    assert (tmp_path / "none.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_no_more_than_a_row_group_waits_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 10)
    frame = pl.DataFrame([INDEX_ROW | {"image_id": f"{n:02d}"} for n in range(25)])
    with tables.TableWriter(tmp_path / "t.parquet", tables.INDEX) as table:
        for start in range(0, 25, 4):
            table.add(frame[start : start + 4])
            assert table._waiting < 10
    described = pq.read_metadata(tmp_path / "t.parquet")
    assert [described.row_group(n).num_rows for n in range(3)] == [10, 10, 5]
    assert tables.read_table(tmp_path / "t.parquet", tables.INDEX)["image_id"].to_list() == frame["image_id"].to_list()
    assert tables.count_rows(tmp_path / "t.parquet") == 25
    slices = list(tables.read_slices(tmp_path / "t.parquet", tables.INDEX, ("image_id", "row"), 7))
    assert [len(one) for one in slices] == [7, 7, 7, 4]  # whatever the row groups
    assert pl.concat(slices).equals(frame.select("image_id", pl.col("row").cast(pl.Int32)))


def test_a_table_that_cannot_be_read_in_slices_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not here"):
        list(tables.read_slices(tmp_path / "t.parquet", tables.INDEX, ("image_id",), 7))
    (tmp_path / "t.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="is damaged"):
        tables.count_rows(tmp_path / "t.parquet")


def test_only_the_columns_that_are_wanted_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pl.DataFrame({"id": ["a", "b"], "image_id": ["x", "y"]})
    tables.write_table(table, tmp_path / "vectors.parquet", tables.VECTORS)
    asked: list[object] = []
    read = pq.read_table

    def noted(path: Path, columns: Any = None) -> pa.Table:
        asked.append(columns)
        return read(path, columns=columns)

    monkeypatch.setattr(pq, "read_table", noted)
    found = tables.read_table(tmp_path / "vectors.parquet", tables.VECTORS, ["image_id"])
    assert found.equals(table.select("image_id"))
    assert tables.read_table(tmp_path / "vectors.parquet", tables.VECTORS).equals(table)
    assert asked == [["image_id"], None]
    table.drop("image_id").write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"columns \['image_id'\] are missing"):
        tables.read_table(tmp_path / "other.parquet", tables.VECTORS, ["image_id"])
