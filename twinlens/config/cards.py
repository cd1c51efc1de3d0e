"""Card files: `cards/<kind>/<name>.yaml`, read when they are asked for, with what `base:` names filled in.

`base: models/clip-scenes` on a card, or on a part of one, begins with all that stands there, and
`base: models/vgg16.image` with that part of it; what the card says itself goes over it, key by key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from twinlens.config.base import BASE
from twinlens.config.explain import explain_problems
from twinlens.config.yaml_file import compose_yaml, parse_yaml
from twinlens.core.errors import GO_TO_ROOT, ParamsError, suggest_nearest

KINDS = ("datasets", "models", "captioners")
ENDING = ".yaml"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")  # no dots: `base` and DVC split on them; no capitals: not every disk has both

Keys = tuple[Any, ...]
Origins = dict[Keys, tuple[str, Keys]]  # by keys of a filled-in card: the file, and the keys there
T = TypeVar("T")


class Library:
    """All files below `cards/` as they were at one moment. A file is named `<kind>/<name>`."""

    def __init__(self, folder: Path) -> None:
        """Read the files, without looking into them.

        Raises:
            ParamsError: there is no such folder.
        """
        if not folder.is_dir():
            raise ParamsError(f"{folder} is not here: {GO_TO_ROOT}; cards stand there, one a file")
        self.folder = folder
        self.texts = {
            f"{kind}/{file.name.removesuffix(ENDING)}": file.read_bytes()
            for kind in KINDS
            if (folder / kind).is_dir()
            for file in sorted((folder / kind).iterdir())
            if file.name.endswith(ENDING) and not file.name.startswith(".")
        }
        self._filled: dict[str, tuple[dict[str, Any], Origins]] = {}

    def path(self, file: str) -> Path:
        """Path of a file."""
        return self.folder / f"{file}{ENDING}"

    def names(self, kind: str) -> list[str]:
        """The cards of a kind, by name."""
        return [file.removeprefix(f"{kind}/") for file in self.texts if file.startswith(f"{kind}/")]

    def filled(self, file: str) -> dict[str, Any]:
        """Read a card, with the values of its bases filled in.

        Raises:
            ParamsError: it is empty or no YAML, or a base cannot be had.
        """
        return self._fill(file, ())[0]

    def where(self, file: str, keys: Keys) -> str:
        """Locate the file and line of keys of a filled-in card; the card's own file where they stand nowhere."""
        found = self._fill(file, ())[1].get(keys)
        if found is None:
            return str(self.path(file))
        line = self._line(*found)
        of = "" if found[0] == file else f" (a base of {self.path(file)})"
        return f"{self.path(found[0])}, line {line}{of}"

    def origin(self, file: str, keys: Keys) -> tuple[str, Keys]:
        """Find the file, and the keys there, in which keys of a filled-in card stand: its own, or those of a base.

        Raises:
            KeyError: they stand nowhere.
        """
        return self._fill(file, ())[1][keys]

    def list_misnamed(self) -> list[str]:
        """List what is wrong with the files' names, in words."""
        folders = [
            entry for entry in sorted(self.folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")
        ]
        unknown = [folder for folder in folders if folder.name not in KINDS]
        wrong = [f"{folder}: no such kind of card ({suggest_nearest(folder.name, KINDS)})" for folder in unknown]
        for folder in (folder for folder in folders if folder.name in KINDS):
            same: dict[str, list[str]] = {}  # but for capitals
            for file in sorted(folder.iterdir()):
                if file.name.startswith(".") or (file.is_file() and file.suffix.lower() not in (ENDING, ".yml")):
                    continue
                if file.is_dir() or file.suffix != ENDING:
                    wrong.append(f"{file}: a card is a file {folder}/<name>{ENDING}; rename it")
                else:
                    same.setdefault(file.stem.lower(), []).append(file.stem)
            for first, *others in same.values():
                path = folder / f"{first}{ENDING}"
                if others:
                    both = " and ".join(str(folder / f"{name}{ENDING}") for name in (first, *others))
                    wrong.append(f"{both} differ in case only, and on many disks are one file: rename one")
                elif not NAME.fullmatch(first):
                    wrong.append(f"{path}: '{first}' is not a usable name; lower-case letters, digits, - and _ only")
        return wrong

    def _fill(self, file: str, chain: tuple[str, ...]) -> tuple[dict[str, Any], Origins]:
        if file not in self._filled:
            content = parse_yaml(self.texts[file], self.path(file))
            if content is None:
                raise ParamsError(f"{self.path(file)} is empty: write the card, or remove the file")
            if not isinstance(content, dict):
                raise ParamsError(f"{self.path(file)} should hold keys and values, found {type(content).__name__}")
            self._filled[file] = self._part(content, file, (), (*chain, file))
        return self._filled[file]

    def _part(self, node: dict[str, Any], file: str, keys: Keys, chain: tuple[str, ...]) -> tuple[Any, Origins]:
        """A mapping of a file with what its base says; origins by keys that begin here."""
        merged: dict[str, Any] = {}
        origins: Origins = {}
        if BASE in node:
            merged, origins = self._base(node[BASE], file, (*keys, BASE), chain)
        for key, value in node.items():
            if key == BASE:
                continue
            origins[(key,)] = (file, (*keys, key))
            if not isinstance(value, dict):
                merged[key] = value
                continue
            part, below = self._part(value, file, (*keys, key), chain)
            if isinstance(merged.get(key), dict) and BASE not in value:
                _lay_over(merged[key], part)
            else:
                merged[key] = part
                origins = {path: at for path, at in origins.items() if path[0] != key or len(path) == 1}
            origins |= {(key, *rest): found for rest, found in below.items()}
        return merged, origins

    def _base(self, reference: Any, file: str, keys: Keys, chain: tuple[str, ...]) -> tuple[dict[str, Any], Origins]:
        """Read what a `base:` names.

        Raises:
            ParamsError: there is no such card or part, or it refers to itself.
        """
        here = f"{self.path(file)}, line {self._line(file, keys)}: {'.'.join(map(str, keys))}"
        if not isinstance(reference, str):
            raise ParamsError(
                f"{here} should name a card, such as `models/vgg16`, or a part of one, `models/vgg16.image`"
            )
        target, *parts = reference.split(".")
        if target not in self.texts:
            kind = next((kind for kind in KINDS if target.startswith(f"{kind}/")), file.partition("/")[0])
            known = [card for card in self.texts if card.startswith(f"{kind}/")]
            raise ParamsError(f"{here}: there is no card '{target}' ({suggest_nearest(target, known)})")
        if target in chain:
            circle = " -> ".join((*chain[chain.index(target) :], target))
            raise ParamsError(
                f"{here}: a card cannot be its own base ({circle}); write the shared keys out in one of them"
            )
        found, origins = self._fill(target, chain)
        for n, part in enumerate(parts):
            inside = found.get(part)
            if not isinstance(inside, dict):
                whole = ".".join((target, *parts[:n]))
                parts_of = [key for key, value in found.items() if isinstance(value, dict)]
                raise ParamsError(f"{here}: '{whole}' has no part '{part}' ({suggest_nearest(part, parts_of)})")
            found = inside
        depth = len(parts)
        return deepcopy(found), {
            path[depth:]: at for path, at in origins.items() if len(path) > depth and path[:depth] == tuple(parts)
        }

    def _line(self, file: str, keys: Keys) -> int:
        node, line = compose_yaml(self.texts[file]), 0
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in node.value if pair[0].value == str(key)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                pair = (node.value[key], node.value[key])
            else:
                pair = None
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        return line + 1


@cache
def adapter_of(card: Any) -> TypeAdapter[Any]:
    """The pydantic validator of a type of card."""
    return TypeAdapter(card)


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


class Cards(Mapping[str, T]):
    """The cards of one kind, by name; each is read and checked when it is first asked for."""

    def __init__(self, library: Library, kind: str, card: Any) -> None:
        self.library, self.kind, self._type = library, kind, card
        self._names = dict.fromkeys(library.names(kind))
        self._read: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._read:
            if name not in self._names:
                raise KeyError(name)
            self._read[name] = self._check(f"{self.kind}/{name}")
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Cards):
            return self.kind == other.kind and self.library.texts == other.library.texts
        return Mapping.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]

    def _check(self, file: str) -> T:
        content = self.library.filled(file)
        try:
            return adapter_of(self._type).validate_python(content)
        except ValidationError as error:
            told = [
                f"{self.library.where(file, keys)}: {message}"
                for keys, message in explain_problems(error, content, self._type, also=(BASE,))
            ]
            raise ParamsError("\n".join(told)) from None
