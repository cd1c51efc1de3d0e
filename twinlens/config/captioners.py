"""Cards of captioners: models that say in words what a picture shows."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from twinlens.config.architectures import refuse_impossible_blip, refuse_missing
from twinlens.config.base import Weights
from twinlens.config.endpoints import Address, KeyVariable, RequestSettings
from twinlens.config.numbers import Count, Positive, PositiveOrZero, Side
from twinlens.config.training import CaptioningRecipe

OF_A_SERVICE = (
    "url",
    "model",
    "key",
    "extra",
    "input_price",
    "output_price",
    "max_cost",
    "requests",
)
PROMPTED = ("transformers", "endpoint")  # kinds that are told in words what to write


class CaptionerCard(Weights):
    """An image-to-text model of transformers, or a service, and how its words are searched for."""

    captioner: Literal["none", "blip", "blip2", "git", "transformers", "endpoint"]
    hub: str | None = None
    architecture: dict[str, Any] | None = None  # of a small model of your own: text_config, vision_config
    train: CaptioningRecipe | None = None
    max_new_tokens: Count = 20
    num_beams: Count = 1
    # of `captioner: transformers`, any of its image-text-to-text models, and of `captioner: endpoint`
    prompt: str | None = None  # or a task's token, such as <CAPTION>
    system: str | None = None
    max_side_px: Side | None = None  # of `transformers`: larger pictures are shrunk to it before the processor
    # of `captioner: endpoint`, an OpenAI-compatible service
    url: Address | None = None  # with or without a slash or /v1 at its end
    model: str | None = None  # as the service knows it
    key: KeyVariable | None = None  # the environment variable that holds the key
    extra: dict[str, Any] | None = None  # more of the request's body; null takes a key out
    input_price: PositiveOrZero | None = None  # of a million tokens
    output_price: PositiveOrZero | None = None
    max_cost: Positive | None = None  # in the same money: no request that may pass it is sent
    requests: RequestSettings | None = None

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
        if self.captioner in ("none", "endpoint"):
            if any(sources):
                raise ValueError(f"`captioner: {self.captioner}` has no `hub`, `checkpoint` or `architecture`")
        elif not any(sources):
            raise ValueError("name a source: `hub`, `checkpoint`, or `architecture` with `train`")
        return self

    @model_validator(mode="after")
    def _services_have_an_address(self) -> Self:
        given = [name for name in OF_A_SERVICE if getattr(self, name) is not None]
        if self.captioner != "endpoint":
            if given:
                raise ValueError(f"`{given[0]}` goes with `captioner: endpoint`, and only with it")
            return self
        if missing := [name for name in ("url", "model") if name not in given]:
            raise ValueError(f"`captioner: endpoint` needs `{missing[0]}`")
        if self.max_cost is not None and (self.input_price is None or self.output_price is None):
            raise ValueError("`max_cost` cannot be kept without `input_price` and `output_price`, of a million tokens")
        return self

    @model_validator(mode="after")
    def _prompts_go_to_who_reads_them(self) -> Self:
        if self.captioner not in PROMPTED:
            if given := [name for name in ("prompt", "system") if getattr(self, name) is not None]:
                raise ValueError(f"`{given[0]}` goes with `captioner: transformers` or `endpoint`, and only with them")
        elif not (self.prompt or "").strip():
            raise ValueError(f"`captioner: {self.captioner}` needs `prompt`")
        if self.max_side_px is not None and self.captioner != "transformers":
            raise ValueError("`max_side_px` goes with `captioner: transformers`, and only with it")
        return self
