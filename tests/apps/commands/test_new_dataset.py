"""`twinlens new-dataset`: on each layout the card that it writes, run through the first stages as it stands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import download, filter
from tests.apps.commands.conftest import Done
from tests.datasets.adapters.pictures import jpeg, parquet, picture_cell, tarred, write, zipped
from tests.workspace import ROOT, change
from twinlens.config.load import check_cards, read_params
from twinlens.config.watched import read_watched
from twinlens.core import paths, tables

Command = Callable[..., Done]
CSV = "filename,photographer,caption,tags,split\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without data, that we are in."""
    shutil.copytree(ROOT / "cards", tmp_path / "project/cards")
    shutil.copy(ROOT / "params.yaml", tmp_path / "project/params.yaml")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def photos(count: int, below: str = "") -> dict[str, bytes]:
    return {f"{below}{number}.jpg": jpeg(number) for number in range(count)}


def card(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(f"cards/datasets/{name}.yaml").read_text(encoding="utf-8"))
    return content


def filtered(name: str) -> tuple[int, int, set[str]]:
    """Pictures, captions and labels that the first stages keep, by the card as it was written."""
    change(Path(), {"dataset": name, "captioner": "none", "model": "vit-b-32"})
    check_cards(read_params())
    download.main(name)
    filter.main(name)
    images = tables.read_table(paths.filtered(name) / "images.parquet", tables.IMAGES)
    captions = tables.read_table(paths.filtered(name) / "captions.parquet", tables.CAPTIONS)
    return len(images), len(captions), {label for labels in images["labels"] for label in labels}


def test_a_folder_and_its_table_become_a_card_that_runs(twinlens: Command, tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,Ann,a red car number {n},car;dog,{'train' if n < 4 else 'test'}\n" for n in range(8))
    mine = write(tmp_path / "My Photos", photos(8, "img/") | {"captions.csv": (CSV + rows).encode()})
    done = twinlens("new-dataset", str(mine))
    assert done.code == 0, done.err
    found = card("my-photos")
    assert found == {
        "adapter": "folder",
        "images": str(mine / "img"),
        "table": str(mine / "captions.csv"),
        "columns": {"file": "filename", "caption": "caption", "label": "tags", "split": "split"},
        "separator": ";",
        "pool": "test",
        "about": {"licence": "yours"},
    }
    assert "pictures: 8 (4 train, 4 test)" in done.out
    assert "captions: 8, of 8 pictures" in done.out
    assert "photographer are not used" in done.out
    assert "4 captioned pictures to train on are too few" in done.out
    assert "    dvc exp run -S dataset=my-photos -S captioner=none -S model=vit-b-32\n" in done.out
    assert filtered("my-photos") == (8, 8, {"car", "dog"})
    assert read_watched(Path("cards")) == ["my-photos"]
    assert Path("cards/watched.yaml").read_text(encoding="utf-8").startswith("# Datasets of your own")


def test_several_columns_of_captions_are_all_taken(twinlens: Command, tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,a red car {n},an automobile {n}\n" for n in range(3))
    mine = write(tmp_path / "two", photos(3) | {"t.csv": f"file,caption_1,caption_2\n{rows}".encode()})
    assert twinlens("new-dataset", str(mine)).code == 0
    assert card("two")["columns"] == {"file": "file", "caption": ["caption_1", "caption_2"]}
    assert filtered("two") == (3, 6, set())


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "json", "parquet"])
def test_a_table_of_any_kind_is_read_by_what_its_columns_hold(kind: str, twinlens: Command, tmp_path: Path) -> None:
    rows = [{"picture": f"{n}.jpg", "said of it": f"a dog and {n} cats on grass"} for n in range(3)]
    lines = [json.dumps(row) for row in rows]
    content = {
        "tsv": "picture\tsaid of it\n" + "".join(f"{row['picture']}\t{row['said of it']}\n" for row in rows),
        "jsonl": "\n".join(lines),
        "json": f"[{', '.join(lines)}]",
    }
    raw = parquet(rows) if kind == "parquet" else content[kind].encode()
    mine = write(tmp_path / "mine", photos(3))
    table = write(tmp_path, {f"elsewhere.{kind}": raw}) / f"elsewhere.{kind}"
    assert twinlens("new-dataset", str(mine), "--table", str(table)).code == 0
    assert card("mine")["columns"] == {"file": "picture", "caption": "said of it"}
    assert card("mine")["pool"] == "all"
    assert filtered("mine") == (3, 3, set())


