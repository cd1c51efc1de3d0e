"""Location of transformers models of both towers, or of a text encoder: a folder of your own, or the hub."""

from __future__ import annotations

from pathlib import Path

from twinlens.config.models import TransformersTower
from twinlens.models.weights import fetch_hub_weights, find_local_checkpoint

FILES = ["*.json", "*.txt", "*.model", "*.py"]
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # large models come in several files


def locate(card: TransformersTower) -> Path:
    """Locate the model's folder.

    Raises:
        FetchError: it cannot be had.
    """
    if (path := find_local_checkpoint(card)) is not None:
        return path
    return fetch_hub_weights(card.transformers, card.revision, WEIGHTS, FILES)
