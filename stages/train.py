"""Train the model where its card says so; otherwise fetch its weights and note which they are."""

from __future__ import annotations

import json
import logging

import torch

from stages.runner import run_stage
from twinlens import encoders, paths, tables
from twinlens.cards import OpenClipTower
from twinlens.costs import Cost
from twinlens.encoders.weights import identity
from twinlens.params import read_params
from twinlens.placement import Placement, place
from twinlens.scratch import publishing
from twinlens.training.data import Material
from twinlens.training.loop import write_log

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write trained weights, or `weights.json` with what identifies the ones that were fetched."""
    params = read_params()
    card, placement = params.models[model], place(params.compute.device)
    cost = Cost(placement.name)
    with publishing(paths.trained(dataset, model)) as draft:
        if card.train is None or not isinstance(card.joint, OpenClipTower):
            note = {role: identity(encoders.locate(tower)) for role, tower in card.towers().items()}
            (draft / "weights.json").write_text(json.dumps(note, indent=2) + "\n")
            log.info("%s needs no training", model)
            cost.write(paths.cost("train", dataset, model), items=0)
            return
        from twinlens.training.contrastive import train_contrastive  # open_clip takes seconds to import

        material = Material(
            tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS),
            tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS),
            paths.resized(dataset),
            params.compute.decode_threads,
        )
        exact = Placement(placement.device, torch.float32)
        trained = train_contrastive(card.joint, card.train, material, exact, draft / "weights")
        write_log(trained.log, draft / "training.csv")
    cost.write(paths.cost("train", dataset, model), items=trained.pictures, seconds=trained.seconds)


if __name__ == "__main__":
    run_stage(main)
