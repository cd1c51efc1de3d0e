"""Your own pictures, captioned radiology, tar shards and ObjectNet: in small, with the faults they can have."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from tests.datasets.adapters.pictures import encoded, jpeg, pixels, tarred, write, zipped
from twinlens.config.datasets import FolderCard, ImageClefCard, ObjectNetCard, WebDatasetCard
from twinlens.config.params import FilterParams
from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.adapters.folder import Folder
from twinlens.datasets.adapters.imageclef import ImageClef
from twinlens.datasets.adapters.objectnet import ObjectNet, crop_border
from twinlens.datasets.adapters.webdataset import WebDataset
from twinlens.datasets.annotations import RawCaption, RawImage
from twinlens.datasets.filter import apply_rules
from twinlens.images.decode import open_picture

LENIENT = FilterParams(require_caption=False, require_label=False)
PHOTOS = {"a.jpg": jpeg(1), "sub/été.jpg": jpeg(2), "A.JPG": jpeg(3), "stray.png": encoded(pixels(4), "PNG")}
COLUMNS = {"file": "name", "caption": "text", "label": "kinds", "split": "part"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def folder(images: Path, table: Path | None, **changes: Any) -> Folder:
    card: dict[str, Any] = {"adapter": "folder", "images": str(images), "separator": ";"}
    if table is not None:
        card |= {"table": str(table), "columns": COLUMNS}
    return Folder(FolderCard.model_validate(card | changes))


CSV = (
    "name,text,kinds,part\n"
    "a.jpg,A dog.,dog;cat,train\n"
    "a.jpg,A cat too.,cat,train\n"
    "sub/été.jpg,Été.,,test\n"
    "gone.jpg,Not there.,dog,test\n"
    ",No file.,dog,test\n"
)
JSONL = (
    '{"name": "a.jpg", "text": ["A dog.", "A cat too."], "kinds": ["dog", "cat"], "part": "train"}\n\n'
    '{"name": "sub/été.jpg", "text": "Été.", "part": "test"}\n'
    '{"name": "gone.jpg", "text": "Not there.", "kinds": "dog", "part": "test"}\n'
    '{"name": "", "part": "test"}\n'
)


def table_file(kind: str, folder: Path) -> Path:
    path = folder / f"table.{kind}"
    if kind == "parquet":
        rows = [json.loads(line) for line in JSONL.splitlines() if line]
        lists = [row | {name: _listed(row.get(name)) for name in ("text", "kinds")} for row in rows]
        pq.write_table(pa.Table.from_pylist(lists), path)
    else:
        text = {"csv": CSV, "tsv": CSV.replace(",", "\t"), "jsonl": JSONL}[kind]
        path.write_text(text, encoding="utf-8")
    return path


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_the_same_table_in_any_format_gives_the_same_pictures(
    kind: str, packed: bool, tmp_path: Path, raw: Path
) -> None:
    images = write(tmp_path / "photos", PHOTOS)
    if packed:
        images = tmp_path / "photos.zip"
        images.write_bytes(zipped(PHOTOS))
    made = folder(images, table_file(kind, tmp_path))
    made.download(raw)
    found = made.annotations(raw)
    assert found.images == [
        RawImage("a.jpg", "a.jpg", "train", ("dog", "cat")),
        RawImage("sub/été.jpg", "sub/été.jpg", "test", ()),
        RawImage("gone.jpg", "gone.jpg", "test", ("dog",)),
    ]
    assert [c.text for c in found.captions] == ["A dog.", "A cat too.", "Été.", "Not there."]
    assert [(drop[1].split(":")[0], drop[2]) for drop in found.dropped] == [
        (f"table.{kind}", "no_file"), ("A.JPG", "unlisted"), ("stray.png", "unlisted"),
    ]  # fmt: skip
    pictures = list(made.read_pictures(raw, [image.file for image in found.images]))
    assert pictures == [jpeg(1), jpeg(2), "listed, but not there"]


def test_labels_outside_the_cards_classes_are_a_listed_drop(tmp_path: Path, raw: Path) -> None:
    made = folder(write(tmp_path / "photos", PHOTOS), table_file("csv", tmp_path), classes=["dog"])
    made.download(raw)
    found = made.annotations(raw)
    assert [drop[:3] for drop in found.dropped[1:3]] == [("image", "a.jpg", "unknown_label")] * 2
    assert "label 'cat' is not one of the 1 classes" in found.dropped[1][3]
    kept = apply_rules(found, LENIENT)
    assert kept.images["image_id"].to_list() == ["sub/été.jpg", "gone.jpg"]
    assert ("caption", "a.jpg", "dropped_image") in kept.dropped.select("kind", "id", "rule").rows()


def test_a_picture_in_two_splits_counts_in_the_first_and_is_listed(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "t.csv").write_text("name,text,kinds,part\na.jpg,x,,train\na.jpg,y,,test\n")
    made = folder(write(tmp_path / "photos", PHOTOS), tmp_path / "t.csv")
    made.download(raw)
    found = made.annotations(raw)
    assert [image.split for image in found.images] == ["train"]
    assert ("image", "a.jpg", "two_splits", "a.jpg is in the splits train and test; the first counts") in found.dropped


def test_two_files_under_one_id_are_two_pictures_each_with_its_captions(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "t.csv").write_text("name,key,text\na.jpg,7,small\nA.JPG,7,large\nstray.png,8,stray\n")
    columns = {"file": "name", "id": "key", "caption": "text"}
    made = folder(write(tmp_path / "photos", PHOTOS), tmp_path / "t.csv", columns=columns)
    made.download(raw)
    kept = apply_rules(made.annotations(raw), LENIENT)
    assert kept.images["image_id"].to_list() == ["7@a.jpg", "7@A.JPG", "8"]
    said = [("7@a.jpg", "small"), ("7@A.JPG", "large"), ("8", "stray")]
    assert kept.captions.select("image_id", "text").rows() == said


def test_without_a_table_a_pictures_label_is_its_folder(tmp_path: Path, raw: Path) -> None:
    files = {"train/dog/a.jpg": jpeg(1), "test/cat/b.jpg": jpeg(2), "fish/c.jpg": jpeg(3), "d.jpg": jpeg(4)}
    made = folder(write(tmp_path / "photos", files), None)
    made.download(raw)
    found = made.annotations(raw)
    assert {(i.image_id, i.split, i.labels) for i in found.images} == {
        ("train/dog/a.jpg", "train", ("dog",)),
        ("test/cat/b.jpg", "test", ("cat",)),
        ("fish/c.jpg", "test", ("fish",)),
        ("d.jpg", "test", ()),
    }
    assert not found.captioned


def test_an_unknown_split_is_an_error_that_names_the_known_ones(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "t.csv").write_text("name,text,kinds,part\na.jpg,x,,PublicTest\n")
    made = folder(write(tmp_path / "photos", PHOTOS), tmp_path / "t.csv")
    made.download(raw)
    with pytest.raises(DataError, match="in split 'PublicTest'; known splits: train, val, test"):
        apply_rules(made.annotations(raw), LENIENT)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "file,text\n", r"t.csv: no column name, kinds, part; found file, text"),
        ("t.xlsx", "x", r"what kind of table ends in '.xlsx'\? Known: .csv"),
        ("t.jsonl", '{"name": "a.jpg"}\n{"name"\n', r"t.jsonl, line 2 is no JSON"),
        ("t.jsonl", "[1]\n", r"t.jsonl, line 1 is no JSON object"),
        ("t.parquet", "PAR1", r"t.parquet is not a whole Parquet file"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error_that_says_what_was_found(
    name: str, content: str, message: str, tmp_path: Path, raw: Path
) -> None:
    (tmp_path / name).write_text(content)
    made = folder(write(tmp_path / "photos", PHOTOS), tmp_path / name)
    made.download(raw)
    with pytest.raises(DataError, match=message):
        made.annotations(raw)


def test_an_empty_table_and_an_empty_folder_are_errors(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "t.csv").write_text("name,text,kinds,part\n")
    (tmp_path / "none").mkdir()
    made = folder(tmp_path / "none", tmp_path / "t.csv")
    made.download(raw)
    with pytest.raises(DataError, match="no picture of 0 is left"):
        apply_rules(made.annotations(raw), LENIENT)


def test_what_is_not_there_is_named(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(FetchError, match=r"photos, .*t.csv not there: the dataset's card names them"):
        folder(tmp_path / "photos", tmp_path / "t.csv").download(raw)


def test_a_folder_that_changed_after_download_is_refused(tmp_path: Path, raw: Path) -> None:
    images = write(tmp_path / "photos", PHOTOS)
    made = folder(images, table_file("csv", tmp_path))
    made.download(raw)
    write(images, {"new.jpg": jpeg(9)})
    with pytest.raises(DataError, match=r"photos \(5 files, .* is not what was recorded: `dvc repro -f download`"):
        made.annotations(raw)
    made.download(raw)
    assert "new.jpg" in [drop[1] for drop in made.annotations(raw).dropped]


def test_the_manifest_changes_with_any_byte_and_holds_no_path_of_this_machine(tmp_path: Path, raw: Path) -> None:
    images = write(tmp_path / "photos", PHOTOS)
    made = folder(images, None)
    made.download(raw)
    before = (raw / "manifest.json").read_text()
    changed = bytearray(PHOTOS["a.jpg"])
    changed[-10] ^= 1
    write(images, {"a.jpg": bytes(changed)})
    made.download(raw)
    assert (raw / "manifest.json").read_text() != before
    assert str(tmp_path) not in before


# ---------------------------------------------------------------- radiology


def imageclef(source: Path) -> ImageClef:
    parts = {
        "train": {"images": "train_images.zip", "captions": "train_captions.csv"},
        "test": {"images": "test_images", "captions": "test_captions.csv"},
    }
    return ImageClef(ImageClefCard.model_validate({"adapter": "imageclef", "source": str(source), "parts": parts}))


RADIOLOGY = {
    "train_images.zip": zipped({"train/R_1.jpg": jpeg(1), "train/R_2.jpg": jpeg(2), "train/R_9.jpg": jpeg(9)}),
    "train_captions.csv": b'ID,Caption\nR_1,"CT of the chest, axial."\nR_2,MRI.\nR_3,No picture.\n',
    "test_images/R_4.jpg": jpeg(4),
    "test_captions.csv": "ID\tCaption\nR_4\tRöntgen.\n".encode(),
}


def test_radiology_is_read_from_zips_and_folders_with_its_faults_listed(tmp_path: Path, raw: Path) -> None:
    made = imageclef(write(tmp_path / "r", RADIOLOGY))
    made.download(raw)
    found = made.annotations(raw)
    assert [(i.image_id, i.split) for i in found.images] == [
        ("R_1", "train"), ("R_2", "train"), ("R_3", "train"), ("R_4", "test"),
    ]  # fmt: skip
    assert found.captions[0] == RawCaption("R_1", "CT of the chest, axial.")
    assert found.dropped == [
        ("image", "train/train/R_9.jpg", "unlisted", "a picture that train_captions.csv does not list")
    ]
    pictures = list(made.read_pictures(raw, [image.file for image in found.images]))
    assert pictures == [jpeg(1), jpeg(2), "listed, but not there", jpeg(4)]


def test_a_split_without_a_picture_is_an_error_that_names_it(tmp_path: Path, raw: Path) -> None:
    made = imageclef(write(tmp_path / "r", RADIOLOGY | {"test_captions.csv": b"ID,Caption\n"}))
    made.download(raw)
    with pytest.raises(DataError, match=r"test_captions.csv holds no row: the split 'test' has no picture"):
        made.annotations(raw)


# ---------------------------------------------------------------- tar shards

SHARDS = {
    "train-000.tar": tarred(
        {"s/1.jpg": jpeg(1), "s/1.txt": b"A dog.\nA big dog.\n", "s/1.json": b'{"kind": "dog"}', "s/2.txt": b"Alone."}
    ),
    "train-001.tar": tarred({"s/3.PNG": encoded(pixels(3), "PNG"), "s/3.json": b"{broken"}),
    "test-000.tar": tarred({"s/4.jpg": jpeg(4), "s/4.txt": "Été.".encode()}),
}


def shards(source: Path, **changes: Any) -> WebDataset:
    card = {
        "adapter": "webdataset",
        "source": str(source),
        "shards": {"train": "train-*.tar", "test": "test-*.tar"},
        "metadata": "json",
        "label_key": "kind",
    }
    return WebDataset(WebDatasetCard.model_validate(card | changes))


def test_samples_of_shards_are_read_with_their_faults_listed(tmp_path: Path, raw: Path) -> None:
    made = shards(write(tmp_path / "s", SHARDS))
    assert made.download(raw) == 3
    found = made.annotations(raw)
    assert [(i.image_id, i.split, i.labels) for i in found.images] == [
        ("s/1", "train", ("dog",)), ("s/3", "train", ()), ("s/4", "test", ()),
    ]  # fmt: skip
    assert [c.text for c in found.captions] == ["A dog.", "A big dog.", "Été."]
    assert [drop[:3] for drop in found.dropped] == [
        ("image", "s/2", "no_picture"), ("caption", "s/3", "unreadable"),
    ]  # fmt: skip
    files = [image.file for image in found.images]
    assert list(made.read_pictures(raw, files)) == [jpeg(1), encoded(pixels(3), "PNG"), jpeg(4)]


def test_captions_of_shards_may_stand_in_the_metadata(tmp_path: Path, raw: Path) -> None:
    shard = tarred({"1.jpg": jpeg(1), "1.json": b'{"words": ["one", "two"]}'})
    made = shards(write(tmp_path / "s", {"train-0.tar": shard}), caption_key="words")
    made.download(raw)
    assert [c.text for c in made.annotations(raw).captions] == ["one", "two"]


def test_no_shard_is_an_error_with_the_shapes_looked_for(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(FetchError, match=r"holds no shard like train-\*.tar or test-\*.tar"):
        shards(write(tmp_path / "s", {"x.tar": b""})).download(raw)


def test_a_shard_with_a_name_that_leads_out_of_it_is_refused(tmp_path: Path, raw: Path) -> None:
    made = shards(write(tmp_path / "s", {"train-0.tar": tarred({"../1.jpg": jpeg(1)})}))
    made.download(raw)
    with pytest.raises(FetchError, match="refused whole"):
        made.annotations(raw)


# ---------------------------------------------------------------- ObjectNet


def bordered(number: int) -> bytes:
    return encoded(ImageOps.expand(pixels(number), border=1, fill=(255, 0, 0)), "PNG")


OBJECTNET = {
    "images/alarm_clock/1.png": bordered(1),
    "images/alarm_clock/2.png": bordered(2),
    "images/unheard_of/3.png": bordered(3),
    "mappings/folder_to_objectnet_label.json": b'{"alarm_clock": "Alarm clock"}',
}


def test_objectnets_border_is_cut_off_and_no_pixel_more(tmp_path: Path, raw: Path) -> None:
    card = ObjectNetCard(adapter="objectnet", source=str(write(tmp_path / "o", OBJECTNET)), selection="never")
    made = ObjectNet(card)
    made.download(raw)
    found = made.annotations(raw)
    assert [(i.image_id, i.split, i.labels) for i in found.images] == [
        ("alarm_clock/1", "test", ("Alarm clock",)), ("alarm_clock/2", "test", ("Alarm clock",)),
    ]  # fmt: skip
    assert [drop[:3] for drop in found.dropped] == [("image", "unheard_of/3.png", "unknown_label")]
    for number, picture in enumerate(made.read_pictures(raw, [i.file for i in found.images]), 1):
        assert isinstance(picture, bytes)
        assert open_picture(picture)[0].tolist() == open_picture(encoded(pixels(number), "PNG"))[0].tolist()


def test_a_picture_without_the_border_keeps_its_bytes_and_a_damaged_one_has_its_reason() -> None:
    plain = encoded(pixels(1), "PNG")
    assert crop_border(plain) == plain
    three_sides = Image.open(io.BytesIO(bordered(1))).convert("RGB")
    three_sides.putpixel((20, 0), (254, 0, 0))
    assert crop_border(encoded(three_sides, "PNG")) == encoded(three_sides, "PNG")
    assert str(crop_border(bordered(1)[:100])).startswith("damaged: ")


def test_a_card_of_objectnet_cannot_allow_selection() -> None:
    with pytest.raises(ValueError, match="selection"):
        ObjectNetCard.model_validate({"adapter": "objectnet", "source": "x", "selection": "allowed"})
