"""Any dataset of Parquet files with columns of images, captions and labels, on the hub or in a folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from twinlens.config.datasets import HubCard, HubFiles, Split
from twinlens.core.bucket_files import AnyFile, AnyFolder, find_split_files, open_folder
from twinlens.core.download import is_url
from twinlens.core.errors import DataError, FetchError
from twinlens.core.hashing import recall_digest
from twinlens.core.hub import fetch_hub_folder
from twinlens.core.scratch import write_whole
from twinlens.datasets.annotations import Annotations
from twinlens.datasets.readers.files import read_manifest
from twinlens.datasets.readers.parquet import read_annotations
from twinlens.datasets.readers.parquet_cells import open_parquet
from twinlens.datasets.readers.parquet_pictures import read_pictures

log = logging.getLogger("twinlens")


class Hub:
    """Adapter of Parquet datasets."""

    def __init__(self, card: HubCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch the files (or find them in the card's folder) and record what they are."""
        folder = self._own_folder
        if folder is None:
            folder = fetch_hub_folder(
                self.card.repository, self.card.revision, list(self.card.files.values()), "dataset"
            )
        return record(raw, find(folder, self.card.files), folder)

    def annotations(self, raw: Path) -> Annotations:
        """Pictures, captions and labels from the columns."""
        return read_annotations(self._places(raw), self.card.columns, self.card.classes)

    def list_all(self) -> Annotations:
        """The same of the files as they are now in the card's folder, whatever was recorded.

        Raises:
            FetchError: the card names no folder, or it is not there.
        """
        folder = self._own_folder
        if folder is None:
            raise FetchError(f"{self.card.repository} is on the hub: name a folder as `source`")
        names = find(folder, self.card.files)
        places: dict[str, list[tuple[str, AnyFile]]] = {
            split: [(name, folder / name) for name in own] for split, own in names.items()
        }
        return read_annotations(places, self.card.columns, self.card.classes)

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """Picture bytes, or why there are none."""
        places = {name: path for part in self._places(raw).values() for name, path in part} if files else {}
        return read_pictures(places, files, self.card.columns.image)

    @cached_property
    def _own_folder(self) -> AnyFolder | None:
        """See `local_folder`; of a bucket it is listed once, whichever pictures are read."""
        return local_folder(self.card)

    def _places(self, raw: Path) -> dict[str, list[tuple[str, AnyFile]]]:
        folder = self._own_folder
        if folder is None:
            folder = fetch_hub_folder(
                self.card.repository, self.card.revision, list(self.card.files.values()), "dataset"
            )
        return read_recorded(raw, folder)


def local_folder(card: HubFiles) -> AnyFolder | None:
    """Find the folder (of this machine or a bucket) that the card names as `source`; None where it names none.

    Raises:
        FetchError: it is not there, or is an address: what lies there cannot be listed.
    """
    if card.source is None:
        return None
    if is_url(card.source):
        raise FetchError(
            f"{card.source}: the files of an address cannot be listed; name a folder as `source`, "
            "or a mirror of the hub in the environment, HF_ENDPOINT=https://..."
        )
    folder = open_folder(card.source)
    if not folder.is_dir():
        raise FetchError(f"{folder} is not there. The dataset's card names the folder; it must hold {card.repository}")
    return folder


def find(folder: AnyFolder, patterns: Mapping[Split, str]) -> dict[Split, list[str]]:
    """Find the names of each split's files, sorted; a split of which the folder has none is left out.

    Raises:
        FetchError: there is no file of any split.
    """
    files = find_split_files(folder, patterns)
    found = {split: sorted(name for name, _ in files[split]) for split in patterns}
    if not any(found.values()):
        raise FetchError(f"{folder} holds no file like {' or '.join(patterns.values())}")
    for split in (split for split, names in found.items() if not names):
        log.warning("%s: no file like %s, so the split '%s' is empty", folder, patterns[split], split)
    return {split: names for split, names in found.items() if names}


def record(raw: Path, found: Mapping[Split, list[str]], folder: AnyFolder) -> int:
    """Write the manifest of some Parquet files; returns how many there are."""
    files = []
    for split, names in found.items():
        for name in names:
            path = folder / name
            open_parquet(path)
            bytes_of = {"sha256": recall_digest(path)} if isinstance(path, Path) else {"etag": path.etag}
            files.append({"split": split, "file": name, "bytes": path.stat().st_size} | bytes_of)
    with write_whole(raw) as draft:
        (draft / "manifest.json").write_text(json.dumps({"files": files}, indent=2) + "\n")
    return len(files)


def read_recorded(raw: Path, folder: AnyFolder) -> dict[str, list[tuple[str, AnyFile]]]:
    """Name and place of the files of each split, refused if they are no longer those recorded."""
    parts: dict[str, list[tuple[str, AnyFile]]] = {}
    for file in read_manifest(raw):
        path = folder / file["file"]
        size = path.stat().st_size if path.is_file() else None
        etag = file.get("etag") if isinstance(path, Path) or size is None else path.etag
        if size != file["bytes"] or etag != file.get("etag"):
            what = "is not there" if size is None else f"({size:,} bytes) is not the file that was recorded"
            raise DataError(f"{path} {what}: `dvc repro -f download`")
        parts.setdefault(file["split"], []).append((file["file"], path))
    return parts
