"""Measure every run; write the metrics that git keeps and the values of every query."""

from __future__ import annotations

import logging

from stages.runner import run_stage
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.core import paths, tables
from twinlens.core.costs import Cost
from twinlens.core.scratch import write_whole
from twinlens.evaluation import distractors
from twinlens.evaluation.caption_quality import measure_captions
from twinlens.evaluation.card_figures import RunConditions, compare_figures, read_precision, write_figures
from twinlens.evaluation.ceilings import describe_ceiling
from twinlens.evaluation.cost import (
    TRAINING,
    build_quality_cost_rows,
    build_training_rows,
    summarise_costs,
    write_csv,
    write_json,
)
from twinlens.evaluation.evaluate import measure_all_runs
from twinlens.evaluation.gates import (
    detect_easy_pool,
    detect_near_copies,
    detect_wrong_size,
    find_near_copies,
    measure_apart,
)
from twinlens.evaluation.learning import check_learning
from twinlens.evaluation.pool import Pool
from twinlens.evaluation.random_weights import find_no_better
from twinlens.evaluation.serving import read_serving
from twinlens.report.summary import format_results_table, summarise_results
from twinlens.retrieval.runs import read_unmeasured
from twinlens.tasks.inputs import read_inputs

COPIES = "duplicates.parquet"
log = logging.getLogger("twinlens")


def main(dataset: str, model: str, captioner: str) -> None:
    """Write metrics/*.json, the data of the plots, and per-query values."""
    cost, params, metrics = Cost(), read_params(), paths.METRICS
    gates = Gates(params.gates)
    columns = "image_id", "split", "in_pool", "sha256"
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS, columns)
    gates.check("pool_size", detect_wrong_size(groups, params.datasets[dataset].promised_pool))
    logs = {"model": paths.trained(dataset, model), "captioner": paths.captioned(dataset, captioner)}
    learners = check_learning(gates, params, groups, (dataset, model, captioner), list(logs.values()))
    gates.add(paths.gates("filter", dataset))
    gates.add(paths.ranked(dataset, model) / "gates.json")
    generated = tables.read_table(paths.captioned(dataset, captioner) / "captions.parquet", tables.GENERATED)
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES, ("image_id", "labels"))
    run = RunConditions(dataset, read_precision(paths.cost("embed", dataset, model)), params.resize.shortest_side_px)
    with write_whole(paths.evaluated(dataset, model)) as draft:
        results = measure_all_runs(paths.ranked(dataset, model), dataset, params.evaluate, gates, draft)
        copied = find_near_copies(groups, tables.read_table(paths.grouped(dataset) / COPIES, tables.DUPLICATES))
        apart = measure_apart(draft, copied, f"hit_at_{params.evaluate.ks[0]}")
        gates.check("near_copies", detect_near_copies(groups, copied, learners, apart))
        k = params.evaluate.ks[-1]
        figures = compare_figures(params.models[model], run, params.datasets, results.retrieval, results.intervals)
        write_figures(figures, draft, gates)
        for trouble in find_no_better(paths.ranked(dataset, model), draft, f"ndcg_at_{k}"):
            gates.check("no_better_than_random", trouble)
    inputs = read_inputs(paths.tasks(dataset, captioner) / "inputs")
    for pool in Pool.read_all(paths.ranked(dataset, model)):
        if not pool.as_published:
            chances = {k: pool.chance(k) for k in params.evaluate.ks}
            gates.check("easy_pool", detect_easy_pool(pool.name, len(pool.items), chances))
            told = results.retrieval[pool.name]
            told["pool"] = told["pool"] | describe_ceiling(pool, inputs, params.evaluate.ks)
    cost.write(paths.cost("evaluate", dataset, model), items=results.queries)
    costs = summarise_costs(dataset, model, captioner)
    costs["serving"] = read_serving(dataset, model, costs, results.costs, results.untrained)
    against_cost = build_quality_cost_rows(results.retrieval, results.costs, costs, k)
    write_json(summarise_results(results.retrieval, against_cost, k), metrics / "summary.json")
    write_json(results.retrieval, metrics / "retrieval.json")
    write_json(results.intervals, metrics / "intervals.json")
    gates.write(metrics / "gates.json")
    write_json(results.as_published, metrics / "as_published.json")
    write_json(measure_captions(generated, images), metrics / "captions.json")
    write_json(costs, metrics / "cost.json")
    write_csv(results.curves, metrics / "at_k.csv")
    write_csv(distractors.build_curve(paths.ranked(dataset, model), k), metrics / "distractors.csv")
    write_csv(against_cost, metrics / "quality_cost.csv")
    trained = build_training_rows({name: folder / "training.csv" for name, folder in logs.items()})
    write_csv(trained, metrics / "training.csv", TRAINING)
    log.info(
        "second opinions agree on %s values\n\n%s\n",
        f"{results.compared:,}",
        "\n\n".join([format_results_table(results.retrieval, k), *read_unmeasured(paths.ranked(dataset, model))]),
    )


if __name__ == "__main__":
    run_stage(main)
