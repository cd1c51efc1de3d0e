"""Where the project lies: `make` says before it installs anything that there is no git repository, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.workspace import ROOT

INSTALLS = "TwinLens needs Python 3.11"  # what a Python that is none answers, and so: as far as the installation


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """As much of a ZIP download as `make setup` looks at."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".dvc").mkdir()
    return tmp_path


def make(folder: Path, *targets: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | variables
    command = ["make", *targets, "PYTHON=false"]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode != 0
    return done.stdout


@pytest.mark.parametrize("target", ["setup", "repro", "serve"])
def test_without_git_nothing_is_installed_and_both_ways_on_are_told(target: str, downloaded: Path) -> None:
    said = make(downloaded, target, GIT_CEILING_DIRECTORIES=str(downloaded.parent))
    assert INSTALLS not in said
    assert "git init && git add -A && git commit" in said
    assert r"printf '[core]\n    no_scm = true\n' >> .dvc/config.local" in said
    assert not (downloaded / ".venv").exists()


def test_a_repository_and_a_folder_of_one_go_on_to_the_installation(downloaded: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=downloaded, check=True)
    assert INSTALLS in make(downloaded, "setup")
    inside = downloaded / "more/mine"
    shutil.copytree(downloaded, inside, ignore=shutil.ignore_patterns(".git", "more"))
    assert INSTALLS in make(inside, "setup")


def test_who_says_that_there_is_no_git_is_believed(downloaded: Path) -> None:
    subprocess.run(
        "printf '[core]\\n    no_scm = true\\n' >> .dvc/config.local", shell=True, cwd=downloaded, check=True
    )
    assert INSTALLS in make(downloaded, "setup", GIT_CEILING_DIRECTORIES=str(downloaded.parent))
