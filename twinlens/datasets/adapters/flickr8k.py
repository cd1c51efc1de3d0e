"""Flickr8k (Hodosh et al. 2013): photos in a folder or zip, captions in a token file, splits in three lists.

The publishers' site is gone; the two zips are taken from a mirror of them, or from a folder in which
they lie, packed or unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from twinlens.config.datasets import Flickr8kCard
from twinlens.core import paths
from twinlens.core.download import RemoteFile, is_url
from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage
from twinlens.datasets.ids import make_unique
from twinlens.datasets.readers.archives import find_unlisted, open_tree, read_text
from twinlens.datasets.readers.files import Files, record_trees
from twinlens.datasets.readers.names import normalise
from twinlens.datasets.readers.texts import split_lines

MIRROR = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
PHOTOS, TEXTS = "Flickr8k_Dataset.zip", "Flickr8k_text.zip"
FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images")  # the first is the publishers' own spelling
TOKENS = "Flickr8k.token.txt"
LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


class Flickr8k:
    """Adapter of Flickr8k."""

    def __init__(self, card: Flickr8kCard) -> None:
        self.card = card
        addresses = {name: f"{MIRROR}/{name}" for name in (PHOTOS, TEXTS)}
        self.files = Files("flickr8k", [RemoteFile(TEXTS), RemoteFile(PHOTOS)], card.source, addresses)

    def download(self, raw: Path) -> int:
        """Fetch the two zips, or find them (or what was unpacked from them) in the card's folder."""
        texts, photos = self._unpacked()
        if texts is None or photos is None:
            return self.files.record(raw)
        return record_trees(raw, {"photos": photos} | {name: texts / name for name in (TOKENS, *LISTS.values())})

    def annotations(self, raw: Path) -> Annotations:
        """Photos in the order of the token file; those in no list, and captions of unknown photos, are dropped."""
        texts, photos = self._places(raw)
        tree = open_tree(texts)
        splits: dict[str, str] = {}
        for split, name in LISTS.items():
            for file in filter(None, map(normalise, split_lines(read_text(tree, name, texts)))):
                if splits.setdefault(file, split) != split:
                    raise DataError(f"{texts}: {file} stands in the lists of {splits[file]} and of {split}")
        described, dropped = _captions(read_text(tree, TOKENS, texts))
        tree.close()
        ids = dict(zip(splits, make_unique([(PurePosixPath(file).stem, file) for file in splits]), strict=True))
        of_captions = [file for file in dict.fromkeys(file for file, _ in described) if file in splits]
        ordered = [*of_captions, *(file for file in splits if file not in set(of_captions))]
        captions = [RawCaption(ids.get(file, PurePosixPath(file).stem), text) for file, text in described]
        tree = open_tree(photos)
        prefix = _prefix(tree.names())
        places = {file: tree.find(prefix + file) or prefix + file for file in splits}
        strays = find_unlisted(tree, places.values())
        tree.close()
        images = [RawImage(ids[file], places[file], splits[file], ()) for file in ordered]
        dropped += [("image", name, "unlisted", "a photo that is in no list of a split") for name in strays]
        return Annotations(images, captions, dropped, repeats_meant=True)

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """JPEG bytes, or why there are none."""
        if not files:
            return
        tree = open_tree(self._places(raw)[1])
        try:
            for file in files:
                yield tree.read(file)
        finally:
            tree.close()

    def _places(self, raw: Path) -> tuple[Path, Path]:
        """Locate the text files and the photos: folders, or the zips."""
        texts, photos = self._unpacked()
        if texts is None or photos is None:
            return self.files.path(raw, TEXTS), self.files.path(raw, PHOTOS)
        return texts, photos

    def _unpacked(self) -> tuple[Path | None, Path | None]:
        if self.card.source is None or is_url(self.card.source):
            return None, None
        folder = paths.expand(self.card.source)
        if not folder.is_dir():
            raise FetchError(f"{folder} is not there: the dataset's card names it as `source`")
        photos = next((folder / name for name in FOLDERS if (folder / name).is_dir()), None)
        texts = folder if (folder / TOKENS).is_file() else None
        if (photos is None) != (texts is None) and not all((folder / name).is_file() for name in (TEXTS, PHOTOS)):
            raise FetchError(
                f"{folder} holds {'photos' if photos else TOKENS} but not the other half; it must hold {TOKENS}, "
                f"{', '.join(LISTS.values())} and a folder {FOLDERS[0]}, or {TEXTS} and {PHOTOS}"
            )
        return texts, photos


def _captions(text: str) -> tuple[list[tuple[str, str]], list[Drop]]:
    """Photo and caption of each line of `photo.jpg#n<TAB>caption`."""
    captions: list[tuple[str, str]] = []
    dropped: list[Drop] = []
    for number, line in enumerate(split_lines(text), 1):
        key, tab, caption = line.partition("\t")
        if not line.strip():
            continue
        if not tab or "#" not in key:
            dropped.append(("caption", f"line {number}", "unreadable", f"not photo#n, tab, caption: {line[:60]!r}"))
            continue
        captions.append((normalise(key.rpartition("#")[0]), caption))
    return captions, dropped


def _prefix(names: list[str]) -> str:
    """The folder within a zip that holds the photos."""
    first = next((name for name in names if name.lower().endswith(".jpg")), "")
    return first[: first.rfind("/") + 1]
