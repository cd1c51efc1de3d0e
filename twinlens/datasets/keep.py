"""Selection of the pool's pictures by a card's `keep`, and its agreement with what is known.

Pure rules: the probabilities come from `classifying`, the published ids from a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from twinlens.config.datasets import Keep, Pool
from twinlens.core.errors import DataError, FetchError
from twinlens.datasets.annotations import Annotations, Drop, RawImage
from twinlens.datasets.readers.delimited import read_delimited
from twinlens.datasets.readers.limits import refuse_large
from twinlens.datasets.readers.texts import decode

RULE = "keep"


def select_decided(annotations: Annotations, pool: Pool) -> list[RawImage]:
    """Select the pictures that a card's `keep` is about: those of the pool that are no distractors."""
    return [i for i in annotations.images if not i.distractor and pool in ("all", i.split)]


def apply_keep(
    annotations: Annotations,
    keep: Keep,
    pool: Pool,
    *,
    shares: Mapping[str, float] | None = None,
    class_names: set[str] | None = None,
    from_qrels: set[str] | None = None,
    published: set[str] | None = None,
) -> tuple[Annotations, dict[str, Any]]:
    """Drop what `keep` does not keep, every drop with its reason.

    Args:
        annotations: what the dataset's files say.
        keep: the card's rule.
        pool: the split it is about; pictures of other splits stay.
        shares: the classifier's sum of probabilities of each picture; NaN where it could not be opened.
        class_names: names of the classes summed, to compare with the pictures' own labels.
        from_qrels: ids of the pictures to keep.
        published: ids to compare with.

    Returns:
        The annotations without the dropped pictures, and figures for the dataset's card.
    """
    mine = select_decided(annotations, pool)
    reasons = {image.image_id: _reason(image, keep, shares or {}, from_qrels or set()) for image in mine}
    kept = {image_id for image_id, reason in reasons.items() if reason is None}
    drops: list[Drop] = [("image", image_id, RULE, why) for image_id, why in reasons.items() if why is not None]
    report: dict[str, Any] = {"found": len(reasons), "kept": len(kept)}
    if shares is not None and class_names is not None:
        labelled = {image.image_id: bool(class_names & set(image.labels)) for image in mine if image.labels}
        if labelled:
            report["against_labels"] = measure_agreement(
                kept & labelled.keys(), {i for i, is_one in labelled.items() if is_one}
            )
    if published is not None:
        report["against_published"] = measure_overlap(kept, published, set(reasons))
    if from_qrels is not None:
        report["listed_but_not_here"] = len(from_qrels - reasons.keys())
    gone = reasons.keys() - kept
    images = [image for image in annotations.images if image.image_id not in gone]
    captions = [caption for caption in annotations.captions if caption.image_id not in gone]
    drops += [
        ("caption", c.image_id, RULE, "its picture is not kept") for c in annotations.captions if c.image_id in gone
    ]
    return replace(annotations, images=images, captions=captions, dropped=[*annotations.dropped, *drops]), report


def _reason(image: RawImage, keep: Keep, shares: Mapping[str, float], listed: set[str]) -> str | None:
    """Reason why a picture is not kept; None where it is."""
    if keep.labels is not None:
        return None if set(keep.labels) & set(image.labels) else "shows none of the kinds of objects that are kept"
    if keep.from_qrels is not None:
        return None if image.image_id in listed else "not in the list that is kept"
    assert keep.threshold is not None
    share = shares[image.image_id]
    if math.isnan(share):
        return "could not be opened, so not classified"
    return None if share > keep.threshold else f"probability {share:.3f}, kept above {keep.threshold:g}"


def measure_agreement(kept: set[str], wanted: set[str]) -> dict[str, float]:
    """Compute precision and recall of what was kept against what the labels say should be."""
    both = len(kept & wanted)
    return {
        "wanted": len(wanted),
        "kept_rightly": both,
        "kept_wrongly": len(kept - wanted),
        "missed": len(wanted - kept),
        "precision": round(both / len(kept), 4) if kept else 0.0,
        "recall": round(both / len(wanted), 4) if wanted else 0.0,
    }


def measure_overlap(kept: set[str], published: set[str], here: set[str]) -> dict[str, float]:
    """Measure the overlap of a choice with the published one; a sample is compared over the pictures that it has."""
    both, either = len(kept & published), len(kept | (published & here))
    return {
        "published": len(published),
        "published_and_here": len(published & here),
        "both": both,
        "only_kept": len(kept - published),
        "only_published": len((published & here) - kept),
        "jaccard": round(both / either, 4) if either else 1.0,
    }


def read_qrels(path: Path) -> set[str]:
    """Read the ids of the pictures that a qrels file calls relevant, without their endings.

    Raises:
        FetchError: the file is not there.
        DataError: it has no column `document_id`, a relevance is no number, or it is too large.
    """
    if not path.is_file():
        raise FetchError(f"{path} is not there: the dataset's card names it under `keep`")
    refuse_large(path)
    rows = read_delimited(path, decode(path.read_bytes()), ["document_id"])
    listed = [row["document_id"] for line, row in rows if _read_relevance(path, line, row.get("relevance")) > 0]
    return {str(PurePosixPath(name).with_suffix("")) for name in listed if name}


def _read_relevance(path: Path, line: int, cell: str | None) -> float:
    try:
        return float(cell or 1)
    except ValueError:
        raise DataError(f"{path}, line {line}: the relevance {cell!r:.40} is no number") from None
