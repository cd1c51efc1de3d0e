"""The weights that a model's vectors were made with: those that `train` left, or those that it noted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twinlens import encoders, paths
from twinlens.cards import ModelCard
from twinlens.encoders.weights import identity
from twinlens.errors import DataError


def weights_of(role: str, card: ModelCard, dataset: str, model: str) -> Path:
    """Where a tower's weights are.

    Args:
        role: `joint`, `image` or `text`, one of `card.towers()`.
        card: the model's card.
        dataset: its name; weights that are trained here are trained on it.
        model: the model's name.

    Raises:
        DataError: `train` has not run, or the weights of a pretrained tower are not those that it noted.
        FetchError: the weights cannot be had.
    """
    trained = paths.trained(dataset, model)
    if card.train is not None:
        if not (trained / "weights").exists():
            raise DataError(f"{trained / 'weights'} is not here: `dvc repro train` makes it, `dvc pull` fetches it")
        return trained / "weights"
    path = encoders.locate(card.towers()[role])
    if identity(path) != weights_identity(card, dataset, model)[role]:
        raise DataError(f"{path} is not what `train` found there: `dvc repro -f train`")
    return path


def weights_identity(card: ModelCard, dataset: str, model: str) -> dict[str, Any]:
    """What identifies the weights of each tower, by role: digests or a commit of the hub.

    Raises:
        DataError: `train` has not run.
    """
    trained = paths.trained(dataset, model)
    noted = trained / ("weights" if card.train is not None else "weights.json")
    if not noted.exists():
        raise DataError(f"{noted} is not here: `dvc repro train` makes it, `dvc pull` fetches it")
    if card.train is not None:
        return {role: identity(noted) for role in card.towers()}
    found: dict[str, Any] = json.loads(noted.read_text(encoding="utf-8"))
    return found
