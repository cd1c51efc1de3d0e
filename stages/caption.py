"""Describe every picture of the pool with a captioner, trained first where its card says so."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl
import torch
import transformers

from stages.runner import run_stage
from twinlens import paths, tables
from twinlens.captioners import transformers as captioners
from twinlens.captioners.caption import caption_pictures
from twinlens.cards import CaptionerCard
from twinlens.costs import Cost
from twinlens.encoders.weights import identity
from twinlens.params import read_params
from twinlens.placement import Placement, place
from twinlens.scratch import Scratch, code_digest, digest, fingerprint, publishing
from twinlens.training.captioning import train_captioner
from twinlens.training.data import Material
from twinlens.training.loop import write_log

log = logging.getLogger("twinlens")


def main(dataset: str, captioner: str) -> None:
    """Write one caption a picture; beside them the weights, where they were trained here."""
    params = read_params()
    card, compute, placement = params.captioners[captioner], params.compute, place(params.compute.device)
    cost = Cost(placement.name)
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    pool = groups.filter("in_pool")
    if card.captioner == "none":
        write_captions(pool[:0], [], paths.captioned(dataset, captioner))
        cost.write(paths.cost("caption", dataset, captioner), items=0)
        return
    with publishing(paths.captioned(dataset, captioner)) as draft:
        if card.train is None:
            weights = captioners.locate(card)
        else:
            weights = draft / "weights"
            captions = tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS)
            material = Material(groups, captions, paths.resized(dataset), compute.decode_threads)
            exact = Placement(placement.device, torch.float32)
            trained = train_captioner(card, material, exact, weights)
            write_log(trained.log, draft / "training.csv")
            cost.add("train", seconds=trained.seconds, items=trained.pictures)
        loaded = captioners.load(card, weights, placement)
        with Scratch("caption", _key(card, weights, pool, placement)) as scratch:
            texts = caption_pictures(
                loaded,
                paths.resized(dataset),
                pool,
                scratch,
                batch=compute.image_batch,
                decode_threads=compute.decode_threads,
            )
            seconds = scratch.total("seconds")
        write_captions(pool, texts, draft)
    cost.add("caption", seconds=seconds, items=len(pool), parameters=loaded.parameters)
    log.info("%s: %s captions, for example: %s", captioner, f"{len(texts):,}", "; ".join(texts[:3]))
    cost.write(paths.cost("caption", dataset, captioner), items=len(pool), seconds=cost.seconds_of_parts())


def write_captions(pool: pl.DataFrame, texts: list[str], out: Path) -> None:
    """Write one text a picture."""
    table = pl.DataFrame({"image_id": pool["image_id"], "text": pl.Series(texts, dtype=pl.String)})
    tables.write_table(table, out / "captions.parquet", tables.GENERATED)


def _key(card: CaptionerCard, weights: Path, pool: pl.DataFrame, placement: Placement) -> str:
    """Everything that decides the words."""
    return fingerprint(
        card=card.model_dump(mode="json", include={"captioner", "max_new_tokens", "num_beams"}),
        weights=identity(weights),
        pictures=digest(pool["sha256"]),
        placement=placement.name,
        libraries=[torch.__version__, transformers.__version__],
        code=code_digest(
            "pixels.py",
            "captioners/transformers.py",
            "captioners/caption.py",
            "encoders/base.py",
            "encoders/image_processor.py",
        ),
    )


if __name__ == "__main__":
    run_stage(main)
