"""Finished experiments, read through DVC where they lie: nothing is checked out, nothing is run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from twinlens.core import paths
from twinlens.core.errors import DataError, TwinLensError, suggest_nearest
from twinlens.evaluation.deletions import Deletions
from twinlens.evaluation.pool import Lists, Pool
from twinlens.retrieval.runs import DRAWS
from twinlens.tasks.base import Task

WORKSPACE = "workspace"
CARDS = {"dataset": "datasets", "model": "models", "captioner": "captioners"}
NO_RESULT = ("compute", "search", "report", "index", "approximate")  # sections that no measure depends on
_Read = Callable[[str], bytes]  # of a file of the project, by its path in it


class ExperimentError(TwinLensError):
    """An experiment that cannot be found, or whose files are not here."""


@dataclass(frozen=True)
class Experiment:
    """Measurements of one run of the pipeline.

    `open_table` is what reads `<task>/<retriever>.parquet`, `open_run` a task and the lists of a retriever; both are
    kept once read.
    """

    name: str
    choice: dict[str, str]  # dataset, model, captioner
    pools: dict[str, dict[str, Any]]  # by task: what its numbers are about
    runs: list[tuple[str, str]]  # task and retriever
    open_table: Callable[[str], pl.DataFrame]
    open_run: Callable[[str, str], tuple[Task, Lists]]
    settings: dict[str, str] = field(default_factory=dict)  # of params.yaml and of the cards, by dotted name
    trained: bool = False  # whether the pipeline trained what embeds or captions
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    deletions: dict[tuple[str, str, int], list[Deletions]] = field(default_factory=dict)
    open_draws: Callable[[str, str], Sequence[tuple[Task, Lists]]] = (
        lambda task, retriever: ()
    )  # further draws of a run
    open_told: Callable[[str, str], Mapping[str, Any]] = lambda task, retriever: {}  # what a run's own file says of it
    costs: Mapping[str, Any] = field(default_factory=dict)  # of metrics/cost.json; empty: none were kept

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

    def delete(self, task: str, retriever: str, k: int) -> list[Deletions]:
        """What deleting each picture does to the lists of one run, at cuts up to k, by draw where it has several."""
        key = (task, retriever, k)
        if key not in self.deletions:
            draws = [self.open_run(task, retriever), *self.open_draws(task, retriever)]
            self.deletions[key] = [Deletions.of(of, lists.rows, lists.gains, k) for of, lists in draws]
        return self.deletions[key]


def read_experiment(name: str) -> Experiment:
    """Read an experiment by its DVC name, or what a git revision holds, or `workspace` as it stands.

    Raises:
        ExperimentError: there is no such revision, or its files are not in the cache; the message
            names the commands that get them.
    """
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        read = _open_files(name)
    except DvcException as error:
        raise ExperimentError(f"{name}: {error}. Run from the root of the repository") from None
    params = _read_params(read, name)
    choice = {key: str(params[key]) for key in CARDS}
    return _assemble(params, choice, read, name, (FileNotFoundError, DvcException, DataIndexDirError))


def read_workspace(choice: dict[str, str]) -> Experiment:
    """Read what the stages left in this folder, as it lies there: in a stage, which knows nothing of DVC.

    Args:
        choice: dataset, model and captioner.

    Raises:
        ExperimentError: something is not there.
    """
    return _assemble({}, choice, lambda file: Path(file).read_bytes(), WORKSPACE, (FileNotFoundError,))


def _assemble(
    params: Mapping[str, Any], choice: dict[str, str], read: _Read, name: str, absent: tuple[type[Exception], ...]
) -> Experiment:
    def content(file: Path) -> bytes:
        try:
            return read(file.as_posix())
        except absent:
            raise ExperimentError(_how_to_get(name, choice, file.as_posix())) from None

    def open_told(task: str, retriever: str) -> Mapping[str, Any]:
        ranked = paths.ranked(choice["dataset"], choice["model"]) / task
        told: dict[str, Any] = json.loads(content(ranked / f"runs/{retriever}.json"))
        return told

    def open_draws(task: str, retriever: str) -> list[tuple[Task, Lists]]:
        draws = open_told(task, retriever).get("draws", 1)
        return [open_run(f"{task}/{DRAWS}/{draw}", retriever) for draw in range(1, draws)]

    def open_run(task: str, retriever: str) -> tuple[Task, Lists]:
        ranked = paths.ranked(choice["dataset"], choice["model"]) / task
        wanted = ["task.json", "queries.parquet", "items.parquet"]
        wanted += [f"runs/{retriever}.parquet", f"runs/{retriever}.json"]
        wanted += ["qrels.parquet"] if "qrels_digest" in pools[task.split("/", maxsplit=1)[0]] else []
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / task
            (folder / "runs").mkdir(parents=True)
            for file in wanted:
                (folder / file).write_bytes(content(ranked / file))
            try:
                pool = Pool.read(folder)
                return pool.task, pool.read_lists(retriever)
            except DataError as error:
                said = str(error).replace(scratch, "").strip("/")
                raise ExperimentError(
                    f"{name}: {ranked} is not as this version writes it ({said}). {_how_to_run(choice)}"
                ) from None

    cards = {key: _read_if_there(read, paths.card(kind, choice[key]), absent) for key, kind in CARDS.items()}
    evaluated = paths.evaluated(choice["dataset"], choice["model"])
    pools = json.loads(content(evaluated / "pools.json"))
    runs = [(task, retriever) for task, pool in pools.items() for retriever in pool["retrievers"]]
    return Experiment(
        name,
        choice,
        pools,
        runs,
        lambda file: pl.read_parquet(content(evaluated / file)),
        open_run,
        flatten_settings(params, cards),
        any("train" in cards[key] for key in ("model", "captioner")),
        open_draws=open_draws,
        open_told=open_told,
        costs=_read_if_there(read, paths.METRICS / "cost.json", absent),
    )


def list_experiments() -> list[str]:
    """List what has come out of the queue on this commit, and the workspace, by name.

    Raises:
        ExperimentError: this is no repository of git and DVC.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return [WORKSPACE, *sorted({found[0] for names in repo.experiments.ls().values() for found in names})]
    except DvcException as error:
        raise ExperimentError(f"{error}. Run from the root of the repository") from None


