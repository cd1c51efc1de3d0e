"""Memory of the search page after many visits: `python -m benchmarks.visits`, where the pipeline has run.

Starts `twinlens serve` and visits it again and again, as browsers do that were never there before: each visit opens
connections of its own, fetches the page, its style and its script, searches by words, by words and a picture, and by
a mark, and never comes back. Beside them stand connections that were opened and say nothing. Prints the memory of the
page's process as visits go by, and ends with an error if the last is more than `--within-mb` above that of the first
hundred.

    python -m benchmarks.visits --visits 10000 --silent 1100
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

FIRST = 100  # visits after which the page has grown to its size
TYPE = {"content-type": "application/octet-stream"}
WORDS = ("a red car", "two boats on the water", "a dog beside a house", "something blue", "nothing of the kind")
STARTS_WITHIN_S = 240.0


def main() -> None:
    """Visit and print; exit code 1 where memory grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--silent", type=int, default=0, help="connections that are opened and say nothing")
    parser.add_argument("--within-mb", type=float, default=32.0)
    options = parser.parse_args()
    with serving() as (process, url):
        held = [socket.create_connection(address(url)) for _ in range(options.silent)]
        memory = measure_visits(process.pid, url, options.visits, options.at_once)
        for connection in held:
            connection.close()
    grown = memory[-1] - memory[0]
    print(f"{grown:+.1f} MB from visit {FIRST:,} to {options.visits:,}")
    sys.exit(grown > options.within_mb)


def measure_visits(process: int, url: str, visits: int, at_once: int) -> list[float]:
    """Visit the page; returns the MB of its process after the first hundred visits, and each tenth of the others."""
    steps = sorted({FIRST, *(FIRST + (visits - FIRST) * tenth // 10 for tenth in range(1, 11))})
    memory, done = [], 0
    with ThreadPoolExecutor(at_once) as threads:
        for step in steps:
            began = time.perf_counter()
            list(threads.map(visit, [url] * (step - done), range(done, step)))
            rate, done = (step - done) / (time.perf_counter() - began), step
            memory.append(resident_mb(process))
            print(f"{done:>7,} visits  {memory[-1]:8.1f} MB  {rate:6.1f} visits/s", flush=True)
    return memory


def visit(url: str, number: int) -> None:
    """One visit, from the first page to the last search; an answer that is none of the page's ends the benchmark."""
    connection = http.client.HTTPConnection(*address(url), timeout=120)
    page = ask(connection, "GET", "/")
    cookie = {"cookie": page[0].split(";")[0]}
    for name in re.findall(r"/assets/[\w.]+", page[1]):
        ask(connection, "GET", name)
    first = re.search(r'id="model-choice".*?<option value="([^"]+)"', page[1], re.DOTALL)
    assert first is not None
    body = {"words": f"{WORDS[number % len(WORDS)]} {number}", "mode": "auto", "weight": 0.5, "count": 12}
    body |= {"model": first[1], "other": "", "mended": [], "again": False, "marks": []}
    results = ask(connection, "POST", "/search", json.dumps(body).encode(), TYPE | cookie)[1]
    marked = re.search(r'data-id=\\"([^"\\]+)\\"', results)
    marks = [{"id": marked[1], "relevant": True}] if marked else []
    ask(
        connection,
        "POST",
        "/tray",
        json.dumps({"marks": marks, "pictured": False, "mode": "auto"}).encode(),
        TYPE | cookie,
    )
    picture = draw(number)
    taken = ask(connection, "POST", "/picture", picture, TYPE | cookie)[1]
    assert "data:image" in taken
    ask(connection, "POST", "/search", json.dumps(body | {"marks": marks}).encode() + b"\n" + picture, TYPE | cookie)
    connection.close()


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> tuple[str, str]:
    """Ask for something; returns the cookie that came, and the answer."""
    for again in (True, False):
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            break
        except ConnectionError:  # it was idle for too long, as browsers know it
            connection.close()
            if not again:
                raise
    content = answer.read().decode("utf-8")
    assert answer.status == 200, f"{method} {path}: {answer.status} {content[:300]}"
    return answer.headers.get("set-cookie", ""), content


def draw(number: int) -> bytes:
    """A picture that no visit before had."""
    out = io.BytesIO()
    Image.new("RGB", (320 + number % 64, 240), (number % 256, number // 256 % 256, 90)).save(out, "JPEG")
    return out.getvalue()


def address(url: str) -> tuple[str, int]:
    """Host and port of an address."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def resident_mb(process: int) -> float:
    """Memory that a process holds, in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    if found is None:
        sys.exit(f"process {process} has ended")
    return int(found[1]) * 1024 / 1e6


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The page of this folder, at a free port, until the block is left."""
    command = [sys.executable, "-m", "twinlens", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("TwinLens: "):
            sys.exit(f"the page did not start: {line}")
        yield process, line.split()[1]
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
