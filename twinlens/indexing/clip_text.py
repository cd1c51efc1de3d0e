"""The text tower of a small CLIP in numpy: a query is embedded before torch would have been imported.

Importing torch and open_clip takes six seconds of a processor, embedding a query by a small tower a
millisecond. Only the plainest of open_clip's text towers is read (causal, pre-norm, pooled at the end token, a
tokenizer of its own in the folder), the kind that `train` leaves; `load` says `None` of any other,
and open_clip embeds for it. Vectors equal open_clip's to float32's last digits.
"""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg"}
TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "hf_tokenizer_name"}  # all needed
TOKENIZER_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")  # that read tokenizer.json and add nothing
EPSILON = 1e-5  # of torch's LayerNorm

Rows = Float32[np.ndarray, "tokens width"]
# Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.26: off by at most 1.5e-7. numpy has no erf, importing
# scipy's takes 0.4 s, and Python's of one number after the other half of the time of a query's embedding.
ERF_SCALE, ERF_TERMS = 0.3275911, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


class ClipText:
    """The tower, in memory."""

    def __init__(self, weights: dict[str, np.ndarray], heads: int, layers: int, tokenizer: Any) -> None:
        self.weights, self.heads, self.layers, self.tokenizer = weights, heads, layers, tokenizer
        self.max_tokens = len(weights["positional_embedding"])

    def token_count(self, text: str) -> int:
        """Number of tokens of a text before anything is cut off, special ones included."""
        return len(self._tokens(text))

    def unknown(self, text: str) -> list[str]:
        """The words of a text that the tokenizer has no token for, each once, as they stand there."""
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        number = None if unknown is None else self.tokenizer.token_to_id(unknown)
        if number is None:
            return []
        cleaned = _clean(text)
        encoding = self.tokenizer.encode(cleaned)
        places = zip(encoding.ids, encoding.offsets, strict=True)
        # a token that is spelled out in the text is no word that is missing
        words = [cleaned[start:stop] for token, (start, stop) in places if token == number]
        return list(dict.fromkeys(word for word in words if word and word != unknown))

    def encode(self, text: str) -> Float32[np.ndarray, "1 dim"]:
        """The raw vector of a text; what goes beyond `max_tokens` is cut."""
        tokens = self._tokens(text)
        if len(tokens) > self.max_tokens:
            tokens = np.append(tokens[: self.max_tokens - 1], tokens[-1])  # the end token stays
        end = int(tokens.argmax())  # it has the highest number
        tokens = tokens[: end + 1]  # the tower is causal: nothing after it is seen from there
        x = self.weights["token_embedding.weight"][tokens] + self.weights["positional_embedding"][: len(tokens)]
        for layer in range(self.layers):
            x = self._block(x, f"transformer.resblocks.{layer}.")
        return np.asarray(self._norm(x[end:], "ln_final.") @ self.weights["text_projection"])

    def _tokens(self, text: str) -> Int[np.ndarray, " tokens"]:
        return np.array(self.tokenizer.encode(_clean(text)).ids, dtype=np.int64)

    def _block(self, x: Rows, name: str) -> Rows:
        x = x + self._attend(self._norm(x, f"{name}ln_1."), f"{name}attn.")
        hidden = self._linear(self._norm(x, f"{name}ln_2."), f"{name}mlp.c_fc.")
        gelu = hidden * np.float32(0.5) * (1 + _erf(hidden / math.sqrt(2.0)))
        return x + self._linear(gelu, f"{name}mlp.c_proj.")

    def _attend(self, x: Rows, name: str) -> Rows:
        length, width = x.shape
        together = x @ self.weights[f"{name}in_proj_weight"].T + self.weights[f"{name}in_proj_bias"]
        # (3, heads, tokens, width of a head)
        query, key, value = together.reshape(length, 3, self.heads, width // self.heads).transpose(1, 2, 0, 3)
        scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(width // self.heads))
        scores += np.triu(np.full((length, length), -np.inf, dtype=np.float32), 1)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ value
        return self._linear(mixed.transpose(1, 0, 2).reshape(length, width), f"{name}out_proj.")

    def _linear(self, x: Rows, name: str) -> Rows:
        return x @ self.weights[f"{name}weight"].T + self.weights[f"{name}bias"]

    def _norm(self, x: Rows, name: str) -> Rows:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
        return centred / deviation * self.weights[f"{name}weight"] + self.weights[f"{name}bias"]


def _erf(x: Rows) -> Rows:
    wide = np.abs(x.astype(np.float64))
    t = 1.0 / (1.0 + ERF_SCALE * wide)
    return np.asarray(np.copysign(1.0 - t * np.polyval(ERF_TERMS, t) * np.exp(-wide * wide), x), dtype=np.float32)


def load(folder: Path) -> ClipText | None:
    """Load the text tower of a folder in open_clip's layout; None where it is not of the plain kind."""
    files = {name: folder / name for name in (CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG)}
    if not all(file.exists() for file in files.values()):
        return None
    model = json.loads(files[CONFIG].read_text(encoding="utf-8")).get("model_cfg", {})
    spelling = json.loads(files[TOKENIZER_CONFIG].read_text(encoding="utf-8"))
    if set(model) != MODEL_KEYS or set(model["text_cfg"]) != TEXT_KEYS:
        return None
    if spelling.get("tokenizer_class") not in TOKENIZER_CLASSES:
        return None
    weights = _read(files[WEIGHTS], model)
    if weights is None:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files[TOKENIZER]))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = bool(spelling.get("split_special_tokens", False))
    return ClipText(weights, model["text_cfg"]["heads"], model["text_cfg"]["layers"], tokenizer)


def _read(file: Path, model: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """The text tower's matrices and nothing of the image tower's; None where they are not those of the plain kind."""
    from safetensors import safe_open

    wanted = _shapes(model["embed_dim"], model["text_cfg"])
    with safe_open(str(file), framework="numpy") as tensors:
        names = [name for name in tensors.keys() if not name.startswith(("visual.", "logit_"))]  # noqa: SIM118
        plain = {name: tensors.get_slice(name) for name in names}
        if {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in plain.items()} != {
            name: (shape, "F32") for name, shape in wanted.items()
        }:
            return None
        return {name: tensors.get_tensor(name) for name in names}


def _shapes(dim: int, text: dict[str, int]) -> dict[str, tuple[int, ...]]:
    width, hidden = text["width"], 4 * text["width"]
    block = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (hidden, width),
        "mlp.c_fc.bias": (hidden,),
        "mlp.c_proj.weight": (width, hidden),
        "mlp.c_proj.bias": (width,),
    }
    ends = {
        "token_embedding.weight": (text["vocab_size"], width),
        "positional_embedding": (text["context_length"], width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, dim),
    }
    layers = range(text["layers"])
    return ends | {f"transformer.resblocks.{n}.{name}": shape for n in layers for name, shape in block.items()}


def _clean(text: str) -> str:
    """Clean a text as open_clip's `clean="whitespace"` does."""
    if not text.isascii():  # of ASCII without control characters ftfy changes nothing
        import ftfy

        text = ftfy.fix_text(text)
    return " ".join(html.unescape(html.unescape(text)).split())
