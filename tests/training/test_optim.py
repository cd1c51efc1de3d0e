"""The learning rate of every step, against formulas of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from twinlens.config.training import Recipe
from twinlens.training.optim import compute_rate_factor, make_optimisers, set_rate

STEPS = 10  # of an epoch


def recipe(**fields: Any) -> Recipe:
    usual = {"epochs": 6, "batch_size": 2, "learning_rate": 0.5, "warmup_share": 0.2}
    return Recipe.model_validate(usual | fields)


def factors(**fields: Any) -> list[float]:
    card = recipe(**fields)
    return [compute_rate_factor(card, step, STEPS) for step in range(card.epochs * STEPS)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
def test_every_schedule_begins_with_a_line_up_to_the_whole_rate(schedule: str) -> None:
    found = factors(schedule=schedule, step_epochs=100)
    assert found[:12] == pytest.approx([(step + 1) / 12 for step in range(12)])
    assert max(found) == 1.0


def test_a_line_goes_down_by_the_same_amount_each_step_and_would_end_at_zero() -> None:
    found = factors(schedule="linear")
    assert found[12:] == pytest.approx([1 - k / 48 for k in range(48)])
    assert found[-1] == pytest.approx(1 / 48)


def test_a_cosine_is_half_way_in_the_middle() -> None:
    found = factors(schedule="cosine")
    assert found[12:] == pytest.approx([math.cos(math.pi * k / 96) ** 2 for k in range(48)])
    assert found[36] == pytest.approx(0.5)


def test_steps_go_down_after_so_many_epochs_and_again() -> None:
    found = factors(schedule="step", step_epochs=2, step_factor=0.1, warmup_share=0.0)
    assert found == pytest.approx([1.0] * 20 + [0.1] * 20 + [0.01] * 20)


def test_steps_count_epochs_from_the_start_though_they_warm_up() -> None:
    found = factors(schedule="step", step_epochs=2, step_factor=0.5, warmup_share=0.05)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[3:] == pytest.approx([1.0] * 17 + [0.5] * 20 + [0.25] * 20)


def test_a_constant_rate_stays() -> None:
    assert factors(schedule="constant", warmup_share=0.0) == [1.0] * 60


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_without_warm_up_the_first_step_has_the_whole_rate(schedule: str) -> None:
    found = factors(schedule=schedule, warmup_share=0.0)
    assert found[0] == found[1] == 1.0
    assert found[2] < 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_rate_is_that_of_every_parameter(optimizer: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    card = recipe(optimizer=optimizer, schedule="linear")
    optimisers = make_optimisers(model, card)
    set_rate(optimisers, card, 36, STEPS)
    assert {group["lr"] for optimiser in optimisers for group in optimiser.param_groups} == {0.25}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_frozen_is_in_no_optimiser(optimizer: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    model[0].requires_grad_(False)
    groups = [group for o in make_optimisers(model, recipe(optimizer=optimizer)) for group in o.param_groups]
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model[1].parameters()}


def test_adamw_takes_its_betas_and_eps_from_the_card() -> None:
    (adamw,) = make_optimisers(torch.nn.Linear(2, 2), recipe(betas=(0.5, 0.75), eps=1e-3))
    assert {(group["betas"], group["eps"]) for group in adamw.param_groups} == {((0.5, 0.75), 1e-3)}


def test_muon_has_matrices_and_convolutions_and_adamw_the_rest() -> None:
    model = torch.nn.ModuleDict(
        {
            "conv": torch.nn.Conv2d(3, 8, 3),
            "norm": torch.nn.BatchNorm2d(8),
            "token_embedding": torch.nn.Embedding(11, 4),
            "out": torch.nn.Linear(8, 4),
        }
    )
    muon, adamw = make_optimisers(model, recipe(optimizer="muon"))
    of_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    of_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert of_muon == {id(model["conv"].weight), id(model["out"].weight)}
    assert of_adamw == {id(p) for p in model.parameters()} - of_muon
