"""Location of models that run in a process of their own: their weights, their code, and their environment."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from twinlens.config.models import OwnCodeTower
from twinlens.core import paths
from twinlens.core.environments import MadeEnvironment, make_environment
from twinlens.models.locations import transformers
from twinlens.models.weights import fetch_weights_folder, identify_weights

CODE = ["*.py", "*.json"]
DECIDES = ("torch", "transformers", "tokenizers", "numpy")  # of what an environment may inherit
NAMES_CODE = ("config.json", "tokenizer_config.json", "preprocessor_config.json")
ELSEWHERE = re.compile(r"^(?P<repo>[^\s]+/[^\s]+)--")  # owner/name--module.Class


def locate(card: OwnCodeTower) -> Path:
    """Locate the model's folder, and fetch the repositories that its code lies in: the child asks no network.

    Raises:
        FetchError: one of them cannot be had.
    """
    path = transformers.locate(card)
    if card.trust_remote_code:
        for repo in sorted(list_code_repositories(path)):
            fetch_weights_folder(repo, card.code_revision, CODE)
    return path


def list_code_repositories(path: Path) -> set[str]:
    """List the hub repositories, other than a model's own, that its settings take classes from."""
    found: set[str] = set()
    for name in NAMES_CODE:
        try:
            named = json.loads((path / name).read_text(encoding="utf-8")).get("auto_map", {})
        except (OSError, ValueError, AttributeError):  # what cannot be read is told by who loads it
            continue
        classes = json.dumps(list(named.values()) if isinstance(named, dict) else [])
        found |= {match["repo"] for text in re.findall(r'"([^"]+)"', classes) if (match := ELSEWHERE.match(text))}
    return found


def open_environment(card: OwnCodeTower) -> MadeEnvironment | None:
    """Open the environment that a card names, made if need be; None where it names none and ours is taken.

    Raises:
        FetchError: it cannot be made.
    """
    if (wanted := card.environment) is None:
        return None
    wheels = None if wanted.wheels is None else paths.expand(wanted.wheels)
    return make_environment(wanted.packages, wanted.python, wanted.inherits, wheels)


def identify(card: OwnCodeTower, path: Path) -> dict[str, Any]:
    """Identify the weights, and the versions of all that computes with them."""
    made = open_environment(card)
    installed = {} if made is None else made.installed
    if card.environment is None or card.environment.inherits:
        installed = {name: version(name) for name in DECIDES} | installed
    environment = {"python": sys.version.split()[0] if made is None else made.version, "installed": installed}
    return identify_weights(path) | {"environment": environment}
