"""A `python` and a `dvc` for clones of the project, which begin with their libraries loaded.

A stage over a few hundred pictures loads torch and what stands on it for longer than it computes, and tests run stages
by the hundred. So a server (one to each process of the tests) loads those libraries once, and no module of the project,
and forks a process for each command; a small client stands in for them, hands over its arguments, folder, variables
and open files, and ends as that process does. Every stage still is a process of its own that imports the project's code
from the clone that it runs in. Only Linux has it: elsewhere a library may not live through a fork.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
AT_IMPORT = {  # what a library reads when it is imported, as `stages` sets it
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "OMP_NUM_THREADS": "1",  # threads that are there already do not live through a fork
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # nor does a GPU that has been asked anything
}


@cache
def start_server() -> Path | None:
    """Start the server of this process; returns the folder of its `python`, None where there can be none."""
    if sys.platform != "linux":
        return None
    folder = tempfile.TemporaryDirectory(prefix="twinlens-")
    home = Path(folder.name)
    (home / "bin").mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (home / "log.txt").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, str(FOLDER / "server.py"), str(home / "socket")],
            env=variables | AT_IMPORT,
            stdin=subprocess.PIPE,  # closed when this process ends, however it does
            stdout=log,
            stderr=log,
        )
    assert server.stdin is not None
    client = f'"{sys.executable}" -IS "{FOLDER / "client.py"}" "{home / "socket"}" {server.pid} "{sys.executable}"'
    for name, arguments in (("python", ""), ("dvc", "-m dvc ")):
        script = home / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {client} {arguments}"$@"\n', encoding="utf-8")
        script.chmod(0o755)
    atexit.register(folder.cleanup)
    atexit.register(server.wait)
    atexit.register(server.stdin.close)  # the last that is registered is the first that is called
    return home / "bin"
