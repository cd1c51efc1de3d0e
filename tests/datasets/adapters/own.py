"""Adapters of your own data, made from small files and run to the end of the filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tests.datasets.adapters.pictures import write
from twinlens.config.datasets import DatasetCard
from twinlens.config.params import FilterParams
from twinlens.datasets import make_adapter
from twinlens.datasets.adapters.base import DatasetAdapter
from twinlens.datasets.filter import Kept, apply_rules

LENIENT = FilterParams(require_caption=False, require_label=False)


class Case:
    """Files and the card that reads them."""

    def __init__(self, folder: Path, files: dict[str, bytes], /, **card: Any) -> None:
        self.folder, self.raw = write(folder / "files", files), folder / "raw"
        self.card = TypeAdapter(DatasetCard).validate_python(card)

    @property
    def adapter(self) -> DatasetAdapter:
        return make_adapter(self.card)

    def kept(self) -> Kept:
        """What is left after download and filter."""
        self.adapter.download(self.raw)
        return apply_rules(self.adapter.annotations(self.raw), LENIENT)

    def captions(self) -> dict[str, list[str]]:
        """The captions of each kept picture, by its file."""
        kept = self.kept()
        file_of = dict(kept.images.select("image_id", "file").iter_rows())
        found: dict[str, list[str]] = {file: [] for file in file_of.values()}
        for image_id, text in kept.captions.select("image_id", "text").iter_rows():
            found[file_of[image_id]].append(text)
        return found

    def pictures(self, *files: str) -> list[bytes | str]:
        return list(self.adapter.read_pictures(self.raw, files))


def table(folder: Path, name: str, content: bytes | str, pictures: dict[str, bytes], **card: Any) -> Case:
    """A folder of pictures with a table of them."""
    raw = content.encode() if isinstance(content, str) else content
    files = {name: raw} | {f"photos/{picture}": made for picture, made in pictures.items()}
    base = folder / "files"
    columns = {"file": "file", "caption": "caption"}
    named = {"adapter": "folder", "images": str(base / "photos"), "table": str(base / name), "columns": columns}
    return Case(folder, files, **(named | card))
