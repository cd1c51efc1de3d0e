"""Handle of a child process: requests with a time limit, and one clear error for each way in which it can fail.

Requests and answers go through pipes of their own, so that whatever the model prints disturbs nobody; the last of what
it prints is kept for messages. The child gets no secret: only the environment variables that it needs to find files,
caches and devices. It runs as the same user all the same: a stranger's code can read what this user can read.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from twinlens.core.errors import DataError, ResourceError, TwinLensError
from twinlens.models.child import program

KEPT = {
    *("PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_MODULES_CACHE", "TRANSFORMERS_CACHE", "TORCH_HOME"),
}
KEPT_STARTS = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "TORCH_", "PYTORCH_", "ATEN_")
SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
SET = {
    **{"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
    **{"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": os.devnull, "TOKENIZERS_PARALLELISM": "false"},
}
LOOKS_EVERY_S = 0.2
PIPE_BYTES = 1 << 20
ENDS_WITHIN_S, BYE_WITHIN_S = 5.0, 1.0
KEPT_BYTES, KEPT_LINES, KEPT_CHARACTERS = 1 << 14, 6, 600  # of what it wrote
MOST_MESSAGE, MOST_ARRAY = 1 << 26, 1 << 32  # bytes of an answer: more is no answer
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class DeviceMemoryError(Exception):
    """The device's memory did not hold the batch; the child goes on."""


