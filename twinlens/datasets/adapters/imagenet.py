"""ImageNet (ILSVRC 2012) in the layout of the hub's ILSVRC/imagenet-1k, for the classes that are wanted.

Of each Parquet file the labels are read first, then only the row groups in which a wanted class
occurs; from the hub that is done with range requests, and what was read is kept in the download
cache file by file, so that an interruption costs one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twinlens.config.columns import ParquetColumns
from twinlens.config.datasets import ImageNetCard
from twinlens.core import paths
from twinlens.core.bucket_files import AnyFile
from twinlens.core.download import is_offline
from twinlens.core.errors import FetchError
from twinlens.core.hub import ask, explain_error
from twinlens.core.progress import Progress
from twinlens.core.scratch import digest
from twinlens.datasets.adapters.hub import find, local_folder, read_recorded, record
from twinlens.datasets.annotations import Annotations, RawCaption, RawImage
from twinlens.datasets.classes import read_classes
from twinlens.datasets.readers.parquet import read_annotations
from twinlens.datasets.readers.parquet_pictures import read_pictures

COLUMNS = ParquetColumns(image="image", label="label")


class ImageNet:
    """Adapter of ImageNet."""

    def __init__(self, card: ImageNetCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch the wanted row groups (or find the files in the card's folder) and record what was read."""
        folder = local_folder(self.card)
        if folder is None:
            folder = self._cache()
            self._fetch(folder)
        return record(raw, find(folder, self.card.files), folder)

    def annotations(self, raw: Path) -> Annotations:
        """Pictures of the wanted classes; others are no part of this dataset and are not listed."""
        wanted = set(read_classes(self.card.classes).values())
        names = list(read_classes("imagenet-1k").values())
        found = read_annotations(self._places(raw), COLUMNS, names)
        images = [image for image in found.images if wanted & set(image.labels)]
        captions = []
        if self.card.captions == "label":
            captions = [RawCaption(image.image_id, _caption(image)) for image in images]
        return Annotations(images, captions, found.dropped, captioned=bool(captions))

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """JPEG bytes, or why there are none."""
        places = {name: path for part in self._places(raw).values() for name, path in part} if files else {}
        return read_pictures(places, files, COLUMNS.image)

    def _places(self, raw: Path) -> dict[str, list[tuple[str, AnyFile]]]:
        return read_recorded(raw, local_folder(self.card) or self._cache())

    def _cache(self) -> Path:
        """Folder of this revision's wanted row groups: one for each list of classes."""
        wanted = [self.card.repository, str(self.card.revision), *map(str, sorted(read_classes(self.card.classes)))]
        return paths.downloads() / f"imagenet-{digest(wanted)[:12]}"

    def _fetch(self, folder: Path) -> None:
        """Read from the hub what the cache lacks."""
        if is_offline():
            raise FetchError(
                f"offline, and ImageNet is read from the hub: place {', '.join(self.card.files.values())} of "
                f"{self.card.repository} into a folder and name it as `source` on the dataset's card"
            )
        from huggingface_hub import HfFileSystem

        answer = ask(self.card.repository, self.card.revision, "dataset")
        if isinstance(answer, Exception):
            raise FetchError(self._explained(answer, reached=False))
        root = f"datasets/{self.card.repository}@{self.card.revision}"
        wanted = np.array(sorted(read_classes(self.card.classes)))
        try:
            hub = HfFileSystem(skip_instance_cache=True)  # a rerun asks anew what is there
            listed = [path.split(f"{self.card.repository}@{self.card.revision}/", 1)[-1] for path in hub.find(root)]
            names = [name for name in sorted(listed) if any(fnmatch(name, p) for p in self.card.files.values())]
            missing = [name for name in names if not (folder / name).exists()]
            with Progress("imagenet", total=len(names), unit="file", done=len(names) - len(missing)) as bar:
                for name in missing:
                    with hub.open(f"{root}/{name}", cache_type="none") as remote:
                        keep_wanted(remote, wanted, folder / name)
                    bar.add(1)
        except FetchError:
            raise
        except Exception as error:  # of the hub's client, of the HTTP library below it, or of the disk
            kept = sum(not path.name.startswith(".") for path in folder.rglob("*.parquet"))
            raise FetchError(f"{self._explained(error)} {kept} file(s) are kept; a rerun goes on from there") from None

    def _explained(self, error: Exception, reached: bool = True) -> str:
        files = list(self.card.files.values())
        return explain_error(error, self.card.repository, self.card.revision, "dataset", reached, files)


def keep_wanted(source: Any, wanted: np.ndarray, path: Path) -> None:
    """Copy the rows of some classes from one Parquet file into another; whole, or not there.

    Args:
        source: an opened file; only its labels and the row groups that hold a wanted class are read.
        wanted: labels.
        path: the new file.
    """
    file = pq.ParquetFile(source, pre_buffer=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    with pq.ParquetWriter(draft, file.schema_arrow, compression="none") as writer:
        for group in range(file.num_row_groups):
            labels = file.read_row_group(group, columns=[COLUMNS.label or ""])[0].to_numpy()
            rows = np.isin(labels, wanted)
            if rows.any():
                table = file.read_row_group(group)
                writer.write_table(table.filter(pa.array(rows)), row_group_size=max(1, int(rows.sum())))
    draft.replace(path)


def _caption(image: RawImage) -> str:
    """CLIP's own template (Radford et al. 2021)."""
    return f"a photo of a {image.labels[0]}."
