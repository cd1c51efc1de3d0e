"""sentence-transformers' own path to token vectors: `encode`, one input at a time; compared by their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL.Image import Image

from twinlens.config.sentence_models import MultiVectorTower
from twinlens.core.device import Placement
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.references.base import Reference, Vector


def build(tower: MultiVectorTower, path: Path, loaded: LoadedEncoders, placement: Placement) -> Reference:
    """Build the reference; see `twinlens.models.references.build`."""
    model: Any = getattr(loaded.text, "model")  # noqa: B009

    def encode(one: Any, encoder: Any) -> Vector:
        ask = model.encode_query if encoder.role == "query" else model.encode_document
        found = ask([one], prompt=encoder.prompt, show_progress_bar=False)[0]
        return found.float().cpu().mean(dim=0, keepdim=True)

    def text(words: str) -> Vector:
        return encode(words if loaded.native is None else {"text": words}, loaded.text)

    def picture(image: Image) -> Vector:
        return encode(image, loaded.native)

    return Reference("sentence-transformers", None if loaded.native is None else picture, text)
