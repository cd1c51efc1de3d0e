"""Captioned radiology as ImageCLEF and ROCO ship it: for each split a folder or zip of pictures and a caption table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from twinlens.config.datasets import ImageClefCard
from twinlens.core import paths
from twinlens.core.errors import DataError
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage
from twinlens.datasets.readers.archives import Trees, is_picture, open_tree
from twinlens.datasets.readers.files import record_trees, refuse_change
from twinlens.datasets.readers.tabular import read_rows, split_texts


class ImageClef:
    """Adapter of captioned radiology."""

    def __init__(self, card: ImageClefCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch nothing (ImageCLEF asks for registration); record what the folder holds."""
        return record_trees(raw, self._places())

    def annotations(self, raw: Path) -> Annotations:
        """A picture for each id of the table; pictures without a row are listed as dropped."""
        places = self._places()
        refuse_change(raw, places)
        images: list[RawImage] = []
        captions: list[RawCaption] = []
        dropped: list[Drop] = []
        for split, part in self.card.parts.items():
            tree = open_tree(places[f"{split} images"])
            files = {PurePosixPath(name).stem: name for name in tree.names() if is_picture(name)}
            tree.close()
            rows = read_rows(places[f"{split} captions"], [self.card.id, self.card.caption])
            if not rows:
                raise DataError(f"{places[f'{split} captions']} holds no row: the split '{split}' has no picture")
            ids = dict.fromkeys(PurePosixPath(str(row[self.card.id])).stem for row in rows)
            images += [RawImage(i, f"{split}/{files.get(i, i)}", split, ()) for i in ids]
            for row in rows:
                image_id = PurePosixPath(str(row[self.card.id])).stem
                captions += [RawCaption(image_id, text) for text in split_texts(row[self.card.caption])]
            strays = sorted(name for stem, name in files.items() if stem not in ids)
            why = f"a picture that {part.captions} does not list"
            dropped += [("image", f"{split}/{name}", "unlisted", why) for name in strays]
        return Annotations(images, captions, dropped)

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """Picture bytes, or why there are none."""
        places = self._places()
        with Trees() as trees:
            for file in files:
                split, _, name = file.partition("/")
                yield trees.at(split, partial(places.__getitem__, f"{split} images")).read(name)

    def _places(self) -> dict[str, Path]:
        folder = paths.expand(self.card.source)
        places: dict[str, Path] = {}
        for split, part in self.card.parts.items():
            places[f"{split} images"] = folder / part.images
            places[f"{split} captions"] = folder / part.captions
        return places
