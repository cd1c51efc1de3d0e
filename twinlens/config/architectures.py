"""Architectures of one's own: sizes that no model can be built with are refused before anything slow runs."""

from __future__ import annotations

import math
from typing import Any

from twinlens.config.numbers import LARGEST

SIZES = frozenset(  # whole numbers from 1, or lists of them
    (
        *("embed_dim", "width", "heads", "head_width", "layers", "context_length", "patch_size", "image_size"),
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("max_position_embeddings", "encoder_hidden_size"),
    )
)
# Width, and what its heads are counted by, with the libraries' defaults.
OPEN_CLIP_TEXT = {"width": 512, "heads": 8}
OPEN_CLIP_VISION = {"width": 768, "head_width": 64, "patch_size": 16}
BLIP_TEXT = {"hidden_size": 768, "num_attention_heads": 8, "encoder_hidden_size": 768}
BLIP_VISION = {"hidden_size": 768, "num_attention_heads": 12, "image_size": 384, "patch_size": 16}


def refuse_missing(architecture: dict[str, Any] | None, *dotted: str) -> None:
    """Refuse an architecture without one of the sizes that it is trained by.

    Raises:
        ValueError: one is missing.
    """
    for key in dotted if architecture is not None else ():
        node: Any = architecture
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, int):
            raise ValueError(f"`architecture` lacks a number at {key}")


def refuse_impossible_open_clip(architecture: dict[str, Any] | None) -> None:
    """Refuse an architecture of open_clip that no model can be built with.

    Raises:
        ValueError: a number is none that can be used, or heads do not divide their width.
    """
    if architecture is None:
        return
    _refuse_numbers(architecture, ())
    text = OPEN_CLIP_TEXT | _part(architecture, "text_cfg")
    vision = OPEN_CLIP_VISION | _part(architecture, "vision_cfg")
    _refuse_remainder("text_cfg", text, "width", "heads")
    if isinstance(vision.get("layers"), list):  # a ResNet, whose last layer is 32 times as wide as the first
        if len(vision["layers"]) != 4:
            raise ValueError(f"`architecture`: vision_cfg.layers has {len(vision['layers'])} numbers, wanted 4")
        if (32 * vision["width"]) % max(1, 32 * vision["width"] // vision["head_width"]):
            raise ValueError(
                f"`architecture`: vision_cfg.head_width, {vision['head_width']}, does not divide 32 times "
                f"vision_cfg.width, {32 * vision['width']}"
            )
    elif "timm_model_name" not in vision:
        _refuse_remainder("vision_cfg", vision, "width", "head_width")
        _refuse_large_patch("vision_cfg", vision)


def refuse_impossible_blip(architecture: dict[str, Any] | None) -> None:
    """Refuse an architecture of BLIP that no model can be built with.

    Raises:
        ValueError: a number is none that can be used, heads do not divide their width, or the parts do not fit.
    """
    if architecture is None:
        return
    _refuse_numbers(architecture, ())
    text, vision = BLIP_TEXT | _part(architecture, "text_config"), BLIP_VISION | _part(architecture, "vision_config")
    for name, part in (("text_config", text), ("vision_config", vision)):
        _refuse_remainder(name, part, "hidden_size", "num_attention_heads")
    _refuse_large_patch("vision_config", vision)
    if text["encoder_hidden_size"] != vision["hidden_size"]:
        raise ValueError(
            f"`architecture`: text_config.encoder_hidden_size is {text['encoder_hidden_size']}, but what it reads is "
            f"vision_config.hidden_size, {vision['hidden_size']}"
        )


def _part(architecture: dict[str, Any], name: str) -> dict[str, Any]:
    found = architecture.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"`architecture`: {name} should hold keys and values, found {found!r:.60}")
    return {key: value for key, value in found.items() if value is not None}


def _refuse_numbers(node: Any, keys: tuple[str, ...]) -> None:
    if keys and keys[-1] in SIZES and isinstance(node, dict | list) and not _may_be_listed(node, keys):
        raise ValueError(
            f"`architecture`: {'.'.join(keys)} is {node!r:.60}, wanted a whole number from 1 to {LARGEST:,}"
        )
    if isinstance(node, dict):
        for key, value in node.items():
            _refuse_numbers(value, (*keys, str(key)))
        return
    values = node if isinstance(node, list) else [node]
    where = f"`architecture`: {'.'.join(keys)}"
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where} is {value}, wanted a finite number")
        if keys[-1] in SIZES and value is not None and not _is_size(value):
            raise ValueError(f"{where} is {value!r:.60}, wanted a whole number from 1 to {LARGEST:,}")
        if keys[-1].endswith(("dropout", "dropout_prob")) and not (_is_number(value) and 0 <= value < 1):
            raise ValueError(f"{where} is {value!r:.60}, wanted a share from 0 to below 1")


def _may_be_listed(node: Any, keys: tuple[str, ...]) -> bool:
    """Whether a size may be several: layers of a ResNet's stages, height and width."""
    return isinstance(node, list) and (keys[-1] == "image_size" or keys[-2:] == ("vision_cfg", "layers"))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_remainder(name: str, part: dict[str, Any], width: str, heads: str) -> None:
    if part[width] % part[heads]:
        raise ValueError(
            f"`architecture`: {name}.{heads}, {part[heads]}, does not divide {name}.{width}, {part[width]}"
        )


def _refuse_large_patch(name: str, part: dict[str, Any]) -> None:
    image, patch = part.get("image_size"), part.get("patch_size")
    if isinstance(image, int) and isinstance(patch, int) and patch > image:
        raise ValueError(f"`architecture`: {name}.patch_size, {patch}, is more than {name}.image_size, {image}")
