"""Which pictures and captions of a dataset are kept: pure rules on rows, every drop with its reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import polars as pl

from twinlens.config.params import FilterParams
from twinlens.core.errors import DataError
from twinlens.datasets.annotations import SPLITS, Annotations, Drop, RawComposedQuery, RawImage
from twinlens.datasets.captions import choose_captions
from twinlens.datasets.spelling import is_unicode, printable


def resplit(annotations: Annotations, val: float, test: float, seed: int) -> Annotations:
    """The same pictures in splits drawn anew: `val` and `test` are shares of all, `train` the rest.

    A picture's split depends on its id and the seed alone, so it stays when others come or go. All
    captions of a picture are on its side.
    """

    def drawn(image: RawImage) -> str:
        number = int.from_bytes(hashlib.sha256(f"{seed}/{image.image_id}".encode()).digest()[:8], "big") / 2**64
        return "test" if number < test else "val" if number < test + val else "train"

    return replace(annotations, images=[replace(image, split=drawn(image)) for image in annotations.images])


@dataclass
class Kept:
    """The tables of the `filter` stage."""

    images: pl.DataFrame
    captions: pl.DataFrame
    composed_queries: pl.DataFrame
    dropped: pl.DataFrame
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def apply_rules(annotations: Annotations, params: FilterParams) -> Kept:
    """Keep what can be used; list the rest with the rule that dropped it.

    `require_caption` is not asked of a dataset that has no captions at all, nor of distractors; what
    needs captions is left out later, task by task.

    Raises:
        DataError: nothing is left, or a split has an unknown name.
    """
    dropped: list[Drop] = [_readable(drop) for drop in annotations.dropped]
    images, ambiguous = _unique_images(annotations.images, dropped)
    found = Counter(kind for kind, *_ in annotations.dropped)
    found.update(image=len(annotations.images), caption=len(annotations.captions))
    captions = choose_captions(annotations, images.keys(), ambiguous, dropped)
    described = {image_id for image_id, _ in captions}
    kept = []
    for image in images.values():
        if image.distractor:
            kept.append(image)
        elif params.require_caption and annotations.captioned and image.image_id not in described:
            dropped.append(("image", image.image_id, "require_caption", "no usable caption"))
        elif params.require_label and not image.labels:
            dropped.append(("image", image.image_id, "require_label", "no labelled object"))
        else:
            kept.append(image)
    if not kept:
        raise DataError(f"no picture of {found['image']} is left after filtering; the first drops: {dropped[:3]}")
    kept_ids = {image.image_id for image in kept}
    orphans = [image_id for image_id, _ in captions if image_id not in kept_ids]
    dropped += [("caption", image_id, "dropped_image", "its picture was dropped") for image_id in orphans]
    composed_queries = _usable_queries(annotations.composed_queries, kept_ids, dropped)
    counts = {
        "images": {"found": found["image"], "kept": len(kept)},
        "captions": {"found": found["caption"], "kept": len(captions) - len(orphans)},
    }
    return Kept(
        images=pl.DataFrame(
            {
                "image_id": [image.image_id for image in kept],
                "file": [image.file for image in kept],
                "split": [image.split for image in kept],
                "labels": [sorted(set(image.labels)) for image in kept],
            },
            schema={"image_id": pl.String, "file": pl.String, "split": pl.String, "labels": pl.List(pl.String)},
        ),
        captions=_numbered((image_id, text) for image_id, text in captions if image_id in kept_ids),
        composed_queries=composed_queries,
        dropped=pl.DataFrame(dropped, schema=dict.fromkeys(("kind", "id", "rule", "reason"), pl.String), orient="row"),
        counts=counts,
    )


def _readable(drop: Drop) -> Drop:
    kind, name, rule, reason = drop
    return kind, printable(name), rule, printable(reason)


def _unique_images(images: list[RawImage], dropped: list[Drop]) -> tuple[dict[str, RawImage], set[str]]:
    """The first picture of each id, and the ids that another picture has too."""
    unique: dict[str, RawImage] = {}
    ambiguous: set[str] = set()
    for image in images:
        if image.split not in SPLITS:
            raise DataError(f"image {image.image_id} is in split '{image.split}'; known splits: {', '.join(SPLITS)}")
        names = (image.image_id, image.file, *image.labels)
        if not all(is_unicode(name) for name in names):
            reason = f"not UTF-8: {printable(', '.join(names))[:80]!r}"
            dropped.append(("image", printable(image.image_id), "not_utf8", reason))
        elif image.image_id in unique:
            reason = f"{image.file} has the id of {unique[image.image_id].file}"
            dropped.append(("image", image.image_id, "duplicate_id", reason))
            if image.file != unique[image.image_id].file:
                ambiguous.add(image.image_id)
        else:
            unique[image.image_id] = image
    return unique, ambiguous


def _usable_queries(queries: list[RawComposedQuery], kept: set[str], dropped: list[Drop]) -> pl.DataFrame:
    """Table COMPOSED_QUERIES of the pairs whose pictures are both there."""
    usable = []
    for query in queries:
        text = " ".join(query.text.split())
        gone = sorted({query.image_id, query.target_id} - kept)
        if gone:
            reason = f"picture {printable(gone[0])!r} was dropped, or is not there"
            dropped.append(("query", printable(query.query_id), "dropped_image", reason))
        elif not is_unicode(query.query_id):
            dropped.append(("query", printable(query.query_id), "not_utf8", "its id is not UTF-8"))
        elif not text or not is_unicode(text):
            dropped.append(("query", printable(query.query_id), "no_text", f"unusable text: {printable(text)[:80]!r}"))
        else:
            usable.append((query.query_id, query.image_id, text, query.target_id, query.gain))
    names = ("query_id", "image_id", "text", "target_id")
    schema = dict.fromkeys(names, pl.String) | {"gain": pl.Float32}
    return pl.DataFrame(usable, schema=schema, orient="row")


def _numbered(captions: Iterable[tuple[str, str]]) -> pl.DataFrame:
    seen: dict[str, int] = {}
    rows = []
    for image_id, text in captions:
        n = seen[image_id] = seen.get(image_id, -1) + 1
        rows.append((f"{image_id}#{n}", image_id, text))
    return pl.DataFrame(rows, schema=dict.fromkeys(("caption_id", "image_id", "text"), pl.String), orient="row")
