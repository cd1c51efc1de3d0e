"""Datasets as annotations: rules that drop rows (`filter.py`), `keep`, the pool, statistics."""

from __future__ import annotations

from importlib import import_module

from twinlens.config.datasets import DatasetCard
from twinlens.datasets.adapters.base import DatasetAdapter

CLASSES = {
    "scenes": "Scenes",
    "coco": "Coco",
    "flickr30k": "Flickr30k",
    "flickr8k": "Flickr8k",
    "hub": "Hub",
    "imagenet": "ImageNet",
    "objectnet": "ObjectNet",
    "imageclef": "ImageClef",
    "folder": "Folder",
    "webdataset": "WebDataset",
    "composed": "Composed",
}


def make_adapter(card: DatasetCard) -> DatasetAdapter:
    """Load the adapter that a card asks for; its module bears the card's `adapter` as its name."""
    made: DatasetAdapter = getattr(import_module(f"{__name__}.adapters.{card.adapter}"), CLASSES[card.adapter])(card)
    return made
