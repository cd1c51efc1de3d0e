"""Write the report: one HTML file that opens without a network."""

from __future__ import annotations

import json
import logging
from contextlib import suppress

import polars as pl

from stages.runner import run_stage
from twinlens.config.base import describe_card
from twinlens.config.datasets import BaseDatasetCard, ComposedCard
from twinlens.config.load import read_params
from twinlens.config.params import Params
from twinlens.core import paths, tables
from twinlens.core.errors import DataError
from twinlens.core.scratch import write_whole_text
from twinlens.evaluation import choose
from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.card_figures import read_figures
from twinlens.evaluation.experiments import WORKSPACE, read_workspace
from twinlens.evaluation.measures import MAIN
from twinlens.evaluation.pool import Pool
from twinlens.report import galleries
from twinlens.report.choice_text import write_sentence
from twinlens.report.page import ReportData, render
from twinlens.retrieval.runs import read_unmeasured

log = logging.getLogger("twinlens")


def main(dataset: str, model: str, captioner: str) -> None:
    """Write report/index.html."""
    params = read_params()
    sources = gather(params, dataset, model, captioner)
    shown = [
        galleries.make_gallery(pool, name, values, sources.album, MAIN.at(sources.k), params.report)
        for pool in sources.pools
        for name, values in ((name, sources.values[pool.name, name]) for name in pool.retrievers)
    ]
    wanted = {image_id for gallery in shown for image_id in gallery.pictures}
    small = galleries.make_thumbnails(wanted, sources.groups, paths.resized(dataset), params.report.thumbnail_px)
    page = render(sources, shown, small)
    write_whole_text(paths.report(), page)
    log.info("%s: %s pictures, %.1f MB", paths.report(), f"{page.count('<img '):,}", len(page.encode()) / 1e6)


def gather(params: Params, dataset: str, model: str, captioner: str) -> ReportData:
    """Read what the stages left."""
    ranked, evaluated, metrics = paths.ranked(dataset, model), paths.evaluated(dataset, model), paths.METRICS
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    captions = tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS)
    generated = tables.read_table(paths.captioned(dataset, captioner) / "captions.parquet", tables.GENERATED)
    pools = [pool for pool in Pool.read_all(ranked) if not pool.as_published]
    cards = {
        "dataset": params.datasets[dataset],
        "model": params.models[model],
        "captioner": params.captioners[captioner],
    }
    names = ("retrieval", "as_published", "intervals", "gates", "cost", "captions")
    return ReportData(
        names={"dataset": dataset, "model": model, "captioner": captioner},
        cards={kind: describe_card(card) for kind, card in cards.items()},
        metrics={name: json.loads((metrics / f"{name}.json").read_text(encoding="utf-8")) for name in names},
        at_k=pl.read_csv(metrics / "at_k.csv"),
        quality_cost=pl.read_csv(metrics / "quality_cost.csv"),
        distractors=pl.read_csv(metrics / "distractors.csv"),
        approximate=pl.read_csv(metrics / "approximate.csv"),
        budget=pl.read_csv(metrics / "budget.csv"),
        confidence=json.loads(paths.calibrated(dataset, model).read_text(encoding="utf-8")),
        coverage=pl.read_csv(metrics / "confidence.csv"),
        described=json.loads(paths.dataset_card(dataset).read_text(encoding="utf-8")),
        duplicates=tables.read_table(paths.grouped(dataset) / "duplicates.parquet", tables.DUPLICATES),
        parts=find_parts(params.datasets[dataset], images),
        groups=tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS),
        pools=pools,
        values={
            (pool.name, name): pl.read_parquet(evaluated / pool.name / f"{name}.parquet")
            for pool in pools
            for name in pool.retrievers
        },
        figures=read_figures(evaluated),
        unmeasured=read_unmeasured(ranked),
        album=galleries.Album.of(images, captions, generated),
        answers=answer(dataset, model, captioner),
    )


def answer(dataset: str, model: str, captioner: str) -> dict[str, str]:
    """Say by task which row to take, as `twinlens choose` does; nothing of a task that has one row only."""
    experiment = read_workspace({"dataset": dataset, "model": model, "captioner": captioner})
    candidate, said = Candidate(WORKSPACE, (experiment,)), {}
    for task in experiment.pools:
        with suppress(DataError):
            said[task] = write_sentence(choose.choose([candidate], task, MAIN.at(experiment.k)))
    return said


def find_parts(card: BaseDatasetCard, images: pl.DataFrame) -> dict[str, str]:
    """Find, by image id, the part of a composed dataset that a picture is from: the first folder of its file."""
    if not isinstance(card, ComposedCard):
        return {}
    adapters = {name: getattr(card, name).adapter for name in ("queries", "distractors")}
    return {
        image_id: f"{part} ({adapters[part]})"
        for image_id, part in images.select("image_id", pl.col("file").str.split("/").list.first()).iter_rows()
    }


if __name__ == "__main__":
    run_stage(main)
