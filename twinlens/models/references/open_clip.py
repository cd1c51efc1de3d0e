"""open_clip's own path: its transform for evaluation, its tokenizer, `encode_image` and `encode_text` as they are.

The weights are ours, in memory once. What else makes a model is the library's: the tokenizer is built anew from the
architecture's own settings (SigLIP's texts are lower-cased and lose their punctuation there), and a model whose
activations are others than those of the architecture (quick GELU for GELU) computes here with the right ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL.Image import Image

from twinlens.config.models import OpenClipTower
from twinlens.core.device import Placement
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.references.base import Reference, Vector


def build(tower: OpenClipTower, path: Path, loaded: LoadedEncoders, placement: Placement) -> Reference:
    """Build the reference; see `twinlens.models.references.build`."""
    model: Any = getattr(loaded.image, "model")  # noqa: B009
    tokenizer: Any = getattr(loaded.text, "tokenizer")  # noqa: B009
    if path.is_dir():
        tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
    elif isinstance(tokenizer, open_clip.SimpleTokenizer):  # others may be fetched by the library, and lie here already
        tokenizer = open_clip.get_tokenizer(tower.open_clip)
    elif isinstance(tokenizer, open_clip.tokenizer.HFTokenizer):
        settings = open_clip.get_model_config(tower.open_clip)["text_cfg"]
        tokenizer = open_clip.tokenizer.HFTokenizer(
            tokenizer.tokenizer.name_or_path,
            context_length=settings.get("context_length", 77),
            tokenizer_mode=settings.get("tokenizer_mode"),
            **settings.get("tokenizer_kwargs", {}),
        )
    wrong = _find_wrong_activations(model, f"local-dir:{path}" if path.is_dir() else tower.open_clip)
    transform = image_transform_v2(PreprocessCfg(**_preprocess(tower, path, model)), is_train=False)

    def picture(image: Image) -> Vector:
        pixels = transform(image)[None].to(placement.device, placement.dtype)
        with _replaced(model, wrong):
            return model.encode_image(pixels).float().cpu()

    def text(words: str) -> Vector:
        with _replaced(model, wrong):
            return model.encode_text(tokenizer([words]).to(placement.device)).float().cpu()

    return Reference("open_clip", picture, text)


def _preprocess(tower: OpenClipTower, path: Path, model: Any) -> dict[str, Any]:
    """What the source of the weights says of their transform, as open_clip's factory merges it."""
    size = model.visual.image_size
    common = asdict(PreprocessCfg(size=size))
    if path.is_dir():
        said = json.loads((path / "open_clip_config.json").read_text(encoding="utf-8")).get("preprocess_cfg", {})
        return dict(merge_preprocess_dict(common, said))
    if tower.pretrained is not None:
        tag = get_pretrained_cfg(tower.open_clip, tower.pretrained)
        return dict(merge_preprocess_dict(common, tag)) | {"size": size}
    return dict(model.visual.preprocess_cfg)  # a bare file says nothing of it


def _find_wrong_activations(model: Any, name: str) -> dict[str, torch.nn.Module]:
    """Activations of the architecture, by name, where the model has others."""
    with _without_log(), torch.device("meta"):
        built = open_clip.create_model(name, device="meta", load_weights=False, pretrained_text=False)
    ours = dict(model.named_modules())
    return {
        place: module
        for place, module in built.named_modules()
        if _is_activation(module) and place in ours and type(ours[place]) is not type(module)
    }


@contextmanager
def _without_log() -> Iterator[None]:
    """Leave open_clip's warning unsaid that a model has random weights: it has none."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _is_activation(module: torch.nn.Module) -> bool:
    return isinstance(module, open_clip.transformer.QuickGELU) or type(module).__module__.endswith(".activation")


@contextmanager
def _replaced(model: Any, modules: dict[str, torch.nn.Module]) -> Iterator[None]:
    """Compute with other modules for a while."""
    kept = {place: model.get_submodule(place) for place in modules}
    try:
        for place, module in modules.items():
            model.set_submodule(place, module)
        yield
    finally:
        for place, module in kept.items():
            model.set_submodule(place, module)
