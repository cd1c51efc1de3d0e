"""Faults that people reported of other tools, in small: each ends in the right value, or in a message."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.datasets.adapters.own import Case, table
from tests.datasets.adapters.pictures import jpeg, parquet, tarred, zipped
from twinlens.config.datasets import CocoCard
from twinlens.core.errors import DataError

FOUR = {f"{n}.jpg": jpeg(n) for n in range(4)}


# ------------------------------------------------------------- a caption follows its picture


def samples(**texts: str) -> bytes:
    return tarred(
        {f"{key}.{e}": c for key, text in texts.items() for e, c in (("jpg", jpeg(1)), ("txt", text.encode()))}
    )


def test_shards_that_count_from_zero_each_keep_their_captions(tmp_path: Path) -> None:
    shards = {
        f"part-{n}.tar": samples(**{"0": f"a {what} 0", "1": f"a {what} 1"}) for n, what in enumerate(("dog", "tram"))
    }
    made = Case(tmp_path, shards, adapter="webdataset", source=str(tmp_path / "files"), shards={"test": "*.tar"})
    assert made.captions() == {
        "part-0.tar/0.jpg": ["a dog 0"], "part-0.tar/1.jpg": ["a dog 1"],
        "part-1.tar/0.jpg": ["a tram 0"], "part-1.tar/1.jpg": ["a tram 1"],
    }  # fmt: skip
    assert made.kept().images["image_id"].to_list() == ["part-0/0", "part-0/1", "part-1/0", "part-1/1"]


def test_shards_of_one_name_in_two_folders_are_two_shards(tmp_path: Path) -> None:
    shards = {f"{n}/0.tar": tarred({f"{n}.jpg": jpeg(n), f"{n}.txt": str(n).encode()}) for n in (1, 2)}
    made = Case(tmp_path, shards, adapter="webdataset", source=str(tmp_path / "files"), shards={"test": "*/0.tar"})
    assert made.captions() == {"1/0.tar/1.jpg": ["1"], "2/0.tar/2.jpg": ["2"]}
    assert made.pictures("2/0.tar/2.jpg", "1/0.tar/1.jpg") == [jpeg(2), jpeg(1)]


def rows(split: str, path: str | None = None, **more: Any) -> bytes:
    images = [{"bytes": jpeg(n + len(split)), "path": path and path.format(n)} for n in range(2)]
    return parquet([{"image": image, "caption": f"{split} {n}"} | more for n, image in enumerate(images)])


@pytest.mark.parametrize("path", [None, "{}.jpg"], ids=["no path", "a bare name"])
def test_parquet_with_the_same_names_in_each_split_keeps_all_pictures_and_captions(
    tmp_path: Path, path: str | None
) -> None:
    files = {f"default/{split}/0000.parquet": rows(split, path) for split in ("train", "test")}
    made = Case(
        tmp_path, files, adapter="hub", repository="a/b", source=str(tmp_path / "files"),
        files={split: f"default/{split}/*.parquet" for split in ("train", "test")},
        columns={"image": "image", "caption": "caption"},
    )  # fmt: skip
    assert made.captions() == {
        f"default/{split}/0000.parquet#{n}": [f"{split} {n}"] for split in ("train", "test") for n in range(2)
    }
    assert made.kept().dropped.is_empty()


@pytest.mark.parametrize("hole", [None, float("nan")])
def test_a_null_id_is_no_id(tmp_path: Path, hole: float | None) -> None:
    cells = [
        {"image": {"bytes": jpeg(n), "path": None}, "caption": f"c{n}", "id": i}
        for n, i in enumerate((7.0, hole, hole))
    ]
    made = Case(
        tmp_path, {"d/0.parquet": parquet(cells)}, adapter="hub", repository="a/b", source=str(tmp_path / "files"),
        files={"test": "d/*.parquet"}, columns={"image": "image", "caption": "caption", "id": "id"},
    )  # fmt: skip
    kept = made.kept()
    assert kept.images["image_id"].to_list() == ["7", "0-000001", "0-000002"]
    assert kept.captions["text"].to_list() == ["c0", "c1", "c2"]


def coco(tmp_path: Path, parts: dict[str, list[dict[str, Any]]], captions: dict[str, list[dict[str, Any]]]) -> Case:
    members: dict[str, bytes] = {}
    files: dict[str, bytes] = {}
    for part, images in parts.items():
        boxes = {"images": images, "annotations": [], "categories": []}
        members[f"annotations/captions_{part}.json"] = json.dumps(boxes | {"annotations": captions[part]}).encode()
        members[f"annotations/instances_{part}.json"] = json.dumps(boxes).encode()
        files[f"{part}.zip"] = zipped({f"{part}/{image['file_name']}": jpeg(n) for n, image in enumerate(images)})
    files["annotations_trainval2017.zip"] = zipped(members)
    return Case(tmp_path, files, adapter="coco", parts=list(parts), source=str(tmp_path / "files"), verify=False)


def test_two_parts_of_coco_that_count_from_zero_each_keep_their_captions(tmp_path: Path) -> None:
    parts: dict[str, list[dict[str, Any]]] = {
        part: [{"id": 0, "file_name": "a.jpg"}] for part in ("train2017", "val2017")
    }
    made = coco(tmp_path, parts, {part: [{"image_id": 0, "caption": f"of {part}"}] for part in parts})
    assert made.captions() == {"train2017/a.jpg": ["of train2017"], "val2017/a.jpg": ["of val2017"]}


def test_coco_as_other_programs_write_it(tmp_path: Path) -> None:
    images: list[dict[str, Any]] = [{"id": 1, "file_name": "a.jpg"}, {"id": "2", "file_name": "b.jpg"}]
    said: list[dict[str, Any]] = [
        {"image_id": 1.0, "caption": None},
        {"image_id": "1", "caption": "one"},
        {"image_id": 2, "caption": "two"},
    ]
    made = coco(tmp_path, {"val2017": images}, {"val2017": said})
    assert made.captions() == {"val2017/a.jpg": ["one"], "val2017/b.jpg": ["two"]}


@pytest.mark.parametrize(
    ("folder", "file_name", "member"),
    [
        ("{part}", "a.jpg", "val2017/a.jpg"),
        ("", "a.jpg", "a.jpg"),
        ("my/{part}", "a.jpg", "my/val2017/a.jpg"),
        ("photos/", "a.jpg", "photos/a.jpg"),
        ("", "val2017/a.jpg", "val2017/a.jpg"),
    ],
)
def test_photos_of_coco_in_another_folder_are_found_where_the_card_names_it(
    folder: str, file_name: str, member: str, tmp_path: Path
) -> None:
    made = coco(
        tmp_path, {"val2017": [{"id": 1, "file_name": file_name}]}, {"val2017": [{"image_id": 1, "caption": "one"}]}
    )
    (tmp_path / "files/val2017.zip").write_bytes(zipped({member: jpeg(1)}))
    file = made.kept().images["file"][0]
    if member != f"val2017/{file_name}":
        (reason,) = made.pictures(file)
        assert isinstance(reason, str)
        assert reason.startswith(f"listed, but not there; there is {member} (looked for val2017/{file_name}")
    made.card = made.card.model_copy(update={"folder": folder})
    assert made.pictures(file) == [jpeg(1)]


@pytest.mark.parametrize("folder", ["/photos", "../photos", "a/../../b", "{split}", "{part", "{}"])
def test_a_folder_of_photos_that_is_none_is_refused(folder: str) -> None:
    with pytest.raises(ValidationError, match="`folder`"):
        CocoCard(adapter="coco", parts=["val2017"], pool="all", folder=folder)


def test_captions_of_an_id_that_two_photos_of_coco_have_are_nobodys(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
    made = coco(tmp_path, {"val2017": images}, {"val2017": [{"image_id": 1, "caption": "of which?"}]})
    assert made.captions() == {"val2017/a.jpg": []}
    assert made.kept().dropped["rule"].to_list() == ["duplicate_id", "ambiguous_id"]


@pytest.mark.parametrize("packed", ["flickr30k", "imageclef"])
def test_two_endings_of_one_name_are_two_pictures(packed: str, tmp_path: Path) -> None:
    both = {"a.jpg": jpeg(1), "a.png": jpeg(2)}
    if packed == "flickr30k":
        photos = zipped({f"flickr30k-images/{name}": content for name, content in both.items()})
        lines = "".join(f'"[""of {name}""]",test,{name}\n' for name in both)
        files = {"flickr30k-images.zip": photos, "flickr_annotations_30k.csv": f"raw,split,filename\n{lines}".encode()}
        card: dict[str, Any] = {}
    else:
        lines = "".join(f"{name},of {name}\n" for name in both)
        files = {f"p/{name}": content for name, content in both.items()} | {"t.csv": f"ID,Caption\n{lines}".encode()}
        card = {"parts": {"test": {"images": "p", "captions": "t.csv"}}}
    made = Case(tmp_path, files, adapter=packed, source=str(tmp_path / "files"), **card)
    assert {file.rpartition("/")[2]: said for file, said in made.captions().items()} == {
        name: [f"of {name}"] for name in both
    }


def test_names_with_blanks_and_two_endings_of_one_name_in_flickr8k(tmp_path: Path) -> None:
    photos = {"a.jpg": jpeg(1), "a.png": jpeg(2), "my dog.jpg": jpeg(3)}
    tokens = "".join(f"{name}#0\tof\u2028{name}\n" for name in photos)
    files = {f"Images/{name}": content for name, content in photos.items()} | {"Flickr8k.token.txt": tokens.encode()}
    lists = {"train": "a.jpg\na.png\n", "dev": "", "test": "my dog.jpg\r\n"}
    files |= {f"Flickr_8k.{split}Images.txt": names.encode() for split, names in lists.items()}
    made = Case(tmp_path, files, adapter="flickr8k", source=str(tmp_path / "files"))
    assert made.captions() == {name: [f"of {name}"] for name in photos}
    assert made.kept().images["image_id"].to_list() == ["a.jpg", "a.png", "my dog"]
    assert made.kept().dropped.is_empty()


# --------------------------------------------------------------- lines and cells


def test_jsonl_is_cut_at_line_feeds_alone(tmp_path: Path) -> None:
    said = ["A dog.", "Old tram\u2028in the rain", "Market\u0085at noon", "Two\x0bboats."]
    lines = "".join(
        json.dumps({"file": f"{n}.jpg", "caption": t}, ensure_ascii=False) + "\n" for n, t in enumerate(said)
    )
    assert table(tmp_path, "t.jsonl", lines, FOUR).captions() == {
        "0.jpg": ["A dog."], "1.jpg": ["Old tram in the rain"], "2.jpg": ["Market at noon"], "3.jpg": ["Two boats."],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "file,caption\n0.jpg,A dog\n1.jpg,A man, a woman\n", r"t.txt, line 3: 3 cells, its heading has 2"),
        ("t.csv", "file,caption,caption\n0.jpg,a,b\n", r"its heading names the column 'caption' twice"),
        ("t.csv", 'file,caption\n0.jpg,A dog\n1.jpg,"A cat\n2.jpg,A tram\n', r"t.csv, line 3: a quote opens a cell"),
        ("t.csv", 'file,caption\n0.jpg,"A dog\n1.jpg,b\n2.jpg,"A cat"\n', r"t.csv, line 2: a quote opens a cell"),
        ("t.tsv", 'file\tcaption\n0.jpg\t"A dog\n1.jpg\tA cat\n', r"t.tsv, line 2: a quote opens the cell"),
        ("t.csv", f"file,caption\n0.jpg,{'x' * 140_000}\n", r"t.csv, line 2: a cell of over 131,072 characters"),
        ("t.tsv", f"file\tcaption\n0.jpg\t{'x' * 140_000}\n", r"t.tsv, line 2: a cell of 140,000 characters"),
    ],
)
def test_a_row_that_cannot_be_cut_rightly_is_an_error_with_its_line(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, name, content, FOUR).kept()


def test_quotes_in_tab_separated_tables_swallow_nothing(tmp_path: Path) -> None:
    content = (
        'file\tcaption\n0.jpg\t"Stop" said the sign\n1.jpg\t"He said ""hi"""\n2.jpg\t"two\nlines"\n3.jpg\t5" wide\n'
    )
    assert table(tmp_path, "t.tsv", content, FOUR).captions() == {
        "0.jpg": ['"Stop" said the sign'], "1.jpg": ['He said "hi"'], "2.jpg": ["two lines"], "3.jpg": ['5" wide'],
    }  # fmt: skip


