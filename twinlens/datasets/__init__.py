"""Datasets: one adapter per publisher's layout, all giving the same tables."""

from __future__ import annotations

from twinlens.cards import CocoCard, DatasetCard, ScenesCard
from twinlens.datasets.base import DatasetAdapter
from twinlens.datasets.coco import Coco
from twinlens.datasets.scenes import Scenes


def adapter(card: DatasetCard) -> DatasetAdapter:
    """The adapter that a card asks for."""
    match card:
        case ScenesCard():
            return Scenes(card)
        case CocoCard():
            return Coco(card)
