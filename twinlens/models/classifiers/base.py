"""Base class of classifiers: one logit for each of ImageNet's 1,000 classes, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.datasets.classes import read_classes, read_wordnet_ids
from twinlens.images.transforms import PixelSpec
from twinlens.models.encoders.base import normalise_pixels

CLASSES = "imagenet-1k"


class Classifier:
    """A model with its classifier, in eval mode."""

    def __init__(
        self, model: Any, logits: Callable[[torch.Tensor], torch.Tensor], pixels: PixelSpec, placement: Placement
    ) -> None:
        """Put the model on its device.

        Args:
            model: of any library.
            logits: of a batch of normalised pixels.
            pixels: what its own transform does.
            placement: device and dtype.
        """
        model.eval().to(placement.device, placement.dtype)
        self.logits, self.pixels, self.placement = logits, pixels, placement

    @torch.inference_mode()
    def shares(self, pictures: torch.Tensor, classes: Sequence[int]) -> Float64[np.ndarray, " images"]:
        """Sum the probabilities of `classes` for a batch of uint8 pictures (images, 3, height, width)."""
        logits = self.logits(normalise_pixels(pictures, self.pixels, self.placement)).double().cpu()
        return np.asarray(logits.softmax(dim=1)[:, list(classes)].sum(dim=1).numpy())


def refuse_other_classes(name: str, count: int, labels: Mapping[int, str] | None = None) -> None:
    """Refuse a model whose classes are not ImageNet's 1,000 in the order of their indices.

    Args:
        name: the model's, for the message.
        count: how many classes it tells apart.
        labels: what the model itself calls them, by index; None where it has no names for them.

    Raises:
        DataError: another number, another order, or the names of other things.
    """
    known = read_classes(CLASSES)
    if count != len(known):
        more = " (1,001 are often these with a background in front)" if count == len(known) + 1 else ""
        raise DataError(
            f"{name} tells {count:,} classes apart{more}; wanted ImageNet's 1,000: name another classifier under `keep`"
        )
    if labels is None:
        return
    if labels.keys() != known.keys():
        raise DataError(f"{name} numbers its classes from {min(labels)} to {max(labels)}; wanted 0 to 999")
    ids = read_wordnet_ids(CLASSES)
    where = {normalise_class_name(label): index for names in (known, ids) for index, label in names.items()}
    right = 0
    for index, label in sorted(labels.items()):
        names = [normalise_class_name(part) for part in label.split(",")]
        if normalise_class_name(known[index]) in names or ids[index] in label:
            right += 1
        elif names[0] in where:
            raise DataError(
                f"{name} calls class {index} '{label}', in ImageNet's order it is '{known[index]}' (and '{names[0]}' "
                f"is {where[names[0]]}): its classes stand in another order; name another classifier under `keep`"
            )
    if right * 2 < len(known):  # some publishers have better names than WordNet for a few classes
        raise DataError(
            f"{name} has ImageNet's names for {right} of its 1,000 classes (the first: '{labels[0]}', wanted "
            f"'{known[0]}'): another kind of classifier; name one of ImageNet's under `keep`"
        )


def normalise_class_name(label: str) -> str:
    """Normalise a class's name: no capitals, no underscores."""
    return " ".join(label.replace("_", " ").lower().split())
