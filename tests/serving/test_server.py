"""The port: what it gives out, what it refuses, and how it says that it cannot be had."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import requests

from tests.serving.conftest import Served
from twinlens.errors import ParamsError, QueryError
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
