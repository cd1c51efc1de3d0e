"""A light install: what an extra brings is missed in a sentence that names it, and by nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.workspace import ROOT
from tools import offline_plots
from twinlens.apps.web import server
from twinlens.config.params import ApproximateParams
from twinlens.core import buckets
from twinlens.core.buckets import Bucket
from twinlens.core.errors import ExtraError, require_extra
from twinlens.retrieval import approximate

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
FOR_USE = ("ann", "plots", "ray", "s3", "serve")
LIBRARIES = ("lancedb", "ray", "s3fs", "starlette", "uvicorn", "vl_convert")
NEEDS = re.compile(r"require_extra\(\"(\w+)\"")
PAGE = ("bodies", "connections", "guard", "page", "routes", "turns", "visitors")  # of serving: what carries the page


def measure() -> None:
    approximate.measure_settings(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), params())


def params() -> ApproximateParams:
    return ApproximateParams.model_validate({"k": 1, "queries": 1, "settings": {}})


def open_bucket() -> Bucket:
    buckets._find_class.cache_clear()
    return Bucket("s3://photos/x")


USES: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "the page": ("serve", "uvicorn", lambda: server.serve("127.0.0.1", 0)),
    "the stage approximate": ("ann", "lancedb", measure),
    "a bucket": ("s3", "s3fs", open_bucket),
    "plots without a network": ("plots", "vl_convert", offline_plots.main),
}


@pytest.mark.parametrize("use", USES)
def test_what_is_not_installed_is_missed_in_a_sentence_that_names_the_extra(
    use: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    extra, library, call = USES[use]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExtraError, match=rf"needs the library '{library}\b.*: pip install 'twinlens\[{extra}\]'$"):
        call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("library", "call"),
    [
        ("uvicorn", "from twinlens.apps.cli import main; main(['serve'])"),
        ("starlette", "from twinlens.apps.web import server; server.make_server_application(None, 'localhost')"),
    ],
)
def test_a_page_that_nothing_can_carry_says_so(library: str, call: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules['{library}'] = None; {call}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, check=False,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    told = f"the search page needs the library '{library}', which is not installed: pip install 'twinlens[serve]'\n"
    assert done.stderr.endswith(told)
    if library == "uvicorn":
        assert (done.returncode, done.stderr) == (2, f"twinlens: {told}")


def test_a_module_of_ours_that_is_missing_is_a_defect_and_no_extra() -> None:
    with pytest.raises(ModuleNotFoundError), require_extra("serve", "a test"):
        import_module("twinlens.no_such_module")


def test_every_extra_that_is_asked_for_exists_and_setup_installs_all() -> None:
    files = [file for folder in ("twinlens", "stages", "tools") for file in (ROOT / folder).rglob("*.py")]
    asked = {name for file in files for name in NEEDS.findall(file.read_text(encoding="utf-8"))}
    assert asked == set(FOR_USE)
    assert asked <= set(EXTRAS)
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for one in (Requirement(line) for extra in FOR_USE for line in EXTRAS[extra]):
        assert re.search(rf"(?m)^{re.escape(one.name)}==", pinned), f"make requirements: {one.name} has no pin"


def test_what_the_core_depends_on_brings_nothing_of_the_extras() -> None:
    seen: set[str] = set()
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in seen or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        waiting += [Requirement(line) for line in metadata.requires(name) or ()]
    assert {"torch", "open-clip-torch", "dvc"} <= seen
    brought = {canonicalize_name(Requirement(line).name) for extra in FOR_USE for line in EXTRAS[extra]}
    assert not (brought - {"anyio"}) & seen  # huggingface-hub brings anyio anyway


def test_help_and_the_package_load_none_of_what_takes_long() -> None:
    code = (
        "import sys, twinlens; from twinlens.apps.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "print({'torch', 'lancedb', 'starlette', 'uvicorn', 'numpy', 'polars', 'pyarrow', 'dvc'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
def test_without_the_extras_everything_else_can_be_imported() -> None:
    files = [file for folder in ("twinlens", "stages", "tools") for file in (ROOT / folder).rglob("*.py")]
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.stem[:2] != "__"]
    core = [name for name in modules if not name.startswith("twinlens.apps.web.") or name.split(".")[-1] not in PAGE]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({LIBRARIES}))\n"
        f"from importlib import import_module\nfor name in {sorted(core)}:\n    import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