def test_annotations_as_coco_writes_them_are_a_table(twinlens: Command, tmp_path: Path) -> None:
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 50} for number in range(3)],
        "annotations": [
            *({"image_id": number, "caption": f"{number} dogs run"} for number in range(3)),
            {"image_id": 1.0, "category_id": 2},
            {"image_id": 7, "caption": "of nobody"},
        ],
        "categories": [{"id": 2, "name": "dog"}],
    }
    mine = write(tmp_path / "coco-own", photos(3, "images/") | {"ann.json": json.dumps(content).encode()})
    assert twinlens("new-dataset", str(mine)).code == 0
    assert card("coco-own")["columns"] == {"file": "file_name", "caption": "caption", "label": "label"}
    assert card("coco-own")["images"] == str(mine / "images")
    assert filtered("coco-own") == (3, 3, {"dog"})
    dropped = tables.read_table(paths.filtered("coco-own") / "dropped.parquet", tables.DROPPED)
    assert dropped.select("id", "rule").rows() == [("ann.json:annotations of image 7", "no_file")]


def test_captions_by_file_name_are_a_table_too(twinlens: Command, tmp_path: Path) -> None:
    said = {f"{number}.jpg": [f"{number} dogs run", f"a field with {number} dogs"] for number in range(3)}
    mine = write(tmp_path / "named", photos(3) | {"captions.json": json.dumps(said).encode()})
    assert twinlens("new-dataset", str(mine)).code == 0
    assert filtered("named") == (3, 6, set())


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_pictures_in_folders_by_class_are_labelled_by_them(packed: bool, twinlens: Command, tmp_path: Path) -> None:
    files = {f"{'cat' if number % 2 else 'dog'}/{number}.jpg": jpeg(number) for number in range(6)}
    mine = write(tmp_path / "pets", files)
    if packed:
        mine = write(tmp_path, {"pets.zip": zipped(files)}) / "pets.zip"
    assert twinlens("new-dataset", str(mine)).code == 0
    assert "table" not in card("pets")
    assert filtered("pets") == (6, 0, {"cat", "dog"})


def test_pictures_without_anything_are_said_to_measure_nothing(twinlens: Command, tmp_path: Path) -> None:
    mine = write(tmp_path / "bare", photos(3, "images/"))
    done = twinlens("new-dataset", str(mine))
    assert done.code == 0
    assert card("bare")["images"] == str(mine / "images")  # or all would be labelled `images`
    assert "no captions and no labels" in done.err
    assert "dvc exp run" not in done.out
    assert filtered("bare") == (3, 0, set())


def test_tar_shards_are_read_by_their_members(twinlens: Command, tmp_path: Path) -> None:
    def shard(first: int) -> bytes:
        numbers = range(first, first + 3)
        members = {f"{n}.jpg": jpeg(n) for n in numbers} | {f"{n}.txt": f"{n} dogs run".encode() for n in numbers}
        return tarred(members | {f"{n}.json": b'{"label": "dog", "id": 7}' for n in numbers})

    files = {"train-0.tar": shard(0), "train-1.tar": shard(10), "test-0.tar": shard(20)}
    assert twinlens("new-dataset", str(write(tmp_path / "shards", files))).code == 0
    found = card("shards")
    assert found["shards"] == {"train": "train-*.tar", "test": "test-0.tar"}
    assert (found["caption"], found["metadata"], found["label_key"]) == ("txt", "json", "label")
    assert filtered("shards") == (9, 9, {"dog"})


