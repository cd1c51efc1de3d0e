"""The settings of a transformers image processor, for encoders and captioners alike."""

from __future__ import annotations

from typing import Any

from twinlens.errors import DataError
from twinlens.pixels import PixelSpec


def pixel_spec(processor: Any) -> PixelSpec:
    """An image processor's settings as ours.

    Raises:
        DataError: it does something that is not known here.
    """
    size = dict(processor.size)
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    resample = getattr(processor, "resample", None)
    if resample not in (None, 2, 3):  # PIL's bilinear and bicubic
        raise DataError(f"the image processor resamples by method {resample}; 2 (bilinear) and 3 (bicubic) are known")
    plain = not getattr(processor, "do_normalize", True)  # samples from 0 to 1, as they are
    common: dict[str, Any] = {
        "mean": (0.0, 0.0, 0.0) if plain else tuple(processor.image_mean),
        "std": (1.0, 1.0, 1.0) if plain else tuple(processor.image_std),
        "interpolation": "bilinear" if resample == 2 else "bicubic",
    }
    if "shortest_edge" in size:
        crop = crop or {"height": size["shortest_edge"], "width": size["shortest_edge"]}
        return PixelSpec(crop["height"], crop["width"], "shortest", resize_px=size["shortest_edge"], **common)
    if "height" in size and "width" in size:
        return PixelSpec(size["height"], size["width"], "squash", **common)
    raise DataError(f"the image processor's size is {size}; shortest_edge, or height and width, are known")
