"""COCO as its publishers ship it: tiny archives of their layout, whole, partial and damaged; and the real sample."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.web import Fault, Host
from twinlens.config.datasets import CocoCard
from twinlens.config.params import FilterParams
from twinlens.core import download
from twinlens.core.download import RemoteFile
from twinlens.core.errors import DataError, FetchError
from twinlens.datasets import make_adapter
from twinlens.datasets.adapters import coco
from twinlens.datasets.adapters.base import MISSING
from twinlens.datasets.adapters.coco import Coco
from twinlens.datasets.annotations import RawCaption, RawImage
from twinlens.datasets.filter import apply_rules
from twinlens.datasets.pool import group_images
from twinlens.images.decode import prepare_jpeg

ANNOTATIONS = "annotations_trainval2017.zip"
VAL, TRAIN = "val2017.zip", "train2017.zip"


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def photo(number: int) -> dict[str, Any]:
    return {"license": 4, "file_name": f"{number:012d}.jpg", "height": 40, "width": 50, "id": number}


@dataclass
class Part:
    """What one part of COCO lists; the photos in its archive are those listed, but for `absent`."""

    photos: list[int]
    captions: list[tuple[int, str]]
    boxes: list[tuple[int, int]] = field(default_factory=list)  # photo, category
    categories: dict[int, str] = field(default_factory=lambda: {1: "person", 18: "dog", 17: "cat"})
    absent: tuple[int, ...] = ()

    def captions_json(self) -> bytes:
        entries = [{"image_id": i, "id": n, "caption": text} for n, (i, text) in enumerate(self.captions)]
        return json.dumps({"info": {"year": 2017}, "images": self._images(), "annotations": entries}).encode()

    def instances_json(self) -> bytes:
        boxes = [
            {
                "image_id": i,
                "id": n,
                "category_id": c,
                "bbox": [1, 2, 3, 4],
                "segmentation": [[1, 2, 3.5]],
                "iscrowd": 0,
            }
            for n, (i, c) in enumerate(self.boxes)
        ]
        categories = [{"supercategory": "any", "id": i, "name": name} for i, name in self.categories.items()]
        return json.dumps({"images": self._images(), "annotations": boxes, "categories": categories}).encode()

    def _images(self) -> list[dict[str, Any]]:
        return [photo(number) for number in self.photos]


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def archives(**parts: Part) -> dict[str, bytes]:
    """The archives as the site serves them, by name."""
    members: dict[str, bytes] = {}
    made: dict[str, bytes] = {}
    for name, part in parts.items():
        members[f"annotations/captions_{name}.json"] = part.captions_json()
        members[f"annotations/instances_{name}.json"] = part.instances_json()
        listed = {f"{name}/{i:012d}.jpg": jpeg(i) for i in part.photos if i not in part.absent}
        made[f"{name}.zip"] = zipped({f"{name}/": b""} | listed)
    return made | {ANNOTATIONS: zipped(members)}


SMALL = Part(
    photos=[139, 285, 632],
    captions=[
        (285, "A brown dog."),
        (139, "Two people and a dog."),
        (285, "A dog on grass."),
        (139, "People outside."),
    ],
    boxes=[(139, 1), (139, 18), (139, 1), (285, 18)],
)
ARCHIVES = archives(val2017=SMALL)


def place(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def dataset(source: Path | str | None, parts: tuple[str, ...] = ("val2017",), verify: bool = False) -> Coco:
    card = CocoCard.model_validate(
        {"adapter": "coco", "parts": list(parts), "source": None if source is None else str(source), "verify": verify}
    )
    return Coco(card)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Where the stage `download` leaves its manifest."""
    return tmp_path / "raw" / "coco"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return place(tmp_path / "coco", ARCHIVES)


def downloaded(folder: Path, raw: Path, files: dict[str, bytes] | None = None) -> Coco:
    """A dataset in a folder, with some of its files replaced, after `download`."""
    made = dataset(place(folder, files or {}))
    made.download(raw)
    return made


