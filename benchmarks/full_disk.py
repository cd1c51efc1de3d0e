"""Every stage on a disk that fills up: it has to say so in a sentence, leave nothing half-written, and go on with room.

    python -m benchmarks.full_disk                              # makes the small pipeline of benchmarks.kills first
    python -m benchmarks.full_disk --finished FOLDER --only embed index

The project lies on a disk in memory of its own, for which this has to run as root, of which a file takes all but 1 MB,
64 kB or nothing. A stage's outputs and kept parts are removed, and it runs as DVC runs it. Then that file goes, and the
stage runs again: its outputs have to be those of a run that had room.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.kills import UNLIKE, prepare
from tests.workspace import Workspace, change

SPARE = {"1 MB": 2**20, "64 kB": 2**16, "nothing": 0}  # bytes
ROOM = 64 * 2**20  # of the disk beside the project
FILLER = "filler"
SCRATCH = Path(".dvc/tmp/twinlens")
IVF_RQ, IVF_ROWS = "index (ivf_rq)", 256


def main() -> int:
    """Fill and run; 1 where a stage does anything else than end in a sentence or finish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", type=Path, help="folder of a project whose pipeline has run")
    parser.add_argument("--only", nargs="+", help="stages")
    options = parser.parse_args()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        finished = options.finished or run_pipeline(Path(folder) / "finished")
        stages = list_stages(finished)
        unknown = set(options.only or ()) - set(stages)
        if unknown:
            raise SystemExit(f"no stages: {', '.join(sorted(unknown))}; there are {', '.join(stages)}")
        with mount(finished, Path(folder) / "disk") as disk:
            print(f"| stage | {' | '.join(f'{name} free' for name in SPARE)} | with room again |")
            print(f"|{'---|' * (len(SPARE) + 2)}")
            for name, (command, outputs) in stages.items():
                if options.only is None or name in options.only:
                    told, found = starve(disk, finished, name, command, outputs)
                    faults += found
                    print(f"| {name} | {' | '.join(told)} |", flush=True)
    for fault in faults:
        print(fault)
    print(f"{len(faults)} faults")
    return int(bool(faults))


def run_pipeline(folder: Path) -> Path:
    """Run a small pipeline to its end, of as many pictures as an index of another kind needs."""
    workspace = prepare(folder)
    workspace.change({"cards/datasets/scenes.yaml:test": IVF_ROWS + 10})
    workspace.run("dvc", "repro")
    return folder


def list_stages(finished: Path) -> dict[str, tuple[list[str], list[Path]]]:
    """The command and the outputs of each stage that has run, of `watch`, and of an index of another kind."""
    locked = yaml.safe_load((finished / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    found: dict[str, tuple[list[str], list[Path]]] = {}
    for name, stage in locked.items():
        words = stage["cmd"].split()
        found[name.partition("@")[0]] = ([sys.executable, *words[1:]], [Path(out["path"]) for out in stage["outs"]])
    command, outputs = found["index"]
    dataset = command[command.index("--dataset") + 1]
    watched = [sys.executable, "-m", "stages.watch", "--dataset", dataset]
    return found | {IVF_RQ: (command, outputs), "watch": (watched, [Path("data/watched", dataset, "files.json")])}


@contextmanager
def mount(finished: Path, disk: Path) -> Iterator[Path]:
    """Copy a project onto a disk of its own, without what only git and DVC need."""
    disk.mkdir()
    kept = [path for path in finished.iterdir() if path.name not in (".git", ".dvc")]
    size = sum(file.stat().st_size + 4096 for path in kept for file in [path, *path.rglob("*")] if file.is_file())
    command = ["mount", "-t", "tmpfs", "-o", f"size={size + ROOM}", "none", str(disk)]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("no disk can be mounted here: run it as root")
    try:
        for path in kept:
            copy(path, disk / path.name)
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def starve(
    disk: Path, finished: Path, name: str, command: list[str], outputs: list[Path]
) -> tuple[list[str], list[str]]:
    """Run a stage with less and less room, and then with enough; returns what it did, and faults."""
    told, faults = [], []
    expected = digest(finished, outputs)  # of `watch` there is nothing: it has run nowhere
    if name == IVF_RQ:
        change(disk, {"index.vector_index": "ivf_rq", "index.from_rows": IVF_ROWS})
    for spare, size in SPARE.items():
        remove(disk, [*outputs, SCRATCH])
        fill(disk, size)
        done = run(command, disk)
        (disk / FILLER).unlink()
        found = digest(disk, outputs)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if done.returncode == 0:
            told.append("finished")
            faults += [f"{name}, {spare} free: {out} is not there" for out in outputs if not (disk / out).exists()]
        else:
            told.append("says so")
            if "Traceback" in done.stderr or not last.startswith(
                f"{command[2].removeprefix('stages.')}: the disk is full"
            ):
                told[-1] = "FAULT"
                faults.append(f"{name}, {spare} free: exit {done.returncode}: {done.stderr[-1500:]}")
            faults += [
                f"{name}, {spare} free: {file} is there, and not as it is with room"
                for file, content in found.items()
                if expected and name != IVF_RQ and not UNLIKE.match(file) and expected.get(file) != content
            ]
        left = [path for folder in ("data", "metrics", "report", ".dvc") for path in (disk / folder).rglob(".*-*")]
        faults += [
            f"{name}, {spare} free: {path} is left" for path in left if path.name.startswith((".draft-", ".part-"))
        ]
    done = run(command, disk)
    found = digest(disk, outputs)
    same = (
        not expected
        or name == IVF_RQ
        or all(UNLIKE.match(one) or found.get(one) == was for one, was in expected.items())
    )
    there = all((disk / out).exists() for out in outputs)
    told.append("the same bytes" if done.returncode == 0 and same and there else "FAULT")
    if told[-1] == "FAULT":
        faults.append(f"{name}, with room again: exit {done.returncode}, same: {same}: {done.stderr[-1500:]}")
    if name == IVF_RQ:
        shutil.copy(finished / "params.yaml", disk / "params.yaml")
    for out in outputs:
        if (finished / out).exists():
            remove(disk, [out])
            copy(finished / out, disk / out)
    return told, faults


def run(command: list[str], disk: Path) -> subprocess.CompletedProcess[str]:
    """Run a stage in the project on the disk."""
    environment = Workspace(disk).environment | {"PYTHONPATH": str(disk), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=disk, env=environment, capture_output=True, text=True, check=False)


def fill(disk: Path, spare: int) -> None:
    """Write a file that leaves so many bytes of the disk."""
    with (disk / FILLER).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - spare)


def digest(project: Path, outputs: list[Path]) -> dict[str, str]:
    """Digests of the files of some outputs, by name."""
    files = [file for out in outputs for file in [project / out, *(project / out).rglob("*")] if file.is_file()]
    return {file.relative_to(project).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def remove(project: Path, names: list[Path]) -> None:
    """Remove files and folders, those that are there."""
    for path in (project / name for name in names):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that it holds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    how: Any = shutil.copytree if source.is_dir() else shutil.copy
    how(source, target)


if __name__ == "__main__":
    sys.exit(main())
