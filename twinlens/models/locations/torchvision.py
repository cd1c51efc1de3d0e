"""Location of torchvision detectors' weights: the library's own, or a local checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twinlens.config.models import TorchvisionTower
from twinlens.core.download import RemoteFile, download
from twinlens.core.errors import ParamsError, suggest_nearest
from twinlens.core.paths import downloads
from twinlens.models.locations import recall_answer
from twinlens.models.weights import find_local_checkpoint


def locate(card: TorchvisionTower) -> Path:
    """Locate the weights' file.

    Raises:
        ParamsError: torchvision has no such weights.
        FetchError: they cannot be had.
    """
    answer: dict[str, Any] = {}
    if card.weights is not None:
        answer = recall_answer("torchvision", [card.torchvision, card.weights], lambda: _ask(card))
    if (path := find_local_checkpoint(card)) is not None:
        return path
    url = str(answer["url"])
    name = url.rsplit("/", 1)[-1]
    prefix = name.rsplit(".", 1)[0].rsplit("-", 1)[-1]  # torch.hub's custom: name-<first digits of its SHA-256>.pth
    advice = " Or fetch it elsewhere and name the file as `checkpoint` on the card"
    return download(RemoteFile(name, sha256=card.sha256 or prefix), url, downloads() / "torchvision", advice=advice)


def _ask(card: TorchvisionTower) -> dict[str, Any]:
    """Where the card's weights are published."""
    from torchvision.models import get_model_weights

    known = get_model_weights(card.torchvision).__members__
    if card.weights not in known:
        raise ParamsError(
            f"torchvision's {card.torchvision} has no weights '{card.weights}' "
            f"({suggest_nearest(str(card.weights), known)})"
        )
    return {"url": str(known[str(card.weights)].url)}