def test_parquet_files_with_pictures_are_read_by_their_columns(twinlens: Command, tmp_path: Path) -> None:
    files = {
        f"data/{split}-0.parquet": parquet(
            [{"image": picture_cell(10 * j + i), "caption": ["a dog", "two cats"], "label": "x"} for i in range(3)]
        )
        for j, split in enumerate(("train", "validation", "test"))
    }
    assert twinlens("new-dataset", str(write(tmp_path / "rows", files))).code == 0
    found = card("rows")
    assert found["files"] == {
        s: f"data/{f}-0.parquet" for s, f in (("train", "train"), ("val", "validation"), ("test", "test"))
    }
    assert found["columns"] == {"image": "image", "caption": "caption", "label": "label"}
    assert filtered("rows") == (9, 18, {"x"})


def test_the_publishers_archives_of_coco_are_known(twinlens: Command, tmp_path: Path) -> None:
    files = {"annotations_trainval2017.zip": zipped({"a": b""}), "val2017.zip": zipped({"a.jpg": jpeg(1)})}
    mine = write(tmp_path / "coco-mine", files)
    assert twinlens("new-dataset", str(mine)).code == 0
    found = card("coco-mine")
    assert (found["adapter"], found["parts"], found["verify"], found["pool"]) == ("coco", ["val2017"], False, "all")


def test_many_captioned_pictures_to_train_on_propose_a_training() -> None:
    from collections import Counter

    from twinlens.apps.commands.dataset_cards import Extent, propose

    whole = {"train": 2_000, "val": 100, "test": 100}
    many = propose(Extent(whole, whole, 2_200, Counter(), {}))
    assert (many.pool, many.captioner, many.model) == ("test", "blip-scenes", "clip-scenes")
    for captioned in ({"train": 999, "val": 9, "test": 9}, {"train": 2_000, "test": 100}):
        few = propose(Extent(whole, captioned, 2_200, Counter(), {}))
        assert (few.pool, few.captioner, few.model) == ("test", "none", "vit-b-32")
    one = propose(Extent({"train": 5_000}, {"train": 5_000}, 5_000, Counter(), {}))
    assert (one.pool, one.captioner) == ("all", "none")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "found nothing"),
        ({"a.txt": b"x", "b.md": b"x"}, "found 1 x .txt, 1 x .md"),
        ({"a.tar": tarred({"a.txt": b"x"})}, "holds no pictures: found txt"),
        ({"a.parquet": parquet([{"caption": "a dog"}])}, "has no column of pictures; found caption"),
    ],
    ids=["empty", "texts", "tar of texts", "parquet of texts"],
)
def test_a_folder_without_pictures_is_refused_with_what_it_holds(
    files: dict[str, bytes], said: str, twinlens: Command, tmp_path: Path
) -> None:
    mine = write(tmp_path / "nothing", files)
    mine.mkdir(exist_ok=True)
    done = twinlens("new-dataset", str(mine))
    assert done.code == 2
    assert said in done.err
    assert not Path("cards/datasets/nothing.yaml").exists()
    assert read_watched(Path("cards")) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("t.csv", "is a table; wanted the folder of its pictures"), ("0.jpg", "is a picture; wanted the folder in which")],
)
def test_a_file_in_place_of_its_folder_is_answered_with_the_folder(
    name: str, said: str, twinlens: Command, tmp_path: Path
) -> None:
    mine = write(tmp_path / "mine", photos(2) | {"t.csv": b"file,caption\n0.jpg,a dog\n"})
    done = twinlens("new-dataset", str(mine / name))
    assert done.code == 2
    assert said in done.err
    assert "remove" not in done.err


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("id,caption\n0,a dog\n1,a cat\n", "column id names pictures without their endings ('0' for 0.jpg)"),
        ("url,caption\nhttps://x.org/0.jpg,a dog\n", "column url holds addresses"),
        ("file,caption\nold/0.jpg,a dog\n", "names pictures by other paths ('old/0.jpg' for 0.jpg)"),
        ("file,caption\nnine.jpg,a dog\n", "that are not there, 'nine.jpg' for instance; what is there is '0.jpg'"),
        ("0.jpg,a dog\n1.jpg,a cat\n", "its first line is a row"),
        ("who,what\nAnn,a dog\n", "no column names pictures of the folder: it has who ('Ann'), what ('a dog')"),
        ("file,caption\n", "no row below its heading"),
    ],
)
def test_a_table_whose_names_are_no_files_is_refused_with_the_reason(
    table: str, said: str, twinlens: Command, tmp_path: Path
) -> None:
    mine = write(tmp_path / "odd", photos(2) | {"t.csv": table.encode()})
    done = twinlens("new-dataset", str(mine), "--table", "t.csv")
    assert done.code == 2
    assert said in done.err
    seen = twinlens("new-dataset", str(mine))  # without being told of the table: it is passed over, not in silence
    assert seen.code == 0
    assert said in seen.out


