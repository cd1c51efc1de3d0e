"""A child process answers, or ends in one clear message; it gets no secret, and outlives nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twinlens.core.errors import DataError, ResourceError
from twinlens.core.parent import is_running
from twinlens.models.child import program
from twinlens.models.child.process import Child, DeviceMemoryError, describe_end, filter_variables

PYTHON = Path(sys.executable)
PATIENCE_S = 60.0
STAND_IN = f"""
import importlib.util, os, signal, subprocess, sys, time
spec = importlib.util.spec_from_file_location("program", {program.__file__!r})
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)

class OutOfMemoryError(RuntimeError):
    pass

class Server:
    def echo(self, message, array):
        print("printed by the model")
        return {{"text": message["text"], "variables": dict(os.environ), "path": sys.path}}, array
    def crash(self, message, array):
        print("reading the kernel", file=sys.stderr)
        print("\\x1b[31mkernel not found\\x1b[0m", file=sys.stderr, flush=True)
        os._exit(3)
    def signal(self, message, array):
        os.kill(os.getpid(), message["signal"])
    def hang(self, message, array):
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        print("started", other.pid, flush=True)
        time.sleep(1000)
    def memory(self, message, array):
        bytearray(1 << 60)
    def device(self, message, array):
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    def library(self, message, array):
        from os import a_function_that_was_removed
    def fail(self, message, array):
        raise ValueError("no such picture")
    def garbage(self, message, array):
        os.write(int(sys.argv[2]), message["text"].encode())
        time.sleep(1000)
    def half(self, message, array):
        os.write(int(sys.argv[2]), program.HEAD.pack(20, 0) + b'{{"so')
        os._exit(0)
    def wide(self, message, array):
        import numpy
        return {{}}, numpy.zeros((2, 2), numpy.float64)
program.Server = Server
program.main()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN, encoding="utf-8")
    return path


@pytest.fixture
def child(stand_in: Path) -> Iterator[Child]:
    started = Child(PYTHON, "someone/tiny", stand_in)
    yield started
    started.close()


def ask(child: Child, what: str, limit_s: float = PATIENCE_S, **more: Any) -> tuple[dict[str, Any], Any]:
    return child.ask({"ask": what, **more}, "encoded 2 texts", limit_s)