def test_quoted_cells_of_csv_hold_separators_and_line_breaks(tmp_path: Path) -> None:
    content = 'file,caption,,\r\n0.jpg,"A dog, running",,\r\n\r\n1.jpg,"two\r\nlines",,\r\n2.jpg\r\n'
    captions = table(tmp_path, "t.csv", content, FOUR).captions()
    assert captions == {"0.jpg": ["A dog, running"], "1.jpg": ["two lines"], "2.jpg": []}


# ------------------------------------------------------------------------- texts


def test_holes_of_a_data_frame_are_nothing(tmp_path: Path) -> None:
    nan = float("nan")
    cells = [("A dog.", "dog"), (nan, nan), ("nan", None), (["A tram.", nan, ["Red."]], 7.0)]
    lines = [json.dumps({"file": f"{n}.jpg", "caption": c, "label": label}) for n, (c, label) in enumerate(cells)]
    columns = {"file": "file", "caption": "caption", "label": "label"}
    made = table(tmp_path, "t.jsonl", "\n".join(lines), FOUR, columns=columns)
    assert made.captions() == {"0.jpg": ["A dog."], "1.jpg": [], "2.jpg": [], "3.jpg": ["A tram.", "Red."]}
    assert made.kept().images["labels"].to_list() == [["dog"], [], [], ["7"]]


