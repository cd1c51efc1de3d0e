"""timm's classifiers, with the transform that timm records for them."""

from __future__ import annotations

from pathlib import Path

import timm
import timm.data

from twinlens.cards import TimmTower
from twinlens.classifiers.base import Classifier, refuse_other_classes
from twinlens.encoders.timm import pixel_spec
from twinlens.encoders.weights import UNREADABLE
from twinlens.errors import DataError, ParamsError
from twinlens.placement import Placement


def load(card: TimmTower, path: Path, placement: Placement) -> Classifier:
    """The classifier.

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
    refuse_other_classes(card.timm, model.num_classes)
    config = timm.data.resolve_model_data_config(model)
    if unknown := set(card.preprocess) - set(config):
        raise ParamsError(f"preprocess: no such key: {', '.join(sorted(unknown))}; known: {', '.join(sorted(config))}")
    return Classifier(model, model, pixel_spec(config | card.preprocess), placement)
