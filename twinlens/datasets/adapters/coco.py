"""COCO 2017, read from the archives as its publishers ship them (Lin et al. 2014, cocodataset.org).

`captions_*.json` and `instances_*.json` are read from `annotations_trainval2017.zip`, photos from
`train2017.zip` and `val2017.zip`; nothing is unpacked. A photo's labels are the categories of its
boxes. The publishers give no digests; those below were published by others who fetched the files
(TensorFlow Datasets, torchvision's prototype datasets) and agree.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from twinlens.config.datasets import CocoCard
from twinlens.core.download import RemoteFile
from twinlens.core.errors import DataError
from twinlens.datasets.adapters.base import MISSING
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage, read_split
from twinlens.datasets.ids import make_unique
from twinlens.datasets.readers.archives import Trees
from twinlens.datasets.readers.files import Files
from twinlens.datasets.readers.limits import MAX_TABLE_BYTES, describe
from twinlens.datasets.readers.texts import parse_json, split_texts
from twinlens.datasets.readers.zips import open_zip, read_member

SITE = "http://images.cocodataset.org"  # its https certificate is for another name
ANNOTATIONS = RemoteFile(
    "annotations_trainval2017.zip",
    size=252_907_541,
    sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
)
PHOTOS = {
    "train2017": RemoteFile(
        "train2017.zip",
        size=19_336_861_798,
        sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "val2017": RemoteFile(
        "val2017.zip",
        size=815_585_330,
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
}
ADDRESSES = {ANNOTATIONS.name: f"{SITE}/annotations/{ANNOTATIONS.name}"} | {
    photos.name: f"{SITE}/zips/{photos.name}" for photos in PHOTOS.values()
}

KARPATHY = RemoteFile("caption_datasets.zip")  # its publisher gives neither size nor digest
KARPATHY_ADDRESS = f"https://cs.stanford.edu/people/karpathy/deepimagesent/{KARPATHY.name}"


class Photo(msgspec.Struct):
    """An entry of `images`."""

    id: int
    file_name: str


class Annotation(msgspec.Struct):
    """An entry of `annotations`: a caption or a box."""

    image_id: int
    caption: Any = ""  # a text; other programs write null where there is none
    category_id: int = -1


class Category(msgspec.Struct):
    """An entry of `categories`."""

    id: int
    name: str


class KarpathyPhoto(msgspec.Struct):
    """An entry of `images` in dataset_coco.json."""

    cocoid: int
    split: str


class KarpathyFile(msgspec.Struct):
    """The fields read of dataset_coco.json: split of each photo (Karpathy & Fei-Fei 2015)."""

    images: list[KarpathyPhoto]


class CocoFile(msgspec.Struct):
    """The parts of a COCO annotation file that are read here; polygons and the rest are skipped."""

    images: list[Photo]
    annotations: list[Annotation]
    categories: list[Category] = []


class Coco:
    """Adapter of COCO 2017."""

    def __init__(self, card: CocoCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch the archives (or find them in the card's folder) and record what they are."""
        return self._files().record(raw, parts=list(self.card.parts))

    def annotations(self, raw: Path) -> Annotations:
        """Photos with the names of their boxes' categories, and captions in file order."""
        listed: list[tuple[str, str, RawImage]] = []  # part, id within it and photo
        said: list[tuple[str, RawCaption]] = []
        dropped: list[Drop] = []
        karpathy = self._karpathy_splits(raw) if self.card.split == "karpathy" else None
        with open_zip(self._files().path(raw, ANNOTATIONS.name)) as archive:
            for part in self.card.parts:
                described = _read_json(archive, f"annotations/captions_{part}.json")
                boxes = _read_json(archive, f"annotations/instances_{part}.json")
                labels = _labels(boxes, part)
                published = part.removesuffix("2017")
                for photo in described.images:
                    file = f"{part}/{photo.file_name}"
                    split = published if karpathy is None else karpathy.get(photo.id)
                    if split is None:
                        why = f"{file} is in no split of Karpathy's"
                        dropped.append(("image", _image_id(photo.id), "no_split", why))
                        continue
                    own = tuple(sorted(labels.get(photo.id, ())))
                    listed.append((part, _image_id(photo.id), RawImage("", file, split, own)))
                for entry in described.annotations:
                    where = f"captions_{part}.json, image {entry.image_id}, caption"
                    said += [
                        (part, RawCaption(_image_id(entry.image_id), text))
                        for text in split_texts(entry.caption, where)
                    ]
        # Each part may count from 0. Within a part a caption says no more than an id, so two photos of one stay so.
        ids = make_unique([(short, f"{part}/{short}") for part, short, _ in listed])
        named = {(part, short): image_id for image_id, (part, short, _) in zip(ids, listed, strict=True)}
        images = [replace(photo, image_id=image_id) for image_id, (*_, photo) in zip(ids, listed, strict=True)]
        captions = [replace(c, image_id=named.get((part, c.image_id), c.image_id)) for part, c in said]
        return Annotations(images, captions, dropped, repeats_meant=True)

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """JPEG bytes from the archives, or why there are none."""
        own = self._files()
        with Trees() as trees:
            for file in files:
                part, name = file.split("/", 1)
                inside = f"{self.card.folder.format(part=part)}/{name}".lstrip("/")
                found = trees.at(part, partial(own.path, raw, PHOTOS[part].name)).read(inside)
                if isinstance(found, str) and found.startswith(MISSING):
                    found += f" (looked for {inside}; `folder` on the card names another folder of the archive)"
                yield found

    def _files(self) -> Files:
        wanted = [ANNOTATIONS, *(PHOTOS[part] for part in self.card.parts)]
        addresses = dict(ADDRESSES)
        if self.card.split == "karpathy":
            wanted.append(KARPATHY)
            addresses[KARPATHY.name] = KARPATHY_ADDRESS
        return Files("coco", wanted, self.card.source, addresses, verify=self.card.verify)

    def _karpathy_splits(self, raw: Path) -> dict[int, str]:
        """Karpathy's split of every photo, by id; his `restval` counts as train, as he and everyone after used it."""
        path = self._files().path(raw, KARPATHY.name)
        with open_zip(path) as archive:
            try:
                raw_splits = read_member(archive, "dataset_coco.json", MAX_TABLE_BYTES)
                listed = msgspec.json.decode(raw_splits, type=KarpathyFile)
            except MemoryError:
                raise
            except Exception as error:  # the libraries raise whatever the bytes lead them to
                raise DataError(
                    f"{path}: dataset_coco.json is not there or not as Karpathy wrote it: {describe(error)}"
                ) from None
        return {photo.cocoid: read_split(photo.split) or photo.split for photo in listed.images}


