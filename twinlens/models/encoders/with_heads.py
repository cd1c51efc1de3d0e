"""Encoders with heads: towers whose heads are part of them, as encoders like any others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float32, UInt8

from twinlens.core.device import Placement
from twinlens.models.encoders.base import ImageEncoder, LoadedEncoders, NativeEncoder
from twinlens.models.heads import ProjectionHeads
from twinlens.models.native import NativeBatch


def attach_heads(
    loaded: LoadedEncoders, pairs: ProjectionHeads, direction: str, placement: Placement
) -> LoadedEncoders:
    """Attach the heads that serve a direction to towers, so that their vectors are in the heads' space."""
    through = pairs.serving(direction)
    image = None if loaded.image is None else _Image(loaded.image, pairs, through, placement)
    text = None if loaded.text is None else _Text(loaded.text, pairs, through, placement)
    native = None if loaded.native is None else _Native(loaded.native, pairs, through, placement)
    return LoadedEncoders(image, text, native=native)


class _Image:
    def __init__(self, tower: ImageEncoder, pairs: ProjectionHeads, direction: str, placement: Placement) -> None:
        self.tower, self.pairs, self.direction, self.placement = tower, pairs, direction, placement
        self.pixels, self.parameters = tower.pixels, tower.parameters

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Float32[torch.Tensor, "images dim"]:
        rows = self.tower.encode(pictures).cpu().numpy()
        return torch.from_numpy(self.pairs.apply_to(rows, self.direction, "image", self.placement.device))


class _Native:
    def __init__(self, tower: NativeEncoder, pairs: ProjectionHeads, direction: str, placement: Placement) -> None:
        self.tower, self.pairs, self.direction, self.placement = tower, pairs, direction, placement
        self.parameters, self.threads, self.reads_pairs = tower.parameters, tower.threads, False
        self.fewest_pixels = tower.fewest_pixels
        self.count_tokens, self.read = tower.count_tokens, tower.read

    def encode(self, batch: NativeBatch) -> Float32[torch.Tensor, "inputs dim"]:
        rows = self.tower.encode(batch).cpu().numpy()
        return torch.from_numpy(self.pairs.apply_to(rows, self.direction, "image", self.placement.device))


class _Text:
    def __init__(self, tower: Any, pairs: ProjectionHeads, direction: str, placement: Placement) -> None:
        self.tower, self.pairs, self.direction, self.placement = tower, pairs, direction, placement
        self.max_tokens, self.parameters = tower.max_tokens, tower.parameters

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = self.tower.token_counts(texts)
        return counts

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        read = self.tower.lookup if self.pairs.config.text == "lstm" else self.tower.encode
        rows = read(list(texts)).cpu().numpy()
        return torch.from_numpy(self.pairs.apply_to(rows, self.direction, "text", self.placement.device))
