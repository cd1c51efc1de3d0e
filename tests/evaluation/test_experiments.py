"""Experiments are read through DVC where they lie: branches, DVC experiments, the workspace, lost caches."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests import experiments
from tests.ranked import write_run
from twinlens.evaluation.experiments import (
    ExperimentError,
    list_experiments,
    list_failed,
    read_experiment,
    read_workspace,
)

pytestmark = pytest.mark.slow  # DVC commands

FOLDER = Path("data/evaluated/d/m")
RANKED = Path("data/ranked/d/m")
CARD = Path("data/cards/models/m.json")
ROOT = Path(__file__).parents[2]


def run(*command: str) -> str:
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def measure(quality: float, queries: int = 60, texts: str = "said") -> None:
    """What `rank` and `evaluate` leave: lists, a table of queries and what it is about."""
    rng = np.random.default_rng(0)
    task = replace(experiments.caption_to_image(queries, 1), name="t")
    places = np.where(rng.random(queries) < quality, 1, 15)
    others = [[item for item in range(queries) if item != query] for query in range(queries)]
    rows = np.array(
        [[*own[: p - 1], q, *own[p - 1 : 19]] for q, (p, own) in enumerate(zip(places, others, strict=True))]
    )
    for folder in (FOLDER, RANKED):
        shutil.rmtree(folder, ignore_errors=True)  # links into the cache
    write_run(RANKED / "t", task, rows, np.tile(np.linspace(1, 0, 20), (queries, 1)))
    made = experiments.experiment("", task, {"image": rows})
    (FOLDER / "t").mkdir(parents=True)
    made.read("t", "image").write_parquet(FOLDER / "t/image.parquet")
    pools = {"t": made.pools["t"] | {"queries_digest": str(queries), "texts_digest": texts}}
    (FOLDER / "pools.json").write_text(json.dumps(pools))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose branch `main` is worse than its tag `better`; no stage is ever run."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        _make()
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    enter(tmp_path / "project", monkeypatch)
    return tmp_path / "project"


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")


def _start_git() -> None:
    run("git", "init", "-q", "-b", "main")
    run("git", "config", "user.email", "test@example.org")
    run("git", "config", "user.name", "test")


def _make(*init: str) -> None:
    if not init:
        _start_git()
    run("dvc", "init", "-q", *init)
    Path("params.yaml").write_text("dataset: d\nmodel: m\ncaptioner: none\n")
    outs = "".join(f"    - {out.as_posix()}\n" for out in (FOLDER, RANKED, CARD))
    Path("dvc.yaml").write_text(f"stages:\n  evaluate:\n    cmd: 'true'\n    outs:\n{outs}")
    CARD.parent.mkdir(parents=True)
    CARD.write_text('{"train": {"seed": 0}}')
    measure(0.4)
    run("dvc", "commit", "-q", "-f")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "first")
    measure(0.8)
    CARD.unlink()
    CARD.write_text('{"train": {"seed": 1}}')
    run("dvc", "commit", "-q", "-f")
    run("git", "commit", "-qam", "second")
    run("git", "tag", "better")
    run("git", "reset", "-q", "--hard", "HEAD~1")
    run("dvc", "checkout", "-q", "--force")


def twinlens(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from twinlens.apps.cli import main; main()", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.cwd())}
    return subprocess.run(command, text=True, capture_output=True, check=False, env=environment)


def test_two_revisions_are_compared_and_nothing_is_checked_out(project: Path) -> None:
    before = (project / FOLDER / "t/image.parquet").read_bytes()
    done = twinlens("compare", "main", "better", "--format", "json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    (found,), (pair,) = said["differences"], said["pairs"]
    assert found["verdict"] == "better is better"
    assert pair["settings"].startswith("What differs: model card: train.seed 0 → 1. One seed each:")
    assert (project / FOLDER / "t/image.parquet").read_bytes() == before
    assert run("git", "status", "--short") == ""


def test_an_experiment_of_dvc_goes_by_its_name_and_the_workspace_by_its_own(project: Path) -> None:
    measure(0.8)
    run("dvc", "commit", "-q", "-f")
    run("dvc", "exp", "save", "-n", "good-one")
    run("git", "checkout", "-q", ".")
    run("dvc", "checkout", "-q", "--force")
    better, here = (read_experiment(name).read("t", "image")["ndcg_at_10"] for name in ("good-one", "workspace"))
    assert better.sum() > here.sum() + 10
    choice = read_experiment("workspace").choice
    assert read_workspace(choice).read("t", "image")["ndcg_at_10"].equals(here)  # as a stage reads it
    assert twinlens("compare", "good-one", "workspace").returncode == 0


def test_a_project_in_a_folder_of_a_larger_repository_is_compared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger, mine = tmp_path / "larger", tmp_path / "larger/more of it/mine"
    mine.mkdir(parents=True)
    enter(larger, monkeypatch)
    _start_git()
    (larger / "params.yaml").write_text("dataset: another\n")  # of the larger one: not ours
    enter(mine, monkeypatch)
    _make("--subdir")
    done = twinlens("compare", "main", "better", "--format", "json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["differences"]
    assert found["verdict"] == "better is better"
    measure(0.8)
    run("dvc", "commit", "-q", "-f")
    run("dvc", "exp", "save", "-n", "good-one")
    assert read_experiment("good-one").choice == {"dataset": "d", "model": "m", "captioner": "none"}
    assert twinlens("compare", "main", "workspace").returncode == 0


def test_an_unknown_name_is_refused_with_the_nearest(project: Path) -> None:
    done = twinlens("compare", "main", "bettr")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "twinlens: 'bettr' is neither a git revision nor an experiment (did you mean 'better'?"
    )
    assert "Traceback" not in done.stderr


def test_of_two_experiments_of_one_name_the_commit_says_which(project: Path) -> None:
    for name in ("first", "second"):
        run("git", "commit", "-q", "--allow-empty", "-m", name)
        Path("params.yaml").write_text(f"dataset: d\nmodel: m\ncaptioner: none\nremark: {name}\n")
        run("dvc", "exp", "save", "-n", "twin")
        run("git", "checkout", "-q", ".")
    run("git", "commit", "-q", "--allow-empty", "-m", "third")
    done = twinlens("compare", "main", "twin")
    assert done.returncode == 2
    found = re.fullmatch(
        r"twinlens: there are 2 experiments 'twin': say which by its commit: "
        r"(\w{7}) \(begun at \w{7}\), \w{7} \(begun at \w{7}\)\n",
        done.stderr,
    )
    assert found is not None, done.stderr
    assert read_experiment(found[1]).choice == {"dataset": "d", "model": "m", "captioner": "none"}


def test_files_that_are_not_in_the_cache_are_named_with_the_commands_that_get_them(project: Path) -> None:
    shutil.rmtree(project / ".dvc/cache")
    with pytest.raises(ExperimentError) as caught:
        read_experiment("better")
    message = str(caught.value)
    assert "data/evaluated/d/m/pools.json is not in the cache" in message
    assert "`git checkout better && dvc pull rank evaluate`" in message
    assert "`dvc exp run -S dataset=d -S model=m -S captioner=none`" in message


def test_experiments_over_other_queries_are_refused_on_the_command_line(project: Path) -> None:
    measure(0.4, queries=59)
    done = twinlens("compare", "main", "workspace")
    assert done.returncode == 2
    assert "t: the number of queries is 60 in main and 59 in workspace" in done.stderr


def test_experiments_over_other_captions_are_refused_on_the_command_line(project: Path) -> None:
    measure(0.4, texts="other words")
    done = twinlens("compare", "main", "workspace")
    assert done.returncode == 2
    assert "t: the texts of the queries or items in main are not those in workspace" in done.stderr


def test_runs_of_an_older_version_are_refused_with_the_command_that_makes_them_anew(project: Path) -> None:
    items = pl.read_parquet(RANKED / "t/items.parquet").drop("image_id")
    (RANKED / "t/items.parquet").unlink()
    items.write_parquet(RANKED / "t/items.parquet")
    done = twinlens("compare", "better", "workspace")
    assert done.returncode == 2
    assert "workspace: data/ranked/d/m/t is not as this version writes it" in done.stderr
    assert "columns ['image_id'] are missing" in done.stderr
    assert "Rank and measure it again: `dvc exp run -S dataset=d -S model=m -S captioner=none`" in done.stderr
    assert "Traceback" not in done.stderr


def test_seeds_are_one_candidate_on_the_command_line(project: Path) -> None:
    done = twinlens("compare", "main+better", "workspace:image", "-m", "hit_at_10")
    assert done.returncode == 0, done.stderr
    assert "main+better (first: m) and workspace:image (second: m)" in done.stdout


def test_two_different_experiments_are_needed(project: Path) -> None:
    said = twinlens("compare", "main").stderr
    assert "needs two different experiments, found main" in said
    assert "`main:image main:captions_joined`" in said


def test_what_came_out_of_the_queue_and_the_workspace_are_chosen_from_and_a_page_is_written(project: Path) -> None:
    assert list_failed() == []
    measure(0.8)
    CARD.unlink()
    CARD.write_text('{"train": {"seed": 0, "epochs": 2}}')
    run("dvc", "commit", "-q", "-f")
    run("dvc", "exp", "save", "-n", "good-one")
    run("git", "checkout", "-q", ".")
    run("dvc", "checkout", "-q", "--force")
    assert list_experiments() == ["workspace", "good-one"]
    done = twinlens("choose", "--format", "json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["chosen"] == "good-one"
    assert said["group"] == ["good-one"]
    assert said["decided"]
    assert "No costs are known" in " ".join(said["notes"])
    page = twinlens("choose", "good-one", "main", "--format", "html", "--out", "board.html")
    assert page.stdout.startswith("Take good-one: better than the other on your data (nDCG@10 ")
    assert "<title>TwinLens: Take good-one" in Path("board.html").read_text(encoding="utf-8")
    planned = twinlens("plan", "main", "good-one", "--effect", "0.1", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["pictures"] == 60


def test_what_cannot_be_chosen_from_is_refused_in_a_sentence_on_the_command_line(project: Path) -> None:
    alone = twinlens("choose", "workspace")
    assert alone.returncode == 2
    assert alone.stderr.startswith("twinlens: choose needs two candidates or more on t, found workspace: name others")
    CARD.unlink()
    CARD.write_text('{"train": {"seed": 0, "epochs": 2}}')
    measure(0.8)
    for options, said in (
        (
            ["--max-bytes", "1"],
            "none of the 2 candidates meets what is asked; the nearest is main: vector_bytes unknown.",
        ),
        (["--licence", "permissive"], "none of the 2 candidates meets what is asked; the nearest is main: licence not"),
        (["--costs", "vector_byte"], "there is no cost 'vector_byte' (did you mean 'vector_bytes'"),
        (["--task", "u"], "main, workspace has no task 'u'"),
        (["--measure", "ndcg_at_20"], "has no ndcg_at_20 (did you mean 'ndcg_at_10'"),
        (["--retriever", "words"], "choose needs two candidates or more on t, found none"),
    ):
        done = twinlens("choose", "main", "workspace", *options)
        assert done.returncode == 2, (options, done.stdout)
        assert said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    measure(0.8, queries=40)
    few = twinlens("choose", "workspace", "main")
    assert few.returncode == 2
    assert "t: the number of queries is 40 in workspace and 60 in main; only experiments over one pool" in few.stderr


def test_an_experiment_on_another_pool_is_left_out_of_all_and_said(project: Path) -> None:
    for name, queries in (("good-one", 60), ("other-pool", 50)):
        measure(0.8, queries=queries)
        CARD.unlink()
        CARD.write_text('{"train": {"seed": 0, "epochs": 2}}')
        run("dvc", "commit", "-q", "-f")
        run("dvc", "exp", "save", "-n", name)
    run("git", "checkout", "-q", ".")
    run("dvc", "checkout", "-q", "--force")
    done = twinlens("choose", "--format", "json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {entry["name"] for entry in said["entries"]} == {"good-one", "workspace"}
    (note,) = [note for note in said["notes"] if note.startswith("Left out: other-pool. ")]
    assert "t: the number of queries is 60 in workspace and 50 in other-pool" in note


def test_two_seeds_of_one_recipe_are_nothing_to_choose_between(project: Path) -> None:
    done = twinlens("choose", "main", "better")
    assert done.returncode == 2
    assert "nothing to choose on t: main+better differ in the seed alone: one row" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_experiment_that_died_is_left_out_of_all_and_said_and_refused_if_named(project: Path) -> None:
    measure(0.8)
    CARD.unlink()
    CARD.write_text('{"train": {"seed": 0, "epochs": 2}}')
    run("dvc", "commit", "-q", "-f")
    run("dvc", "exp", "save", "-n", "good-one")
    (FOLDER / "pools.json").unlink()
    run("dvc", "commit", "-q", "-f")
    run("dvc", "exp", "save", "-n", "dead-one")
    run("git", "checkout", "-q", ".")
    run("dvc", "checkout", "-q", "--force")
    done = twinlens("choose", "--format", "json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {entry["name"] for entry in said["entries"]} == {"good-one", "workspace"}
    assert any(note.startswith("Left out: dead-one: data/evaluated/d/m/pools.json") for note in said["notes"])
    named = twinlens("choose", "workspace", "dead-one")
    assert named.returncode == 2
    assert "twinlens: dead-one: data/evaluated/d/m/pools.json is not in the cache" in named.stderr
