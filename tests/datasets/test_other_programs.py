"""Files as other programs leave them: each ends in the right value, in a listed drop, or in a message."""

from __future__ import annotations

import io
import json
import tarfile
import unicodedata
import warnings
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets.adapters.own import Case, table
from tests.datasets.adapters.pictures import jpeg, parquet, picture_cell, tarred
from twinlens.core.errors import DataError

FOUR = {f"{n}.jpg": jpeg(n) for n in range(4)}
SAID = {"0.jpg": ["a red dog"], "1.jpg": ["two cats"]}
WITH_SPLIT = {"file": "file", "caption": "caption", "split": "split"}
WITH_LABEL = {"file": "file", "label": "label"}


def quoted(cell: str) -> str:
    doubled = cell.replace('"', '""')
    return f'file,caption\n0.jpg,"{doubled}"\n'


# ------------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("t.csv", 'file,caption\n0.jpg,"a \\"big, red\\" dog"\n1.jpg,"C:\\\\"\n', [['a "big, red" dog'], ["C:\\"]]),
        ("t.csv", '"file","caption"\n"0.jpg","C:\\"\n"1.jpg","two cats"\n', [["C:\\"], ["two cats"]]),
        ("t.csv", "file,caption\n0.jpg,a red dog\n1.jpg,two cats\n".encode("utf-16-le"), list(SAID.values())),
        ("t.csv", "file,caption\n0.jpg,a red dog\n1.jpg,two cats\n".encode("utf-16-be"), list(SAID.values())),
        ("t.csv", "\ufeff\ufefffile,caption\n0.jpg,a red dog\n1.jpg,two cats\n", list(SAID.values())),
        ("t.csv", quoted("['a red dog' 'it''s wet'\n \"it's a dog\"]"), [["a red dog", "it", "s wet", "it's a dog"]]),
        ("t.csv", quoted("('a red dog', 'it runs')"), [["a red dog", "it runs"]]),
        ("t.csv", quoted("[['a red dog'], None, ['it runs']]"), [["a red dog", "it runs"]]),
        ("t.csv", "file,caption\n0.jpg,(a red dog)\n1.jpg,[sic] {x}\n", [["(a red dog)"], ["[sic] {x}"]]),
        ("t.csv", "file,caption\n0.jpg,None\n0.jpg,<NA>\n1.jpg,#N/A\n1.jpg,None of them\n", [[], ["None of them"]]),
    ],
    ids=[
        *("escaped quotes", "a backslash that is one", "UTF-16 without mark", "big-endian", "two marks"),
        *("numpy's list", "tuple", "nested", "brackets of a text", "holes"),
    ],
)  # fmt: skip
def test_a_table_says_what_its_program_meant(
    name: str, content: str | bytes, wanted: list[list[str]], tmp_path: Path
) -> None:
    assert list(table(tmp_path, name, content, FOUR).captions().values()) == wanted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", '{"0.jpg": "a dog", "1.jpg": "a cat", "0.jpg": "it runs"}', r"has the key '0.jpg' twice"),
        ("t.jsonl", '{"file": "0.jpg", "caption": "a", "caption": "b"}', r"line 1 is no JSON: .* key 'caption' twice"),
    ],
)
def test_what_says_two_things_is_an_error(name: str, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, name, content, FOUR).kept()


@pytest.mark.parametrize("cell", ["[{'raw': 'a dog', 'id': 1}]", '{"raw": "a dog", "id": null}'])
def test_a_struct_that_was_written_as_text_is_listed(cell: str, tmp_path: Path) -> None:
    made = table(tmp_path, "t.csv", quoted(cell) + "1.jpg,{}\n1.jpg,a {dog}\n", FOUR)
    assert made.captions() == {"0.jpg": [], "1.jpg": ["a {dog}"]}
    why = "found a struct of raw, id that was written as text. Write the field that is meant into a column of its own"
    assert made.kept().dropped.filter(rule="struct")["reason"][0].startswith(why)


def test_a_row_that_ends_before_its_caption_is_listed(tmp_path: Path) -> None:
    content = "file|n|caption\n0.jpg|0|a red dog\n1.jpg|0   two cats\n1.jpg|1|two cats\n"
    made = table(tmp_path, "t.csv", content, FOUR)
    assert made.captions() == SAID
    short = made.kept().dropped.filter(rule="short_row")
    assert short.select("id", "reason").rows() == [
        ("1.jpg", "t.csv, line 3 ends before its column caption: does it lack a separator?")
    ]


def test_numbers_of_labels_in_a_list_that_was_written_are_labels(tmp_path: Path) -> None:
    made = table(tmp_path, "t.csv", 'file,label\n0.jpg,"[3, 7.0]"\n1.jpg,[3]\n', FOUR, columns=WITH_LABEL)
    assert made.kept().images["labels"].to_list() == [["3", "7"], ["3"]]


