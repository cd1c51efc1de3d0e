"""The publisher's path to jina-clip-v2's towers, step by step: torchvision's transforms and the tokenizer as it is.

Its own code does not run with transformers 5, so the towers are ours; what they are fed with is what it would be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from tokenizers import Tokenizer
from torchvision import transforms

from twinlens.config.models import JinaClipTower
from twinlens.core.device import Placement
from twinlens.images.transforms import PixelSpec
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.references.base import Reference, Vector


def build(tower: JinaClipTower, path: Path, loaded: LoadedEncoders, placement: Placement) -> Reference:
    """Build the reference; see `twinlens.models.references.build`."""
    image: Any = loaded.image
    words: Any = loaded.text
    prepare = prepare_as_published(image.pixels)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(words.max_tokens)

    def picture(one: Image) -> Vector:
        vectors: torch.Tensor = image.model(prepare(one)[None].to(placement.device, placement.dtype))
        return vectors[:, : tower.dimensions].float().cpu()

    def text(one: str) -> Vector:
        ids = torch.tensor([tokenizer.encode(tower.prompt + one).ids], device=placement.device)
        states: torch.Tensor = words.model(input_ids=ids).last_hidden_state  # (1, tokens, dim)
        return states.float().mean(dim=1)[:, : tower.dimensions].cpu()

    return Reference("its publisher", picture, text)


def prepare_as_published(pixels: PixelSpec) -> Any:
    """Compose torchvision's transforms for a picture of PIL, of which the result is (3, height, width)."""
    how = transforms.InterpolationMode(pixels.interpolation)
    size = (pixels.height, pixels.width)
    steps = [transforms.Resize(pixels.height, how), transforms.CenterCrop(size)]
    return transforms.Compose(
        [
            *([transforms.Resize(size, how)] if pixels.mode == "squash" else steps),
            transforms.ToTensor(),
            transforms.Normalize(pixels.mean, pixels.std),
        ]
    )
