"""sentence-transformers' own path: `encode`, a picture or a text at a time, with the card's prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL.Image import Image

from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.device import Placement
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.references.base import Reference, Vector


def build(tower: SentenceTransformersTower, path: Path, loaded: LoadedEncoders, placement: Placement) -> Reference:
    """Build the reference; see `twinlens.models.references.build`."""
    model: Any = getattr(loaded.text, "model")  # noqa: B009

    def encode(one: Any, prompt: str) -> Vector:
        # Without messages a prompt is nothing but the words in front; put there by us, it is no prompt to the library,
        # which some poolings leave out.
        found = model.encode([one], prompt=prompt, convert_to_tensor=True, show_progress_bar=False)
        return found.float().cpu()[:, : tower.dimensions]

    def text(words: str) -> Vector:
        if loaded.native is None:
            return encode(tower.prompt_of("query") + words, "")
        return encode({"text": words}, tower.prompt_of("query"))

    def picture(image: Image) -> Vector:
        return encode(image, tower.prompt_of("item"))

    return Reference("sentence-transformers", None if loaded.native is None else picture, text)
