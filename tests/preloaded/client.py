"""Stands in for `python -m`: asks the server for a process, and ends as it does. Anything else is python's own."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path


def connect(address: str, server: int) -> socket.socket | None:
    """The server, once it has loaded its libraries; None where it could not, and has ended."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
            return connection
        except OSError:
            connection.close()
            if not is_running(server):
                return None
            time.sleep(0.05)


def is_running(process: int) -> bool:
    """Whether it is there, and not only waited for."""
    command = Path(f"/proc/{process}/cmdline")
    return command.exists() and command.read_bytes() != b""


def main(address: str, server: int, python: str, arguments: list[str]) -> None:
    """Hand over what a process has from who starts it."""
    if arguments[:1] != ["-m"]:
        os.execv(python, [python, *arguments])
    connection = connect(address, server)
    if connection is None:  # as with libraries that start threads on this machine: then slowly
        os.execv(python, [python, *arguments])
    asked = {"arguments": arguments[1:], "folder": str(Path.cwd()), "variables": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
    answer = connection.makefile("rb").readline()
    status = int(answer) if answer else 1
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
