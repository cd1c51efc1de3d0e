"""Sweeps: what is planned, refused, estimated and told; what DVC's queue does is in tests/pipeline."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from twinlens.apps import durations, sweeps
from twinlens.apps.cli import app
from twinlens.apps.sweeps import DONE, FAILED, QUEUED, RUNNING, Step
from twinlens.config.load import read_params
from twinlens.config.models import ModelCard
from twinlens.core.errors import ParamsError
from twinlens.models import sizes

PARAMS = read_params()


def steps(*models: str, captioner: str = "blip-scenes") -> list[Step]:
    return [Step(name, {"dataset": "scenes", "model": name, "captioner": captioner}) for name in models]


def test_every_model_goes_with_every_captioner_once() -> None:
    planned = sweeps.plan_steps(
        PARAMS, ["vit-l-14", "vit-b-32", "vit-l-14"], ["none", "blip-base"], ["rank.depth=20"], "x-"
    )
    assert [one.name for one in planned] == [
        "x-vit-l-14-none", "x-vit-l-14-blip-base", "x-vit-b-32-none", "x-vit-b-32-blip-base"
    ]  # fmt: skip
    assert planned[1].options == [
        "-S", "dataset=scenes", "-S", "model=vit-l-14", "-S", "captioner=blip-base", "-S", "rank.depth=20"
    ]  # fmt: skip
    assert [one.name for one in sweeps.plan_steps(PARAMS, ["vit-l-14"], [], [], "")] == ["vit-l-14"]


@pytest.mark.parametrize(
    ("models", "settings", "told"),
    [(["vit-l-41"], [], "vit-l-14"), (["vit-l-14"], ["rank.depth"], "-S wants key=value, found 'rank.depth'")],
)
def test_what_cannot_be_planned_is_refused(models: list[str], settings: list[str], told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        sweeps.plan_steps(PARAMS, models, [], settings, "")


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
