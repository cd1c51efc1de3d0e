"""jina-clip-v2 as it was published: the names and shapes of its checkpoint, and what its code makes of them.

Written from the publisher's code by name, apart from the towers that are tested: nothing here knows timm or
transformers. The one checkpoint of this kind has 865,278,477 numbers.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.tiny import TEXTS, special_tokens, tokenizer, write_json

State = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

V, T = "vision_model.", "text_model.transformer.roberta."
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

VISION = {
    "embed_dim": 1024,
    "head_width": 64,
    "image_size": 512,
    "intp_freq": True,
    "layers": 24,
    "ls_init_value": None,
    "mlp_ratio": 2.6667,
    "naive_swiglu": True,
    "patch_dropout": 0.1,
    "patch_size": 14,
    "post_norm": False,
    "proj_type": None,
    "pt_hw_seq_len": 16,
    "qkv_bias": True,
    "rope_embeddings": True,
    "subln": True,
    "width": 1024,
    "x_attention": True,
}
ADAPTERS = {"lora_adaptations": ["retrieval.query"], "lora_rank": 4, "lora_alpha": 4}
CONFIG: dict[str, Any] = {
    "add_projections": False,
    "architectures": ["JinaCLIPModel"],
    "auto_map": {"AutoModel": "jinaai/jina-clip-implementation--modeling_clip.JinaCLIPModel"},
    "matryoshka_dimensions": [32, 64, 128, 256, 512, 768, 1024],
    "model_type": "jina_clip",
    "text_config": {
        "default_instruction_task": None,
        "default_lora_task": "retrieval.query",
        "embed_dim": 1024,
        "hf_model_config_kwargs": {"load_trained_adapters": False, "use_flash_attn": True, **ADAPTERS},
        "hf_model_name_or_path": "jinaai/jina-embeddings-v3",
        "pooler_type": "mean_pooler",
        "proj_type": None,
    },
    "vision_config": VISION,
}
PREPROCESSOR = {
    "fill_color": 0,
    "image_processor_type": "JinaCLIPImageProcessor",
    "interpolation": "bicubic",
    "mean": MEAN,
    "resize_mode": "shortest",
    "size": 512,
    "std": STD,
}
TEXT = {"vocab_size": 250_002, "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}  # of its base


def tiny_config(**kwargs: Any) -> dict[str, Any]:
    """The same with small towers, positions that are stretched, and the second of two adapters in use."""
    config = copy.deepcopy(CONFIG)
    small = {"width": 32, "embed_dim": 32, "head_width": 16, "layers": 2, "image_size": 32, "patch_size": 8}
    config["vision_config"] |= small | {"pt_hw_seq_len": 3}
    words = tokenizer()
    config["text_config"]["embed_dim"] = 32
    config["text_config"]["hf_model_config_kwargs"] |= {
        **{"lora_adaptations": ["separation", "retrieval.query"], "lora_rank": 2, "lora_alpha": 3},
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48},
        **{"vocab_size": len(words), "rotary_emb_base": 500.0, **special_tokens(words), **kwargs},
    }
    return config


def published_shapes(config: dict[str, Any]) -> Shapes:
    """The names and shapes of the checkpoint that a configuration describes."""
    vision, text = config["vision_config"], TEXT | config["text_config"]["hf_model_config_kwargs"]
    width, patch, hidden = vision["width"], vision["patch_size"], int(vision["width"] * vision["mlp_ratio"])
    patches = (vision["image_size"] // patch) ** 2
    shapes: Shapes = {
        "logit_scale": (),
        f"{V}cls_token": (1, 1, width),
        f"{V}pos_embed": (1, patches + 1, width),
        f"{V}patch_embed.proj.weight": (width, 3, patch, patch),
        f"{V}patch_embed.proj.bias": (width,),
        f"{V}norm.weight": (width,),
        f"{V}norm.bias": (width,),
    }
    for layer in range(vision["layers"]):
        b = f"{V}blocks.{layer}."
        for norm in ("norm1", "norm2", "attn.inner_attn_ln"):
            shapes |= {f"{b}{norm}.weight": (width,), f"{b}{norm}.bias": (width,)}
        shapes |= {f"{b}attn.{name}_proj.weight": (width, width) for name in "qkv"}
        shapes |= {f"{b}attn.{name}_bias": (width,) for name in "qv"}
        shapes |= {f"{b}attn.proj.weight": (width, width), f"{b}attn.proj.bias": (width,)}
        shapes |= {f"{b}mlp.{name}.weight": (hidden, width) for name in ("w1", "w2")}
        shapes |= {f"{b}mlp.{name}.bias": (hidden,) for name in ("w1", "w2")}
        shapes |= {f"{b}mlp.ffn_ln.weight": (hidden,), f"{b}mlp.ffn_ln.bias": (hidden,)}
        shapes |= {f"{b}mlp.w3.weight": (width, hidden), f"{b}mlp.w3.bias": (width,)}
    count, rank = len(text["lora_adaptations"]), text["lora_rank"]
    dim, inner = text["hidden_size"], text["intermediate_size"]
    for name, rows in (("word", text["vocab_size"]), ("token_type", 1)):
        p = f"{T}embeddings.{name}_embeddings.parametrizations.weight."
        shapes |= {f"{p}original": (rows, dim), f"{p}0.lora_A": (count, rows, rank), f"{p}0.lora_B": (count, rank, dim)}
    shapes |= {f"{T}emb_ln.weight": (dim,), f"{T}emb_ln.bias": (dim,)}
    for layer in range(text["num_hidden_layers"]):
        b = f"{T}encoder.layers.{layer}."
        linears = {"mixer.Wqkv": (3 * dim, dim), "mixer.out_proj": (dim, dim)}
        linears |= {"mlp.fc1": (inner, dim), "mlp.fc2": (dim, inner)}
        for name, (out, into) in linears.items():
            p = f"{b}{name}.parametrizations.weight."
            shapes |= {f"{p}original": (out, into), f"{b}{name}.bias": (out,)}
            shapes |= {f"{p}0.lora_A": (count, rank, into), f"{p}0.lora_B": (count, out, rank)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{b}{norm}.weight": (dim,), f"{b}{norm}.bias": (dim,)}
    return shapes


def save(folder: Path, config: dict[str, Any] | None = None, seed: int = 0) -> State:
    """A folder as it lies on the hub, of random numbers; returns the weights."""
    config = config or tiny_config()
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(shape, generator=generator) * (0.2 if len(shape) > 1 else 0.1) + (len(shape) == 1)
        for name, shape in published_shapes(config).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer(TEXTS).save_pretrained(folder)
    write_json(config, folder / "config.json")
    write_json(PREPROCESSOR | {"size": config["vision_config"]["image_size"]}, folder / "preprocessor_config.json")
    return state


# ------------------------------------------------------------------ what the published code computes


def norm(x: torch.Tensor, state: State, name: str, eps: float) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def rotate(x: torch.Tensor, angles: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Turn pairs of dimensions, which stand at `pairs` (2, n), by an angle each: (..., positions, n)."""
    turned, (one, other) = x.clone(), pairs
    turned[..., one] = x[..., one] * angles.cos() - x[..., other] * angles.sin()
    turned[..., other] = x[..., other] * angles.cos() + x[..., one] * angles.sin()
    return turned


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def embed_pictures(pixels: torch.Tensor, state: State, config: dict[str, Any]) -> torch.Tensor:
    """EVA02 of the published code: the class token's state behind the last norm, (pictures, dim)."""
    vision = config["vision_config"]
    width, head, side = vision["width"], vision["head_width"], vision["image_size"] // vision["patch_size"]
    patches = torch.nn.functional.conv2d(
        pixels, state[f"{V}patch_embed.proj.weight"], state[f"{V}patch_embed.proj.bias"], stride=vision["patch_size"]
    )
    x = torch.cat([state[f"{V}cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + state[f"{V}pos_embed"]
    places = torch.arange(side) / side * vision["pt_hw_seq_len"]
    speeds = 10_000.0 ** (-torch.arange(0, head // 2, 2) / (head // 2))
    rows, columns = (grid.flatten()[:, None] * speeds for grid in torch.meshgrid(places, places, indexing="ij"))
    angles = torch.cat([rows, columns], dim=1)  # neighbours are turned: first all of the row, then of the column
    pairs = torch.stack([torch.arange(0, head, 2), torch.arange(1, head, 2)])
    for layer in range(vision["layers"]):
        b = f"{V}blocks.{layer}."
        y = norm(x, state, f"{b}norm1", 1e-6)
        parts = [y @ state[f"{b}attn.{name}_proj.weight"].T for name in "qkv"]
        parts = [parts[0] + state[f"{b}attn.q_bias"], parts[1], parts[2] + state[f"{b}attn.v_bias"]]
        q, k, v = (part.unflatten(2, (width // head, head)).transpose(1, 2) for part in parts)
        q, k = (torch.cat([part[:, :, :1], rotate(part[:, :, 1:], angles, pairs)], dim=2) for part in (q, k))
        y = norm(attend(q, k, v), state, f"{b}attn.inner_attn_ln", 1e-6)
        x = x + y @ state[f"{b}attn.proj.weight"].T + state[f"{b}attn.proj.bias"]
        y = norm(x, state, f"{b}norm2", 1e-6)
        gate, value = (y @ state[f"{b}mlp.{name}.weight"].T + state[f"{b}mlp.{name}.bias"] for name in ("w1", "w2"))
        y = norm(torch.nn.functional.silu(gate) * value, state, f"{b}mlp.ffn_ln", 1e-6)
        x = x + y @ state[f"{b}mlp.w3.weight"].T + state[f"{b}mlp.w3.bias"]
    return norm(x, state, f"{V}norm", 1e-6)[:, 0]


def embed_text(ids: list[int], state: State, config: dict[str, Any], adapter: int | None = 1) -> torch.Tensor:
    """The text tower of the published code, its adapter beside the matrices: the mean of a text's states, (dim)."""
    text = TEXT | config["text_config"]["hf_model_config_kwargs"]
    scale, heads, dim = text["lora_alpha"] / text["lora_rank"], text["num_attention_heads"], text["hidden_size"]

    def look_up(name: str, rows: list[int]) -> torch.Tensor:
        p = f"{T}embeddings.{name}_embeddings.parametrizations.weight."
        found = state[f"{p}original"][rows]
        if adapter is None:
            return found
        return found + scale * (state[f"{p}0.lora_A"][adapter][rows] @ state[f"{p}0.lora_B"][adapter])

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        p = f"{name}.parametrizations.weight."
        y = x @ state[f"{p}original"].T + state[f"{name}.bias"]
        if adapter is None:
            return y
        return y + scale * (x @ state[f"{p}0.lora_A"][adapter].T @ state[f"{p}0.lora_B"][adapter].T)

    x = norm(look_up("word", ids) + look_up("token_type", [0] * len(ids)), state, f"{T}emb_ln", 1e-5)[None]
    head = dim // heads
    angles = torch.arange(len(ids))[:, None] * text["rotary_emb_base"] ** (-torch.arange(0, head, 2) / head)
    pairs = torch.stack([torch.arange(head // 2), torch.arange(head // 2, head)])  # halves are turned
    for layer in range(text["num_hidden_layers"]):
        b = f"{T}encoder.layers.{layer}."
        q, k, v = linear(x, f"{b}mixer.Wqkv").unflatten(2, (3, heads, head)).permute(2, 0, 3, 1, 4)
        y = attend(rotate(q, angles, pairs), rotate(k, angles, pairs), v)
        x = norm(x + linear(y, f"{b}mixer.out_proj"), state, f"{b}norm1", 1e-5)
        y = linear(torch.nn.functional.gelu(linear(x, f"{b}mlp.fc1")), f"{b}mlp.fc2")
        x = norm(x + y, state, f"{b}norm2", 1e-5)
    return x[0].mean(dim=0)
