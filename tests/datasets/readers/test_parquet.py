"""Parquet datasets, of the hub and of folders: columns, classes, row groups; and ImageNet's vehicles."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.datasets.adapters.pictures import encoded, jpeg, parquet, picture_cell, pixels, write
from tests.hub import COMMIT, GATED, Hub, point_at, serving_hub
from twinlens.config.datasets import HubCard, ImageNetCard
from twinlens.config.params import FilterParams
from twinlens.core.errors import DataError, FetchError, ParamsError
from twinlens.datasets.adapters import hub as hub_adapter
from twinlens.datasets.adapters.imagenet import ImageNet, keep_wanted
from twinlens.datasets.annotations import RawCaption, RawImage
from twinlens.datasets.classes import read_classes
from twinlens.datasets.filter import apply_rules
from twinlens.datasets.pool import group_images

NAMES = ["cat", "dog", "żaba"]
ROWS: list[dict[str, Any]] = [
    {"image": picture_cell(1, "a.jpg"), "text": ["one", "two"], "kind": 0, "key": "k1"},
    {"image": picture_cell(2, "b.jpg"), "text": [], "kind": 2, "key": "k2"},
    {"image": picture_cell(3, "c.jpg"), "text": ["three"], "kind": 7, "key": "k3"},
    {"image": {"bytes": None, "path": "d.jpg"}, "text": ["four"], "kind": 1, "key": "k4"},
    {"image": picture_cell(5, "a.jpg"), "text": ["five"], "kind": 1, "key": "k1"},
]
FILES = {
    "data/train-0.parquet": parquet(ROWS[:3], rows_per_group=2, classes={"kind": NAMES}),
    "data/train-1.parquet": parquet(ROWS[3:], classes={"kind": NAMES}),
    "data/test-0.parquet": parquet([ROWS[1] | {"key": "t1"}], classes={"kind": NAMES}),
    "other/train-9.parquet": b"not asked for",
}
LENIENT = FilterParams(require_caption=False, require_label=False)


def hub(source: Path | None, **changes: Any) -> hub_adapter.Hub:
    card = {
        "adapter": "hub",
        "repository": "someone/pictures",
        "revision": COMMIT,
        "source": source and str(source),
        "files": {"train": "data/train-*.parquet", "test": "data/test-*.parquet"},
        "columns": {"image": "image", "caption": "text", "label": "kind", "id": "key"},
    }
    return hub_adapter.Hub(HubCard.model_validate(card | changes))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def test_ids_captions_class_names_and_splits_come_from_the_columns_and_files(tmp_path: Path, raw: Path) -> None:
    made = hub(write(tmp_path / "d", FILES))
    assert made.download(raw) == 3
    found = made.annotations(raw)
    assert found.images == [
        RawImage("data/train-0-000000", "data/train-0.parquet#0", "train", ("cat",)),
        RawImage("k2", "data/train-0.parquet#1", "train", ("żaba",)),
        RawImage("k4", "data/train-1.parquet#0", "train", ("dog",)),
        RawImage("data/train-1-000001", "data/train-1.parquet#1", "train", ("dog",)),
        RawImage("t1", "data/test-0.parquet#0", "test", ("żaba",)),
    ]
    assert found.captions[:2] == [RawCaption("data/train-0-000000", "one"), RawCaption("data/train-0-000000", "two")]
    assert found.dropped == [
        ("image", "k3", "unknown_label", "data/train-0.parquet, row 2: label 7 is not one of the 3 classes")
    ]


def test_two_pictures_of_one_id_are_both_kept_each_with_its_captions(tmp_path: Path, raw: Path) -> None:
    made = hub(write(tmp_path / "d", FILES))
    made.download(raw)
    kept = apply_rules(made.annotations(raw), LENIENT)
    assert ("data/train-1-000001", "five") in kept.captions.select("image_id", "text").rows()
    assert ("caption", "k3", "dropped_image") in kept.dropped.select("kind", "id", "rule").rows()
    assert kept.counts["images"] == {"found": 6, "kept": 5}


def test_rows_of_one_id_and_one_picture_are_its_captions(tmp_path: Path, raw: Path) -> None:
    rows = [{"image": picture_cell(n, f"{n}.jpg"), "text": text, "kind": 0, "key": 7} for n, text in enumerate("ab")]
    rows += [rows[0] | {"text": "c", "kind": 1}]
    made = hub(write(tmp_path / "d", {"data/train-0.parquet": parquet(rows, classes={"kind": NAMES})}))
    made.download(raw)
    found = made.annotations(raw)
    first, second = "data/train-0-000000", "data/train-0-000001"
    assert [(i.image_id, i.labels) for i in found.images] == [(first, ("cat", "dog")), (second, ("cat",))]
    assert [(c.image_id, c.text) for c in found.captions] == [(first, "a"), (second, "b"), (first, "c")]


def test_pictures_are_read_by_row_in_any_order_and_what_is_not_there_has_its_reason(tmp_path: Path, raw: Path) -> None:
    made = hub(write(tmp_path / "d", FILES))
    made.download(raw)
    files = ["data/train-0.parquet#2", "data/train-0.parquet#0", "data/train-1.parquet#0", "data/train-1.parquet#9"]
    third, first, unread, *absent = made.read_pictures(raw, [*files, "data/none.parquet#0"])
    assert (third, first) == (jpeg(3), jpeg(1))
    assert isinstance(unread, str) and unread.startswith("the row holds no bytes but the name of a file, 'd.jpg'")
    assert absent == ["listed, but not there", "listed, but not there"]


def test_without_an_id_column_the_pictures_own_path_is_its_id(tmp_path: Path, raw: Path) -> None:
    made = hub(write(tmp_path / "d", FILES), columns={"image": "image"})
    made.download(raw)
    found = made.annotations(raw)
    assert [image.image_id for image in found.images] == [
        "data/train-0-000000", "data/train-0-000001", "c", "d", "data/train-1-000001", "data/test-0-000000",
    ]  # fmt: skip
    assert not found.captioned
    assert len(apply_rules(found, LENIENT.model_copy(update={"require_caption": True})).images) == 6


def test_classes_on_the_card_name_numbers_and_refuse_other_words(tmp_path: Path, raw: Path) -> None:
    rows = [{"image": jpeg(n), "kind": kind} for n, kind in enumerate(["x", "y", "z"])]
    columns = {"image": "image", "label": "kind"}
    made = hub(write(tmp_path / "d", {"data/train-0.parquet": parquet(rows)}), columns=columns, classes=["x", "z"])
    made.download(raw)
    found = made.annotations(raw)
    assert [image.labels for image in found.images] == [("x",), ("z",)]
    assert [drop[1:3] for drop in found.dropped] == [("train-0-000001", "unknown_label")]
    assert list(made.read_pictures(raw, [found.images[1].file])) == [jpeg(2)]  # a column of bare bytes


def test_a_column_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path: Path, raw: Path) -> None:
    made = hub(write(tmp_path / "d", FILES), columns={"image": "picture"})
    made.download(raw)
    with pytest.raises(DataError, match=r"no column picture; found image, text, kind, key"):
        made.annotations(raw)


def test_a_truncated_file_is_refused_at_download(tmp_path: Path, raw: Path) -> None:
    cut = FILES | {"data/train-0.parquet": FILES["data/train-0.parquet"][:-20]}
    with pytest.raises(DataError, match=r"train-0.parquet is not a whole Parquet file"):
        hub(write(tmp_path / "d", cut)).download(raw)
    assert not raw.exists()


def test_no_file_of_any_split_is_an_error_with_the_shapes_looked_for(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(FetchError, match=r"holds no file like data/train-\*.parquet or data/test-\*.parquet"):
        hub(write(tmp_path / "d", {"readme.md": b""})).download(raw)


def test_a_split_without_a_file_is_said_and_a_pool_of_it_is_an_error(
    tmp_path: Path, raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    only_train = {name: content for name, content in FILES.items() if "train" in name}
    made = hub(write(tmp_path / "d", only_train))
    with caplog.at_level(logging.WARNING, "twinlens"):
        made.download(raw)
    assert "no file like data/test-*.parquet, so the split 'test' is empty" in caplog.text
    kept = apply_rules(made.annotations(raw), LENIENT)
    index = kept.images.select("image_id", shard=pl.lit(0), row=pl.lit(0), sha256=pl.lit(""))
    with pytest.raises(DataError, match=r"no usable picture in split 'test'; found \{'train': 4\}"):
        group_images(kept.images, kept.captions, index, "test", 2)


def test_a_card_needs_a_pinned_revision_or_a_folder() -> None:
    with pytest.raises(ValueError, match="pin the hub's repository"):
        hub(None, revision=None)


def test_the_hub_is_asked_for_the_wanted_files_only(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_hub({"someone/pictures": FILES}) as serving:
        point_at(serving.url, tmp_path / "cache", monkeypatch)
        made = hub(None)
        made.download(raw)
        assert len(made.annotations(raw).images) == 5
        assert set(serving.fetched()) == {name for name in FILES if name.startswith("data/")}


# ---------------------------------------------------------------- ImageNet

LABELS = [0, 407, 1, 880, 2, 3, 4, 5]  # ambulance and unicycle are of the 49
IMAGENET_ROWS = [{"image": picture_cell(n, f"n_{n}.JPEG"), "label": label} for n, label in enumerate(LABELS)]
IMAGENET = {
    "data/train-00000-of-00001.parquet": parquet(IMAGENET_ROWS, rows_per_group=2),
    "data/validation-00000-of-00001.parquet": parquet(IMAGENET_ROWS[1:2]),
    "data/test-00000-of-00001.parquet": parquet([IMAGENET_ROWS[0] | {"label": -1}]),
}


def imagenet(source: Path | None, **changes: Any) -> ImageNet:
    card = {"adapter": "imagenet", "source": source and str(source), "revision": COMMIT, "classes": "vehicles-49"}
    return ImageNet(ImageNetCard.model_validate(card | changes))


def test_only_pictures_of_the_wanted_classes_are_listed_and_they_have_no_captions(tmp_path: Path, raw: Path) -> None:
    made = imagenet(write(tmp_path / "i", IMAGENET))
    made.download(raw)
    found = made.annotations(raw)
    assert [(i.image_id, i.split, i.labels) for i in found.images] == [
        ("data/train-00000-of-00001-000001", "train", ("ambulance",)),
        ("n_3", "train", ("unicycle",)),
        ("data/validation-00000-of-00001-000000", "val", ("ambulance",)),
    ]
    assert found.captions == []
    assert not found.captioned
    assert len(apply_rules(found, FilterParams(require_caption=True, require_label=True)).images) == 3


def test_captions_are_made_of_labels_where_the_card_says_so(tmp_path: Path, raw: Path) -> None:
    made = imagenet(write(tmp_path / "i", IMAGENET), captions="label")
    made.download(raw)
    assert made.annotations(raw).captions[1] == RawCaption("n_3", "a photo of a unicycle.")


def test_a_label_outside_the_1000_classes_is_a_listed_drop(tmp_path: Path, raw: Path) -> None:
    odd = {"data/train-00000-of-00001.parquet": parquet([*IMAGENET_ROWS, IMAGENET_ROWS[0] | {"label": 1000}])}
    made = imagenet(write(tmp_path / "i", odd))
    made.download(raw)
    assert [drop[2] for drop in made.annotations(raw).dropped] == ["unknown_label"]


def test_from_the_hub_only_row_groups_with_a_wanted_class_are_read(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Larger than the 64 KB that any reader of Parquet fetches first from a file's end.
    large = [encoded(pixels(number, (300, 300))) for number in range(len(LABELS))]
    rows = [{"image": {"bytes": large[n], "path": f"n_{n}.JPEG"}, "label": label} for n, label in enumerate(LABELS)]
    name = "data/train-00000-of-00001.parquet"
    files = IMAGENET | {name: parquet([*rows[4:6], *rows[:2], *rows[6:], *rows[2:4]], rows_per_group=2)}
    with serving_hub({"ILSVRC/imagenet-1k": files}) as hub:
        point_at(hub.url, tmp_path / "cache", monkeypatch)
        made = imagenet(None)
        made.download(raw)
        found = made.annotations(raw)
        assert [image.labels[0] for image in found.images] == ["ambulance", "unicycle", "ambulance"]
        assert list(made.read_pictures(raw, [i.file for i in found.images])) == [large[1], large[3], jpeg(1)]
        read = np.zeros(len(files[name]), dtype=bool)
        for file, start, stop in hub.ranges:
            if file == name:
                read[start:stop] = True
        for number, picture in enumerate(large):
            at = files[name].index(picture[1000:1040])
            assert bool(read[at : at + 40].all()) is (number < 4)  # row groups of two, of which one is wanted
        assert not any(file.startswith("data/test") for file, _, _ in hub.ranges)
        asked = len(hub.requests)
        made.download(raw)
        assert not [r for r in hub.requests[asked:] if "/resolve/" in r and r.startswith("GET")]


def test_an_interrupted_read_from_the_hub_keeps_the_files_that_are_whole(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = IMAGENET | {"data/validation-00000-of-00001.parquet": b"PAR1 cut short"}
    with serving_hub({"ILSVRC/imagenet-1k": broken}) as hub:
        point_at(hub.url, tmp_path / "cache", monkeypatch)
        with pytest.raises(FetchError, match=r"1 file\(s\) are kept; a rerun goes on from there"):
            imagenet(None).download(raw)
        assert not raw.exists()
        hub.repos["ILSVRC/imagenet-1k"].update(IMAGENET)
        hub.ranges.clear()
        imagenet(None).download(raw)
        assert {file for file, _, _ in hub.ranges} == {"data/validation-00000-of-00001.parquet"}


def test_gated_imagenet_names_the_page_where_its_terms_are_accepted(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gate(hub: Hub) -> None:
        hub.refused_files["ILSVRC/imagenet-1k"] = GATED

    with serving_hub({"ILSVRC/imagenet-1k": IMAGENET}) as hub:
        gate(hub)
        point_at(hub.url, tmp_path / "cache", monkeypatch)
        with pytest.raises(
            FetchError, match=r"https://huggingface.co/datasets/ILSVRC/imagenet-1k, then `hf auth login`"
        ):
            imagenet(None).download(raw)


def test_offline_imagenet_says_what_to_place_where(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        FetchError, match=r"place data/train-\*.parquet, data/validation-\*.parquet of ILSVRC/imagenet-1k"
    ):
        imagenet(None).download(raw)


def test_rows_that_are_kept_are_byte_by_byte_those_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "whole.parquet").write_bytes(IMAGENET["data/train-00000-of-00001.parquet"])
    keep_wanted(tmp_path / "whole.parquet", np.array([407, 3]), tmp_path / "some.parquet")
    kept = pq.read_table(tmp_path / "some.parquet").to_pylist()
    assert kept == [IMAGENET_ROWS[1], IMAGENET_ROWS[5]]
    assert not list(tmp_path.glob(".*"))


def test_the_lists_of_classes_are_those_of_their_sources() -> None:
    whole, chosen, wordnet = (read_classes(n) for n in ("imagenet-1k", "vehicles-49", "vehicles-wordnet"))
    assert list(whole) == list(range(1000))
    assert len(set(whole.values())) == 1000  # a name stands for one class
    assert len(chosen) == 49
    assert sum(chosen) == 32_535  # of the indices in source 004
    assert len(wordnet) == 67
    assert {"airliner", "submarine", "ambulance"} <= set(wordnet.values())
    assert chosen.items() <= whole.items()
    assert wordnet.items() <= whole.items()
    with pytest.raises(ParamsError, match="did you mean 'vehicles-49'"):
        read_classes("vehicles-48")


def test_the_real_sample_of_imagenet_has_each_vehicle_class_once(shared_data: Path, raw: Path) -> None:
    made = imagenet(shared_data / "imagenet-1k")
    made.download(raw)
    found = made.annotations(raw)
    assert Counter(image.labels for image in found.images) == Counter(
        (n,) for n in read_classes("vehicles-49").values()
    )
    assert all(isinstance(b, bytes) for b in made.read_pictures(raw, [image.file for image in found.images]))
