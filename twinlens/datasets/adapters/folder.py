"""Your own pictures: a folder or zip of them, and a table that says what each shows and who described it how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from twinlens.config.datasets import FolderCard
from twinlens.core import paths
from twinlens.datasets.annotations import SPLITS, Annotations, Drop, RawCaption, RawImage
from twinlens.datasets.readers.archives import Tree, find_unlisted, is_picture, open_tree
from twinlens.datasets.readers.files import record_trees, refuse_change
from twinlens.datasets.readers.tabular import read_rows, split_texts


class Folder:
    """Adapter of your own folder."""

    def __init__(self, card: FolderCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch nothing; record what the folder and the table hold, so that a change is seen."""
        return record_trees(raw, self._places())

    def annotations(self, raw: Path) -> Annotations:
        """Pictures with the captions and labels of the table; without a table, with their folder as label."""
        places = self._places()
        refuse_change(raw, places)
        tree = open_tree(places["images"])
        try:
            return self._from_folders(tree) if self.card.columns is None else self._from_table(tree, places["table"])
        finally:
            tree.close()

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """Picture bytes, or why there are none."""
        tree = open_tree(self._places()["images"])
        try:
            for file in files:
                yield tree.read(file)
        finally:
            tree.close()

    def _places(self) -> dict[str, Path]:
        places = {"images": paths.expand(self.card.images)}
        return places if self.card.table is None else places | {"table": paths.expand(self.card.table)}

    def _from_folders(self, tree: Tree) -> Annotations:
        images = []
        for name in filter(is_picture, tree.names()):
            folders = PurePosixPath(name).parts[:-1]
            split = folders[0] if folders and folders[0] in SPLITS else "test"
            labels = [folder for folder in folders[-1:] if folder not in SPLITS]
            images.append(RawImage(name, name, split, tuple(labels)))
        dropped = self._outside([(image, image.labels) for image in images])
        gone = {name for _, name, _, _ in dropped}
        return Annotations([image for image in images if image.image_id not in gone], [], dropped, captioned=False)

    def _from_table(self, tree: Tree, table: Path) -> Annotations:
        columns = self.card.columns
        assert columns is not None
        images: dict[tuple[str, str], RawImage] = {}
        captions: list[RawCaption] = []
        dropped: list[Drop] = []
        wanted = [columns.file, columns.id, columns.caption, columns.label, columns.split]
        for number, row in enumerate(read_rows(table, [name for name in wanted if name is not None]), 2):
            file = split_texts(row[columns.file])
            if not file or not file[0].strip():
                dropped.append(("image", f"{table.name}:{number}", "no_file", "the row names no file"))
                continue
            image_id = str(row[columns.id]) if columns.id else file[0]
            split = str(row[columns.split] or "") if columns.split else "test"
            labels = (
                tuple(name for name in split_texts(row[columns.label], self.card.separator) if name)
                if columns.label
                else ()
            )
            image = RawImage(image_id, file[0], split, labels)
            captions += (
                [RawCaption(image_id, text) for text in split_texts(row[columns.caption])] if columns.caption else []
            )
            known = images.get((image_id, file[0]))
            if outside := self._outside([(image, labels)]):
                dropped += outside
            elif known is not None and known.split != split:
                why = f"{file[0]} is in the splits {known.split} and {split}; the first counts"
                dropped.append(("image", image_id, "two_splits", why))
            else:  # a further row of the same picture is a further caption of it, and may name further labels
                merged = labels if known is None else tuple(dict.fromkeys((*known.labels, *labels)))
                images[image_id, file[0]] = RawImage(image_id, file[0], split, merged)
        strays = find_unlisted(tree, (image.file for image in images.values()))
        dropped += [("image", name, "unlisted", f"a picture that {table.name} does not list") for name in strays]
        return Annotations(list(images.values()), captions, dropped, captioned=columns.caption is not None)

    def _outside(self, found: Sequence[tuple[RawImage, Sequence[str]]]) -> list[Drop]:
        """Pictures with a label that is none of the card's classes."""
        classes = self.card.classes
        if classes is None:
            return []
        return [
            ("image", image.image_id, "unknown_label", f"label {name!r} is not one of the {len(classes)} classes")
            for image, labels in found
            for name in [next((name for name in labels if name not in classes), None)]
            if name is not None
        ]
