"""Contrastive objectives: they bring matching pictures and texts together, each on one batch of pairs.

Row i of the pictures belongs to row i of the texts; every other row of the batch is a negative. All
are means over the batch, so a batch of another size has a loss of the same magnitude.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from twinlens.config.training import ContrastiveRecipe

Vectors = Float[torch.Tensor, "pairs dim"]
Table = Float[torch.Tensor, "pictures texts"]
Anchors = Literal["both", "pictures", "texts"]


def clip(logits: Table) -> torch.Tensor:
    """InfoNCE both ways: row i of pictures belongs to column i of texts (Radford et al. 2021, figure 3)."""
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def siglip(logits: Table) -> torch.Tensor:
    """A sigmoid for every pair of the batch, summed over texts, mean over pictures (Zhai et al. 2023, eq. 1)."""
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -logsigmoid(signs * logits).sum(dim=1).mean()


def margin_pairs(distances: Table, margin: float, others: Bool[torch.Tensor, "pictures texts"]) -> torch.Tensor:
    """Margin loss: d^2 / 2 of matching pairs, max(0, margin - d)^2 / 2 of others (Hadsell et al. 2006, eq. 4).

    Both kinds weigh the same: means over the pairs of each are added, as a batch of n has n of one
    kind and n (n - 1) of the other.
    """
    apart = (margin - distances).clamp(min=0).square()
    pushed = (apart * others).sum() / others.sum().clamp(min=1)  # no choice of rows, which a GPU would stop for
    return 0.5 * distances.diagonal().square().mean() + 0.5 * pushed


def triplet(
    distances: Table, margin: float, negatives: str, others: Bool[torch.Tensor, "pictures texts"]
) -> torch.Tensor:
    """Mean over anchors of max(0, d(anchor, match) - d(anchor, negative) + margin); rows are the anchors.

    Args:
        distances: of every picture to every text.
        margin: by which a negative should be farther than the match.
        negatives: `random`: one drawn evenly; `all`: the mean over all; `hardest`: the nearest (VSE++,
            Faghri et al. 2018); `semi_hard`: the nearest of those farther than the match, or the farthest
            where none is (FaceNet, Schroff et al. 2015).
        others: which pairs are negatives.
    """
    match = distances.diagonal()[:, None]
    if negatives == "all":
        hinge = (match - distances + margin).clamp(min=0) * others
        return (hinge.sum(dim=1) / others.sum(dim=1).clamp(min=1)).mean()
    with torch.no_grad():
        chosen, found = _choose(distances, match, negatives, others)
    negative = distances.gather(1, chosen[:, None])
    hinge = (match - negative + margin).clamp(min=0)[:, 0]
    return (hinge * found).sum() / found.sum().clamp(min=1)


def _choose(
    distances: torch.Tensor, match: torch.Tensor, negatives: str, others: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The column of each row's negative, and whether it has any."""
    if negatives == "random":
        chance = torch.rand(distances.shape, device=distances.device).masked_fill(~others, -1.0)
        return chance.argmax(dim=1), others.any(dim=1)
    nearest = distances.masked_fill(~others, torch.inf)
    if negatives == "hardest":
        return nearest.argmin(dim=1), others.any(dim=1)
    farther = nearest.masked_fill(distances <= match, torch.inf)
    farthest = distances.masked_fill(~others, -torch.inf).argmax(dim=1)
    some = farther.isfinite().any(dim=1)
    return torch.where(some, farther.argmin(dim=1), farthest), others.any(dim=1)


def compute_distances(pictures: Vectors, texts: Vectors, kind: str) -> Table:
    """Compute the distance of every picture to every text.

    Args:
        pictures: of any length; `cosine` looks at directions only.
        texts: the same.
        kind: `cosine` (1 - cosine), `euclidean` or `squared_euclidean`.
    """
    if kind == "cosine":
        return 1.0 - normalize(pictures, dim=-1) @ normalize(texts, dim=-1).T
    squared = pictures.square().sum(1)[:, None] + texts.square().sum(1)[None] - 2.0 * pictures @ texts.T
    if kind == "squared_euclidean":
        return squared.clamp(min=0)
    return squared.clamp(min=1e-12).sqrt()  # the slope of a root is infinite at zero


def compute_loss(
    recipe: ContrastiveRecipe,
    pictures: Vectors,
    texts: Vectors,
    names: torch.Tensor,
    scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    anchors: Anchors = "both",
) -> torch.Tensor:
    """Compute the recipe's loss of a batch.

    Args:
        recipe: the objective and what belongs to it.
        pictures: row i matches row i of `texts`.
        texts: see there.
        names: (pairs,), a number for each picture: a picture drawn twice is no negative of itself in
            `margin` and `triplet`. (InfoNCE and the sigmoid count it as one, as the published ones do.)
        scale: inverse of the temperature; of `clip` and `siglip`.
        bias: of `siglip`.
        anchors: of `triplet`; the other objectives look both ways at once.
    """
    if recipe.objective in ("clip", "siglip"):
        assert scale is not None
        logits = scale * normalize(pictures, dim=-1) @ normalize(texts, dim=-1).T
        return clip(logits) if recipe.objective == "clip" else siglip(logits if bias is None else logits + bias)
    distances, others = compute_distances(pictures, texts, recipe.distance), names[:, None] != names[None]
    if recipe.objective == "margin":
        return margin_pairs(distances, recipe.margin, others)
    sides = {"pictures": distances, "texts": distances.T}
    wanted = list(sides) if anchors == "both" else [anchors]
    losses = [triplet(sides[side], recipe.margin, recipe.negatives, others) for side in wanted]
    return torch.stack(losses).mean()
