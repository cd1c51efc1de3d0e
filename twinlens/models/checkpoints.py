"""Checkpoints of a model: the weights that `train` left, or those that it noted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twinlens.config.models import ModelCard
from twinlens.config.training import HeadsRecipe, TowerRecipe
from twinlens.core.absence import advise
from twinlens.core.errors import DataError
from twinlens.models import encoders
from twinlens.models.weights import identify_weights


def locate_weights(role: str, card: ModelCard, trained: Path) -> Path:
    """Locate a tower's weights.

    Args:
        role: `joint`, `image` or `text`, one of `card.towers()`.
        card: the model's card.
        trained: the folder that `train` left, of the model on a dataset.

    Raises:
        DataError: `train` has not run, or the weights of a pretrained tower are not those that it noted.
        FetchError: the weights cannot be had.
    """
    if isinstance(card.train, TowerRecipe):
        return _there(trained / "weights")
    return _pretrained(role, card, trained)


def locate_initial_weights(role: str, card: ModelCard, trained: Path) -> Path:
    """Locate the weights that a trained tower began with; raises as `locate_weights` does."""
    if card.from_nothing:
        return _there(trained / "untrained")
    return _pretrained(role, card, trained)


def locate_heads(trained: Path, before: bool = False) -> Path:
    """Locate the folder of a model's heads, or of what they were before training.

    Raises:
        DataError: `train` has not run.
    """
    return _there(trained / ("untrained" if before else "weights"))


def identify_all_weights(card: ModelCard, trained: Path) -> dict[str, Any]:
    """Identify the weights of each tower, by role, and of `heads`: digests or a commit of the hub.

    Raises:
        DataError: `train` has not run.
    """
    if isinstance(card.train, TowerRecipe):
        return {role: identify_weights(_there(trained / "weights")) for role in card.towers()}
    found: dict[str, Any] = json.loads(_there(trained / "weights.json").read_text(encoding="utf-8"))
    if isinstance(card.train, HeadsRecipe):
        found["heads"] = identify_weights(_there(trained / "weights"))
    return found


def _pretrained(role: str, card: ModelCard, trained: Path) -> Path:
    noted = json.loads(_there(trained / "weights.json").read_text(encoding="utf-8"))
    tower = card.towers()[role]
    path = encoders.locate(tower)
    if encoders.identify(tower, path) != noted[role]:
        raise DataError(f"{path} is not what `train` found there: `dvc repro -f train`")
    return path


def _there(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path} is not here: {advise('`dvc repro train` makes it, `dvc pull` fetches it')}")
    return path
