"""Kills at random moments of a small pipeline: after each, `dvc repro` has to end with the same bytes.

    python -m benchmarks.kills                       # 50 kills, in rounds of ten; ten minutes of a processor
    python -m benchmarks.kills --kills 10 --seed 3

Each kill hits the whole group, the stage alone or dvc alone, by TERM, INT or KILL. The seed draws the stage, each as
often as another, and the share of the processor's seconds that it takes undisturbed, after which it is killed: no
moment depends on how busy the machine is. One in six comes when the stage has ended, while dvc saves what it made.
A round begins from nothing and goes from stage to stage; each kill meets what those before it left behind. Parts are
small, so that each stage that keeps parts has several. Where dvc then refuses its own file of locks, which it was
writing when it was killed, that file is removed, as README says.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.workspace import CLEAN, Workspace, clone

WHO = ("the whole group", "the stage alone", "dvc alone")
HOW = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
A_ROUND = 10
SHARES, AFTER = (0.05, 0.85), 1 / 6  # of a stage's work; of the kills, those that come when it has ended
SAVES_S = 0.5  # in which dvc saves what a stage made
LOCKS, CUT_SHORT = Path(".dvc/tmp/rwlock"), "Unable to read RWLock-file"
LOOKS_EVERY_S, SURVIVED_S, PATIENCE_S = 0.02, 5.0, 3_600.0
TICKS = os.sysconf("SC_CLK_TCK")
# What holds seconds, or the names of tables whose bytes differ from build to build
UNLIKE = re.compile(
    r"data/(costs|indexed)/|metrics/(cost\.json|summary\.json|approximate\.csv|budget\.csv|quality_cost\.csv)"
)

SMALL: dict[str, Any] = {
    "cards/datasets/scenes.yaml:train": 96,
    "cards/datasets/scenes.yaml:val": 24,
    "cards/datasets/scenes.yaml:test": 96,
    "cards/datasets/scenes.yaml:side_px": 64,
    "resize.images_per_shard": 48,
    "rank.depth": 20,
    "rank.rerank_depth": 5,
    "rank.caption_draws": 2,
    "category_search.negatives": 40,
    "hybrid.validation_pictures": 20,
    "evaluate.resamples": 100,
    "approximate.queries": 5,
    "cards/budget.yaml:queries": 10,
    "cards/budget.yaml:precisions": ["int8", "binary"],
    "cards/budget.yaml:dimension_shares": [0.5],
    "cards/budget.yaml:rescored": [40],
    "cards/models/clip-scenes.yaml:train.batch_size": 32,
    "cards/models/clip-scenes.yaml:joint.architecture": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 0, "width": 32, "heads": 2, "layers": 1},
    },
    "cards/captioners/blip-scenes.yaml:architecture": {
        "text_config": {
            "hidden_size": 32,
            "encoder_hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 40,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 24,
            "patch_size": 8,
        },
    },
}
SMALL_PARTS = {  # constants of the code, in the clone only
    "twinlens/inference/loop.py": {
        "PICTURES_PER_PART, PICTURES_PER_PART_ON_GPU = 256, 2048": "PICTURES_PER_PART = PICTURES_PER_PART_ON_GPU = 32",
        "TEXTS_PER_PART, TEXTS_PER_PART_ON_GPU = 2048, 4096": "TEXTS_PER_PART = TEXTS_PER_PART_ON_GPU = 128",
    },
    "twinlens/inference/caption.py": {"PICTURES_PER_PART = 128": "PICTURES_PER_PART = 32"},
    "twinlens/training/data.py": {"PER_PART = 2048": "PER_PART = 32"},
    "twinlens/indexing/clock.py": {"QUERIES, SEED = 50, 0": "QUERIES, SEED = 3, 0"},
}


@dataclass(frozen=True)
class Kill:
    """Who is killed, how, and when: after a share of a stage's work, or seconds after its end."""

    who: str
    how: signal.Signals
    stage: str
    share: float
    after_s: float


