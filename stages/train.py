"""Train the model where its card says so; otherwise fetch its weights and note which they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.config.models import ModelCard, OpenClipTower, TransformersTower
from twinlens.config.params import Params
from twinlens.config.training import HeadsRecipe, TowerRecipe
from twinlens.core import paths, tables
from twinlens.core.costs import Cost
from twinlens.core.device import Placement, choose_device
from twinlens.core.scratch import prune, write_whole
from twinlens.models import encoders
from twinlens.training.data import TrainingData, TrainingResult
from twinlens.training.loop import write_log

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write trained weights and the curve of their training, and `weights.json`: which weights were fetched."""
    params = read_params()
    card, placement = params.models[model], choose_device(params.compute.device)
    cost = Cost(placement.name)
    with write_whole(paths.trained(dataset, model)) as draft:
        begun_with = {} if card.from_nothing else card.towers()
        located = {role: encoders.locate(tower) for role, tower in begun_with.items()}
        note = {role: encoders.identify(begun_with[role], path) for role, path in located.items()}
        (draft / "weights.json").write_text(json.dumps(note, indent=2) + "\n")
        if card.train is None:
            log.info("%s needs no training", model)
            cost.write(paths.cost("train", dataset, model), items=0)
            return
        material = TrainingData(
            tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS),
            tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS),
            paths.resized(dataset),
            params.compute.decode_threads,
        )
        trained = _train(card, located, material, placement, params, draft)
        write_log(trained.log, draft / "training.csv")
    prune()
    cost.write(paths.cost("train", dataset, model), items=trained.pictures, seconds=trained.seconds)


def _train(
    card: ModelCard, located: dict[str, Path], material: TrainingData, placement: Placement, params: Params, draft: Path
) -> TrainingResult:
    exact = Placement(placement.device, torch.float32)
    if isinstance(card.train, TowerRecipe) and isinstance(card.joint, OpenClipTower | TransformersTower):
        from twinlens.training.dual_encoder import train_towers  # imports its model's library, which takes seconds

        return train_towers(card.joint, card.train, material, exact, draft)
    from twinlens.inference.features import load_features
    from twinlens.training.projection_heads import train_heads

    assert isinstance(card.train, HeadsRecipe)
    features = load_features(card, located, placement, params.compute, Cost(placement.name))
    return train_heads(card, material, features, exact, draft)


if __name__ == "__main__":
    run_stage(main)
