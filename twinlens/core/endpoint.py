"""Services that answer JSON over HTTP: asked with patience, many at a time, and never so that a key shows.

A request that fails for a reason that may pass (no connection, an answer that breaks off or is no JSON, 408, 429, 5xx)
is sent again. Where the server says when (Retry-After), nobody asks before; elsewhere the pause doubles. Redirects are
not followed, as the key would go along. The key is read from the environment, goes into one header, and is taken out of
whatever is said of an error.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter

from twinlens.core.download import is_offline
from twinlens.core.errors import DataError, FetchError

log = logging.getLogger("twinlens")

FIRST_WAIT_S = 1.0  # doubled after each attempt
LONGEST_WAIT_S = 60.0  # that we choose
LONGEST_STATED_S = 900.0  # that a server may ask for
CONNECT_S = 10.0
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
TOO_LARGE = re.compile(r"too (large|big|long)|exceed|maximum (size|image)|payload|resolution", re.IGNORECASE)
MOST = 200  # characters of an answer that are repeated
VERSION = re.compile(r"v\d+\w*")

T = TypeVar("T")
Answer = TypeVar("Answer")


class TooLargeError(FetchError):
    """The service refuses what was sent because of its size."""


class _PassingError(Exception):
    """Something that may go better next time; `after_s` is when, where the server says so."""

    def __init__(self, told: str, after_s: float | None = None) -> None:
        super().__init__(told)
        self.after_s = after_s


def join_address(url: str, route: str, version: str = "v1") -> str:
    """Join the address of a service and a route: with or without a slash, a version, or the route itself at its end.

    >>> join_address("http://localhost:8000/", "chat/completions")
    'http://localhost:8000/v1/chat/completions'
    >>> join_address("https://api.example.com/openai/v1", "embeddings")
    'https://api.example.com/openai/v1/embeddings'
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if not path.endswith(f"/{route}"):
        versioned = any(VERSION.fullmatch(step) for step in path.split("/"))
        path = f"{path}/{route}" if versioned else f"{path}/{version}/{route}"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


class Endpoint:
    """A service at one address; safe to be used by several threads."""

    def __init__(self, address: str, key: str | None, *, retries: int, timeout_s: float, concurrency: int = 1) -> None:
        """Take an address.

        Args:
            address: whole, with its route.
            key: name of the environment variable that holds the key; None: no key is sent.
            retries: attempts after the first.
            timeout_s: for an answer to begin, and between two pieces of it.
            concurrency: connections that are kept.

        Raises:
            FetchError: the variable is not set, or the environment forbids requests to other machines.
        """
        self.address, self.retries, self.timeout_s = address, retries, timeout_s
        self._key = None if key is None else os.environ.get(key, "").strip()
        if key is not None and not self._key:
            raise FetchError(f"the environment variable {key}, which should hold the key of {address}, is not set")
        if is_offline() and not _is_here(address):
            raise FetchError(f"offline, as the environment says, and {address} is another machine")
        self._session = requests.Session()
        self._session.auth = self._authorise  # also keeps requests from taking another key out of ~/.netrc
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=max(1, concurrency)))
        self._lock, self._resume_at = threading.Lock(), 0.0

    def post(self, body: dict[str, Any], read: Callable[[Any], Answer]) -> Answer:
        """Send a request until it is answered.

        Args:
            body: as JSON.
            read: makes something of the answer; a ValueError, KeyError, TypeError or IndexError says that it is none.

        Raises:
            FetchError: it is refused, or not answered after the last attempt.
            TooLargeError: it is refused because of its size.
        """
        pause = FIRST_WAIT_S
        for attempt in range(self.retries + 1):
            self._wait()
            try:
                return read(self._send(body))
            except (_PassingError, ValueError, KeyError, TypeError, IndexError) as error:
                told = self._hide(
                    str(error) if isinstance(error, _PassingError) else f"it answers something else: {error!r}"
                )
                stated = getattr(error, "after_s", None)
                if attempt == self.retries:
                    tries = "1 attempt" if attempt == 0 else f"{attempt + 1} attempts"
                    raise FetchError(f"{self.address}: no answer after {tries}: {told}") from None
                if stated is not None and stated > LONGEST_STATED_S:
                    raise FetchError(
                        f"{self.address} asks to wait {stated:,.0f} s: {told}; answers are kept, run again then"
                    ) from None
                log.info("%s: %s; again in %.1f s", self.address, told, pause if stated is None else stated)
                if stated is None:
                    time.sleep(pause)
                    pause = min(2 * pause, LONGEST_WAIT_S)
                else:
                    self._hold(stated)
        raise AssertionError("the last attempt returns or raises")

    def _send(self, body: dict[str, Any]) -> Any:
        try:
            answer = self._session.post(
                self.address, json=body, timeout=(CONNECT_S, self.timeout_s), allow_redirects=False
            )
        except requests.RequestException as error:
            raise _PassingError(_short(error)) from None
        if answer.status_code in RETRIED:
            raise _PassingError(f"status {answer.status_code}: {_excerpt(answer)}", _read_stated_wait(answer))
        if answer.status_code == 413 or (answer.status_code in (400, 422) and TOO_LARGE.search(answer.text)):
            raise TooLargeError(self._hide(f"{self.address}: status {answer.status_code}: {_excerpt(answer)}"))
        if answer.status_code != 200:
            moved = f" (moved to {answer.headers['Location']})" if "Location" in answer.headers else ""
            raise FetchError(self._hide(f"{self.address}: status {answer.status_code}{moved}: {_excerpt(answer)}"))
        try:
            return answer.json()
        except ValueError:
            raise _PassingError(f"its answer is no JSON: {_excerpt(answer)}") from None

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _hide(self, told: str) -> str:
        return told.replace(self._key, "***") if self._key else told

    def _hold(self, seconds: float) -> None:
        """Let nobody ask for a while: a limit is of the key, not of one request."""
        with self._lock:
            self._resume_at = max(self._resume_at, time.monotonic() + seconds)

    def _wait(self) -> None:
        while (left := self._resume_at - time.monotonic()) > 0:
            time.sleep(left)


