"""What towers and heads are trained by: parts of a batch, the temperature, validation, and collapse found out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import CPU
from twinlens.config.training import ContrastiveRecipe, HeadsRecipe, TowerRecipe
from twinlens.core import device as placement
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch
from twinlens.training.collapse import describe_collapse, measure_spread
from twinlens.training.contrastive import (
    DualEncoder,
    Inputs,
    Temperature,
    View,
    encode_in_parts,
    freeze,
    measure_split,
    rank_own,
    train_dual_encoder,
)
from twinlens.training.losses import compute_distances, triplet

DIM = 6


def recipe(objective: str = "clip", **fields: Any) -> TowerRecipe:
    usual = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05, "warmup_share": 0.0}
    return TowerRecipe.model_validate({"objective": objective} | usual | fields)


# ---------------------------------------------------------------- parts of a batch


def network(dropout: float = 0.3) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(DIM, 12), torch.nn.GELU(), torch.nn.Dropout(dropout), torch.nn.LayerNorm(12)
    )


def steps(size: int | None, module: torch.nn.Module, inputs: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    """A loss that couples the whole batch, and its gradients."""
    torch.manual_seed(7)
    vectors = encode_in_parts(module, inputs, size)
    logits = vectors @ vectors.flip(0).T
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(inputs)))
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    module.zero_grad()
    return float(loss.detach()), gradients


@pytest.mark.parametrize("size", [1, 4, 5, 9])
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(size: int) -> None:
    inputs = torch.randn(10, DIM, generator=torch.Generator().manual_seed(1))
    module = network(dropout=0.0)
    whole, parts = steps(None, module, inputs), steps(size, module, inputs)
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    assert len(parts[1]) == len(whole[1]) == 4
    for one, other in zip(parts[1], whole[1], strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert one.abs().max() > 1e-4


def test_dropout_is_the_same_when_a_part_is_computed_again() -> None:
    inputs = torch.randn(8, DIM, generator=torch.Generator().manual_seed(1))
    module = network(dropout=0.5)
    found = steps(2, module, inputs)
    torch.manual_seed(7)  # the same draws, kept instead of computed again
    vectors = torch.cat([module(part) for part in inputs.split(2)])
    torch.nn.functional.cross_entropy(vectors @ vectors.flip(0).T, torch.arange(8)).backward()
    for one, parameter in zip(found[1], module.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(one, parameter.grad, atol=1e-6)


def test_no_part_is_larger_than_asked_and_each_is_computed_once_more_for_its_gradient() -> None:
    seen: list[int] = []
    module = network()

    def encode(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        found: torch.Tensor = module(part)
        return found

    vectors = encode_in_parts(encode, torch.ones(7, DIM), 3)
    assert seen == [3, 3, 1]
    vectors.sum().backward()
    assert sorted(seen) == [1, 1, 3, 3, 3, 3]


# ---------------------------------------------------------------- frozen


def test_a_frozen_module_keeps_weights_statistics_and_mode() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(DIM), torch.nn.Dropout(0.9), torch.nn.Linear(DIM, DIM))
    head = torch.nn.Linear(DIM, 3)
    whole = torch.nn.Sequential(model, head)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze(model)
    whole.train()
    assert whole.training
    assert not any(module.training for module in model.modules())
    optimiser = torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], lr=1.0)
    whole(torch.randn(16, DIM) + 5).square().mean().backward()
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {id(p) for p in whole.parameters() if p.requires_grad} == {id(p) for p in head.parameters()}


# ---------------------------------------------------------------- temperature


@pytest.mark.parametrize(
    ("objective", "temperature", "of_model", "scale"),
    [
        ("clip", None, None, 1 / 0.07),
        ("siglip", None, None, 10.0),
        ("clip", None, math.log(20), 20.0),
        ("siglip", None, math.log(30), 30.0),
        ("clip", 0.05, math.log(30), 20.0),
        ("siglip", 0.05, None, 20.0),
    ],
)
def test_the_temperature_begins_with_the_cards_then_the_models_then_the_usual_one(
    objective: str, temperature: float | None, of_model: float | None, scale: float
) -> None:
    found = Temperature(recipe(objective, temperature=temperature), of_model)
    assert float(found.scale().detach()) == pytest.approx(scale, rel=1e-5)
    assert found.log_scale.requires_grad


def test_the_bias_is_siglips_alone_and_begins_with_the_models() -> None:
    assert Temperature(recipe("clip"), bias=-3.0).bias is None
    fresh, given = Temperature(recipe("siglip")).bias, Temperature(recipe("siglip"), bias=-3.0).bias
    assert fresh is not None and given is not None
    assert (fresh.item(), given.item()) == (-10, -3)


@pytest.mark.parametrize("objective", ["margin", "triplet"])
def test_objectives_without_a_temperature_train_none(objective: str) -> None:
    assert not any(p.requires_grad for p in Temperature(recipe(objective)).parameters())


def test_the_scale_is_cut_at_its_highest_value_and_can_come_down_from_there() -> None:
    temperature = Temperature(recipe(max_logit_scale=50.0), math.log(80))
    assert float(temperature.scale().detach()) == pytest.approx(50)
    temperature.scale().backward()  # a loss that wants it smaller
    assert temperature.log_scale.grad is not None
    assert float(temperature.log_scale.grad) == pytest.approx(50)
    torch.optim.SGD(temperature.parameters(), lr=0.01).step()
    assert float(temperature.scale().detach()) < 40
    assert float(Temperature(recipe(max_logit_scale=None), math.log(200)).scale().detach()) == pytest.approx(
        200, rel=1e-5
    )


# ---------------------------------------------------------------- validation


class Rows:
    """Inputs in memory."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        return self.rows[torch.from_numpy(rows)]


