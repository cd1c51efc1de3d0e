"""timm image models: pooled features without the classifier, in eval mode, with the model's own transform."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from jaxtyping import Float32, UInt8

from twinlens.config.models import TimmTower
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, ParamsError
from twinlens.images.transforms import PixelSpec
from twinlens.models.construction import fill_parameters, leave_parameters_empty
from twinlens.models.encoders.base import LoadedEncoders, count_parameters, normalise_pixels
from twinlens.models.state_dicts import load_state, read_state, rename_to_fit
from twinlens.models.weights import UNREADABLE, give_reason

ARRAYS = (".npz", ".npy")  # of JAX: code of each architecture copies what it finds, and need not find all


def load(card: TimmTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Load the image tower.

    Raises:
        ParamsError: timm does not take the card's `kwargs`, or its transform has no such key.
        DataError: the weights do not fit the architecture.
    """
    model, pixels = build(card, None if random_weights else path, placement.device)
    model.reset_classifier(0)
    return LoadedEncoders(_Image(model.eval().to(placement.device, placement.dtype), pixels, placement), None)


def build(card: TimmTower, path: Path | None, device: torch.device) -> tuple[Any, PixelSpec]:
    """Build the whole model, its classifier included, and the specification of the pixels it reads.

    Args:
        card: the tower.
        path: its weights; random ones without.
        device: where its weights are loaded to.

    Raises:
        ParamsError: timm does not take the card's `kwargs`, or its transform has no such key.
        DataError: the weights do not fit the architecture.
    """
    whole = path is not None and path.suffix.lower() not in ARRAYS  # a file that has to hold every parameter
    try:
        with leave_parameters_empty() if whole else nullcontext():
            model = timm.create_model(card.timm, pretrained=False, **card.kwargs)
    except (RuntimeError, TypeError) as error:
        raise ParamsError(f"timm cannot build '{card.timm}' with kwargs {card.kwargs}: {error}") from None
    if whole:
        fill_parameters(model, device)
    if path is not None:
        _load_weights(card, model, path)
    config = timm.data.resolve_model_data_config(model)
    if unknown := set(card.preprocess) - set(config):
        raise ParamsError(f"preprocess: no such key: {', '.join(sorted(unknown))}; known: {', '.join(sorted(config))}")
    return model, read_pixel_spec(config | card.preprocess)


def _load_weights(card: TimmTower, model: Any, path: Path) -> None:
    what = f"timm's {card.timm}"
    if path.suffix.lower() in ARRAYS:  # of JAX, which each architecture reads by code of its own
        try:
            timm.models.load_checkpoint(model, str(path))
        except UNREADABLE as error:
            raise DataError(f"{path} does not hold the weights of {what}: {give_reason(error)}") from None
        return
    state = rename_to_fit(read_state(path, what), model.state_dict())
    classifier = model.default_cfg.get("classifier")
    for name in [classifier] if isinstance(classifier, str) else []:
        found, wanted = state.get(f"{name}.weight"), model.state_dict().get(f"{name}.weight")
        if found is not None and wanted is not None and found.shape[0] != wanted.shape[0]:
            raise DataError(
                f"{path} does not hold the weights of {what}: it tells {len(found):,} classes apart, the model "
                f"{len(wanted):,}; write `kwargs: {{num_classes: {len(found)}}}` on the card"
            )
    load_state(model, state, what, path)


def read_pixel_spec(config: dict[str, Any]) -> PixelSpec:
    """Convert timm's data configuration (evaluation of `timm.data.create_transform`) to a pixel specification."""
    _, height, width = config["input_size"]
    if config.get("crop_mode") not in (None, "center", "squash"):
        raise ParamsError(f"timm's crop_mode '{config['crop_mode']}' is not known here; center and squash are")
    squash = config.get("crop_mode") == "squash"
    if height != width and not squash:
        raise ParamsError(f"a model that reads {width} x {height} px needs `crop_mode: squash` under `preprocess`")
    return PixelSpec(
        height=height,
        width=width,
        mode="squash" if squash else "shortest",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        # a picture is scaled to size / crop_pct, rounded down, and its middle is kept
        resize_px=math.floor(height / config["crop_pct"]),  # not //: 288 // 0.9 is 319
    )


class _Image:
    def __init__(self, model: Any, pixels: PixelSpec, placement: Placement) -> None:
        # On this layout convolutions are up to half as fast again; transformers are as fast as before.
        self.model = model.to(memory_format=torch.channels_last)
        self.pixels, self.placement = pixels, placement
        self.parameters = count_parameters(model)

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Float32[torch.Tensor, "images dim"]:
        pixels = normalise_pixels(pictures, self.pixels, self.placement)
        vectors: torch.Tensor = self.model(pixels.contiguous(memory_format=torch.channels_last))
        return vectors.float()
