"""Encoders of pictures and of texts, chosen by the card's key.

A family's module offers `locate` and `load`; it is imported only when a card of that family is
used, because the libraries behind it take seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinlens.config.models import Tower
from twinlens.models.weights import identify_weights

if TYPE_CHECKING:
    from twinlens.core.device import Placement
    from twinlens.models.encoders.base import LoadedEncoders


def locate(tower: Tower) -> Path:
    """Locate a tower's weights, fetched if need be.

    Raises:
        ParamsError: the card names something its library does not have.
        FetchError: the weights cannot be had.
    """
    path: Path = import_module(f"{__name__}.{tower.family}").locate(tower)
    return path


def identify(tower: Tower, path: Path) -> dict[str, Any]:
    """Identify a tower's weights: digests, a commit of the hub or, where a family has none, what stands for them.

    Args:
        tower: the card's tower.
        path: what `locate` found.
    """
    own = getattr(import_module(f"{__name__}.{tower.family}"), "identify", None)
    found: dict[str, Any] = identify_weights(path) if own is None else own(tower, path)
    return found


def load(tower: Tower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Load the encoders of a tower, in eval mode.

    Args:
        tower: the card's tower.
        path: what `locate` found, or the folder in which `train` left the weights.
        placement: device and dtype.
        random_weights: build the architecture only, to measure speed.

    Raises:
        DataError: the weights are not those of the card.
    """
    loaded: LoadedEncoders = import_module(f"{__name__}.{tower.family}").load(tower, path, placement, random_weights)
    return loaded
