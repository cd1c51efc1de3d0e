"""Golden vectors: how they are written on a card, below `about:` of the tower whose checkpoint they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from twinlens.config.base import ABOUT, GoldenVectors
from twinlens.config.cards import Library
from twinlens.config.models import Tower
from twinlens.config.yaml_file import compose_yaml, parse_yaml
from twinlens.core.errors import ParamsError
from twinlens.core.scratch import write_whole_text

GOLDEN = "golden"


def write_golden(library: Library, card: str, role: str, tower: Tower, golden: GoldenVectors) -> Path:
    """Write golden vectors into the file that names the checkpoint: the card's own, or that of a base.

    All other lines stay as they are.

    Args:
        library: the cards as they are.
        card: `models/<name>`.
        role: `joint`, `image` or `text`.
        tower: the card's tower of that role.
        golden: what is to be written.

    Returns:
        The path of the file.

    Raises:
        ParamsError: the file is written in a way that no lines can be put into; they are in the message.
    """
    named = "checkpoint" if getattr(tower, "checkpoint", None) is not None else getattr(tower, "key", tower.family)
    file, keys = library.origin(card, (role, named))
    path, before = library.path(file), library.texts[file].decode("utf-8")
    lines = [f"{kind}: {_join(numbers)}" for kind, numbers in golden.model_dump(exclude_none=True).items()]
    after = _put(before, keys[:-1], lines)
    if after is None or parse_yaml(after.encode(), path) != _expected(before, keys[:-1], golden):
        told = "\n".join(f"  {line}" for line in [f"{ABOUT}:", f"  {GOLDEN}:", *(f"    {line}" for line in lines)])
        raise ParamsError(f"{path}: write these lines yourself, below {'.'.join(map(str, keys[:-1]))}:\n{told}")
    write_whole_text(path, after)
    return path


def _join(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.5f}" for number in numbers)


def _put(text: str, keys: tuple[Any, ...], wanted: list[str]) -> str | None:
    """The text with lines below `about.golden` of a mapping; None where that is not written as a block."""
    node = compose_yaml(text.encode())
    for key in keys:
        node = _value(node, key)
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        return None
    lines, indent = text.splitlines(), node.value[0][0].start_mark.column
    about = _value(node, ABOUT)
    if about is None:
        at, head, inner = _last_line(node) + 1, [f"{' ' * indent}{ABOUT}:"], indent + 2
    elif isinstance(about, yaml.MappingNode) and not about.flow_style and about.value:
        at, head, inner = _last_line(about) + 1, [], about.value[0][0].start_mark.column
        for key, value in about.value:
            if key.value == GOLDEN:
                at = key.start_mark.line
                del lines[at : _last_line(value) + 1]
    else:
        return None
    lines[at:at] = [*head, f"{' ' * inner}{GOLDEN}:", *(f"{' ' * (inner + 2)}{line}" for line in wanted)]
    return "\n".join(lines) + "\n"


def _expected(text: str, keys: tuple[Any, ...], golden: GoldenVectors) -> Any:
    content = node = parse_yaml(text.encode(), "a card")
    for key in keys:
        node = node[key]
    node[ABOUT] = (node.get(ABOUT) or {}) | {
        GOLDEN: {
            kind: parse_yaml(_join(numbers).encode(), "golden vectors")
            for kind, numbers in golden.model_dump(exclude_none=True).items()
        }
    }
    return content


def _value(node: yaml.Node | None, key: Any) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == str(key)), None)


def _last_line(node: yaml.Node) -> int:
    """The line on which the last value of a block ends; its own end mark lies beyond comments and empty lines."""
    if isinstance(node, yaml.MappingNode):
        return max((_last_line(value) for _, value in node.value), default=node.start_mark.line)
    if isinstance(node, yaml.SequenceNode):
        return max((_last_line(value) for value in node.value), default=node.start_mark.line)
    return int(node.end_mark.line)
