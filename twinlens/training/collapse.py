"""Collapse detection: every picture, or every caption, ends in the same point.

A triplet loss then rests at its margin and looks as if it had converged, which is how source 002
published figures of a random ranking. So the spread of the vectors is recorded after every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from twinlens.config.training import ContrastiveRecipe, HeadsRecipe

TOO_CLOSE = 0.995  # mean pairwise cosine
NEAR_CHANCE = 2.0  # times the hits of a ranking at random


def measure_spread(vectors: Float[torch.Tensor, "rows dim"], side: str) -> dict[str, float]:
    """Compute `<side>_variance`, a dimension's mean variance, and `<side>_cosine`, the mean over all pairs of rows."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    count = len(unit)
    of_all = float(unit.sum(dim=0).square().sum())  # of every row with every row, itself included
    cosine = (of_all - count) / (count * (count - 1)) if count > 1 else 0.0
    return {f"{side}_variance": float(vectors.double().var(dim=0, correction=0).mean()), f"{side}_cosine": cosine}


def describe_collapse(figures: Mapping[str, float], recipe: ContrastiveRecipe, chance: float) -> str | None:
    """Describe what has collapsed and why; None where nothing has.

    Vectors that are close together but still found (those of a CLIP are) have not collapsed.

    Args:
        figures: of an epoch: `measure_spread` of both sides, and `val_hit_at_10`.
        recipe: what the likely causes are read from.
        chance: `val_hit_at_10` of a ranking at random.
    """
    flat = [side for side in ("image", "text") if figures[f"{side}_cosine"] > TOO_CLOSE]
    near = min(NEAR_CHANCE * chance, (1.0 + chance) / 2)  # of few pictures, twice chance is more than all
    if not flat or figures["val_hit_at_10"] > near:
        return None
    what = " and ".join(f"{side} vectors (mean pairwise cosine {figures[f'{side}_cosine']:.4f})" for side in flat)
    return (
        f"the {what} have collapsed into one point: val_hit_at_10 is {figures['val_hit_at_10']:.3f}, "
        f"a ranking at random has {chance:.3f}. Likely: {'; '.join(_causes(recipe))}"
    )


def _causes(recipe: ContrastiveRecipe) -> list[str]:
    found = []
    if isinstance(recipe, HeadsRecipe):
        heads = recipe.heads
        if not heads.unit_length and recipe.objective in ("triplet", "margin"):
            found.append(
                f"distances of vectors of any length against a margin of {recipe.margin:g} (heads.unit_length: true)"
            )
        if not heads.unit_input:
            found.append("towers' vectors taken as they are (heads.unit_input: true)")
        if max(heads.image_dropout, heads.text_dropout) >= 0.3:
            found.append("dropout on the vectors that are compared (lower heads.image_dropout)")
    if recipe.objective == "triplet" and recipe.negatives == "hardest":
        found.append("hardest negatives before anything is learnt (negatives: semi_hard, or a smaller margin)")
    if recipe.objective == "triplet" and recipe.negatives == "random":
        found.append("one easy negative an anchor (negatives: semi_hard, or objective: clip)")
    return [*found, f"a learning rate too high or too low ({recipe.learning_rate:g})"]
