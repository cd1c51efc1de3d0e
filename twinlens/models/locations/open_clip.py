"""Location of open_clip weights: of a tag, a local checkpoint, or a folder in open_clip's own layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twinlens.config.models import OpenClipTower
from twinlens.core.download import RemoteFile, download
from twinlens.core.errors import DataError, ParamsError, suggest_nearest
from twinlens.core.paths import downloads
from twinlens.models.locations import recall_answer
from twinlens.models.weights import fetch_hub_weights, find_local_checkpoint

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")  # first found is taken
TOKENIZER = ["tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model"]


def locate(card: OpenClipTower) -> Path:
    """Locate the weights: a file, or a folder with `open_clip_config.json`.

    Raises:
        ParamsError: open_clip has no such architecture or tag, or they do not go together.
        FetchError: the weights cannot be had.
    """
    tag: dict[str, Any] = {}
    if card.open_clip != "custom":
        tag = recall_answer("open_clip_torch", [card.open_clip, card.pretrained], lambda: _ask(card))
    if (path := find_local_checkpoint(card)) is not None:
        if card.open_clip == "custom" and path.is_file():
            raise ParamsError(
                f"{path}: the `checkpoint` of a custom architecture is a folder in open_clip's own layout"
            )
        return path
    if not tag:
        raise ParamsError(f"the card of {card.open_clip} names neither `pretrained` nor `checkpoint`")
    if not tag.get("hf_hub"):
        url = str(tag["url"])
        return download(RemoteFile(url.rsplit("/", 1)[-1]), url, downloads() / "open_clip")
    repo, _, name = str(tag["hf_hub"]).rpartition("/")  # owner/name/, or owner/name/file
    names = (name,) if name else WEIGHTS
    folder = fetch_hub_weights(repo, card.revision, names, ["open_clip_config.json", *TOKENIZER])
    return find_weights(folder, names)


def _ask(card: OpenClipTower) -> dict[str, Any]:
    """Where the weights of the card's tag are published; nothing where it has no tag."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if card.open_clip not in open_clip.list_models():
        raise ParamsError(
            f"open_clip has no '{card.open_clip}' ({suggest_nearest(card.open_clip, open_clip.list_models())})"
        )
    if card.pretrained is None:
        return {}
    tag = get_pretrained_cfg(card.open_clip, card.pretrained)
    if not tag:
        known = list_pretrained_tags_by_model(card.open_clip)
        raise ParamsError(
            f"{card.open_clip} has no weights '{card.pretrained}' ({suggest_nearest(card.pretrained, known)})"
        )
    built = bool((open_clip.get_model_config(card.open_clip) or {}).get("quick_gelu", False))
    if bool(tag.get("quick_gelu", False)) != built:
        other = card.open_clip.removesuffix("-quickgelu") + ("" if built else "-quickgelu")
        raise ParamsError(
            f"'{card.pretrained}' was trained with {'the plain' if built else 'the quick'} GELU: use the architecture "
            f"'{other}', or its vectors are wrong"
        )
    return {name: tag.get(name) for name in ("hf_hub", "url")}


def find_weights(folder: Path, names: Sequence[str] = WEIGHTS) -> Path:
    """Find the file of weights in a folder, the first of `names` that is there.

    Raises:
        DataError: there is none.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise DataError(f"{folder} holds no weights; looked for {', '.join(names)}")
