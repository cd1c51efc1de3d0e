"""Finished experiments, read through DVC where they lie: nothing is checked out, nothing is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from twinlens.core import paths
from twinlens.core.errors import TwinLensError, suggest_nearest

WORKSPACE = "workspace"


class ExperimentError(TwinLensError):
    """An experiment that cannot be found, or whose files are not here."""


@dataclass(frozen=True)
class Experiment:
    """Measurements of one run of the pipeline.

    `open_table` is what reads `<task>/<retriever>.parquet`; tables are kept once read.
    """

    name: str
    choice: dict[str, str]  # dataset, model, captioner
    pools: dict[str, dict[str, Any]]  # by task: what its numbers are about
    runs: list[tuple[str, str]]  # task and retriever
    open_table: Callable[[str], pl.DataFrame]
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """The deepest cut that was measured."""
        return max(int(pool["k"]) for pool in self.pools.values())

    def read(self, task: str, retriever: str) -> pl.DataFrame:
        """The values of every query of one run."""
        name = f"{task}/{retriever}.parquet"
        if name not in self.tables:
            self.tables[name] = self.open_table(name)
        return self.tables[name]


def read_experiment(name: str) -> Experiment:
    """Read an experiment by its DVC name, or what a git revision holds, or `workspace` as it stands.

    Raises:
        ExperimentError: there is no such revision, or its files are not in the cache; the message
            names the commands that get them.
    """
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        files = _open_files(name)
    except DvcException as error:
        raise ExperimentError(f"{name}: {error}. Run from the root of the repository") from None
    choice = _choice(files, name)
    folder = paths.evaluated(choice["dataset"], choice["model"]).as_posix()

    def content(file: str) -> bytes:
        try:
            found: bytes = files.read_bytes(f"{folder}/{file}")
        except (FileNotFoundError, DvcException, DataIndexDirError):
            raise ExperimentError(_how_to_get(name, choice, f"{folder}/{file}")) from None
        return found

    pools = json.loads(content("pools.json"))
    runs = [(task, retriever) for task, pool in pools.items() for retriever in pool["retrievers"]]
    return Experiment(name, choice, pools, runs, lambda file: pl.read_parquet(content(file)))


@dataclass(frozen=True)
class _Files:
    """Files of the project in the workspace or at a revision, by their paths in the project."""

    system: Any  # DVCFileSystem
    below: str = ""  # where the project lies in what `system` sees, with a slash at its end

    def read_bytes(self, file: str) -> bytes:
        found: bytes = self.system.read_bytes(f"{self.below}{file}")
        return found


def _open_files(name: str) -> _Files:
    """Open the workspace or a revision; the paths of a revision begin at the top of git's repository, not DVC's."""
    from dvc.api import DVCFileSystem  # takes half a second
    from dvc.repo import Repo

    if name == WORKSPACE:
        return _Files(DVCFileSystem())
    revision = _resolve(name)
    with Repo() as repo:
        below = Path(repo.root_dir).resolve().relative_to(Path(repo.scm.root_dir).resolve()).as_posix()
    if below == ".":
        return _Files(DVCFileSystem(rev=revision))
    return _Files(DVCFileSystem(rev=revision, subrepos=True), f"{below}/")


def _resolve(name: str) -> str:
    """The commit behind a name."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import resolve_rev

    try:
        with Repo() as repo:
            try:
                return resolve_rev(repo.scm, name)
            except DvcException:
                known = {WORKSPACE, *repo.scm.list_branches(), *repo.scm.list_tags()}
                known |= {found[0] for names in repo.experiments.ls(all_commits=True).values() for found in names}
                raise ExperimentError(
                    f"'{name}' is neither a git revision nor an experiment ({suggest_nearest(name, known)})"
                ) from None
    except DvcException as error:
        raise ExperimentError(f"{error}. Run from the root of the repository") from None


def _choice(files: _Files, name: str) -> dict[str, str]:
    try:
        params = yaml.safe_load(files.read_bytes("params.yaml"))
        return {key: str(params[key]) for key in ("dataset", "model", "captioner")}
    except (FileNotFoundError, KeyError, TypeError, yaml.YAMLError):
        raise ExperimentError(
            f"{name}: its params.yaml does not name a dataset, a model and a captioner: not a revision of this pipeline"
        ) from None


def _how_to_get(name: str, choice: dict[str, str], file: str) -> str:
    settings = " ".join(f"-S {key}={value}" for key, value in choice.items())
    there = "" if name == WORKSPACE else f"git checkout {name} && " if _is_git(name) else f"dvc exp apply {name} && "
    return (
        f"{name}: {file} is not in the cache. Fetch it where it was pushed: `{there}dvc pull evaluate`; "
        f"or make it again: `dvc exp run {settings}`"
    )


def _is_git(name: str) -> bool:
    """Whether git by itself knows the name; otherwise it is an experiment's."""
    from dvc.repo import Repo
    from scmrepo.exceptions import RevError

    with Repo() as repo:
        try:
            repo.scm.resolve_rev(name)
        except RevError:
            return False
    return True
