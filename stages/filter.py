"""Read a dataset's annotations and keep what can be used."""

from __future__ import annotations

import json
import logging
from collections import Counter

from stages.runner import run_stage
from twinlens import datasets, filtering, paths, tables
from twinlens.costs import Cost
from twinlens.params import read_params

log = logging.getLogger("twinlens")


def main(dataset: str) -> None:
    """Write the tables of pictures, captions and drops."""
    cost, params, out = Cost(), read_params(), paths.filtered(dataset)
    annotations = datasets.adapter(params.datasets[dataset]).annotations(paths.raw(dataset))
    kept = filtering.apply_rules(annotations, params.filter)
    tables.write_table(kept.images, out / "images.parquet", tables.IMAGES)
    tables.write_table(kept.captions, out / "captions.parquet", tables.CAPTIONS)
    tables.write_table(kept.dropped, out / "dropped.parquet", tables.DROPPED)
    rules = dict(Counter(zip(kept.dropped["kind"], kept.dropped["rule"], strict=True)))
    dropped = {f"{kind}: {rule}": n for (kind, rule), n in sorted(rules.items())}
    (out / "counts.json").write_text(json.dumps(kept.counts | {"dropped": dropped}, indent=2) + "\n")
    log.info(
        "%s: kept %s of %s pictures and %s of %s captions%s",
        dataset,
        f"{kept.counts['images']['kept']:,}",
        f"{kept.counts['images']['found']:,}",
        f"{kept.counts['captions']['kept']:,}",
        f"{kept.counts['captions']['found']:,}",
        "".join(f"; {n} {rule}" for rule, n in dropped.items()),
    )
    cost.write(paths.cost("filter", dataset), items=len(annotations.images))


if __name__ == "__main__":
    run_stage(main)
