"""WebDataset: tar shards in which the files of one sample share a name and differ in their endings.

Shards are read in place and in order, so only their tables of contents are ever in memory.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from twinlens.config.datasets import WebDatasetCard
from twinlens.core import paths
from twinlens.core.errors import FetchError
from twinlens.datasets.annotations import Annotations, Drop, RawCaption, RawImage
from twinlens.datasets.readers.archives import Tree, open_tree
from twinlens.datasets.readers.files import record_trees, refuse_change
from twinlens.datasets.readers.tabular import split_texts

log = logging.getLogger("twinlens")


class WebDataset:
    """Adapter of tar shards."""

    def __init__(self, card: WebDatasetCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch nothing; record which shards there are and what they hold."""
        return record_trees(raw, {path.name: path for _, path in self._shards()})

    def annotations(self, raw: Path) -> Annotations:
        """A picture for each sample; samples without one are listed as dropped."""
        refuse_change(raw, {path.name: path for _, path in self._shards()})
        images: list[RawImage] = []
        captions: list[RawCaption] = []
        dropped: list[Drop] = []
        for split, path in self._shards():
            tree = open_tree(path)
            for key, members in _samples(tree).items():
                picture = next((members[ending] for ending in self.card.image if ending in members), None)
                if picture is None:
                    why = f"{path.name}: no {' or '.join(self.card.image)} beside {', '.join(sorted(members))}"
                    dropped.append(("image", key, "no_picture", why))
                    continue
                facts, complaint = self._facts(tree, members)
                dropped += [("caption", key, "unreadable", f"{path.name}: {complaint}")] if complaint else []
                labels = tuple(split_texts(facts.get(self.card.label_key))) if self.card.label_key else ()
                images.append(RawImage(key, f"{path.name}/{picture}", split, labels))
                captions += [RawCaption(key, text) for text in self._captions(tree, members, facts)]
            tree.close()
        return Annotations(images, captions, dropped, captioned=bool(self.card.caption or self.card.caption_key))

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """Picture bytes, or why there are none; one shard is open at a time."""
        shards = {path.name: path for _, path in self._shards()}
        name, tree = "", None
        try:
            for file in files:
                shard, _, member = file.partition("/")
                if shard != name or tree is None:
                    if tree is not None:
                        tree.close()
                    name, tree = shard, open_tree(shards[shard])
                yield tree.read(member)
        finally:
            if tree is not None:
                tree.close()

    def _shards(self) -> Sequence[tuple[str, Path]]:
        folder = paths.expand(self.card.source)
        found = [(split, path) for split, shape in self.card.shards.items() for path in sorted(folder.glob(shape))]
        if not found:
            raise FetchError(f"{folder} holds no shard like {' or '.join(self.card.shards.values())}")
        for split, shape in self.card.shards.items():
            if not any(own == split for own, _ in found):
                log.warning("%s: no shard like %s, so the split '%s' is empty", folder, shape, split)
        return found

    def _facts(self, tree: Tree, members: dict[str, str]) -> tuple[dict[str, Any], str]:
        if self.card.metadata is None or self.card.metadata not in members:
            return {}, ""
        content = tree.read(members[self.card.metadata])
        try:
            facts = json.loads(content)
        except ValueError as error:
            return {}, f"{members[self.card.metadata]} is no JSON: {error}"
        return (facts, "") if isinstance(facts, dict) else ({}, f"{members[self.card.metadata]} is no JSON object")

    def _captions(self, tree: Tree, members: dict[str, str], facts: dict[str, Any]) -> list[str]:
        if self.card.caption_key is not None:
            return split_texts(facts.get(self.card.caption_key))
        if self.card.caption is None or self.card.caption not in members:
            return []
        content = tree.read(members[self.card.caption])
        return [] if isinstance(content, str) else content.decode("utf-8", "surrogateescape").splitlines()


def _samples(tree: Tree) -> dict[str, dict[str, str]]:
    """Names by sample and ending. A sample's name ends at the first dot after the last slash."""
    samples: dict[str, dict[str, str]] = {}
    for name in tree.names():
        base, _, ending = PurePosixPath(name).name.partition(".")
        samples.setdefault(str(PurePosixPath(name).parent / base), {})[ending.lower()] = name
    return samples
