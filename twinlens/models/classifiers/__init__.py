"""Classifiers of ImageNet's 1,000 classes, chosen by the card's key.

The modules are imported only when a card of theirs is used: the libraries take seconds to import.
"""

from __future__ import annotations

from pathlib import Path

from twinlens.config.datasets import ClassifierCard
from twinlens.config.models import TimmTower
from twinlens.core.device import Placement
from twinlens.models.classifiers.base import Classifier
from twinlens.models.locations import timm as timm_weights


def locate(card: ClassifierCard) -> Path:
    """Locate a classifier's weights, fetched if need be.

    Raises:
        ParamsError: the card names something its library does not have.
        FetchError: the weights cannot be had.
    """
    if isinstance(card, TimmTower):
        return timm_weights.locate(card)
    from twinlens.models.classifiers import transformers

    return transformers.locate(card)


def load(card: ClassifierCard, path: Path, placement: Placement) -> Classifier:
    """Load the classifier in `path`, in eval mode.

    Raises:
        ParamsError: its library does not take what the card says.
        DataError: the weights do not fit, or its classes are not ImageNet's 1,000 in their order.
    """
    if isinstance(card, TimmTower):
        from twinlens.models.classifiers import timm

        return timm.load(card, path, placement)
    from twinlens.models.classifiers import transformers

    return transformers.load(card, path, placement)
