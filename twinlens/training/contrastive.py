"""Contrastive training of an open_clip model: each picture with its caption against the batch's others."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from open_clip.model import CLIP
from safetensors.torch import save_file

from twinlens.cards import ContrastiveRecipe, OpenClipTower
from twinlens.encoders.base import normalised
from twinlens.encoders.open_clip import encode_text, pixel_spec
from twinlens.placement import Placement
from twinlens.scratch import Scratch
from twinlens.training.data import Material, PixelStore, Split, Trained, training_key
from twinlens.training.loop import Batch, fit
from twinlens.training.vocabulary import learn_tokenizer

MAX_LOGIT_SCALE = float(np.log(100.0))  # as CLIP clips it
HALF = (0.5, 0.5, 0.5)
CONFIG = "open_clip_config.json"


def preprocess_of(tower: OpenClipTower) -> dict[str, Any]:
    """The transform of a model of one's own: the whole picture, squashed to the size it reads."""
    assert tower.architecture is not None
    size = tower.architecture["vision_cfg"]["image_size"]
    return {"size": [size, size], "mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}


def train_contrastive(
    tower: OpenClipTower, recipe: ContrastiveRecipe, material: Material, placement: Placement, out: Path
) -> Trained:
    """Train a custom open_clip architecture from nothing; write it in open_clip's own layout into `out`.

    Raises:
        DataError: the splits cannot be trained on, or a loss is useless.
    """
    train, val = material.splits()
    trainer = _Trainer(tower, recipe, train, val, placement)
    card = {"tower": tower.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json")}
    key = training_key(card, train, val, placement.name, "training/contrastive.py", "encoders/open_clip.py")
    with Scratch("train", key) as scratch:
        rows = trainer.run(material.store(train, trainer.pixels), material.store(val, trainer.pixels), scratch)
        trainer.write(out)
        return Trained(rows, scratch.total("seconds"), len(train.pictures))


class _Trainer:
    def __init__(
        self, tower: OpenClipTower, recipe: ContrastiveRecipe, train: Split, val: Split, placement: Placement
    ) -> None:
        self.recipe, self.train, self.val, self.placement = recipe, train, val, placement
        self.preprocess = preprocess_of(tower)
        self.pixels = pixel_spec(self.preprocess)
        self.tokenizer = learn_tokenizer(train.captions)
        self.config = copy.deepcopy(tower.architecture or {})
        self.config["text_cfg"] |= {"vocab_size": len(self.tokenizer), "hf_tokenizer_name": "beside the weights"}
        torch.manual_seed(recipe.seed)
        self.model = CLIP(**self.config).to(placement.device)
        self.tokens, self.val_tokens = self._tokenized(train.captions), self._tokenized(val.captions)

    def _tokenized(self, texts: list[str]) -> torch.Tensor:
        longest = int(self.config["text_cfg"]["context_length"])
        encoded = self.tokenizer(texts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
        return encoded.input_ids

    def run(self, pictures: PixelStore, val_pictures: PixelStore, scratch: Scratch) -> list[dict[str, float]]:
        def loss_of(batch: Batch) -> torch.Tensor:
            rows, captions = batch
            image = torch.nn.functional.normalize(self._image(pictures[rows]), dim=-1)
            text = torch.nn.functional.normalize(self._text(self.tokens[captions]), dim=-1)
            scale = self.model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
            return symmetric_cross_entropy(scale * image @ text.T)

        def validate() -> dict[str, float]:
            return {"val_hit_at_10": self._hit_at_10(val_pictures)}

        return fit(self.model, self.recipe, self.train.captions_of, loss_of, validate, scratch)

    def _image(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image(normalised(pictures, self.pixels, self.placement))

    def _text(self, tokens: torch.Tensor) -> torch.Tensor:
        return encode_text(self.model, tokens.to(self.placement.device))

    @torch.inference_mode()
    def _hit_at_10(self, pictures: PixelStore) -> float:
        """Share of the validation captions whose picture is among the ten nearest; equal scores count as nearer."""
        rows = np.arange(len(pictures))
        image = torch.cat([self._image(pictures[rows[i : i + 64]]) for i in range(0, len(rows), 64)])
        text = torch.cat([self._text(self.val_tokens[i : i + 256]) for i in range(0, len(self.val_tokens), 256)])
        scores = torch.nn.functional.normalize(text, dim=-1) @ torch.nn.functional.normalize(image, dim=-1).T
        own = np.concatenate([np.full(len(c), picture) for picture, c in enumerate(self.val.captions_of)])
        mine = scores[torch.arange(len(own)), torch.from_numpy(own)]
        return float(((scores >= mine[:, None]).sum(dim=1) <= 10).float().mean())

    def write(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        config = {"model_cfg": self.config, "preprocess_cfg": self.preprocess}
        (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights = {name: value.cpu().contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, out / "open_clip_model.safetensors")
        self.tokenizer.save_pretrained(out)


def symmetric_cross_entropy(logits: Float32[torch.Tensor, "pictures texts"]) -> torch.Tensor:
    """InfoNCE both ways: row i of pictures belongs to column i of texts (Radford et al. 2021, figure 3)."""
    own = torch.arange(len(logits), device=logits.device)
    by_picture = torch.nn.functional.cross_entropy(logits, own)
    return (by_picture + torch.nn.functional.cross_entropy(logits.T, own)) / 2
