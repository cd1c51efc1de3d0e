"""Location of sentence-transformers models: a folder of your own, or the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.errors import DataError
from twinlens.models.weights import fetch_weights_folder, find_local_checkpoint

FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
# Of each module that has any; the first found are taken. Large models come in several files.
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")


def locate(card: SentenceTransformersTower) -> Path:
    """Locate the model's folder.

    Raises:
        FetchError: it cannot be had.
        DataError: the folder does not say how to pool.
    """
    folder = find_local_checkpoint(card)
    if folder is None:
        folder = fetch_modules(card.sentence_transformers, card.revision, FILES, list_modules)
    list_modules(folder)
    return folder


def fetch_modules(
    repository: str, revision: str | None, files: Sequence[str], list_folders: Callable[[Path], list[Path]]
) -> Path:
    """Fetch a model's small files, and then the weights of its modules under the first name that each has.

    Args:
        repository: on the hub.
        revision: of it.
        files: patterns of the small ones.
        list_folders: lists the folders of the modules, of what has come.

    Raises:
        FetchError: it cannot be had.
    """
    folder = fetch_weights_folder(repository, revision, [*files])
    for name in WEIGHTS:
        lacking = [module for module in list_folders(folder) if not find_weights(module)]
        wanted = [(module / name).relative_to(folder).as_posix() for module in lacking]
        folder = fetch_weights_folder(repository, revision, [*files, *wanted])
    return folder


def find_weights(module: Path) -> list[Path]:
    """Find the files that hold the weights of a module; most modules have none."""
    return next((files for name in WEIGHTS if (files := sorted(module.glob(name)))), [])


def list_modules(folder: Path) -> list[Path]:
    """List the folders of the model's modules (transformer, pooling, ...), most of which have no weights.

    Raises:
        DataError: the folder does not say how to pool.
    """
    if not (folder / "modules.json").exists():
        # the library would silently take the mean over tokens, which is wrong for every CLS model
        raise DataError(f"{folder} has no modules.json, so it does not say how its vectors are pooled")
    return [folder / module["path"] for module in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]