def test_a_card_of_coco_is_given_this_adapter() -> None:
    assert isinstance(make_adapter(CocoCard(adapter="coco", parts=["val2017"])), Coco)


# ---------------------------------------------------------------- annotations


def test_photos_carry_the_names_of_their_boxes_categories_once_and_sorted(folder: Path, raw: Path) -> None:
    assert downloaded(folder, raw).annotations(raw).images == [
        RawImage("000000000139", "val2017/000000000139.jpg", "val", ("dog", "person")),
        RawImage("000000000285", "val2017/000000000285.jpg", "val", ("dog",)),
        RawImage("000000000632", "val2017/000000000632.jpg", "val", ()),
    ]


def test_captions_stay_in_the_order_of_their_file(folder: Path, raw: Path) -> None:
    assert downloaded(folder, raw).annotations(raw).captions == [
        RawCaption("000000000285", "A brown dog."),
        RawCaption("000000000139", "Two people and a dog."),
        RawCaption("000000000285", "A dog on grass."),
        RawCaption("000000000139", "People outside."),
    ]


def test_each_part_is_a_split_in_the_order_of_the_card(tmp_path: Path, raw: Path) -> None:
    train = Part(photos=[9], captions=[(9, "A cat.")], boxes=[(9, 17)])
    both = place(tmp_path / "both", archives(train2017=train, val2017=SMALL))
    made = dataset(both, parts=("train2017", "val2017"))
    assert made.download(raw) == 3
    images = made.annotations(raw).images
    assert [image.split for image in images] == ["train", "val", "val", "val"]
    assert images[0] == RawImage("000000000009", "train2017/000000000009.jpg", "train", ("cat",))
    pictures = made.read_pictures(raw, [image.file for image in images])
    assert list(pictures) == [jpeg(i) for i in (9, 139, 285, 632)]


def test_a_part_that_is_not_on_the_card_is_not_read(tmp_path: Path, raw: Path) -> None:
    train = Part(photos=[9], captions=[(9, "A cat.")])
    both = place(tmp_path / "both", archives(train2017=train, val2017=SMALL))
    (both / TRAIN).unlink()
    assert [image.split for image in downloaded(both, raw).annotations(raw).images] == ["val"] * 3


def test_a_box_of_a_category_that_is_not_listed_is_an_error_that_names_it(folder: Path, raw: Path) -> None:
    odd = Part(photos=[139], captions=[(139, "A dog.")], boxes=[(139, 18), (139, 99)])
    made = downloaded(folder, raw, archives(val2017=odd))
    with pytest.raises(DataError, match=r"image 139 has category 99, which its `categories` do not list"):
        made.annotations(raw)


def test_a_caption_of_broken_utf8_is_dropped_by_the_filter_and_the_rest_is_kept(folder: Path, raw: Path) -> None:
    made = downloaded(folder, raw, broken_caption(b"A caf\xe9."))
    kept = apply_rules(made.annotations(raw), FilterParams(require_caption=True, require_label=False))
    assert kept.captions["text"].to_list() == ["A brown dog.", "A dog on grass."]
    assert kept.dropped["rule"].to_list() == ["not_utf8", "require_caption"]


def test_half_an_emoji_written_as_an_escape_is_broken_utf8_too(folder: Path, raw: Path) -> None:
    made = downloaded(folder, raw, broken_caption(rb"A cat \ud83d."))
    kept = apply_rules(made.annotations(raw), FilterParams(require_caption=True, require_label=False))
    assert kept.captions["text"].to_list() == ["A brown dog.", "A dog on grass."]
    assert kept.dropped["rule"].to_list() == ["not_utf8", "require_caption"]


def broken_caption(text: bytes) -> dict[str, bytes]:
    """Annotations in which one caption is these bytes."""
    part = Part(photos=[139, 285], captions=[(285, "A brown dog."), (139, "REPLACED"), (285, "A dog on grass.")])
    members = {
        "annotations/captions_val2017.json": part.captions_json().replace(b"REPLACED", text),
        "annotations/instances_val2017.json": part.instances_json(),
    }
    return {ANNOTATIONS: zipped(members)}


