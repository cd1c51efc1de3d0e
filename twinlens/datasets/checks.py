"""Faults of a dataset's annotations, for the sanity gates.

Captions under wrong pictures, labels in two spellings, one text under many captions. Each function says in words what
is wrong, or `None`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float64, Int

from twinlens.core.id_rows import hash_ids
from twinlens.core.stored_tables import Table, iter_slices
from twinlens.datasets.described import choose_described, list_columns

WORD = re.compile(r"[^\W_]+")

# Captions and labels. A block needs so many pictures whose captions name some label for its share of right names to be
# known; more and larger blocks than these would find nothing that they do not.
PER_BLOCK = 60
MOST_BLOCKS = 20
MOST_PER_BLOCK = 1_000
COMMON = 2.0  # times as often named as shown: a word of everyday (an orange car, of a label for fruit)
EVERYWHERE = 0.9  # share of the pictures beyond which a label tells none apart
GONE = 1 / 3  # of the advantage elsewhere
DEVIATIONS = 4.3  # standard deviations; chance exceeds it once in 100,000 times, in one of 20 blocks in 5,000
EXPECTED_DEVIATIONS = 10.0  # that an advantage of a quarter would show; with less to go by, its absence says nothing

# One text under many captions: of a benchmark's captions none stands under one in a hundred (of the drawn scenes the
# commonest has 0.3 %), so at this share it is no description; few captions may be alike by chance.
GENERIC_SHARE = 0.1
GENERIC_CAPTIONS = 20
LOTS = 2**16  # values of the hash by which texts are counted first
EACH_SHARE = 0.05  # of each of several such texts: captions that are made of class names have more than 20 of them


# ------------------------------------------------------------ captions and labels


@dataclass(frozen=True)
class NamedLabels:
    """The labels that captions name, of the pictures whose captions name any, in the dataset's order."""

    image_ids: list[str]  # by place, of a picture once for each of its captions
    named: Int[np.ndarray, " pictures"]  # labels that a picture's captions name
    right: Int[np.ndarray, " pictures"]  # of these, those of its own
    by_chance: Float64[np.ndarray, " pictures"]  # of these, those of another picture of its block, on average
    block: Int[np.ndarray, " pictures"]
    names: list[str]  # of the blocks, as a message calls them


def detect_misplaced_captions(images: Table, captions: Table) -> str | None:
    """Detect captions that stand under other pictures than those they describe, in all of the data or in a part.

    Of the labels that a picture's captions name some are its own. How many more than of another picture of the same
    block of the dataset (its neighbours, which are most alike) is their advantage. Where it is missing in the whole,
    though it would show, or in a block in which it is below a third of what it is elsewhere (by 4.3 standard errors
    over pictures), captions and pictures do not belong together. Blocks are parts of the dataset's order, then its
    splits, then the first captions of all pictures, the second ones and so on, as columns of a table hold them.

    Args:
        images: `image_id`, `labels`, maybe `split`, in the dataset's order; without labels there is nothing to say.
        captions: `image_id`, `text`, in their order.
    """
    described = _describe(images, captions)
    found = _find_named(described, "order")
    if found is None:
        return None
    excess = found.right - found.by_chance
    room = found.named - found.by_chance
    scale = float(np.sqrt((excess**2).sum()))
    if scale == 0 or excess.sum() < DEVIATIONS * scale:
        if scale > 0 and 0.25 * room.sum() >= EXPECTED_DEVIATIONS * scale:
            return (
                f"captions name the labels of their own pictures no more often than those of others: "
                f"{_share(found.right, found.named)} of the labels named are the picture's own, "
                f"{_share(found.by_chance, found.named)} would be another's: "
                "do captions stand under the right pictures?"
            )
        return None
    for by in ("order", "split", "place"):
        parts = found if by == "order" else _find_named(described, by)
        if parts is not None and (fault := _find_fallen(parts)) is not None:
            return fault
    return None


def _find_fallen(found: NamedLabels) -> str | None:
    """Find the blocks whose captions name their pictures' labels far less often than others do, and say so."""
    excess, room = found.right - found.by_chance, found.named - found.by_chance
    blocks = [np.flatnonzero(found.block == number) for number in range(found.block.max() + 1)]
    advantages = [excess[rows].sum() / max(1e-12, room[rows].sum()) for rows in blocks]
    usual = GONE * float(np.quantile(advantages, 0.75))  # of the better part, as more than half may be misplaced
    wrong = [number for number, rows in enumerate(blocks) if _falls_short(excess[rows] - usual * room[rows])]
    if not wrong:
        return None
    there, elsewhere = np.isin(found.block, wrong), ~np.isin(found.block, wrong)
    return (
        f"captions do not name the labels of their pictures in {_say_where(found, wrong)}: "
        f"{_share(found.right[there], found.named[there])} of the labels named there are the picture's own, "
        f"{_share(found.by_chance[there], found.named[there])} would be another's, "
        f"and {_share(found.right[elsewhere], found.named[elsewhere])} are elsewhere: "
        "do these captions stand under the right pictures?"
    )


