"""The dvc that started a stage: when it is killed, the stage ends, and publishes nothing.

Otherwise the stage would go on without it, and in the end replace what a later dvc, with other parameters, has made in
the meantime. A stage that a person starts, in a terminal or with `nohup`, has no dvc above it and is left alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from threading import Thread

from twinlens.core.errors import TwinLensError

STARTED_BY_DVC = "DVC_STAGE"  # dvc sets it for each command that it runs
COMMAND = "-m stages."  # stands in the command of a shell between dvc and the stage, and not in dvc's own
LOOKS_EVERY_S = 0.5
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_chain: list[int] = []  # this process, its parent, and so on up to dvc; empty where no dvc started it


class OrphanError(TwinLensError):
    """The dvc that started this process has gone."""

    def __init__(self) -> None:
        super().__init__(
            "the dvc that started this stage was killed: nothing is published, so that nothing newer is overwritten; "
            "finished parts are kept, `dvc repro` goes on from there"
        )


def end_with_dvc(parent: int) -> None:
    """Make this process end when the dvc that started it does; nothing where no dvc did.

    A thread looks at the parents twice a second. On Linux the kernel also ends this process with its own parent, as
    a thread is not heard while a library works without letting go of the interpreter.

    Args:
        parent: the process that started this one, as it was when this one began.

    Raises:
        OrphanError: dvc has gone already.
    """
    if STARTED_BY_DVC not in os.environ:
        return
    _chain[:] = [os.getpid(), *_list_above(parent)]
    if not _shares_session(_chain[-1]):
        raise OrphanError
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a system without it has the thread
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    refuse_orphan()  # it may have gone before all this
    Thread(target=_watch, name="parent", daemon=True).start()


def refuse_orphan() -> None:
    """Refuse to go on where the dvc that started this process has gone.

    Raises:
        OrphanError: it has.
    """
    mine = os.getpid()
    if _chain[:1] != [mine]:  # also in a fork of the stage's, which ends with the stage
        return
    if any((os.getppid() if child == mine else _look(child)[0]) != parent for child, parent in pairwise(_chain)):
        raise OrphanError


def is_running(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _list_above(parent: int) -> list[int]:
    """List the parent and those above it, up to the first that is no shell around this command."""
    above = [parent]
    while COMMAND in (found := _look(above[-1]))[1] and found[0] > 0:
        above.append(found[0])
    return above


def _shares_session(process: int) -> bool:
    """Whether a process is of this one's session, as dvc is; what takes in the orphans of a killed dvc is not."""
    try:
        return os.getsid(process) == os.getsid(0)
    except ProcessLookupError:
        return False
    except OSError:  # nobody may ask
        return True


def _look(process: int) -> tuple[int, str]:
    """Look up the parent and the command of a process; 0 and nothing where it has gone."""
    folder = Path("/proc") / str(process)
    try:
        if Path("/proc/self/stat").exists():
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            return int(stat.rpartition(")")[2].split()[1]), command  # the name in brackets may hold anything
        asked = ["ps", "-o", "ppid=,command=", "-p", str(process)]  # macOS
        found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        parent, _, command = found.partition(" ")
        return int(parent or 0), command
    except (OSError, ValueError):
        return 0, ""


def _watch() -> None:
    while True:
        time.sleep(LOOKS_EVERY_S)
        try:
            refuse_orphan()
        except OrphanError as error:
            with suppress(OSError, ValueError):  # nobody may be there to read it
                sys.stderr.write(f"{error}\n")
                sys.stderr.flush()
            os._exit(1)  # a library may be at work in the main thread