def list_failed() -> list[str]:
    """List the experiments of the queue that failed, by name."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            failed = repo.experiments.celery_queue.failed_stash
            return [] if failed is None else sorted(one.name or rev[:7] for rev, one in failed.stash_revs.items())
    except DvcException:
        return []


def flatten_settings(params: Mapping[str, Any], cards: Mapping[str, Any]) -> dict[str, str]:
    """Flatten what can decide a result to `section.key` and `<kind> card: key`, each with its value as text."""
    found: dict[str, str] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                add(f"{prefix}{key}." if isinstance(inner, Mapping) and inner else f"{prefix}{key}", inner)
        else:
            found[prefix] = json.dumps(value, default=str) if not isinstance(value, str) else value

    add("", {key: value for key, value in params.items() if key not in NO_RESULT})
    for kind, card in cards.items():
        add(f"{kind} card: ", card)
    return found


def _read_if_there(read: _Read, file: Path, absent: tuple[type[Exception], ...]) -> dict[str, Any]:
    """Read a file of JSON; nothing where the experiment has none."""
    try:
        found: dict[str, Any] = json.loads(read(file.as_posix()))
    except absent:
        return {}
    return found


def _open_files(name: str) -> _Read:
    """Open the workspace or a revision; the paths of a revision begin at the top of git's repository, not DVC's."""
    from dvc.api import DVCFileSystem  # takes half a second
    from dvc.repo import Repo

    def open_below(below: str, **options: Any) -> _Read:
        system = DVCFileSystem(**options)
        return lambda file: bytes(system.read_bytes(f"{below}{file}"))

    if name == WORKSPACE:
        return open_below("")
    revision = _resolve(name)
    with Repo() as repo:
        below = Path(repo.root_dir).resolve().relative_to(Path(repo.scm.root_dir).resolve()).as_posix()
    if below == ".":
        return open_below("", rev=revision)
    return open_below(f"{below}/", rev=revision, subrepos=True)


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
                kept = repo.experiments.ls(all_commits=True)
                if len(same := [(end, start) for start, ends in kept.items() for own, end in ends if own == name]) > 1:
                    told = ", ".join(f"{end[:7]} (begun at {start[:7]})" for end, start in same)
                    raise ExperimentError(
                        f"there are {len(same)} experiments '{name}': say which by its commit: {told}"
                    ) from None
                known = {WORKSPACE, *repo.scm.list_branches(), *repo.scm.list_tags()}
                known |= {found[0] for names in kept.values() for found in names}
                raise ExperimentError(
                    f"'{name}' is neither a git revision nor an experiment ({suggest_nearest(name, known)})"
                ) from None
    except DvcException as error:
        raise ExperimentError(f"{error}. Run from the root of the repository") from None


def _read_params(read: _Read, name: str) -> dict[str, Any]:
    try:
        params = yaml.safe_load(read("params.yaml"))
        return dict(params) | {key: params[key] for key in CARDS}
    except (FileNotFoundError, KeyError, TypeError, yaml.YAMLError):
        raise ExperimentError(
            f"{name}: its params.yaml does not name a dataset, a model and a captioner: not a revision of this pipeline"
        ) from None


def _how_to_get(name: str, choice: dict[str, str], file: str) -> str:
    there = "" if name == WORKSPACE else f"git checkout {name} && " if _is_git(name) else f"dvc exp apply {name} && "
    return (
        f"{name}: {file} is not in the cache. Fetch it where it was pushed: `{there}dvc pull rank evaluate`; "
        f"or make it again: `dvc exp run {_settings(choice)}`"
    )


def _how_to_run(choice: dict[str, str]) -> str:
    return f"Rank and measure it again: `dvc exp run {_settings(choice)}`"


def _settings(choice: dict[str, str]) -> str:
    return " ".join(f"-S {key}={value}" for key, value in choice.items())


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