def draw_kills(count: int, seed: int, stages: list[str]) -> list[list[Kill]]:
    """Draw the kills of each round, in the order of the stages; every stage and every way is drawn as often."""
    rng = np.random.default_rng(seed)
    ways = list(itertools.product(WHO, HOW))
    chosen_ways = np.concatenate([rng.permutation(len(ways)) for _ in range(-(-count // len(ways)))])
    chosen_stages = np.concatenate([rng.permutation(len(stages)) for _ in range(-(-count // len(stages)))])
    kills = [
        (int(place), Kill(*ways[int(way)], stages[int(place)], *draw_moment(rng)))
        for way, place in zip(chosen_ways[:count], chosen_stages[:count], strict=True)
    ]
    rounds = (kills[start : start + A_ROUND] for start in range(0, count, A_ROUND))
    return [[kill for _, kill in sorted(drawn, key=lambda one: one[0])] for drawn in rounds]


def draw_moment(rng: np.random.Generator) -> tuple[float, float]:
    """Draw a share of a stage's work, and seconds after its end, which count where the share is more than all."""
    late, share, seconds = rng.uniform() < AFTER, float(rng.uniform(*SHARES)), float(rng.uniform(0, SAVES_S))
    return (math.inf if late else share), seconds


def main() -> int:
    """Kill and compare; 1 where bytes differ or a run does not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and so its children
    table: Counter[tuple[str, str, str]] = Counter()
    hit: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        pristine = prepare(Path(folder) / "pristine")  # whoever works on the project meanwhile changes nothing here
        undisturbed = pristine.copy(Path(folder) / "undisturbed")
        started = time.monotonic()
        usual = Run(undisturbed, Path(folder) / "undisturbed.log").measure()
        expected = digest_results(undisturbed)
        print(f"{len(expected)} files; undisturbed {time.monotonic() - started:.0f} s by the clock", flush=True)
        print("processor seconds:", ", ".join(f"{name} {s:.1f}" for name, s in usual.items()), flush=True)
        faults, cut_short = list[str](), 0
        for number, kills in enumerate(draw_kills(options.kills, options.seed, list(usual))):
            disturbed = Disturbed(pristine.copy(Path(folder) / "disturbed"), usual, Path(folder) / f"{number}.log")
            for kill in kills:
                where, outcome = disturbed.strike(kill)
                table[kill.who, kill.how.name, outcome] += 1
                hit[where] += 1
                print(f"{kill.how.name} to {kill.who}, {where}: {outcome}", flush=True)
            faults += disturbed.compare(expected)
            cut_short += disturbed.cut_short
            shutil.rmtree(disturbed.workspace.folder)
    print("\n| who | how | kills | what became of the run |\n|---|---|---|---|")
    for (who, how, outcome), times in sorted(table.items()):
        print(f"| {who} | {how} | {times} | {outcome} |")
    print("stages hit:", ", ".join(f"{name} {times}" for name, times in sorted(hit.items())))
    print(f"dvc's file of locks, cut short: {cut_short} times")
    print(f"{options.kills} kills, {len(faults)} faults")
    return int(bool(faults))


def prepare(folder: Path) -> Workspace:
    """A small pipeline that has not run yet."""
    workspace = clone(folder)
    workspace.change(SMALL)
    for name, changes in SMALL_PARTS.items():
        text = (folder / name).read_text(encoding="utf-8")
        for was, becomes in changes.items():
            assert was in text, f"{name} has no line {was}: mend SMALL_PARTS"
            text = text.replace(was, becomes)
        (folder / name).write_text(text, encoding="utf-8")
    workspace.commit("smaller still")
    return workspace


class Run:
    """A running `dvc repro`, in a session of its own."""

    def __init__(self, workspace: Workspace, log: Path) -> None:
        self.log = log
        self.until = time.monotonic() + PATIENCE_S
        with log.open("ab") as told:
            self.process = subprocess.Popen(
                ["dvc", "repro"], cwd=workspace.folder, env=workspace.environment,
                stdin=subprocess.DEVNULL, stdout=told, stderr=told, start_new_session=True,
            )  # fmt: skip

    def measure(self) -> dict[str, float]:
        """The processor seconds of each stage, in the order in which they run; the run has to end well."""
        taken: dict[str, float] = {}
        while self.is_running():
            if (stage := self.find_stage()) is not None:
                taken[stage[1]] = self.work()
            time.sleep(LOOKS_EVERY_S)
        if self.process.returncode:
            raise SystemExit(f"undisturbed it ends with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
        return taken

    def is_running(self) -> bool:
        """Whether it has not ended; one that never does is ended here."""
        if self.process.poll() is None and time.monotonic() > self.until:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise SystemExit(f"FAULT: it hangs; what was said: {self.log.read_text(errors='replace')[-3000:]}")
        return self.process.poll() is None

    def find_stage(self) -> tuple[int, str] | None:
        """Find the process of the running stage: its number and its name."""
        for process in self._members():
            try:
                words = Path("/proc", str(process), "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            names = [word.decode() for word in words if word.startswith(b"stages.")]
            if names and words[0].endswith((b"python", b"python3")):
                return process, names[0].removeprefix("stages.")
        return None

    def work(self) -> float:
        """The processor seconds of the running stage and what it started."""
        ticks = 0
        for process in self._members():
            if process != self.process.pid:
                try:
                    stat = Path("/proc", str(process), "stat").read_text(encoding="utf-8", errors="replace")
                except OSError:
                    continue
                ticks += sum(map(int, stat.rpartition(")")[2].split()[11:13]))
        return ticks / TICKS

    def _members(self) -> list[int]:
        found = []
        for entry in (folder.name for folder in Path("/proc").iterdir()):
            try:
                if entry.isdigit() and os.getsid(int(entry)) == self.process.pid:
                    found.append(int(entry))
            except OSError:
                continue
        return found


class Disturbed:
    """A pipeline that is killed again and again.

    Args:
        workspace: of the pipeline.
        usual: processor seconds of each stage when nobody disturbs it, in the order in which they run.
        log: of all its runs.
    """

    def __init__(self, workspace: Workspace, usual: dict[str, float], log: Path) -> None:
        self.workspace, self.usual, self.log = workspace, usual, log
        self.places = {name: place for place, name in enumerate(usual)}
        self.run: Run | None = None  # one that outlived the last kill
        self.faults: list[str] = []
        self.cut_short = 0  # times that dvc's file of locks had to be removed

    def strike(self, kill: Kill) -> tuple[str, str]:
        """Let dvc run until the kill's moment, and kill; returns what was hit, and what became of the run."""
        outlived, run = self.run is not None, self.run or self._begin()
        where = self._reach(run, kill)
        if where is None and outlived and run.process.returncode:  # of the last kill, late
            run = self._begin()
            where = self._reach(run, kill)
        self.run = None
        if where is None:
            if run.process.returncode:
                self.faults.append(f"dvc repro ended with {run.process.returncode} before a kill of {kill.stage}")
            return "nothing", "it had ended before"
        stage = run.find_stage()
        try:
            if kill.who == "the whole group":
                os.killpg(run.process.pid, kill.how)
            else:
                os.kill(stage[0] if stage and kill.who == "the stage alone" else run.process.pid, kill.how)
        except ProcessLookupError:
            pass
        if self._goes_on(run, stage):
            self.run = run
            return where, "went on"
        return where, "ended" if run.process.returncode else "finished"

    def _begin(self) -> Run:
        """Start `dvc repro`, without its file of locks where a killed one has left that cut short."""
        locks = self.workspace.folder / LOCKS
        try:
            json.loads(locks.read_bytes())
        except FileNotFoundError:
            pass
        except ValueError:
            if CUT_SHORT not in (said := self.workspace.run("dvc", "status", check=False)):
                self.faults.append(f"{LOCKS} is cut short, and dvc status says: {said[:300]}")
            locks.unlink()
            self.cut_short += 1
            print(f"  {LOCKS} was cut short, and removed", flush=True)
        return Run(self.workspace, self.log)

    def _reach(self, run: Run, kill: Kill) -> str | None:
        """Wait for the moment; returns where it is, None where the run ends before."""
        wanted, begun = kill.stage, False
        while run.is_running():
            name = stage[1] if (stage := run.find_stage()) else None
            if name == wanted:
                begun = True
                if run.work() >= kill.share * self.usual[wanted]:
                    return wanted
            elif begun:
                if math.isinf(kill.share):
                    time.sleep(kill.after_s)
                return f"after {wanted}"
            elif name is not None and self.places[name] > self.places[wanted]:
                wanted = name  # what was wanted had been finished before
            time.sleep(LOOKS_EVERY_S)
        return None

    def _goes_on(self, run: Run, hit: tuple[int, str] | None) -> bool:
        """Whether dvc goes on after a kill: with the stage that was hit, or with another."""
        survived = time.monotonic() + SURVIVED_S
        while run.is_running():
            if (stage := run.find_stage()) is not None and (stage != hit or time.monotonic() > survived):
                return True
            time.sleep(LOOKS_EVERY_S)
        return False

    def compare(self, expected: dict[str, str]) -> list[str]:
        """Finish the run and compare; returns all that is not as it would be undisturbed."""
        run = self.run
        while run is not None and run.is_running():
            time.sleep(LOOKS_EVERY_S)
        run = self._begin()
        while run.is_running():
            time.sleep(LOOKS_EVERY_S)
        if run.process.returncode:
            self.faults.append(f"dvc repro ended with {run.process.returncode}")
        found = digest_results(self.workspace)
        other = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        self.faults += [f"{name} has other bytes, or is there only once" for name in other[:10]]
        if (status := self.workspace.run("dvc", "status", check=False)) != CLEAN:
            self.faults.append(f"dvc status: {status[:300]}")
        self.faults += [f"a traceback ends in {line}" for line in find_tracebacks(self.log.read_text(errors="replace"))]
        for fault in self.faults:
            print(f"FAULT: {fault}", flush=True)
        if self.faults:
            kept = Path(tempfile.gettempdir()) / f"twinlens-kills-{os.getpid()}-{self.log.name}"
            shutil.copy(self.log, kept)
            print(f"what was said: {kept}", flush=True)
        else:
            print("  the same bytes", flush=True)
        return self.faults


def find_tracebacks(told: str) -> list[str]:
    """The last lines of the tracebacks in what was printed."""
    found, inside = [], False
    for line in told.splitlines():
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif inside and line.strip() and not line.startswith(" "):
            found.append(line)
            inside = False
    return found


def digest_results(workspace: Workspace) -> dict[str, str]:
    """Digests of all that holds no seconds, by name."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for top in ("data", "metrics")
        for path in sorted((workspace.folder / top).rglob("*"))
        if path.is_file() and not UNLIKE.match(name := path.relative_to(workspace.folder).as_posix())
    }


if __name__ == "__main__":
    sys.exit(main())
