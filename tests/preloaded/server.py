"""Loads libraries, then forks a process for each client; a script, so that nothing of the project is loaded."""

import atexit
import gc
import json
import multiprocessing.process
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

# Not those that start threads of their own when they are imported, as polars and lancedb do.
LIBRARIES = (
    "dvc.cli.parser",
    "dvc.repo.experiments",
    "dvc.repo.reproduce",
    "dvc.stage",
    "jinja2",
    "msgspec",
    "open_clip",
    "PIL.Image",
    "pyarrow.parquet",
    "pydantic",
    "requests",
    "safetensors.torch",
    "scmrepo.git",
    "scipy.optimize",
    "scipy.stats",
    "sentence_transformers",
    "simplejpeg",
    "snowballstemmer",
    "timm",
    "tokenizers",
    "torch",
    "torchmetrics.functional",
    "torchvision",
    "transformers.models.blip.modeling_blip",
    "typer",
    "yaml",
)

OF_JEMALLOC = {"jemalloc_bg_thd"}  # pyarrow's, which sees to forks itself
ME = str(os.getpid())


def serve(address: str) -> dict[str, Any]:
    """Answer clients until standard input is closed; returns only in a process for a client, with what it asked."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for processes
    awaited: list[Any] = [listening, 0]
    while True:
        ready, _, _ = select.select(awaited, [], [])
        if 0 in ready:
            os._exit(0)
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return answer(connection)
        connection.close()


def answer(connection: socket.socket) -> dict[str, Any]:
    """Start the process that a client asks for, and tell the client how it ended; end it if the client does."""
    received, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not received.endswith(b"\n"):
        received += connection.recv(1 << 20)
    asked: dict[str, Any] = json.loads(received)
    process = os.fork()
    if process == 0:
        connection.close()
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        return asked
    for file in files:
        os.close(file)
    ended = os.pidfd_open(process)
    awaited: list[Any] = [ended, connection]
    ready, _, _ = select.select(awaited, [], [])
    if ended not in ready:  # the client was killed
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with suppress(OSError):
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def run(asked: dict[str, Any]) -> int:
    """Be `python -m`, in the folder and with the variables that were asked for; returns how it ended."""
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["variables"])
    multiprocessing.process.ORIGINAL_DIR = asked["folder"]  # type: ignore[attr-defined]
    sys.path[:0] = [asked["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = asked["arguments"]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end(status: int) -> None:
    """End as python does, but for taking all that was loaded apart, which takes longer than many a stage."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    del sys.path[0]  # this folder
    for library in LIBRARIES:
        with suppress(ModuleNotFoundError):  # some are extras
            import_module(library)
    names = {(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir() if thread.name != ME}
    assert names <= OF_JEMALLOC, f"libraries have started threads, which a fork has not: {names}"
    gc.collect()
    gc.freeze()  # what is never looked at again is never copied
    end(run(serve(sys.argv[1])))
