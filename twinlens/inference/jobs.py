"""Jobs by family: towers that are run here, and those whose vectors are looked up."""

from __future__ import annotations

from pathlib import Path

from twinlens.config.models import EndpointTower, Tower, VectorsTower
from twinlens.config.params import ComputeParams
from twinlens.config.sentence_models import MultiVectorTower
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.engines.base import Engine
from twinlens.inference.multi_vector import MultiVectorJob
from twinlens.inference.remote import EndpointJob
from twinlens.inference.stored import StoredJob
from twinlens.inference.tower import TowerJob


def make_job(
    tower: Tower,
    weights: Path,
    placement: Placement,
    compute: ComputeParams,
    cost: Cost,
    engine: Engine | None = None,
) -> TowerJob:
    """Make the job that embeds by a tower.

    Args:
        tower: of a card.
        weights: where `encoders.locate` found them, or where `train` left them.
        placement: where a model runs.
        compute: batches and threads.
        cost: where the work is recorded.
        engine: who works on the parts; this process, if nobody is named.
    """
    kinds: dict[type[Tower], type[TowerJob]] = {
        VectorsTower: StoredJob,
        EndpointTower: EndpointJob,
        MultiVectorTower: MultiVectorJob,
    }
    return kinds.get(type(tower), TowerJob)(tower, weights, placement, compute, cost, engine)
