"""Flickr30k (Young et al. 2014) in the layout of the hub's nlphuji/flickr30k.

Photos are read from the zip, captions and Karpathy's split from the CSV; nothing is unpacked.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from twinlens.config.datasets import Flickr30kCard
from twinlens.core.download import RemoteFile
from twinlens.core.errors import DataError
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage
from twinlens.datasets.readers.archives import find_unlisted, open_tree
from twinlens.datasets.readers.files import Files, HubRepository

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
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        if missing := [name for name in COLUMNS if name not in (rows.fieldnames or [])]:
            raise DataError(
                f"{path}: no column {', '.join(missing)}; found {', '.join(rows.fieldnames or ['nothing'])}"
            )
        images: list[RawImage] = []
        captions: list[RawCaption] = []
        dropped: list[Drop] = []
        for row in rows:
            name = row["filename"] or ""
            image_id = PurePosixPath(name).stem
            images.append(RawImage(image_id, f"{FOLDER}/{name}", row["split"] or "", ()))
            try:
                captions += [RawCaption(image_id, sentence) for sentence in _sentences(row["raw"])]
            except ValueError as error:
                dropped.append(("caption", image_id, "unreadable", f"column raw is no list of sentences: {error}"))
        tree = open_tree(self.files.path(raw, PHOTOS))
        strays = find_unlisted(tree, (image.file for image in images))
        tree.close()
        dropped += [("image", name, "unlisted", f"in {PHOTOS}, but {TABLE} does not list it") for name in strays]
        return Annotations(images, captions, dropped)

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
    found = json.loads(cell or "")
    if not isinstance(found, list) or not all(isinstance(sentence, str) for sentence in found):
        raise ValueError(f"found {str(cell)[:60]!r}")
    return found