@pytest.mark.parametrize("cell", ["['A dog.', \"It's wet.\"]", '["A dog.", "It\'s wet."]'])
def test_a_list_that_was_written_as_text_is_several_captions(cell: str, tmp_path: Path) -> None:
    content = f"file\tcaption\n0.jpg\t{cell}\n1.jpg\t[sic] a dog\n"
    assert table(tmp_path, "t.tsv", content, FOUR).captions() == {
        "0.jpg": ["A dog.", "It's wet."],
        "1.jpg": ["[sic] a dog"],
    }


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ({"raw": "A dog."}, r"line 1, column caption: found a struct of raw, wanted"),
        (True, r"found bool 'True', wanted"),
    ],
)
def test_what_is_no_text_is_an_error_that_names_its_column(caption: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, "t.jsonl", json.dumps({"file": "0.jpg", "caption": caption}), FOUR).kept()


def test_bytes_and_class_numbers_with_holes_are_read_from_parquet(tmp_path: Path) -> None:
    cells = [
        {"image": {"bytes": jpeg(n), "path": None}, "caption": b"caf\xc3\xa9", "label": label}
        for n, label in enumerate((1.0, None, float("nan"), 0.0))
    ]
    made = Case(
        tmp_path, {"0.parquet": parquet(cells, classes={"label": ["cat", "dog"]})}, adapter="hub", repository="a/b",
        source=str(tmp_path / "files"), files={"test": "*.parquet"},
        columns={"image": "image", "caption": "caption", "label": "label"},
    )  # fmt: skip
    kept = made.kept()
    assert kept.images["labels"].to_list() == [["dog"], [], [], ["cat"]]
    assert kept.captions["text"].to_list() == ["café"] * 4


