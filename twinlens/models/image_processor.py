"""The settings of a transformers image processor, for encoders and captioners alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.images.transforms import PixelSpec, fit_picture, to_tensor
from twinlens.models.encoders.base import normalise_pixels

APART = 2.0  # of 255: two ways of resizing one smooth picture differ by less than 1, another crop by more than 5
PLAIN = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_offset": False,
    "do_pad": False,
    "crop_pct": None,
    "do_flip_channel_order": False,
    "include_top": False,
}


def read_pixel_spec(processor: Any) -> PixelSpec:
    """Convert an image processor's settings to a pixel specification.

    Raises:
        DataError: it does something that is not known here.
    """
    _refuse_unknown_steps(processor)
    size = dict(processor.size or {})
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    resample = getattr(processor, "resample", None)
    if resample not in (None, 2, 3):  # PIL's bilinear and bicubic
        raise DataError(f"the image processor resamples by method {resample}; 2 (bilinear) and 3 (bicubic) are known")
    plain = not getattr(processor, "do_normalize", True)  # samples from 0 to 1, as they are
    common: dict[str, Any] = {
        "mean": (0.0, 0.0, 0.0) if plain else tuple(processor.image_mean),
        "std": (1.0, 1.0, 1.0) if plain else tuple(processor.image_std),
        "interpolation": "bilinear" if resample == 2 else "bicubic",
        "crop_rounds_down": True,
    }
    if set(size) == {"shortest_edge"}:
        crop = crop or {"height": size["shortest_edge"], "width": size["shortest_edge"]}
        return PixelSpec(crop["height"], crop["width"], "shortest", resize_px=size["shortest_edge"], **common)
    if set(size) == {"height", "width"}:
        crop = crop or size
        if crop["height"] * size["width"] != crop["width"] * size["height"]:
            raise DataError(f"the image processor squashes to {size} and crops to {crop}, a different shape")
        return PixelSpec(crop["height"], crop["width"], "squash", resize_px=size["height"], **common)
    raise DataError(f"the image processor's size is {size}; shortest_edge, or height and width, are known")


def _refuse_unknown_steps(processor: Any) -> None:
    odd = {name: getattr(processor, name, None) for name in PLAIN}
    named = [f"{name}: {value}" for name, value in odd.items() if value not in (None, PLAIN[name])]
    factor = getattr(processor, "rescale_factor", None) or 1 / 255
    if abs(factor * 255 - 1) > 1e-5:
        named.append(f"rescale_factor: {factor}")
    if named:
        raise DataError(f"the image processor has settings that are not known here: {', '.join(named)}")


def refuse_other_pixels(processor: Any, pixels: PixelSpec, path: Path) -> None:
    """Refuse an image processor that makes something else of a smooth picture than we do from its settings.

    Some do more than their settings say: resize to more than `size`, swap the colours, normalise twice.

    Raises:
        DataError: it does.
    """
    y, x = np.mgrid[0:360, 0:480]
    smooth = np.stack([x * 255 / 479, y * 255 / 359, (x + y) * 255 / 838], axis=2).astype(np.uint8)
    theirs = torch.as_tensor(processor(images=Image.fromarray(smooth), return_tensors="pt")["pixel_values"])[0]
    cpu = Placement(torch.device("cpu"), torch.float32)
    ours = normalise_pixels(fit_picture(to_tensor(smooth), pixels)[None], pixels, cpu)[0]
    kind = type(processor).__name__
    if theirs.shape != ours.shape:
        found = f"makes {' x '.join(map(str, theirs.shape[1:]))} pixels where its settings say"
        raise DataError(f"{path}: its {kind} {found} {' x '.join(map(str, ours.shape[1:]))}: not known here")
    apart = float(((theirs - ours).abs() * torch.tensor(pixels.std)[:, None, None] * 255).mean())
    if not apart <= APART:
        raise DataError(
            f"{path}: its {kind} makes other pixels of a test picture than its settings say (apart by {apart:.1f} of "
            f"255, at most {APART:g} is taken): not known here; take timm's copy of the model"
        )
