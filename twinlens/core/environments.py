"""Python environments of exact versions, made by `uv`, or by `venv` and pip where there is no uv, and kept.

Only wheels are installed, so that making an environment runs no code of its packages. An environment lies under a
digest of what was asked for, and has a note of all that is in it, written last: without the note it is made anew.
Whenever one is made, those go that no run has used for `KEEP_DAYS`: of cards of old, and halves of killed runs.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from twinlens.core import paths
from twinlens.core.download import is_offline, only_one
from twinlens.core.errors import FetchError
from twinlens.core.resources import name_disk_fault
from twinlens.core.scratch import fingerprint

log = logging.getLogger("twinlens")

WHEELS = "TWINLENS_WHEELS"  # a folder of wheels
NOTE = "twinlens.json"
KEEP_DAYS = 90.0
INHERITED = "twinlens-inherits.pth"
NO_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
SAID_LINES, SAID_CHARACTERS = 5, 500  # of an installer's error
DESCRIBE = """
import importlib.metadata as metadata, json, platform, sysconfig
folder = sysconfig.get_path("purelib")
found = {one.metadata["Name"]: one.version for one in metadata.distributions(path=[folder])}
print(json.dumps({"folder": folder, "python": platform.python_version(), "installed": dict(sorted(found.items()))}))
"""


@dataclass(frozen=True)
class MadeEnvironment:
    """An environment that is there.

    Attributes:
        python: path of its interpreter.
        digest: of what was asked for.
        version: of Python.
        installed: versions of all packages in it by name, without those that are inherited.
    """

    python: Path
    digest: str
    version: str
    installed: dict[str, str]


def make_environment(
    packages: Sequence[str], python: str | None = None, inherits: bool = False, wheels: Path | None = None
) -> MadeEnvironment:
    """Make an environment, or find it made.

    Args:
        packages: `name==version` each.
        python: version of Python, such as 3.11; the running one's if absent.
        inherits: whether what is not named is taken from the running environment.
        wheels: a folder of wheels that is looked through before the registry; that of TWINLENS_WHEELS if absent.

    Raises:
        FetchError: it cannot be made: offline, without such a Python, or the installer refuses.
        ResourceError: the disk is full.
    """
    above = sysconfig.get_path("purelib") if inherits else None
    system = [platform.system(), platform.machine(), python or platform.python_version(), above]
    digest = fingerprint(packages=sorted(packages), system=system)
    folder = paths.environments() / digest
    if (found := _find(folder, digest)) is not None:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    with only_one(folder.with_name(f".{digest}.lock"), "making"):
        if (found := _find(folder, digest)) is not None:
            return found
        given = _find_wheels(wheels)
        if is_offline() and packages and given is None:
            raise FetchError(_tell_offline(packages, python, folder))
        log.info("making an environment of %s in %s", ", ".join(packages) or "what is here", folder)
        shutil.rmtree(folder, ignore_errors=True)
        with name_disk_fault(folder):
            _make(folder, packages, python, given)
            note = json.loads(_run([str(_interpreter(folder)), "-I", "-c", DESCRIBE], "describing"))
            if above is not None:
                (Path(note["folder"]) / INHERITED).write_text(f"{above}\n", encoding="utf-8")
            made = MadeEnvironment(_interpreter(folder), digest, note["python"], note["installed"])
            part = folder / f"{NOTE}.part"
            part.write_text(json.dumps(asdict(made) | {"python": None}, indent=2), encoding="utf-8")
            part.replace(folder / NOTE)
    for gone in prune_environments():
        log.info("removed the environment %s, which no run has used for %d days", gone.name, KEEP_DAYS)
    return made


def prune_environments(keep_days: float = KEEP_DAYS) -> list[Path]:
    """Remove environments that no run has used for `keep_days`; returns their folders."""
    oldest = time.time() - keep_days * 86_400
    stale = []
    for folder in paths.environments().glob("*/"):
        note = folder / NOTE
        with suppress(FileNotFoundError):  # another run was faster
            # the time of any change: also of a copy, whose files keep the time at which they were written
            if (note if note.exists() else folder).stat().st_ctime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
                stale.append(folder)
    return stale


def _find(folder: Path, digest: str) -> MadeEnvironment | None:
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        found = MadeEnvironment(_interpreter(folder), digest, note["version"], note["installed"])
    except (OSError, ValueError, KeyError):
        return None
    with suppress(OSError):  # of a folder that is only read, which nobody prunes
        os.utime(folder / NOTE)  # it is in use
    return found if found.python.exists() else None  # the Python that it is a link to may have been removed


def _interpreter(folder: Path) -> Path:
    return folder / "bin" / "python"


def _find_wheels(named: Path | None) -> Path | None:
    own = os.environ.get(WHEELS)
    folder = named or (Path(own).expanduser() if own else None)
    if folder is not None and not folder.is_dir():
        raise FetchError(f"{folder}, named as a folder of wheels, is not there")
    return None if folder is None else folder.absolute()


def _make(folder: Path, packages: Sequence[str], python: str | None, wheels: Path | None) -> None:
    uv = _find_uv()
    sources = [] if wheels is None else ["--find-links", str(wheels)]
    if is_offline():
        sources.append("--no-index")
    if uv is not None:
        offline = ["--offline"] if is_offline() else []
        _run([uv, "venv", "--no-project", *offline, "--python", python or sys.executable, str(folder)], "making")
        if packages:
            target = ["--python", str(_interpreter(folder)), "--only-binary", ":all:"]
            _run([uv, "pip", "install", *offline, *target, *sources, *packages], "installing")
        return
    interpreter = sys.executable if python is None else shutil.which(f"python{python}")
    if interpreter is None:
        raise FetchError(f"there is no python{python} here, which the environment wants: install it, or uv, which can")
    _run([interpreter, "-m", "venv", str(folder)], "making")
    if packages:
        quiet = ["--disable-pip-version-check", "--no-input", "--quiet", "--only-binary", ":all:"]
        _run([str(_interpreter(folder)), "-m", "pip", "install", *quiet, *sources, *packages], "installing")


def _find_uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def _run(command: list[str], doing: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name not in NO_PYTHON}
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = [line.strip() for line in (ran.stderr or ran.stdout).splitlines() if line.strip()]
        said = " ".join(lines[-SAID_LINES:])[-SAID_CHARACTERS:]
        raise FetchError(
            f"{doing} the environment failed: {said}. See that the versions exist for this Python and system as "
            f"wheels; those that the registry lacks can lie in a folder named in {WHEELS}, or `wheels` on the card"
        )
    return ran.stdout


def _tell_offline(packages: Sequence[str], python: str | None, folder: Path) -> str:
    wanted = ".".join((python or platform.python_version()).split(".")[:2])
    return (
        f"offline, and the environment of {', '.join(packages)} is not made. Where there is a network and the same "
        f"system, run `python{wanted} -m pip download --only-binary :all: -d wheels {' '.join(packages)}`, copy that "
        f"folder here, and name it in {WHEELS} or as `environment.wheels` on the card; or make it there and copy it "
        f"to {folder}"
    )
