"""The training loop: the same weights from the same seed, killed or not, and no useless ones."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twinlens.config.training import Recipe
from twinlens.core.errors import DataError
from twinlens.core.scratch import Scratch
from twinlens.training import loop
from twinlens.training.loop import CHECKPOINT, Batch, draw_captions, draw_epoch, draw_pictures, run_epochs, write_log
from twinlens.training.watch import LossWatch

COUNT = 21  # pictures, so five steps of four and one picture left over
CAPTIONS_OF = [np.arange(3 * picture, 3 * picture + 1 + picture % 3) for picture in range(COUNT)]
SAME = {"epochs": 3, "batch_size": 4, "learning_rate": 0.02, "weight_decay": 0.1, "warmup_share": 0.2, "seed": 5}
STEPS = COUNT // 4

Curve = list[dict[str, float]]
State = dict[str, torch.Tensor]


def recipe(**fields: Any) -> Recipe:
    return Recipe.model_validate(SAME | fields)


def tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(batch[0]), torch.from_numpy(batch[1])


class Small(torch.nn.Module):
    """Matrices, biases, a norm, an embedding and dropout: every kind of parameter that a trained model has."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(3 * COUNT, 12)
        self.hidden = torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.LayerNorm(12), torch.nn.Dropout(0.2))
        self.head = torch.nn.Linear(12, 5)
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, captions: torch.Tensor) -> torch.Tensor:
        return self.logit_scale * self.head(self.hidden(self.embedding(captions)))


class Training:
    """A small model that learns to name its pictures, and all that happened to it."""

    def __init__(self, key: str = "key", dies: Callable[[Training], bool] | None = None, **fields: Any) -> None:
        self.key, self.recipe, self.dies = key, recipe(**fields), dies
        torch.manual_seed(0)
        self.model = Small()
        self.batches: list[Batch] = []
        self.validated = 0
        self.merits: list[float] = []  # of each epoch, where a test decides which is the best
        self.shown: list[State] = []  # the weights that were validated

    def loss(self, batch: Batch) -> torch.Tensor:
        self.batches.append(batch)
        if self.dies is not None and self.dies(self):
            raise KeyboardInterrupt
        pictures, captions = map(torch.from_numpy, batch)
        return torch.nn.functional.cross_entropy(self.model(captions), pictures % 5)

    def validate(self) -> dict[str, float]:
        self.validated += 1
        assert not self.model.training
        self.shown.append(self.state())
        if self.merits:
            return {"merit": self.merits[self.epoch() - 1]}
        with torch.inference_mode():
            return {"val_loss": float(self.model(torch.arange(10)).logsumexp(dim=1).mean())}

    def epoch(self) -> int:
        """The epoch that is validated, whichever run it is in."""
        return 1 + len(list(Scratch("train", self.key).folder.glob("epoch-*.note")))

    def state(self) -> State:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def run(self) -> tuple[Curve, State]:
        name = "merit" if self.merits else "val_loss"
        with Scratch("train", self.key) as scratch:
            rows = run_epochs(
                self.model,
                self.recipe,
                CAPTIONS_OF,
                tensors,
                lambda *batch: self.loss((batch[0].numpy(), batch[1].numpy())),
                self.validate,
                scratch,
                lambda row: row[name],
            )
        return rows, self.state()


def assert_same(one: tuple[Curve, State], other: tuple[Curve, State]) -> None:
    """To the bit."""
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def after(steps: int) -> Callable[[Training], bool]:
    """Dies in the step after so many."""
    return lambda training: len(training.batches) > steps


# ---------------------------------------------------------------- resumed


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("steps", [0, 3, STEPS, STEPS + 2, 2 * STEPS, 3 * STEPS - 1])
def test_a_killed_run_goes_on_after_its_last_epoch_and_ends_with_the_same_weights_and_curve(
    optimizer: str, steps: int
) -> None:
    undisturbed = Training("undisturbed", optimizer=optimizer).run()
    with pytest.raises(KeyboardInterrupt):
        Training(optimizer=optimizer, dies=after(steps)).run()
    second = Training(optimizer=optimizer)
    torch.manual_seed(99)  # what was random before does not matter
    assert_same(second.run(), undisturbed)
    assert len(second.batches) == 3 * STEPS - steps // STEPS * STEPS


def test_a_run_killed_again_and_again_ends_with_the_same_weights_and_curve() -> None:
    undisturbed = Training("undisturbed", optimizer="muon").run()
    for steps in (STEPS + 1, 2, STEPS):
        with pytest.raises(KeyboardInterrupt):
            Training(optimizer="muon", dies=after(steps)).run()
    last = Training(optimizer="muon")
    assert_same(last.run(), undisturbed)
    assert len(last.batches) == STEPS


