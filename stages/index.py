"""Build the search index: a table that is searched by words, by vectors and by both."""

from __future__ import annotations

import logging

from stages.runner import run_stage
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.costs import Cost
from twinlens.indexing.build import publish
from twinlens.indexing.shared import put_table

log = logging.getLogger("twinlens")


def main(dataset: str, model: str, captioner: str) -> None:
    """Build the table, outside DVC, and write the manifest that names it; the table also goes into a bucket, if any."""
    cost, params = Cost(), read_params()
    manifest = publish(
        dataset, model, captioner, params.models[model], params.index, threads=params.compute.decode_threads
    )
    put_table(manifest, params.compute.parts)
    log.info("%s pictures to search: %s", f"{manifest.rows:,}", manifest.folder)
    cost.write(paths.cost("index", dataset, model, captioner), items=manifest.rows)


if __name__ == "__main__":
    run_stage(main)
