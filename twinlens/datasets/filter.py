"""Filter rules for pictures and captions: pure functions on rows, every drop with its reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import polars as pl

from twinlens.config.params import FilterParams
from twinlens.core.errors import DataError
from twinlens.datasets.annotations import SPLITS, Annotations, Drop, RawCaption, RawComposedQuery, RawImage


def resplit(annotations: Annotations, val: float, test: float, seed: int) -> Annotations:
    """Draw the splits of the pictures anew: `val` and `test` are shares of all, `train` the rest.

    A picture's split depends on its id and the seed alone, so it stays when others come or go. All
    captions of a picture are on its side.
    """

    def drawn(image: RawImage) -> str:
        number = int.from_bytes(hashlib.sha256(f"{seed}/{image.image_id}".encode()).digest()[:8], "big") / 2**64
        return "test" if number < test else "val" if number < test + val else "train"

    return replace(annotations, images=[replace(image, split=drawn(image)) for image in annotations.images])


@dataclass
class FilteredTables:
    """The tables of the `filter` stage."""

    images: pl.DataFrame
    captions: pl.DataFrame
    composed_queries: pl.DataFrame
    dropped: pl.DataFrame
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def apply_rules(annotations: Annotations, params: FilterParams) -> FilteredTables:
    """Keep what can be used; list the rest with the rule that dropped it.

    `require_caption` is not asked of a dataset that has no captions at all, nor of distractors; what
    needs captions is left out later, task by task.

    Raises:
        DataError: nothing is left, or a split has an unknown name.
    """
    dropped: list[Drop] = [_readable(drop) for drop in annotations.dropped]
    images = _unique_images(annotations.images, dropped)
    found = Counter(kind for kind, *_ in annotations.dropped)
    found.update(image=len(annotations.images), caption=len(annotations.captions))
    captions = _usable_captions(annotations.captions, images, dropped)
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
    return FilteredTables(
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
    return kind, escape_broken_bytes(name), rule, escape_broken_bytes(reason)


def _unique_images(images: list[RawImage], dropped: list[Drop]) -> dict[str, RawImage]:
    unique: dict[str, RawImage] = {}
    for image in images:
        if image.split not in SPLITS:
            raise DataError(f"image {image.image_id} is in split '{image.split}'; known splits: {', '.join(SPLITS)}")
        names = (image.image_id, image.file, *image.labels)
        if not all(is_unicode(name) for name in names):
            reason = f"not UTF-8: {escape_broken_bytes(', '.join(names))[:80]!r}"
            dropped.append(("image", escape_broken_bytes(image.image_id), "not_utf8", reason))
        elif image.image_id in unique:
            reason = f"{image.file} has the id of {unique[image.image_id].file}"
            dropped.append(("image", image.image_id, "duplicate_id", reason))
        else:
            unique[image.image_id] = image
    return unique


def _usable_captions(
    captions: list[RawCaption], images: dict[str, RawImage], dropped: list[Drop]
) -> list[tuple[str, str]]:
    usable = []
    for caption in captions:
        text = " ".join(caption.text.split())
        if caption.image_id not in images:
            reason = f"no such image: {escape_broken_bytes(text)[:80]!r}"
            dropped.append(("caption", escape_broken_bytes(caption.image_id), "unknown_image", reason))
        elif not text:
            dropped.append(("caption", caption.image_id, "empty", "empty caption"))
        elif not is_unicode(text):
            dropped.append(("caption", caption.image_id, "not_utf8", f"not UTF-8: {escape_broken_bytes(text)[:80]!r}"))
        else:
            usable.append((caption.image_id, text))
    return usable


def _usable_queries(queries: list[RawComposedQuery], kept: set[str], dropped: list[Drop]) -> pl.DataFrame:
    """Table COMPOSED_QUERIES of the pairs whose pictures are both there."""
    usable = []
    for query in queries:
        text = " ".join(query.text.split())
        gone = sorted({query.image_id, query.target_id} - kept)
        if gone:
            reason = f"picture {escape_broken_bytes(gone[0])!r} was dropped, or is not there"
            dropped.append(("query", escape_broken_bytes(query.query_id), "dropped_image", reason))
        elif not text or not is_unicode(text):
            dropped.append(
                (
                    "query",
                    escape_broken_bytes(query.query_id),
                    "no_text",
                    f"unusable text: {escape_broken_bytes(text)[:80]!r}",
                )
            )
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


def is_unicode(text: str) -> bool:
    """Whether the text is whole: bytes that were no UTF-8 have been read as lone surrogates."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def escape_broken_bytes(text: str) -> str:
    """Show a text's broken bytes as such."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
