"""Nothing that is read runs: weights, arrays and settings come without code, packages with their digests."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

SOURCES = [path for folder in ("twinlens", "stages", "tools", "benchmarks") for path in Path(folder).rglob("*.py")]
OWN_WIRE = {
    Path("twinlens/engines/actor.py"),  # what a driver sends to workers of its own cluster, which Ray pickles too
    Path("twinlens/core/spool.py"),  # rows that a process writes into a file without a name, which no other can open
}
RUNS_CODE = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
LOADERS = {"load", "load_all", "unsafe_load", "full_load", "unsafe_load_all", "full_load_all"}


def calls(path: Path) -> Iterator[tuple[str, dict[str, str], int]]:
    """Dotted name, keywords and line of each call."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            named = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
            yield ast.unparse(node.func), named, node.lineno


def test_weights_and_arrays_are_read_as_numbers_only_and_it_is_said_where() -> None:
    wrong = []
    for path in SOURCES:
        for name, words, line in calls(path):
            weights = name == "torch.load" and words.get("weights_only") != "True"
            told = words.get("allow_pickle", "False" if path.parts[:2] == ("twinlens", "models") else "")
            arrays = name in ("np.load", "numpy.load") and told != "False"
            if weights or arrays or name in ("eval", "exec", "torch.hub.load", "torch.package.PackageImporter"):
                wrong.append(f"{path}:{line}: {name}")
    assert not wrong


def test_nothing_unpickles() -> None:
    wrong = []
    for path in set(SOURCES) - OWN_WIRE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wrong += [f"{path}: {alias.name}" for alias in node.names if alias.name.split(".")[0] in RUNS_CODE]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in RUNS_CODE:
                wrong += [f"{path}: {alias.name}" for alias in node.names if alias.name != "UnpicklingError"]
    assert not wrong


def test_yaml_is_read_by_loaders_that_make_no_objects() -> None:
    loads = [
        (path.as_posix(), name, words)
        for path in SOURCES
        for name, words, _ in calls(path)
        if name.startswith("yaml.") and name.split(".")[1] in LOADERS
    ]
    assert {path for path, *_ in loads} <= {"twinlens/config/yaml_file.py", "twinlens/apps/commands/completion.py"}
    assert {name for _, name, _ in loads} == {"yaml.load"}
    for path, *_ in loads:
        assert "SafeLoader" in Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("library", "since"),
    [
        ("torch", "2.6"),  # takes `weights_only=True` for granted wherever a library says nothing, and means it
        ("numpy", "1.16.3"),  # takes `allow_pickle=False` for granted
        ("pyarrow", "14.0.1"),  # CVE-2023-47248
        ("pyyaml", "5.4"),  # CVE-2020-14343
    ],
)
def test_the_oldest_release_that_may_be_installed_reads_without_code(library: str, since: str) -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = next(one for one in map(Requirement, project["dependencies"]) if one.name == library)
    oldest = min(Version(one.version) for one in named.specifier if one.operator == ">=")
    assert oldest >= Version(since)


def test_every_pin_has_the_digests_of_its_files_and_no_address() -> None:
    text = Path("requirements.txt").read_text(encoding="utf-8")
    pins = re.split(r"\n(?=\S)", text.strip())
    assert len(pins) > 100
    for pin in pins:
        assert re.match(r"[\w.-]+==\S+", pin), pin[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", pin), pin[:80]
    assert "://" not in text
    assert "--require-hashes" in Path("Makefile").read_text(encoding="utf-8")
