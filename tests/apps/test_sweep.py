"""Sweeps: what is planned, refused, estimated and told; what DVC's queue does is in tests/pipeline."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from twinlens.apps import durations, sweeps
from twinlens.apps.cli import app
from twinlens.apps.steps import Step, plan_steps
from twinlens.apps.sweeps import DONE, FAILED, QUEUED, RUNNING
from twinlens.config.load import read_params
from twinlens.config.models import ModelCard
from twinlens.config.params import Params
from twinlens.core.errors import ParamsError
from twinlens.models import sizes

PARAMS = read_params()


def steps(*models: str, captioner: str = "blip-scenes") -> list[Step]:
    return [Step(name, {"dataset": "scenes", "model": name, "captioner": captioner}) for name in models]


def test_every_model_goes_with_every_captioner_once() -> None:
    planned = plan_steps(PARAMS, ["vit-l-14", "vit-b-32", "vit-l-14"], ["none", "blip-base"], ["rank.depth=20"], "x-")
    assert [one.name for one in planned] == [
        "x-vit-l-14-none", "x-vit-l-14-blip-base", "x-vit-b-32-none", "x-vit-b-32-blip-base"
    ]  # fmt: skip
    assert planned[1].options == [
        "-S", "dataset=scenes", "-S", "model=vit-l-14", "-S", "captioner=blip-base", "-S", "rank.depth=20"
    ]  # fmt: skip
    assert [one.name for one in plan_steps(PARAMS, ["vit-l-14"], [], [], "")] == ["vit-l-14"]


def with_seeds(model: int | None, captioner: int | None = None) -> Params:
    """The settings, with so many seeds on the cards of the default."""
    card, words = PARAMS.models["clip-scenes"], PARAMS.captioners["blip-scenes"]
    assert card.train is not None
    assert words.train is not None
    own = card.train.model_copy(update={"seeds": model, "seed": 7})
    others = words.train.model_copy(update={"seeds": captioner, "seed": 7})
    models = {**PARAMS.models, "clip-scenes": card.model_copy(update={"train": own})}
    captioners = {**PARAMS.captioners, "blip-scenes": words.model_copy(update={"train": others})}
    return PARAMS.model_copy(update={"models": models, "captioners": captioners})


def test_a_card_that_asks_for_seeds_is_as_many_experiments_that_differ_in_the_seed() -> None:
    planned = plan_steps(with_seeds(3), ["clip-scenes", "vit-b-32"], [], ["rank.depth=20"], "x-")
    assert [one.name for one in planned] == [*(f"x-clip-scenes-seed{n}" for n in (7, 8, 9)), "x-vit-b-32"]
    assert planned[1].settings == ("rank.depth=20", "cards/models/clip-scenes.yaml:++train.seed=8")
    assert planned[3].settings == ("rank.depth=20",)
    both = plan_steps(with_seeds(2, 2), ["clip-scenes"], [], [], "")
    assert both[1].settings == (
        "cards/models/clip-scenes.yaml:++train.seed=8", "cards/captioners/blip-scenes.yaml:++train.seed=8"
    )  # fmt: skip
    assert [one.name for one in plan_steps(with_seeds(1), ["clip-scenes"], [], [], "")] == ["clip-scenes"]


@pytest.mark.parametrize(
    ("seeds", "settings", "told"),
    [
        ((3, 2), [], "clip-scenes.yaml for 3 and cards/captioners/blip-scenes.yaml for 2 seeds .*need as many"),
        ((3, None), ["cards/models/clip-scenes.yaml:train.seed=1"], "asks for one seed, and .* for 3 .*leave one of"),
        ((None, None), ["cards/models/clip-scenes.yaml:+train.seeds=4"], "write `seeds: 4` into cards/models/clip"),
    ],
)
def test_seeds_that_contradict_each_other_are_refused(
    seeds: tuple[int | None, int | None], settings: list[str], told: str
) -> None:
    with pytest.raises(ParamsError, match=told):
        plan_steps(with_seeds(*seeds), ["clip-scenes"], [], settings, "")


def test_seeds_stand_in_no_dump_of_a_card_as_no_training_depends_on_them() -> None:
    card, more = (with_seeds(n).models["clip-scenes"] for n in (None, 5))
    assert card.model_dump(mode="json") == more.model_dump(mode="json")
    assert card.train is not None
    with pytest.raises(ValidationError, match="4294967295, the largest seed"):
        type(card.train).model_validate({**card.train.model_dump(), "seed": 2**32 - 2, "seeds": 3})
    with pytest.raises(ValidationError, match="less than or equal to 100"):
        type(card.train).model_validate({**card.train.model_dump(), "seeds": 101})


def test_an_experiment_of_a_seed_is_finished_where_its_card_differs_in_that_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        return sweeps.run_command("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words)

    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    card = tmp_path / "cards/models/a.yaml"
    card.parent.mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("model: b\ncompute:\n  threads: 1\n")
    card.write_text("# of a recipe\nbase: models/b\ntrain:\n  epochs: 2\n")
    git("add", "-A")
    git("commit", "-qm", "before")
    (tmp_path / "params.yaml").write_text("model: a\ncompute:\n  threads: 2\n")
    card.write_text("base: models/b\ntrain:\n  epochs: 2\n  seed: 8\n")
    git("commit", "-qam", "the experiment")
    git("update-ref", "refs/made", "HEAD")
    git("reset", "-q", "--hard", "HEAD~")
    queue = sweeps.Queue()
    monkeypatch.setattr(sweeps.Queue, "_repo", SimpleNamespace(scm=SimpleNamespace(get_ref=bool)))
    monkeypatch.setattr(sweeps.Queue, "_ref", lambda self, step: "refs/made")

    def step(seed: int) -> Step:
        return Step("a", {"model": "a"}, (f"cards/models/a.yaml:++train.seed={seed}",))

    assert queue.is_finished(step(8))
    assert not queue.is_finished(step(9))
    assert not queue.is_finished(Step("a", {"model": "a"}))
    card.write_text("base: models/b\ntrain:\n  epochs: 3\n")
    assert not queue.is_finished(step(8))


@pytest.mark.parametrize(
    ("models", "settings", "told"),
    [(["vit-l-41"], [], "vit-l-14"), (["vit-l-14"], ["rank.depth"], "-S wants key=value, found 'rank.depth'")],
)
def test_what_cannot_be_planned_is_refused(models: list[str], settings: list[str], told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        plan_steps(PARAMS, models, [], settings, "")


def test_parameters_are_counted_without_weights() -> None:
    assert sizes.count_parameters(PARAMS.models["vit-b-32"].towers()["joint"]) == 151_277_313
    assert sizes.count_parameters(PARAMS.models["mobilenetv2"].towers()["image"]) == 2_223_872
    assert sizes.count_parameters(PARAMS.models["minilm"].towers()["text"]) is None  # only the hub knows
    assert sizes.measure_need(PARAMS.models["vit-b-32"]) == 4 * 151_277_313
    assert sizes.measure_need(PARAMS.models["vit-b-32-finetuned"]) == 16 * 151_277_313  # with gradients and moments


def test_a_model_larger_than_the_memory_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def need(card: ModelCard) -> int | None:
        return {"vit-l-14": 9_000_000_000, "vit-b-32": 1}.get(names[id(card)])

    names = {id(PARAMS.models[name]): name for name in ("vit-l-14", "vit-b-32", "minilm")}
    monkeypatch.setattr(sizes, "measure_available", lambda device: 8_000_000_000)
    monkeypatch.setattr(sizes, "measure_need", need)
    with pytest.raises(ParamsError, match=r"8.0 GB of memory on auto.*vit-l-14 9.0 GB.*nothing was begun"):
        sweeps.refuse_what_does_not_fit(PARAMS, steps("vit-l-14", "vit-b-32"))
    assert sweeps.refuse_what_does_not_fit(PARAMS, steps("vit-b-32", "minilm")) == ["minilm"]
    assert sizes.measure_available(torch.device("cpu")) > 0


def test_a_card_that_git_does_not_know_is_refused_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "cards/models").mkdir(parents=True)
    (tmp_path / "cards/models/mine.yaml").write_text("joint: {}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"git add cards/models/mine.yaml"):
        sweeps.refuse_unknown_to_git(steps("mine"))
    subprocess.run(["git", "add", "-A"], check=True)
    sweeps.refuse_unknown_to_git(steps("mine"))


def known(model: str, captioner: str = "blip-scenes", **seconds: float) -> dict[str, Any]:
    stages = {
        "download": 100.0,
        "caption": 60.0,
        "tasks": 1.0,
        "train": 0.0,
        "embed": 30.0,
        "rank": 4.0,
        "evaluate": 5.0,
    }
    return {
        "choice": {"dataset": "scenes", "model": model, "captioner": captioner},
        "stages": {stage: {"seconds": value} for stage, value in (stages | seconds).items()},
    }


@pytest.mark.parametrize(
    ("model", "parameters", "trained", "expected"),
    [
        ("a", {}, "a", 60 + 1 + 200 + 30 + 4 + 5),  # as it was; what the dataset's own stages made is there
        ("b", {"a": 10, "b": 30}, "ab", 60 + 1 + 600 + 90 + 4 + 5),  # in proportion to the parameters
        ("b", {"a": 10, "b": 30}, "a", 60 + 1 + 0 + 90 + 4 + 5),  # weights that are fetched train nothing
        ("b", {"a": 10, "b": 30}, "b", None),  # where another was fetched, how long a training takes is not known
        ("b", {"a": 10, "b": None}, "ab", None),
    ],
)
def test_how_long_it_takes_is_told_by_what_earlier_runs_took(
    model: str, parameters: Mapping[str, int | None], trained: str, expected: float | None
) -> None:
    ran = known("a", train=200.0)
    assert durations.estimate_seconds(steps(model)[0], [ran], parameters, trained) == expected
    assert durations.estimate_seconds(steps(model)[0], [], parameters, trained) is None


def test_an_estimate_by_another_machine_says_so_and_is_not_made_where_this_one_knows() -> None:
    def on(machine: str, model: str, factor: float) -> dict[str, Any]:
        made = known(model)
        stages = {name: {"seconds": factor * s["seconds"], "machine": machine} for name, s in made["stages"].items()}
        return made | {"stages": stages}

    here, there = on("here, 2 cores", "a", 1.0), on("there, 64 cores", "a", 0.1)
    whole = durations.estimate_seconds(steps("a")[0], [known("a")], {}, "a")
    assert durations.estimate_here(steps("a")[0], [here, there], {}, "a", "here, 2 cores") == (whole, [])
    seconds, others = durations.estimate_here(steps("a")[0], [there], {}, "a", "here, 2 cores")
    assert seconds == pytest.approx(0.1 * (whole or 0.0))
    assert others == ["there, 64 cores"]
    assert durations.estimate_here(steps("a")[0], [known("a")], {}, "a", "here, 2 cores") == (whole, [])  # not named


@pytest.mark.parametrize(("seconds", "told"), [(0.2, "1 s"), (80, "80 s"), (600, "10 minutes"), (9000, "2.5 hours")])
def test_a_duration_is_told_as_one_would_say_it(seconds: float, told: str) -> None:
    assert durations.format_duration(seconds) == told


LOG = """Reproducing experiment 'x'
Running stage 'caption@scenes-none':
> python -m stages.caption
Stage 'tasks@scenes-none' didn't change, skipping
Running stage 'embed@scenes-x':
> python -m stages.embed
embed pictures:  10%\rembed pictures: 20%\r
embed: vit-l-14 cannot be had
ERROR: failed to reproduce 'embed@scenes-x': failed to run
"""


def test_a_log_tells_the_stage_and_why_it_ended() -> None:
    assert sweeps.read_stage(LOG) == "embed"
    assert sweeps.read_stage("") == ""
    assert sweeps.read_last_words(LOG)[-1] == "embed: vit-l-14 cannot be had"
    assert not any("Running stage" in line or "ERROR" in line for line in sweeps.read_last_words(LOG))


class FakeQueue(sweeps.Queue):
    """A queue of which each look finds the next of some states."""

    def __init__(self, looks: Sequence[dict[str, str]], orphans: Sequence[str] = ()) -> None:
        self.looks, self.orphans, self.started = list(looks), orphans, 0

    def states(self, steps: Sequence[Step]) -> dict[str, str]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def is_orphan(self, name: str) -> bool:
        return name in self.orphans

    def start(self, jobs: int) -> None:
        self.started += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def ticks() -> Iterator[float]:
        now = 0.0
        while True:
            now += 20.0
            yield now

    monkeypatch.setattr(time, "monotonic", ticks().__next__)
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_what_fails_does_not_stop_the_watch(clock: None) -> None:
    looks = [{"a": RUNNING, "b": QUEUED}, {"b": QUEUED}, {"a": FAILED, "b": RUNNING}, {"a": FAILED, "b": DONE}]
    seen = list(FakeQueue(looks).watch(steps("a", "b"), 1))
    assert seen[1] == {"a": RUNNING, "b": QUEUED}  # on its way from one list to another
    assert seen[-1] == {"a": FAILED, "b": DONE}


def test_an_experiment_whose_worker_was_killed_has_failed_and_the_others_go_on(clock: None) -> None:
    looks = [{"a": RUNNING, "b": QUEUED}] * 4 + [{"a": RUNNING, "b": RUNNING}, {"a": RUNNING, "b": DONE}]
    queue = FakeQueue(looks, orphans=["a"])
    assert list(queue.watch(steps("a", "b"), 1))[-1] == {"a": FAILED, "b": DONE}


def test_where_nothing_runs_and_something_waits_a_worker_is_started(clock: None) -> None:
    queue = FakeQueue([{"a": QUEUED}] * 4 + [{"a": DONE}])
    assert list(queue.watch(steps("a"), 1))[-1] == {"a": DONE}
    assert queue.started >= 1


def test_a_misspelt_model_ends_the_command_in_a_sentence() -> None:
    done = CliRunner().invoke(app, ["sweep", "--models", "vit-l-41", "--dry"])
    assert isinstance(done.exception, ParamsError)
    assert "vit-l-14" in str(done.exception)