def test_a_split_of_other_words_is_read_and_what_is_none_is_told(twinlens: Command, tmp_path: Path) -> None:
    rows = b"file,caption,split\n0.jpg,a dog,validation\n1.jpg,a cat,%b\n"
    for word, column in ((b"TEST", "split"), (b"PrivateTest", None)):
        mine = write(tmp_path / "s", photos(2) | {"t.csv": rows % word})
        done = twinlens("new-dataset", str(mine), "--force")
        assert card("s")["columns"].get("split") == column
        assert ("holds 'PrivateTest': write train, val or test" in done.out) == (column is None)
        assert filtered("s") == (2, 2, set())


SAYS = {number: f"it says {number} here" for number in range(4)}
PAIRS = {
    f"{number}.{ending}": content
    for number in range(3)
    for ending, content in (("jpg", jpeg(number)), ("txt", b"a dog"))
}


def metadata(numbers: range, heading: str = "file_name,text") -> bytes:
    return "\n".join([heading, *(f"{n % 2}.jpg,{SAYS[n]}" for n in numbers)]).encode()


def rows_of(first: int) -> bytes:
    both = ({"caption_0": f"one {n}", "caption_1": f"two {n}"} for n in (first, first + 1))
    return parquet([{"image": picture_cell(first + n), "split": "val"} | said for n, said in enumerate(both)])


def shard_of(number: int) -> bytes:
    return tarred({f"{number}.in.jpg": jpeg(number), f"{number}.out.txt": SAYS[number].encode()})


TABLES = {"train/metadata.csv": metadata(range(2)), "test/metadata.csv": metadata(range(2, 4))}
IN_SPLITS = {f"{split}/{n % 2}.jpg": jpeg(n) for n, split in enumerate(("train", "train", "test", "test"))}
PACKED = {"images.zip": zipped(photos(2)), "t.csv": metadata(range(2), "file,caption")}


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (IN_SPLITS | TABLES, {"train": [SAYS[0], SAYS[1]], "test": [SAYS[2], SAYS[3]]}),
        (PACKED, {"test": [SAYS[0], SAYS[1]]}),
        ({f"{split}/{split}.jpg": jpeg(len(split)) for split in ("train", "valid")}, {"train": [], "val": []}),
        ({"run_of_test/train-0.parquet": rows_of(0)}, {"val": ["one 0", "two 0", "one 1", "two 1"]}),
        ({"train-0.tar": shard_of(0), "test-0.tar": shard_of(1)}, {"train": [SAYS[0]], "test": [SAYS[1]]}),
    ],
    ids=["a table in each split", "a zip and a table", "splits alone", "Parquet", "endings of two parts"],
)
def test_layouts_of_other_programs_are_known(
    files: dict[str, bytes], splits: dict[str, list[str]], twinlens: Command, tmp_path: Path
) -> None:
    assert twinlens("new-dataset", str(write(tmp_path / "mine", files))).code == 0
    assert filtered("mine")[1] == sum(map(len, splits.values()))
    images = tables.read_table(paths.filtered("mine") / "images.parquet", tables.IMAGES)
    said = tables.read_table(paths.filtered("mine") / "captions.parquet", tables.CAPTIONS)
    found: dict[str, list[str]] = {split: [] for split in images["split"]}
    for split, text in images.join(said, on="image_id", maintain_order="right").select("split", "text").iter_rows():
        found[split].append(text)
    assert found == splits


