"""A card with heads on two tiny frozen towers, and what is embedded by them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.models.encoders.test_timm import save
from tests.tiny import CPU
from twinlens.config.models import ModelCard, TimmTower, WordVectorsTower
from twinlens.config.params import ComputeParams
from twinlens.config.training import HeadsRecipe
from twinlens.core.costs import Cost
from twinlens.inference.features import Features, load_features
from twinlens.models import encoders
from twinlens.training.data import TrainingData

COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=None, text_batch=None)
WIDTH = 24  # of the word vectors


def write_towers(folder: Path, material: TrainingData) -> tuple[TimmTower, Path]:
    """A timm model with random weights, and random vectors for every word of the captions."""
    words = sorted(set(re.findall(r"\w+", " ".join(material.captions["text"]).lower())))
    rows = np.random.default_rng(0).normal(size=(len(words), WIDTH)).round(3)
    lines = [f"{word} {' '.join(map(str, row))}" for word, row in zip(words, rows, strict=True)]
    path = folder / "words.vec"
    path.write_text(f"{len(words)} {WIDTH}\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return save("test_resnet", folder), path


def card(towers: tuple[TimmTower, Path], pooling: Literal["mean", "none"] = "mean", **fields: Any) -> ModelCard:
    """Heads on those towers; `pooling: none` is read by an LSTM."""
    usual: dict[str, Any] = {"objective": "clip", "epochs": 8, "batch_size": 32, "learning_rate": 0.01}
    heads = {"dim": 16, "text": "lstm" if pooling == "none" else "mlp", "lstm_width": 24} | fields.pop("heads", {})
    train = HeadsRecipe.model_validate(usual | {"heads": heads} | fields)
    words = WordVectorsTower(word_vectors=str(towers[1]), pooling=pooling, max_words=24)
    return ModelCard(image=towers[0], text=words, train=train)


def features(model: ModelCard) -> Features:
    """What its heads read."""
    weights = {role: encoders.locate(tower) for role, tower in model.towers().items()}
    return load_features(model, weights, CPU, COMPUTE, Cost())
