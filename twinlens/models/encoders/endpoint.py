"""Services that embed, by the interfaces of OpenAI, Cohere, Voyage, Jina and vLLM.

| `api` | texts | pictures |
|---|---|---|
| `openai` | `/v1/embeddings` | no |
| `cohere` | `/v2/embed` | as data URIs; its models of today take one a request |
| `voyage` | `/v1/embeddings`; multimodal models `/v1/multimodalembeddings` | the latter |
| `jina` | `/v1/embeddings` | the same, in base64 |
| `vllm` | `/v1/embeddings` | the same with a chat message, one a request |
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32

from twinlens.config.models import EndpointTower
from twinlens.core.endpoint import Endpoint, join_address, read_rows
from twinlens.models.encoders.base import LoadedEncoders

if TYPE_CHECKING:
    from twinlens.core.device import Placement

NO_LIMIT = 2**31  # of tokens: where a service cuts, it does not say


@dataclass(frozen=True)
class Embedded:
    """An answer: vectors, and the tokens that the service counted (0 where it does not say)."""

    rows: Float32[np.ndarray, "inputs dim"]
    tokens: int


def locate(card: EndpointTower) -> Path:
    """Give the service's address as a path: it has no weights, and nothing is opened there."""
    return Path(card.endpoint)


def identify(card: EndpointTower, path: Path) -> dict[str, Any]:
    """Identify the model as far as can be: by the name that the service knows it by."""
    return {"endpoint": card.model}


def load(card: EndpointTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Make encoders of single queries, which ask the service.

    Raises:
        FetchError: the key is not in the environment.
    """
    client = Client(card)
    return LoadedEncoders(None, _Text(client), _Files(client) if card.reads_pictures else None)


class Client:
    """A service, asked for vectors of texts and of pictures."""

    def __init__(self, card: EndpointTower) -> None:
        """Take a card.

        Raises:
            FetchError: the key is not in the environment.
        """
        self.card = card
        settings: dict[str, Any] = card.requests.model_dump(include={"retries", "timeout_s", "concurrency"})
        self._endpoint = Endpoint(self._address(), card.key, **settings)

    def embed_texts(self, texts: Sequence[str]) -> Embedded:
        """Embed some texts by one request.

        Raises:
            FetchError: the service refuses or does not answer.
            DataError: the vectors are not all as long.
        """
        asked = [self.card.prompt + text for text in texts]
        body: dict[str, Any] = {"model": self.card.model}
        typed = {} if self.card.input_type is None else {"input_type": self.card.input_type}
        if self.card.api == "cohere":
            body |= {"texts": asked, "embedding_types": ["float"], "input_type": self.card.input_type or "search_query"}
            body |= self._size("output_dimension")
        elif self._multimodal:
            content = [{"content": [{"type": "text", "text": text}]} for text in asked]
            body |= {"inputs": content} | typed | self._size("output_dimension")
        elif self.card.api == "voyage":
            body |= {"input": asked} | typed | self._size("output_dimension")
        elif self.card.api == "jina":
            task = {} if self.card.input_type is None else {"task": self.card.input_type}
            body |= {"input": [{"text": text} for text in asked]} | task | self._size("dimensions")
        else:
            body |= {"input": asked, "encoding_format": "float"} | self._size("dimensions")
        return self._endpoint.post(body, lambda answer: self._read(answer, len(asked)))

    def embed_pictures(self, jpegs: Sequence[bytes]) -> Embedded:
        """Embed some pictures by one request; raises as `embed_texts` does."""
        encoded = [b64encode(jpeg).decode() for jpeg in jpegs]
        uris = [f"data:image/jpeg;base64,{one}" for one in encoded]
        body: dict[str, Any] = {"model": self.card.model}
        if self.card.api == "cohere":
            body |= {"images": uris, "embedding_types": ["float"], "input_type": "image"}
            body |= self._size("output_dimension")
        elif self.card.api == "voyage":
            content = [{"content": [{"type": "image_base64", "image_base64": uri}]} for uri in uris]
            body |= {"inputs": content} | self._size("output_dimension")
        elif self.card.api == "jina":
            body |= {"input": [{"image": one} for one in encoded]} | self._size("dimensions")
        else:
            parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
            body |= {"messages": [{"role": "user", "content": parts}], "encoding_format": "float"}
            body |= self._size("dimensions")
        return self._endpoint.post(body, lambda answer: self._read(answer, len(uris)))

    @property
    def _multimodal(self) -> bool:
        return self.card.api == "voyage" and self.card.reads_pictures

    def _address(self) -> str:
        if self.card.api == "cohere":
            return join_address(self.card.endpoint, "embed", "v2")
        return join_address(self.card.endpoint, "multimodalembeddings" if self._multimodal else "embeddings")

    def _size(self, key: str) -> dict[str, int]:
        return {} if self.card.dimensions is None else {key: self.card.dimensions}

    def _read(self, answer: Any, count: int) -> Embedded:
        if self.card.api == "cohere":
            listed = answer["embeddings"]["float"]
            billed = (answer.get("meta") or {}).get("billed_units") or {}
            tokens = billed.get("input_tokens") or billed.get("images") or 0
        else:
            data = answer["data"]
            places = [one.get("index", place) for place, one in enumerate(data)]
            if sorted(places) != list(range(len(data))):
                raise ValueError(f"vectors for inputs {places[:5]}... of {count}")
            listed = [data[places.index(place)]["embedding"] for place in range(len(data))]
            usage = answer.get("usage") or {}
            tokens = usage.get("total_tokens") or usage.get("prompt_tokens") or 0
        return Embedded(np.array(read_rows(listed, count), dtype=np.float32), int(tokens))


class _Text:
    max_tokens, parameters = NO_LIMIT, 0

    def __init__(self, client: Client) -> None:
        self.client = client

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [max(1, len(text.split())) for text in texts]  # only whether there is anything to read

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        return torch.from_numpy(self.client.embed_texts(texts).rows)


class _Files:
    def __init__(self, client: Client) -> None:
        self.client = client

    def encode_files(self, jpegs: Sequence[bytes]) -> Float32[torch.Tensor, "images dim"]:
        return torch.from_numpy(self.client.embed_pictures(jpegs).rows)