def test_splits_have_many_names(tmp_path: Path) -> None:
    words = {"Train": "train", "valid": "val", "TEST": "test", "restval": "train"}
    lines = "".join(f"{n}.jpg,says {n},{word}\n" for n, word in enumerate(words))
    made = table(tmp_path, "t.csv", f"file,caption,split\n{lines}", FOUR, columns=WITH_SPLIT)
    assert made.kept().images["split"].to_list() == list(words.values())
    places = {"Train/cat/0.jpg": ("train", ["cat"]), "valid/1.jpg": ("val", []), "dogs/test/2.jpg": ("test", ["dogs"])}
    made = Case(
        tmp_path / "f", {f"p/{name}": jpeg(1) for name in places}, adapter="folder", images=f"{tmp_path}/f/files/p"
    )
    found = {
        file: (split, labels) for file, split, labels in made.kept().images.select("file", "split", "labels").rows()
    }
    assert found == places


# ------------------------------------------------------------------------- JSON


def test_the_splits_of_karpathy_are_a_table(tmp_path: Path) -> None:
    images = [
        {"filename": "0.jpg", "split": "restval", "sentences": [{"raw": "a red dog", "tokens": ["a"]}]},
        {
            "filepath": "sub",
            "filename": "1.jpg",
            "split": "test",
            "sentences": [{"raw": "two cats"}, {"raw": "they sleep"}],
        },
    ]
    pictures = {"0.jpg": jpeg(0), "sub/1.jpg": jpeg(1)}
    made = table(tmp_path, "t.json", json.dumps({"images": images}), pictures, columns=WITH_SPLIT)
    assert made.captions() == {"0.jpg": ["a red dog"], "sub/1.jpg": ["two cats", "they sleep"]}
    assert made.kept().images["split"].to_list() == ["train", "test"]


def test_an_id_that_two_pictures_of_a_coco_table_have_is_an_error(tmp_path: Path) -> None:
    content: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": 1, "file_name": "0.jpg"}, {"id": "1", "file_name": "0.jpg"}],
        "annotations": [{"image_id": 1, "caption": "a red dog"}],
    }
    columns = {"file": "file_name", "caption": "caption"}
    assert table(tmp_path, "t.json", json.dumps(content), FOUR, columns=columns).captions() == {"0.jpg": ["a red dog"]}
    content["images"][1]["file_name"] = "1.jpg"
    with pytest.raises(DataError, match=r"image 1: 1.jpg has the id 1 of 0.jpg; whose are its annotations\?"):
        table(tmp_path, "t.json", json.dumps(content), FOUR, columns=columns).kept()


# ------------------------------------------------------------------------ names


