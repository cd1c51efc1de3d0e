"""Cards of captioners: models that say in words what a picture shows."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from twinlens.config.architectures import refuse_impossible_blip, refuse_missing
from twinlens.config.models import Weights
from twinlens.config.numbers import Count
from twinlens.config.training import CaptioningRecipe


class CaptionerCard(Weights):
    """An image-to-text model of transformers, and how its words are searched for."""

    captioner: Literal["none", "blip", "blip2", "git"]
    hub: str | None = None
    architecture: dict[str, Any] | None = None  # of a small model of your own: text_config, vision_config
    train: CaptioningRecipe | None = None
    max_new_tokens: Count = 20
    num_beams: Count = 1

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [self.hub is not None, self.checkpoint is not None, self.architecture is not None]
        if self.architecture is not None and self.train is None:
            raise ValueError("an `architecture` without `train` has no weights")
        if self.train is not None and (self.captioner != "blip" or self.architecture is None):
            raise ValueError("only a `blip` with an `architecture` of its own is trained here")
        refuse_missing(self.architecture, "text_config.max_position_embeddings", "vision_config.image_size")
        refuse_impossible_blip(self.architecture)
        if self.architecture and self.max_new_tokens >= self.architecture["text_config"]["max_position_embeddings"]:
            raise ValueError("`max_new_tokens` has to be less than the architecture's `max_position_embeddings`")
        if self.captioner == "none":
            if any(sources):
                raise ValueError("`captioner: none` has no source")
        elif not any(sources):
            raise ValueError("name a source: `hub`, `checkpoint`, or `architecture` with `train`")
        return self
