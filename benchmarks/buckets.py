"""What it costs to keep parts in a bucket, against a folder: put with their figures, found again, read back in order.

python -m benchmarks.buckets                              # a server of moto on this machine: in Python, so slow
python -m benchmarks.buckets --parts s3://bucket/folder   # your own, with your own credentials

Without an own bucket the numbers say what our side costs and how many requests there are, not what a store takes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.paired import alternate, median, ratio
from twinlens.core.buckets import Bucket
from twinlens.core.scratch import Scratch
from twinlens.report.summary import format_markdown

ROWS, DIM = 256, 512  # of a part of `embed` on a core: half a megabyte
SERVE = """
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
import sys, time
server = ThreadedMotoServer("127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
time.sleep(3600)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", help="URL of a bucket that may be written; without it, a server on this machine")
    parser.add_argument("--count", type=int, default=100, help="parts")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TWINLENS_SCRATCH"] = f"{folder}/copies"
        if options.parts:
            measure(options.parts, Path(folder), options.count, options.rounds)
        else:
            with serving():
                measure("s3://parts/folder", Path(folder), options.count, options.rounds)


def measure(url: str, folder: Path, count: int, rounds: int) -> None:
    """Time each way of keeping parts, turn by turn."""
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    places = {"folder": f"{folder}/parts", "bucket": url}
    keys: dict[str, str] = {}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, vectors)

    def put(kind: str) -> None:
        keys[kind] = uuid.uuid4().hex
        with Scratch("benchmark", keys[kind], places[kind]) as scratch:
            for number in range(count):
                scratch.note(f"part-{number:05d}.npy", seconds=1.0)
                scratch.put(f"part-{number:05d}.npy", write)

    def find(kind: str) -> None:
        with Scratch("benchmark", keys[kind], places[kind]) as scratch:
            assert all(scratch.has(f"part-{number:05d}.npy") for number in range(count))
            assert scratch.total("seconds") == count

    def read(kind: str) -> None:
        shutil.rmtree(folder / "copies", ignore_errors=True)  # as a driver has none of what workers put
        with Scratch("benchmark", keys[kind], places[kind]) as scratch:
            assert (
                sum(
                    len(np.load(path, allow_pickle=False))
                    for path in scratch.iter_paths(scratch.list_parts("part-*.npy"))
                )
                == ROWS * count
            )

    rows = []
    for what, work in (("put, with figures", put), ("found again, figures summed", find), ("read back in order", read)):
        taken = alternate({kind: (lambda kind=kind, work=work: work(kind)) for kind in places}, rounds)  # type: ignore[misc]
        each = {kind: f"{1e3 * median(taken, kind) / count:.1f}" for kind in places}
        rows.append([what, each["folder"], each["bucket"], f"{ratio(taken, 'bucket', 'folder'):.1f}"])
    print(format_markdown(["a part of 0.5 MB", "folder, ms", "bucket, ms", "times"], rows))
    if url.startswith("s3://parts/"):
        return
    bucket = Bucket(f"{url}/benchmark")
    bucket.remove([one.name for one in bucket.list_objects()])


@contextmanager
def serving() -> Iterator[None]:
    """Run an S3 server in a process of its own, and let this one's clients find it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        import requests

        for _ in range(600):
            try:
                requests.put(f"http://127.0.0.1:{port}/parts", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
