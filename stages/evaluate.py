"""Measure every run; write the metrics that git keeps and the values of every query."""

from __future__ import annotations

import logging

from stages.runner import run_stage
from twinlens import distractors, paths, tables
from twinlens.config.load import read_params
from twinlens.costs import Cost
from twinlens.evaluation import measure_all_runs
from twinlens.gates import Gates, overlap, wrong_size
from twinlens.naming import caption_figures
from twinlens.reporting import (
    TRAINING,
    cost_summary,
    quality_cost_rows,
    results_table,
    summary,
    training_rows,
    write_csv,
    write_json,
)
from twinlens.scratch import publishing

log = logging.getLogger("twinlens")


def main(dataset: str, model: str, captioner: str) -> None:
    """Write metrics/*.json, the data of the plots, and per-query values."""
    cost, params, metrics = Cost(), read_params(), paths.METRICS
    gates = Gates(params.gates)
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    gates.check("pool_size", wrong_size(groups, params.datasets[dataset].promised_pool))
    cards = {model: params.models[model].train, captioner: params.captioners[captioner].train}
    gates.check("train_overlap", overlap(groups, [name for name, recipe in cards.items() if recipe is not None]))
    gates.add(paths.ranked(dataset, model) / "gates.json")
    generated = tables.read_table(paths.captioned(dataset, captioner) / "captions.parquet", tables.GENERATED)
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    with publishing(paths.evaluated(dataset, model)) as draft:
        results = measure_all_runs(paths.ranked(dataset, model), dataset, params.evaluate, gates, draft)
    cost.write(paths.cost("evaluate", dataset, model), items=results.queries)
    costs = cost_summary(dataset, model, captioner)
    k = params.evaluate.ks[-1]
    against_cost = quality_cost_rows(results.retrieval, costs, k)
    write_json(summary(results.retrieval, against_cost, k), metrics / "summary.json")
    write_json(results.retrieval, metrics / "retrieval.json")
    write_json(results.intervals, metrics / "intervals.json")
    gates.write(metrics / "gates.json")
    write_json(results.as_published, metrics / "as_published.json")
    write_json(caption_figures(generated, images), metrics / "captions.json")
    write_json(costs, metrics / "cost.json")
    write_csv(results.curves, metrics / "at_k.csv")
    write_csv(distractors.curve(paths.ranked(dataset, model), k), metrics / "distractors.csv")
    write_csv(against_cost, metrics / "quality_cost.csv")
    logs = {"model": paths.trained(dataset, model), "captioner": paths.captioned(dataset, captioner)}
    trained = training_rows({name: folder / "training.csv" for name, folder in logs.items()})
    write_csv(trained, metrics / "training.csv", TRAINING)
    log.info("torchmetrics agrees on %s values\n\n%s\n", f"{results.compared:,}", results_table(results.retrieval, k))


if __name__ == "__main__":
    run_stage(main)
