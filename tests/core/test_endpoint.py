"""Services that misbehave: asked again when that may help, told in one sentence when not, and never with the key."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from tests.service import Fault, Service, serving
from twinlens.core import endpoint
from twinlens.core.endpoint import Endpoint, TooLargeError, ask_concurrently, join_address
from twinlens.core.errors import FetchError

KEY = "sk-very-secret-123"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.delenv("TWINLENS_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(lambda asked: {"said": asked.body["word"]}) as running:
        yield running


def ask(service: Service, retries: int = 3, key: str | None = "SOME_KEY") -> Any:
    client = Endpoint(join_address(service.url, "say"), key, retries=retries, timeout_s=5.0)
    return client.post({"word": "dog"}, lambda answer: answer["said"])


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://host:8000", "http://host:8000/v1/chat/completions"),
        ("http://host:8000/", "http://host:8000/v1/chat/completions"),
        ("http://host:8000/v1", "http://host:8000/v1/chat/completions"),
        ("http://host:8000/v1/", "http://host:8000/v1/chat/completions"),
        ("https://host/api/v3", "https://host/api/v3/chat/completions"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/chat/completions"),
        ("https://host/v1/chat/completions", "https://host/v1/chat/completions"),
        ("https://host/proxy?api-version=2", "https://host/proxy/v1/chat/completions?api-version=2"),
    ],
)
def test_an_address_may_end_as_people_write_it(url: str, wanted: str) -> None:
    assert join_address(url, "chat/completions") == wanted


def test_the_key_goes_into_one_header(service: Service) -> None:
    assert ask(service) == "dog"
    assert service.asked[0].path == "/v1/say"
    assert service.asked[0].authorization == f"Bearer {KEY}"
    ask(service, key=None)
    assert service.asked[1].authorization is None


PASSING = {
    "500": Fault(status=500),
    "429": Fault(status=429),
    "garbage": Fault(body=b"<html>busy</html>"),
    "another answer": Fault(body=b'{"error": "warming up"}'),
    "a list": Fault(body=b"[]"),
    "half": Fault(cut_after=5),
    "nothing": Fault(hangs_up=True),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_asked_again(fault: str, service: Service) -> None:
    service.faults = [PASSING[fault]] * 2
    assert ask(service) == "dog"
    assert len(service.asked) == 3


@pytest.mark.parametrize("fault", PASSING)
def test_no_retries_means_one_attempt(fault: str, service: Service) -> None:
    service.faults = [PASSING[fault]]
    with pytest.raises(FetchError, match="no answer after 1 attempt: "):
        ask(service, retries=0)
    assert len(service.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_told_at_once_without_the_key(status: int, service: Service) -> None:
    service.faults = [Fault(status=status, body=f"Incorrect key: {KEY}".encode())]
    with pytest.raises(FetchError) as caught:
        ask(service)
    assert str(caught.value) == f"{service.url}/v1/say: status {status}: Incorrect key: ***"
    assert len(service.asked) == 1


def test_the_key_is_in_no_line_of_the_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service.faults = [Fault(status=500, body=f"bad {KEY}".encode()), Fault(body=f"bad {KEY}".encode())]
    assert ask(service) == "dog"
    assert "bad ***" in caplog.text
    assert KEY not in caplog.text


def test_a_redirect_is_not_followed_as_the_key_would_go_along(service: Service) -> None:
    service.faults = [Fault(status=307, headers={"Location": f"{service.url}/elsewhere"})]
    with pytest.raises(FetchError, match=r"moved to .*/elsewhere"):
        ask(service)
    assert [one.path for one in service.asked] == ["/v1/say"]


@pytest.mark.parametrize("fault", [Fault(status=413), Fault(status=400, body=b"image exceeds the maximum size")])
def test_too_large_is_told_apart(fault: Fault, service: Service) -> None:
    service.faults = [fault]
    with pytest.raises(TooLargeError):
        ask(service)


@pytest.mark.parametrize("stated", ["2", "0.5", "date"])
def test_nobody_asks_before_the_time_that_the_server_states(
    stated: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    now = [100.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    value = formatdate(time.time() + 30, usegmt=True) if stated == "date" else stated
    service.faults = [Fault(status=429, headers={"Retry-After": value})]
    assert ask(service) == "dog"
    assert sum(slept) == pytest.approx(30 if stated == "date" else float(stated), abs=2 if stated == "date" else 1e-6)


def test_a_wait_of_hours_is_an_error_and_not_a_wait(service: Service) -> None:
    service.faults = [Fault(status=429, headers={"Retry-After": "7200"})]
    with pytest.raises(FetchError, match=r"asks to wait 7,200 s: .*answers are kept"):
        ask(service)


def test_a_key_that_is_not_set_is_told_by_the_name_of_its_variable() -> None:
    with pytest.raises(FetchError, match="the environment variable NO_SUCH_KEY, which should hold the key of"):
        Endpoint("http://host/v1/say", "NO_SUCH_KEY", retries=0, timeout_s=1.0)


def test_offline_forbids_other_machines_and_not_this_one(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLENS_OFFLINE", "1")
    assert ask(service) == "dog"
    with pytest.raises(FetchError, match="is another machine"):
        Endpoint("https://api.example.com/v1/say", None, retries=0, timeout_s=1.0)


def test_so_many_requests_are_in_flight_as_were_asked_for(service: Service) -> None:
    service.together = threading.Barrier(3)  # each waits for two others: fewer at a time would hang
    client = Endpoint(join_address(service.url, "say"), None, retries=0, timeout_s=30.0)
    found = dict(ask_concurrently(range(6), lambda n: client.post({"word": n}, lambda answer: answer["said"]), 3))
    assert found == {n: n for n in range(6)}


def test_after_a_failure_nothing_more_is_sent_and_what_is_in_flight_is_waited_for() -> None:
    kept: list[int] = []
    begun = threading.Barrier(2)

    def work(n: int) -> int:
        if n < 2:
            begun.wait(20)
        if n == 0:
            raise FetchError("refused")
        kept.append(n)
        return n

    with pytest.raises(FetchError, match="refused"):
        list(ask_concurrently(range(100), work, 2))
    assert 1 in kept
    assert len(kept) < 50
