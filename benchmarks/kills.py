"""Kills at random moments of a small pipeline: after each, `dvc repro` has to end with the same bytes.

    python -m benchmarks.kills                       # 50 kills, in rounds of five; about an hour on two cores
    python -m benchmarks.kills --kills 10 --seed 3

Each kill hits the whole group, the stage alone or dvc alone, by TERM, INT or KILL, at moments that the seed draws, as
far as the machine's pace allows. A round begins from nothing: nothing of an earlier one is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.workspace import CLEAN, Workspace, clone

WHO = ("the whole group", "the stage alone", "dvc alone")
HOW = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
A_ROUND = 5
UNLIKE = ("costs", "cost.json", "summary.json", "retrieval_cost", "report", "index")  # hold seconds


@dataclass(frozen=True)
class Kill:
    """Who is killed, how, and when, as a share of an undisturbed run."""

    who: str
    how: signal.Signals
    share: float


def draw_kills(count: int, seed: int) -> list[Kill]:
    """Draw the kills."""
    rng = np.random.default_rng(seed)
    return [
        Kill(WHO[int(rng.integers(3))], HOW[int(rng.integers(3))], float(rng.uniform(0.02, 1.0))) for _ in range(count)
    ]


def main() -> int:
    """Kill and compare; 1 where bytes differ or a run does not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = prepare(Path(folder) / "undisturbed")
        started = time.monotonic()
        undisturbed.run("dvc", "repro")
        seconds = time.monotonic() - started
        expected = digest_results(undisturbed)
        print(f"{len(expected)} files, {seconds:.0f} s undisturbed", flush=True)
        kills, faults = draw_kills(options.kills, options.seed), 0
        for number in range(0, len(kills), A_ROUND):
            disturbed = prepare(Path(folder) / "disturbed")
            for kill in kills[number : number + A_ROUND]:
                print(f"{kill.how.name} to {kill.who}: {strike(disturbed, kill, seconds)}", flush=True)
            faults += report(disturbed, expected)
            shutil.rmtree(disturbed.folder)
        print(f"{len(kills)} kills, {faults} faults")
    return int(faults > 0)


def prepare(folder: Path) -> Workspace:
    """A small pipeline that has not run yet."""
    workspace = clone(folder)
    workspace.change(
        {"cards/datasets/scenes.yaml:test": 120, "category_search.negatives": 60, "hybrid.validation_pictures": 20}
    )
    workspace.commit("smaller still")
    return workspace


def strike(workspace: Workspace, kill: Kill, seconds: float) -> str:
    """Start `dvc repro` and kill after a share of the time of a whole run; returns which stage was hit."""
    process = subprocess.Popen(
        ["dvc", "repro"], cwd=workspace.folder, env=workspace.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        process.wait(kill.share * seconds)
        return "it had ended before"
    except subprocess.TimeoutExpired:
        pass
    stage = find_stage(process.pid)
    try:
        if kill.who == "the whole group":
            os.killpg(process.pid, kill.how)
        elif kill.who == "dvc alone" or stage is None:
            os.kill(process.pid, kill.how)
        else:
            os.kill(stage[0], kill.how)
    except ProcessLookupError:
        pass
    process.wait(600)
    return stage[1] if stage else "between stages"


def find_stage(group: int) -> tuple[int, str] | None:
    """Find the process of the running stage in a session: its number and its name."""
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or os.getsid(int(entry.name)) != group:
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        names = [word.decode() for word in words if word.startswith(b"stages.")]
        if names and words[0].endswith((b"python", b"python3")):
            return int(entry.name), names[0].removeprefix("stages.")
    return None


def digest_results(workspace: Workspace) -> dict[str, str]:
    """Digests of all that holds no seconds, by name."""
    return {
        path.relative_to(workspace.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for top in ("data", "metrics")
        for path in sorted((workspace.folder / top).rglob("*"))
        if path.is_file() and not any(part.startswith(UNLIKE) for part in path.relative_to(workspace.folder).parts)
    }


def report(workspace: Workspace, expected: dict[str, str]) -> int:
    """Finish the run and compare; returns 1 where anything is not as it would be undisturbed."""
    done = subprocess.run(
        ["dvc", "repro"], cwd=workspace.folder, env=workspace.environment, capture_output=True, text=True, check=False
    )
    found = digest_results(workspace)
    other = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    status = workspace.run("dvc", "status", check=False)
    if done.returncode or other or status != CLEAN:
        print(f"FAULT: dvc repro ended with {done.returncode}; others: {other[:5]}; {status[:300]}", flush=True)
        print(done.stdout[-1500:], done.stderr[-1500:], file=sys.stderr)
        return 1
    print("  the same bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
