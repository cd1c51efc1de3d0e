"""The published checkpoint of jina-clip-v2, read into towers of timm and transformers.

The publisher's own code was written for transformers 4 and does not run with 5. What it computes are two known
architectures under other names: EVA02-L of timm for pictures, and jina-embeddings-v3 of transformers for texts, whose
matrices each have a low-rank adapter. The adapter is added to its matrix once, here, where that code adds it in each
pass. (Koukounas and others 2024, arXiv:2412.08802; adapters: Hu and others 2021, arXiv:2106.09685)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float32
from timm.models.eva import Eva
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from twinlens.core.errors import DataError
from twinlens.models.state_dicts import State

CONFIG = "config.json"
PICTURES, TEXTS = "vision_model.", "text_model.transformer.roberta."
SCALE = "logit_scale"  # of the loss: no vector depends on it

# What config.json may say, and the one value that these towers have. Where it says nothing, the publisher's code takes
# what stands in ABSENT, or else None.
ONLY: dict[str, tuple[object, ...]] = {
    "add_projections": (False,),
    "vision_config.naive_swiglu": (True,),
    "vision_config.subln": (True,),
    "vision_config.rope_embeddings": (True,),
    "vision_config.intp_freq": (True,),
    "vision_config.qkv_bias": (True,),
    "vision_config.post_norm": (False,),
    "vision_config.ls_init_value": (None,),
    "vision_config.proj_type": (None,),
    "text_config.proj_type": (None,),
    "text_config.pooler_type": (None, "mean_pooler"),
    "text_config.default_instruction_task": (None,),
}
ABSENT = {
    "add_projections": False,
    "vision_config.naive_swiglu": False,
    "vision_config.subln": False,
    "vision_config.rope_embeddings": False,
    "vision_config.intp_freq": False,
    "vision_config.qkv_bias": True,
    "vision_config.post_norm": False,
}
SIZES = ("width", "layers", "head_width", "mlp_ratio", "image_size", "patch_size", "embed_dim")
TEXT_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id"),
)
ROTARY_BASE = 20_000.0  # of jina-embeddings-v3
GRID = 16  # patches a side that the positions of EVA02-CLIP were trained on, to which others are scaled

# Parts of names: as timm and transformers write them, and as they were published.
PICTURE_NAMES = (
    ("attn.q_proj.bias", "attn.q_bias"),
    ("attn.v_proj.bias", "attn.v_bias"),
    ("attn.norm.", "attn.inner_attn_ln."),
    ("mlp.fc1_g.", "mlp.w1."),
    ("mlp.fc1_x.", "mlp.w2."),
    ("mlp.fc2.", "mlp.w3."),
    ("mlp.norm.", "mlp.ffn_ln."),
)
TEXT_NAMES = (
    ("embeddings.LayerNorm.", "emb_ln."),
    ("layers.", "encoder.layers."),
    ("self_attn.o_proj.", "mixer.out_proj."),
    ("self_attn.q_proj.", "mixer.Wqkv."),
    ("self_attn.k_proj.", "mixer.Wqkv."),
    ("self_attn.v_proj.", "mixer.Wqkv."),
    ("post_attention_layernorm.", "norm1."),
    ("post_mlp_layernorm.", "norm2."),
)
THIRDS = ("q_proj", "k_proj", "v_proj")  # of Wqkv, in this order


@dataclass(frozen=True)
class JinaConfig:
    """What config.json says of the towers.

    Attributes:
        vision: its `vision_config`.
        text: the text tower's, in the form of transformers.
        adapters: how many adapters each matrix of the text tower has.
        adapter: the one that is added; None: none is.
        rank: of the adapters.
        scale: what an adapter's product is multiplied with: alpha / rank.
    """

    vision: Mapping[str, Any]
    text: JinaEmbeddingsV3Config
    adapters: int
    adapter: int | None
    rank: int
    scale: float

    @property
    def dim(self) -> int:
        """Dimensions of a whole vector."""
        return int(self.text.hidden_size)


def read_config(folder: Path) -> JinaConfig:
    """Read the configuration of a checkpoint.

    Raises:
        DataError: there is none, it is of another kind of model, or says something that these towers do not have.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vision, text = dict(content["vision_config"]), dict(content["text_config"])
        changes = dict(text.get("hf_model_config_kwargs") or {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not that of a jina-clip-v2: wanted `vision_config` and `text_config` ({error!r})"
        ) from None
    _refuse_other_forms(content, path)
    for name in SIZES:
        if not isinstance(vision.get(name), int | float) or vision[name] <= 0:
            raise DataError(
                f"{path} says vision_config.{name}: {json.dumps(vision.get(name))}; wanted a number above 0"
            )
    try:
        config = JinaEmbeddingsV3Config(
            **{name: changes[name] for name in TEXT_SIZES if name in changes},
            rope_parameters={"rope_type": "default", "rope_theta": float(changes.get("rotary_emb_base", ROTARY_BASE))},
        )
        found = JinaConfig(vision, config, *_read_adapters(text, changes, path))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise DataError(f"{path}: text_config.hf_model_config_kwargs: {error}") from None
    widths = {vision["width"], vision["embed_dim"], text.get("embed_dim"), found.dim}
    if len(widths) > 1:
        raise DataError(f"{path} has widths {', '.join(map(str, widths))}; only towers of one width are known here")
    return found


def _refuse_other_forms(content: Mapping[str, Any], path: Path) -> None:
    for name, allowed in ONLY.items():
        part, _, key = name.rpartition(".")
        value = (content[part] if part else content).get(key, ABSENT.get(name))
        if value not in allowed:
            found, wanted = json.dumps(value), " or ".join(json.dumps(one) for one in allowed)
            raise DataError(f"{path} says {name}: {found}; only {wanted} is known here, as of jina-clip-v2")


def _read_adapters(
    text: Mapping[str, Any], changes: Mapping[str, Any], path: Path
) -> tuple[int, int | None, int, float]:
    """Read count, number, rank and scale of the adapters. No value is guessed: each changes every vector of a text."""
    where = f"{path}: text_config.hf_model_config_kwargs"
    for name in ("lora_adaptations", "lora_rank", "lora_alpha"):
        if not changes.get(name):
            raise DataError(f"{where} does not say {name}, so the text tower's adapter cannot be added")
    names, task = list(changes["lora_adaptations"]), text.get("default_lora_task")
    if task is not None and task not in names:
        raise DataError(f"{where} has adapters for {', '.join(names)}, none for `default_lora_task`, {task}")
    rank = int(changes["lora_rank"])
    return len(names), None if task is None else names.index(task), rank, float(changes["lora_alpha"]) / rank


def build_towers(config: JinaConfig) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Build the picture tower and the text tower.

    Raises:
        DataError: the sizes do not go together.
    """
    try:
        return build_picture_tower(config), build_text_tower(config)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"no towers can be built of the sizes in {CONFIG}: {error}") from None


def build_picture_tower(config: JinaConfig) -> torch.nn.Module:
    """Build EVA02 with the scaled norms of EVA-CLIP: patches to the class token's state, (pictures, dim)."""
    vision = config.vision
    return Eva(
        img_size=vision["image_size"],
        patch_size=vision["patch_size"],
        embed_dim=vision["width"],
        depth=vision["layers"],
        num_heads=vision["width"] // vision["head_width"],
        mlp_ratio=vision["mlp_ratio"],
        num_classes=0,
        global_pool="token",
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(vision.get("pt_hw_seq_len", GRID),) * 2,
    )


def build_text_tower(config: JinaConfig) -> torch.nn.Module:
    """Build jina-embeddings-v3 without its pooler and its adapters: tokens to states, (texts, tokens, dim)."""
    return JinaEmbeddingsV3Model(config.text, add_pooling_layer=False)


def lay_out(pictures: torch.nn.Module, texts: torch.nn.Module, config: JinaConfig) -> State:
    """Lay out the published checkpoint of two towers: tensors of its names and shapes, on the device `meta`."""
    shapes: dict[str, tuple[int, ...]] = {SCALE: ()}
    for name, value in pictures.state_dict().items():
        shapes[PICTURES + _publish(name, PICTURE_NAMES)] = tuple(value.shape)
    for name, value in texts.state_dict().items():
        rows, *rest = value.shape
        shape = (3 * rows if _third(name) is not None else rows, *rest)
        published = TEXTS + _publish(name, TEXT_NAMES)
        if not _has_adapter(value):
            shapes[published] = shape
            continue
        original, a, b = _name_adapted(published)
        left, right = (shape[0], config.rank), (config.rank, shape[1])  # the factors of a product of that shape
        first, second = (left, right) if _is_embedding(name) else (right, left)
        shapes |= {original: shape, a: (config.adapters, *first), b: (config.adapters, *second)}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def fill_picture_tower(tower: torch.nn.Module, state: State, device: torch.device) -> None:
    """Fill the picture tower with a checkpoint of the right layout, in float32 on a device."""
    own = {name: state[PICTURES + _publish(name, PICTURE_NAMES)] for name in tower.state_dict()}
    tower.load_state_dict({name: value.to(device, torch.float32) for name, value in own.items()}, assign=True)


def fill_text_tower(tower: torch.nn.Module, state: State, config: JinaConfig, device: torch.device) -> None:
    """Fill the text tower with a checkpoint of the right layout, its adapter added, in float32 on a device."""
    tower.load_state_dict(dict(_merge_all(tower, state, config, device)), assign=True)


def _merge_all(
    tower: torch.nn.Module, state: State, config: JinaConfig, device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    whole: dict[str, torch.Tensor] = {}  # by published names: three matrices of ours are one there
    for name, value in tower.state_dict().items():
        published = TEXTS + _publish(name, TEXT_NAMES)
        if published not in whole:
            if _has_adapter(value):
                original, a, b = _name_adapted(published)
                matrix = state[original].to(device, torch.float32, copy=True)
                if config.adapter is not None:
                    first, second = (state[part][config.adapter].to(device, torch.float32) for part in (a, b))
                    add_adapter(matrix, first, second, config.scale, _is_embedding(name))
                whole[published] = matrix
            else:
                whole[published] = state[published].to(device, torch.float32)
        third = _third(name)
        yield name, whole[published] if third is None else whole[published].chunk(3)[third]


def add_adapter(
    matrix: Float32[torch.Tensor, "rows columns"],
    a: Float32[torch.Tensor, "_ _"],
    b: Float32[torch.Tensor, "_ _"],
    scale: float,
    embedding: bool,
) -> None:
    """Add an adapter to a matrix, in place: W + scale B A of a linear layer, W + scale A B of an embedding.

    Args:
        matrix: (out, in) of a linear layer, (words, dim) of an embedding.
        a: (rank, in), or (words, rank).
        b: (out, rank), or (rank, dim).
        scale: alpha / rank.
        embedding: whether the matrix is that of an embedding.
    """
    matrix.addmm_(*((a, b) if embedding else (b, a)), alpha=scale)


def _publish(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for ours, published in pairs:
        name = name.replace(ours, published)
    return name


def _third(name: str) -> int | None:
    return next((place for place, part in enumerate(THIRDS) if f".{part}." in name), None)


def _is_embedding(name: str) -> bool:
    return name.endswith("_embeddings.weight")


def _has_adapter(value: torch.Tensor) -> bool:
    return value.ndim == 2  # every embedding and every linear layer of the text tower has


def _name_adapted(published: str) -> tuple[str, str, str]:
    """The matrix itself, and the two factors of its adapters."""
    base = f"{published.removesuffix('.weight')}.parametrizations.weight"
    return f"{base}.original", f"{base}.0.lora_A", f"{base}.0.lora_B"