# ---------------------------------------------------------------------- repeats


def test_rows_that_stand_twice_are_captions_once(tmp_path: Path) -> None:
    lines = [f"{n}.jpg,A {what} in the rain." for n, what in enumerate(("dog", "tram"))]
    again = [line.upper().replace(".JPG", ".jpg").rstrip(".") for line in lines]
    made = table(tmp_path, "t.csv", "\n".join(["file,caption", *lines, *lines, *again]), FOUR)
    assert made.captions() == {"0.jpg": ["A dog in the rain."], "1.jpg": ["A tram in the rain."]}
    repeated = made.kept().dropped.filter(rule="repeated")
    assert len(repeated) == 4


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (
            base64.b64encode(jpeg(0)).decode(),
            r"holds str, no bytes: decode them \(`base64.b64decode`\) and write bytes",
        ),
        ({"bytes": None, "path": "0.jpg"}, r"the name of a file, '0.jpg': write the pictures into the Parquet"),
        ([{"bytes": jpeg(0), "path": "0.jpg"}], r"holds a list of 1, no bytes: write a row for each picture"),
    ],
)
def test_what_is_no_picture_is_set_aside_with_the_way_on(cell: Any, reason: str, tmp_path: Path) -> None:
    cells = [{"image": cell, "caption": "a"}]
    made = Case(
        tmp_path, {"0.parquet": parquet(cells)}, adapter="hub", repository="a/b", source=str(tmp_path / "files"),
        files={"test": "*.parquet"}, columns={"image": "image", "caption": "caption"},
    )  # fmt: skip
    file = made.kept().images["file"][0]
    (found,) = made.pictures(file)
    assert isinstance(found, str) and re.search(reason, found)
