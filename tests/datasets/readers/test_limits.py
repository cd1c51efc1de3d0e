"""Small files that stand for many gigabytes: refused by what they declare, and by what comes out of them."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets.adapters.pictures import jpeg, zipped
from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.readers import limits, parquet_cells, parquet_pictures, tars
from twinlens.datasets.readers.archives import open_tree
from twinlens.datasets.readers.limits import MB, refuse_large
from twinlens.datasets.readers.parquet_cells import read_cells
from twinlens.datasets.readers.parquet_pictures import read_pictures
from twinlens.datasets.readers.tabular import read_rows

GB = 2**30


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Whatever a test reads, it takes no more than 150 MB for it, that for packing it included."""
    tracemalloc.start()
    yield
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 150 * MB


def packed(size: int, method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive, archive.open("a.jpg", "w", force_zip64=True) as member:
        for _ in range(size // MB):
            member.write(bytes(MB))
    return out.getvalue()


def test_a_member_that_declares_too_much_is_not_read(tmp_path: Path) -> None:
    raw = bytearray(zipped({"a.jpg": jpeg(1), "b.jpg": jpeg(2)}))
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<L", 3 * GB)
    (tmp_path / "a.zip").write_bytes(bytes(raw))
    tree = open_tree(tmp_path / "a.zip")
    assert tree.read("a.jpg") == "3,221,225,472 bytes unpacked, wanted at most 536,870,912"
    assert tree.read("b.jpg") == jpeg(2)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_declares_too_little_is_read_no_further(method: int, tmp_path: Path) -> None:
    raw = bytearray(packed(150 * MB if method != zipfile.ZIP_LZMA else 20 * MB, method))
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<L", 50)
    (tmp_path / "a.zip").write_bytes(bytes(raw))
    assert str(open_tree(tmp_path / "a.zip").read("a.jpg")).startswith("damaged in the archive: ")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_come_out_as_they_were_packed(method: int, tmp_path: Path) -> None:
    content = {"a.jpg": jpeg(1), "b.jpg": os.urandom(3 * MB), "none.txt": b""}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)
    tree = open_tree(tmp_path / "a.zip")
    assert {name: tree.read(name) for name in content} == content
    assert tree.read("b.jpg", MB) == "3,145,728 bytes unpacked, wanted at most 1,048,576"


def test_the_holes_of_a_sparse_tar_count(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.jpg")
    member.size, member.type = 512, tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\x0000000001000\x00"  # of the one piece: its place, and its size
    header[483:495] = b"\x80" + (100 * GB).to_bytes(11, "big")  # with the holes
    header[148:156] = b"        "
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(512) + bytes(1024))
    assert (tmp_path / "a.tar").stat().st_size == 2048
    assert open_tree(tmp_path / "a.tar").read("a.jpg") == "107,374,182,400 bytes unpacked, wanted at most 536,870,912"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_packed_tar_unpacks_to_no_more_than_a_hundred_times_its_size(
    pack: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(pack)
    monkeypatch.setattr(tars, "MAX_UNPACKED_BYTES", 2 * MB)
    member = tarfile.TarInfo("a.jpg")
    member.size = 20 * MB
    (tmp_path / "a.tar.gz").write_bytes(pack(member.tobuf() + bytes(20 * MB) + bytes(1024)))
    with pytest.raises(DataError, match=r"unpacks to more than [\d,]+ bytes, over 100 times its size: refused"):
        open_tree(tmp_path / "a.tar.gz").read("a.jpg")


def test_a_header_of_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 5 * GB
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(MB)))
    with pytest.raises((DataError, FetchError), match="a header of 5,368,709,120 bytes"):
        open_tree(tmp_path / "a.tar.gz")


def test_files_of_a_folder_have_the_same_limit_and_have_to_be_files(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(3 * GB)
    os.mkfifo(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to("/dev/zero")
    (tmp_path / "d.jpg").symlink_to("d.jpg")
    (tmp_path / "e").symlink_to("e")
    tree = open_tree(tmp_path)
    assert tree.names() == ["a.jpg"]
    assert str(tree.read("a.jpg")).startswith("3,221,225,472 bytes in the file, wanted at most")
    assert tree.read("b.jpg") == tree.read("c.jpg") == "no file but a pipe, socket or device"
    assert str(tree.read("d.jpg")).startswith("cannot be read: ")
    assert tree.read("x\0.jpg") == "no name that a file can have: 'x\\x00.jpg'"


def test_a_table_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(3 * GB)
    with pytest.raises(DataError, match=r"a.csv has 3,221,225,472 bytes, wanted at most .* Split it into several"):
        read_rows(tmp_path / "a.csv", ["file"])
    assert refuse_large(tmp_path / "a.csv", 4 * GB) == 3 * GB


# ---------------------------------------------------------------- Parquet


def repeated(path: Path, rows: int, column: pa.Array) -> Path:
    """A file of one value that stands in every row: a few kilobytes, whatever it stands for."""
    cells = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), column)
    pq.write_table(pa.table({"text": cells}), path)
    return path