def _say_where(found: NamedLabels, wrong: Sequence[int]) -> str:
    if not found.names:
        rows = np.flatnonzero(np.isin(found.block, wrong))
        part = f"from {found.image_ids[rows[0]]} to {found.image_ids[rows[-1]]}"
        return f"{len(wrong)} of {found.block.max() + 1} parts of the dataset, {part}"
    return " and ".join(found.names[number] for number in wrong)


def find_named_labels(images: Table, captions: Table, by: str = "order") -> NamedLabels | None:
    """Find which labels captions name, by parts of the data; None where too few do to say anything.

    A label is named where its words stand side by side, the last in the singular or plural. Labels without a letter
    (numbers of classes), those of nearly all pictures, and those whose words are used at least twice as often as the
    label is shown, are left out: their names say nothing of a picture.

    Args:
        images: `image_id`, `labels`, for `by="split"` also `split`.
        captions: `image_id`, `text`.
        by: what the blocks are: parts of the `order`, a `split`, or the `place` of a caption among its picture's.
    """
    return _find_named(_describe(images, captions), by)


def _describe(images: Table, captions: Table) -> pl.DataFrame:
    split = ["split"] if "split" in list_columns(images) else []
    labelled = pl.col("labels").list.len() > 0
    return choose_described(images, captions, ["labels", *split], labelled, MOST_BLOCKS * MOST_PER_BLOCK)


