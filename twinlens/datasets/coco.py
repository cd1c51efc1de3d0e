"""COCO 2017, read from the archives as its publishers ship them (Lin et al. 2014, cocodataset.org).

`captions_*.json` and `instances_*.json` are read from `annotations_trainval2017.zip`, photos from
`train2017.zip` and `val2017.zip`; nothing is unpacked. A photo's labels are the categories of its
boxes. The publishers give no digests; those below were published by others who fetched the files
(TensorFlow Datasets, torchvision's prototype datasets) and agree.
"""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from twinlens import paths
from twinlens.cards import CocoCard
from twinlens.datasets.base import MISSING
from twinlens.errors import DataError, FetchError
from twinlens.fetch import Wanted, download, is_url, sha256_of
from twinlens.filtering import Annotations, RawCaption, RawImage
from twinlens.scratch import digest, publishing

log = logging.getLogger("twinlens")

SITE = "http://images.cocodataset.org"  # its https certificate is for another name
ANNOTATIONS = Wanted(
    "annotations_trainval2017.zip",
    size=252_907_541,
    sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
)
PHOTOS = {
    "train2017": Wanted(
        "train2017.zip",
        size=19_336_861_798,
        sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "val2017": Wanted(
        "val2017.zip",
        size=815_585_330,
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
}
ADDRESSES = {ANNOTATIONS.name: f"{SITE}/annotations/{ANNOTATIONS.name}"} | {
    photos.name: f"{SITE}/zips/{photos.name}" for photos in PHOTOS.values()
}


class Photo(msgspec.Struct):
    """An entry of `images`."""

    id: int
    file_name: str


class Annotation(msgspec.Struct):
    """An entry of `annotations`: a caption or a box."""

    image_id: int
    caption: str = ""
    category_id: int = -1


class Category(msgspec.Struct):
    """An entry of `categories`."""

    id: int
    name: str


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
        files = []
        for wanted in self._wanted():
            path = self._fetch(wanted)
            _check_archive(path)
            found = sha256_of(path)
            as_published = found == wanted.sha256
            if not as_published:
                if self.card.verify:
                    raise FetchError(
                        f"{path} has SHA-256 {found}, the published archive {wanted.sha256}. If it is a subset of "
                        "your own, say so on the card with `verify: false`; if not, fetch it again"
                    )
                log.warning("%s is not the published archive: %s bytes", path, f"{path.stat().st_size:,}")
            files.append(
                {"file": wanted.name, "bytes": path.stat().st_size, "sha256": found, "as_published": as_published}
            )
        with publishing(raw) as draft:
            manifest = {"parts": list(self.card.parts), "files": files}
            (draft / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        return len(files)

    def annotations(self, raw: Path) -> Annotations:
        """Photos with the names of their boxes' categories, and captions in file order."""
        images: list[RawImage] = []
        captions: list[RawCaption] = []
        with zipfile.ZipFile(self._archive(raw, ANNOTATIONS)) as archive:
            for part in self.card.parts:
                described = _read_json(archive, f"annotations/captions_{part}.json")
                boxes = _read_json(archive, f"annotations/instances_{part}.json")
                labels = _labels(boxes, part)
                split = part.removesuffix("2017")
                for photo in described.images:
                    file = f"{part}/{photo.file_name}"
                    images.append(RawImage(_image_id(photo.id), file, split, tuple(sorted(labels.get(photo.id, ())))))
                captions += [RawCaption(_image_id(entry.image_id), entry.caption) for entry in described.annotations]
        return Annotations(images, captions)

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """JPEG bytes from the archives, or why there are none."""
        archives: dict[str, zipfile.ZipFile] = {}
        try:
            for file in files:
                part = file.split("/", 1)[0]
                if part not in archives:
                    archives[part] = zipfile.ZipFile(self._archive(raw, PHOTOS[part]))
                yield _read_member(archives[part], file)
        finally:
            for archive in archives.values():
                archive.close()

    def _wanted(self) -> list[Wanted]:
        return [ANNOTATIONS, *(PHOTOS[part] for part in self.card.parts)]

    def _fetch(self, wanted: Wanted) -> Path:
        source = self.card.source
        if source is not None and not is_url(source):
            path = paths.expand(source) / wanted.name
            if not path.is_file():
                names = ", ".join(file.name for file in self._wanted())
                raise FetchError(f"{path} is not there. The dataset's card names the folder; it must hold {names}")
            return path
        url = ADDRESSES[wanted.name] if source is None else f"{source.rstrip('/')}/{wanted.name}"
        if not self.card.verify:
            wanted = Wanted(wanted.name)
        return download(wanted, url, self._downloads(), advice=self._ways_on())

    def _archive(self, raw: Path, wanted: Wanted) -> Path:
        """Where an archive lies: fetched again if it has gone, refused if it is no longer the one recorded."""
        recorded = {file["file"]: file for file in json.loads((raw / "manifest.json").read_text())["files"]}
        path = self._fetch(wanted)
        size = path.stat().st_size
        if wanted.name not in recorded or recorded[wanted.name]["bytes"] != size:
            raise DataError(f"{path} ({size:,} bytes) is not the file that was recorded: `dvc repro -f download`")
        return path

    def _downloads(self) -> Path:
        source = self.card.source
        return paths.downloads() / ("coco" if source is None else f"coco-{digest([source])[:8]}")

    def _ways_on(self) -> str:
        names = ", ".join(file.name for file in self._wanted())
        return (
            f" Two ways on: put {names} into a folder and name it, or name a mirror that serves them, "
            "as `source` on the dataset's card, for example `-S datasets.coco.source=/data/coco`"
        )


def _image_id(number: int) -> str:
    return f"{number:012d}"


def _labels(boxes: CocoFile, part: str) -> dict[int, set[str]]:
    names = {category.id: category.name for category in boxes.categories}
    labels: dict[int, set[str]] = {}
    for box in boxes.annotations:
        if box.category_id not in names:
            raise DataError(f"instances_{part}.json: image {box.image_id} has category {box.category_id}, not listed")
        labels.setdefault(box.image_id, set()).add(names[box.category_id])
    return labels


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            archive.namelist()
    except zipfile.BadZipFile as error:
        raise FetchError(f"{path} is not a whole zip archive ({error}): remove it and run again") from None


def _read_json(archive: zipfile.ZipFile, name: str) -> CocoFile:
    try:
        raw = archive.read(name)
    except KeyError:
        raise DataError(f"{archive.filename} holds no {name}; found {', '.join(archive.namelist()[:8])}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive.filename}: {name} is damaged ({error}): fetch the archive again") from None
    try:
        try:
            return msgspec.json.decode(raw, type=CocoFile)
        except (UnicodeDecodeError, msgspec.DecodeError):
            # Broken bytes and halves of escaped pairs become lone surrogates: the captions that hold them are
            # dropped by name, not the file.
            return msgspec.convert(json.loads(raw.decode("utf-8", "surrogateescape")), type=CocoFile)
    except ValueError as error:
        raise DataError(f"{archive.filename}: {name} is not as COCO writes it: {error}") from None


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes | str:
    try:
        return archive.read(name)
    except KeyError:
        return MISSING
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f"damaged in the archive: {error}"
