"""A search index of millions of generated vectors: built from several files in blocks, then searched.

    python -m benchmarks.big_index write FOLDER --rows 1000000   # files of vectors, and the ten best of 200 queries
    python -m benchmarks.big_index build FOLDER                  # seconds and memory; an index as `twinlens` opens it
    python -m benchmarks.big_index search FOLDER                 # recall and milliseconds by effort

The law of the vectors, of `DIM` numbers: 20,000 centres, the n-th of which has a share that goes as 1 / (10 + n); a
vector is its centre times sqrt(1 - 0.7^2) and noise of length 0.7, brought to unit length. Centres and noise are
normal, with a standard deviation of dimension i of (1 + i)^-0.375: about 70 dimensions have a share in the variance, as
of a CLIP. In a million, the best has a cosine of .67 with a query and the tenth one of .62. Queries are drawn as the
vectors are. Files hold half-precision numbers, and those are what is right.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from twinlens.config.load import read_params
from twinlens.config.params import SearchParams
from twinlens.config.vector_forms import VectorForm
from twinlens.indexing import candidates, postings
from twinlens.indexing.build import ROWS
from twinlens.indexing.index import Index, WeightedVector
from twinlens.indexing.manifest import FOLDER, Manifest
from twinlens.indexing.store import IMAGE_VECTOR, write_rows, write_space

DIM, CENTRES, FIRST, SPREAD, DECAY = 256, 20_000, 10, 0.7, 0.375
BLOCK, PER_FILE, PER_BATCH = 8_192, 1_000_000, 256
QUERIES, K = 200, 10
KEY = "big"
EFFORTS = [(probes, refine) for probes in (8, 16, 32, 64, 128) for refine in (5, 10, 20)]


class Law:
    """The law of the vectors."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        scale = (1.0 + np.arange(DIM)) ** -DECAY
        self.scale = (scale / np.linalg.norm(scale)).astype(np.float32)
        centres = rng.standard_normal((CENTRES, DIM), dtype=np.float32) * self.scale
        self.centres = np.sqrt(1 - SPREAD**2) * centres / np.linalg.norm(centres, axis=1, keepdims=True)
        weights = 1.0 / (FIRST + np.arange(CENTRES))
        self.shares = np.cumsum(weights / weights.sum())

    def draw(self, *seed: int) -> np.ndarray:
        """A block of unit vectors, float32."""
        rng = np.random.default_rng([1, *seed])
        which = np.searchsorted(self.shares, rng.random(BLOCK)).clip(max=CENTRES - 1)
        rows = rng.standard_normal((BLOCK, DIM), dtype=np.float32)
        rows *= np.float32(SPREAD) * self.scale
        rows += self.centres[which]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Parts:
    """Vectors in several files of half-precision numbers, one after the other."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.files = sorted(folder.glob("part-*.npy"))[: -(-rows // PER_FILE)]
        self.shape = (rows, DIM)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, some: slice) -> np.ndarray:
        """A block, float32; one file is mapped at a time."""
        start, stop, _ = some.indices(len(self))
        found = []
        while start < stop:
            number, first = divmod(start, PER_FILE)
            last = min(first + stop - start, PER_FILE)
            found.append(np.load(self.files[number], mmap_mode="r", allow_pickle=False)[first:last].astype(np.float32))
            start += last - first
        return np.concatenate(found)


def write(folder: Path, rows: int) -> None:
    """Write vectors, and what is right."""
    law, folder = Law(), folder / "vectors"
    folder.mkdir(parents=True)
    queries = law.draw(9, 0)[:QUERIES]
    best = np.full((QUERIES, K), -1.0, np.float32)
    found = np.zeros((QUERIES, K), np.int64)
    block, left = 0, np.zeros((0, DIM), np.float32)
    for start in range(0, rows, PER_FILE):
        wanted = min(PER_FILE, rows - start)
        file = np.lib.format.open_memmap(folder / f"part-{start // PER_FILE:05d}.npy", "w+", np.float16, (wanted, DIM))
        written = 0
        while written < wanted:
            if not len(left):
                left, block = law.draw(0, block), block + 1
            some, left = left[: wanted - written], left[wanted - written :]
            file[written : written + len(some)] = some
            scores = queries @ file[written : written + len(some)].astype(np.float32).T
            scores = np.hstack([best, scores])
            places = np.hstack([found, np.broadcast_to(start + written + np.arange(len(some)), (QUERIES, len(some)))])
            top = np.argpartition(-scores, K, axis=1)[:, :K]
            best, found = np.take_along_axis(scores, top, 1), np.take_along_axis(places, top, 1)
            written += len(some)
        file.flush()
    np.savez(folder / "right.npz", queries=queries, rows=found)


class Peak:
    """The most memory that the process held beside mapped files, looked at every 20 ms."""

    def __enter__(self) -> Peak:
        self.mb, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            status = Path("/proc/self/status").read_text()
            held = int(status.split("RssAnon:")[1].split()[0])
            self.mb = max(self.mb, held / 1024)


def build(folder: Path, kind: str, vectors: str, rows: int | None) -> None:
    """Build the index: rows without words or thumbnails, and vectors by the code of `write_table`."""
    files = sorted((folder / "vectors").glob("part-*.npy"))
    source = Parts(
        folder / "vectors", rows or sum(len(np.load(file, mmap_mode="r", allow_pickle=False)) for file in files)
    )
    settings = read_params().index.model_dump() | {"vector_index": kind, "vectors": vectors, "from_rows": 256}
    os.environ["TWINLENS_SCRATCH"] = str(folder / "scratch")
    manifest = Manifest(KEY, "big", "big", "big", len(source), settings, {}, {})
    table = manifest.folder / FOLDER
    table.mkdir(parents=True)
    steps = {
        "pictures": lambda: write_rows(table, pictures_without_words(len(source)), ROWS),
        "postings": lambda: postings.write(table, ([] for _ in range(len(source)))),
        "vectors": lambda: write_space(table, IMAGE_VECTOR, source, np.zeros(0, np.int64), VectorForm.read(vectors)),
        "index": lambda: candidates.write_candidates(table, kind) if kind != "exact" else None,
    }
    print(f"{len(source):,} x {DIM}, {kind}, {vectors}; load {os.getloadavg()[0]:.1f}")
    for name, step in steps.items():
        started, used = time.perf_counter(), time.process_time()
        with Peak() as peak:
            step()
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
        print(f"{name}: {seconds:.0f} s, {cpu:.0f} s of a processor, {peak.mb:,.0f} MB held at most", flush=True)
    for file in sorted(table.iterdir()):
        paths = [file] if file.is_file() else [path for path in file.rglob("*") if path.is_file()]
        print(f"{file.name}: {sum(path.stat().st_size for path in paths) / 1e6:,.0f} MB")
    manifest.write(folder / "manifest.json")


def pictures_without_words(rows: int) -> Iterator[pa.RecordBatch]:
    """Records of pictures: ids alone."""
    for start in range(0, rows, PER_BATCH):
        count = min(PER_BATCH, rows - start)
        ids = [f"picture-{row:08d}" for row in range(start, start + count)]
        columns = [ids, [b""] * count, [[]] * count, [None] * count, [[]] * count]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, ROWS, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=ROWS)


def search(folder: Path, efforts: list[tuple[int, int]]) -> None:
    """Print recall and milliseconds of each effort; queries come one after the other, the efforts by turns."""
    manifest, right = _open(folder), np.load(folder / "vectors/right.npz", allow_pickle=False)
    index, defaults = Index(manifest), read_params().search
    kind = manifest.settings["vector_index"]
    taken: dict[tuple[int, int], list[float]] = {effort: [] for effort in efforts}
    used: dict[tuple[int, int], list[float]] = {effort: [] for effort in efforts}
    hits = dict.fromkeys(efforts, 0)
    for number, query in enumerate(right["queries"]):
        for probes, refine in efforts:
            candidates.REFINE[kind] = refine
            started, begun = time.perf_counter(), time.process_time()
            rows = find(index, query, defaults.model_copy(update={"probes": probes}))
            if number >= QUERIES // 10:  # the first bring the index into memory
                taken[probes, refine].append(1000 * (time.perf_counter() - started))
                used[probes, refine].append(1000 * (time.process_time() - begun))
            hits[probes, refine] += len(set(rows.tolist()) & set(right["rows"][number].tolist()))
    print(f"load {os.getloadavg()[0]:.1f}")
    for (probes, refine), all_ms in taken.items():
        recall = hits[probes, refine] / (K * QUERIES)
        quarter, median = statistics.quantiles(all_ms, n=4)[0], statistics.median(all_ms)
        processor = statistics.median(used[probes, refine])
        print(
            f"{probes} partitions, {refine * K} scored again: recall@{K} {recall:.3f}, {median:.1f} ms "
            f"(the fastest quarter up to {quarter:.1f}), {processor:.1f} ms of a processor"
        )


def find(index: Index, query: np.ndarray, params: SearchParams) -> np.ndarray:
    """Search, and read the pictures that are found."""
    rows, _ = index.nearest([WeightedVector(IMAGE_VECTOR, query)], K, (), params)
    index.pictures(rows)
    return rows


def first(folder: Path) -> None:
    """Print the milliseconds of each step of one query in a new process: by the clock, and of processors."""
    manifest, query = _open(folder), np.load(folder / "vectors/right.npz", allow_pickle=False)["queries"][0]
    params, clocks, index = read_params().search, [(time.perf_counter(), time.process_time())], Index(manifest)
    steps: dict[str, Callable[[], object]] = {
        "open": lambda: len(index.copy),
        "import LanceDB, open the table": lambda: index.table,
        "search": lambda: find(index, query, params),
        "search again": lambda: find(index, query, params),
    }
    for name, step in steps.items():
        step()
        clocks.append((time.perf_counter(), time.process_time()))
        clock, used = (1000 * (now - before) for now, before in zip(clocks[-1], clocks[-2], strict=True))
        print(f"{name}: {clock:.0f} ms, {used:.0f} ms of a processor")


def _open(folder: Path) -> Manifest:
    os.environ["TWINLENS_SCRATCH"] = str(folder / "scratch")
    return Manifest.read(folder / "manifest.json")


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("write", "build", "search", "first"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, help="of `write`; of `build`: the first so many")
    parser.add_argument("--kind", default="ivf_rq", help="index.vector_index")
    parser.add_argument("--vectors", default="int8", help="index.vectors")
    asked = parser.parse_args()
    if asked.step == "write":
        write(asked.folder, asked.rows or 1_000_000)
    elif asked.step == "build":
        build(asked.folder, asked.kind, asked.vectors, asked.rows)
    elif asked.step == "search":
        search(asked.folder, EFFORTS)
        for _ in range(2):
            subprocess.run([sys.executable, "-m", "benchmarks.big_index", "first", str(asked.folder)], check=True)
    else:
        first(asked.folder)


if __name__ == "__main__":
    main()
