"""WebDataset: tar shards in which the files of one sample share a name and differ in their endings.

Shards are read in place and in order, so only their tables of contents are ever in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from twinlens.config.datasets import WebDatasetCard
from twinlens.core.bucket_files import AnyFile, AnyFolder, find_split_files, open_folder
from twinlens.core.errors import FetchError
from twinlens.core.spool import Spool
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage
from twinlens.datasets.ids import IdChoice
from twinlens.datasets.readers.archives import Tree, open_tree
from twinlens.datasets.readers.files import record_trees, refuse_change
from twinlens.datasets.readers.limits import MAX_BESIDE_BYTES
from twinlens.datasets.readers.texts import decode, is_nothing, parse_json, split_lines, split_texts

log = logging.getLogger("twinlens")


@dataclass(frozen=True)
class Sample:
    """A sample as its shard has it; without a file it has no picture."""

    key: str
    file: str
    labels: tuple[str, ...]
    captions: list[str]
    dropped: list[Drop]


class WebDataset:
    """Adapter of tar shards."""

    def __init__(self, card: WebDatasetCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch nothing; record which shards there are and what they hold."""
        return record_trees(raw, {name: path for _, name, path in self._shards()})

    def annotations(self, raw: Path) -> Annotations:
        """A picture for each sample; samples without one, and pictures of no sample, are listed as dropped."""
        refuse_change(raw, {name: path for _, name, path in self._shards()})
        return self.list_all()

    def list_all(self) -> Annotations:
        """The same of the shards as they are now, whatever was recorded."""
        shards = self._shards()
        samples, choice = Spool[tuple[str, str, str, str, tuple[str, ...], list[str]]](tuple), IdChoice()
        dropped = Spool[Drop](tuple)
        for split, shard, path in shards:
            tree = open_tree(path)
            found, strays = find_samples(tree.names(), self.card.image, self._beside())
            dropped += [("image", f"{shard}/{name}", "unlisted", why) for name, why in strays.items()]
            for key, members in found.items():
                sample = self._read_sample(tree, shard, key, members)
                dropped += sample.dropped
                if sample.file:
                    samples.append((split, shard, sample.key, sample.file, sample.labels, sample.captions))
                    choice.add(sample.key, _make_long_id(shard, sample.key))
            tree.close()
        long, _ = choice.choose()
        images, captions = Spool(RawImage), Spool(RawCaption)
        for number, (split, shard, key, file, labels, said) in enumerate(samples):
            image_id = _make_long_id(shard, key) if long[number] else key
            images.append(RawImage(image_id, f"{shard}/{file}", split, labels))
            captions += [RawCaption(image_id, text) for text in said]
        return Annotations(
            images,
            captions,
            dropped,
            captioned=bool(self.card.caption or self.card.caption_key),
        )

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """Picture bytes, or why there are none; one shard is open at a time."""
        shards = {name: path for _, name, path in self._shards()}
        name, tree = "", None
        try:
            for file in files:
                if tree is None or not file.startswith(f"{name}/"):
                    if tree is not None:
                        tree.close()
                    name = next(shard for shard in shards if file.startswith(f"{shard}/"))
                    tree = open_tree(shards[name])
                yield tree.read(file.removeprefix(f"{name}/"))
        finally:
            if tree is not None:
                tree.close()

    @cached_property
    def _folder(self) -> AnyFolder:
        """Where the shards are; of a bucket it is listed once, whichever pictures are read."""
        return open_folder(self.card.source)

    def _beside(self) -> list[str]:
        """The endings of what a sample has beside its picture."""
        endings = (self.card.caption, self.card.label, self.card.metadata)
        return [ending.lower() for ending in endings if ending is not None]

    def _shards(self) -> Sequence[tuple[str, str, AnyFile]]:
        """Split, name below the folder and path of each shard: two folders may have shards of one name."""
        folder = self._folder
        files = find_split_files(folder, self.card.shards)
        found = [(split, name, path) for split, own in files.items() for name, path in own]
        if not found:
            raise FetchError(f"{folder} holds no shard like {' or '.join(self.card.shards.values())}")
        for split, shape in self.card.shards.items():
            if not any(own == split for own, _, _ in found):
                log.warning("%s: no shard like %s, so the split '%s' is empty", folder, shape, split)
        return found

    def _read_sample(self, tree: Tree, shard: str, key: str, members: dict[str, str]) -> Sample:
        wanted = [ending.lower() for ending in self.card.image]
        picture = next((members[ending] for ending in wanted if ending in members), None)
        if picture is None:
            why = (
                f"{shard}: no {' or '.join(self.card.image)} beside {', '.join(sorted(members))}. If one of these is "
                "the picture, name its ending on the card as `image`"
            )
            return Sample(key, "", (), [], [("image", key, "no_picture", why)])
        dropped: list[Drop] = []
        facts, complaint = self._facts(tree, members)
        captions: list[str] = []
        if self.card.caption_key is not None:
            captions = split_texts(facts.get(self.card.caption_key), f"{shard}, {key}, key {self.card.caption_key}")
        else:
            captions, why = _read_lines(tree, members, self.card.caption)
            complaint = complaint or why
        if complaint:
            dropped.append(("caption", key, "unreadable", f"{shard}: {complaint}"))
        label_key = self.card.label_key
        labels = split_texts(facts.get(label_key), f"{shard}, {key}, key {label_key}") if label_key else []
        named, why = _read_lines(tree, members, self.card.label)
        if why:
            dropped.append(("label", key, "unreadable", f"{shard}: {why}"))
        labels += [text.strip() for text in named]
        return Sample(key, picture, tuple(dict.fromkeys(filter(None, labels))), captions, dropped)

    def _facts(self, tree: Tree, members: dict[str, str]) -> tuple[dict[str, Any], str]:
        name = members.get((self.card.metadata or "").lower())
        if self.card.metadata is None or name is None:
            return {}, ""
        content = tree.read(name, MAX_BESIDE_BYTES)
        if isinstance(content, str):
            return {}, f"{name} is {content}"
        try:
            facts = parse_json(decode(content))
        except ValueError as error:
            return {}, f"{name} is no JSON: {error}"
        return (facts, "") if isinstance(facts, dict) else ({}, f"{name} is no JSON object")


