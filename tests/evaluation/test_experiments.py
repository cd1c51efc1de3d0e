"""Experiments are read through DVC where they lie: branches, DVC experiments, the workspace, lost caches."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twinlens.evaluation.experiments import ExperimentError, read_experiment

pytestmark = pytest.mark.slow  # DVC commands

FOLDER = Path("data/evaluated/d/m")
ROOT = Path(__file__).parents[2]


def run(*command: str) -> str:
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def measure(quality: float, queries: int = 60) -> None:
    """What `evaluate` leaves: a table of queries and what it is about."""
    rng = np.random.default_rng(0)
    hits = (rng.random(queries) < quality).astype(float)
    names = [f"q{n}" for n in range(queries)]
    table = {"query_id": names, "group": names, "cluster": names, "first_hit": (12 - 10 * hits).astype(int)}
    (FOLDER / "t").mkdir(parents=True, exist_ok=True)
    (FOLDER / "t/image.parquet").unlink(missing_ok=True)
    (FOLDER / "pools.json").unlink(missing_ok=True)
    pl.DataFrame(table | {"ndcg_at_10": hits}).write_parquet(FOLDER / "t/image.parquet")
    pool = {"dataset": "d", "split": "test", "queries": queries, "items": 60, "queries_digest": str(queries)}
    pools = {"t": pool | {"items_digest": "i", "retrievers": ["image"], "k": 10}}
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
    Path("dvc.yaml").write_text(f"stages:\n  evaluate:\n    cmd: 'true'\n    outs:\n    - {FOLDER.as_posix()}\n")
    measure(0.4)
    run("dvc", "commit", "-q", "-f")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "first")
    measure(0.8)
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
    (found,) = json.loads(done.stdout)["differences"]
    assert found["verdict"] == "better is better"
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


def test_files_that_are_not_in_the_cache_are_named_with_the_commands_that_get_them(project: Path) -> None:
    shutil.rmtree(project / ".dvc/cache")
    with pytest.raises(ExperimentError) as caught:
        read_experiment("better")
    message = str(caught.value)
    assert "data/evaluated/d/m/pools.json is not in the cache" in message
    assert "`git checkout better && dvc pull evaluate`" in message
    assert "`dvc exp run -S dataset=d -S model=m -S captioner=none`" in message


def test_experiments_over_other_queries_are_refused_on_the_command_line(project: Path) -> None:
    measure(0.4, queries=59)
    done = twinlens("compare", "main", "workspace")
    assert done.returncode == 2
    assert "t: the number of queries is 60 in main and 59 in workspace" in done.stderr


def test_two_different_experiments_are_needed(project: Path) -> None:
    assert "needs two different experiments, found main" in twinlens("compare", "main").stderr
