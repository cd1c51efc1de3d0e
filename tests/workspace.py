"""Clones of the project in temporary folders, small enough to run DVC in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.preloaded import start_server

ROOT = Path(__file__).parent.parent
CLEAN = "Data and pipelines are up to date.\n"  # what `dvc status` says
RAN = re.compile(r"^Running stage '([^'@]+)", re.MULTILINE)


class Workspace:
    """A git clone with a DVC cache of its own, whose stages begin with their libraries loaded (`tests/preloaded`).

    Args:
        folder: where it is.
        variables: of the environment, beside those that are there.
        plain: let `python` be the interpreter itself.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None, plain: bool = False) -> None:
        self.folder, self.variables, self.plain = folder, dict(variables or {}), plain

    @property
    def environment(self) -> dict[str, str]:
        """The surroundings of a command: this interpreter first, one thread, and nothing of other tests."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TWINLENS_", "DVC_", "GIT_"))}
        server = None if self.plain else start_server()
        path = [*([str(server)] if server else []), str(Path(sys.executable).parent), os.environ["PATH"]]
        return {"OMP_NUM_THREADS": "1"} | kept | self.variables | {"PATH": os.pathsep.join(path)}

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def ran(self, *command: str) -> list[str]:
        """The stages that a command really ran, in order."""
        return RAN.findall(self.run(*command))

    def change(self, values: Mapping[str, Any]) -> None:
        """Set keys, dotted, as a person would in an editor: of params.yaml, or of a card, named as `-S` names it."""
        change(self.folder, values)

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def copy(self, folder: Path) -> Workspace:
        """Another workspace in the same state, cache and all."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Workspace(folder)

    def share(self, remote: Path | str, *targets: str) -> None:
        """Name a remote (a folder, or the URL of a bucket), commit, and send there what the pipeline made."""
        self.run("dvc", "remote", "add", "--default", "shared", str(remote))
        self.commit("results, shared")
        self.run("dvc", "push", *targets)

    def elsewhere(self, folder: Path, **variables: str) -> Workspace:
        """A colleague's machine: what git holds, an empty cache, no downloads and no unfinished work."""
        self.run("git", "clone", "-q", str(self.folder), str(folder))
        return Workspace(folder, variables)

    def digests(self, *parts: str) -> dict[str, bytes]:
        """Every file below data/<part>, by name: its bytes."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for part in parts
            for path in sorted((self.folder / "data" / part).rglob("*"))
            if path.is_file()
        }


def change(folder: Path, values: Mapping[str, Any]) -> None:
    """Set keys of params.yaml (`rank.depth`) or of a card (`cards/models/x.yaml:train.epochs`; no key: all of it)."""
    for name, value in values.items():
        file, colon, dotted = name.rpartition(":")
        path = folder / (file or "params.yaml")
        if colon and not dotted:
            path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
            continue
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        *parents, last = dotted.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def clone(folder: Path) -> Workspace:
    """The working tree as it stands, committed anew, with a dataset of a few hundred pictures and short training."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("dvc.lock", "metrics/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    workspace = Workspace(folder)
    workspace.run("git", "init", "-q", "-b", "main")
    workspace.run("git", "config", "user.email", "test@example.org")
    workspace.run("git", "config", "user.name", "test")
    workspace.change(
        {
            "cards/datasets/scenes.yaml:train": 256,
            "cards/datasets/scenes.yaml:val": 40,
            "cards/datasets/scenes.yaml:test": 400,
            "category_search.negatives": 200,
            # what takes most of the time, and shows no more here: second opinions, and indexes
            "evaluate.referee_queries": 4,
            "evaluate.resamples": 200,
            "approximate.queries": 20,
            "approximate.settings": {
                "ivf_flat_1_of_16": {"index": "ivf_flat", "partitions": 16, "nprobes": 1},
                "ivf_flat_8_of_16": {"index": "ivf_flat", "partitions": 16, "nprobes": 8},
                "hnsw_sq_ef_20": {"index": "ivf_hnsw_sq", "partitions": 1, "nprobes": 1, "ef": 20},
            },
            "cards/models/clip-other.yaml:": {"base": "models/clip-scenes", "train": {"seed": 1, "epochs": 1}},
            "cards/models/clip-scenes.yaml:train.epochs": 2,
            "cards/captioners/blip-scenes.yaml:train.epochs": 2,
            "cards/captioners/blip-scenes.yaml:max_new_tokens": 12,
        }
    )
    workspace.commit("a small copy")
    return workspace