def filter_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Filter environment variables for a child: what finds files, caches and devices, and never a secret."""
    kept = {
        name: value
        for name, value in variables.items()
        if (name in KEPT or name.startswith(KEPT_STARTS)) and not SECRET.search(name)
    }
    return kept | SET


class Child:
    """A running child process; it ends when this is closed or forgotten, and when this process ends in any way."""

    def __init__(self, python: Path, name: str, path: Path = Path(program.__file__)) -> None:
        """Start it.

        Args:
            python: the interpreter of its environment.
            name: the model's, for messages.
            path: its program.

        Raises:
            DataError: the interpreter does not start.
        """
        self.name, self._lock, self._written = name, threading.Lock(), bytearray()
        theirs_in, self._requests = os.pipe()
        self._answers, theirs_out = os.pipe()
        main = threading.current_thread() is threading.main_thread()
        # -I: neither our PYTHONPATH nor the folder of the program; -u: what it prints is here before it is killed
        arguments = [str(python), "-I", "-u", str(path), *map(str, (theirs_in, theirs_out, os.getpid(), int(main)))]
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=filter_variables(os.environ),
                pass_fds=(theirs_in, theirs_out),
                start_new_session=True,  # so that what it starts itself can be ended with it
            )
        except OSError as error:
            os.close(self._requests)
            os.close(self._answers)
            raise DataError(f"{name}: {python} does not start: {error.strerror}") from None
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        for descriptor in (self._requests, self._answers):
            os.set_blocking(descriptor, False)
            with suppress(OSError, AttributeError):  # Linux: fewer turns for a batch of pixels
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        assert self._process.stdout is not None
        output = (self._process.stdout, self._written)
        self._reader = threading.Thread(target=_keep_last, args=output, name="child", daemon=True)
        self._reader.start()
        self.close = weakref.finalize(self, _end, self._process, (self._requests, self._answers))

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def ask(self, message: dict[str, Any], doing: str, limit_s: float, array: Any = None) -> tuple[dict[str, Any], Any]:
        """Ask for something and wait for the answer.

        Args:
            message: the request; see the program.
            doing: what the child does meanwhile, for messages.
            limit_s: how long it may take.
            array: numbers that go with it.

        Returns:
            The answer, and its numbers or None.

        Raises:
            DataError: the model's code fails, the process crashes, or it is silent for too long.
            ResourceError: memory ran out.
            DeviceMemoryError: the device's did.
        """
        with self._lock:
            if not self.close.alive:
                raise DataError(f"{self.name}: its process has ended")
            deadline = time.monotonic() + limit_s
            try:
                for piece in program.pack_frame(message, array):
                    self._write(piece, deadline)
                answer, numbers = self._receive(deadline)
            except _HangingError:
                self.close()
                raise DataError(
                    f"{self.name} gave no answer within {limit_s:g} s while it {doing}, and its process was ended: "
                    "raise `limits` on the card, or make batches smaller (compute.image_batch, compute.text_batch)"
                    f"{self._last_words()}"
                ) from None
            except (_EndedError, BrokenPipeError):
                self._tell_end(doing)
            except BaseException:  # an interruption in the middle of a frame: nothing more can be asked
                self.close()
                raise
        if "error" in answer:
            self._tell_failure(str(answer["error"]), str(answer.get("reason", "")), doing)
        return answer, numbers

    def _tell_failure(self, kind: str, reason: str, doing: str) -> NoReturn:
        reason = _clean(reason).rstrip(" .:\n")
        if kind == "device_memory":
            raise DeviceMemoryError(reason)
        if kind == "memory":
            raise ResourceError(
                f"{self.name}: its process had too little memory while it {doing} ({reason}): make batches smaller "
                "(compute.image_batch, compute.text_batch), or free memory"
            )
        if kind == "library":
            raise DataError(
                f"{self.name} does not run with the libraries of its environment while it {doing}: {reason}. Name the "
                "releases that it was written for as `environment.packages` on the card (its page has them)"
            )
        raise DataError(f"{self.name} failed while it {doing}: {reason}{self._last_words()}")

    def _tell_end(self, doing: str) -> NoReturn:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDS_WITHIN_S)
        code = self._process.poll()
        self.close()
        raise describe_end(self.name, code, doing, self._last_words())

    def _last_words(self) -> str:
        self._reader.join(1.0)
        text = _clean(bytes(self._written).decode("utf-8", "replace"))
        lines = [line.rstrip() for line in text.splitlines() if line.strip()][-KEPT_LINES:]
        return f". It wrote last: {' | '.join(lines)[-KEPT_CHARACTERS:]}" if lines else ""

    def _write(self, piece: bytes | memoryview, deadline: float) -> None:
        left = memoryview(piece)
        while left:
            self._wait(self._requests, select.POLLOUT, deadline)
            with suppress(BlockingIOError):
                left = left[os.write(self._requests, left) :]

    def _receive(self, deadline: float) -> tuple[dict[str, Any], Any]:
        text_size, body_size = program.HEAD.unpack(self._read(program.HEAD.size, deadline))
        if text_size > MOST_MESSAGE or body_size > MOST_ARRAY:
            raise DataError(f"{self.name}: its process answers something that is no answer")
        text = self._read(text_size, deadline)
        body = self._read(body_size, deadline)
        try:
            answer = json.loads(bytes(text))
            if "shape" not in answer:
                return answer, None
            if answer["dtype"] != "float32":
                raise ValueError(answer["dtype"])
            return answer, np.frombuffer(body, dtype="<f4").reshape(answer["shape"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.name}: its process answers something that is no answer ({error})") from None

    def _read(self, size: int, deadline: float) -> bytearray:
        found, place = bytearray(size), 0
        while place < size:
            self._wait(self._answers, select.POLLIN, deadline)
            try:
                count = os.readv(self._answers, [memoryview(found)[place:]])
            except BlockingIOError:
                continue
            if not count:
                raise _EndedError
            place += count
        return found

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        while time.monotonic() <= deadline:
            ended = self._process.poll() is not None  # what it had written can still be read, and is
            if poll.poll(0 if ended else 1000 * LOOKS_EVERY_S):
                return
            if ended:
                raise _EndedError
        raise _HangingError


class _EndedError(Exception):
    pass


class _HangingError(Exception):
    pass


def describe_end(name: str, code: int | None, doing: str, words: str) -> TwinLensError:
    """Describe how a child ended by itself, as an error.

    Args:
        name: the model's.
        code: the process's exit code, negative for a signal; None where it closed its pipe and runs on.
        doing: what it was doing.
        words: what it wrote last, as the end of the message.
    """
    if code == -signal.SIGKILL:
        return ResourceError(
            f"{name}: its process was ended by signal 9 (SIGKILL) while it {doing}, as the system does where memory "
            f"runs out: make batches smaller (compute.image_batch, compute.text_batch), or free memory{words}"
        )
    how = "closed its pipe"
    if code is not None and code < 0:
        with suppress(ValueError):
            how = f"was ended by signal {-code} ({signal.Signals(-code).name})"
    elif code is not None:
        how = f"ended with exit code {code}"
    return DataError(f"{name}: its process {how} while it {doing}: the code that the model brings crashed{words}")


def _clean(text: str) -> str:
    return CONTROL.sub("", text.replace("\r", "\n"))


def _keep_last(output: IO[bytes], written: bytearray) -> None:
    """Read what a child prints to the end, and keep the last of it."""
    with output:
        while some := os.read(output.fileno(), 1 << 12):
            written += some
            del written[:-KEPT_BYTES]


def _end(process: subprocess.Popen[bytes], descriptors: tuple[int, ...]) -> None:
    """End a child and all that it started: one that waits for a request ends by itself, any other is killed."""
    with suppress(OSError):
        os.write(descriptors[0], b"".join(program.pack_frame({"ask": "bye"})))
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
    with suppress(subprocess.TimeoutExpired):
        process.wait(BYE_WITHIN_S)
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDS_WITHIN_S)