def _image_id(number: int) -> str:
    return f"{number:012d}"


def _labels(boxes: CocoFile, part: str) -> dict[int, set[str]]:
    names = {category.id: category.name for category in boxes.categories}
    labels: dict[int, set[str]] = {}
    for box in boxes.annotations:
        if box.category_id not in names:
            raise DataError(
                f"instances_{part}.json: image {box.image_id} has category {box.category_id}, which its `categories` "
                "do not list: add it there with its name, or take its boxes out"
            )
        labels.setdefault(box.image_id, set()).add(names[box.category_id])
    return labels


def _read_json(archive: zipfile.ZipFile, name: str) -> CocoFile:
    try:
        raw = read_member(archive, name, MAX_TABLE_BYTES)
    except KeyError:
        raise DataError(f"{archive.filename} holds no {name}; found {', '.join(archive.namelist()[:8])}") from None
    except (MemoryError, DataError):
        raise
    except Exception as error:  # the library raises whatever the bytes lead it to
        raise DataError(f"{archive.filename}: {name} is damaged ({describe(error)}): fetch the archive again") from None
    try:
        try:
            return msgspec.json.decode(raw, type=CocoFile, strict=False)  # ids as 7.0 or as "7" are 7
        except (UnicodeDecodeError, msgspec.DecodeError):
            # Broken bytes and halves of escaped pairs become lone surrogates: the captions that hold them are
            # dropped by name, not the file.
            return msgspec.convert(parse_json(raw.decode("utf-8", "surrogateescape")), type=CocoFile, strict=False)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{archive.filename}: {name} is not as COCO writes it: {error}") from None
