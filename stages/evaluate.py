"""Measure every run; write the metrics that git keeps and the values of every query."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from stages.runner import run_stage
from twinlens import paths, tables
from twinlens.costs import Cost
from twinlens.evaluation import Pool, measure_run
from twinlens.naming import caption_figures
from twinlens.params import read_params
from twinlens.reporting import cost_summary, curve_rows, quality_cost_rows, results_table, summary, write_csv
from twinlens.scratch import publishing

log = logging.getLogger("twinlens")


def main(dataset: str, model: str, captioner: str) -> None:
    """Write metrics/*.json, the data of the plots, and per-query values."""
    cost, params = Cost(), read_params()
    ranked, k = paths.ranked(dataset, model), params.evaluate.ks[-1]
    split = json.loads((ranked / "pool.json").read_text())["split"]
    retrieval: dict[str, Any] = {}
    published: dict[str, Any] = {}
    curves, compared, measured_queries = [], 0, 0
    with publishing(paths.evaluated(dataset, model)) as draft:
        for folder in sorted(path for path in ranked.iterdir() if path.is_dir()):
            pool = Pool.read(folder)
            described = {"pool": pool.describe(dataset, split, k)}
            retrieval[pool.name], published[pool.name] = dict(described), dict(described)
            for retriever in pool.retrievers:
                measured = measure_run(pool, retriever, params.evaluate)
                retrieval[pool.name][retriever] = measured.means
                published[pool.name][retriever] = measured.as_published
                curves += curve_rows(pool.name, retriever, measured.curves)
                path = draft / pool.name / f"{retriever}.parquet"
                path.parent.mkdir(exist_ok=True)
                measured.per_query.write_parquet(path)
                compared, measured_queries = compared + measured.compared, measured_queries + len(measured.per_query)
    write_json(retrieval, paths.METRICS / "retrieval.json")
    write_json(published, paths.METRICS / "as_published.json")
    write_csv(curves, paths.METRICS / "at_k.csv")
    generated = tables.read_table(paths.captioned(dataset, captioner) / "captions.parquet", tables.GENERATED)
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    write_json(caption_figures(generated, images), paths.METRICS / "captions.json")
    cost.write(paths.cost("evaluate", dataset, model), items=measured_queries)
    costs = cost_summary(dataset, model, captioner)
    write_json(costs, paths.METRICS / "cost.json")
    against_cost = quality_cost_rows(retrieval, costs, k)
    write_csv(against_cost, paths.METRICS / "quality_cost.csv")
    write_json(summary(retrieval, against_cost, k), paths.METRICS / "summary.json")
    log.info("torchmetrics agrees on %s values\n\n%s\n", f"{compared:,}", results_table(retrieval, k))


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a metrics file, stable in git."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