def wait_for(event: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not event():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_sent_comes_back_and_prints_disturb_nobody(child: Child) -> None:
    large = np.random.default_rng(0).random((300, 1000), dtype=np.float32)  # more than a pipe holds at once
    for array in (large, np.zeros((0, 4), dtype=np.float32)):
        answer, found = child.ask({"ask": "echo", "text": "café \ud83d \N{DOG FACE}"}, "echoed", PATIENCE_S, array)
        assert answer["text"] == "café \ud83d \N{DOG FACE}"
        assert found.dtype == np.float32 and np.array_equal(found, array)


def test_it_gets_no_secret_and_no_network_of_the_hub(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "CUDA_API_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy")
    monkeypatch.setenv("PYTHONPATH", "/secret")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    started = Child(PYTHON, "someone/tiny", stand_in)
    answer, _ = ask(started, "echo", text="")
    started.close()
    assert "secret" not in str(answer["variables"].values())
    assert answer["variables"]["HF_HUB_OFFLINE"] == "1"
    assert answer["variables"]["HF_HOME"] == "/somewhere"
    assert "/secret" not in answer["path"] and str(stand_in.parent) not in answer["path"]
    assert filter_variables({"PATH": "/bin", "OTHER": "1", "OMP_NUM_THREADS": "2"}).keys() >= {
        "PATH",
        "OMP_NUM_THREADS",
    }
    assert "OTHER" not in filter_variables({"OTHER": "1"})


@pytest.mark.parametrize(
    ("what", "more", "kind", "said"),
    [
        ("crash", {}, DataError, r"someone/tiny: its process ended with exit code 3 while it encoded 2 texts: the code "
         r"that the model brings crashed\. It wrote last: reading the kernel \| kernel not found$"),
        ("signal", {"signal": 11}, DataError, r"was ended by signal 11 \(SIGSEGV\) while it encoded 2 texts"),
        ("signal", {"signal": 15}, DataError, r"was ended by signal 15 \(SIGTERM\)"),
        ("signal", {"signal": 9}, ResourceError, r"signal 9 \(SIGKILL\) .* where memory runs out: make batches"),
        ("half", {}, DataError, r"ended with exit code 0 while it encoded 2 texts"),
        ("garbage", {"text": "\x00" * 11 + "\x7f"}, DataError, "answers something that is no answer"),
        ("wide", {}, DataError, r"answers something that is no answer \(float64\)"),
    ],
)  # fmt: skip
def test_an_end_is_one_clear_message(
    what: str, more: dict[str, Any], kind: type[Exception], said: str, child: Child
) -> None:
    with pytest.raises(kind, match=said):
        ask(child, what, **more)
    assert not is_running(child.pid)
    with pytest.raises(DataError, match="someone/tiny: its process has ended"):
        ask(child, "echo", text="")


def test_one_that_hangs_is_ended_with_all_that_it_started(child: Child) -> None:
    ask(child, "echo", text="")  # it has started
    with pytest.raises(DataError, match=r"gave no answer within 1 s while it encoded 2 texts.*raise `limits`") as told:
        ask(child, "hang", limit_s=1.0)
    assert not is_running(child.pid)
    other = int(str(told.value).rpartition("started ")[2].split()[0])
    wait_for(lambda: has_ended(other))


def has_ended(process: int) -> bool:
    """Whether a process has ended, reaped or not: whoever takes in orphans may be in no hurry."""
    try:
        return ") Z" in Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return not is_running(process)


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        ("memory", ResourceError, r"too little memory while it encoded 2 texts \(MemoryError\): make batches"),
        ("device", DeviceMemoryError, "CUDA out of memory"),
        ("library", DataError, r"does not run with the libraries of its environment .*a_function_that_was_removed.*"
         r"`environment\.packages`"),
        ("fail", DataError, r"failed while it encoded 2 texts: ValueError: no such picture\. It wrote last: .*line "),
    ],
)  # fmt: skip
def test_after_a_failure_it_goes_on(what: str, kind: type[Exception], said: str, child: Child) -> None:
    with pytest.raises(kind, match=said):
        ask(child, what)
    assert ask(child, "echo", text="on")[0]["text"] == "on"


def test_an_interpreter_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"someone/tiny: .*nobody does not start: No such file"):
        Child(tmp_path / "nobody", "someone/tiny")


def test_one_that_does_not_even_begin_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import a_library_that_is_not_there", encoding="utf-8")
    started = Child(PYTHON, "someone/tiny", path)
    with pytest.raises(DataError, match=r"exit code 1 .*No module named 'a_library_that_is_not_there'"):
        ask(started, "echo", text="")


def test_one_that_closed_its_pipe_is_told() -> None:
    assert "its process closed its pipe" in str(describe_end("a", None, "b", ""))


def test_it_ends_when_it_is_closed_or_forgotten(stand_in: Path) -> None:
    first, second = (Child(PYTHON, "someone/tiny", stand_in) for _ in range(2))
    for one in (first, second):
        ask(one, "echo", text="")
    pids = first.pid, second.pid
    first.close()
    del one, second
    assert not any(map(is_running, pids))


PARENT = """
import sys, threading, time
from pathlib import Path
from twinlens.models.child.process import Child
children = []
def start():
    children.append(Child(Path(sys.executable), "someone/tiny", Path(sys.argv[1])))
    children[-1].ask({"ask": "echo", "text": ""}, "echoed", 60)
if sys.argv[2] == "thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    children[-1].ask({"ask": "echo", "text": "the thread that started it has ended"}, "echoed", 60)
else:
    start()
print(children[-1].pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("by", ["main", "thread"])
def test_it_ends_when_its_parent_is_killed(by: str, stand_in: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(stand_in), by]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.send_signal(signal.SIGKILL)
        wait_for(lambda: has_ended(pid))


def test_two_threads_may_ask(child: Child) -> None:
    said: dict[int, str] = {}

    def talk(number: int) -> None:
        for _ in range(20):
            said[number] = ask(child, "echo", text=f"{number}")[0]["text"]

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: f"{number}" for number in range(4)}


def test_the_program_needs_nothing_of_ours() -> None:
    text = Path(program.__file__).read_text(encoding="utf-8")
    assert "twinlens" not in text
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", f"compile(open({program.__file__!r}).read(), 'program', 'exec')"]
    subprocess.run(command, env=variables, check=True)
