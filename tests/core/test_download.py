"""Downloads from a host that misbehaves: whole and right, or one clear error, and nothing fetched twice."""

from __future__ import annotations

import hashlib
import logging
import shutil
import socket
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from tests.web import Fault, Host
from twinlens.core import download as fetch
from twinlens.core.download import RemoteFile, download, is_url
from twinlens.core.errors import FetchError, ResourceError
from twinlens.core.hashing import hash_file

NAME = "photos.zip"
CONTENT = bytes(range(256)) * 1200  # 307,200 bytes, several pieces
CUT = 200_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
EXACT = RemoteFile(NAME, size=len(CONTENT), sha256=SHA256)
ADVICE = " Two ways on: a folder or a mirror."
PAGE = Fault(body=b"<html><body>Sign in to the network</body></html>", content_type="text/html; charset=utf-8")
HOW_MUCH_IS_KNOWN = pytest.mark.parametrize("wanted", [EXACT, RemoteFile(NAME)], ids=["size and digest", "nothing"])


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def host(host: Host) -> Host:
    host.files[NAME] = CONTENT
    return host


def get(host: Host, folder: Path, wanted: RemoteFile = EXACT) -> Path:
    return download(wanted, f"{host.url}/{NAME}", folder, advice=ADVICE)


def failure(host: Host, folder: Path, wanted: RemoteFile = EXACT) -> str:
    """The message when a download fails; nothing may then bear the file's name."""
    with pytest.raises(FetchError) as caught:
        get(host, folder, wanted)
    assert not (folder / NAME).exists()
    message = str(caught.value)
    assert message.endswith(ADVICE)
    assert host.url in message
    return message


