"""timm's classifiers, with the transform that timm records for them."""

from __future__ import annotations

from pathlib import Path

from twinlens.config.models import TimmTower
from twinlens.core.device import Placement
from twinlens.models.classifiers.base import Classifier, refuse_other_classes
from twinlens.models.encoders.timm import build


def load(card: TimmTower, path: Path, placement: Placement) -> Classifier:
    """Load the classifier.

    Raises:
        ParamsError: timm does not take the card's `kwargs`, or its transform has no such key.
        DataError: the weights do not fit, or it does not tell the 1,000 classes of ImageNet apart.
    """
    model, pixels = build(card, path, placement.device)
    refuse_other_classes(card.timm, model.num_classes)
    return Classifier(model, model, pixels, placement)
