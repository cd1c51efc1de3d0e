"""Engines: who works on the parts of a stage: this process, or the workers of a Ray cluster.

An engine decides no result, so that no key knows of it: a part has the same content whoever made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.engines.base import Ask, Engine, Seat, Task, Worker
from twinlens.engines.local import LocalEngine

if TYPE_CHECKING:
    from twinlens.config.params import ComputeParams

__all__ = ["Ask", "Engine", "LocalEngine", "Seat", "Task", "Worker", "open_engine"]


def open_engine(compute: ComputeParams, *, device: str | None = None) -> Engine:
    """Open the engine that the settings name; a context, at whose end its workers are let go.

    Nothing is started before the first part is missing, or `placement` is asked for.

    Args:
        compute: the settings.
        device: what the work needs, where it is not `compute.device`: `cpu` for what no GPU does.
    """
    if compute.engine == "local":
        return LocalEngine(compute, device=device)
    from twinlens.engines.cluster import RayEngine

    return RayEngine(compute, device=device)
