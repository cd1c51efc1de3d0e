"""Fit how sure a search by words is of the first picture that it finds."""

from __future__ import annotations

import json
import logging
from typing import Any

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.device import choose_device
from twinlens.core.errors import ParamsError
from twinlens.core.scratch import write_whole_file, write_whole_text
from twinlens.core.vectors import has_vectors, read_vectors
from twinlens.retrieval.calibration import Calibrated, fit_or_explain, write_coverage
from twinlens.retrieval.known import LEARNED_FROM
from twinlens.tasks.inputs import CAPTIONS, IMAGES, check_ids, read_inputs

log = logging.getLogger("twinlens")


def main(dataset: str, model: str, captioner: str) -> None:
    """Write the rule, or why there is none, and metrics/confidence.csv: what is right of what is answered."""
    params, embedded = read_params(), paths.embedded(dataset, model)
    inputs = read_inputs(paths.tasks(dataset, captioner) / "inputs")
    wanted = (IMAGES, CAPTIONS, *LEARNED_FROM)
    vectors = {name: read_vectors(embedded, name) for name in wanted if has_vectors(embedded, name)}
    for name, found in vectors.items():
        check_ids(inputs, name, found.ids)
    device, card, form = str(choose_device(params.compute.device).device), params.models[model], params.index.form
    try:
        params.refuse_selection("what makes it sure would be chosen on it")
    except ParamsError as refusal:
        calibrated = Calibrated.without(str(refusal))
    else:
        calibrated = fit_or_explain(vectors, model, card.shares_a_space, device, form, card.matryoshka)
    told: dict[str, Any] = {"vectors": form.name} | calibrated.as_json()
    write_whole_text(paths.calibrated(dataset, model), json.dumps(told, indent=2) + "\n")
    with write_whole_file(paths.METRICS / "confidence.csv") as draft:
        write_coverage(calibrated.rows, draft)
    log.info("%s", calibrated.say())


if __name__ == "__main__":
    run_stage(main)
