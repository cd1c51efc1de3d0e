"""A Qwen3-VL of a few thousand parameters, as a folder of the hub: pictures at their own resolution, and messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.tiny import TEXTS, photo, spread, tokenizer

WIDTH = 32
SHAPES = [(96, 64), (64, 96), (80, 80), (128, 48), (48, 48)]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def pictures() -> list[Image.Image]:
    """Pictures of several shapes."""
    return [Image.fromarray(photo(seed, *shape)) for seed, shape in enumerate(SHAPES)]


def save_qwen(folder: Path, seed: int = 0) -> Path:
    """The model and its processor, as transformers writes them."""
    words = tokenizer([*TEXTS, "system user assistant represent find the picture query document yes no"])
    words.add_tokens(SPECIAL, special_tokens=True)
    words.split_special_tokens = False
    words.chat_template = TEMPLATE
    start, end, picture, film = (
        int(words.convert_tokens_to_ids(f"<|{name}|>"))
        for name in ("vision_start", "vision_end", "image_pad", "video_pad")
    )
    layers: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 64}
    config = Qwen3VLConfig(
        text_config=layers
        | {
            "vocab_size": len(words),
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True},
            "pad_token_id": words.pad_token_id,
        },
        vision_config=layers
        | {
            "depth": 2,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=picture,
        video_token_id=film,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    spread(Qwen3VLForConditionalGeneration(config)).save_pretrained(folder)
    patches: dict[str, Any] = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    reader = Qwen2VLImageProcessor(size={"shortest_edge": 16 * 16, "longest_edge": 128 * 128}, **patches)
    Qwen3VLProcessor(reader, words, Qwen3VLVideoProcessor(**patches), chat_template=TEMPLATE).save_pretrained(folder)
    return folder


def save_embedder(folder: Path) -> Path:
    """The same as a sentence-transformers model: the last token's state, of unit length."""
    modules = [Transformer(str(save_qwen(folder / "qwen"))), Pooling(WIDTH, pooling_mode="lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "embedder"))
    return folder / "embedder"


def save_reranker(folder: Path) -> Path:
    """The same as a cross-encoder: how much likelier "yes" is than "no" after a query and a picture."""
    model = Transformer(str(save_qwen(folder / "qwen")), transformer_task="any-to-any")
    words: Any = model.tokenizer
    yes, no = (int(words.convert_tokens_to_ids(word)) for word in ("yes", "no"))
    CrossEncoder(modules=[model, LogitScore(yes, no)], device="cpu").save_pretrained(str(folder / "reranker"))
    return folder / "reranker"