def inputs(count: int, seed: int = 0, noise: float = 0.6) -> Inputs:
    """Pictures with one to three captions each, whose vectors are the picture's with noise."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(count, DIM, generator=generator)
    of = torch.tensor([picture for picture in range(count) for _ in range(1 + picture % 3)])
    texts = pictures[of] + noise * torch.randn(len(of), DIM, generator=generator)
    bounds = np.flatnonzero(np.diff(of.numpy())) + 1
    return Inputs(Rows(pictures), Rows(texts), np.split(np.arange(len(of)), bounds))


def pair(
    card: ContrastiveRecipe,
    image: torch.nn.Module | None = None,
    text: torch.nn.Module | None = None,
    dropout: float = 0.0,
) -> DualEncoder:
    torch.manual_seed(0)
    towers = [
        given or torch.nn.Sequential(torch.nn.Linear(DIM, DIM), torch.nn.Dropout(dropout)) for given in (image, text)
    ]
    temperature = Temperature(card)
    module = torch.nn.ModuleDict({"image": towers[0], "text": towers[1], "temperature": temperature})
    return DualEncoder(module, [View("both", "both", towers[0], towers[1])], temperature)


def test_validation_figures_are_those_of_a_ranking_by_hand() -> None:
    held_out, card = inputs(25), recipe("triplet", margin=0.4, negatives="hardest")
    made = pair(card, dropout=0.9)
    made.module.train()
    found = measure_split(made, card, held_out, CPU)
    made.module.eval()
    with torch.no_grad():
        image, text = made.views[0].pictures(held_out.pictures.rows), made.views[0].texts(held_out.texts.rows)  # type: ignore[attr-defined]
    ranks = []
    for picture, rows in enumerate(held_out.captions_of):
        for row in rows:
            cosines = torch.cosine_similarity(image, text[row][None])
            ranks.append(int((cosines >= cosines[picture]).sum()))
    assert found["val_mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-6)
    assert found["val_hit_at_10"] == pytest.approx(np.mean([rank <= 10 for rank in ranks]), abs=1e-6)
    assert 0.1 < found["val_mrr"] < 0.9
    losses = []
    for start in (0, 8, 16):  # whole batches of first captions
        firsts = text[[rows[0] for rows in held_out.captions_of[start : start + 8]]]
        distances, others = compute_distances(image[start : start + 8], firsts, "cosine"), ~torch.eye(8).bool()
        losses.append(sum(float(triplet(side, 0.4, "hardest", others)) for side in (distances, distances.T)) / 2)
    assert found["val_loss"] == pytest.approx(np.mean(losses), abs=1e-6)


def test_equal_scores_count_as_nearer_so_that_a_collapsed_model_gains_nothing() -> None:
    same = torch.ones(9, 4)
    assert rank_own(same, same, np.arange(9)).tolist() == [9] * 9


def test_a_split_smaller_than_a_batch_is_validated_in_one() -> None:
    card = recipe("clip", batch_size=64)
    assert math.isfinite(measure_split(pair(card), card, inputs(5), CPU)["val_loss"])
    assert measure_split(pair(card), card, inputs(1), CPU)["val_loss"] == pytest.approx(0, abs=1e-6)


def test_validation_draws_the_same_negatives_each_time_and_leaves_the_training_draws_alone() -> None:
    card = recipe("triplet", negatives="random", margin=1.0)
    made, held_out = pair(card), inputs(24)
    torch.manual_seed(3)
    first = measure_split(made, card, held_out, CPU)
    after = float(torch.rand(1))
    assert measure_split(made, card, held_out, CPU) == first
    torch.manual_seed(3)
    assert float(torch.rand(1)) == after


def test_the_spread_is_the_mean_over_all_pairs() -> None:
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) + 1
    found = measure_spread(rows, "image")
    cosines = [float(torch.cosine_similarity(rows[i], rows[j], dim=0)) for i in range(7) for j in range(7) if i != j]
    assert found["image_cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert found["image_variance"] == pytest.approx(rows.numpy().var(axis=0).mean(), rel=1e-6)
    assert measure_spread(rows[:1], "text") == {"text_variance": 0.0, "text_cosine": 0.0}


# ---------------------------------------------------------------- training


def train(made: DualEncoder, card: ContrastiveRecipe, key: str = "key", count: int = 32) -> list[dict[str, float]]:
    with Scratch("train", key) as scratch:
        return train_dual_encoder(made, card, inputs(count), inputs(40, seed=9), CPU, scratch)


@pytest.mark.parametrize(
    "fields",
    [
        {"objective": "clip"},
        {"objective": "siglip"},
        {"objective": "margin", "margin": 0.6},
        {"objective": "triplet", "negatives": "semi_hard"},
        {"objective": "triplet", "negatives": "random", "distance": "squared_euclidean", "margin": 1.0},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_every_objective_finds_more_held_out_pictures_than_before(fields: dict[str, Any]) -> None:
    card = recipe(**fields, epochs=25)
    rows = train(pair(card), card)
    assert [row["epoch"] for row in rows] == list(range(26))
    assert "loss" not in rows[0]
    assert rows[0]["val_mrr"] < 0.3
    assert rows[-1]["val_mrr"] > rows[0]["val_mrr"] + 0.2


def test_the_best_epoch_is_the_one_with_the_highest_reciprocal_rank() -> None:
    card = recipe("clip", learning_rate=2.0, epochs=6, keep="best", max_logit_scale=None, schedule="constant")
    made = pair(card)
    rows = train(made, card)
    best = max(row["val_mrr"] for row in rows[1:])
    assert measure_split(made, card, inputs(40, seed=9), CPU)["val_mrr"] == pytest.approx(best, abs=1e-6)
    assert best > rows[-1]["val_mrr"]


def test_a_loss_in_parts_is_that_of_the_whole_batch() -> None:
    card = recipe("siglip", epochs=2)
    whole, parts = pair(card), pair(card)
    object.__setattr__(parts, "part_size", 3)
    one, other = train(whole, card, "a"), train(parts, card, "b")
    for row, same in zip(one, other, strict=True):
        assert same == pytest.approx(row, rel=1e-4)


def test_mixed_precision_reads_the_model_in_bfloat16_and_compares_in_float32() -> None:
    card = recipe("clip", precision="bfloat16", epochs=20)
    seen: set[torch.dtype] = set()
    made = pair(card)
    usual = made.views[0].pictures

    def noting(rows: torch.Tensor) -> torch.Tensor:
        found = usual(rows)
        seen.add(found.dtype)
        return found

    object.__setattr__(made.views[0], "pictures", noting)
    rows = train(made, card)
    assert seen == {torch.bfloat16}  # while training and while validating
    assert rows[-1]["val_mrr"] > rows[0]["val_mrr"] + 0.2
    assert {p.dtype for p in made.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("precision", "emulated", "said"), [("bfloat16", True, 1), ("bfloat16", False, 0), ("float32", True, 0)]
)
def test_a_card_that_asks_for_what_the_processor_emulates_is_told_so(
    precision: str, emulated: bool, said: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(placement, "has_bfloat16", lambda device: not emulated)
    card = recipe("clip", precision=precision, epochs=1)
    train(pair(card), card)
    assert sum(message.startswith("train.precision is bfloat16") for message in caplog.messages) == said


# ---------------------------------------------------------------- collapse


class OnePoint(torch.nn.Module):
    """Nearly the same vector for whatever comes, after so many calls in training."""

    def __init__(self, spread_from: int = 0, spread_to: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(DIM))
        self.calls, self.good = 0, range(spread_from, spread_to)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        vectors = rows @ self.weight
        return vectors if self.calls in self.good else torch.ones_like(vectors) + 1e-6 * vectors.flip(0)


def both(make: Callable[[], torch.nn.Module]) -> tuple[torch.nn.Module, torch.nn.Module]:
    return make(), make()


def test_a_model_that_collapses_is_stopped_after_that_epoch_with_the_cause_named() -> None:
    card = recipe("triplet", negatives="random", margin=1.0, epochs=5)
    made = pair(card, *both(lambda: OnePoint(0, 7)))  # four steps an epoch
    with pytest.raises(DataError) as refused:
        train(made, card)
    message = str(refused.value)
    assert "the image vectors (mean pairwise cosine 1.0000) and text vectors" in message
    assert "have collapsed into one point: val_hit_at_10 is" in message
    assert "a ranking at random has 0.250" in message
    assert "one easy negative an anchor (negatives: semi_hard, or objective: clip)" in message
    assert "`on_collapse: record` goes on all the same" in message
    with Scratch("train", "key") as scratch:
        assert len(list(scratch.folder.glob("epoch-*.note"))) == 1  # the epoch before


@pytest.mark.parametrize("which", [0, 1])
def test_each_view_is_judged_by_itself(which: int) -> None:
    card = recipe("triplet", epochs=5)
    towers = [both(lambda: torch.nn.Linear(DIM, DIM)) for _ in range(2)]
    towers[which] = both(lambda: OnePoint(0, 7))
    views = [View(name, "both", *own) for name, own in zip(("there", "back"), towers, strict=True)]
    temperature = Temperature(card)
    module = torch.nn.ModuleList([*towers[0], *towers[1], temperature])
    made = DualEncoder(module, views, temperature)
    found = measure_split(made, card, inputs(40, seed=9), CPU)
    alone = [measure_split(DualEncoder(module, [view], temperature), card, inputs(40, seed=9), CPU) for view in views]
    assert found["val_loss"] == pytest.approx((alone[0]["val_loss"] + alone[1]["val_loss"]) / 2)
    assert [found["val_mrr_there"], found["val_mrr"]] == [own["val_mrr"] for own in alone]
    with pytest.raises(DataError, match=f"{views[which].name}: the image vectors .* have collapsed into one point"):
        train(made, card)


def test_a_collapse_is_recorded_where_the_card_says_so(caplog: pytest.LogCaptureFixture) -> None:
    card = recipe("triplet", epochs=5, on_collapse="record")
    with caplog.at_level("WARNING", logger="twinlens"):
        rows = train(pair(card, *both(lambda: OnePoint(0, 7))), card)
    assert len(rows) == 6
    assert rows[1]["image_cosine"] < 0.5
    assert [row["image_cosine"] > 0.99 for row in rows[2:]] == [True] * 4
    assert caplog.text.count("have collapsed into one point") == 4


def test_a_model_whose_vectors_begin_close_together_is_given_until_its_end_to_spread() -> None:
    card = recipe("clip", epochs=4)
    rows = train(pair(card, *both(lambda: OnePoint(9, 99))), card)
    assert [row["image_cosine"] > 0.99 for row in rows] == [True, True, True, False, False]
    with pytest.raises(DataError, match="have collapsed into one point"):
        train(pair(card, *both(OnePoint)), card, "never")


def test_a_model_that_begins_close_together_is_judged_from_its_third_epoch_on() -> None:
    card = recipe("clip", epochs=6)
    made = pair(card, *both(lambda: OnePoint(5, 9)))  # good in its second epoch, lost in its third
    with pytest.raises(DataError, match="have collapsed into one point"):
        train(made, card, "third")
    with Scratch("train", "third") as scratch:
        assert len(list(scratch.folder.glob("epoch-*.note"))) == 2


def figures(cosine: float, hits: float) -> dict[str, float]:
    return {"image_cosine": cosine, "text_cosine": 0.2, "val_hit_at_10": hits}


def test_vectors_that_are_close_but_found_have_not_collapsed() -> None:
    card = recipe("clip")
    assert describe_collapse(figures(0.998, 0.3), card, chance=0.1) is None
    assert describe_collapse(figures(0.5, 0.1), card, chance=0.1) is None
    found = describe_collapse(figures(0.998, 0.15), card, chance=0.1)
    assert found is not None
    assert "image vectors (mean pairwise cosine 0.9980) have collapsed" in found
    assert "text vectors" not in found


@pytest.mark.parametrize("chance", [0.5, 0.8])
def test_so_few_pictures_that_twice_chance_is_no_bar_are_judged_by_half_the_way_to_all(chance: float) -> None:
    card = recipe("clip")
    assert describe_collapse(figures(0.998, 1.0), card, chance) is None
    assert describe_collapse(figures(0.998, chance), card, chance) is not None


def test_the_causes_are_those_of_the_recipe() -> None:
    heads = {"dim": 8, "unit_length": False, "unit_input": False, "image_dropout": 0.5}
    card = HeadsRecipe.model_validate(
        {"objective": "triplet", "epochs": 1, "batch_size": 2, "learning_rate": 0.001, "heads": heads, "margin": 1}
    )
    found = describe_collapse(figures(1.0, 0.1), card, chance=0.1)
    assert found is not None
    for cause in (
        "distances of vectors of any length against a margin of 1",
        "towers' vectors taken as they are (heads.unit_input: true)",
        "dropout on the vectors that are compared",
        "hardest negatives before anything is learnt",
        "a learning rate too high or too low (0.001)",
    ):
        assert cause in found


def test_validation_is_in_large_batches_without_gradients_and_gathered_in_another_thread() -> None:
    card = recipe("clip")
    made = pair(card)
    usual, seen, threads = made.views[0].pictures, list[tuple[int, bool]](), set[threading.Thread]()

    def noting(rows: torch.Tensor) -> torch.Tensor:
        seen.append((len(rows), torch.is_inference_mode_enabled()))
        return usual(rows)

    class Noting:
        def __init__(self, rows: torch.Tensor) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
            threads.add(threading.current_thread())
            return self.rows[rows]

    object.__setattr__(made.views[0], "pictures", noting)
    inputs = Inputs(Noting(torch.randn(150, DIM)), torch.randn(150, DIM), [np.array([row]) for row in range(150)])
    measure_split(made, card, inputs, CPU)
    assert seen == [(64, True), (64, True), (22, True)]
    assert threading.main_thread() not in threads
