"""Location of models of token vectors: a folder of your own, or the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twinlens.config.sentence_models import MultiVectorTower
from twinlens.core.errors import DataError
from twinlens.models.locations.sentence_transformers import FILES, fetch_modules, list_modules
from twinlens.models.weights import find_local_checkpoint

OLDER_FILES = ["artifact.metadata"]  # of ColBERT as its authors write it
KINDS = ("MultiVectorEncoder", "ColBERT")  # how such models are called in their files; the second by pylate
OWN_HEAD = ("ForRetrieval", "HF_ColBERT")  # how architectures end that make token vectors by themselves


def locate(card: MultiVectorTower) -> Path:
    """Locate the model's folder.

    Raises:
        FetchError: it cannot be had.
        DataError: the folder does not hold such a model.
    """
    folder = find_local_checkpoint(card)
    if folder is None:
        folder = fetch_modules(card.sentence_transformers, card.revision, [*FILES, *OLDER_FILES], list_module_folders)
    refuse_others(folder)
    return folder


def list_module_folders(folder: Path) -> list[Path]:
    """List the folders of the model's modules; the folder itself where it is one architecture with its own head."""
    return list_modules(folder) if (folder / "modules.json").exists() else [folder]


def refuse_others(folder: Path) -> None:
    """Refuse what is no model of token vectors: the library would put random numbers where its head is missing.

    Raises:
        DataError: so it is.
    """
    architectures = _read(folder / "config.json").get("architectures") or []
    if any(str(name).endswith(OWN_HEAD) for name in architectures):
        return
    kind = _read(folder / "config_sentence_transformers.json").get("model_type")
    if (folder / "modules.json").exists() and kind in KINDS:
        return
    if (folder / "adapter_config.json").exists():
        raise DataError(f"{folder} holds an adapter: name the repository in which it is merged with its model")
    raise DataError(
        f"{folder} holds no model of token vectors (model_type {kind or 'unsaid'}, architecture "
        f"{', '.join(map(str, architectures)) or 'unsaid'}): leave out `token_vectors`, or name a model of the kind of "
        "ColBERT or ColPali"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error})") from None
    return found
