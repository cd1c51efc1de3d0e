"""Token vectors of a batch, as a model gives them: as many for each input as the longest has, some of which count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Float32

from twinlens.models.encoders.base import NativeEncoder, TextEncoder
from twinlens.models.native import NativeBatch


@dataclass(frozen=True)
class TokenBatch:
    """Token vectors of some inputs, on the device where they were computed: nobody has waited for them yet.

    Attributes:
        vectors: of all tokens, padding included.
        kept: which of them belong to the input's matrix.
    """

    vectors: Float[torch.Tensor, "inputs tokens dim"]
    kept: Bool[torch.Tensor, "inputs tokens"]

    def pool(self) -> Float32[torch.Tensor, "inputs dim"]:
        """The mean of each input's token vectors."""
        weights = self.kept[..., None].float()
        return (self.vectors.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


class TokenTextEncoder(TextEncoder, Protocol):
    """A text tower that can give a vector for each token too."""

    def encode_tokens(self, texts: Sequence[str]) -> TokenBatch:
        """Token vectors of a batch."""
        ...


class TokenPictureEncoder(NativeEncoder, Protocol):
    """An image tower that can give a vector for each token too."""

    def encode_tokens(self, batch: NativeBatch) -> TokenBatch:
        """Token vectors of a batch."""
        ...