def test_captions_beyond_ascii_are_read_as_they_are(folder: Path, raw: Path) -> None:
    made = downloaded(folder, raw, broken_caption("Ein Café \U0001f408".encode()))
    assert made.annotations(raw).captions[1].text == "Ein Café \U0001f408"


def test_annotations_without_the_parts_file_are_an_error_that_says_what_is_there(folder: Path, raw: Path) -> None:
    made = downloaded(folder, raw, {ANNOTATIONS: zipped({"annotations/person_keypoints_val2017.json": b"{}"})})
    with pytest.raises(DataError, match=r"holds no annotations/captions_val2017.json; found annotations/person_keyp"):
        made.annotations(raw)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"images": [], "annotations"', b'{"images": [{"id": "x"}]}', b"\xff"]
)
def test_annotations_of_another_shape_are_an_error_that_names_the_file(content: bytes, folder: Path, raw: Path) -> None:
    members = {"annotations/captions_val2017.json": content, "annotations/instances_val2017.json": b"{}"}
    made = downloaded(folder, raw, {ANNOTATIONS: zipped(members)})
    with pytest.raises(DataError, match=r"annotations/captions_val2017.json is not as COCO writes it"):
        made.annotations(raw)


def damaged(archive: bytes, member: str) -> bytes:
    """The archive with a few bytes of one member's content changed."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        info = opened.getinfo(member)
    start = info.header_offset + 30 + len(member) + info.compress_size // 2
    return archive[:start] + bytes(b ^ 0xFF for b in archive[start : start + 8]) + archive[start + 8 :]


def test_damaged_annotations_are_an_error_that_names_the_file(folder: Path, raw: Path) -> None:
    name = "annotations/captions_val2017.json"
    made = downloaded(folder, raw, {ANNOTATIONS: damaged(ARCHIVES[ANNOTATIONS], name)})
    with pytest.raises(DataError, match=rf"{ANNOTATIONS}: {name} is damaged .*fetch the archive again"):
        made.annotations(raw)


# ---------------------------------------------------------------- pictures


def test_pictures_are_the_bytes_of_the_archive_in_the_order_asked_for(folder: Path, raw: Path) -> None:
    made = downloaded(folder, raw)
    files = [f"val2017/{i:012d}.jpg" for i in (632, 139)]
    assert list(made.read_pictures(raw, files)) == [jpeg(632), jpeg(139)]


def test_a_listed_photo_that_is_not_in_the_archive_has_that_as_its_reason_and_the_rest_is_read(
    folder: Path, raw: Path
) -> None:
    missing = Part(SMALL.photos, SMALL.captions, SMALL.boxes, absent=(285,))
    made = downloaded(folder, raw, archives(val2017=missing))
    files = [image.file for image in made.annotations(raw).images]
    before, reason, after = made.read_pictures(raw, files)
    assert (before, after) == (jpeg(139), jpeg(632))
    assert str(reason).startswith(f"{MISSING} (looked for val2017/000000000285.jpg; `folder` on the card names")


def test_a_photo_that_is_damaged_in_the_archive_has_that_as_its_reason_and_the_rest_is_read(
    folder: Path, raw: Path
) -> None:
    made = downloaded(folder, raw, {VAL: damaged(ARCHIVES[VAL], "val2017/000000000285.jpg")})
    files = [image.file for image in made.annotations(raw).images]
    first, second, third = made.read_pictures(raw, files)
    assert (first, third) == (jpeg(139), jpeg(632))
    assert isinstance(second, str)
    assert second.startswith("damaged in the archive: ")


def test_no_pictures_open_no_archive(folder: Path, raw: Path) -> None:
    made = downloaded(folder, raw)
    (folder / VAL).unlink()
    assert list(made.read_pictures(raw, [])) == []


# ---------------------------------------------------------------- a folder


def test_the_manifest_says_what_was_found_and_nothing_of_this_machine(folder: Path, raw: Path) -> None:
    downloaded(folder, raw)
    manifest = json.loads((raw / "manifest.json").read_text())
    assert manifest == {
        "parts": ["val2017"],
        "files": [
            {
                "file": name,
                "bytes": len(ARCHIVES[name]),
                "sha256": hashlib.sha256(ARCHIVES[name]).hexdigest(),
                "as_published": False,
            }
            for name in (ANNOTATIONS, VAL)
        ],
    }


@pytest.mark.parametrize("name", [ANNOTATIONS, VAL])
def test_an_archive_that_is_not_in_the_folder_is_an_error_that_lists_exactly_what_it_must_hold(
    name: str, folder: Path, raw: Path
) -> None:
    (folder / name).unlink()
    with pytest.raises(FetchError) as caught:
        dataset(folder).download(raw)
    assert str(caught.value) == (
        f"{folder / name} is not there. The dataset's card names the folder; it must hold {ANNOTATIONS}, {VAL}"
    )
    assert not raw.exists()


def test_a_folder_named_by_a_variable_that_is_not_set_is_an_error(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE_AT_ALL", raising=False)
    with pytest.raises(FetchError, match="NOWHERE_AT_ALL is not set"):
        dataset("$NOWHERE_AT_ALL/coco").download(raw)


def test_a_truncated_archive_is_an_error_that_names_it(folder: Path, raw: Path) -> None:
    (folder / VAL).write_bytes(ARCHIVES[VAL][:-40])
    with pytest.raises(FetchError, match=rf"{VAL} is not a whole zip archive .*: remove it and run again"):
        dataset(folder).download(raw)
    assert not raw.exists()


def test_a_subset_is_refused_unless_the_card_says_it_is_one(folder: Path, raw: Path) -> None:
    with pytest.raises(FetchError, match=rf"{ANNOTATIONS} has SHA-256 .* the published archive 113a.*`verify: false`"):
        dataset(folder, verify=True).download(raw)
    assert not raw.exists()


def test_the_published_archives_are_accepted_and_noted_as_such(
    folder: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, ARCHIVES)
    dataset(folder, verify=True).download(raw)
    files = json.loads((raw / "manifest.json").read_text())["files"]
    assert [file["as_published"] for file in files] == [True, True]


def publish(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    """Let these small archives be the ones that COCO's publishers ship."""
    wanted = {
        name: RemoteFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }
    monkeypatch.setattr(coco, "ANNOTATIONS", wanted[ANNOTATIONS])
    monkeypatch.setitem(coco.PHOTOS, "val2017", wanted[VAL])


