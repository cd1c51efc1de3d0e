"""open_clip's own path: its transform for evaluation, its tokenizer, `encode_image` and `encode_text` as they are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
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
    transform = image_transform_v2(PreprocessCfg(**_preprocess(tower, path, model)), is_train=False)

    def picture(image: Image) -> Vector:
        pixels = transform(image)[None].to(placement.device, placement.dtype)
        return model.encode_image(pixels).float().cpu()

    def text(words: str) -> Vector:
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
