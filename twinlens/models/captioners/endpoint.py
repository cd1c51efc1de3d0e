"""Services that describe pictures, by the interface of OpenAI's chat completions: vLLM, SGLang, Ollama, paid ones."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from PIL import Image

from twinlens.config.captioners import CaptionerCard
from twinlens.config.endpoints import RequestSettings
from twinlens.core.endpoint import Endpoint, TooLargeError, join_address

LEAST_SIDE_PX = 64  # a picture that is refused as too large is halved until here
QUALITY = 90
USAGE = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Answer:
    """What a service said of a picture."""

    text: str
    model: str  # that answered, by the service's own word
    input_tokens: int | None  # None: it does not say
    output_tokens: int | None
    cut: bool  # at the limit of tokens
    side_px: int | None = None  # the longer side, where the picture was made smaller to be taken


class EndpointCaptioner:
    """A service that describes one picture a request; safe to be used by several threads."""

    def __init__(self, card: CaptionerCard) -> None:
        """Take a card.

        Raises:
            FetchError: the key is not in the environment.
        """
        assert card.url is not None
        self.card = card
        settings = get_settings(card).model_dump(include={"retries", "timeout_s", "concurrency"})
        self._endpoint = Endpoint(join_address(card.url, "chat/completions"), card.key, **settings)

    def describe(self, jpeg: bytes) -> Answer:
        """Describe a picture; one that is refused as too large is made smaller until it is taken.

        Raises:
            FetchError: the service refuses or does not answer.
        """
        side: int | None = None
        while True:
            try:
                return self._endpoint.post(self._body(jpeg), lambda answer: _read(answer, self.card, side))  # noqa: B023
            except TooLargeError:
                jpeg, side = _halve(jpeg)
                if side < LEAST_SIDE_PX:
                    raise

    def _body(self, jpeg: bytes) -> dict[str, Any]:
        picture = {"url": f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"}
        parts = [{"type": "image_url", "image_url": picture}, {"type": "text", "text": self.card.prompt}]
        system = [] if self.card.system is None else [{"role": "system", "content": self.card.system}]
        body: dict[str, Any] = {
            "model": self.card.model,
            "messages": [*system, {"role": "user", "content": parts}],
            "max_tokens": self.card.max_new_tokens,
            "temperature": 0,
        }
        return {name: value for name, value in (body | (self.card.extra or {})).items() if value is not None}


def get_settings(card: CaptionerCard) -> RequestSettings:
    """Get how the service is asked."""
    return card.requests or RequestSettings()


def _read(answer: Any, card: CaptionerCard, side: int | None) -> Answer:
    choice = answer["choices"][0]
    said = choice["message"]["content"]
    if isinstance(said, list):  # in parts
        said = " ".join(part["text"] for part in said if part.get("type") == "text")
    if said is not None and not isinstance(said, str):
        raise ValueError(f"its content is {type(said).__name__}")
    usage = answer.get("usage") or {}
    tokens = [None if usage.get(name) is None else int(usage[name]) for name in USAGE]
    cut = choice.get("finish_reason") == "length"
    return Answer(
        " ".join((said or "").split()), str(answer.get("model") or card.model), tokens[0], tokens[1], cut, side
    )


def _halve(jpeg: bytes) -> tuple[bytes, int]:
    with Image.open(io.BytesIO(jpeg)) as picture:
        whole = picture.convert("RGB")
    side = max(whole.size) // 2
    whole.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    whole.save(out, "JPEG", quality=QUALITY)
    return out.getvalue(), side
