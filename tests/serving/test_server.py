"""The port: what it gives out, what it refuses, and how it says that it cannot be had."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.serving.conftest import Served
from twinlens.errors import ParamsError, QueryError
from twinlens.serving import server
from twinlens.serving.server import serve


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=params.yaml",
        "gradio_api/file=http://example.org/",
        "file=params.yaml",
        "gradio_api/file/params.yaml",
        "gradio_api/proxy=http://example.org/",
        "gradio_api//file=params.yaml",
        "%67radio_api/fil%65=params.yaml",
    ],
)
def test_files_are_refused(served: Served, path: str) -> None:
    answer = requests.get(f"{served.url}/{path}", timeout=30)
    assert answer.status_code in (403, 404)
    assert "models" not in answer.text
    assert "root:" not in answer.text


def test_an_upload_cannot_be_had_back(served: Served) -> None:
    sent = requests.post(f"{served.url}/gradio_api/upload", files={"files": ("a.txt", b"mine")}, timeout=30)
    (path,) = sent.json()
    assert Path(path).is_relative_to(served.temporary)
    assert requests.get(f"{served.url}/gradio_api/file={path}", timeout=30).status_code == 403
    Path(path).unlink()


def test_uploads_are_bounded_by_the_request_and_in_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_REQUEST_BYTES", 100)
    monkeypatch.setattr(server, "MAX_UPLOADS_BYTES", 150)
    guard = server.Guard(None, tmp_path)

    def status(*headers: tuple[bytes, bytes]) -> int:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": list(headers)}
        with ThreadPoolExecutor(1) as thread:  # in this one Playwright may have left a loop running
            thread.submit(asyncio.run, guard(scope, None, send)).result()
        return int(sent[0]["status"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert guard.arriving == 100
        await send({"type": "http.response.start", "status": 200})

    guard.app = app
    length = (b"content-length", b"100")
    assert status() == 411
    assert status((b"content-length", b"101")) == 413
    assert [status(length), status(length), guard.arriving] == [200, 200, 0]
    (tmp_path / "session").mkdir()
    (tmp_path / "session" / "waiting.png").write_bytes(bytes(51))
    assert status(length) == 503
    (tmp_path / "session" / "waiting.png").write_bytes(bytes(50))
    assert status(length) == 200
    guard.arriving = 1
    assert status(length) == 503


def test_the_browser_is_told_to_ask_nobody_else(served: Served) -> None:
    headers = requests.get(served.url, timeout=30).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


def test_another_name_that_was_pointed_here_is_refused(served: Served) -> None:
    assert requests.get(served.url, headers={"Host": "evil.example"}, timeout=30).status_code == 400
    assert requests.get(served.url, headers={"Host": "localhost"}, timeout=30).status_code == 200


@pytest.mark.usefixtures("root")
def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ParamsError, match=f"port {port}: .*another port"):
            serve("127.0.0.1", port)
    with pytest.raises(ParamsError, match=r"cannot be shown at nowhere\.invalid"):
        serve("nowhere.invalid", 0)


@pytest.mark.usefixtures("root")
def test_without_an_index_nothing_is_shown() -> None:
    with pytest.raises(QueryError, match="dvc exp run -S model=vit-b-32 index"):
        serve("127.0.0.1", 0, model="vit-b-32")
