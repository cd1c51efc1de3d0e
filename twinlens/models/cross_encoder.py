"""sentence-transformers cross-encoders: a text and a picture are read together, and what comes out is one score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL.Image import Image
from sentence_transformers import CrossEncoder

from twinlens.config.models import CrossEncoderCard
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, ParamsError
from twinlens.models.locations.sentence_transformers import FILES, WEIGHTS
from twinlens.models.state_dicts import allow_harmless_types, collect_reports
from twinlens.models.weights import UNREADABLE, fetch_hub_weights, find_local_checkpoint, give_reason, refuse_gaps


def locate(card: CrossEncoderCard) -> Path:
    """Locate the model's folder.

    Raises:
        FetchError: it cannot be had.
    """
    local = find_local_checkpoint(card)
    return local if local is not None else fetch_hub_weights(card.cross_encoder, card.revision, WEIGHTS, FILES)


class PairScorer:
    """Scores of texts with pictures by a cross-encoder."""

    def __init__(self, card: CrossEncoderCard, path: Path, placement: Placement) -> None:
        """Load the model.

        Raises:
            DataError: the folder does not hold such a model.
            ParamsError: it reads no pictures.
        """
        try:
            with allow_harmless_types(), collect_reports() as reports:
                self.model = CrossEncoder(str(path), device=str(placement.device), local_files_only=True)
        except (*UNREADABLE, ImportError, TypeError) as error:
            raise DataError(f"{path} does not hold a cross-encoder: {give_reason(error)}") from None
        for inner, report in reports:
            refuse_gaps(inner, report, path)
        if not (self.model.supports("image") or self.model.supports("message")):
            raise ParamsError(f"{card.cross_encoder} reads no pictures: name a reranker that does")
        self.model = self.model.to(placement.dtype).eval()
        self.prompt = card.prompt

    def score(self, pairs: Sequence[tuple[str, Image]]) -> Float32[np.ndarray, " pairs"]:
        """Score a batch; raw, as a sigmoid would make equals of the best."""
        asked: list[Any] = [({"text": text}, {"image": picture}) for text, picture in pairs]
        found = self.model.predict(
            asked,
            prompt=self.prompt,
            batch_size=len(asked),
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(found, dtype=np.float32).reshape(len(asked))
