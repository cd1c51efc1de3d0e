"""Encoders of pictures and of texts, chosen by the card's key.

A family's module offers `load`, and imports its library, which takes seconds: so it is imported only when something
is loaded. Its `locate` stands in a module of the same name in `twinlens.models.locations`, which imports none; where a
family needs no library, its own module has both.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from twinlens.config.models import Tower
from twinlens.models import locations
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
    path: Path = _import_without_library(tower.family).locate(tower)
    return path


def identify(tower: Tower, path: Path) -> dict[str, Any]:
    """Identify a tower's weights: digests, a commit of the hub or, where a family has none, what stands for them.

    Args:
        tower: the card's tower.
        path: what `locate` found.
    """
    own = getattr(_import_without_library(tower.family), "identify", None)
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


def _import_without_library(family: str) -> ModuleType:
    light = f"{locations.__name__}.{family}"
    return import_module(light if find_spec(light) is not None else f"{__name__}.{family}")