def test_a_run_killed_while_it_validates_makes_that_epoch_again() -> None:
    undisturbed = Training("undisturbed").run()
    first = Training()

    def validate() -> dict[str, float]:
        if len(first.batches) > STEPS:
            raise KeyboardInterrupt
        return Training.validate(first)

    first.validate = validate  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = Training()
    assert_same(second.run(), undisturbed)
    assert len(second.batches) == 2 * STEPS


def test_a_finished_training_is_taken_as_it_is() -> None:
    finished = Training().run()
    second = Training(dies=after(0))
    assert_same(second.run(), finished)
    assert (second.batches, second.validated) == ([], 0)
    assert not second.model.training


def test_the_seconds_of_all_epochs_are_kept_whichever_run_made_them() -> None:
    with pytest.raises(KeyboardInterrupt):
        Training(dies=after(STEPS)).run()
    with Scratch("train", "key") as scratch:
        before = scratch.total("seconds")
    assert before > 0
    Training().run()
    with Scratch("train", "key") as scratch:
        assert len(list(scratch.folder.glob("epoch-*.note"))) == 3
        assert scratch.total("seconds") > before


# ---------------------------------------------------------------- seeds and draws


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, same, other = Training("a").run(), Training("b").run(), Training("c", seed=6).run()
    assert_same(first, same)
    assert first[0] != other[0]
    assert not torch.equal(first[1]["head.weight"], other[1]["head.weight"])


def test_an_epoch_shows_every_picture_once_in_another_order_each_time() -> None:
    training = Training()
    training.run()
    assert {len(pictures) for pictures, _ in training.batches} == {4}
    epochs = [np.concatenate([p for p, _ in training.batches[e * STEPS : (e + 1) * STEPS]]) for e in range(3)]
    assert all(len(set(epoch)) == STEPS * 4 for epoch in epochs)  # but for those that fill no batch
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("captions", ["first", "random"])
def test_a_picture_is_always_shown_with_a_caption_of_its_own(captions: str) -> None:
    training = Training(captions=captions, epochs=8)
    training.run()
    shown: dict[int, set[int]] = {picture: set() for picture in range(COUNT)}
    for pictures, rows in training.batches:
        for picture, row in zip(pictures, rows, strict=True):
            shown[int(picture)].add(int(row))
    for picture, found in shown.items():
        own = {int(row) for row in CAPTIONS_OF[picture]}
        assert found == {min(own)} if captions == "first" else found <= own
    several = [shown[picture] for picture in range(COUNT) if len(CAPTIONS_OF[picture]) == 3]
    assert captions == "first" or sum(len(rows) > 1 for rows in several) > len(several) / 2


def test_random_captions_are_drawn_evenly_and_anew_each_time() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_captions([np.array([4, 7, 9]), np.array([2])], recipe(), rng) for _ in range(3000)])
    counts = {row: int((drawn[:, 0] == row).sum()) for row in (4, 7, 9)}
    assert sum(counts.values()) == 3000
    assert all(abs(count - 1000) < 120 for count in counts.values())  # four and a half standard deviations
    assert (drawn[:, 1] == 2).all()


@pytest.mark.parametrize(("drawn", "replacement"), [(12, False), (21, False), (12, True), (50, True)])
def test_an_epoch_draws_as_many_pictures_as_the_card_says(drawn: int, replacement: bool) -> None:
    training = Training(samples_per_epoch=drawn, replacement=replacement, epochs=8)
    training.run()
    steps = drawn // 4
    assert len(training.batches) == 8 * steps
    epochs = [np.concatenate([p for p, _ in training.batches[e * steps : (e + 1) * steps]]) for e in range(8)]
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert set(np.concatenate(epochs)) == set(range(COUNT))  # in turn, all of them
    twice = [len(set(epoch)) < len(epoch) for epoch in epochs]
    assert any(twice) if replacement else not any(twice)


def test_pictures_are_drawn_evenly_with_replacement() -> None:
    card = recipe(samples_per_epoch=21_000, replacement=True)
    counts = np.bincount(draw_pictures(COUNT, card, np.random.default_rng(0)), minlength=COUNT)
    assert counts.sum() == 21_000
    assert np.abs(counts - 1000).max() < 150  # nearly five standard deviations


