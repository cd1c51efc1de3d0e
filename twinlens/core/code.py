"""The project's own code as part of a key: which modules decide a result, found by their imports.

A finished part is found again by a key of everything that decides it, code included. Which code that is, nobody keeps
a list of: it is the modules that make the part, and whatever of the project they import, at any depth. Left out is
what moves bytes, reports or describes, but decides nothing (`decides`); and of the rest, what no result depends on:
comments, docstrings, the words of errors and of the log. So an error can be said better without training anew.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from twinlens.core.scratch import digest

PACKAGE = Path(__file__).parents[1]
# The rooms that decide nothing: settings reach a key by their values, and plumbing carries what others decided.
PLUMBING = ("config", "core", "engines")
DECIDING = ("core/device.py", "core/probes.py", "core/shards.py", "core/vectors.py")  # but for numbers and formats


def decides(file: Path) -> bool:
    """Whether a file of the package, relative to its root, can decide a result."""
    return file.as_posix() in DECIDING or file.parts[0] not in PLUMBING


def list_imports(source: str) -> set[str]:
    """List the dotted names that a module imports, at any depth; for a name from a module both are given."""
    return set(_imports(source))


def find_reachable(*modules: str, root: Path = PACKAGE) -> set[Path]:
    """Find the package's files that some modules import, directly or not, themselves and their packages included.

    The package's own `__init__.py` is left out: it hands over names that live elsewhere.

    Args:
        modules: dotted names, as `twinlens.images.resize`.
        root: the package's folder.

    Returns:
        Paths relative to `root`.

    Raises:
        ModuleNotFoundError: there is no module of such a name.
    """
    seen: set[Path] = set()
    waiting = [*modules]
    if missing := [module for module in modules if _file(module.split("."), root) is None]:
        raise ModuleNotFoundError(f"{missing[0]} is no module of {root}")
    while waiting:
        for file in _files(waiting.pop(), root):
            if file not in seen:
                seen.add(file)
                waiting += list_imports((root / file).read_text(encoding="utf-8"))
    return seen


def code_digest(*modules: str, root: Path = PACKAGE) -> str:
    """Digest the code that decides what some modules make; raises as `find_reachable` does."""
    files = sorted(file for file in find_reachable(*modules, root=root) if decides(file))
    outlines = (outline((root / file).read_text(encoding="utf-8")) for file in files)
    return digest(text for pair in zip(map(Path.as_posix, files), outlines, strict=True) for text in pair)


@lru_cache(maxsize=512)
def outline(source: str) -> str:
    """Reduce a module to what it does, as text: without comments, docstrings, and the words of errors and the log.

    The same for every version of Python that reads the same syntax: `ast.dump` and `ast.unparse` are not.
    """
    return json.dumps(_outline(_Wordless().visit(ast.parse(source))), separators=(",", ":"))


class _Wordless(ast.NodeTransformer):
    """Takes out what is said to people."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Docstrings and other bare text, and calls of the log."""
        called = node.value.func if isinstance(node.value, ast.Call) else None
        told = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "log"
        bare = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if told or bare else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """An error's kind stays, its words go."""
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """The same."""
        node.msg = None
        return self.generic_visit(node)


def _outline(node: object) -> object:
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return [type(node).__name__, *(item for name, value in fields for item in (name, _outline(value)))]
    return [_outline(item) for item in node] if isinstance(node, list) else repr(node)


@lru_cache(maxsize=512)  # several digests a run go through the same modules
def _imports(source: str) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def _files(module: str, root: Path) -> Iterator[Path]:
    """The file behind a dotted name, and those of the packages around it; none where the name is another's."""
    parts = module.split(".")
    found = (_file(parts[:end], root) for end in range(2, len(parts) + 1))
    return (file for file in found if file is not None)


def _file(parts: list[str], root: Path) -> Path | None:
    if parts[0] != root.name or len(parts) < 2:
        return None
    base = Path(*parts[1:])
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if (root / file).is_file()), None)
