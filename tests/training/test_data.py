"""What a model is trained on: never what it is measured on, the pictures as they are, and a name for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tests.tiny import CPU, jpegs, write_shards
from twinlens.core import device
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch
from twinlens.images.transforms import PixelSpec, decode_and_fit
from twinlens.training import data
from twinlens.training.data import PixelStore, Split, TrainingData, check_disjoint, fingerprint_training, read_split

HALF = (0.5, 0.5, 0.5)
SPEC = PixelSpec(16, 24, "squash", HALF, HALF)
FILES = jpegs(14)
SPLITS = [
    "train",
    "val",
    "test",
    "train",
    "train",
    "val",
    "test",
    "train",
    "test",
    "train",
    "val",
    "train",
    "train",
    "test",
]


def material(
    folder: Path, splits: Sequence[str] = SPLITS, files: Sequence[bytes] = FILES, pool: str = "test"
) -> TrainingData:
    """Pictures of mixed splits, picture i with i % 3 captions; those of different pictures alternate."""
    rows = write_shards(files, folder / "shards")
    groups = rows.with_columns(split=pl.Series(splits), in_pool=pl.Series([s == pool or pool == "all" for s in splits]))
    captions = [
        {"image_id": image_id, "text": f"caption {n} of {image_id}"}
        for n in range(3)
        for i, image_id in enumerate(rows["image_id"])
        if n < i % 3
    ]
    return TrainingData(groups, pl.DataFrame(captions), folder / "shards", 2)


@pytest.fixture
def made(tmp_path: Path) -> TrainingData:
    return material(tmp_path)


def number(image_id: str) -> int:
    return int(image_id.rsplit("-", 1)[1])


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_split_holds_its_captioned_pictures_in_their_order_with_all_their_captions(
    made: TrainingData, name: str
) -> None:
    split = read_split(made.groups, made.captions, name)
    wanted = [i for i, s in enumerate(SPLITS) if s == name and i % 3]
    assert [number(image_id) for image_id in split.pictures["image_id"]] == wanted
    assert len(split.captions_of) == len(wanted)
    for image_id, rows in zip(split.pictures["image_id"], split.captions_of, strict=True):
        texts = [split.captions[row] for row in rows]
        assert texts == [f"caption {n} of {image_id}" for n in range(number(image_id) % 3)]


def test_every_caption_of_a_split_belongs_to_one_picture(made: TrainingData) -> None:
    split = read_split(made.groups, made.captions, "train")
    assert np.concatenate(split.captions_of).tolist() == list(range(len(split.captions)))


def test_the_order_of_many_pictures_is_that_of_the_table() -> None:
    ids = [f"{i:05d}" for i in np.random.default_rng(0).permutation(5000)]
    groups = pl.DataFrame({"image_id": ids, "split": ["train"] * 5000, "sha256": ids})
    captions = pl.DataFrame({"image_id": sorted(ids), "text": sorted(ids)})
    split = read_split(groups, captions, "train")
    assert split.pictures["image_id"].to_list() == split.captions == ids


def test_the_splits_of_a_training_share_no_picture(made: TrainingData) -> None:
    train, val = made.splits()
    pool = made.groups.filter("in_pool")
    ids = [set(table["image_id"]) for table in (train.pictures, val.pictures, pool)]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]
    assert [len(found) for found in ids] == [3, 3, 4]


@pytest.mark.parametrize("absent", ["train", "val"])
def test_a_split_without_a_picture_is_refused(absent: str, tmp_path: Path) -> None:
    splits = ["test" if split == absent else split for split in SPLITS]
    with pytest.raises(DataError, match=f"split '{absent}' has no captioned picture to train on"):
        material(tmp_path, splits).splits()


def test_a_split_whose_pictures_have_no_caption_is_refused(tmp_path: Path) -> None:
    splits = ["val" if i % 3 == 0 else "train" for i in range(len(SPLITS))]
    with pytest.raises(DataError, match="split 'val' has no captioned picture"):
        material(tmp_path, splits).splits()


@pytest.mark.parametrize("pool", ["train", "all"])
def test_what_is_measured_is_not_trained_on(pool: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training pictures are in the pool too, by their id; the first: picture-004"):
        material(tmp_path, pool=pool).splits()


def test_what_is_measured_chooses_no_epoch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 validation pictures are in the pool too, by their id; .*choose a `pool`"):
        material(tmp_path, pool="val").splits()


@pytest.mark.parametrize(
    ("copy", "of", "said"),
    [
        (10, 4, "training pictures are in the validation split"),
        (2, 4, "training pictures are in the pool"),
        (2, 10, "validation pictures are in the pool"),
    ],
)
def test_a_copy_under_another_name_counts_as_the_picture(copy: int, of: int, said: str, tmp_path: Path) -> None:
    files = list(FILES)
    files[copy] = files[of]
    with pytest.raises(DataError, match=f"1 {said} too, by their bytes; .*drop_duplicates"):
        material(tmp_path, files=files).splits()


def test_a_picture_for_training_that_has_no_caption_may_be_in_the_pool(made: TrainingData) -> None:
    unused = made.groups["image_id"].is_in(["picture-000", "picture-003"])  # train, without a caption
    TrainingData(made.groups.with_columns(in_pool=pl.col("in_pool") | unused), made.captions, made.shards, 1).splits()


def test_pictures_that_share_nothing_are_accepted(made: TrainingData) -> None:
    check_disjoint(made.groups.filter(split="train"), made.groups.filter(split="val"), "training pictures", "val")
    check_disjoint(made.groups[:0], made.groups, "training pictures", "the pool")


# ---------------------------------------------------------------- pixels


def test_the_store_holds_every_picture_as_the_model_reads_it(made: TrainingData) -> None:
    train, _ = made.splits()
    store = made.store(train, SPEC)
    assert len(store) == len(train.pictures) == 3
    wanted = [decode_and_fit(FILES[number(image_id)], SPEC) for image_id in train.pictures["image_id"]]
    rows = np.array([2, 0, 2, 1])
    found = store[rows]
    assert (found.dtype, found.shape) == (torch.uint8, (4, 3, 16, 24))
    assert torch.equal(found, torch.stack([wanted[row] for row in rows]))
    assert not torch.equal(wanted[0], wanted[1])


def test_a_store_of_several_parts_is_one(made: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PixelStore(made.shards, made.groups, SPEC, 1)[np.arange(14)]
    monkeypatch.setattr(data, "PER_PART", 4)
    turned = made.groups.reverse()
    parts = PixelStore(made.shards, turned, SPEC, 3)
    assert [len(part) for part in parts.parts] == [4, 4, 4, 2]
    assert torch.equal(parts[np.arange(14)], whole.flip(0))


def test_pictures_are_decoded_once(made: TrainingData) -> None:
    first = PixelStore(made.shards, made.groups, SPEC, 1)[np.arange(14)]
    for shard in made.shards.iterdir():
        shard.unlink()
    assert torch.equal(PixelStore(made.shards, made.groups, SPEC, 1)[np.arange(14)], first)


def test_another_spec_and_other_pictures_have_files_of_their_own(made: TrainingData) -> None:
    PixelStore(made.shards, made.groups, SPEC, 1)
    smaller = PixelSpec(8, 8, "shortest", HALF, HALF)
    assert PixelStore(made.shards, made.groups, smaller, 1)[np.arange(2)].shape == (2, 3, 8, 8)
    some = PixelStore(made.shards, made.groups[5:7], SPEC, 1)
    assert torch.equal(some[np.array([0])][0], decode_and_fit(FILES[5], SPEC))


def test_a_killed_decoding_goes_on_after_its_last_part(made: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PER_PART", 5)
    whole = data._save

    def dies(path: Path, part: np.ndarray) -> None:
        whole(path, part)
        if len(list(path.parent.glob("part-*.npy"))) == 1:  # in the second part
            raise KeyboardInterrupt

    monkeypatch.setattr(data, "_save", dies)
    with pytest.raises(KeyboardInterrupt):
        PixelStore(made.shards, made.groups, SPEC, 1)
    monkeypatch.setattr(data, "_save", whole)
    (made.shards / "shard-00000.parquet").unlink()  # what is finished is not read again
    store = PixelStore(made.shards, made.groups, SPEC, 1)
    assert torch.equal(store[np.arange(14)], torch.stack([decode_and_fit(file, SPEC) for file in FILES]))


# ---------------------------------------------------------------- the key


def split_of(captions: Sequence[Sequence[str]], sha256: Sequence[str] = ("a", "b"), **columns: Any) -> Split:
    """Two pictures with their captions."""
    ends = np.cumsum([len(texts) for texts in captions])
    table = {"image_id": [f"picture-{i}" for i in range(len(captions))], "sha256": list(sha256)} | columns
    return Split(
        pl.DataFrame(table),
        [text for texts in captions for text in texts],
        [np.arange(end - len(texts), end) for end, texts in zip(ends, captions, strict=True)],
    )


CARD = {"recipe": {"epochs": 2, "seed": 0}, "tower": {"embed_dim": 8}}
TRAIN, VAL = split_of([["x", "y"], ["z"]]), split_of([["v"], ["w"]], ("c", "d"))


def key(**changes: Any) -> str:
    what: dict[str, Any] = {
        "card": CARD,
        "train": TRAIN,
        "val": VAL,
        "placement": CPU,
        "module": "twinlens.training.captioning",
    } | changes
    return fingerprint_training(what["card"], what["train"], what["val"], what["placement"], what["module"])


@pytest.mark.parametrize(
    "change",
    [
        {"card": CARD | {"recipe": {"epochs": 2, "seed": 1}}},
        {"train": split_of([["x", "y"], ["z"]], ("a", "e"))},
        {"train": split_of([["x", "y"], ["z"]], ("b", "a"))},
        {"train": split_of([["x", "y"], ["Z"]])},
        {"train": split_of([["y", "x"], ["z"]])},
        {"train": split_of([["x"], ["y", "z"]])},  # the same captions in the same order, of other pictures
        {"train": VAL, "val": TRAIN},
        {"val": split_of([["v"], ["w", "x"]], ("c", "d"))},
        {"val": split_of([["v"], ["w"]], ("c", "e"))},
        {"placement": Placement(torch.device("cuda"), torch.float32)},
        {"module": "twinlens.training.dual_encoder"},
    ],
)
def test_the_key_changes_with_what_decides_the_weights(change: dict[str, Any]) -> None:
    assert key(**change) != key()


@pytest.mark.parametrize(
    "change",
    [
        {"card": {"tower": {"embed_dim": 8}, "recipe": {"seed": 0, "epochs": 2}}},
        {"train": split_of([["x", "y"], ["z"]], image_id=["other", "names"])},
        {"train": split_of([["x", "y"], ["z"]], shard=[3, 4], row=[0, 7])},
    ],
)
def test_the_key_does_not_change_with_what_does_not(change: dict[str, Any]) -> None:
    assert key(**change) == key()


def test_the_key_changes_with_the_numbers_that_matrices_are_orthogonalised_in(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, keys = Placement(torch.device("cuda"), torch.float32), []
    for has in (True, False):
        monkeypatch.setattr(device, "has_bfloat16", lambda _, has=has: has)
        keys.append((key(placement=gpu), key()))
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1]  # a result of a CPU does not depend on which


def test_the_key_changes_with_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(data, "version", lambda name: "9.9" if name == "open_clip_torch" else before)
    assert key() != before


def test_a_key_names_a_folder() -> None:
    with Scratch("train", key()) as scratch:
        assert scratch.folder.is_dir()
