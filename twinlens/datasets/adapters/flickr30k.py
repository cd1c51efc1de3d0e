"""Flickr30k (Young et al. 2014) in the layout of the hub's nlphuji/flickr30k.

Photos are read from the zip, captions and Karpathy's split from the CSV; nothing is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from twinlens.config.datasets import Flickr30kCard
from twinlens.core.download import RemoteFile
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage, read_split
from twinlens.datasets.ids import make_unique
from twinlens.datasets.readers.archives import find_unlisted, open_tree
from twinlens.datasets.readers.files import Files, HubRepository
from twinlens.datasets.readers.tabular import TableRow, read_rows
from twinlens.datasets.readers.texts import parse_json

PHOTOS = "flickr30k-images.zip"
TABLE = "flickr_annotations_30k.csv"
FOLDER = "flickr30k-images"  # within the zip
COLUMNS = ("raw", "split", "filename")


class Flickr30k:
    """Adapter of Flickr30k."""

    def __init__(self, card: Flickr30kCard) -> None:
        self.card = card
        hub = HubRepository(card.repository, card.revision)
        self.files = Files("flickr30k", [RemoteFile(TABLE), RemoteFile(PHOTOS)], card.source, hub)

    def download(self, raw: Path) -> int:
        """Fetch the two files (or find them in the card's folder) and record what they are."""
        return self.files.record(raw)

    def annotations(self, raw: Path) -> Annotations:
        """Read one photo per row, with its captions in order; photos of the zip without a row are listed as dropped."""
        path = self.files.path(raw, TABLE)
        tree = open_tree(self.files.path(raw, PHOTOS))
        dropped: list[Drop] = []
        listed: list[tuple[TableRow, str]] = []  # a row and its photo, as the zip spells it
        for row in read_rows(path, COLUMNS):
            name = row.text("filename")
            if name is None:
                dropped.append(("image", f"{row.table}:{row.place}", "no_file", "the row names no file"))
            else:
                listed.append((row, tree.find(f"{FOLDER}/{name}") or f"{FOLDER}/{name}"))
        strays = find_unlisted(tree, (file for _, file in listed))
        tree.close()
        ids = make_unique([(PurePosixPath(file).stem, PurePosixPath(file).name) for _, file in listed])
        images: list[RawImage] = []
        captions: list[RawCaption] = []
        for image_id, (row, file) in zip(ids, listed, strict=True):
            split = row.text("split") or ""
            images.append(RawImage(image_id, file, read_split(split) or split, ()))
            try:
                captions += [RawCaption(image_id, sentence) for sentence in _sentences(row.cells.get("raw"))]
            except ValueError as error:
                dropped.append(("caption", image_id, "unreadable", f"column raw is no list of sentences: {error}"))
        dropped += [("image", name, "unlisted", f"in {PHOTOS}, but {TABLE} does not list it") for name in strays]
        return Annotations(images, captions, dropped, repeats_meant=True)

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """JPEG bytes from the zip, or why there are none."""
        if not files:
            return
        tree = open_tree(self.files.path(raw, PHOTOS))
        try:
            for file in files:
                yield tree.read(file)
        finally:
            tree.close()


def _sentences(cell: str | None) -> list[str]:
    found = parse_json(cell or "")
    if not isinstance(found, list) or not all(isinstance(sentence, str) for sentence in found):
        raise ValueError(f"found {str(cell)[:60]!r}")
    return found
