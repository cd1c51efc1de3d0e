"""Faults at random moments of work on a cluster of three nodes: it has to end with the bytes of a run without any.

    python -m benchmarks.faults                      # 20 faults; 10 to 20 minutes
    python -m benchmarks.faults --faults 5 --seed 3

The nodes are processes of Ray on this machine, with a core each. A fault is drawn: a worker is killed, a node is lost
(another joins), the driver is killed (and started again), the store of the parts answers nobody for a while, or a part
ends each process that makes it until it is mended. The workers log what they make, and the driver what it accepts: no
part may be begun again after it was accepted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twinlens.config.params import ComputeParams
from twinlens.core.errors import TwinLensError
from twinlens.core.part_store import PartStore, Receipt
from twinlens.core.scratch import Scratch
from twinlens.engines import Seat, open_engine

KINDS = ("worker", "node", "driver", "store", "poison")
PARTS, PART_S, OUTAGE_S = 2_000, 0.05, 10.0
COMPUTE = ComputeParams(device="cpu", engine="local", decode_threads=1, image_batch=None, text_batch=None)
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
PATIENCE_S = 900.0


@dataclass(frozen=True)
class Draw:
    """A part that is wanted: drawn numbers."""

    name: str
    number: int
    size: int = 1


@dataclass
class Drawer:
    """A worker that draws numbers, slowly, and has the faults that marker files say."""

    folder: Path
    store: PartStore

    def __call__(self, tasks: Iterable[Draw], seat: Seat) -> Iterator[Receipt]:
        """Draw, log and put."""
        for task in tasks:
            with (self.folder / f"made-{os.getpid()}.log").open("a") as log:
                log.write(f"{time.time()} {task.name}\n")
            time.sleep(PART_S)
            if (self.folder / "poison").exists() and (self.folder / "poison").read_text() == task.name:
                os.kill(os.getpid(), signal.SIGKILL)
            if (self.folder / "outage").exists():
                raise ConnectionError("503 Service Unavailable")
            rows = np.random.default_rng(task.number).standard_normal((64, 64)).astype(np.float32)
            yield self.store.put(task.name, lambda path, rows=rows: _save(path, rows))  # type: ignore[misc]


def _save(path: Path, rows: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, rows)


def drive(folder: str, address: str) -> None:
    """Make the parts that are missing, and join them: what the driver does, in a process of its own."""
    room = Path(folder)
    compute = COMPUTE.model_copy(update={"engine": "ray", "address": address} if address else {})
    tasks = [Draw(f"part-{number:05d}.npy", number) for number in range(PARTS)]
    try:
        with Scratch("faults", "key") as scratch, open_engine(compute) as engine:
            worker = Drawer(room, scratch.open_store())
            with (room / "accepted.log").open("a", buffering=1) as log:
                for task in tasks:  # those that an earlier driver did not live to log
                    if scratch.has(task.name):
                        log.write(f"{time.time()} {task.name}\n")
                for receipt in engine.map(worker, (task for task in tasks if not scratch.has(task.name))):
                    scratch.accept(receipt)
                    log.write(f"{time.time()} {receipt.name}\n")
            joined = np.concatenate([np.load(scratch.path(task.name), allow_pickle=False) for task in tasks])
    except TwinLensError as error:
        sys.exit(f"stopped: {error}")
    (room / "result").write_text(hashlib.sha256(joined.tobytes()).hexdigest())


class Field:
    """A cluster, a driver in a process of its own, and the faults that befall them."""

    def __init__(self, folder: Path, seed: int) -> None:
        from ray.cluster_utils import Cluster

        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0})
        self.nodes = [self.cluster.add_node(**NODE) for _ in range(3)]
        self.driver: subprocess.Popen[str] | None = None

    def start_driver(self) -> None:
        """Start the driver, or start it again."""
        self.driver = start(self.folder, self.cluster.address)

    def count(self) -> int:
        """Parts that were accepted."""
        path = self.folder / "accepted.log"
        return len({line.split()[1] for line in path.read_text().splitlines()}) if path.exists() else 0

    def wait(self, count: int) -> None:
        """Wait until so many parts were accepted, or the driver has ended."""
        began = time.monotonic()
        while self.count() < count and self.driver is not None and self.driver.poll() is None:
            assert time.monotonic() - began < PATIENCE_S, "no part for a long time"
            time.sleep(0.2)

    def strike(self, kind: str) -> str:
        """Let a fault happen, and what a person would do about it; returns what came of it."""
        assert self.driver is not None
        if kind == "worker":
            os.kill(self._choose_worker(), signal.SIGKILL)
        elif kind == "node":
            lost = self.nodes.pop(int(self.rng.integers(len(self.nodes))))
            os.kill(lost.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            self.nodes.append(self.cluster.add_node(**NODE))
        elif kind == "driver":
            self.driver.kill()
            self.driver.wait()
            self.start_driver()
        elif kind == "store":
            (self.folder / "outage").touch()
            time.sleep(OUTAGE_S)
            (self.folder / "outage").unlink()
            return self.mend("503")
        else:
            done = {line.split()[1] for line in (self.folder / "accepted.log").read_text().splitlines()}
            left = [f"part-{number:05d}.npy" for number in range(PARTS) if f"part-{number:05d}.npy" not in done]
            named = left[min(len(left) - 1, 20)]
            (self.folder / "poison").write_text(named)
            try:
                self.driver.wait(PATIENCE_S)
            finally:
                (self.folder / "poison").unlink()
            return self.mend(named)
        return "went on"

    def mend(self, wanted: str) -> str:
        """Start the driver again if it has stopped; what it said has to name what was wrong."""
        assert self.driver is not None
        try:
            code = self.driver.wait(5)
        except subprocess.TimeoutExpired:
            return "went on"
        told = (self.folder / "driver.log").read_text().strip().splitlines()[-1:]
        if code == 0:
            return "had ended"
        assert told and "stopped: part part-" in told[0] and wanted in told[0], (code, told)
        self.start_driver()
        return f"stopped ({told[0][:110]}...) and started again"

    def _choose_worker(self) -> int:
        recent = sorted(self.folder.glob("made-*.log"), key=lambda path: path.stat().st_mtime)[-3:]
        alive = [pid for path in recent if Path(f"/proc/{(pid := int(path.stem[5:]))}").exists()]
        return alive[int(self.rng.integers(len(alive)))]


def start(folder: Path, address: str) -> subprocess.Popen[str]:
    """A driver in a process of its own."""
    code = f"from benchmarks.faults import drive; drive({str(folder)!r}, {address!r})"
    environment = os.environ | {"TWINLENS_SCRATCH": str(folder / "scratch")}
    with (folder / "driver.log").open("a") as log:
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=log, stderr=log, text=True)


def find_repeats(folder: Path) -> list[str]:
    """Find the parts that were begun after they were accepted."""
    accepted: dict[str, float] = {}
    for line in (folder / "accepted.log").read_text().splitlines():
        when, name = line.split()
        accepted.setdefault(name, float(when))
    made = [line.split() for path in folder.glob("made-*.log") for line in path.read_text().splitlines()]
    return [name for when, name in made if float(when) > accepted.get(name, float("inf"))]


def main() -> int:
    """Strike and compare; 1 where bytes differ, or a finished part was made again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, disturbed = Path(folder) / "undisturbed", Path(folder) / "disturbed"
        undisturbed.mkdir()
        disturbed.mkdir()
        local = start(undisturbed, "")
        field = Field(disturbed, options.seed)
        try:
            field.start_driver()
            kinds = [KINDS[number] for number in field.rng.integers(len(KINDS), size=options.faults)]
            for place, kind in enumerate(kinds):
                field.wait(int(PARTS * (place + field.rng.uniform()) / (len(kinds) + 1)))
                at = field.count()
                print(f"{place + 1}. {kind}, after {at} of {PARTS} parts: {field.strike(kind)}", flush=True)
            field.wait(PARTS + 1)
            assert field.driver is not None
            code = field.driver.wait(PATIENCE_S)
        finally:
            if field.driver is not None:
                field.driver.kill()
            field.cluster.shutdown()
        assert local.wait(PATIENCE_S) == 0
        same = code == 0 and (disturbed / "result").read_text() == (undisturbed / "result").read_text()
        repeats = find_repeats(disturbed)
        made = sum(len(path.read_text().splitlines()) for path in disturbed.glob("made-*.log"))
    print(
        f"{len(kinds)} faults: {'the same bytes' if same else 'OTHER BYTES'}; {made} parts begun for {PARTS}, ", end=""
    )
    print(f"{len(repeats)} after they were accepted")
    return int(not same or bool(repeats))


if __name__ == "__main__":
    sys.exit(main())
