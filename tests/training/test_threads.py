"""How many threads a training takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from twinlens.training.threads import choose_threads, use_suited_threads


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def of(parameters: int) -> torch.nn.Module:
    return torch.nn.Linear(parameters, 1, bias=False, device="meta")


@pytest.mark.parametrize(
    ("parameters", "available", "wanted"),
    [(300_000, 16, 1), (1_800_000, 16, 2), (1_800_000, 1, 1), (86_000_000, 16, 16), (86_000_000, 2, 2)],
)
def test_the_larger_the_model_the_more_threads_it_takes_but_never_more_than_there_are(
    parameters: int, available: int, wanted: int
) -> None:
    assert choose_threads(of(parameters), available) == wanted


def test_afterwards_there_are_as_many_as_before_even_where_it_failed() -> None:
    with use_suited_threads(torch.nn.Linear(2, 2)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyboardInterrupt), use_suited_threads(torch.nn.Linear(2, 2)):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 3


def test_on_another_device_the_processors_threads_stay_as_they_are() -> None:
    with use_suited_threads(of(10)):
        assert torch.get_num_threads() == 3
