"""A composed dataset: captions of one part search among the pictures of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from twinlens.config.datasets import ComposedCard, Keep
from twinlens.config.params import FilterParams
from twinlens.core.errors import DataError, FetchError
from twinlens.datasets import make_adapter
from twinlens.datasets.annotations import Annotations, RawCaption, RawImage
from twinlens.datasets.filter import apply_rules
from twinlens.datasets.keep import apply_keep, measure_agreement, measure_overlap, read_qrels, select_decided
from twinlens.datasets.pool import group_images

VEHICLES = ["airplane", "bicycle", "boat", "bus", "car", "truck"]


def scenes(seed: int, **counts: int) -> dict[str, Any]:
    return {"adapter": "scenes", "seed": seed, "side_px": 32, "train": 4, "val": 2, "test": 6} | counts


def card(**changes: Any) -> ComposedCard:
    given = {
        "adapter": "composed",
        "queries": scenes(0),
        "distractors": scenes(1, train=2, val=2, test=8),
        "distractor_labels": VEHICLES,
        "keep": {"labels": VEHICLES},
        "pool": "test",
    }
    return ComposedCard.model_validate(given | changes)


def test_both_parts_are_read_under_ids_that_cannot_meet(tmp_path: Path) -> None:
    raw, made = tmp_path / "raw", make_adapter(card())
    assert made.download(raw) == 24
    found = made.annotations(raw)
    queries = [image for image in found.images if not image.distractor]
    others = [image for image in found.images if image.distractor]
    assert len(queries) == 12
    assert 0 < len(others) <= 12
    assert all(image.image_id.startswith("distractor/") and image.split == "test" for image in others)
    assert {caption.image_id for caption in found.captions} == {image.image_id for image in queries}
    alone = {name: make_adapter(getattr(card(), name)) for name in ("queries", "distractors")}
    mixed = [others[0], queries[0], others[-1], queries[-1]]
    expected = [
        next(iter(alone[name].read_pictures(raw / name, [image.file.split("/", 1)[1]])))
        for name, image in zip(["distractors", "queries"] * 2, mixed, strict=True)
    ]
    assert list(made.read_pictures(raw, [image.file for image in mixed])) == expected


def test_distractors_stay_without_caption_or_label_and_join_the_pool(tmp_path: Path) -> None:
    raw, made = tmp_path / "raw", make_adapter(card())
    made.download(raw)
    keep = card().keep
    assert keep is not None
    annotations, report = apply_keep(made.annotations(raw), keep, "test")
    kept = apply_rules(annotations, FilterParams(require_caption=True, require_label=True))
    distractors = kept.images.filter(pl.col("image_id").str.starts_with("distractor/"))
    assert len(distractors) == sum(image.distractor for image in annotations.images)
    assert report["found"] == 6
    in_test = kept.images.filter((pl.col("split") == "test") & pl.col("labels").list.len().gt(0))
    assert len(in_test) == report["kept"]
    assert all(set(labels) & set(VEHICLES) for labels in in_test["labels"])
    assert len(kept.images.filter(pl.col("split") == "train")) == 4  # `keep` is about the pool
    index = kept.images.select("image_id", shard=pl.lit(0), row=pl.int_range(len(kept.images)), sha256=pl.lit(""))
    groups = group_images(kept.images, kept.captions, index, "test", 2)
    assert groups["in_pool"].sum() == len(in_test) + len(distractors)
    assert groups.filter(pl.col("image_id").str.starts_with("distractor/"))["object_set"].null_count() == len(
        distractors
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": scenes(0) | {"keep": {"labels": ["car"]}}}, "stands on the composed card itself"),
        ({"keep": {"labels": ["car"], "from_qrels": "x"}}, "exactly one of"),
        ({"keep": {"classifier": {"timm": "resnet50"}}}, "goes with `classes` and `threshold`"),
        ({"queries": {"adapter": "objectnet", "source": "x", "selection": "never"}}, "has to say it too"),
    ],
)
def test_a_composed_card_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        card(**changes)


# ---------------------------------------------------------------- keep

CLASSIFIER = {"classifier": {"timm": "resnet50.a1_in1k"}, "classes": "vehicles-49", "threshold": 0.6}
ANNOTATIONS = Annotations(
    [RawImage(i, f"{i}.jpg", "train" if i == "e" else "test", ("car",) if i in "ab" else ("cat",)) for i in "abcde"],
    [RawCaption(i, f"caption of {i}") for i in "abcde"],
)


def test_a_picture_is_kept_when_the_classifier_is_surer_than_the_threshold() -> None:
    keep = Keep.model_validate(CLASSIFIER)
    shares = {"a": 0.9, "b": 0.6, "c": 0.61, "d": float("nan")}
    kept, report = apply_keep(ANNOTATIONS, keep, "test", shares=shares, class_names={"car"})
    assert [image.image_id for image in kept.images] == ["a", "c", "e"]
    assert [caption.image_id for caption in kept.captions] == ["a", "c", "e"]
    assert kept.dropped == [
        ("image", "b", "keep", "probability 0.600, kept above 0.6"),
        ("image", "d", "keep", "could not be opened, so not classified"),
        ("caption", "b", "keep", "its picture is not kept"),
        ("caption", "d", "keep", "its picture is not kept"),
    ]
    assert report["against_labels"] == {
        "wanted": 2, "kept_rightly": 1, "kept_wrongly": 1, "missed": 1, "precision": 0.5, "recall": 0.5,
    }  # fmt: skip


def test_a_published_list_is_taken_instead_and_compared_over_the_pictures_that_are_here(tmp_path: Path) -> None:
    qrels = tmp_path / "qrels.csv"
    qrels.write_text("query_id,document_id,relevance\nq1,a.jpg,1\nq2,a.jpg,1\nq3,d.jpg,1\nq4,c.jpg,0\nq5,gone.jpg,1\n")
    listed = read_qrels(qrels)
    assert listed == {"a", "d", "gone"}
    kept, report = apply_keep(ANNOTATIONS, Keep(from_qrels="x"), "test", from_qrels=listed, published={"a", "b", "z"})
    assert [image.image_id for image in kept.images] == ["a", "d", "e"]
    assert report["listed_but_not_here"] == 1
    assert report["against_published"] == {
        "published": 3, "published_and_here": 2, "both": 1, "only_kept": 1, "only_published": 1, "jaccard": 0.3333,
    }  # fmt: skip


def test_keep_is_about_the_pool_and_no_distractor() -> None:
    distractor = RawImage("x", "x.jpg", "test", (), distractor=True)
    mine = select_decided(Annotations([*ANNOTATIONS.images, distractor], []), "test")
    assert [image.image_id for image in mine] == ["a", "b", "c", "d"]
    assert len(select_decided(ANNOTATIONS, "all")) == 5


def test_agreement_and_overlap_of_nothing_are_no_error() -> None:
    assert measure_agreement(set(), set())["precision"] == 0
    assert measure_overlap(set(), set(), set())["jaccard"] == 1


def test_a_list_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"qrels.csv is not there: the dataset's card names it under `keep`"):
        read_qrels(tmp_path / "qrels.csv")
    (tmp_path / "qrels.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column document_id; found a, b"):
        read_qrels(tmp_path / "qrels.csv")


def test_the_published_list_of_source_004_holds_2145_photos(shared_data: Path) -> None:
    assert len(read_qrels(shared_data / "vehicles" / "qrels.csv")) == 2145
