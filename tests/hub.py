"""A stand-in for the Hugging Face hub's file API, so that the real `huggingface_hub` is what runs.

Models and datasets are served alike.

>>> with serving_hub({"someone/tiny": {"config.json": b"{}"}}) as hub:      # doctest: +SKIP
...     hub.faults["model.safetensors"] = [Cut(after=100)]
...     snapshot_download("someone/tiny", endpoint=hub.url)
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

from tests.web import running

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WAIT_S = 20.0  # for what a test holds back; only reached when the test itself is wrong


@dataclass(frozen=True)
class Refusal:
    """What is answered instead: a status, and the code by which the hub says why."""

    status: int
    code: str = ""
    message: str = ""


UNKNOWN_REPO = Refusal(401, "RepoNotFound", "Repository not found")  # the hub does not tell it from a private one
UNKNOWN_REVISION = Refusal(404, "RevisionNotFound", "Invalid rev id")
UNKNOWN_FILE = Refusal(404, "EntryNotFound", "Entry not found")
GATED = Refusal(403, "GatedRepo", "Access to this model is restricted")


@dataclass(frozen=True)
class Cut:
    """The body of one answer ends after so many bytes: the connection breaks, or nothing more comes."""

    after: int
    silent: bool = False


@dataclass
class Hub:
    """Repositories, each at one commit that is also its `main`; how requests go wrong; what was asked for."""

    repos: dict[str, dict[str, bytes]]
    url: str = ""
    down: Refusal | None = None  # answered to everything
    refused_files: dict[str, Refusal] = field(default_factory=dict)  # by repository; its description is still given
    faults: dict[str, list[Cut]] = field(default_factory=dict)  # by file: of the next bodies, in turn
    silent: bool = False  # nothing is answered
    requests: list[str] = field(default_factory=list)  # "GET /path", in the order they came
    ranges: list[tuple[str, int, int]] = field(default_factory=list)  # file, first byte, byte after the last
    half_way: threading.Event = field(default_factory=threading.Event)  # a silent cut has been reached
    ended: threading.Event = field(default_factory=threading.Event)

    def fetched(self) -> list[str]:
        """The files whose bytes were asked for, sorted."""
        return sorted(
            request.split("/resolve/", 1)[1].split("/", 1)[1]
            for request in self.requests
            if re.match(r"GET .*/resolve/", request)
        )


@contextmanager
def serving_hub(repos: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    """A hub that runs until the block is left."""
    hub = Hub({name: dict(files) for name, files in repos.items()})
    with running(_Handler, hub):
        yield hub


def point_at(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client reads from the environment when it is imported, which was long ago here."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()  # a client keeps the proxies of its first use


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    serves: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        hub, path = self.serves, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        self.close_connection = True
        if hub.silent:
            hub.ended.wait(WAIT_S)
            return
        answer = self._answer(path)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        waiting = hub.faults.get(path.rsplit("/resolve/", 1)[-1].split("/", 1)[-1])
        cut = waiting.pop(0) if waiting else None
        self.wfile.write(answer.body if cut is None else answer.body[: cut.after])
        self.wfile.flush()
        if cut is not None and cut.silent:
            hub.half_way.set()
            hub.ended.wait(WAIT_S)

    def _answer(self, path: str) -> _Answer:
        hub = self.serves
        if hub.down is not None:
            return _refused(hub.down)
        if found := re.fullmatch(
            r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+))?/?", path
        ):
            repo, what, revision = found.groups()
            return self._described(repo, what, revision or "main")
        if found := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        return _refused(Refusal(404))

    def _described(self, repo: str, what: str | None, revision: str) -> _Answer:
        hub = self.serves
        if refusal := _unknown(hub, repo, revision):
            return _refused(refusal)
        files = hub.repos[repo]
        if what == "paths-info":
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
            files = {name: content for name, content in files.items() if name in asked}
        if what in ("tree", "paths-info"):
            return _json(
                [{"type": "file", "path": name, "size": len(files[name]), "oid": _oid(files[name])} for name in files]
            )
        return _json(
            {
                "id": repo,
                "sha": COMMIT,
                "siblings": [{"rfilename": name, "size": len(files[name]), "blobId": "0"} for name in files],
            }
        )

    def _file(self, repo: str, revision: str, name: str) -> _Answer:
        hub = self.serves
        refusal = _unknown(hub, repo, revision) or hub.refused_files.get(repo)
        if refusal is None and name not in hub.repos[repo]:
            refusal = UNKNOWN_FILE
        if refusal is not None:
            return _refused(refusal)
        whole = hub.repos[repo][name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(whole)}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return _Answer(200, headers, whole)
        start, stop = int(part[1]), min(int(part[2]) + 1, len(whole)) if part[2] else len(whole)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(whole)}"
        hub.ranges.append((name, start, stop))
        return _Answer(206, headers, whole[start:stop])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; the tests look at `Hub.requests`."""


def _unknown(hub: Hub, repo: str, revision: str) -> Refusal | None:
    if repo not in hub.repos:
        return UNKNOWN_REPO
    return None if revision in ("main", COMMIT) else UNKNOWN_REVISION


def _refused(refusal: Refusal) -> _Answer:
    headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
    return _Answer(refusal.status, {name: value for name, value in headers.items() if value}, b"{}")


def _json(content: Any) -> _Answer:
    return _Answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