def test_a_text_that_a_million_rows_share_is_counted_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repeated(tmp_path / "a.parquet", 40_000, pa.array(["x" * 10_000]))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(parquet_cells, "MAX_TEXT_BYTES", 300 * MB)
    with pytest.raises(DataError, match=r"its texts have over 314,572,800 bytes, each time they stand\. Split it"):
        read_rows(path, ["text"])


def test_a_text_that_rows_share_is_held_once(tmp_path: Path) -> None:
    path = repeated(tmp_path / "a.parquet", 20_000, pa.array(["x" * 10_000]))
    cells = read_cells(path, ["text"])["text"]
    assert len(cells) == 20_000
    assert all(cell == "x" * 10_000 for cell in cells[::1000])


@pytest.mark.parametrize(
    ("name", "limit", "said"),
    [
        ("MAX_ROWS", 99, "has 100 rows, wanted at most 99"),
        ("MAX_TABLE_BYTES", 50, r"the columns that are read have [\d,]+ bytes, at most 50"),
        ("MAX_VALUES", 99, "the columns that are read have 100 values"),
    ],
)
def test_rows_bytes_and_values_are_compared_before_a_cell_is_read(
    name: str, limit: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repeated(tmp_path / "a.parquet", 100, pa.array(["some text of a caption"]))
    monkeypatch.setattr(parquet_cells, name, limit)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    with pytest.raises(DataError, match=said):
        read_cells(path, ["text"])


def test_nested_columns_read_as_arrow_reads_them_whatever_lies_in_their_dictionaries(tmp_path: Path) -> None:
    rows = 1_000
    lists = [[f"{i}" * 50, "b", None] if i % 7 else None if i % 2 else [] for i in range(rows)]
    pictures = [{"bytes": b"x", "path": f"{i}" * 60} if i % 5 else None for i in range(rows)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"lists": lists, "image": pa.array(pictures, kind), "text": [f"{i % 9}" for i in range(rows)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=450, dictionary_pagesize_limit=5_000)
    found = read_cells(tmp_path / "a.parquet", ["lists", "image.path", "text"])
    assert found["lists"] == lists
    assert found["image.path"] == [cell and cell["path"] for cell in pictures]
    assert found["text"] == table["text"].to_pylist()


def test_pictures_are_read_a_few_rows_at_a_time_in_any_order(tmp_path: Path) -> None:
    pictures = [os.urandom(MB // 2) for _ in range(12)] * 4
    pq.write_table(pa.table({"image": pictures}), tmp_path / "a.parquet", use_dictionary=False)
    del pictures[12:]
    order = [0, 1, 13, 47, 46, 3]
    found = list(read_pictures({"a": tmp_path / "a.parquet"}, [f"a#{row}" for row in [*order, 99]], "image"))
    assert found == [*(pictures[row % 12] for row in order), "listed, but not there"]


def test_a_row_group_that_unpacks_to_more_than_pictures_do_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"image": [bytes(20 * MB), b"x"]}), tmp_path / "a.parquet", compression="zstd")
    monkeypatch.setattr(parquet_pictures, "MAX_PICTURE_BYTES", MB)
    found = list(read_pictures({"a": tmp_path / "a.parquet"}, ["a#0"], "image"))
    assert str(found[0]).startswith("not read from a: its row group unpacks to 20,9")
    assert limits.MAX_PICTURE_BYTES > MB


def test_a_name_in_the_description_that_is_no_utf_8_is_damage(tmp_path: Path) -> None:
    path = repeated(tmp_path / "a.parquet", 100, pa.array(["some text"]))
    raw = path.read_bytes()
    at = raw.rindex(b"\x04text")
    path.write_bytes(raw[: at + 1] + b"t\xc9xt" + raw[at + 5 :])
    with pytest.raises(DataError, match=r"a\.parquet (is not a whole Parquet file|: no column)"):
        read_rows(path, ["text"])
