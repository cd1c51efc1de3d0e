"""The form of a reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from PIL.Image import Image

Vector = Float32[torch.Tensor, "1 dim"]


@dataclass(frozen=True)
class Reference:
    """A library's own path: a picture, or a text, to its raw vector on the CPU. One at a time: nothing is padded."""

    library: str
    picture: Callable[[Image], Vector] | None
    text: Callable[[str], Vector] | None
