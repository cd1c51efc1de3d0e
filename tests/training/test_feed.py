"""Batches come in order, gathered by another thread a little ahead; losses are looked at in order, late on a GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from twinlens.core.errors import DataError
from twinlens.training.feed import AHEAD, feed
from twinlens.training.numbers import fix_numbers
from twinlens.training.watch import LATE, LossWatch

CPU = torch.device("cpu")


def test_batches_come_in_order_and_are_gathered_in_another_thread() -> None:
    threads: set[threading.Thread] = set()

    def gather(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        threads.add(threading.current_thread())
        return torch.tensor([number]), torch.tensor([-number])

    found = [(int(one), int(other)) for one, other in feed(range(9), gather, CPU)]
    assert found == [(number, -number) for number in range(9)]
    assert len(threads) == 1
    assert threading.main_thread() not in threads


def test_few_batches_are_gathered_ahead_and_none_after_the_training_stops() -> None:
    gathered: list[int] = []

    def gather(number: int) -> tuple[torch.Tensor]:
        gathered.append(number)
        return (torch.tensor(number),)

    fed = feed(range(100), gather, CPU)
    next(fed)
    fed.close()
    assert len(gathered) <= AHEAD + 2


def test_what_a_gathering_thread_cannot_read_is_told_where_the_batch_is_wanted() -> None:
    def gather(number: int) -> tuple[torch.Tensor]:
        if number == 2:
            raise DataError("a file is gone")
        return (torch.tensor(number),)

    seen = []
    with pytest.raises(DataError, match="a file is gone"):
        for (tensor,) in feed(range(4), gather, CPU):
            seen.append(int(tensor))
    assert seen == [0, 1]


# ---------------------------------------------------------------- losses


def refuse(step: int, value: float) -> None:
    raise DataError(f"{value} at step {step}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The values that the host asked tensors for, which a GPU would be waited for at."""
    found: list[float] = []
    usual: Callable[[torch.Tensor], float] = torch.Tensor.__float__

    def noting(tensor: torch.Tensor) -> float:
        found.append(usual(tensor))
        return found[-1]

    monkeypatch.setattr(torch.Tensor, "__float__", noting)
    return found


@pytest.mark.parametrize("late", [0, 3, 50])
def test_a_loss_is_asked_for_when_it_is_so_many_steps_old_and_all_are_in_the_end(late: int, asked: list[float]) -> None:
    watch = LossWatch(CPU, refuse, late)
    for step in range(10):
        watch.add(torch.tensor(float(step)))
        assert asked == [float(number) for number in range(max(0, step + 1 - late))]
    assert watch.finish() == 45.0
    assert asked == [float(number) for number in range(10)]


@pytest.mark.parametrize("late", [0, 3, 50])
@pytest.mark.parametrize("useless", [float("nan"), float("inf"), float("-inf")])
def test_the_first_useless_loss_is_named_by_its_own_step_however_late_it_is_seen(late: int, useless: float) -> None:
    watch = LossWatch(CPU, refuse, late)

    def run() -> None:
        for step in range(10):
            watch.add(torch.tensor(useless if step >= 6 else 1.0))
        watch.finish()

    with pytest.raises(DataError, match=rf"^{useless} at step 6$"):
        run()


def test_a_cpus_loss_is_looked_at_at_once_and_a_gpus_a_few_steps_later() -> None:
    assert LossWatch(CPU, refuse).late == 0
    assert LossWatch(torch.device("cuda"), refuse).late == LATE > 2


# ---------------------------------------------------------------- numbers


def settings() -> tuple[object, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


@pytest.mark.parametrize(("precision", "wanted"), [("float32", False), ("bfloat16", False), ("tf32", True)])
def test_a_gpu_computes_by_repeatable_kernels_in_the_numbers_of_the_card(
    precision: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = settings()
    with pytest.raises(KeyboardInterrupt), fix_numbers(torch.device("cuda"), precision):
        assert settings() == (True, True, wanted, wanted)
        assert torch.get_float32_matmul_precision() == ("high" if wanted else "highest")
        raise KeyboardInterrupt
    assert settings() == before
    with fix_numbers(CPU, precision):
        assert settings() == before
