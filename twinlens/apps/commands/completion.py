"""Shell completion: names of cards and ids of indexed pictures. Nothing here may be slow or print anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

MOST = 100  # ids offered at once


def make_card_completer(kind: str) -> Callable[[str], list[str]]:
    """Make a completer for the names of cards of a kind: `datasets`, `models` or `captioners`."""

    def complete(incomplete: str) -> list[str]:
        return sorted(file.stem for file in (Path("cards") / kind).glob("*.yaml") if file.stem.startswith(incomplete))

    return complete


def complete_image_ids(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of the index that the options so far name, those that begin as typed."""
    from twinlens.core import paths
    from twinlens.core.errors import TwinLensError
    from twinlens.indexing.manifest import FOLDER, Manifest
    from twinlens.indexing.store import RowStore

    raw = _read()
    dataset, model, captioner = (
        str(context.params.get(key) or raw.get(key)) for key in ("dataset", "model", "captioner")
    )
    try:
        manifest = Manifest.read(paths.indexed(dataset, model, captioner))
        ids = RowStore(manifest.folder / FOLDER).ids
    except (OSError, TwinLensError):
        return []
    return [image_id for image_id in ids if image_id.startswith(incomplete)][:MOST]


def _read() -> dict[str, Any]:
    import yaml

    try:
        # LibYAML's parser where it is there: eight times as fast
        raw = yaml.load(Path("params.yaml").read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError):
        return {}
    return raw if isinstance(raw, dict) else {}