@pytest.mark.parametrize("name", [ANNOTATIONS, VAL])
def test_an_archive_that_was_exchanged_after_download_is_refused(name: str, folder: Path, raw: Path) -> None:
    made = downloaded(folder, raw)
    (folder / name).write_bytes(zipped({"another": b"archive"}))
    with pytest.raises(DataError, match=rf"{name} .* is not the file that was recorded: `dvc repro -f download`"):
        made.annotations(raw)
        list(made.read_pictures(raw, ["val2017/000000000139.jpg"]))


# ---------------------------------------------------------------- Karpathy's split


def karpathy(folder: Path, photos: dict[int, str]) -> Coco:
    listed = {"images": [{"cocoid": i, "split": s, "filename": "x.jpg", "sentences": []} for i, s in photos.items()]}
    content = zipped({"dataset_coco.json": json.dumps(listed).encode(), "dataset_flickr8k.json": b"{}"})
    place(folder, {"caption_datasets.zip": content})
    card = {"adapter": "coco", "parts": ["val2017"], "source": str(folder), "verify": False, "split": "karpathy"}
    return Coco(CocoCard.model_validate(card | {"pool": "test"}))


def test_karpathys_split_replaces_the_archives_and_restval_counts_as_train(folder: Path, raw: Path) -> None:
    made = karpathy(folder, {139: "restval", 285: "test", 632: "val", 7: "train"})
    assert made.download(raw) == 3
    found = made.annotations(raw)
    assert [(i.image_id, i.split) for i in found.images] == [
        ("000000000139", "train"), ("000000000285", "test"), ("000000000632", "val"),
    ]  # fmt: skip
    assert list(made.read_pictures(raw, [found.images[1].file])) == [jpeg(285)]


