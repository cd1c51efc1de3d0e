"""Location of captioners: a folder of your own, or the hub."""

from __future__ import annotations

from pathlib import Path

from twinlens.config.captioners import CaptionerCard
from twinlens.models.weights import fetch_hub_weights, find_local_checkpoint

FILES = ["*.json", "*.txt", "*.model", "*.jinja"]  # the last: chat templates
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # large models come in several files


def locate(card: CaptionerCard) -> Path:
    """Locate the model's folder.

    Raises:
        FetchError: it cannot be had.
    """
    if (path := find_local_checkpoint(card)) is not None:
        return path
    assert card.hub is not None
    return fetch_hub_weights(card.hub, card.revision, WEIGHTS, FILES)
