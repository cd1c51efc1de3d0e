"""The page as a process of its own over a small index, and a browser that looks at it."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.indexing.conftest import CHECKPOINT, DATASET, MODEL, build, copy, root
from tests.workspace import ROOT
from twinlens.core import paths

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["copy", "root"]  # fixtures that are the same here, over the folder that `built` makes

MODELS = (MODEL, "apart", "words")
HOSTILE = (
    "<img src=x onerror='window.owned=1'><script>window.owned=2</script>",
    "${window.owned=3} {{value}} {{{value}}} `${1+1}`",
    "\u0642\u0627\u0631\u0628 \u0623\u062d\u0645\u0631",  # from right to left
    "'\"><b onmouseover=alert(1)>bold</b> &amp; \U0001f6a4",
)
REFUSALS = (400, 403, 404, 405, 408, 411, 413, 415, 500, 503)
STARTS_WITHIN_S = 240.0


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's root, as it were, whose captioner says what it should not."""

    def said(row: int, labels: list[str]) -> str:
        return f"{HOSTILE[row % len(HOSTILE)]} {' '.join(labels)}"

    return build(tmp_path_factory.mktemp("served"), MODELS, said)


@dataclass(frozen=True)
class Served:
    """A running page."""

    url: str
    temporary: Path  # its folder for temporary files
    log: Path

    def written(self) -> list[Path]:
        """What it left on the disk: nothing, whatever visitors send."""
        return list(self.temporary.rglob("*"))


@pytest.fixture(scope="session")
def served(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`python -m twinlens serve`, until the tests end."""
    folder = tmp_path_factory.mktemp("page")
    temporary, log = folder / "tmp", folder / "log.txt"
    temporary.mkdir()
    process = started(built, temporary, log)
    try:
        yield Served(address(process, log), temporary, log)
    finally:
        process.terminate()
        assert process.wait(120) is not None
    assert not list(temporary.rglob("*")), "something of a visitor was written to the disk"
    assert "Traceback" not in log.read_text()


def started(built: Path, temporary: Path, log: Path, *options: str) -> subprocess.Popen[bytes]:
    """The page as a process of its own, at a free port, that writes to a log."""
    environment = os.environ | {
        "TWINLENS_SCRATCH": str(built / "scratch"),
        CHECKPOINT[1:]: str(built / paths.trained(DATASET, MODEL) / "weights"),
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(temporary),
    }
    command = [sys.executable, "-m", "twinlens", "serve", "--port", "0", *options]
    with log.open("w") as out:
        return subprocess.Popen(command, cwd=built, env=environment, stdout=out, stderr=subprocess.STDOUT)


def address(process: subprocess.Popen[bytes], log: Path) -> str:
    ends = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < ends and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("TwinLens: "):
                return line.split()[1]
        time.sleep(0.1)
    raise AssertionError(f"the page did not start: {log.read_text()}")


@cache
def large_picture() -> bytes:
    """A picture just under the limit of 100 megapixels, which takes a second or more to open."""
    out = io.BytesIO()
    Image.new("RGB", (9_900, 9_900), "red").save(out, "PNG", compress_level=9)
    return out.getvalue()


def write_request(url: str, visitor: str | None = None) -> bytes:
    """A large picture as it is sent, by a visitor of its own if none is named."""
    picture = large_picture()
    lines = ["POST /picture HTTP/1.1", f"Host: {url.removeprefix('http://')}", "Content-Type: application/octet-stream"]
    lines += [f"Content-Length: {len(picture)}", *([f"Cookie: visitor={visitor}"] if visitor else [])]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + picture


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=120)


def keep_busy(url: str, requests: int) -> list[socket.socket]:
    """So many large pictures sent, each by a visitor of its own, and half of one more."""
    request = write_request(url)
    connections = [connect(url) for _ in range(requests + 1)]
    for connection in connections[1:]:
        connection.sendall(request)
    connections[0].sendall(request[: len(request) - len(large_picture()) + 1000])
    return connections


@contextmanager
def sending(url: str, requests: int, visitor: str) -> Iterator[list[bytes]]:
    """So many large pictures of one visitor under way for as long as this lasts; yields what was answered to others.

    However slow the machine is just now, there are never fewer.
    """
    request, over = write_request(url, visitor), Event()
    connections: set[socket.socket] = set()
    answers: list[bytes] = []

    def send() -> None:
        while not over.is_set():
            with connect(url) as connection, suppress(OSError):  # whoever has gone at the end is not waited for
                connections.add(connection)
                connection.sendall(request)
                answers.append(connection.recv(1000))
            connections.discard(connection)

    threads = [Thread(target=send, daemon=True) for _ in range(requests)]
    for thread in threads:
        thread.start()
    yield answers
    over.set()
    for connection in list(connections):
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(120)


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page, freshly opened on a desktop; it asks no other host and for nothing that is refused, its scripts run."""
    yield from opened(browser, served, 1280, 900)


@pytest.fixture
def phone(browser: Browser, served: Served) -> Iterator[Page]:
    """The same on a small screen."""
    yield from opened(browser, served, 360, 740)


VIOLATIONS = (
    "document.addEventListener('securitypolicyviolation', (event) => { throw new Error(event.violatedDirective); });"
)


def opened(browser: Browser, served: Served, width: int, height: int) -> Iterator[Page]:
    """The page in a window of its own, watched: what it does against its own content policy is an error too."""
    context = browser.new_context(viewport={"width": width, "height": height}, service_workers="block")
    context.set_default_timeout(120_000)  # of what takes tenths; other work on the machine must not count
    context.add_init_script(VIOLATIONS)
    shown, foreign, refused, failed = context.new_page(), [], [], []
    own = (served.url, "data:", "blob:")
    shown.on("request", lambda request: None if request.url.startswith(own) else foreign.append(request.url))
    shown.on("response", lambda response: refused.append(response.url) if response.status in REFUSALS else None)
    shown.on("pageerror", lambda error: failed.append(str(error)))
    shown.goto(served.url)
    shown.wait_for_selector("#results .card")
    yield shown
    owned = shown.evaluate("window.owned ?? null")
    context.close()
    assert not foreign
    assert not refused
    assert not failed
    assert owned is None
