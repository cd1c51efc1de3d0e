"""Pictures as a library's own processor makes them: at their own size or shape, beside words where a model reads both.

Models whose pixels have one size are fed by `images.transforms`, which is faster. What keeps a picture's shape (NaFlex,
Qwen-VL, Gemma, Idefics) makes as many tokens as the picture has room for: its own processor is asked, once for each
picture, and pictures that make as many go together, so that little is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
import torch
from jaxtyping import Int64
from PIL import Image

Features = dict[str, Any]  # of a batch, by the names that the model's own code gives them
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Shown:
    """A picture, and the words that are read together with it, if any."""

    picture: Image.Image
    text: str | None = None


@dataclass(frozen=True)
class NativeBatch:
    """A batch as a processor has read it; a part of it is read anew, as its padding is another."""

    shown: Sequence[Shown]
    features: Features | None

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, some: slice) -> NativeBatch:
        part = self.shown[some]
        return self if len(part) == len(self.shown) else NativeBatch(part, None)


def decode_shown(jpegs: Sequence[bytes], texts: Sequence[str] | None) -> list[Shown]:
    """Decode the JPEG bytes of shards to pictures, each with its text where there are such."""
    pictures = [Image.fromarray(simplejpeg.decode_jpeg(jpeg, colorspace="RGB")) for jpeg in jpegs]
    if texts is None:
        return [Shown(picture) for picture in pictures]
    return [Shown(*pair) for pair in zip(pictures, texts, strict=True)]


def read_size(jpeg: bytes) -> Size:
    """Read height and width from a JPEG's header."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    return int(height), int(width)


def count_picture_tokens(processor: Any, sizes: Sequence[Size]) -> Int64[np.ndarray, " pictures"]:
    """Count the tokens that a processor makes of pictures; the number of their pixels where it does not say.

    Only their order matters: it decides which pictures go together.
    """
    ask: Callable[..., Any] | None = getattr(processor, "_get_num_multimodal_tokens", None)
    if ask is not None:
        try:
            told = ask(image_sizes=[list(size) for size in sizes])
            return np.asarray(told["num_image_tokens"], dtype=np.int64)
        except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
            pass  # what its processors do not offer to serving engines
    return np.array([height * width for height, width in sizes], dtype=np.int64)


def find_fewest_pixels(processor: Any) -> int:
    """Find how many pixels a processor enlarges a picture to, at least; 0 where it does not say."""
    processor = getattr(processor, "image_processor", processor)
    size = dict(getattr(processor, "size", None) or {})
    if (patches := getattr(processor, "max_num_patches", None)) is not None:  # NaFlex: as many as there is room for
        return int(patches) * int(processor.patch_size) ** 2
    if getattr(processor, "merge_size", None) is not None and {"shortest_edge", "longest_edge"} <= size.keys():
        return int(size["shortest_edge"])  # Qwen-VL's name for the least number of pixels
    return 0


def measure_padding(counts: Int64[np.ndarray, " pictures"], batch: int) -> float:
    """Measure the share of padding in batches of pictures in this order, each as long as its longest."""
    parts = [counts[at : at + batch] for at in range(0, len(counts), batch)]
    padded = sum(len(part) * int(part.max()) for part in parts)
    return 1.0 - float(counts.sum()) / max(1, padded)


def move_features(features: Features, device: torch.device, dtype: torch.dtype) -> Features:
    """Move features to a device; pixels take the model's dtype."""
    moved = {}
    for name, value in features.items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)
        else:
            moved[name] = value
    return moved