def test_more_pictures_than_there_are_need_replacement() -> None:
    with pytest.raises(DataError, match=r"samples_per_epoch is 22, but the training split has 21 .* set train.repl"):
        Training(samples_per_epoch=22).run()
    with pytest.raises(ValueError, match="`replacement` needs `samples_per_epoch`"):
        recipe(replacement=True)


def test_a_batch_larger_than_the_split_is_refused_even_where_pictures_are_drawn_twice() -> None:
    with pytest.raises(DataError, match=r"batch_size is 22, but .* has 21 pictures of which 40 are drawn each epoch"):
        Training(samples_per_epoch=40, replacement=True, batch_size=22).run()


def test_a_batch_larger_than_what_an_epoch_draws_is_refused() -> None:
    with pytest.raises(DataError, match=r"batch_size is 4, but .* has 21 pictures of which 3 are drawn each epoch"):
        Training(samples_per_epoch=3).run()


@pytest.mark.parametrize(("batch", "sizes"), [(4, [4] * 5), (6, [6, 6, 6, 3]), (19, [19, 2]), (21, [21])])
def test_pictures_that_fill_no_batch_count_where_the_card_says_so_but_for_a_single_one(
    batch: int, sizes: list[int]
) -> None:
    training = Training(batch_size=batch, drop_last=False, epochs=2)
    training.run()
    assert [len(pictures) for pictures, _ in training.batches] == sizes * 2


def test_the_loss_of_an_epoch_is_the_mean_over_its_batches_the_smaller_one_too() -> None:
    training = Training(batch_size=6, drop_last=False, epochs=1)
    usual, losses = training.loss, list[float]()

    def loss(batch: Batch) -> torch.Tensor:
        found = usual(batch)
        losses.append(float(found.detach()))
        return found

    training.loss = loss  # type: ignore[method-assign]
    assert training.run()[0][0]["loss"] == pytest.approx(sum(losses) / 4, abs=1e-6)


# ---------------------------------------------------------------- the best epoch


def test_the_last_weights_are_kept_unless_the_card_wants_the_best() -> None:
    last, best = Training("last", epochs=4), Training("best", epochs=4, keep="best")
    last.merits = best.merits = [0.1, 0.5, 0.3, 0.5]
    rows, kept = last.run()
    assert_same((rows, kept), (rows, last.shown[3]))
    rows, kept = best.run()
    assert [row["merit"] for row in rows] == [0.1, 0.5, 0.3, 0.5]
    assert_same((rows, kept), (rows, best.shown[1]))  # the first of two that are as good
    assert not best.model.training


@pytest.mark.parametrize("steps", [STEPS + 1, 2 * STEPS, 2 * STEPS + 2, 4 * STEPS - 1])
def test_the_best_weights_are_kept_though_the_run_was_killed_before_or_after_them(steps: int) -> None:
    trainings = [Training("undisturbed", epochs=4, keep="best"), *(Training(epochs=4, keep="best") for _ in "ab")]
    for training in trainings:
        training.merits = [0.1, 0.5, 0.3, 0.2]
    undisturbed, killed, again = trainings
    killed.dies = after(steps)
    wanted = undisturbed.run()
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    assert_same(again.run(), wanted)


def test_training_stops_when_no_epoch_has_been_better_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    training = Training(epochs=9, patience=2, keep="best")
    training.merits = [0.1, 0.4, 0.3, 0.35, 0.9, 1.0, 1.0, 1.0, 1.0]
    with caplog.at_level("INFO", logger="twinlens"):
        rows, kept = training.run()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert_same((rows, kept), (rows, training.shown[1]))
    assert "no better epoch in 2, so training stops after 4" in caplog.text
    assert "the weights of epoch 2 are kept" in caplog.text
    again = Training(epochs=9, patience=2, keep="best")
    again.merits = training.merits
    assert_same(again.run(), (rows, kept))
    assert again.batches == []


def test_patience_counts_the_epochs_before_a_run_was_killed() -> None:
    first = Training(epochs=9, patience=3, dies=after(3 * STEPS + 2))
    first.merits = [0.5, 0.4, 0.3, 0.2, 0.6, 0.1, 0.1, 0.1, 0.1]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = Training(epochs=9, patience=3)
    second.merits = first.merits
    rows, _ = second.run()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert len(second.batches) == STEPS


def test_an_epoch_that_is_better_gives_training_its_patience_back() -> None:
    training = Training(epochs=7, patience=2)
    training.merits = [0.1, 0.05, 0.2, 0.1, 0.3, 0.1, 0.1]
    assert len(training.run()[0]) == 7


# ---------------------------------------------------------------- learning


