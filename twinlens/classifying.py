"""How sure an ImageNet classifier is that a picture shows one of some classes: the sum of their probabilities.

Pictures are read from the publisher's files as they are, before any resizing. Finished parts are
kept, so a killed run goes on and another threshold classifies nothing again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import timm
import timm.data
import torch
from jaxtyping import Float64

from twinlens.cards import TimmTower
from twinlens.encoders.base import normalised
from twinlens.encoders.timm import locate, pixel_spec
from twinlens.encoders.weights import UNREADABLE, identity
from twinlens.errors import DataError, ParamsError
from twinlens.pixels import BadPictureError, PixelSpec, ahead, fit, open_picture, to_tensor
from twinlens.placement import Placement
from twinlens.progress import Progress
from twinlens.scratch import Scratch, code_digest, digest, fingerprint

PER_PART = 256
BATCH = 32


class Classifier:
    """A timm model with its classifier, in eval mode."""

    def __init__(self, card: TimmTower, path: Path, placement: Placement) -> None:
        """Load it.

        Raises:
            ParamsError: timm does not take the card's `kwargs`, or its transform has no such key.
            DataError: the weights do not fit, or it does not tell the 1,000 classes of ImageNet apart.
        """
        try:
            model = timm.create_model(card.timm, pretrained=False, **card.kwargs)
        except (RuntimeError, TypeError) as error:
            raise ParamsError(f"timm cannot build '{card.timm}' with kwargs {card.kwargs}: {error}") from None
        try:
            timm.models.load_checkpoint(model, str(path))
        except UNREADABLE as error:
            raise DataError(f"{path} does not hold the weights of timm's {card.timm}: {str(error)[:300]}") from None
        if model.num_classes != 1000:
            raise DataError(f"{card.timm} tells {model.num_classes} classes apart; wanted ImageNet's 1,000")
        config = timm.data.resolve_model_data_config(model)
        if unknown := set(card.preprocess) - set(config):
            raise ParamsError(
                f"preprocess: no such key: {', '.join(sorted(unknown))}; known: {', '.join(sorted(config))}"
            )
        self.pixels: PixelSpec = pixel_spec(config | card.preprocess)
        self.model, self.placement = model.eval().to(placement.device, placement.dtype), placement

    @torch.inference_mode()
    def shares(self, pictures: torch.Tensor, classes: Sequence[int]) -> Float64[np.ndarray, " images"]:
        """The summed probabilities of `classes` for a batch of uint8 pictures (images, 3, height, width)."""
        logits = self.model(normalised(pictures, self.pixels, self.placement)).double().cpu()
        return np.asarray(logits.softmax(dim=1)[:, list(classes)].sum(dim=1).numpy())


def class_shares(
    pictures: Iterator[bytes | str],
    files: Sequence[str],
    card: TimmTower,
    classes: Sequence[int],
    placement: Placement,
    *,
    raw: str,
    decode_threads: int = 2,
) -> Float64[np.ndarray, " files"]:
    """For every picture the sum of the classifier's probabilities over `classes`; NaN where it cannot be opened.

    Args:
        pictures: bytes, or a reason where there are none, in the order of `files`.
        files: their names.
        card: the classifier.
        classes: indices of ImageNet classes.
        placement: where the classifier runs.
        raw: what identifies the pictures' bytes: the content of the manifest.
        decode_threads: threads that decode ahead of the model.
    """
    path = locate(card)
    key = fingerprint(
        card=card.model_dump(mode="json", include={"timm", "kwargs", "preprocess"}),
        weights=identity(path),
        classes=sorted(classes),
        pictures=[digest(files), digest([raw])],
        placement=placement.name,
        libraries=[torch.__version__, timm.__version__],
        code=code_digest("classifying.py", "pixels.py"),
    )
    starts = range(0, len(files), PER_PART)
    with Scratch("classify", key) as scratch, Progress("classify", total=len(files), unit="img") as bar:
        model: Classifier | None = None
        for start in starts:
            mine, name = list(islice(pictures, PER_PART)), f"{start:08d}.npy"
            if not scratch.has(name):
                model = model or Classifier(card, path, placement)
                found = _classify(model, mine, classes, decode_threads)

                def write(part: Path, found: np.ndarray = found) -> None:
                    with part.open("wb") as file:
                        np.save(file, found)

                scratch.put(name, write)
            bar.add(len(mine))
        parts = [np.load(scratch.path(f"{start:08d}.npy")) for start in starts]
    return np.concatenate([np.empty(0), *parts])


def _classify(model: Classifier, pictures: list[bytes | str], classes: Sequence[int], threads: int) -> np.ndarray:
    def opened(raw: bytes | str) -> torch.Tensor | None:
        try:
            return None if isinstance(raw, str) else fit(to_tensor(open_picture(raw)[0]), model.pixels)
        except BadPictureError:
            return None

    pixels = list(ahead(opened, pictures, threads))
    usable = [i for i, picture in enumerate(pixels) if picture is not None]
    shares = np.full(len(pictures), np.nan)
    for start in range(0, len(usable), BATCH):
        chosen = usable[start : start + BATCH]
        shares[chosen] = model.shares(torch.stack([p for i in chosen if (p := pixels[i]) is not None]), classes)
    return shares
