"""The own path of a model in a process of its own: its image processor there, and one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from twinlens.config.models import OwnCodeTower
from twinlens.core.device import Placement
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.references.base import Reference, Vector


def build(tower: OwnCodeTower, path: Path, loaded: LoadedEncoders, placement: Placement) -> Reference:
    """Build the reference; see `twinlens.models.references.build`."""
    image: Any = loaded.image
    text: Any = loaded.text

    def encode_picture(picture: Image) -> Vector:
        vector: Vector = image.encode_picture(np.asarray(picture.convert("RGB"))).cpu()
        return vector

    def encode_text(words: str) -> Vector:
        vector: Vector = text.encode([words]).cpu()
        return vector

    return Reference("the model", None if image is None else encode_picture, encode_text)
