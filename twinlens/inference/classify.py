"""Confidence of an ImageNet classifier that a picture shows one of some classes: the sum of their probabilities.

Pictures are read from the publisher's files as they are, before any resizing. Finished parts are
kept, so a killed run goes on and another threshold classifies nothing again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from twinlens.config.datasets import ClassifierCard
from twinlens.core.code import code_digest
from twinlens.core.device import Placement
from twinlens.core.progress import Progress
from twinlens.core.resources import name_memory_shortage
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.images.decode import BadPictureError, open_picture
from twinlens.images.transforms import fit_picture, map_ahead, to_tensor
from twinlens.models import classifiers
from twinlens.models.classifiers.base import Classifier
from twinlens.models.weights import identify_weights

PER_PART = 256
BATCH = 32


def sum_class_shares(
    pictures: Iterator[bytes | str],
    files: Sequence[str],
    card: ClassifierCard,
    classes: Sequence[int],
    placement: Placement,
    *,
    raw: str,
    max_megapixels: float,
    decode_threads: int = 2,
    parts: str | None = None,
) -> Float64[np.ndarray, " files"]:
    """Sum the classifier's probabilities over `classes` for every picture; NaN where it cannot be opened.

    Args:
        pictures: bytes, or a reason where there are none, in the order of `files`.
        files: their names.
        card: the classifier.
        classes: indices of ImageNet classes.
        placement: where the classifier runs.
        raw: what identifies the pictures' bytes: the content of the manifest.
        max_megapixels: larger pictures are not opened.
        decode_threads: threads that decode ahead of the model.
        parts: `compute.parts`, where finished parts are kept.

    Raises:
        ResourceError: memory ran out while pictures were opened.
    """
    path = classifiers.locate(card)
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
    starts = range(0, len(files), PER_PART)
    with Scratch("classify", key, parts) as scratch, Progress("classify", total=len(files), unit="img") as bar:
        model: Classifier | None = None
        for start in starts:
            count, name = min(PER_PART, len(files) - start), f"{start:08d}.npy"
            mine = islice(pictures, count)
            if scratch.has(name):
                deque(mine, maxlen=0)
            else:
                model = model or classifiers.load(card, path, placement)
                found = _classify(model, mine, count, classes, max_megapixels, decode_threads)

                def write(part: Path, found: np.ndarray = found) -> None:
                    with part.open("wb") as file:
                        np.save(file, found)

                scratch.put(name, write)
            bar.add(count)
        names = [f"{start:08d}.npy" for start in starts]
        shares = [np.load(path, allow_pickle=False) for path in scratch.iter_paths(names)]
    return np.concatenate([np.empty(0), *shares])


def _classify(
    model: Classifier,
    pictures: Iterator[bytes | str],
    count: int,
    classes: Sequence[int],
    max_megapixels: float,
    threads: int,
) -> np.ndarray:
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
        shares[chosen] = model.shares(torch.stack([p for i in chosen if (p := pixels[i]) is not None]), classes)
    return shares
