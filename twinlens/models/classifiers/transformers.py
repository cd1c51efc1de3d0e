"""Image classifiers of transformers, with the image processor that lies beside their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging as transformers_log

from twinlens.config.datasets import TransformersClassifier
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.images.transforms import PixelSpec, fit_picture, to_tensor
from twinlens.models.classifiers.base import Classifier, refuse_other_classes
from twinlens.models.encoders.base import normalise_pixels
from twinlens.models.image_processor import read_pixel_spec
from twinlens.models.state_dicts import load_transformers
from twinlens.models.weights import UNREADABLE, fetch_hub_weights, find_local_checkpoint, give_reason

transformers_log.disable_progress_bar()  # of loading, which takes no time

FILES = ["config.json", "preprocessor_config.json"]
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
APART = 2.0  # of 255: two ways of resizing one smooth picture differ by less than 1, another crop by more than 5


def locate(card: TransformersClassifier) -> Path:
    """Locate the model's folder.

    Raises:
        FetchError: it cannot be had.
        DataError: what the card names is no folder, or the repository holds no weights.
    """
    if (path := find_local_checkpoint(card)) is None:
        return fetch_hub_weights(card.transformers, card.revision, WEIGHTS, [*FILES, "*.index.json"])
    if not path.is_dir():
        raise DataError(f"{path} is a file; a transformers classifier's `checkpoint` is the folder with {FILES[0]}")
    return path


def load(card: TransformersClassifier, path: Path, placement: Placement) -> Classifier:
    """Load the classifier.

    Raises:
        DataError: the folder holds no image classifier or not all of its weights, its classes are not ImageNet's
            1,000 in their order, or its image processor does something that is not known here.
    """
    try:
        config = AutoConfig.from_pretrained(path)
        if getattr(config, "problem_type", None) == "multi_label_classification":
            raise DataError(f"{path} gives every class a probability of its own; wanted one that decides between them")
        refuse_other_classes(card.transformers, config.num_labels, _names(config))
        model = load_transformers(AutoModelForImageClassification, path)
        processor = AutoImageProcessor.from_pretrained(path)
    except UNREADABLE as error:
        raise DataError(f"{path} does not hold an image classifier of transformers: {give_reason(error)}") from None
    pixels = read_pixel_spec(processor)
    refuse_other_pixels(processor, pixels, path)
    return Classifier(model, lambda batch: model(pixel_values=batch).logits, pixels, placement)


def _names(config: Any) -> dict[int, str] | None:
    """The classes' names; None where the library made them up."""
    names = {int(index): str(label) for index, label in config.id2label.items()}
    return None if all(label == f"LABEL_{index}" for index, label in names.items()) else names


def refuse_other_pixels(processor: Any, pixels: PixelSpec, path: Path) -> None:
    """Refuse an image processor that makes something else of a smooth picture than we do from its settings.

    Some do more than their settings say: resize to more than `size`, swap the colours, normalise twice.

    Raises:
        DataError: it does.
    """
    y, x = np.mgrid[0:360, 0:480]
    smooth = np.stack([x * 255 / 479, y * 255 / 359, (x + y) * 255 / 838], axis=2).astype(np.uint8)
    theirs = torch.as_tensor(processor(images=Image.fromarray(smooth), return_tensors="pt")["pixel_values"])[0]
    cpu = Placement(torch.device("cpu"), torch.float32)
    ours = normalise_pixels(fit_picture(to_tensor(smooth), pixels)[None], pixels, cpu)[0]
    kind = type(processor).__name__
    if theirs.shape != ours.shape:
        found = f"makes {' x '.join(map(str, theirs.shape[1:]))} pixels where its settings say"
        raise DataError(f"{path}: its {kind} {found} {' x '.join(map(str, ours.shape[1:]))}: not known here")
    apart = float(((theirs - ours).abs() * torch.tensor(pixels.std)[:, None, None] * 255).mean())
    if not apart <= APART:
        raise DataError(
            f"{path}: its {kind} makes other pixels of a test picture than its settings say (apart by {apart:.1f} of "
            f"255, at most {APART:g} is taken): not known here; take timm's copy of the model"
        )
