"""An index in every form of the vector budget: bytes, memory, milliseconds and what is found.

    python -m benchmarks.vector_forms FOLDER --rows 100000

Vectors are those of `benchmarks.big_index` (its law, 256 dimensions); queries ask one after the other, all forms by
turns, so that a busy machine slows all alike. Each form is a process of its own for its memory. Recall is the share of
float32's ten best; axes are fitted to other vectors of the law, and the mean query is that of a thousand others.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.big_index import DIM, Law, Parts, pictures_without_words, write
from twinlens.config.load import read_params
from twinlens.config.vector_forms import VectorForm
from twinlens.indexing import postings
from twinlens.indexing.build import ROWS
from twinlens.indexing.index import Index, WeightedVector
from twinlens.indexing.manifest import FOLDER, Manifest
from twinlens.indexing.store import IMAGE_VECTOR, write_rows, write_space
from twinlens.report.summary import format_markdown
from twinlens.retrieval.known import Known

FORMS = (
    *("float32", "float16", "int8", "binary", "rotated bits"),
    *("128 principal dimensions, float32", "128 principal dimensions, int8", "64 principal dimensions, int8"),
    *("binary, the best 100 again by int8", "rotated bits, the best 40 again by int8"),
    "rotated bits, the best 100 again by int8",
)
QUERIES, K = 60, 10
NONE = np.zeros(0, np.int64)


def build(folder: Path, rows: int, forms: Sequence[str]) -> None:
    """Write vectors, and an index of them in every form."""
    if not (folder / "vectors").exists():
        write(folder, rows)
    source, law = Parts(folder / "vectors", rows), Law()
    known = Known(np.concatenate([law.draw(7, 0), law.draw(7, 1)]), True, law.draw(8, 0)[:1000].mean(axis=0))
    for name in forms:
        manifest = open_manifest(folder, name, rows)
        table = manifest.folder / FOLDER
        if table.exists():
            continue
        table.mkdir(parents=True)
        write_rows(table, pictures_without_words(rows), ROWS)
        postings.write(table, ([] for _ in range(rows)))
        used = time.process_time()
        write_space(table, IMAGE_VECTOR, source, NONE, VectorForm.read(name), known)
        print(f"{name}: built in {time.process_time() - used:.0f} s of a processor", flush=True)


def open_manifest(folder: Path, name: str, rows: int) -> Manifest:
    """Describe the index of one form, in a folder of its own."""
    os.environ["TWINLENS_SCRATCH"] = str(folder / "scratch")
    settings = read_params().index.model_dump() | {"vectors": name, "vector_index": "exact"}
    return Manifest(name.replace(" ", "_").replace(",", ""), "big", "big", "big", rows, settings, {}, {})


def measure(folder: Path, rows: int, forms: Sequence[str], count: int) -> None:
    """Print a table: bytes of vectors on disk, time of a query and what it finds, beside float32."""
    queries, params = (
        np.load(folder / "vectors/right.npz", allow_pickle=False)["queries"][:count],
        read_params().search,
    )
    indexes = {name: Index(open_manifest(folder, name, rows)) for name in forms}
    taken: dict[str, list[float]] = {name: [] for name in forms}
    found = dict.fromkeys(forms, 0.0)
    for number, query in enumerate([*queries[:3], *queries]):
        best: set[int] = set()
        for name, index in indexes.items():
            started = time.process_time()
            rows_found, _ = index.nearest([WeightedVector(IMAGE_VECTOR, query)], K, (), params)
            used = 1000 * (time.process_time() - started)
            best = best or set(rows_found.tolist())  # float32 is first
            if number >= 3:
                taken[name].append(used)
                found[name] += len(best & set(rows_found.tolist())) / (K * len(queries))
    lines = []
    for name, index in indexes.items():
        files = (index.manifest.folder / FOLDER).glob(f"{IMAGE_VECTOR}*")
        size = sum(path.stat().st_size for path in files)
        mean = statistics.median(taken[name])
        lines.append([name, f"{size / 1e6:,.1f}", read_memory(folder, name, rows), f"{mean:.1f}", f"{found[name]:.3f}"])
    heading = ["index.vectors", "MB on disk", "MB resident", "ms of a processor", f"of float32's best {K}"]
    print(f"{rows:,} x {DIM}; load {os.getloadavg()[0]:.1f}\n\n{format_markdown(heading, lines)}")


def read_memory(folder: Path, name: str, rows: int) -> str:
    """Ask a process of its own what twenty searches hold in memory, mapped pages among it, beside its imports."""
    command = [sys.executable, "-m", "benchmarks.vector_forms", str(folder), "--rows", str(rows), "--memory", name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def hold(folder: Path, name: str, rows: int) -> None:
    """Search, and print the megabytes that are held beyond those of the imports."""
    queries, params = np.load(folder / "vectors/right.npz", allow_pickle=False)["queries"], read_params().search
    before, index = _resident_mb(), Index(open_manifest(folder, name, rows))
    for query in queries[:20]:
        index.nearest([WeightedVector(IMAGE_VECTOR, query)], K, (), params)
    print(f"{_resident_mb() - before:,.0f}")


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def main() -> None:
    """Build what is not there, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--forms", nargs="*", default=FORMS, help="by their names, float32 first")
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--memory", help="of one form: megabytes that searches hold")
    asked = parser.parse_args()
    if asked.memory:
        hold(asked.folder, asked.memory, asked.rows)
        return
    build(asked.folder, asked.rows, asked.forms)
    measure(asked.folder, asked.rows, asked.forms, asked.queries)


if __name__ == "__main__":
    main()
