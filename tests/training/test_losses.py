"""Every objective against a plain loop over pairs, on batches in which a picture may stand twice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from twinlens.config.training import TowerRecipe
from twinlens.training.losses import compute_distances, compute_loss, margin_pairs, siglip, triplet

COUNT, DIM = 7, 5
ALONE = torch.arange(COUNT)  # every picture once
TWICE = torch.tensor([0, 1, 2, 1, 4, 5, 0])
SEEDS = range(4)

Rows = list[list[float]]


def batch(seed: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of pictures and of texts, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    pictures, texts = torch.randn(2, COUNT, DIM, generator=generator) * scale
    return pictures, texts


def recipe(objective: str, **fields: Any) -> TowerRecipe:
    usual = {"epochs": 1, "batch_size": 2, "learning_rate": 1.0}
    return TowerRecipe.model_validate({"objective": objective} | usual | fields)


def distance(a: list[float], b: list[float], kind: str) -> float:
    if kind == "cosine":
        return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    apart = math.dist(a, b)
    return apart if kind == "euclidean" else apart**2


def cosine(a: list[float], b: list[float]) -> float:
    return 1 - distance(a, b, "cosine")


# ---------------------------------------------------------------- distances


@pytest.mark.parametrize("kind", ["cosine", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("seed", SEEDS)
def test_distances_are_those_of_every_pair(kind: str, seed: int) -> None:
    pictures, texts = batch(seed, scale=3.0)
    wanted = [[distance(a, b, kind) for b in texts.tolist()] for a in pictures.tolist()]
    assert torch.allclose(compute_distances(pictures, texts, kind), torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def test_distances_by_hand() -> None:
    pictures, texts = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 4.0], [6.0, 0.0]])
    assert compute_distances(pictures, texts, "cosine").tolist() == [[1, 0], [0, 1]]
    assert compute_distances(pictures, texts, "euclidean")[0].tolist() == pytest.approx([5, 3])
    assert compute_distances(pictures, texts, "squared_euclidean").tolist() == [[25, 9], [9, 37]]


# ---------------------------------------------------------------- over the whole batch


@pytest.mark.parametrize("seed", SEEDS)
def test_clip_is_the_cross_entropy_of_each_row_and_each_column(seed: int) -> None:
    pictures, texts = batch(seed)
    scale = 3.5
    logits = [[scale * cosine(a, b) for b in texts.tolist()] for a in pictures.tolist()]
    losses = [math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(logits)]
    losses += [math.log(sum(map(math.exp, column))) - column[i] for i, column in enumerate(zip(*logits, strict=True))]
    found = compute_loss(recipe("clip"), pictures, texts, ALONE, torch.tensor(scale))
    assert float(found) == pytest.approx(sum(losses) / (2 * COUNT), rel=1e-5)


@pytest.mark.parametrize("bias", [None, -4.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_siglip_is_a_sigmoid_for_every_pair(bias: float | None, seed: int) -> None:
    pictures, texts = batch(seed)
    total = 0.0
    for i, a in enumerate(pictures.tolist()):
        for j, b in enumerate(texts.tolist()):
            logit = 3.5 * cosine(a, b) + (bias or 0.0)
            total += math.log(1 + math.exp(-logit if i == j else logit))
    given = None if bias is None else torch.tensor(bias)
    found = compute_loss(recipe("siglip"), pictures, texts, ALONE, torch.tensor(3.5), given)
    assert float(found) == pytest.approx(total / COUNT, rel=1e-5)


def test_siglip_by_hand() -> None:
    assert float(siglip(torch.zeros(3, 3))) == pytest.approx(3 * math.log(2))  # nine pairs, over three pictures
    assert float(siglip(100 * (2 * torch.eye(3) - 1))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("names", [ALONE, TWICE])
@pytest.mark.parametrize("seed", SEEDS)
def test_margin_pulls_matches_and_pushes_others_to_the_margin(seed: int, names: torch.Tensor, kind: str) -> None:
    pictures, texts = batch(seed)
    pulled, pushed = [], []
    for i, a in enumerate(pictures.tolist()):
        for j, b in enumerate(texts.tolist()):
            apart = distance(a, b, kind)
            if i == j:
                pulled.append(apart**2)
            elif names[i] != names[j]:
                pushed.append(max(0.0, 1.5 - apart) ** 2)
    wanted = (sum(pulled) / len(pulled) + sum(pushed) / len(pushed)) / 2
    found = compute_loss(recipe("margin", margin=1.5, distance=kind), pictures, texts, names)
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_margin_by_hand() -> None:
    distances, others = torch.tensor([[1.0, 0.5], [3.0, 2.0]]), ~torch.eye(2, dtype=torch.bool)
    assert float(margin_pairs(distances, 1.0, others)) == pytest.approx((1 + 4) / 2 / 2 + (0.25 + 0) / 2 / 2)


# ---------------------------------------------------------------- triplets


def hinges(anchors: Rows, others: Rows, names: list[int], kind: str, margin: float, negatives: str) -> list[float]:
    """The loss of every anchor, its negative found by looking at one after the other."""
    found = []
    for i, anchor in enumerate(anchors):
        match = distance(anchor, others[i], kind)
        apart = [distance(anchor, other, kind) for j, other in enumerate(others) if names[j] != names[i]]
        if negatives == "all":
            found.append(sum(max(0.0, match - d + margin) for d in apart) / len(apart))
            continue
        farther = [d for d in apart if d > match]
        chosen = min(apart) if negatives == "hardest" else min(farther) if farther else max(apart)
        found.append(max(0.0, match - chosen + margin))
    return found


@pytest.mark.parametrize("anchors", ["pictures", "texts", "both"])
@pytest.mark.parametrize("negatives", ["all", "hardest", "semi_hard"])
@pytest.mark.parametrize("kind", ["cosine", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("names", [ALONE, TWICE])
def test_triplets_are_those_of_a_plain_loop(names: torch.Tensor, kind: str, negatives: str, anchors: Any) -> None:
    for seed in SEEDS:
        pictures, texts = batch(seed)
        sides = {"pictures": (pictures, texts), "texts": (texts, pictures)}
        wanted = [
            sum(hinges(a.tolist(), b.tolist(), names.tolist(), kind, 0.7, negatives)) / COUNT
            for side, (a, b) in sides.items()
            if anchors in (side, "both")
        ]
        card = recipe("triplet", margin=0.7, distance=kind, negatives=negatives)
        found = compute_loss(card, pictures, texts, names, anchors=anchors)
        assert float(found) == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)


def test_triplets_by_hand() -> None:
    distances, others = torch.tensor([[2.0, 1.0, 2.5], [9.0, 4.0, 3.0], [1.0, 8.0, 0.0]]), ~torch.eye(3).bool()
    hardest = [2 - 1 + 1.0, 4 - 3 + 1.0, 0 - 1 + 1.0]
    semi_hard = [2 - 2.5 + 1, 0.0, 0.0]  # the second row has one at 9 alone that is farther, the third one at 1
    every = [(2.0 + 0.5) / 2, (0 + 2.0) / 2, 0.0]
    for negatives, wanted in (("hardest", hardest), ("semi_hard", semi_hard), ("all", every)):
        assert float(triplet(distances, 1.0, negatives, others)) == pytest.approx(sum(wanted) / 3)


def test_where_no_negative_is_farther_than_the_match_the_farthest_is_taken() -> None:
    distances, others = torch.tensor([[5.0, 1.0, 3.0]]), torch.tensor([[False, True, True]])
    assert float(triplet(distances, 1.0, "semi_hard", others)) == 5 - 3 + 1


def test_random_negatives_are_drawn_evenly_and_are_never_the_picture_itself() -> None:
    distances = torch.arange(float(COUNT)).repeat(COUNT, 1)  # column j is j away, so a loss tells what was drawn
    distances.fill_diagonal_(100.0)
    others = TWICE[:, None] != TWICE[None]
    drawn: dict[int, list[int]] = {row: [] for row in range(COUNT)}
    torch.manual_seed(0)
    for _ in range(600):
        for row in range(COUNT):
            loss = triplet(distances[row : row + 1].roll(-row, 1), 0.0, "random", others[row : row + 1].roll(-row, 1))
            drawn[row].append(round(100 - float(loss)))
    for row, found in drawn.items():
        allowed = {column for column in range(COUNT) if TWICE[column] != TWICE[row]}
        assert set(found) == allowed
        fair = 600 / len(allowed)
        assert all(abs(found.count(column) - fair) < 5 * math.sqrt(fair) for column in allowed)


def test_random_negatives_come_from_the_seed_and_cost_what_a_single_one_does() -> None:
    pictures, texts = batch(0)
    card = recipe("triplet", negatives="random", margin=0.5)
    single = [
        [
            max(0.0, distance(a, texts[i].tolist(), "cosine") - distance(a, b, "cosine") + 0.5)
            for j, b in enumerate(texts.tolist())
            if j != i
        ]
        for i, a in enumerate(pictures.tolist())
    ]
    found = []
    for seed in (1, 1, 2, 3):
        torch.manual_seed(seed)
        found.append(float(compute_loss(card, pictures, texts, ALONE, anchors="pictures")))
    assert found[0] == found[1]
    assert len(set(found)) > 1
    lowest, highest = (sum(map(pick, single)) / COUNT for pick in (min, max))
    assert all(lowest - 1e-6 <= loss <= highest + 1e-6 for loss in found)


# ---------------------------------------------------------------- useless batches


OBJECTIVES = [
    *({"objective": name} for name in ("clip", "siglip")),
    *({"objective": "margin", "distance": kind} for kind in ("cosine", "euclidean", "squared_euclidean")),
    *(
        {"objective": "triplet", "negatives": negatives, "distance": kind}
        for kind in ("cosine", "euclidean", "squared_euclidean")
        for negatives in ("random", "all", "semi_hard", "hardest")
    ),
]


@pytest.mark.parametrize("fields", OBJECTIVES, ids=lambda fields: " ".join(fields.values()))
@pytest.mark.parametrize("case", ["all in one point", "zeros", "one pair", "one picture many times"])
def test_loss_and_gradients_stay_finite(fields: dict[str, str], case: str) -> None:
    count = 1 if case == "one pair" else COUNT
    pictures = (torch.zeros if case == "zeros" else torch.ones)(count, DIM, requires_grad=True)
    texts = pictures.detach().clone().requires_grad_()
    names = torch.zeros(count, dtype=torch.long) if case == "one picture many times" else torch.arange(count)
    loss = compute_loss(recipe(**fields), pictures, texts, names, torch.tensor(10.0), torch.tensor(-10.0))
    loss.backward()
    assert loss.isfinite()
    for side in (pictures, texts):
        assert side.grad is not None
        assert side.grad.isfinite().all()


@pytest.mark.parametrize("fields", OBJECTIVES, ids=lambda fields: " ".join(fields.values()))
def test_a_step_against_the_gradient_brings_matches_nearer_than_others(fields: dict[str, str]) -> None:
    pictures, texts = (side.requires_grad_() for side in batch(3))
    rate = torch.optim.Adam([pictures, texts], lr=0.05)
    torch.manual_seed(0)
    for _ in range(120):
        rate.zero_grad()
        compute_loss(
            recipe(**fields, margin=1.0), pictures, texts, ALONE, torch.tensor(10.0), torch.tensor(-5.0)
        ).backward()
        rate.step()
    apart = compute_distances(pictures.detach(), texts.detach(), fields.get("distance", "cosine"))
    assert (apart.argmin(dim=1) == ALONE).all()
    assert (apart.argmin(dim=0) == ALONE).all()
