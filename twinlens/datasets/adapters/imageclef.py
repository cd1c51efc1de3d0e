"""Captioned radiology as ImageCLEF and ROCO ship it: for each split a folder or zip of pictures and a caption table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from twinlens.config.datasets import ImageClefCard
from twinlens.core import paths
from twinlens.core.errors import DataError
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage
from twinlens.datasets.ids import make_unique
from twinlens.datasets.readers.archives import Tree, Trees, open_tree
from twinlens.datasets.readers.files import record_trees, refuse_change
from twinlens.datasets.readers.names import is_picture, normalise
from twinlens.datasets.readers.tabular import read_rows


class ImageClef:
    """Adapter of captioned radiology."""

    def __init__(self, card: ImageClefCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch nothing (ImageCLEF asks for registration); record what the folder holds."""
        return record_trees(raw, self._places())

    def annotations(self, raw: Path) -> Annotations:
        """A picture for each id of the table; pictures without a row are listed as dropped."""
        refuse_change(raw, self._places())
        return self.list_all()

    def list_all(self) -> Annotations:
        """The same of the parts as they are now, whatever was recorded."""
        places = self._places()
        dropped: list[Drop] = []
        listed: list[tuple[str, str, str, list[str]]] = []  # split, short id, file, captions
        for split, part in self.card.parts.items():
            tree = open_tree(places[f"{split} images"])
            files = _by_id(tree)
            known = [name for names in files.values() for name in names]
            tree.close()
            rows = read_rows(places[f"{split} captions"], [self.card.id, self.card.caption])
            if not rows:
                raise DataError(f"{places[f'{split} captions']} holds no row: the split '{split}' has no picture")
            found: set[str] = set()
            for row in rows:
                if (name := row.text(self.card.id)) is None:
                    dropped.append(("image", f"{row.table}:{row.place}", "no_file", f"no {self.card.id}"))
                    continue
                file, complaint = _choose_file(name, files)
                if complaint:
                    dropped.append(("image", f"{split}/{name}", "two_files", complaint))
                    dropped += [
                        ("caption", f"{split}/{name}", "dropped_image", "its picture was dropped")
                        for _ in row.texts(self.card.caption)
                    ]
                    continue
                found.add(file)
                listed.append((split, _stem(name), f"{split}/{file}", row.texts(self.card.caption)))
            why = f"a picture that {part.captions} does not list"
            strays = (name for name in sorted(known) if name not in found)
            dropped += [("image", f"{split}/{name}", "unlisted", why) for name in strays]
        ids = make_unique([(short, file) for _, short, file, _ in listed])
        images = {i: RawImage(i, file, split, ()) for i, (split, _, file, _) in zip(ids, listed, strict=True)}
        captions = [RawCaption(i, text) for i, (*_, texts) in zip(ids, listed, strict=True) for text in texts]
        return Annotations(list(images.values()), captions, dropped)

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


def _by_id(tree: Tree) -> dict[str, list[str]]:
    """The names of all pictures by what a table may call them: without their folder, with and without their ending."""
    found: dict[str, list[str]] = {}
    for name in filter(is_picture, tree.names()):
        found.setdefault(_stem(name), []).append(name)
    return found


def _choose_file(name: str, files: Mapping[str, list[str]]) -> tuple[str, str]:
    """The file that a row means, or why none can be told; a file that is not there is what the row calls it."""
    near = files.get(_stem(name), [])
    last = PurePosixPath(normalise(name)).name
    exact = [file for file in near if PurePosixPath(normalise(file)).name == last]
    meant = exact or near
    if len(meant) > 1:
        return "", f"{meant[0]} and {meant[1]} could both be meant; write the ending into the table"
    return meant[0] if meant else _stem(name), ""


def _stem(name: str) -> str:
    """A name without its folder and its picture's ending; an id with a dot (`1.2.840`) keeps what follows it."""
    last = PurePosixPath(normalise(name)).name
    return PurePosixPath(last).stem if is_picture(last) else last
