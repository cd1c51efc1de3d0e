"""YAML as DVC reads it too: what the two would take for different values, or a key that repeats, is refused.

DVC follows YAML 1.2, PyYAML follows 1.1: `0120` is 120 to one and 80 to the other, `yes` a word and a truth value,
`12:30:45` a text and 45,045. A lock file would then hold another value than the one that was run with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from twinlens.core.errors import ParamsError

MOST_BYTES = 2**20  # of a file; the longest card has 2 KB
DEEPEST = 64  # brackets within brackets: LibYAML goes down one call for each

# Words without quotes that the two versions read differently, and how to write what is meant.
AMBIGUOUS = (
    (
        re.compile(r"(?:yes|no|on|off)", re.IGNORECASE),
        "a truth value or a word; write true, false or a word in quotes",
    ),
    (re.compile(r"[-+]?0[0-9_]+"), "a number with base 8 or with base 10; write it without the zeros in front"),
    (re.compile(r"[-+]?0o[0-7_]*"), "a word or a number with base 8; write the number with base 10"),
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)?"), "a number with base 60 or a text; put it in quotes"),
    (re.compile(r"[-+]?\.[0-9]+[eE][0-9]+|[-+]?\._[0-9_.]*"), "a word or a number; write it as 5.0e+3"),
    (re.compile(r"=|<<|!"), "a sign with a meaning of its own; put it in quotes"),
)
# Numbers such as 1e-3, 1.5e3 and -.5, which YAML 1.1 takes for words.
EXPONENT = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+|[-+]\.[0-9]+(?:[eE][-+][0-9]+)?")
FLOAT = "tag:yaml.org,2002:float"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """LibYAML's parser where it is there, eight times as fast as PyYAML's own, with the refusals of this module."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; a key that repeats is refused."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else repr(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{name}' stands there twice, and one of the two would be lost", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge no mappings into another: `base:` does that, and says so."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; one that YAML's versions read differently is refused."""
        if isinstance(node, yaml.ScalarNode) and not node.style:
            refused = next((why for words, why in AMBIGUOUS if words.fullmatch(node.value)), None)
            if refused is not None:
                raise yaml.constructor.ConstructorError(None, None, f"'{node.value}' is {refused}", node.start_mark)
        return super().construct_object(node, deep)


def _construct_float(loader: Loader, node: yaml.ScalarNode) -> float:
    value = float(yaml.SafeLoader.construct_yaml_float(loader, node))
    if math.isinf(value) and "inf" not in node.value.lower():
        raise yaml.constructor.ConstructorError(
            None, None, f"{node.value} is larger than a number can be", node.start_mark
        )
    return value


Loader.add_implicit_resolver(FLOAT, re.compile(rf"^(?:{EXPONENT.pattern})$"), list("-+0123456789"))
Loader.add_constructor(FLOAT, _construct_float)


def parse_yaml(text: bytes, path: str | Path) -> Any:
    """Parse a YAML file.

    Raises:
        ParamsError: it is none, is nested too deep, has a key twice, or a value that YAML's versions read differently.
    """
    if len(text) > MOST_BYTES:
        raise ParamsError(f"{path} has {len(text):,} bytes, wanted at most {MOST_BYTES:,}")
    _refuse_depth(text, path)
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ParamsError(f"{path}{line} is not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no UTF-8, a day that no month has
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    except TypeError as error:
        raise ParamsError(f"{path} is not valid YAML: a key that is a list or a mapping ({error})") from None


def compose_yaml(text: bytes) -> yaml.Node | None:
    """Compose the nodes of a file that `parse_yaml` took, which know their lines."""
    node: yaml.Node | None = yaml.compose(text, Loader)
    return node


def _refuse_depth(text: bytes, path: str | Path) -> None:
    """Refuse what LibYAML would go down into until the process ends: brackets, dashes, or aliases by the hundred."""
    depth = deepest = 0
    for sign in re.findall(rb"[\[\]{}]", text):
        depth = max(0, depth + (1 if sign in b"[{" else -1))
        deepest = max(deepest, depth)
    dashes = max((len(run) // 2 for run in re.findall(rb"(?:[-?:] )+", text)), default=0)
    indents = {len(line) - len(line.lstrip(b" ")) for line in text.splitlines()}
    if max(deepest, dashes, len(indents)) > DEEPEST:
        raise ParamsError(f"{path} is not valid YAML for settings: it is nested over {DEEPEST} deep")
    if text.count(b"*") > DEEPEST and text.count(b"&") > 8:
        raise ParamsError(f"{path} has over {DEEPEST} aliases: write the values out, or use `base:` on a card")