def ask_concurrently(tasks: Iterable[T], ask: Callable[[T], Answer], concurrency: int) -> Iterator[tuple[T, Answer]]:
    """Ask several at a time; yields each task with its answer as it comes, while `concurrency` are in flight.

    When one fails, what is still in flight is waited for before the error is raised. `ask` should keep its answer
    itself: what was given, and paid for, is then not lost, however this ends. Tasks are taken as they are sent.
    """
    waiting = iter(tasks)
    failure: BaseException | None = None
    with ThreadPoolExecutor(concurrency) as pool:
        flying: dict[Future[Answer], T] = {}
        while True:
            while failure is None and len(flying) < concurrency:
                try:
                    task = next(waiting)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                flying[pool.submit(ask, task)] = task
            if not flying:
                break
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                task = flying.pop(future)
                try:
                    answer = future.result()
                except Exception as error:
                    failure = failure or error
                    continue
                yield task, answer
    if failure is not None:
        raise failure


class Stopwatch:
    """Time between answers: the shares of many requests at a time add up to what the clock shows."""

    def __init__(self) -> None:
        self._last, self._lock = time.perf_counter(), threading.Lock()

    def lap(self) -> float:
        """Seconds since the last lap."""
        with self._lock:
            now = time.perf_counter()
            passed, self._last = now - self._last, now
            return passed


def read_rows(listed: Any, count: int) -> list[list[float]]:
    """Read vectors of an answer: as many as were asked for, each a list of finite numbers, all as long.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(listed, list) or len(listed) != count:
        found = len(listed) if isinstance(listed, list) else type(listed).__name__
        raise ValueError(f"{found} vectors for {count} inputs")
    for row in listed:
        if not isinstance(row, list) or not row or not all(isinstance(value, int | float) for value in row):
            raise ValueError("a vector is no list of numbers")
        if not all(-1e30 < value < 1e30 for value in row):
            raise ValueError("a vector is NaN or infinite")
    if len({len(row) for row in listed}) != 1:
        raise DataError(f"an answer has vectors of other lengths: {sorted({len(row) for row in listed})}")
    return listed


def _read_stated_wait(answer: requests.Response) -> float | None:
    """Seconds that a server asks to wait; None where it does not say, or nothing that can be read."""
    headers = answer.headers
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000.0)
        if "Retry-After" not in headers:
            return None
        stated = headers["Retry-After"].strip()
        if re.fullmatch(r"\d+(\.\d+)?", stated):
            return float(stated)
        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _is_here(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _excerpt(answer: requests.Response) -> str:
    text = " ".join(answer.text.split())
    return text if len(text) <= MOST else f"{text[:MOST]}..."


def _short(error: BaseException) -> str:
    """An error of the HTTP library in words, without its nesting."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    told = re.sub(r"^(<.*?>|HTTPS?Connection(Pool)?\(.*?\)): ", "", str(reason or error))
    return told[:MOST] or type(error).__name__
