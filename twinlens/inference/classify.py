"""Confidence of an ImageNet classifier that a picture shows one of some classes: the sum of their probabilities.

Pictures are read from the publisher's files as they are, before any resizing. Finished parts are
kept, so a killed run goes on and another threshold classifies nothing again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from twinlens.config.datasets import ClassifierCard
from twinlens.core.code import code_digest
from twinlens.core.device import Placement
from twinlens.core.part_store import PartStore, Receipt
from twinlens.core.progress import Progress
from twinlens.core.resources import name_memory_shortage
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.engines.base import Engine, Seat
from twinlens.images.decode import BadPictureError, open_picture
from twinlens.images.transforms import fit_picture, map_ahead, to_tensor
from twinlens.inference.threads import hold_threads
from twinlens.models import classifiers
from twinlens.models.classifiers.base import Classifier
from twinlens.models.weights import identify_weights

PER_PART = 256
BATCH = 32


Read = Callable[[Sequence[str]], Iterator[bytes | str]]  # bytes of files, or a reason where there are none
OpenPictures = Callable[[], AbstractContextManager[Read]]


@dataclass(frozen=True)
class ShareTask:
    """A part that is wanted: the shares of some files."""

    name: str
    files: list[str]

    @property
    def size(self) -> int:
        """Pictures."""
        return len(self.files)


@dataclass
class ShareWorker:
    """A classifier that reads the dataset's own files; loaded at the first part."""

    card: ClassifierCard
    weights: Path
    classes: list[int]
    placement: Placement
    open_pictures: OpenPictures
    max_megapixels: float
    store: PartStore

    @property
    def paths(self) -> tuple[Path, ...]:
        """What every machine has to see."""
        return (self.weights,)

    @cached_property
    def model(self) -> Classifier:
        """The classifier."""
        return classifiers.load(self.card, self.weights, self.placement)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the fields."""
        return {name: value for name, value in vars(self).items() if name != "model"}

    def __call__(self, tasks: Iterable[ShareTask], seat: Seat) -> Iterator[Receipt]:
        """Put the shares of each task's files into the store."""
        with self.open_pictures() as read:
            for task in tasks:
                pictures, threads = read(task.files), seat.decode_threads
                found = self._classify(pictures, task.size, threads)
                seat.count(task.size)
                yield self.store.put(task.name, partial(_write, found))

    def _classify(self, pictures: Iterator[bytes | str], count: int, threads: int) -> np.ndarray:
        model, max_megapixels = self.model, self.max_megapixels
        remedy = (
            f"Lower compute.decode_threads (now {threads}), or resize.max_megapixels (now {max_megapixels:g}), which "
            "leaves larger pictures out"
        )

        def opened(raw: bytes | str) -> torch.Tensor | None:
            if isinstance(raw, str):
                return None
            try:
                with name_memory_shortage(f"a picture of {len(raw):,} bytes was being opened to classify it", remedy):
                    picture, *_ = open_picture(raw, max_megapixels=max_megapixels)
                    return fit_picture(to_tensor(picture), model.pixels)
            except BadPictureError:
                return None

        pixels = list(map_ahead(opened, pictures, threads, bytes_of=len))
        usable = [i for i, picture in enumerate(pixels) if picture is not None]
        shares = np.full(count, np.nan)
        for start in range(0, len(usable), BATCH):
            chosen = usable[start : start + BATCH]
            batch = torch.stack([p for i in chosen if (p := pixels[i]) is not None])
            with hold_threads(self.placement, len(chosen) < BATCH):
                shares[chosen] = model.shares(batch, self.classes)
        return shares


def _write(found: np.ndarray, part: Path) -> None:
    with part.open("wb") as file:
        np.save(file, found)


def sum_class_shares(
    open_pictures: OpenPictures,
    files: Sequence[str],
    card: ClassifierCard,
    classes: Sequence[int],
    engine: Engine,
    *,
    raw: str,
    max_megapixels: float,
) -> Float64[np.ndarray, " files"]:
    """Sum the classifier's probabilities over `classes` for every picture; NaN where it cannot be opened.

    Args:
        open_pictures: opens the dataset's files; it goes to the workers, so that it can be pickled.
        files: their names.
        card: the classifier.
        classes: indices of ImageNet classes.
        engine: who works, in float32 whatever the device, so that a picture at the threshold is kept on all machines
            or on none.
        raw: what identifies the pictures' bytes: the content of the manifest.
        max_megapixels: larger pictures are not opened.

    Raises:
        ResourceError: memory ran out while pictures were opened.
    """
    path = classifiers.locate(card)
    placement = Placement(engine.placement.device, torch.float32)
    key = fingerprint(
        card=card.model_dump(mode="json", exclude={"revision", "checkpoint", "sha256"}),
        weights=identify_weights(path),
        classes=sorted(classes),
        max_megapixels=max_megapixels,
        pictures=[digest(files), digest([raw])],
        placement=placement.name,
        libraries=[torch.__version__, version(card.family)],
        code=code_digest(__name__, f"twinlens.models.classifiers.{card.family}"),
    )
    names = [f"{start:08d}.npy" for start in range(0, len(files), PER_PART)]
    with (
        Scratch("classify", key, engine.compute.parts) as scratch,
        Progress("classify", total=len(files), unit="img") as bar,
    ):
        worker = ShareWorker(card, path, list(classes), placement, open_pictures, max_megapixels, scratch.open_store())

        def list_missing() -> Iterator[ShareTask]:
            for name, start in zip(names, range(0, len(files), PER_PART), strict=True):
                mine = list(files[start : start + PER_PART])
                if scratch.has(name):
                    bar.skip(len(mine))
                else:
                    yield ShareTask(name, mine)

        for receipt in engine.map(worker, list_missing(), bar):
            scratch.accept(receipt)
        parts = [np.load(path, allow_pickle=False) for path in scratch.iter_paths(names)]
    return np.concatenate([np.empty(0), *parts])
