"""References: the path that a library itself takes from pictures and texts to vectors, with the weights that we loaded.

Our encoders decode, resize, normalise and pad in their own way, because that is faster; what they make has to be what
the library's own transforms and tokenizer make. Each module offers `build` for a family of the same name. Families
without one have no path of their own to compare with: the pooled regions of a detector, and vectors of single words.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from twinlens.config.models import Tower

if TYPE_CHECKING:
    from twinlens.core.device import Placement
    from twinlens.models.encoders.base import LoadedEncoders
    from twinlens.models.references.base import Reference


def build(tower: Tower, path: Path, loaded: LoadedEncoders, placement: Placement) -> Reference | None:
    """Build the reference of a tower; None where its family has none.

    Args:
        tower: the card's tower.
        path: its weights.
        loaded: the encoders, whose model it shares.
        placement: where they run.
    """
    if not has_own_path(tower.family):
        return None
    found: Reference = import_module(f"{__name__}.{tower.family}").build(tower, path, loaded, placement)
    return found


def has_own_path(family: str) -> bool:
    """Whether a family's library has a path of its own."""
    return find_spec(f"{__name__}.{family}") is not None
