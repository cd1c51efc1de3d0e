"""Location of jina-clip-v2: a folder of your own, or the hub."""

from __future__ import annotations

from pathlib import Path

from twinlens.config.models import JinaClipTower
from twinlens.core.errors import FetchError
from twinlens.models.weights import fetch_hub_weights, find_local_checkpoint

FILES = ["config.json", "preprocessor_config.json", "tokenizer*.json", "special_tokens_map.json"]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def locate(card: JinaClipTower) -> Path:
    """Locate the model's folder.

    Raises:
        FetchError: it cannot be had, or the card's `checkpoint` is no folder.
    """
    path = find_local_checkpoint(card)
    if path is None:
        return fetch_hub_weights(card.jina_clip, card.revision, WEIGHTS, FILES)
    if not path.is_dir():
        wanted = f"{', '.join(FILES)} and {WEIGHTS[0]}"
        raise FetchError(f"checkpoint {path} is a file: name the folder of a jina-clip-v2, with {wanted}")
    return path
