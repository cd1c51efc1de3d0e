"""The settings of the transformers image processors as ours: the same picture within a grey level, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageDraw
from transformers import (
    AutoImageProcessor,
    BlipImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    EfficientNetImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
)

from tests.tiny import photo
from twinlens.core.errors import DataError
from twinlens.images.transforms import PixelSpec, decode_and_fit, to_tensor
from twinlens.models.image_processor import read_pixel_spec

SHAPES = [(640, 480), (375, 500), (300, 300), (90, 132), (511, 303)]  # the fourth is enlarged
PROCESSORS = {
    "clip": CLIPImageProcessor(),
    "clip, another size": CLIPImageProcessor(size={"shortest_edge": 96}, crop_size={"height": 80, "width": 80}),
    "clip, a crop that is no square": CLIPImageProcessor(
        size={"shortest_edge": 96}, crop_size={"height": 64, "width": 80}
    ),
    "clip, bilinear": CLIPImageProcessor(resample=2),
    "siglip": SiglipImageProcessor(),
    "siglip, no square": SiglipImageProcessor(size={"height": 96, "width": 160}),
    "blip": BlipImageProcessor(),
    "vit": ViTImageProcessor(),
    "vit, not normalised": ViTImageProcessor(do_normalize=False),
    "deit, as published": DeiTImageProcessor(
        size={"height": 256, "width": 256}, crop_size={"height": 224, "width": 224}
    ),
    "deit, no square": DeiTImageProcessor(size={"height": 128, "width": 192}, crop_size={"height": 96, "width": 144}),
    "deit, squashed only": DeiTImageProcessor(size={"height": 96, "width": 96}, do_center_crop=False),
}


def scene(width: int, height: int) -> bytes:
    """A JPEG of soft ground with hard edges on it, and the grain of a camera."""
    image = Image.fromarray(photo(width, width, height))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 5, height // 5, width // 2, height // 2), fill=(230, 40, 30))
    draw.line((0, height, width, height // 3), fill=(10, 10, 10), width=3)
    draw.rectangle((width // 2, height // 2, width - 8, height - 5), outline=(250, 250, 240), width=2)
    grain = np.random.default_rng(0).normal(0, 3, (height, width, 3))
    pixels = (np.array(image) + grain).clip(0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling="420")


def theirs(processor: Any, jpeg: bytes, spec: PixelSpec) -> torch.Tensor:
    """What the processor makes of the picture, in grey levels."""
    decoded = to_tensor(simplejpeg.decode_jpeg(jpeg, colorspace="RGB"))
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    found: torch.Tensor = (processor(decoded, return_tensors="pt").pixel_values[0] * std + mean) * 255
    return found


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_a_picture_is_the_processors_own_within_a_grey_level(name: str, width: int, height: int) -> None:
    jpeg, spec = scene(width, height), read_pixel_spec(PROCESSORS[name])
    wanted, found = theirs(PROCESSORS[name], jpeg, spec), decode_and_fit(jpeg, spec)
    assert found.shape == wanted.shape == (3, spec.height, spec.width)
    assert (found - wanted).abs().max() < 1.01
    assert wanted.std() > 20  # there is something to see


def test_what_a_processor_looks_like_decides_what_is_read() -> None:
    """The settings matter: taken from one another, they give clearly other pictures."""
    jpeg = scene(640, 480)
    square = {
        name: spec for name in PROCESSORS if (spec := read_pixel_spec(PROCESSORS[name])).height == spec.width == 224
    }
    found = {name: decode_and_fit(jpeg, spec).float() for name, spec in square.items()}
    assert (found["clip"] - found["vit"]).abs().mean() > 5  # cropped, squashed
    assert (found["clip"] - found["clip, bilinear"]).abs().max() > 5
    assert (found["deit, as published"] - found["vit"]).abs().mean() > 5


def test_mean_and_deviation_are_the_processors() -> None:
    processor = CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    spec = read_pixel_spec(processor)
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    plain = read_pixel_spec(ViTImageProcessor(do_normalize=False, image_mean=[0.1] * 3))
    assert (plain.mean, plain.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("name", ["clip, bilinear", "siglip, no square", "deit, as published"])
def test_a_processor_is_the_same_after_it_was_saved(name: str, tmp_path: Path) -> None:
    PROCESSORS[name].save_pretrained(tmp_path)
    assert read_pixel_spec(AutoImageProcessor.from_pretrained(tmp_path)) == read_pixel_spec(PROCESSORS[name])


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", [0, 1, 4, 5])
def test_a_way_of_resizing_that_is_not_known_here_is_refused(method: int) -> None:
    with pytest.raises(DataError, match=f"resamples by method {method}; 2 .bilinear. and 3 .bicubic. are known"):
        read_pixel_spec(CLIPImageProcessor(resample=method))


def test_a_size_that_is_not_known_here_is_refused() -> None:
    with pytest.raises(DataError, match=r"size is .*longest_edge.*; shortest_edge, or height and width, are known"):
        read_pixel_spec(SiglipImageProcessor(size={"longest_edge": 224}))


@pytest.mark.parametrize("size", [{"shortest_edge": 224, "longest_edge": 300}, None])
def test_a_size_with_a_limit_or_of_no_kind_is_refused(size: dict[str, int] | None) -> None:
    processor = CLIPImageProcessor(size=size or {"shortest_edge": 224})
    if size is None:
        processor.size = None  # as that of SigLIP 2's flexible models
    with pytest.raises(DataError, match="shortest_edge, or height and width, are known"):
        read_pixel_spec(processor)


def test_a_crop_of_another_shape_than_what_it_is_cut_from_is_refused() -> None:
    processor = DeiTImageProcessor(size={"height": 128, "width": 192}, crop_size={"height": 96, "width": 96})
    with pytest.raises(DataError, match=r"squashes to .*128.* and crops to .*96.*, a different shape"):
        read_pixel_spec(processor)


@pytest.mark.parametrize(
    ("processor", "named"),
    [
        (CLIPImageProcessor(do_resize=False), "do_resize: False"),
        (ViTImageProcessor(do_rescale=False), "do_rescale: False"),
        (ViTImageProcessor(rescale_factor=1 / 127.5), "rescale_factor: 0.0078"),
        (ViTImageProcessor(do_pad=True), "do_pad: True"),
        (EfficientNetImageProcessor(rescale_offset=True), "rescale_offset: True"),
        (ConvNextImageProcessor(size={"shortest_edge": 224}), "crop_pct: 0.875"),
    ],
)
def test_a_step_that_is_not_known_here_is_refused_by_name(processor: Any, named: str) -> None:
    with pytest.raises(DataError, match=f"settings that are not known here: {named}"):
        read_pixel_spec(processor)


# ---------------------------------------------------------------- a known difference


def test_a_crop_begins_at_the_processors_own_pixel() -> None:
    jpeg, spec = scene(640, 427), read_pixel_spec(PROCESSORS["clip"])  # 335 px wide before the crop: 111 too many
    assert (decode_and_fit(jpeg, spec) - theirs(PROCESSORS["clip"], jpeg, spec)).abs().max() < 1.01
