"""sentence-transformers' own path: `encode`, a text at a time, with the card's prompt in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twinlens.config.models import SentenceTransformersTower
from twinlens.core.device import Placement
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.references.base import Reference, Vector


def build(tower: SentenceTransformersTower, path: Path, loaded: LoadedEncoders, placement: Placement) -> Reference:
    """Build the reference; see `twinlens.models.references.build`."""
    model: Any = getattr(loaded.text, "model")  # noqa: B009

    def text(words: str) -> Vector:
        found = model.encode([tower.prompt + words], prompt="", convert_to_tensor=True, show_progress_bar=False)
        return found.float().cpu()

    return Reference("sentence-transformers", None, text)
