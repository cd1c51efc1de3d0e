"""The port: what it gives out, what it refuses, and how it says that it cannot be had."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import requests

from tests.apps.web.conftest import Served, address, started
from twinlens.apps.web import server
from twinlens.apps.web.guard import LIMITS
from twinlens.apps.web.server import serve
from twinlens.core.errors import ParamsError, QueryError

pytestmark = pytest.mark.slow

ANSWERS_WITHIN_S = 120.0  # of an answer that takes milliseconds; what hangs takes for ever
TYPE = "Content-Type: application/octet-stream"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("picture", "Content-Length: 10\r\nTransfer-Encoding: chunked", 411),
        ("picture", "Transfer-Encoding: chunked", 411),
        ("search", "Transfer-Encoding: chunked", 411),
        ("tray", "X-Nothing: 1", 411),
        ("picture", f"Content-Length: {LIMITS['/picture'] + 1}", 413),
        ("search", f"Content-Length: {LIMITS['/search'] + 1}", 413),
        ("tray", f"Content-Length: {LIMITS['/tray'] + 1}", 413),
        ("tray", "Content-Length: 10\r\nHost: 127.0.0.1", 400),  # a second one
    ],
)
def test_a_body_of_no_or_too_large_a_size_is_refused_unread(
    served: Served, path: str, headers: str, status: int
) -> None:
    assert raw_status(served, f"POST /{path} HTTP/1.1", f"Host: 127.0.0.1\r\n{TYPE}\r\n{headers}") == status


def raw_status(served: Served, line: str, headers: str) -> int:
    """The status of a request of which nothing but its head is sent."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN_S) as connection:
        connection.sendall(f"{line}\r\n{headers}\r\n\r\n".encode())
        return int(connection.recv(100).split()[1])


def test_a_whole_address_in_the_request_names_no_other_host(served: Served) -> None:
    assert raw_status(served, "GET http://evil.example/ HTTP/1.1", "Host: 127.0.0.1") == 404
    assert raw_status(served, "GET http://127.0.0.1/ HTTP/1.1", "Host: evil.example") == 400
    assert raw_status(served, "GET / HTTP/1.0", "Accept: */*") == 400  # no host at all


def test_the_script_and_the_style_are_fetched_once(served: Served) -> None:
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        first = requests.get(f"{served.url}/assets/{name}", timeout=ANSWERS_WITHIN_S)
        assert first.headers["content-type"].startswith(kind)
        assert first.headers["cache-control"] == "no-cache"
        again = {"if-none-match": first.headers["etag"]}
        second = requests.get(f"{served.url}/assets/{name}", headers=again, timeout=ANSWERS_WITHIN_S)
        assert [second.status_code, second.content] == [304, b""]


def test_a_visitor_is_told_apart_by_a_word_that_says_nothing(served: Served) -> None:
    first, second = (requests.get(served.url, timeout=ANSWERS_WITHIN_S) for _ in range(2))
    assert first.cookies["visitor"] != second.cookies["visitor"]
    for flag in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert flag in first.headers["set-cookie"]
    again = requests.get(served.url, cookies=first.cookies.get_dict(), timeout=ANSWERS_WITHIN_S)
    assert "set-cookie" not in again.headers
    word, _, seal = first.cookies["visitor"].partition(".")
    for made_up in ("x", "../../../../etc/passwd", "a" * 22, word, f"{word}.", f".{seal}", f"{word[::-1]}.{seal}"):
        assert "set-cookie" in requests.get(served.url, cookies={"visitor": made_up}, timeout=ANSWERS_WITHIN_S).headers


def test_another_name_that_was_pointed_here_is_refused(served: Served) -> None:
    assert requests.get(served.url, headers={"Host": "evil.example"}, timeout=ANSWERS_WITHIN_S).status_code == 400
    assert requests.get(served.url, headers={"Host": "localhost"}, timeout=ANSWERS_WITHIN_S).status_code == 200


def test_another_name_is_known_where_it_was_allowed(built: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    process = started(built, tmp_path, log, "--host", "0.0.0.0", "--allow-host", "search.example")
    try:
        url = address(process, log).replace("0.0.0.0", "127.0.0.1")

        def status(host: str) -> int:
            return requests.get(url, headers={"Host": host}, timeout=ANSWERS_WITHIN_S).status_code

        assert [status(host) for host in ("search.example", "10.1.2.3:80", "localhost")] == [200, 200, 200]
        assert [status(host) for host in ("evil.example", "search.example.evil")] == [400, 400]
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_whoever_asks_before_the_page_is_up_is_not_refused() -> None:
    with (
        server._listening("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname(), timeout=ANSWERS_WITHIN_S),
    ):
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
def test_what_is_no_name_of_a_host_is_refused_before_anything_is_shown() -> None:
    with pytest.raises(ParamsError, match="--allow-host 'http://a' is no name"):
        serve("127.0.0.1", 0, allowed=["http://a"])


@pytest.mark.usefixtures("root")
def test_without_an_index_nothing_is_shown() -> None:
    with pytest.raises(QueryError, match="dvc exp run -S model=vit-b-32 index"):
        serve("127.0.0.1", 0, model="vit-b-32")
