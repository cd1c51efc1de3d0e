"""Describe the pictures of the pool, and those that weights are chosen on, with a captioner, trained if need be."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl
import torch

from stages.runner import run_stage
from twinlens.config.captioners import CaptionerCard
from twinlens.config.load import read_params
from twinlens.core import paths, tables
from twinlens.core.costs import Cost
from twinlens.core.device import Placement, choose_device
from twinlens.core.scratch import Scratch, write_whole
from twinlens.engines import open_engine
from twinlens.inference.caption_job import CaptionJob
from twinlens.models.locations import captioners
from twinlens.tasks.validation import draw_validation
from twinlens.training.data import TrainingData
from twinlens.training.loop import write_log

log = logging.getLogger("twinlens")


def main(dataset: str, captioner: str) -> None:
    """Write one caption per picture; beside them the weights, where they were trained here."""
    params = read_params()
    card, compute = params.captioners[captioner], params.compute
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    columns = ("image_id",) if card.train is None else tables.CAPTIONS.names  # their texts are what is trained on
    captions = tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS, columns)
    described = {"captions": groups.filter("in_pool"), "validation": draw_validation(groups, captions, params.hybrid)}
    if card.captioner in ("none", "endpoint"):
        cost = Cost()
        with write_whole(paths.captioned(dataset, captioner)) as draft:
            if card.captioner == "none":
                for name in described:
                    write_captions(groups[:0], [], draft / f"{name}.parquet")
            else:
                _ask_service(card, dataset, described, draft, cost)
        asked = 0 if card.captioner == "none" else sum(map(len, described.values()))
        seconds = cost.seconds_of_parts() if asked else None
        cost.write(paths.cost("caption", dataset, captioner), items=asked, seconds=seconds)
        return
    with open_engine(compute) as engine, write_whole(paths.captioned(dataset, captioner)) as draft:
        cost = Cost(engine.placement.name)
        if card.train is None:
            weights = captioners.locate(card)
        else:
            weights = draft / "weights"
            material = TrainingData(groups, captions, paths.resized(dataset), compute.decode_threads)
            exact = Placement(choose_device(compute.device).device, torch.float32)
            from twinlens.training.captioning import train_captioner  # imports its library, which takes seconds

            trained = train_captioner(card, material, exact, weights)
            write_log(trained.log, draft / "training.csv")
            cost.add("train", seconds=trained.seconds, items=trained.pictures)
        job = CaptionJob(card, weights, engine.placement, compute, engine)
        items, seconds, waiting, parameters, tokens = sum(map(len, described.values())), 0.0, 0.0, 0, 0
        for name, pictures in described.items():
            with Scratch("caption", job.key(pictures), compute.parts) as scratch:
                texts = job.write(paths.resized(dataset), pictures, scratch)
                seconds += scratch.total("seconds")
                waiting += scratch.total("waiting_s")
                parameters = int(scratch.total("parameters"))
                tokens += int(scratch.total("tokens"))
            write_captions(pictures, texts, draft / f"{name}.parquet")
            if texts:
                log.info("%s, %s: %s, for example: %s", captioner, name, f"{len(texts):,}", "; ".join(texts[:3]))
        cost.machine = engine.machine
    share = waiting / seconds if seconds else 0.0
    counted = {"tokens": tokens} if card.captioner == "transformers" else {}
    cost.add("caption", seconds=seconds, items=items, parameters=parameters, waiting_share=share, **counted)
    cost.write(paths.cost("caption", dataset, captioner), items=items, seconds=cost.seconds_of_parts())


def _ask_service(
    card: CaptionerCard, dataset: str, described: dict[str, pl.DataFrame], draft: Path, cost: Cost
) -> None:
    """Write what a service says, and beside it which model said it."""
    from twinlens.inference.describe import describe_pictures

    every = pl.concat(list(described.values()))
    found = describe_pictures(card, paths.resized(dataset), every)
    texts = dict(zip(every["image_id"], found.texts, strict=True))
    for name, pictures in described.items():
        write_captions(pictures, [texts[image_id] for image_id in pictures["image_id"]], draft / f"{name}.parquet")
    tables.write_table(found.table(every), draft / "answers.parquet", tables.ANSWERS)
    money = {} if found.money is None else {"money": found.money}
    cost.add("caption", seconds=found.seconds, items=len(every), parameters=0, tokens=found.tokens, **money)


def write_captions(pictures: pl.DataFrame, texts: list[str], path: Path) -> None:
    """Write one text per picture."""
    table = pl.DataFrame({"image_id": pictures["image_id"], "text": pl.Series(texts, dtype=pl.String)})
    tables.write_table(table, path, tables.GENERATED)


if __name__ == "__main__":
    run_stage(main)
