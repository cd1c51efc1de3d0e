"""Cards of datasets as they are proposed: what the pictures allow, and the card's text with its comments."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from twinlens.apps.commands.dataset_layouts import Layout
from twinlens.config.cards import adapter_of
from twinlens.config.datasets import DatasetCard, FolderCard, HubCard, ImageClefCard, WebDatasetCard
from twinlens.config.params import FilterParams
from twinlens.core.errors import ParamsError
from twinlens.datasets.adapters.folder import Folder
from twinlens.datasets.adapters.hub import Hub
from twinlens.datasets.adapters.imageclef import ImageClef
from twinlens.datasets.adapters.webdataset import WebDataset
from twinlens.datasets.annotations import SPLITS
from twinlens.datasets.filter import Kept, apply_rules

MANY = 1_000  # captioned pictures to train on: with fewer even a small model learns little
TRAINED, PRETRAINED = "clip-scenes", "vit-b-32"  # cards: the first learns from nothing, the second comes from the hub
CAPTIONER, NO_CAPTIONER = "blip-scenes", "none"
HEADING = """\
# Written by `twinlens new-dataset`: {told}.
# Change what is not as you mean it; docs/datasets.md has all keys. Lines with # before a key are what else there is.
"""
SAMPLES = {  # further keys, as comments
    "classes": "# classes: [dog, cat] # pictures with any other label are dropped, and listed",
    "resplit": "# resplit: {val: 0.1, test: 0.2} # draw train, val and test anew (the rest is train)",
    "shortest_side_px": "# shortest_side_px: 160 # shrink pictures to it, where params.yaml's resize keeps more",
    "selection": "# selection: never # where its licence forbids tuning anything on it",
}


@dataclass(frozen=True)
class Extent:
    """Extent of a dataset, as the filter would keep it."""

    pictures: dict[str, int]  # by split
    captioned: dict[str, int]  # of them, those with a caption
    captions: int
    labels: Counter[str]  # pictures by label
    dropped: dict[str, tuple[int, str]]  # count and first reason, by rule

    @property
    def several(self) -> bool:
        """Whether some pictures have several captions."""
        return self.captions > sum(self.captioned.values())


@dataclass(frozen=True)
class Proposal:
    """What to begin with."""

    pool: str
    model: str
    captioner: str
    why: str


def make_name(folder: Path) -> str:
    """Make a card's name of a folder's: lower-case letters, digits and -."""
    plain = unicodedata.normalize("NFKD", folder.name.partition(".")[0]).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "my-pictures"


def measure_extent(card: DatasetCard, rules: FilterParams) -> Extent | None:
    """Read what the card's adapter finds, by the rules of the filter; None of layouts that take long to read.

    Raises:
        DataError: a file is damaged, or nothing is left.
    """
    if isinstance(card, FolderCard):
        annotations = Folder(card).list_all()
    elif isinstance(card, WebDatasetCard):
        annotations = WebDataset(card).list_all()
    elif isinstance(card, HubCard):
        annotations = Hub(card).list_all()
    elif isinstance(card, ImageClefCard):
        annotations = ImageClef(card).list_all()
    else:
        return None
    kept = apply_rules(annotations, rules)
    described = set(kept.captions["image_id"])
    split_of = dict(kept.images.select("image_id", "split").iter_rows())
    return Extent(
        dict(Counter(split_of.values())),
        dict(Counter(split_of[image_id] for image_id in described)),
        len(kept.captions),
        Counter(label for labels in kept.images["labels"] for label in labels),
        _count_dropped(kept),
    )


def _count_dropped(kept: Kept) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for kind, name, rule, reason in kept.dropped.iter_rows():
        count, first = found.get(f"{kind}: {rule}", (0, f"{name}: {reason}"))
        found[f"{kind}: {rule}"] = (count + 1, first)
    return found


def propose(extent: Extent | None) -> Proposal:
    """Propose pool, model and captioner: what can be trained is, all else comes trained.

    Args:
        extent: None where it was not read.
    """
    if extent is None:
        return Proposal("all", PRETRAINED, NO_CAPTIONER, "what there is to train on is seen once it has run")
    held = [split for split in SPLITS if extent.pictures.get(split)]
    pool = "all" if len(held) == 1 else "test" if "test" in held else "val"
    to_learn, to_choose = extent.captioned.get("train", 0), extent.captioned.get("val", 0)
    if len(held) == 1 and held[0] != "train":
        why = "there is no split to train on (`resplit` on the card would draw one)"
    elif pool == "all":
        why = "all pictures are of one split (`resplit` on the card would draw others)"
    elif to_learn < MANY:
        why = f"{to_learn:,} captioned pictures to train on are too few: a small model wants {MANY:,}"
    elif not to_choose or pool == "val":
        why = "training needs captioned pictures in the splits train and val, and others to measure on"
    else:
        return Proposal(pool, TRAINED, CAPTIONER, f"there are {to_learn:,} captioned pictures to train on")
    return Proposal(pool, PRETRAINED, NO_CAPTIONER, why)


def format_card(layout: Layout, pool: str, told: str) -> str:
    """Format the card as YAML with comments, one key a line.

    Raises:
        ParamsError: it would be no valid card, as a path holds a $, which cards take for a variable's.
    """
    card = layout.card | ({} if "pool" in layout.card else {"pool": pool})
    remarks = {"pool": "the split whose pictures are queries and items: all, train, val or test"} | layout.remarks
    lines = [HEADING.format(told=told).rstrip("\n")]
    for key, value in card.items():
        lines += _format_entry(key, value, remarks, "", "")
    lines += [sample for key, sample in SAMPLES.items() if _may_have(card, key)]
    lines += ["about:", "  licence: yours"]
    text = "\n".join(lines) + "\n"
    check_text(text)
    return text


def check_text(text: str) -> DatasetCard:
    """Read a card's text back.

    Raises:
        ParamsError: it is not a valid card, or its paths would not be read as they stand.
    """
    content = yaml.safe_load(text)
    for key in ("images", "table", "source"):
        if "$" in str(content.get(key, "")):
            raise ParamsError(
                f"{content[key]} holds a $, which cards take for a variable's: name it through a link without one"
            )
    try:
        card: DatasetCard = adapter_of(DatasetCard).validate_python(content)
    except ValidationError as error:
        raise ParamsError(f"the card would not be valid: {error}") from None
    return card


def _may_have(card: Mapping[str, Any], key: str) -> bool:
    if key in card:
        return False
    labelled = "label" in card.get("columns", {}) or (card["adapter"] == "folder" and "table" not in card)
    return key != "classes" or labelled


def _format_entry(key: str, value: Any, remarks: Mapping[str, str], above: str, indent: str) -> list[str]:
    said = remarks.get(f"{above}{key}")
    comment = f" # {said}" if said else ""
    if isinstance(value, dict):
        inner = [
            line for own, one in value.items() for line in _format_entry(own, one, remarks, f"{key}.", f"{indent}  ")
        ]
        return [f"{indent}{key}:{comment}", *inner]
    if isinstance(value, list):
        return [f"{indent}{key}:{comment}", *(f"{indent}- {_format_value(one)}" for one in value)]
    return [f"{indent}{key}: {_format_value(value)}{comment}"]


def _format_value(value: Any) -> str:
    text = yaml.safe_dump(value, allow_unicode=True, width=10**9).removesuffix("\n")
    return text.removesuffix("\n...")