def test_a_gradient_that_is_too_long_is_scaled_down_and_a_shorter_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.ParameterList([torch.zeros(2)])
    slopes, lengths = iter([0.5, 30.0, 2.0, 7.0, 1.5]), list[float]()
    step = torch.optim.AdamW.step

    def noting(self: torch.optim.AdamW, *args: Any) -> Any:
        assert weight[0].grad is not None
        lengths.append(float(weight[0].grad.norm()))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    with Scratch("train", "clipped") as scratch:
        card = recipe(max_grad_norm=2.0, epochs=1)
        run_epochs(weight, card, CAPTIONS_OF, tensors, lambda *_: weight[0][0] * next(slopes), dict, scratch, len)
    assert lengths == pytest.approx([0.5, 2.0, 2.0, 2.0, 1.5], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_lowers_the_loss(optimizer: str) -> None:
    rows, _ = Training(optimizer=optimizer, epochs=20, captions="first").run()
    assert [row["epoch"] for row in rows] == list(range(1, 21))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert all(row.keys() == {"epoch", "loss", "val_loss"} for row in rows)


def test_the_optimisers_are_not_the_same() -> None:
    adamw, muon = Training("a", optimizer="adamw").run(), Training("b", optimizer="muon").run()
    assert not torch.equal(adamw[1]["head.weight"], muon[1]["head.weight"])


def test_weight_decay_shrinks_matrices_and_leaves_biases_norms_and_the_temperature() -> None:
    free, decayed = (Training(str(d), weight_decay=d, epochs=1, learning_rate=1e-3).run()[1] for d in (0.0, 100.0))
    assert decayed["head.weight"].norm() < 0.9 * free["head.weight"].norm()
    for name in ("logit_scale", "hidden.1.weight"):
        assert torch.allclose(decayed[name], free[name], atol=0.02)  # an update of Adam is at most the rate


def rates(**fields: Any) -> list[float]:
    """The learning rate of each step, from outside: how far Adam moves a parameter whose slope is always one."""
    weight = torch.nn.ParameterList([torch.zeros(1)])
    seen: list[float] = []

    def loss(*_: torch.Tensor) -> torch.Tensor:
        seen.append(float(weight[0].detach()))
        return weight[0].sum()

    with Scratch("train", repr(sorted(fields.items()))[:60]) as scratch:
        run_epochs(weight, recipe(weight_decay=0.0, **fields), CAPTIONS_OF, tensors, loss, dict, scratch, len)
    seen.append(float(weight[0].detach()))
    return [before - now for before, now in pairwise(seen)]


def test_the_learning_rate_rises_and_then_follows_half_a_cosine_down_to_nearly_nothing() -> None:
    found = rates(epochs=8, warmup_share=0.25, learning_rate=0.1)  # 40 steps, 10 of warm-up
    cosine = [0.1 * (1 + math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    assert found[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)], rel=1e-3)
    assert found[10:] == pytest.approx(cosine, rel=1e-3, abs=1e-6)
    assert 0 < found[-1] < 0.001


def test_without_warm_up_the_first_step_has_the_whole_learning_rate() -> None:
    found = rates(epochs=2, warmup_share=0.0, learning_rate=0.1)
    assert found[0] == pytest.approx(0.1, rel=1e-3)
    assert found == sorted(found, reverse=True)


# ---------------------------------------------------------------- useless


@pytest.mark.parametrize("useless", [float("nan"), float("inf"), float("-inf")])
def test_a_useless_loss_stops_the_training_at_its_step_and_the_epochs_before_are_kept(useless: float) -> None:
    undisturbed = Training("undisturbed").run()
    first = Training()
    usual = first.loss

    def loss(batch: Batch) -> torch.Tensor:
        return usual(batch) * (useless if len(first.batches) == STEPS + 3 else 1.0)

    first.loss = loss  # type: ignore[method-assign]
    with pytest.raises(DataError, match=f"is {useless} at step 3 of epoch 2; the weights of epoch 1 are kept"):
        first.run()
    assert_same(Training().run(), undisturbed)


def test_a_weight_that_becomes_useless_in_the_last_step_is_not_passed_on() -> None:
    training = Training(epochs=1)
    usual = training.loss

    def loss(batch: Batch) -> torch.Tensor:  # finite itself, but its slope is not
        last = len(training.batches) == STEPS - 1
        return usual(batch) + (training.model.logit_scale * 0.0).sqrt() if last else usual(batch)

    training.loss = loss  # type: ignore[method-assign]
    with pytest.raises(DataError, match="a weight is NaN or infinite after epoch 1"):
        training.run()
    with Scratch("train", "key") as scratch:
        assert not scratch.has(CHECKPOINT)


@pytest.mark.parametrize("useless", [float("nan"), float("inf")])
def test_a_model_whose_vectors_are_no_numbers_is_not_passed_on(useless: float) -> None:
    training = Training(epochs=1)
    usual = training.validate
    training.validate = lambda: usual() | {"val_mrr": useless}  # type: ignore[method-assign]
    with pytest.raises(DataError, match=f"val_mrr is {useless} after epoch 1.*Try a lower train.learning_rate"):
        training.run()
    with Scratch("train", "key") as scratch:
        assert not scratch.has(CHECKPOINT)


def test_a_batch_larger_than_the_training_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"train\.batch_size is 22, but the training split has 21 pictures"):
        Training(batch_size=22).run()
    assert len(Training("whole", batch_size=21).run()[0]) == 3