def _make_long_id(shard: str, key: str) -> str:
    return f"{shard.removesuffix('.tar')}/{key}"


def _read_lines(tree: Tree, members: Mapping[str, str], ending: str | None) -> tuple[list[str], str]:
    """The lines of a sample's member, and what is wrong with it."""
    name = None if ending is None else members.get(ending.lower())
    if name is None:
        return [], ""
    content = tree.read(name, MAX_BESIDE_BYTES)
    if isinstance(content, str):
        return [], f"{name} is {content}"
    lines = split_lines(decode(content))
    lines = lines[: -1 if not lines[-1] else None]  # the end of the last line begins no other
    return [line for line in lines if not is_nothing(line)], ""


def find_samples(
    names: Iterable[str], pictures: Sequence[str], beside: Sequence[str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Find the samples among the names of a shard.

    A sample's name ends at the first dot after the last slash, as WebDataset has it: `7.seg.png` is a part of 7. But
    `beach.1.jpg` with a `beach.1.txt` of its own is a sample of its own.

    Args:
        names: of the shard's members.
        pictures: the endings of pictures.
        beside: the endings of captions and metadata.

    Returns:
        Names by sample and ending, in lower case; and the pictures that are no sample's, with the reason.
    """
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        base, _, ending = PurePosixPath(name).name.partition(".")
        groups.setdefault(str(PurePosixPath(name).parent / base), {})[ending] = name
    images = [ending.lower() for ending in pictures]
    samples: dict[str, dict[str, str]] = {}
    strays: dict[str, str] = {}
    for key, group in groups.items():
        for own, members in _split_group(key, group, images, beside).items():
            sample = samples.setdefault(own, {})
            for ending, name in members.items():
                if sample.setdefault(ending.lower(), name) != name:
                    strays[name] = f"its name is that of {sample[ending.lower()]} but for the case of its ending"
        mine = samples.get(key, {})
        shown = [mine[ending] for ending in images if ending in mine]
        more = (name for ending, name in mine.items() if ending.rpartition(".")[2] in images and name not in shown[:1])
        strays |= {name: f"a further picture of the sample {key}, which shows {shown[0]}" for name in more if shown}
    return samples, strays


def _split_group(
    key: str, group: dict[str, str], images: Sequence[str], beside: Sequence[str]
) -> dict[str, dict[str, str]]:
    """The samples of one group of names that agree up to their first dot."""
    parts: dict[str, dict[str, str]] = {}
    for ending, name in group.items():
        known = [own for own in (*images, *beside) if f".{ending.lower()}".endswith(f".{own}")]
        longest = max(known, key=len, default=ending)
        parts.setdefault(ending[: -len(longest)].removesuffix("."), {})[ending[len(ending) - len(longest) :]] = name
    whole = not any(ending.lower() in images for ending in parts.get("", {}))
    only_pictures = all(ending.lower() in images for members in parts.values() for ending in members)

    def stands_alone(part: str, members: dict[str, str]) -> bool:
        kinds = {ending.lower() for ending in members}
        if not part or not kinds & set(images):
            return False
        return bool(kinds & set(beside)) or (only_pictures and (whole or (part.isdigit() and not beside)))

    alone = {part: members for part, members in parts.items() if stands_alone(part, members)}
    taken = {name for members in alone.values() for name in members.values()}
    rest = {ending: name for ending, name in group.items() if name not in taken}
    return ({key: rest} if rest else {}) | {f"{key}.{part}": members for part, members in alone.items()}
