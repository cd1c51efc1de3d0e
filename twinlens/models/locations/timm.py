"""Location of timm weights: of a tag of the library's, or a local checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twinlens.config.models import TimmTower
from twinlens.core.errors import ParamsError, suggest_nearest
from twinlens.models.locations import recall_answer
from twinlens.models.weights import fetch_hub_weights, find_local_checkpoint

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def locate(card: TimmTower) -> Path:
    """Locate the weights' file.

    Raises:
        ParamsError: timm has no such model, or no such weights of it.
        FetchError: the weights cannot be had.
    """
    local = card.checkpoint is not None
    answer = recall_answer("timm", [card.timm, "local" if local else "published"], lambda: _ask(card, local))
    if (path := find_local_checkpoint(card)) is not None:
        return path
    folder = fetch_hub_weights(str(answer["repo"]), card.revision, WEIGHTS, ["config.json"])
    return next(folder / name for name in WEIGHTS if (folder / name).exists())


def _ask(card: TimmTower, local: bool) -> dict[str, Any]:
    """The repository that publishes the card's weights; nothing where they are in a file."""
    import timm

    architecture = card.timm.split(".", 1)[0]
    if not timm.is_model(architecture):
        similar = timm.list_models(f"{architecture[:5]}*") or timm.list_models("*resnet50*")
        raise ParamsError(f"timm has no '{architecture}' ({suggest_nearest(architecture, similar)})")
    if local:
        return {}
    if "." not in card.timm:
        raise ParamsError(f"'{card.timm}' names no weights: write architecture.tag, or give a `checkpoint`")
    tags = timm.list_pretrained(f"{architecture}.*")
    if card.timm not in tags:
        raise ParamsError(f"timm has no weights '{card.timm}' ({suggest_nearest(card.timm, tags)})")
    return {"repo": timm.get_pretrained_cfg(card.timm).hf_hub_id or f"timm/{card.timm}"}