def test_two_files_whose_names_are_spelt_alike_are_two_pictures(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD")] + ["a.jpg", "a.jpg "]
    lines = [json.dumps({"file": name, "caption": f"says {n}"}) for n, name in enumerate(names)]
    made = table(tmp_path, "t.jsonl", "\n".join(lines), {name: jpeg(n) for n, name in enumerate(names)})
    assert made.captions() == {name: [f"says {n}"] for n, name in enumerate(names)}
    assert made.pictures(*made.kept().images["file"]) == [jpeg(n) for n in range(4)]


def test_quoted_names_and_addresses_of_files_are_names(tmp_path: Path) -> None:
    names = ["my dog.jpg", "é.jpg", "50%20off.jpg", "50 off.jpg", "mark.jpg"]
    address = (tmp_path / "files/photos/my%20dog.jpg").as_uri().replace("%25", "%")
    listed = [address, "%C3%A9.jpg", "50%20off.jpg", "50 off.jpg", "\ufeffmark.jpg\u200b"]
    content = "file,caption\n" + "".join(f"{name},says {n}\n" for n, name in enumerate(listed))
    made = table(tmp_path, "t.csv", content, {name: jpeg(n) for n, name in enumerate(names)})
    assert made.captions() == {name: [f"says {n}"] for n, name in enumerate(names)}


def test_folders_that_systems_keep_for_themselves_are_no_classes(tmp_path: Path) -> None:
    names = ["dogs/0.jpg", "dogs/@eaDir/0.jpg/THUMB.jpg", "cats/1.jpg", "cats/__MACOSX/1.jpg", "$RECYCLE.BIN/x/2.jpg"]
    made = Case(tmp_path, {f"p/{name}": jpeg(1) for name in names}, adapter="folder", images=f"{tmp_path}/files/p")
    assert made.kept().images.select("file", "labels").rows() == [("cats/1.jpg", ["cats"]), ("dogs/0.jpg", ["dogs"])]


# --------------------------------------------------------------------- archives


def unmarked(members: dict[str, bytes], encoding: str) -> bytes:
    """A zip whose names are in an encoding that nothing tells."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for n, (name, content) in enumerate(members.items()):
            archive.writestr(zipfile.ZipInfo(str(n) * len(name.encode(encoding))), content)
    raw = file.getvalue()
    for n, name in enumerate(members):
        raw = raw.replace(str(n).encode() * len(name.encode(encoding)), name.encode(encoding))
    return raw


@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_names_of_a_zip_that_says_no_encoding_are_read(encoding: str, tmp_path: Path) -> None:
    members = {"straße-köln.jpg": jpeg(0), "mädchen-größe.jpg": jpeg(1)}
    made = Case(tmp_path, {"p.zip": unmarked(members, encoding)}, adapter="folder", images=f"{tmp_path}/files/p.zip")
    assert sorted(made.kept().images["file"]) == sorted(members)
    assert made.pictures(*members) == list(members.values())


def twice(kind: str, members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
            warnings.simplefilter("ignore")
            for name, content in members:
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_two_members_of_an_archive_have_is_set_aside(kind: str, tmp_path: Path) -> None:
    packed = twice(kind, [("a.jpg", jpeg(0)), ("b.jpg", jpeg(1)), ("a.jpg", jpeg(2)), ("b.jpg", jpeg(1))])
    made = Case(tmp_path, {f"p.{kind}": packed}, adapter="folder", images=f"{tmp_path}/files/p.{kind}")
    assert made.kept().images["file"].to_list() == ["a.jpg", "b.jpg"]
    changed, same = made.pictures("a.jpg", "b.jpg")
    assert str(changed).startswith("twice in the archive, each time another file")
    assert same == jpeg(1)


def test_captions_that_stand_twice_in_a_shard_are_listed(tmp_path: Path) -> None:
    shard = twice("tar", [("a.jpg", jpeg(0)), ("a.txt", b"one"), ("a.txt", b"two")])
    made = Case(tmp_path, {"0.tar": shard}, adapter="webdataset", source=f"{tmp_path}/files", shards={"test": "*.tar"})
    assert made.captions() == {"0.tar/a.jpg": []}
    assert made.kept().dropped.select("id", "rule").rows() == [("a", "unreadable")]


def test_classes_of_shards_may_be_members_of_their_own(tmp_path: Path) -> None:
    shard = tarred({"0.jpg": jpeg(0), "0.cls": b"3\n", "1.jpg": jpeg(1), "1.cls": b"nan", "2.jpg": jpeg(2)})
    card = {"adapter": "webdataset", "source": f"{tmp_path}/files", "shards": {"test": "*.tar"}, "label": "cls"}
    made = Case(tmp_path, {"0.tar": shard}, **card)
    assert made.kept().images["labels"].to_list() == [["3"], [], []]


@pytest.mark.parametrize("adapter", ["hub", "webdataset"])
def test_a_file_that_two_splits_name_is_an_error(adapter: str, tmp_path: Path) -> None:
    rows = {f"{split}-0.parquet": parquet([{"image": picture_cell(n)}]) for n, split in enumerate(("train", "test"))}
    shards = {f"{split}-0.tar": tarred({f"{n}.jpg": jpeg(n)}) for n, split in enumerate(("train", "test"))}
    if adapter == "hub":
        more: dict[str, Any] = {"repository": "a/b", "files": {"train": "*.parquet", "test": "test-*"}, "columns": {}}
    else:
        more = {"shards": {"train": "*.tar", "test": "test-*.tar"}}
    made = Case(tmp_path, rows if adapter == "hub" else shards, adapter=adapter, source=f"{tmp_path}/files", **more)
    with pytest.raises(DataError, match=r"test-0\.\w+ is of train \(`\*\.\w+`\) and of test \(`test-\*"):
        made.kept()


# ---------------------------------------------------------------------- Parquet


def test_parquet_with_a_split_and_several_captions_a_row(tmp_path: Path) -> None:
    image = pa.array([picture_cell(n) for n in range(3)])
    number = pa.array([Decimal(1), Decimal(2), None], pa.decimal128(5, 0))
    columns = {"one": ["a", "b", "c"], "two": ["d", None, "f"], "part": ["TRAIN", "validation", None]}
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": image, "number": number, **columns}), sink)
    made = Case(
        tmp_path, {"0.parquet": sink.getvalue()}, adapter="hub", repository="a/b", source=f"{tmp_path}/files",
        files={"test": "*.parquet"}, columns={"caption": ["one", "two"], "label": "number", "split": "part"},
    )  # fmt: skip
    assert list(made.captions().values()) == [["a", "d"], ["b"], ["c", "f"]]
    assert made.kept().images.select("split", "labels").rows() == [("train", ["1"]), ("val", ["2"]), ("test", [])]
