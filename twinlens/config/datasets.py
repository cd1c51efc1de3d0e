"""Cards of datasets: where the files come from, which columns or classes are read, and what is kept of them.

A card that is read is complete by itself, so that a stage may depend on it alone: a composed dataset holds the
cards of its parts rather than their names (in its file, `base:` may name them).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from twinlens.config.base import Card, Origin, Weights
from twinlens.config.columns import FolderColumns, ParquetColumns
from twinlens.config.models import TimmTower
from twinlens.config.numbers import Count, CountOrZero, Flag, InnerShare, Seed, Side
from twinlens.core.download import is_url

Split = Literal["train", "val", "test"]
Pool = Literal["all", "train", "val", "test"]


def _refuse_odd_wildcard(pattern: str) -> str:
    parts = pattern.split("/")
    if not pattern or "\0" in pattern or parts[0] in ("", "~") or ".." in parts:
        raise ValueError("wanted a name below the folder, with wildcards: data/train-*.parquet")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError("`**` stands for any folders, between slashes: data/**/*.tar")
    return pattern


Wildcard = Annotated[str, AfterValidator(_refuse_odd_wildcard)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class TransformersClassifier(Weights):
    """An image classifier of transformers, with the image processor that lies beside its weights."""

    family: ClassVar[str] = "transformers"
    transformers: str  # hub repository

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.revision is None and self.checkpoint is None:
            raise ValueError("pin the classifier with `revision`, or name its folder as `checkpoint`")
        if self.sha256 is not None:
            raise ValueError("`sha256` is of a file; a transformers classifier is a folder")
        return self


def _library(value: Any) -> str | None:
    """The library of a classifier is the key that names it."""
    if isinstance(value, Weights):
        return getattr(value, "family", None)
    found = [key for key in ("timm", "transformers") if isinstance(value, dict) and key in value]
    return found[0] if len(found) == 1 else None


ClassifierCard = Annotated[
    Annotated[TimmTower, Tag("timm")] | Annotated[TransformersClassifier, Tag("transformers")],
    Discriminator(
        _library,
        custom_error_type="classifier_library",
        custom_error_message="a classifier is named by one key: `timm` or `transformers`",
    ),
]


class Keep(Card):
    """Selection of the pool's pictures, where a dataset is a part of another: by one of three means."""

    classifier: ClassifierCard | None = None  # an ImageNet classifier; its probabilities over `classes` are summed
    classes: str | None = None  # a list in twinlens/datasets/classes
    threshold: InnerShare | None = None  # pictures whose sum is above it are kept
    from_qrels: str | None = None  # a CSV file with a column document_id: exactly these pictures are kept
    labels: list[str] | None = None  # pictures that show one of these are kept
    published: str | None = None  # such a CSV file, only to compare with what was kept

    @model_validator(mode="after")
    def _one_means(self) -> Self:
        given = [self.classifier is not None, self.from_qrels is not None, self.labels is not None]
        if sum(given) != 1:
            raise ValueError("`keep` needs exactly one of `classifier`, `from_qrels` and `labels`")
        if (self.classifier is not None) != (self.threshold is not None and self.classes is not None):
            raise ValueError("`classifier` goes with `classes` and `threshold`, and only with them")
        return self


