"""Clock single queries of every retriever, one at a time, on this machine."""

from __future__ import annotations

import json
import logging

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.costs import peak_host_bytes, seconds_since_start
from twinlens.core.scratch import write_whole_text
from twinlens.indexing.clock import Start, clock_model

log = logging.getLogger("twinlens")


def main(dataset: str, model: str) -> None:
    """Write what a query takes, by task and retriever, beside the costs of the other stages."""
    start = Start(seconds_since_start(), peak_host_bytes())
    record = clock_model(read_params(), dataset, model, start)
    write_whole_text(paths.cost("clock", dataset, model), json.dumps(record, indent=2, allow_nan=False) + "\n")
    rows = [row for rows in record["tasks"].values() for row in rows.values()]
    log.info("%d retrievers clocked in %.1f s", len(rows), record["seconds"])


if __name__ == "__main__":
    run_stage(main)
