"""Measure what the vectors lose in fewer bytes, and what that saves."""

from __future__ import annotations

import logging

from stages.runner import run_stage
from twinlens.config.budget import read_budget
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.device import choose_device
from twinlens.core.errors import ParamsError
from twinlens.core.vectors import has_vectors, read_vectors
from twinlens.evaluation.budget import COLUMNS, measure_budget
from twinlens.evaluation.cost import write_csv
from twinlens.evaluation.recommendation import NOT_MEASURED, say_recommended
from twinlens.retrieval.budget import choose_search
from twinlens.tasks.base import read_tasks
from twinlens.tasks.inputs import check_ids, read_inputs

log = logging.getLogger("twinlens")


def main(dataset: str, model: str, captioner: str) -> None:
    """Write metrics/budget.csv: quality, bytes and milliseconds of every setting, and which one to take."""
    params, settings = read_params(), read_budget()
    folder, embedded = paths.tasks(dataset, captioner), paths.embedded(dataset, model)
    inputs, card = read_inputs(folder / "inputs"), params.models[model]
    vectors = {name: read_vectors(embedded, name) for name in inputs if has_vectors(embedded, name)}
    for name, found in vectors.items():
        check_ids(inputs, name, found.ids)
    search = choose_search(read_tasks(folder), vectors, card.shares_a_space, card.matryoshka)
    if search is None:
        log.warning("WARNING: no vector budget: %s", NOT_MEASURED)
        write_csv([], paths.METRICS / "budget.csv", COLUMNS)
        return
    device = str(choose_device(params.compute.device).device)
    rows = measure_budget(search.task, search.queries, search.items, settings, search.known, device)
    try:
        params.refuse_selection("how its vectors are kept would be chosen on it")
        log.info("%s", say_recommended(rows))
    except ParamsError as refusal:
        log.warning("%s. No setting is recommended", refusal)
        rows = [row | {"recommended": False} for row in rows]
    write_csv(rows, paths.METRICS / "budget.csv", COLUMNS)


if __name__ == "__main__":
    run_stage(main)
