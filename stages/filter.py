"""Read a dataset's annotations and keep what can be used."""

from __future__ import annotations

import json
import logging
from collections import Counter
from functools import partial
from typing import Any

import polars as pl

from stages.runner import run_stage
from twinlens import datasets
from twinlens.config.datasets import DatasetCard, Keep
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import Params
from twinlens.core import paths, tables
from twinlens.core.costs import Cost
from twinlens.core.scratch import write_whole
from twinlens.core.stored_tables import StoredTable
from twinlens.datasets import checks, keep_lists
from twinlens.datasets import filter as filtering
from twinlens.datasets import keep as keeping
from twinlens.datasets.annotations import Annotations
from twinlens.datasets.classes import read_classes
from twinlens.datasets.pictures import open_pictures
from twinlens.engines import open_engine

log = logging.getLogger("twinlens")


def main(dataset: str) -> None:
    """Write the tables of pictures, captions and drops."""
    cost, params = Cost(), read_params()
    card = params.datasets[dataset]
    annotations = datasets.make_adapter(card).annotations(paths.raw(dataset))
    found = len(annotations.images)
    if card.resplit is not None:
        annotations = filtering.resplit(annotations, card.resplit.val, card.resplit.test, card.resplit.seed)
    report: dict[str, Any] = {}
    classified: pl.DataFrame | None = None
    if card.keep is not None:
        annotations, report, classified = keep(annotations, card, card.keep, dataset, params)
    kept = filtering.apply_rules(annotations, params.filter)
    rules = Counter((kind, rule) for kind, _, rule, _ in kept.drops)
    dropped = {f"{kind}: {rule}": n for (kind, rule), n in sorted(rules.items())}
    counts = kept.counts | {"dropped": dropped} | ({"keep": report} if report else {})
    with write_whole(paths.filtered(dataset)) as draft:
        kept.write(draft)
        if classified is not None:
            tables.write_table(classified, draft / "classified.parquet", tables.CLASSIFIED)
        (draft / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
    log.info(
        "%s: kept %s of %s pictures and %s of %s captions%s",
        dataset,
        f"{kept.counts['images']['kept']:,}",
        f"{kept.counts['images']['found']:,}",
        f"{kept.counts['captions']['kept']:,}",
        f"{kept.counts['captions']['found']:,}",
        "".join(f"; {n} {rule}" for rule, n in dropped.items()),
    )
    gates = Gates(params.gates)
    images = StoredTable(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    captions = StoredTable(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS)
    gates.check("misplaced_captions", checks.detect_misplaced_captions(images, captions))
    gates.check("label_spelling", checks.detect_label_spellings(images))
    gates.check("generic_text", checks.detect_generic_text(captions, images))
    gates.write(paths.gates("filter", dataset))
    cost.write(paths.cost("filter", dataset), items=found)


def keep(
    annotations: Annotations, card: DatasetCard, rule: Keep, dataset: str, params: Params
) -> tuple[Annotations, dict[str, Any], pl.DataFrame | None]:
    """Apply the card's `keep`; returns what is kept, a report on it and, where a classifier decides, what it found."""
    lists = keep_lists.read_recorded(rule, paths.raw(dataset), dataset)
    shares, classified = None, None
    if rule.classifier is not None:
        classified = classify_pictures(annotations, card, rule, dataset, params)
        shares = dict(zip(classified["image_id"], classified["share"], strict=True))
    annotations, report = keeping.apply_keep(
        annotations,
        rule,
        card.pool,
        shares=shares,
        class_names=set(read_classes(rule.classes).values()) if rule.classes else None,
        from_qrels=lists.get("from_qrels"),
        published=lists.get("published"),
    )
    log.info("%s: %s", dataset, json.dumps(report))
    return annotations, report, classified


def classify_pictures(
    annotations: Annotations, card: DatasetCard, rule: Keep, dataset: str, params: Params
) -> pl.DataFrame:
    """Classify every picture that `keep` is about: the classifier's sum of probabilities, as `tables.CLASSIFIED`."""
    from twinlens.inference.classify import sum_class_shares  # imports torch; most datasets need no classifier

    assert rule.classifier is not None
    mine, raw = keeping.select_decided(annotations, card.pool), paths.raw(dataset).absolute()
    with open_engine(params.compute) as engine:
        shares = sum_class_shares(
            partial(open_pictures, card, raw),
            [image.file for image in mine],
            rule.classifier,
            sorted(read_classes(rule.classes or "")),
            engine,
            raw="".join(path.read_text() for path in sorted(raw.rglob("manifest.json"))),
            max_megapixels=params.resize.max_megapixels,
        )
    return pl.DataFrame({"image_id": [image.image_id for image in mine], "share": shares})


if __name__ == "__main__":
    run_stage(main)
