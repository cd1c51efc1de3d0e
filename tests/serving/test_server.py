"""The port: what it gives out, what it refuses, and how it says that it cannot be had."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import requests

from tests.serving.conftest import Served
from twinlens.errors import ParamsError, QueryError
from twinlens.serving import server
from twinlens.serving.guard import MAX_EVENT_BYTES, MAX_REQUEST_BYTES
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


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "gradio_api/process_recording"),
        ("POST", "gradio_api/run/predict"),
        ("POST", "gradio_api/call/predict"),
        ("POST", "gradio_api/component_server"),
        ("POST", "gradio_api/vibe-edit"),
        ("POST", "gradio_api/stream/x"),
        ("POST", "gradio_api/upload/"),
        ("POST", "gradio_api//upload"),
        ("POST", "login"),
        ("POST", ""),
        ("PUT", "gradio_api/upload"),
        ("GET", "gradio_api/queue/status"),
        ("GET", "gradio_api/info"),
        ("GET", "gradio_api/runs"),
        ("GET", "monitoring"),
        ("GET", "docs"),
    ],
)
def test_what_the_page_does_not_ask_for_is_refused_and_leaves_nothing(served: Served, method: str, path: str) -> None:
    before = served.uploads()
    sent = {"file": ("a.webm", b"mine"), "files": ("a.webm", b"mine")}
    answer = requests.request(method, f"{served.url}/{path}", files=sent if method != "GET" else None, timeout=30)
    assert answer.status_code == 403
    assert served.uploads() == before


def test_only_the_page_itself_may_send_something(served: Served) -> None:
    def sent(path: str, origin: str | None) -> requests.Response:
        headers = {} if origin is None else {"Origin": origin}
        return requests.post(
            f"{served.url}/gradio_api/{path}", files={"files": ("a.txt", b"mine")}, headers=headers, timeout=30
        )

    port = served.url.rpartition(":")[2]
    for origin in ("http://evil.example", f"http://evil.example:{port}", "http://127.0.0.1:1", "null", ""):
        assert [sent(path, origin).status_code for path in ("upload", "queue/join")] == [403, 403]
    assert served.uploads() == []
    for known in (served.url, None):  # a browser on the page, a program
        (path,) = sent("upload", known).json()
        Path(path).unlink()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("upload", "Content-Length: 10\r\nTransfer-Encoding: chunked", 411),
        ("upload", "Transfer-Encoding: chunked", 411),
        ("queue/join", "Transfer-Encoding: chunked", 411),
        ("upload", f"Content-Length: {MAX_REQUEST_BYTES + 1}", 413),
        ("queue/join", f"Content-Length: {MAX_EVENT_BYTES + 1}", 413),
    ],
)
def test_a_body_of_no_or_too_large_a_size_is_refused_unread(
    served: Served, path: str, headers: str, status: int
) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        kind = "Content-Type: multipart/form-data; boundary=b"
        connection.sendall(f"POST /gradio_api/{path} HTTP/1.1\r\nHost: {host}\r\n{kind}\r\n{headers}\r\n\r\n".encode())
        assert int(connection.recv(100).split()[1]) == status  # nothing of the body was sent


def test_the_browser_is_told_to_ask_nobody_else(served: Served) -> None:
    headers = requests.get(served.url, timeout=30).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


def test_another_name_that_was_pointed_here_is_refused(served: Served) -> None:
    assert requests.get(served.url, headers={"Host": "evil.example"}, timeout=30).status_code == 400
    assert requests.get(served.url, headers={"Host": "localhost"}, timeout=30).status_code == 200


def test_whoever_asks_before_the_page_is_up_is_not_refused() -> None:
    with server._listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname(), timeout=30):
        pass


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
