"""Image classifiers of transformers, with the image processor that lies beside their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging as transformers_log

from twinlens.config.datasets import TransformersClassifier
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.models.classifiers.base import Classifier, refuse_other_classes
from twinlens.models.image_processor import read_pixel_spec, refuse_other_pixels
from twinlens.models.state_dicts import load_transformers
from twinlens.models.weights import UNREADABLE, fetch_hub_weights, find_local_checkpoint, give_reason

transformers_log.disable_progress_bar()  # of loading, which takes no time

FILES = ["config.json", "preprocessor_config.json"]
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


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