def test_a_table_lists_the_pictures_of_its_own_split_where_others_have_the_same_names(
    twinlens: Command, tmp_path: Path
) -> None:
    mine = write(tmp_path / "mine", IN_SPLITS | {"t/train.csv": metadata(range(2)), "t/all.csv": metadata(range(2))})
    assert twinlens("new-dataset", str(mine), "--table", str(mine / "t/train.csv")).code == 0
    assert card("mine")["images"] == str(mine / "train")
    done = twinlens("new-dataset", str(mine), "--table", str(mine / "t/all.csv"), "--force")
    assert done.code == 2
    assert "names pictures that are in test/ and in train/ ('0.jpg' for instance): which are meant?" in done.err


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (PAIRS, "3 texts lie beside pictures of their names (0.txt) and are not read. Pack both into a shard"),
        (photos(2) | {"captions.xlsx": b"x"}, "1 x .xlsx is not read, captions.xlsx for instance: save it as CSV"),
        (photos(2) | {"0.xml": b"<a/>"}, "1 x .xml is not read, 0.xml for instance: annotations a picture each"),
        (photos(1) | {"t.jsonl": b'{"file": "0.jpg", "caption": {"en": "a"}}'}, "is not used: found a struct of en"),
        (photos(1) | {"t.csv": b"file,caption\n0.JPG,a\n"}, "there is '0.jpg', in letters of another case"),
    ],
    ids=["sidecars", "a spreadsheet", "XML", "structs", "case"],
)  # fmt: skip
def test_what_is_not_read_is_told_with_the_way_on(
    files: dict[str, bytes], said: str, twinlens: Command, tmp_path: Path
) -> None:
    done = twinlens("new-dataset", str(write(tmp_path / "mine", files)))
    assert done.code == 0
    assert said in done.out


def test_names_and_cards_that_cannot_be_are_refused(twinlens: Command, tmp_path: Path) -> None:
    mine = write(tmp_path / "once", photos(2))
    assert twinlens("new-dataset", str(mine)).code == 0
    again = twinlens("new-dataset", str(mine))
    assert (again.code, "--force" in again.err) == (2, True)
    assert twinlens("new-dataset", str(mine), "--force").code == 0
    assert read_watched(Path("cards")) == ["once"]
    odd = twinlens("new-dataset", str(mine), "--name", "My Photos")
    assert (odd.code, "try --name my-photos" in odd.err) == (2, True)
    gone = twinlens("new-dataset", str(tmp_path / "gone"))
    assert (gone.code, "is not there" in gone.err) == (2, True)
    bucket = twinlens("new-dataset", "s3://photos/mine")
    assert (bucket.code, "write a card with `source` or `images`" in " ".join(bucket.err.split())) == (2, True)
    none = twinlens("new-dataset", str(mine), "--table", "none.csv", "--name", "other")
    assert (none.code, "none.csv is not there" in none.err) == (2, True)
    dollar = twinlens("new-dataset", str(write(tmp_path / "a$b", photos(1))))
    assert (dollar.code, "holds a $" in dollar.err) == (2, True)
