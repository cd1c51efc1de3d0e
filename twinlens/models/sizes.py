"""Sizes of models: parameters, counted without weights, and the memory that they take."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from twinlens.config.models import JinaClipTower, ModelCard, OpenClipTower, TimmTower, TorchvisionTower, Tower
from twinlens.config.training import TowerRecipe
from twinlens.core import paths

BYTES = 4  # of a parameter in float32, as which weights are loaded
TRAINED = 4  # times the parameters: the weights, their gradients and the two moments of Adam
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def count_parameters(tower: Tower) -> int | None:
    """Count the parameters of a tower, its architecture built without weights; None where nothing here tells them."""
    with _quietly():
        try:
            return _count(tower)
        except Exception:  # a name of another version, a configuration that only the hub has: it is not known
            return None


def _count(tower: Tower) -> int | None:
    if isinstance(tower, OpenClipTower):
        import open_clip

        if (architecture := tower.architecture) is not None:
            return _of(lambda: open_clip.CLIP(**architecture))
        return _of(lambda: open_clip.create_model(tower.open_clip, device="meta", pretrained_hf=False))
    if isinstance(tower, TimmTower):
        import timm

        return _of(lambda: timm.create_model(tower.timm, num_classes=0, **tower.kwargs))
    if isinstance(tower, TorchvisionTower):
        import torchvision

        return _of(lambda: torchvision.models.get_model(tower.torchvision, weights=None, weights_backbone=None))
    if isinstance(tower, JinaClipTower) and tower.checkpoint is not None:  # whose file has half the bytes, and adapters
        from twinlens.models import jina_checkpoint

        config = jina_checkpoint.read_config(paths.expand(tower.checkpoint))
        return _of(lambda: torch.nn.ModuleList(jina_checkpoint.build_towers(config)))
    return _by_files(getattr(tower, "checkpoint", None))


def _of(build: Callable[[], torch.nn.Module]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def _by_files(checkpoint: str | None) -> int | None:
    if checkpoint is None:
        return None
    path = paths.expand(checkpoint)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    found = [file.stat().st_size for file in files if file.suffix in SUFFIXES]
    return max(found) // BYTES if found else None


def measure_need(card: ModelCard) -> int | None:
    """Measure the least memory that a card's weights take while they embed or are trained, in bytes; None: not known.

    Without what a batch takes, as that is made smaller until it fits.
    """
    counts = [count_parameters(tower) for tower in card.towers().values()]
    known = [BYTES * count for count in counts if count is not None]
    if not known or len(known) < len(counts):
        return None
    return sum(known) * TRAINED if isinstance(card.train, TowerRecipe) else max(known)


def measure_available(device: torch.device) -> int:
    """Measure the memory that models can have: of a GPU, or the host's own, bounded by the process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        with contextlib.suppress(OSError, ValueError):
            found = min(found, int(limit.read_text()))
    return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
