"""How the page ends: soon, whatever it is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.web.conftest import address, keep_busy, started
from tests.workspace import ROOT
from twinlens.apps.web.watchdog import INTERRUPTED

pytestmark = pytest.mark.slow

ENDS_WITHIN_S = 60.0  # five are promised, to a page that has its processor; what does not end goes on for ten minutes
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def seconds(process: subprocess.Popen[bytes], number: signal.Signals) -> float:
    """How long a process goes on after a signal."""
    begun = time.monotonic()
    process.send_signal(number)
    process.wait(2 * ENDS_WITHIN_S)
    return time.monotonic() - begun


@pytest.fixture
def running(built: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = started(built, tmp_path, tmp_path / "log.txt")
    yield process
    process.kill()
    process.wait(60)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_page_ends_while_it_opens_pictures_and_waits_for_more(
    running: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    connections = keep_busy(address(running, tmp_path / "log.txt"), 12)
    time.sleep(0.5)  # the first are being opened
    assert seconds(running, number) < ENDS_WITHIN_S
    assert running.returncode == 0
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
    for connection in connections:
        connection.close()


@pytest.mark.parametrize(("number", "after_s"), [(signal.SIGINT, 0.3), (signal.SIGTERM, 0.3), (signal.SIGINT, 1.5)])
def test_the_page_ends_while_it_starts(
    running: subprocess.Popen[bytes], number: signal.Signals, after_s: float
) -> None:
    time.sleep(after_s)  # wherever it is by then
    assert seconds(running, number) < ENDS_WITHIN_S


def test_the_page_ends_once_it_is_there(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    address(running, tmp_path / "log.txt")
    assert seconds(running, signal.SIGTERM) < ENDS_WITHIN_S


STUCK = """
import sys, time
from threading import Thread
from twinlens.apps.web.watchdog import watch_signals

def begun():
    print("begun", flush=True)

with watch_signals():
    {stuck}
"""


IN = (
    # a library that looks at no signal
    "import hashlib; begun(); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    # a thread that the interpreter waits for
    "Thread(target=time.sleep, args=(600,)).start(); begun(); time.sleep(600)",
    # somebody who takes it away
    "exec('while True:\\n try: begun(); time.sleep(600)\\n except KeyboardInterrupt: pass')",
)


def test_what_does_not_come_back_is_not_waited_for(tmp_path: Path) -> None:
    processes = []
    for number, stuck in enumerate(IN):  # together, as each is given five seconds
        script = tmp_path / f"stuck{number}.py"
        script.write_text(STUCK.format(stuck=stuck))
        command = [sys.executable, str(script)]
        processes.append(subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE))
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
    time.sleep(1)  # they are in there by then, where it cannot tell
    begun = time.monotonic()
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        process.wait(2 * ENDS_WITHIN_S)
        assert time.monotonic() - begun < ENDS_WITHIN_S
        assert process.stdout is not None
        process.stdout.close()
    assert [process.returncode for process in processes] == [INTERRUPTED] * len(IN)  # nobody else ended them


def test_nothing_is_left_of_the_watchdog_where_no_signal_came() -> None:
    check = """
import signal, threading
from twinlens.apps.web.watchdog import watch_signals
before = signal.getsignal(signal.SIGTERM)
with watch_signals():
    (dog,) = [thread for thread in threading.enumerate() if thread.name == "watchdog"]
dog.join(300)
assert not dog.is_alive()
assert signal.getsignal(signal.SIGTERM) == before
assert signal.set_wakeup_fd(-1) == -1
"""
    subprocess.run([sys.executable, "-c", check], env={"PYTHONPATH": str(ROOT)}, check=True, timeout=600)