def test_a_photo_in_no_split_of_karpathys_is_a_listed_drop(folder: Path, raw: Path) -> None:
    made = karpathy(folder, {139: "train", 285: "test"})
    made.download(raw)
    kept = apply_rules(made.annotations(raw), FilterParams(require_caption=False, require_label=False))
    assert ("image", "000000000632", "no_split") in kept.dropped.select("kind", "id", "rule").rows()
    assert kept.counts["images"] == {"found": 3, "kept": 2}


def test_without_karpathys_file_one_error_names_it(folder: Path, raw: Path) -> None:
    made = karpathy(folder, {})
    (folder / "caption_datasets.zip").unlink()
    with pytest.raises(
        FetchError, match=r"caption_datasets.zip is not there. The dataset's card names the folder; it "
    ):
        made.download(raw)
    place(folder, {"caption_datasets.zip": zipped({"other.json": b"{}"})})
    made.download(raw)
    with pytest.raises(DataError, match=r"dataset_coco.json is not there or not as Karpathy wrote it"):
        made.annotations(raw)


def test_offline_all_missing_archives_are_named_with_their_sizes_and_place(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINLENS_OFFLINE", "1")
    with pytest.raises(FetchError) as caught:
        dataset(None, verify=True).download(raw)
    message = str(caught.value)
    assert "annotations_trainval2017.zip (252,907,541 bytes), val2017.zip (815,585,330 bytes)" in message
    assert str(tmp_path / "downloads" / "coco") in message


# ---------------------------------------------------------------- a mirror


@pytest.fixture
def mirror(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    host.files.update({f"pub/{name}": content for name, content in ARCHIVES.items()})
    return host


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_mirror_serves_the_archives_once(slash: str, mirror: Host, raw: Path) -> None:
    made = dataset(f"{mirror.url}/pub{slash}")
    assert made.download(raw) == 2
    made.download(raw)
    assert len(made.annotations(raw).images) == 3
    assert list(made.read_pictures(raw, ["val2017/000000000285.jpg"])) == [jpeg(285)]
    assert [request.name for request in mirror.requests] == [f"pub/{ANNOTATIONS}", f"pub/{VAL}"]


def test_archives_that_vanished_after_download_are_fetched_again(mirror: Host, raw: Path, tmp_path: Path) -> None:
    made = dataset(f"{mirror.url}/pub")
    made.download(raw)
    cached = sorted((tmp_path / "downloads").rglob("*.zip"))
    assert [path.name for path in cached] == [ANNOTATIONS, VAL]
    for path in cached:
        path.unlink()
    assert len(made.annotations(raw).images) == 3
    assert list(made.read_pictures(raw, ["val2017/000000000632.jpg"])) == [jpeg(632)]
    assert len(mirror.requests) == 4


def test_two_mirrors_are_not_mixed_up(mirror: Host, raw: Path) -> None:
    other = archives(val2017=Part(photos=[7], captions=[(7, "A cat.")]))
    mirror.files.update({f"other/{name}": content for name, content in other.items()})
    for path, ids in (("pub", 3), ("other", 1)):
        made = dataset(f"{mirror.url}/{path}")
        made.download(raw)
        assert len(made.annotations(raw).images) == ids


def test_a_verified_mirror_that_offers_another_size_is_refused(mirror: Host, raw: Path) -> None:
    with pytest.raises(FetchError, match="expected 252,907,541: another file"):
        dataset(f"{mirror.url}/pub", verify=True).download(raw)
    assert not raw.exists()


def test_a_verified_mirror_with_the_published_archives_is_accepted(
    mirror: Host, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, ARCHIVES)
    mirror.faults[f"pub/{VAL}"] = [Fault(cut_after=1000), Fault(status=503)]
    assert dataset(f"{mirror.url}/pub", verify=True).download(raw) == 2


def test_the_publishers_site_is_asked_where_the_card_names_no_source(
    mirror: Host, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, ARCHIVES)
    for name, address in coco.ADDRESSES.items():
        monkeypatch.setitem(coco.ADDRESSES, name, address.replace(coco.SITE, mirror.url))
    mirror.files |= {f"annotations/{ANNOTATIONS}": ARCHIVES[ANNOTATIONS], f"zips/{VAL}": ARCHIVES[VAL]}
    dataset(None, verify=True).download(raw)
    assert [request.name for request in mirror.requests] == [f"annotations/{ANNOTATIONS}", f"zips/{VAL}"]


def test_a_mirror_that_lacks_an_archive_is_one_error_with_both_ways_on(mirror: Host, raw: Path) -> None:
    del mirror.files[f"pub/{VAL}"]
    with pytest.raises(FetchError) as caught:
        dataset(f"{mirror.url}/pub").download(raw)
    message = str(caught.value)
    assert message.startswith(f"{VAL} could not be had from {mirror.url}/pub/{VAL}: 404")
    assert f"put {ANNOTATIONS}, {VAL} into a folder" in message
    assert "mirror" in message
    assert not raw.exists()


def test_a_mirror_that_sends_a_damaged_archive_leaves_no_dataset(mirror: Host, raw: Path) -> None:
    mirror.files[f"pub/{VAL}"] = ARCHIVES[VAL][:-100]
    with pytest.raises(FetchError, match=rf"{VAL} is not a whole zip archive"):
        dataset(f"{mirror.url}/pub").download(raw)
    assert not raw.exists()


# ---------------------------------------------------------------- the real sample


@pytest.fixture(scope="module")
def sample(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Coco, Path]:
    raw = tmp_path_factory.mktemp("sample") / "raw"
    made = dataset(shared_data / "coco")
    made.download(raw)
    return made, raw


def test_the_real_sample_holds_what_its_readme_says(sample: tuple[Coco, Path]) -> None:
    made, raw = sample
    annotations = made.annotations(raw)
    assert len(annotations.images) == 600
    assert len(annotations.captions) == 3001
    assert {image.split for image in annotations.images} == {"val"}
    assert sum(not image.labels for image in annotations.images) == 2
    assert len({label for image in annotations.images for label in image.labels}) <= 80
    captions = Counter(caption.image_id for caption in annotations.captions)
    assert set(captions) == {image.image_id for image in annotations.images}
    assert min(captions.values()) == 5


def test_the_real_sample_has_520_photos_in_121_object_sets(sample: tuple[Coco, Path]) -> None:
    made, raw = sample
    kept = apply_rules(made.annotations(raw), FilterParams(require_caption=True, require_label=False))
    assert kept.dropped.is_empty()
    places = pl.int_range(600, eager=True)
    index = kept.images.select("image_id", shard=places // 1000, row=places % 1000, sha256=pl.lit(""))
    groups = group_images(kept.images, kept.captions, index, pool="all", min_group_size=2)
    sets = groups["object_set"].drop_nulls()
    assert (len(sets), sets.n_unique()) == (520, 121)


def test_every_photo_of_the_real_sample_is_there_and_opens(sample: tuple[Coco, Path]) -> None:
    made, raw = sample
    images = made.annotations(raw).images
    for number, photo_bytes in enumerate(made.read_pictures(raw, [image.file for image in images])):
        assert isinstance(photo_bytes, bytes)
        if number % 20 == 0:
            done = prepare_jpeg(photo_bytes, shortest_side_px=384, min_side_px=16, max_megapixels=100.0, quality=95)
            assert min(done.width, done.height) <= 384
            assert done.mended == ()
