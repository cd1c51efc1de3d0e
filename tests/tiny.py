"""Pictures, shards and models of a few thousand parameters, made where a test needs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
from jaxtyping import UInt8
from PIL import Image
from transformers import PreTrainedTokenizerFast

from twinlens.core import tables
from twinlens.core.device import Placement
from twinlens.core.shards import shard_path
from twinlens.training.tokenizer import learn_tokenizer

CPU = Placement(torch.device("cpu"), torch.float32)
REVISION = "0123456789abcdef0123456789abcdef01234567"
TEXTS = [
    "a dog",
    "a red car in the snow",
    "there is a cat and a green tree on a meadow at night",
    "a house",
    "two dogs on a beach",
]


def photo(seed: int, width: int = 96, height: int = 64) -> UInt8[np.ndarray, "height width 3"]:
    """A picture with soft edges, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def photos(count: int, side: int) -> UInt8[torch.Tensor, "images 3 side side"]:
    """A batch of such pictures as an encoder takes them."""
    return torch.stack([torch.from_numpy(photo(seed, side, side)).permute(2, 0, 1) for seed in range(count)])


def jpegs(count: int, width: int = 48, height: int = 40) -> list[bytes]:
    """Such pictures as files."""
    return [
        simplejpeg.encode_jpeg(photo(seed, width, height), quality=95, colorsubsampling="444") for seed in range(count)
    ]


def write_shards(files: Sequence[bytes], folder: Path, per_shard: int = 5) -> pl.DataFrame:
    """Shards as the `resize` stage writes them; returns the pictures' rows, as table GROUPS has them."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"picture-{i:03d}" for i in range(len(files))]
    for number, start in enumerate(range(0, len(files), per_shard)):
        rows = {"image_id": ids[start : start + per_shard], "jpeg": list(files[start : start + per_shard])}
        pq.write_table(pa.table(rows, schema=tables.PIXELS), shard_path(folder, number))
    return pl.DataFrame(
        {
            "image_id": ids,
            "shard": [i // per_shard for i in range(len(files))],
            "row": [i % per_shard for i in range(len(files))],
            "sha256": [hashlib.sha256(file).hexdigest() for file in files],
        }
    )


def tokenizer(texts: Sequence[str] = TEXTS) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of `texts`."""
    return learn_tokenizer(texts)


def sizes(**others: Any) -> dict[str, Any]:
    """The sizes of a small transformer, by the names that transformers gives them."""
    return {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2} | others


def special_tokens(words: PreTrainedTokenizerFast) -> dict[str, int]:
    """The numbers of a tokenizer's special tokens, by the names that transformers' configurations give them."""
    return {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


M = TypeVar("M", bound=torch.nn.Module)


def spread(model: M, seed: int = 0, scale: float = 0.15) -> M:
    """Random matrices large enough that other input gives clearly other output; those of a new model hardly do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale, generator=generator)
    return model.eval()


def write_json(content: Any, path: Path) -> None:
    """A JSON file, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
