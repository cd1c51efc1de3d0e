"""Train the model where its card says so; otherwise fetch its weights and note which they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from stages.runner import run_stage
from twinlens import encoders, paths, tables
from twinlens.config.load import read_params
from twinlens.config.models import ModelCard
from twinlens.config.params import Params
from twinlens.config.training import HeadsRecipe, TowerRecipe
from twinlens.costs import Cost
from twinlens.encoders.weights import identity
from twinlens.placement import Placement, place
from twinlens.scratch import prune, publishing
from twinlens.training.data import Material, Trained
from twinlens.training.loop import write_log

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write trained weights and the curve of their training, and `weights.json`: which weights were fetched."""
    params = read_params()
    card, placement = params.models[model], place(params.compute.device)
    cost = Cost(placement.name)
    with publishing(paths.trained(dataset, model)) as draft:
        begun_with = {} if card.from_nothing else card.towers()
        located = {role: encoders.locate(tower) for role, tower in begun_with.items()}
        note = {role: identity(path) for role, path in located.items()}
        (draft / "weights.json").write_text(json.dumps(note, indent=2) + "\n")
        if card.train is None:
            log.info("%s needs no training", model)
            cost.write(paths.cost("train", dataset, model), items=0)
            return
        material = Material(
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
    card: ModelCard, located: dict[str, Path], material: Material, placement: Placement, params: Params, draft: Path
) -> Trained:
    exact = Placement(placement.device, torch.float32)
    if isinstance(card.train, TowerRecipe) and card.joint is not None:
        from twinlens.training.towers import train_towers  # imports its model's library, which takes seconds

        return train_towers(card.joint, card.train, material, exact, draft)
    from twinlens.encoders.features import features_of
    from twinlens.training.heads import train_heads

    assert isinstance(card.train, HeadsRecipe)
    features = features_of(card, located, placement, params.compute, Cost(placement.name))
    return train_heads(card, material, features, exact, draft)


if __name__ == "__main__":
    run_stage(main)