# ---------------------------------------------------------------- the curve


def test_the_curve_is_written_as_csv(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "loss": 2.5, "val_loss": 3.25}, {"epoch": 2, "loss": 0.125, "val_loss": 1e-05}]
    write_log(rows, tmp_path / "training.csv")
    assert (tmp_path / "training.csv").read_text() == "epoch,loss,val_loss\n1,2.5,3.25\n2,0.125,1e-05\n"


def test_what_an_epoch_lacks_is_left_empty(tmp_path: Path) -> None:
    write_log([{"epoch": 0, "val_mrr": 0.25}, {"epoch": 1, "loss": 2.5, "val_mrr": 0.5}], tmp_path / "training.csv")
    assert (tmp_path / "training.csv").read_text() == "epoch,val_mrr,loss\n0,0.25,\n1,0.5,2.5\n"


def test_some_batches_read_every_pictures_captions_joined_and_the_others_stay_as_they_were() -> None:
    captions_of = [np.arange(3 * i, 3 * i + 3) for i in range(40)]
    joined_of = np.arange(120, 160)
    card = recipe(batch_size=4)
    plain = [draw_epoch(card, captions_of, epoch, 10) for epoch in range(30)]
    mixed = [draw_epoch(card, captions_of, epoch, 10, joined_of, 0.25) for epoch in range(30)]
    long = 0
    for before, after in zip(plain, mixed, strict=True):
        for (rows, captions), (same_rows, texts) in zip(before, after, strict=True):
            assert (rows == same_rows).all()
            if (texts >= 120).any():
                assert (texts == joined_of[rows]).all()
                long += 1
            else:
                assert (texts == captions).all()
    assert 50 < long < 100  # of 300


# ---------------------------------------------------------------- what a device would wait for


def test_pictures_are_gathered_beside_the_steps_and_each_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    usual = tensors

    def noting(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        threads.append(threading.current_thread())
        return usual(batch)

    monkeypatch.setitem(globals(), "tensors", noting)
    training = Training()
    training.run()
    assert len(threads) == 3 * STEPS == len(training.batches)
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("step", [1, 3, STEPS])
def test_a_useless_loss_that_is_seen_late_is_named_right_and_its_epoch_is_not_kept(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LossWatch", partial(LossWatch, late=3))
    undisturbed = Training("undisturbed").run()
    first = Training()
    usual = first.loss

    def loss(batch: Batch) -> torch.Tensor:
        return usual(batch) * (float("nan") if len(first.batches) == STEPS + step else 1.0)

    first.loss = loss  # type: ignore[method-assign]
    with pytest.raises(DataError, match=f"is nan at step {step} of epoch 2; the weights of epoch 1 are kept"):
        first.run()
    second = Training()
    assert_same(second.run(), undisturbed)
    assert len(second.batches) == 2 * STEPS


def test_a_checkpoint_holds_its_epoch_though_it_is_written_while_the_next_one_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training, begun = Training(epochs=2), threading.Event()
    usual, save = training.loss, torch.save
    kept: list[State] = []

    def loss(batch: Batch) -> torch.Tensor:
        begun.set() if len(training.batches) == STEPS + 2 else None
        return usual(batch)

    def late(state: Any, path: Path) -> None:
        assert begun.wait(60) or kept  # the first is written when two steps of the next epoch have been made
        kept.append({name: value.clone() for name, value in state["model"].items()})
        save(state, path)

    training.loss = loss  # type: ignore[method-assign]
    monkeypatch.setattr(torch, "save", late)
    training.run()
    for found, wanted in zip(kept, training.shown, strict=True):
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_checkpoint_that_cannot_be_written_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: Any, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(Exception, match=r"No space left|full"):
        Training(epochs=2).run()
