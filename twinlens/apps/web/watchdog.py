"""Shutdown of the page on a signal, whatever its threads are doing."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

ENDS_WITHIN_S = 4.0
ASKED_TO_END = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130  # as shells count it: 128 and the number of SIGINT


@contextmanager
def watch_signals() -> Iterator[None]:
    """Watch for signals: inside, SIGTERM acts as Ctrl-C, and after either the process ends within seconds.

    Python's handlers run between two steps of its main thread. Where that is in a library that does not come back,
    or ends and waits for a thread, they do nothing; so a thread hears of the signal too and counts the seconds. It
    goes on counting after the block, until the interpreter has ended.
    """
    hears, tells = socket.socketpair()
    tells.setblocking(False)
    terminating = signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    Thread(target=_watch, args=(hears,), name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGTERM, terminating)
        tells.close()  # where no signal came, the thread ends


def _watch(hears: socket.socket) -> None:
    with hears:
        while number := hears.recv(1):
            if number[0] in ASKED_TO_END:
                time.sleep(ENDS_WITHIN_S)
                exit_now(INTERRUPTED)


def exit_now(code: int) -> None:
    """End now: a thread that still decodes a picture would hold up the interpreter's end.

    Args:
        code: of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed at the other end, or here
            stream.flush()
    os._exit(code)
