"""Training of joint models' towers, from nothing or from pretrained weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from twinlens.config.models import OpenClipTower, TransformersTower
from twinlens.config.training import TowerRecipe
from twinlens.core.device import Placement
from twinlens.core.errors import ParamsError
from twinlens.core.scratch import Scratch
from twinlens.images.transforms import PixelSpec
from twinlens.models import encoders
from twinlens.models.encoders.base import normalise_pixels
from twinlens.models.weights import identify_weights
from twinlens.training.contrastive import DualEncoder, Inputs, Temperature, View, freeze, train_dual_encoder
from twinlens.training.data import TrainingData, TrainingResult, fingerprint_training
from twinlens.training.loop import count_steps
from twinlens.training.tokenizer import learn_tokenizer

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class JointModel:
    """A joint model as training needs it, whichever library it comes from."""

    module: torch.nn.Module
    image: list[torch.nn.Module | torch.nn.Parameter]  # the parts of each tower, to be frozen
    text: list[torch.nn.Module | torch.nn.Parameter]
    pixels: PixelSpec
    tokenize: Callable[[list[str]], torch.Tensor]  # token numbers, whatever the library adds in a second plane
    encode_image: Callable[[torch.Tensor], torch.Tensor]  # of normalised pixels
    encode_text: Callable[[torch.Tensor], torch.Tensor]  # of tokens that `cut` has seen
    cut: Callable[[torch.Tensor], torch.Tensor]  # what all texts of a batch have as padding, where that changes nothing
    write: Callable[[Path], None]  # in the library's own layout
    checkpoint_layers: Callable[[], None]
    weights: dict[str, Any] | None  # what identifies the pretrained ones; None: from nothing


class TokenRows:
    """Token numbers of texts, a batch at a time, without padding that none of it needs.

    It is cut on the CPU: to ask a GPU how long a batch is would mean to wait for it.
    """

    def __init__(self, model: JointModel, texts: list[str]) -> None:
        self.tokens, self.cut = model.tokenize(texts), model.cut

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Int[np.ndarray, " batch"]) -> torch.Tensor:
        return self.cut(self.tokens[rows])


def train_towers(
    tower: OpenClipTower | TransformersTower,
    recipe: TowerRecipe,
    material: TrainingData,
    placement: Placement,
    out: Path,
) -> TrainingResult:
    """Train a joint model; write it in its library's own layout into `out / "weights"`.

    A model that begins from nothing is written as it began, too, into `out / "untrained"`.

    Raises:
        DataError: the splits cannot be trained on, a loss is useless, or the vectors collapse.
        ParamsError: the recipe asks for what the model cannot do.
    """
    train, val = material.splits()
    count_steps(recipe, len(train.pictures))  # refused before anything is loaded
    torch.manual_seed(recipe.seed)
    model = build(tower, recipe, train.captions, placement)
    card = {"tower": tower.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json"), "begin": model.weights}
    key = fingerprint_training(card, train, val, placement, __name__)
    if model.weights is None:
        model.write(out / "untrained")
    pair = _pair(model, recipe, placement)
    with Scratch("train", key) as scratch:
        joined = recipe.joined_share > 0
        texts = train.captions + (train.join_captions() if joined else [])
        taught = Inputs.of(train, material.store(train, model.pixels), TokenRows(model, texts), joined)
        held_out = Inputs.of(val, material.store(val, model.pixels), TokenRows(model, val.captions))
        rows = train_dual_encoder(pair, recipe, taught, held_out, placement, scratch)
        learnt = {"logit_scale": pair.temperature.log_scale, "logit_bias": pair.temperature.bias}
        for name, value in learnt.items():  # goes where the library keeps it
            kept = getattr(model.module, name, None)
            if isinstance(kept, torch.nn.Parameter) and value is not None:
                with torch.no_grad():
                    kept.copy_(value.reshape(kept.shape))
        model.write(out / "weights")
        return TrainingResult(rows, scratch.total("seconds"), len(train.pictures))


def _pair(model: JointModel, recipe: TowerRecipe, placement: Placement) -> DualEncoder:
    norms = sum(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in model.module.modules())
    if recipe.part_size is not None and norms:
        raise ParamsError(
            f"train.part_size: the model has {norms} batch norms, which would take their statistics from each part "
            "instead of the whole batch: leave it out, or lower train.batch_size"
        )
    scale, bias = (getattr(model.module, name, None) for name in ("logit_scale", "logit_bias"))
    temperature = Temperature(
        recipe,
        None if scale is None else float(scale.detach()),
        None if bias is None else float(bias.detach()),
    ).to(placement.device)
    for unused in (scale, bias):  # the temperature stands for them
        if isinstance(unused, torch.nn.Parameter):
            unused.requires_grad_(False)
    frozen = {"image": model.image, "text": model.text}.get(recipe.freeze or "", [])
    for part in frozen:
        freeze(part) if isinstance(part, torch.nn.Module) else part.requires_grad_(False)
    if recipe.checkpointing:
        model.checkpoint_layers()
    view = View(
        "both",
        "both",
        lambda pictures: model.encode_image(normalise_pixels(pictures, model.pixels, placement)),
        lambda tokens: model.encode_text(tokens.to(placement.device)),
    )
    module = torch.nn.ModuleDict({"model": model.module, "temperature": temperature})
    return DualEncoder(module, [view], temperature, recipe.part_size)


def build(
    tower: OpenClipTower | TransformersTower, recipe: TowerRecipe, captions: list[str], placement: Placement
) -> JointModel:
    """Build the model of a card as it is before training."""
    if isinstance(tower, TransformersTower):
        return _transformers(tower, recipe, placement)
    if tower.open_clip == "custom" and tower.checkpoint is None:
        return _from_nothing(tower, recipe, captions, placement)
    return _open_clip(tower, recipe, placement)


def make_preprocess(tower: OpenClipTower) -> dict[str, Any]:
    """Build the transform of a model of one's own: the whole picture, squashed to the size it reads."""
    assert tower.architecture is not None
    size = tower.architecture["vision_cfg"]["image_size"]
    return {"size": [size, size], "mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}


def _from_nothing(tower: OpenClipTower, recipe: TowerRecipe, captions: list[str], placement: Placement) -> JointModel:
    from open_clip.model import CLIP
    from open_clip.modified_resnet import AttentionPool2d

    from twinlens.models.encoders.open_clip import read_pixel_spec

    tokenizer, preprocess = learn_tokenizer(captions), make_preprocess(tower)
    config = copy.deepcopy(tower.architecture or {})
    config["text_cfg"] |= {"vocab_size": len(tokenizer), "hf_tokenizer_name": "beside the weights"}
    longest = int(config["text_cfg"]["context_length"])
    if recipe.caption_tokens is not None:
        longest = min(longest, recipe.caption_tokens)

    def tokenize(texts: list[str]) -> torch.Tensor:
        return tokenizer(
            texts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        ).input_ids

    model = CLIP(**config).to(placement.device)
    if isinstance(getattr(model.visual, "attnpool", None), AttentionPool2d):
        model.visual.attnpool.forward = partial(pool_by_attention, model.visual.attnpool)
    if placement.device.type == "cpu":
        model = model.to(memory_format=torch.channels_last)  # a fifth of a step's time off convolutions
    return _of_open_clip(model, read_pixel_spec(preprocess), tokenize, config, preprocess, tokenizer, None)


def pool_by_attention(pool: Any, x: Float[torch.Tensor, "images width height columns"]) -> torch.Tensor:
    """What open_clip's `AttentionPool2d` gives, by one query a picture.

    It asks by every place of the picture and keeps what the mean of them found: this asks by the mean alone. Matrices
    of queries and of outcomes are a tenth of a small ResNet's products.
    """
    places = x.flatten(2).permute(2, 0, 1)  # (places, images, width)
    places = torch.cat([places.mean(dim=0, keepdim=True), places]) + pool.positional_embedding[:, None].to(x.dtype)
    images = places.shape[1]

    def by_head(rows: torch.Tensor) -> torch.Tensor:
        return rows.view(len(rows), images, pool.num_heads, -1).permute(1, 2, 0, 3)

    found = torch.nn.functional.scaled_dot_product_attention(
        by_head(pool.q_proj(places[:1])), by_head(pool.k_proj(places)), by_head(pool.v_proj(places))
    )
    pooled: torch.Tensor = pool.c_proj(found.reshape(images, -1))
    return pooled


def _open_clip(tower: OpenClipTower, recipe: TowerRecipe, placement: Placement) -> JointModel:
    import open_clip

    path = encoders.locate(tower)
    loaded: Any = encoders.load(tower, path, placement)
    model, tokenizer = loaded.image.model, loaded.text.tokenizer
    if path.is_dir():
        config = json.loads((path / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    else:
        config = open_clip.get_model_config(tower.open_clip)
    longest = int(model.context_length)
    if recipe.caption_tokens is not None:
        if getattr(model, "attn_mask", None) is None:
            raise ParamsError(f"train.caption_tokens: {tower.open_clip} reads its texts padded to {longest} tokens")
        longest = min(longest, recipe.caption_tokens)
    kept = getattr(tokenizer, "tokenizer", None)  # of transformers; open_clip's own needs no file
    preprocess = dict(model.visual.preprocess_cfg)
    return _of_open_clip(
        model,
        loaded.image.pixels,
        lambda texts: tokenizer(texts, context_length=longest),
        config,
        preprocess,
        kept,
        identify_weights(path),
    )


def _of_open_clip(
    model: Any,
    pixels: PixelSpec,
    tokenize: Callable[[list[str]], torch.Tensor],
    config: dict[str, Any],
    preprocess: dict[str, Any],
    tokenizer: Any,
    weights: dict[str, Any] | None,
) -> JointModel:
    from open_clip.model import CLIP
    from open_clip.transformer import text_global_pool
    from safetensors.torch import save_model

    def write(out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        content = {"model_cfg": config, "preprocess_cfg": preprocess}
        (out / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        save_model(model, str(out / "open_clip_model.safetensors"))
        if tokenizer is not None:
            tokenizer.save_pretrained(out)

    # A causal tower that pools at the end token is exact without what follows (`open_clip.encode_text` of `models`).
    causal = isinstance(model, CLIP) and model.attn_mask is not None and model.text_pool_type in ("argmax", "eos")

    def cut(tokens: torch.Tensor) -> torch.Tensor:
        if not causal:
            return tokens
        ends = tokens if model.text_pool_type == "argmax" else (tokens == model.text_eos_id).int()
        return tokens[:, : int(ends.argmax(dim=-1).max()) + 1]

    def encode_text(tokens: torch.Tensor) -> torch.Tensor:
        if not causal:
            found: torch.Tensor = model.encode_text(tokens)
            return found
        length, dtype = tokens.shape[1], model.transformer.get_cast_dtype()
        x = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        x = text_global_pool(model.ln_final(x), tokens, model.text_pool_type, eos_token_id=model.text_eos_id)
        projection = model.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, torch.nn.Linear) else x @ projection

    text = [module for name, module in model.named_children() if name != "visual"]
    text += [parameter for name, parameter in model.named_parameters(recurse=False) if not name.startswith("logit_")]
    return JointModel(
        module=model,
        image=[model.visual],
        text=text,
        pixels=pixels,
        tokenize=tokenize,
        encode_image=model.encode_image,
        encode_text=encode_text,
        cut=cut,
        write=write,
        checkpoint_layers=lambda: model.set_grad_checkpointing(True),
        weights=weights,
    )


def _transformers(tower: TransformersTower, recipe: TowerRecipe, placement: Placement) -> JointModel:
    from transformers import AutoImageProcessor

    from twinlens.models.encoders.transformers import pool_output

    path = encoders.locate(tower)
    loaded: Any = encoders.load(tower, path, placement)
    if loaded.image is None or not hasattr(loaded.image.model, "vision_model"):
        raise ParamsError(f"{tower.transformers} has no pair of towers that can be trained here")
    model, text = loaded.image.model, loaded.text
    longest = text.max_tokens
    if recipe.caption_tokens is not None:
        if text.siglip:
            raise ParamsError(f"train.caption_tokens: {tower.transformers} reads its texts padded to {longest} tokens")
        longest = min(longest, recipe.caption_tokens)

    def tokenize(texts: list[str]) -> torch.Tensor:
        encoded = text.tokenizer(
            [text.prompt + words for words in texts],
            padding="max_length",
            truncation=True,
            max_length=longest,
            return_tensors="pt",
            return_attention_mask=True,
        )
        return torch.stack([encoded.input_ids, encoded.attention_mask], dim=1)  # (texts, 2, tokens)

    def encode_text(tokens: torch.Tensor) -> torch.Tensor:
        if text.siglip:  # trained on full padding, without a mask
            return pool_output(model.get_text_features(input_ids=tokens[:, 0]))
        return pool_output(model.get_text_features(input_ids=tokens[:, 0], attention_mask=tokens[:, 1]))

    def cut(tokens: torch.Tensor) -> torch.Tensor:
        return tokens if text.siglip else tokens[:, :, : int(tokens[:, 1].sum(dim=1).max())]

    def write(out: Path) -> None:
        model.save_pretrained(out)
        text.tokenizer.save_pretrained(out)
        AutoImageProcessor.from_pretrained(path).save_pretrained(out)

    parts = {
        side: [getattr(model, name) for name in names if hasattr(model, name)]
        for side, names in {
            "image": ("vision_model", "visual_projection"),
            "text": ("text_model", "text_projection"),
        }.items()
    }
    return JointModel(
        module=model,
        image=parts["image"],
        text=parts["text"],
        pixels=loaded.image.pixels,
        tokenize=tokenize,
        encode_image=lambda pixels: pool_output(model.get_image_features(pixel_values=pixels)),
        encode_text=encode_text,
        cut=cut,
        write=write,
        checkpoint_layers=model.gradient_checkpointing_enable,
        weights=identify_weights(path),
    )