class Resplit(Card):
    """Newly drawn splits, by picture: for data that come without any, or whose own are of no use."""

    val: InnerShare  # share of all pictures
    test: InnerShare  # the rest is train
    seed: Seed = 0

    @model_validator(mode="after")
    def _some_train(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val and test are {self.val + self.test:g} of all pictures together: nothing to train on")
        return self


class BaseDatasetCard(Card):
    """Fields that every dataset's card may have."""

    pool: Pool = "all"  # the pictures that are queries and items
    resplit: Resplit | None = None  # draw train, val and test anew; empty: as the dataset has them
    pool_size: Count | None = None  # pictures that the pool should hold; a gate compares
    keep: Keep | None = None
    shortest_side_px: Side | None = None  # a smaller limit than resize.shortest_side_px, for this dataset
    selection: Literal["allowed", "never"] = "allowed"  # never: its licence forbids tuning anything on it
    origin: Origin | None = Field(default=None, exclude=True)  # the dataset that it is a part of; decides no result

    @property
    def promised_pool(self) -> int | None:
        """Number of pictures that the pool should hold; None where the card does not say."""
        return self.pool_size

    @property
    def origins(self) -> list[str]:
        """The datasets that its pictures come from, as far as the card knows."""
        return [] if self.origin is None else [self.origin]


class ScenesCard(BaseDatasetCard):
    """Pictures drawn by the project itself."""

    adapter: Literal["scenes"]
    seed: Seed = 0
    train: Count
    val: Count
    test: Count
    edits: CountOrZero = 0  # composed queries: so many pictures, each one of `test` with one thing changed
    side_px: Annotated[int, Field(strict=True, ge=32, le=1024)] = 128
    pool: Pool = "test"

    @property
    def promised_pool(self) -> int | None:
        """Number of pictures that the pool should hold: those drawn for it, unless `keep` takes some of them out."""
        if self.pool_size is not None or self.keep is not None:
            return self.pool_size
        drawn = {"train": self.train, "val": self.val, "test": self.test + self.edits}
        return sum(drawn.values()) if self.pool == "all" else drawn[self.pool]


class CocoCard(BaseDatasetCard):
    """COCO 2017 as its publishers ship it: zip archives of photos and of JSON annotations."""

    adapter: Literal["coco"]
    parts: list[Literal["train2017", "val2017"]] = Field(min_length=1)
    split: Literal["published", "karpathy"] = "published"  # karpathy: of dataset_coco.json, restval counts as train
    source: str | None = None  # a folder or mirror that holds the archives; the publishers' site if absent
    verify: Flag = True  # against the publishers' sizes and SHA-256; a folder of your own may hold a subset
    folder: str = "{part}"  # of the photos within their archives; empty where none is, or where `file_name` has it

    @model_validator(mode="after")
    def _folder_is_within(self) -> Self:
        if self.folder.startswith(("/", "\\")) or ".." in self.folder.replace("\\", "/").split("/"):
            raise ValueError(f"`folder` is one within the archives, as my/{{part}}; found {self.folder!r}")
        if set(re.findall(r"[{}][^{}]*[{}]?", self.folder)) - {"{part}"}:
            raise ValueError(f"`folder` may hold {{part}} (train2017 or val2017), found {self.folder!r}")
        return self


class HubFiles(BaseDatasetCard):
    """A dataset whose files are on the Hugging Face hub."""

    repository: str  # owner/name
    revision: Commit | None = None  # needed unless `source` names a folder or mirror
    source: str | None = None  # a folder (or, for single files, a mirror) with the repository's files

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.source is None and self.revision is None:
            raise ValueError("pin the hub's repository with `revision`, or name a folder as `source`")
        return self


class Flickr30kCard(HubFiles):
    """Flickr30k in the layout of the hub's nlphuji/flickr30k: a zip of photos and a CSV with Karpathy's split."""

    adapter: Literal["flickr30k"]
    repository: str = "nlphuji/flickr30k"


class Flickr8kCard(BaseDatasetCard):
    """Flickr8k: photos and the text files with captions and splits, each as a zip or unpacked."""

    adapter: Literal["flickr8k"]
    source: str | None = None  # a folder or a mirror


class HubCard(HubFiles):
    """Any dataset of Parquet files."""

    adapter: Literal["hub"]
    files: dict[Split, Wildcard] = Field(min_length=1)  # of each split, with wildcards, within the repository
    columns: ParquetColumns
    classes: list[str] | None = None  # names of numbered labels; if absent, those the files carry


class ImageNetCard(HubFiles):
    """ILSVRC 2012 in the layout of the hub's ILSVRC/imagenet-1k; only pictures of the listed classes are read."""

    adapter: Literal["imagenet"]
    repository: str = "ILSVRC/imagenet-1k"
    classes: str = "imagenet-1k"  # a list in twinlens/datasets/classes
    files: dict[Split, Wildcard] = {"train": "data/train-*.parquet", "val": "data/validation-*.parquet"}
    captions: Literal["none", "label"] = "none"  # label: "a photo of a <name>", for models that need a caption


class ObjectNetCard(BaseDatasetCard):
    """ObjectNet as unpacked from its archives: a folder of photos for each class, and files of labels."""

    adapter: Literal["objectnet"]
    source: str  # the folder objectnet-1.0
    selection: Literal["never"]  # its licence: no parameter of any model may be tuned on it
    pool: Pool = "test"


class CaptionedPart(Card):
    """One split's pictures and its table of captions."""

    images: str  # a folder or a zip
    captions: str  # CSV, TSV, JSONL or Parquet


class ImageClefCard(BaseDatasetCard):
    """Captioned radiology as ImageCLEF and ROCO ship it: for each split, pictures and a table of captions."""

    adapter: Literal["imageclef"]
    source: str  # the folder that holds the parts
    parts: dict[Split, CaptionedPart] = Field(min_length=1)
    id: str = "ID"  # column: the picture's name without its ending
    caption: str = "Caption"


class FolderCard(BaseDatasetCard):
    """Your own pictures: a folder (or zip), and a table of captions and labels."""

    adapter: Literal["folder"]
    images: str
    table: str | None = None  # CSV, TSV, JSONL, JSON or Parquet; if absent, a picture's label is the folder it lies in
    columns: FolderColumns | None = None
    separator: str | None = None  # between several labels in one cell
    classes: list[str] | None = None  # rows with any other label are dropped and listed

    @model_validator(mode="after")
    def _columns_of_a_table(self) -> Self:
        if (self.table is None) != (self.columns is None):
            raise ValueError("`table` goes with `columns`")
        return self


class WebDatasetCard(BaseDatasetCard):
    """WebDataset: tar shards in which the files of one sample share a name and differ in their endings."""

    adapter: Literal["webdataset"]
    source: str  # a folder
    shards: dict[Split, Wildcard] = Field(min_length=1)  # of each split, with wildcards, within the folder
    # Endings. Where a sample has several, the first of this list is its picture.
    image: list[str] = [
        *("jpg", "jpeg", "png", "webp", "jpe", "jfif", "gif", "bmp", "tif", "tiff", "avif", "ppm", "pgm", "pbm", "pnm")
    ]
    caption: str | None = "txt"  # ending; one caption a line
    label: str | None = None  # ending; one label a line, as `cls`
    metadata: str | None = None  # ending of a JSON file, with the two keys below
    caption_key: str | None = None
    label_key: str | None = None


SimpleCard = Annotated[
    ScenesCard
    | CocoCard
    | Flickr30kCard
    | Flickr8kCard
    | HubCard
    | ImageNetCard
    | ObjectNetCard
    | ImageClefCard
    | FolderCard
    | WebDatasetCard,
    Field(discriminator="adapter"),
]


class ComposedCard(BaseDatasetCard):
    """Pictures that captions search for, among distractors: pictures without captions from elsewhere.

    `keep` decides among the pictures of `queries`; `pool` is a split of theirs, and distractors join it.
    """

    adapter: Literal["composed"]
    queries: SimpleCard
    distractors: SimpleCard
    distractor_labels: list[str] | None = None  # only distractors that show one of these

    @property
    def origins(self) -> list[str]:
        """The datasets that the pictures of its parts come from, as far as the cards know."""
        every = [*super().origins, *self.queries.origins, *self.distractors.origins]
        return list(dict.fromkeys(every))

    @model_validator(mode="after")
    def _decided_here(self) -> Self:
        if any(card.resplit is not None for card in (self, self.queries, self.distractors)):
            raise ValueError("a composed dataset keeps the splits of its parts: `resplit` is for others")
        if self.queries.keep is not None or self.distractors.keep is not None:
            raise ValueError("a composed dataset's `keep` stands on the composed card itself")
        if "never" in (self.queries.selection, self.distractors.selection) and self.selection != "never":
            raise ValueError("a part says `selection: never`: the composed card has to say it too")
        return self


DatasetCard = Annotated[SimpleCard | ComposedCard, Field(discriminator="adapter")]


def list_places(card: DatasetCard) -> list[str]:
    """List the folders and files that a card names on this machine, as it writes them; none where all is elsewhere."""
    cards = [card.queries, card.distractors] if isinstance(card, ComposedCard) else [card]
    named = [getattr(one, key, None) for one in cards for key in ("images", "table", "source")]
    if card.keep is not None:
        named += [card.keep.from_qrels, card.keep.published]
    return list(dict.fromkeys(place for place in named if isinstance(place, str) and not is_url(place)))
