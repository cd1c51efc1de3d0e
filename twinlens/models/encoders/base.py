"""Protocols of encoders.

An encoder is one tower with its weights. Adapters, one per library family, give the raw vectors;
the loops in `embed` make the batches and the unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float32, UInt8

from twinlens.core.device import Placement
from twinlens.images.transforms import PixelSpec


class ImageEncoder(Protocol):
    """An image tower."""

    pixels: PixelSpec
    parameters: int

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Float32[torch.Tensor, "images dim"]:
        """Raw vectors of a batch, on the CPU."""
        ...


class TextEncoder(Protocol):
    """A text tower."""

    max_tokens: int
    parameters: int

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before anything is cut off, special ones included; 0 where it knows no word of it."""
        ...

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        """Raw vectors of a batch, on the CPU; texts over `max_tokens` are cut."""
        ...


class PictureFileEncoder(Protocol):
    """An image tower that reads files rather than pixels, as services do."""

    def encode_files(self, jpegs: Sequence[bytes]) -> Float32[torch.Tensor, "images dim"]:
        """Raw vectors of a batch, on the CPU."""
        ...


@dataclass(frozen=True)
class LoadedEncoders:
    """The loaded encoders of a tower, those that were asked for; a joint model is loaded once."""

    image: ImageEncoder | None
    text: TextEncoder | None
    files: PictureFileEncoder | None = None


def normalise_pixels(
    pictures: UInt8[torch.Tensor, "images 3 height width"], spec: PixelSpec, placement: Placement
) -> torch.Tensor:
    """Normalise pixels as a model reads them: on its device, in its dtype, mean and standard deviation applied."""
    pixels = pictures.to(placement.device, non_blocking=True).to(torch.float32)
    mean = torch.tensor(spec.mean, device=placement.device)[:, None, None] * 255.0
    std = torch.tensor(spec.std, device=placement.device)[:, None, None] * 255.0
    return ((pixels - mean) / std).to(placement.dtype)


def count_parameters(*modules: torch.nn.Module) -> int:
    """Count the parameters of some modules, shared ones once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())