def _find_named(rows: pl.DataFrame, by: str) -> NamedLabels | None:
    if by == "split" and "split" not in rows.columns:
        return None
    if by == "place":
        each = pl.col("text").list.len()
        rows = rows.gather_every(max(1, -(-int(rows["text"].list.len().sum()) // (MOST_BLOCKS * MOST_PER_BLOCK))))
        rows = rows.with_columns(place=pl.int_ranges(each)).explode("text", "place")
        rows = rows.with_columns(text=pl.concat_list("text"))
    if len(rows) < PER_BLOCK:
        return None
    known = _spellings(label for labels in rows["labels"] for label in labels)
    named = [{label for text in own for label in _named_in(text, known)} for own in rows["text"]]
    shown = [set(labels) for labels in rows["labels"].to_list()]
    telling = _telling_labels(named, shown)
    named = [own & telling for own in named]
    speaking = [row for row, own in enumerate(named) if own]
    names: list[str] = []
    if by != "order":
        title = "the split {}" if by == "split" else "captions no. {} of each picture"
        part = [title.format(name + 1 if by == "place" else name) for name in rows[by]]
        sizes = Counter(part[row] for row in speaking)
        names = [name for name in dict.fromkeys(part) if sizes[name] >= PER_BLOCK][:MOST_BLOCKS]
        speaking = [row for row in speaking if part[row] in names]
    if len(speaking) < PER_BLOCK or len(names) == 1:
        return None
    count = min(MOST_BLOCKS, len(speaking) // PER_BLOCK)
    block = np.arange(len(speaking)) * count // len(speaking)
    if names:
        count, block = len(names), np.array([names.index(part[row]) for row in speaking])
    by_chance = np.zeros(len(speaking))
    for number in range(count):
        mine = np.flatnonzero(block == number)
        rates = Counter(label for at in mine for label in shown[speaking[at]])
        by_chance[mine] = [_expect(named[speaking[at]], shown[speaking[at]], rates, len(mine)) for at in mine]
    return NamedLabels(
        [rows["image_id"][row] for row in speaking],
        np.array([len(named[row]) for row in speaking]),
        np.array([len(named[row] & shown[row]) for row in speaking]),
        by_chance,
        block,
        names,
    )


def _expect(named: set[str], shown: set[str], rates: Counter[str], pictures: int) -> float:
    """How many of the named labels another picture of the block shows, on average."""
    return sum(rates[label] - (label in shown) for label in named) / (pictures - 1)


def _falls_short(values: Float64[np.ndarray, " pictures"]) -> bool:
    """Whether the mean over pictures is below 0 by more than chance."""
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return bool(values.mean() < -DEVIATIONS * error) if error > 0 else bool(values.mean() < 0)


def _share(part: np.ndarray, whole: np.ndarray) -> str:
    return f"{100 * part.sum() / max(1, whole.sum()):.0f} %"


def _telling_labels(named: Sequence[set[str]], shown: Sequence[set[str]]) -> set[str]:
    often, there = Counter(label for own in named for label in own), Counter(label for own in shown for label in own)
    return {
        label
        for label, count in often.items()
        if any(map(str.isalpha, label)) and count < COMMON * there[label] and there[label] < EVERYWHERE * len(shown)
    }


Spellings = Mapping[tuple[str, ...], str]


def _spellings(labels: Iterable[str]) -> Spellings:
    """The labels by their words."""
    found: dict[tuple[str, ...], str] = {}
    for label in sorted(set(labels)):
        words = WORD.findall(label.lower())
        if words:
            for last in _singulars(words[-1]):
                found.setdefault((*words[:-1], last), label)
    return found


def _named_in(text: str, known: Spellings) -> set[str]:
    words = WORD.findall(text.lower())
    longest = max(map(len, known), default=0)
    found = set()
    for start in range(len(words)):
        for stop in range(start + 1, min(start + longest, len(words)) + 1):
            for last in _singulars(words[stop - 1]):
                if (label := known.get((*words[start : stop - 1], last))) is not None:
                    found.add(label)
    return found


def _singulars(word: str) -> list[str]:
    """The word, and what it may be the plural of."""
    found = [word]
    if word.endswith("s") and len(word) > 3:
        found.append(word[:-1])
        if word.endswith("es"):
            found.append(word[:-2])
        if word.endswith("ies"):
            found.append(f"{word[:-3]}y")
    return found


# -------------------------------------------------------------------- labels


def detect_label_spellings(images: Table) -> str | None:
    """Detect labels that differ in capitals, blanks, hyphens, underscores or the form of their letters only.

    Args:
        images: `labels`.
    """
    counts = Counter[str]()
    for part in iter_slices(images, ("labels",)):
        counts.update(dict(part["labels"].explode().drop_nulls().value_counts().iter_rows()))
    alike: dict[str, list[str]] = {}
    for label in sorted(counts):
        plain = " ".join(re.split(r"[\s_\-]+", unicodedata.normalize("NFKC", label).casefold().strip()))
        alike.setdefault(plain.strip(), []).append(label)
    several = [own for own in alike.values() if len(own) > 1]
    if not several:
        return None
    told = "; ".join(" and ".join(f"{label!r} ({counts[label]:,} pictures)" for label in own) for own in several[:3])
    more = f"; and {len(several) - 3} more" if len(several) > 3 else ""
    return (
        f"labels that differ only in capitals, blanks, - or _ are different objects here: {told}{more}: "
        "give each one spelling"
    )


# --------------------------------------------------------------------- texts


def detect_generic_text(captions: Table, images: Table | None = None) -> str | None:
    """Detect a few texts, whatever their capitals and punctuation, or names of files, that are many of the captions.

    Texts are counted by a hash of few values first, so that only those that fall together with a common one are counted
    by themselves.

    Args:
        captions: `image_id`, `text`.
        images: `image_id`, `file`; without them names of files are not looked for.
    """
    lots = np.zeros(LOTS, dtype=np.int64)
    for part in _iter_words(captions):
        lots += np.bincount(part["lot"].to_numpy().astype(np.int64), minlength=LOTS)
    total = int(lots.sum())
    enough = max(GENERIC_CAPTIONS, EACH_SHARE * total)
    common = np.flatnonzero(lots >= enough)
    counts, first = Counter[str](), dict[str, str]()
    for part in _iter_words(captions) if len(common) else ():
        mine = part.filter(pl.col("lot").is_in(common))
        for row in mine.group_by("words").agg(pl.len(), pl.col("text").first()).iter_rows():
            counts[row[0]] += row[1]
            first.setdefault(row[0], row[2])
    often = sorted((text for text, count in counts.items() if count >= enough), key=lambda text: (-counts[text], text))
    every = sum(counts[text] for text in often)
    if not often or every < GENERIC_SHARE * total:
        return None if images is None else _detect_file_names(captions, images, total)
    most, *others = often[:4]
    under = [hash_ids(part.filter(words=most)["image_id"]) for part in _iter_words(captions)]
    few = f"; with {', '.join(repr(first[text]) for text in others)} {100 * every / total:.0f} %" if others else ""
    return (
        f"{first[most]!r} stands under {len(np.unique(np.concatenate(under), axis=0)):,} pictures, "
        f"{100 * counts[most] / total:.0f} % of all {total:,} captions{few}: "
        "such a text finds no picture, and teaches a model nothing"
    )


def _iter_words(captions: Table) -> Iterator[pl.DataFrame]:
    for part in iter_slices(captions, ("image_id", "text")):
        yield part.with_columns(words=_words_of(pl.col("text"))).with_columns(lot=pl.col("words").hash() % LOTS)


def _words_of(text: pl.Expr) -> pl.Expr:
    return text.str.to_lowercase().str.replace_all(r"[^\pL\pM\pN]+", " ").str.strip_chars()


def _detect_file_names(captions: Table, images: Table, total: int) -> str | None:
    """Detect captions that are their files' names; those without a digit may well be descriptions."""
    rows = choose_described(images, captions, ["file"], pl.lit(True), MOST_BLOCKS * MOST_PER_BLOCK)
    stem = pl.col("file").str.replace(r"^.*[/#]", "")
    rows = rows.explode("text").with_columns(
        words=_words_of(pl.col("text")), whole=_words_of(stem), stem=_words_of(stem.str.replace(r"\.\w+$", ""))
    )
    named = rows.filter((pl.col("words") == pl.col("whole")) | (pl.col("words") == pl.col("stem")))
    named = named.filter(pl.col("words").str.contains(r"\d"))
    if len(named) < GENERIC_CAPTIONS or len(named) < GENERIC_SHARE * len(rows):
        return None
    text, file = named.row(0, named=True)["text"], named["file"][0]
    return (
        f"{100 * len(named) / len(rows):.0f} % of all {total:,} captions are names of files, such as {text!r} of "
        f"{file}: they describe nothing. Is another column the caption?"
    )