def visible(folder: Path) -> list[str]:
    """Names in a folder, without the lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


# ---------------------------------------------------------------- an honest host


@HOW_MUCH_IS_KNOWN
def test_a_file_arrives_whole_and_alone(wanted: RemoteFile, host: Host, tmp_path: Path) -> None:
    path = get(host, tmp_path / "deep" / "er", wanted)
    assert path == tmp_path / "deep" / "er" / NAME
    assert path.read_bytes() == CONTENT
    assert visible(path.parent) == [NAME]
    assert len(host.requests) == 1


@HOW_MUCH_IS_KNOWN
def test_a_file_that_is_there_is_not_fetched_again(wanted: RemoteFile, host: Host, tmp_path: Path) -> None:
    get(host, tmp_path)
    assert get(host, tmp_path, wanted).read_bytes() == CONTENT
    assert len(host.requests) == 1


def test_a_file_of_another_size_is_fetched_again(host: Host, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    assert get(host, tmp_path).read_bytes() == CONTENT


def test_an_empty_file_is_a_file(host: Host, tmp_path: Path) -> None:
    host.files[NAME] = b""
    assert get(host, tmp_path, RemoteFile(NAME)).read_bytes() == b""


def test_a_redirect_is_followed(host: Host, tmp_path: Path) -> None:
    host.files["elsewhere/photos-v2.zip"] = CONTENT
    host.faults[NAME] = [Fault(status=302, location="/elsewhere/photos-v2.zip")]
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert [request.name for request in host.requests] == [NAME, "elsewhere/photos-v2.zip"]


def test_a_file_without_an_announced_length_arrives_whole(host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(hides_length=True)]
    assert get(host, tmp_path, RemoteFile(NAME)).read_bytes() == CONTENT


# ---------------------------------------------------------------- a broken connection


@HOW_MUCH_IS_KNOWN
def test_a_connection_that_breaks_is_taken_up_where_it_broke(wanted: RemoteFile, host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(cut_after=CUT)]
    assert get(host, tmp_path, wanted).read_bytes() == CONTENT
    assert visible(tmp_path) == [NAME]
    first, second = host.requests
    assert (first.range, first.sent) == (None, CUT)
    assert second.status == 206
    assert second.range == f"bytes={len(CONTENT) - second.sent}-"
    assert second.if_range == host.etag(NAME)
    assert CUT + second.sent - len(CONTENT) < fetch.CHUNK  # at most one piece came twice


def test_a_connection_that_breaks_again_and_again_ends_with_the_same_bytes(host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(cut_after=100_000), Fault(cut_after=0), Fault(cut_after=70_000), Fault(cut_after=1)]
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert len(host.requests) == 5


def test_a_second_run_goes_on_where_the_first_gave_up(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    host.faults[NAME] = [Fault(cut_after=CUT)]
    message = failure(host, tmp_path)
    assert "the connection ended after" in message
    held = (tmp_path / f"{NAME}.part").stat().st_size
    assert 0 < held <= CUT
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert host.requests[-1].range == f"bytes={held}-"
    assert host.requests[-1].sent == len(CONTENT) - held


def test_a_part_that_a_killed_run_left_is_completed(host: Host, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:CUT])
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert [request.range for request in host.requests] == [f"bytes={CUT}-"]


def test_a_part_that_is_complete_already_asks_the_host_for_nothing(host: Host, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert host.requests == []


def test_a_part_longer_than_the_file_is_thrown_away(host: Host, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT + b"more")
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert [request.range for request in host.requests] == [None]


def test_a_host_without_ranges_sends_all_of_it_again(host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(cut_after=CUT), Fault(ignores_range=True)]
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert [request.status for request in host.requests] == [200, 200]


def test_a_break_is_noticed_where_no_length_was_announced_but_the_size_is_known(host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(cut_after=CUT, hides_length=True)]
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert [request.range for request in host.requests] == [None, f"bytes={CUT}-"]


def test_a_file_that_changed_between_two_attempts_is_fetched_from_its_start(host: Host, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:CUT])
    (tmp_path / f"{NAME}.part.etag").write_text(host.etag(NAME))
    host.files[NAME] = bytes(reversed(CONTENT))
    assert get(host, tmp_path, RemoteFile(NAME)).read_bytes() == host.files[NAME]
    assert [request.status for request in host.requests] == [200]
    assert visible(tmp_path) == [NAME]


def test_a_changed_file_is_fetched_from_its_start_even_when_the_host_would_send_the_rest_of_it(
    host: Host, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:CUT])
    (tmp_path / f"{NAME}.part.etag").write_text(host.etag(NAME))
    host.files[NAME] = bytes(reversed(CONTENT))
    host.faults[NAME] = [Fault(ignores_if_range=True)]
    assert get(host, tmp_path, RemoteFile(NAME)).read_bytes() == host.files[NAME]
    assert [request.status for request in host.requests] == [206, 200]


def test_a_file_without_a_stamp_is_taken_up_where_it_broke_all_the_same(host: Host, tmp_path: Path) -> None:
    host.stamped = False
    host.faults[NAME] = [Fault(cut_after=CUT)]
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert [(request.status, request.if_range) for request in host.requests] == [(200, None), (206, None)]


def test_a_host_that_hangs_up_or_falls_silent_is_asked_again(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_S", (5, 0.1))
    host.faults[NAME] = [Fault(hangs_up=True), Fault(silent_after=CUT)]
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert [request.status for request in host.requests] == [0, 200, 206]


def test_a_file_that_shrank_between_two_attempts_is_fetched_from_its_start(host: Host, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:CUT])
    host.files[NAME] = CONTENT[:1000]
    assert get(host, tmp_path, RemoteFile(NAME)).read_bytes() == CONTENT[:1000]
    assert [request.status for request in host.requests] == [416, 200]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_host_that_is_busy_is_asked_again(status: int, host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(status=status), Fault(status=status)]
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert [request.status for request in host.requests] == [status, status, 200]


def test_a_host_that_is_busy_half_way_does_not_cost_what_was_fetched(host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(cut_after=CUT), Fault(status=503)]
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert [request.status for request in host.requests] == [200, 503, 206]


@pytest.mark.parametrize(("status", "words"), [(429, "429 Too Many Requests"), (500, "500 Internal Server Error")])
def test_a_host_that_stays_busy_is_given_up_with_its_answer(
    status: int, words: str, host: Host, tmp_path: Path
) -> None:
    host.faults[NAME] = [Fault(status=status)] * 50
    assert words in failure(host, tmp_path)
    assert len(host.requests) == fetch.ATTEMPTS


@pytest.mark.parametrize(("status", "words"), [(404, "404"), (403, "403"), (410, "410")])
def test_a_host_that_refuses_is_not_asked_again(status: int, words: str, host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(status=status)] * 50
    assert words in failure(host, tmp_path)
    assert len(host.requests) == 1


@HOW_MUCH_IS_KNOWN
def test_a_web_page_is_not_taken_for_the_file(wanted: RemoteFile, host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [PAGE] * 50
    assert "the host sent a web page instead of the file" in failure(host, tmp_path, wanted)
    assert len(host.requests) == 1
    assert get_after_repair(host, tmp_path, wanted) == CONTENT


def test_a_redirect_to_a_web_page_is_not_taken_for_the_file(host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(status=302, location="/login")]
    host.faults["login"] = [PAGE]
    assert "web page" in failure(host, tmp_path)


def test_a_web_page_half_way_does_not_cost_what_was_fetched(host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(cut_after=CUT), PAGE]
    assert "web page" in failure(host, tmp_path)
    assert get_after_repair(host, tmp_path) == CONTENT
    assert host.requests[-1].status == 206


def test_a_web_page_that_was_asked_for_is_a_file(host: Host, tmp_path: Path) -> None:
    host.files["terms.html"] = b"<html></html>"
    host.faults["terms.html"] = [Fault(content_type="text/html")]
    path = download(RemoteFile("terms.html"), f"{host.url}/terms.html", tmp_path)
    assert path.read_bytes() == b"<html></html>"


def test_a_file_of_the_wrong_size_is_refused_before_it_is_fetched(host: Host, tmp_path: Path) -> None:
    host.files[NAME] = CONTENT[:-1]
    assert "the host offers 307,199 bytes, expected 307,200: another file" in failure(host, tmp_path)
    assert get_after_repair(host, tmp_path) == CONTENT


def test_a_file_with_the_wrong_digest_is_removed(host: Host, tmp_path: Path) -> None:
    host.files[NAME] = CONTENT[:-1] + b"\x00"
    message = failure(host, tmp_path)
    assert f"has SHA-256 {hashlib.sha256(host.files[NAME]).hexdigest()}, expected {SHA256}" in message
    assert visible(tmp_path) == []
    assert get_after_repair(host, tmp_path) == CONTENT


def test_a_part_of_another_file_is_found_out_by_the_digest(host: Host, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(bytes(CUT))
    assert "SHA-256" in failure(host, tmp_path)
    assert get_after_repair(host, tmp_path) == CONTENT


def get_after_repair(host: Host, folder: Path, wanted: RemoteFile = EXACT) -> bytes:
    """What a rerun ends with once the host is honest again."""
    host.faults.clear()
    host.files[NAME] = CONTENT
    return get(host, folder, wanted).read_bytes()


def test_a_host_that_cannot_be_reached_is_one_error_with_the_ways_on(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/{NAME}"
        with pytest.raises(FetchError) as caught:
            download(EXACT, url, tmp_path, advice=ADVICE)
    message = str(caught.value)
    assert message.startswith(f"{NAME} could not be had from {url}: ")
    assert message.endswith(f"Connection refused.{ADVICE}")
    assert not any(noise in message for noise in ("object at 0x", "Max retries", "HTTPConnection"))
    assert visible(tmp_path) == []


def test_a_host_that_no_name_server_knows_is_one_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(FetchError) as caught:
        download(EXACT, "http://no-such-host.invalid/photos.zip", tmp_path, advice=ADVICE)
    message = str(caught.value)
    assert "Name or service not known" in message
    assert "Max retries" not in message
    assert message.endswith(ADVICE)


def test_the_waits_double_until_something_has_come(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 1.0)
    monkeypatch.setattr(time, "sleep", waits.append)
    host.faults[NAME] = [Fault(status=503), Fault(status=503), Fault(cut_after=CUT), Fault(status=503)]
    get(host, tmp_path)
    assert waits == [1.0, 2.0, 4.0, 1.0]


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "\u0663", "307200, 5", "9" * 400])
def test_a_length_that_is_none_is_an_error_and_no_traceback(length: str, host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(length=length)] * 5
    with pytest.raises((FetchError, ResourceError)):
        get(host, tmp_path)
    assert visible(tmp_path) in ([], [f"{NAME}.part"])


# ---------------------------------------------------------------- this machine


def test_a_disk_without_room_is_an_error_before_anything_is_fetched(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 200_000))
    with pytest.raises(ResourceError, match=r"photos\.zip\.part needs 307,200 bytes and 200,000 are free\. Make room"):
        get(host, tmp_path)
    assert visible(tmp_path) == []


def test_only_the_rest_needs_room(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, len(CONTENT) - CUT))
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:CUT])
    assert get(host, tmp_path).read_bytes() == CONTENT


def test_a_second_caller_waits_and_takes_what_the_first_fetched(
    host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()
    host.faults[NAME] = [Fault(held_until=go_on)]
    made: list[bytes] = []

    def fetching() -> None:
        made.append(get(host, tmp_path).read_bytes())

    callers = [threading.Thread(target=fetching) for _ in range(2)]
    with caplog.at_level(logging.INFO, "twinlens"):
        for caller in callers:
            caller.start()
        end = time.monotonic() + 300
        while f"another process is fetching {NAME}" not in caplog.text and time.monotonic() < end:
            time.sleep(0.005)
        go_on.set()
        for caller in callers:
            caller.join(300)
    assert f"another process is fetching {NAME}; waiting for it" in caplog.text
    assert made == [CONTENT, CONTENT]
    assert len(host.requests) == 1


def test_an_address_is_told_from_a_folder() -> None:
    assert is_url("http://host/x")
    assert is_url("https://host/x")
    assert not is_url("/data/coco")
    assert not is_url("data/coco")
    assert not is_url("$HOME/coco")
    assert not is_url("C:/coco")


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    assert hash_file(tmp_path / "a") == SHA256


@pytest.mark.parametrize("variable", ["TWINLENS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked_for_and_the_place_of_the_file_is_named(
    variable: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    assert f"offline, and {NAME} is not here: place it into {tmp_path}, from {host.url}/{NAME}." in failure(
        host, tmp_path
    )
    (tmp_path / NAME).write_bytes(CONTENT)
    assert get(host, tmp_path).read_bytes() == CONTENT
    assert host.requests == []


def test_an_address_that_leads_in_circles_is_one_error(host: Host, tmp_path: Path) -> None:
    host.faults[NAME] = [Fault(status=302, location=f"/{NAME}")] * 60
    assert "redirects" in failure(host, tmp_path)
