"""The towers that embed queries: those that embedded the index, loaded when the first query needs them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from twinlens import paths
from twinlens.cards import ModelCard
from twinlens.errors import QueryError
from twinlens.indexing.manifest import Manifest
from twinlens.recipes import HeadsRecipe

if TYPE_CHECKING:
    from twinlens.encoders.base import Loaded
    from twinlens.placement import Placement

Vector = Float32[np.ndarray, " dim"]


class Towers:
    """A model as it embeds queries; safe to be used by several threads."""

    def __init__(self, card: ModelCard, manifest: Manifest, device: str, command: str) -> None:
        self.card, self.manifest, self.device, self.command = card, manifest, device, command
        self.lock = Lock()
        self._loaded: dict[str, Loaded] = {}

    @property
    def reads_text(self) -> bool:
        """Whether words can be embedded."""
        return self.card.joint is not None or self.card.text is not None

    @property
    def reads_pictures(self) -> bool:
        """Whether pictures can be embedded."""
        return self.card.joint is not None or self.card.image is not None

    @property
    def joint(self) -> bool:
        """Whether words and pictures share one space."""
        return self.card.shares_a_space

    def text(self, text: str) -> tuple[Vector, list[str]]:
        """The unit vector of a text, and a note where the tower cannot read it to its end."""
        with self.lock:
            import torch

            encoder = self._of("text").text
            assert encoder is not None
            count = encoder.token_counts([text])[0]
            with torch.inference_mode():
                raw = encoder.encode([text]).numpy()
        cut = f"the query is cut: {self.manifest.model} reads {encoder.max_tokens} of its {count} tokens"
        return _unit(raw), [cut] if count > encoder.max_tokens else []

    def picture(self, jpeg: bytes) -> Vector:
        """The unit vector of a picture, from JPEG bytes such as `resize` makes."""
        with self.lock:
            import torch

            from twinlens.pixels import batch_pixels

            encoder = self._of("image").image
            assert encoder is not None
            with torch.inference_mode():
                return _unit(encoder.encode(batch_pixels([jpeg], encoder.pixels)).numpy())

    def load(self, *, text: bool, pictures: bool) -> None:
        """Load what a query of this kind needs, unless it is there."""
        with self.lock:
            for kind, wanted in (("text", text and self.reads_text), ("image", pictures and self.reads_pictures)):
                if wanted:
                    self._of(kind)

    def _of(self, kind: str) -> Loaded:
        role = "joint" if self.card.joint is not None else kind
        if role not in self._loaded:
            from twinlens import encoders
            from twinlens.placement import place

            placement = place(self.device)
            loaded = encoders.load(self.card.towers()[role], self._weights[role], placement)
            if isinstance(self.card.train, HeadsRecipe):
                loaded = self._with_heads(loaded, placement)
            self._loaded[role] = loaded
        return self._loaded[role]

    def _with_heads(self, loaded: Loaded, placement: Placement) -> Loaded:
        from twinlens.encoders.headed import with_heads
        from twinlens.heads import CAPTION_TO_IMAGE, Pairs
        from twinlens.trained import heads_of

        table = getattr(loaded.text, "table", None)  # of words: the text tower's, not the head's
        pairs = Pairs.read(heads_of(paths.trained(self.manifest.dataset, self.manifest.model)), table)
        return with_heads(loaded, pairs, CAPTION_TO_IMAGE, placement)

    @cached_property
    def _weights(self) -> dict[str, Path]:
        from twinlens.trained import weights_identity, weights_of

        dataset, model = self.manifest.dataset, self.manifest.model
        trained = paths.trained(dataset, model)
        if weights_identity(self.card, trained) != self.manifest.weights:
            raise QueryError(
                f"the index of {dataset} was built with other weights of {model} than are here now: "
                f"`{self.command}` builds it anew"
            )
        return {role: weights_of(role, self.card, trained) for role in self.card.towers()}


def _unit(raw: Float32[np.ndarray, "1 dim"]) -> Vector:
    from twinlens.encoders.embed import unit_rows

    return unit_rows(raw, ["the query"])[0]
