"""Checks of what was learnt, and from what, before anything is measured."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from twinlens.config.gates import Gates
from twinlens.config.params import Params
from twinlens.evaluation.gates import detect_overlap, detect_still_learning, detect_taught_on


def check_learning(
    gates: Gates, params: Params, groups: pl.DataFrame, names: tuple[str, str, str], logs: list[Path]
) -> list[str]:
    """Check what was learnt and from what; returns the names, of model and captioner, that the pipeline trained.

    Args:
        gates: that are checked.
        params: the settings.
        groups: table GROUPS.
        names: of the dataset, the model and the captioner.
        logs: the folders with the logs of the model's training and the captioner's.
    """
    dataset, model, captioner = names
    embedding, captioning = params.models[model], params.captioners[captioner]
    trained_here = embedding.train is not None, captioning.train is not None
    learners = [name for name, here in zip(names[1:], trained_here, strict=True) if here]
    gates.check("train_overlap", detect_overlap(groups, learners))
    taught = {model: embedding.trained_on, captioner: captioning.trained_on}
    gates.check("taught_on", detect_taught_on(params.datasets[dataset].origins, taught))
    named = zip(names[1:], logs, strict=True)
    gates.check("still_learning", detect_still_learning({name: folder / "training.csv" for name, folder in named}))
    return learners
