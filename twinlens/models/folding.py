"""Folding of blocks for inference: branches and norms that a model was trained with become one convolution.

MobileCLIP, FastViT, RepViT and others are published as they were trained, and compute several branches where one
convolution gives the same sum: Apple's cards say to fold first. Vectors stay the same but for rounding, and are made
faster. Training needs the branches, so that only who embeds folds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from twinlens.models.encoders.base import LoadedEncoders

WAYS = ("fuse", "reparameterize", "switch_to_deploy")  # by which blocks of timm say that they can


def fold_blocks(loaded: LoadedEncoders) -> LoadedEncoders:
    """Fold the blocks of a tower's model, in place, where it has such blocks; `folded` says whether it had.

    The sums are made in float32, and brought back to the model's own precision.
    """
    model = getattr(loaded.image, "model", None)
    if not isinstance(model, torch.nn.Module) or not any(_can_fold(module) for module in model.modules()):
        return loaded
    from timm.utils import reparameterize_model

    first = next(model.parameters())
    device, dtype = first.device, first.dtype
    with torch.no_grad():
        reparameterize_model(model.float(), inplace=True)
    model.to(device, dtype).eval()
    return replace(loaded, folded=True)


def _can_fold(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith("timm.") and any(hasattr(module, way) for way in WAYS)
