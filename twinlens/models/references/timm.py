"""timm's own path: `create_transform` for evaluation as its model's configuration says, and the model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm.data
from PIL.Image import Image

from twinlens.config.models import TimmTower
from twinlens.core.device import Placement
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.references.base import Reference, Vector


def build(tower: TimmTower, path: Path, loaded: LoadedEncoders, placement: Placement) -> Reference:
    """Build the reference; see `twinlens.models.references.build`."""
    model: Any = getattr(loaded.image, "model")  # noqa: B009
    config = timm.data.resolve_model_data_config(model) | tower.preprocess
    transform: Any = timm.data.create_transform(**config, is_training=False)

    def picture(image: Image) -> Vector:
        return model(transform(image)[None].to(placement.device, placement.dtype)).float().cpu()

    return Reference("timm", picture, None)
