"""Two datasets as one: pictures that captions search for, among distractors from elsewhere.

Pictures of the first part keep their captions, labels and splits. Those of the second lose theirs
and join the pool: nobody has judged whether a caption happens to fit one of them, so they count as
not relevant, as source 004 counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from twinlens.config.datasets import ComposedCard
from twinlens.core.scratch import write_whole
from twinlens.datasets import make_adapter
from twinlens.datasets.annotations import Annotations, Drop, RawImage

QUERIES, DISTRACTORS = "queries", "distractors"


class Composed:
    """Adapter of a composition."""

    def __init__(self, card: ComposedCard) -> None:
        self.card = card
        self.parts = {QUERIES: make_adapter(card.queries), DISTRACTORS: make_adapter(card.distractors)}

    def download(self, raw: Path) -> int:
        """Fetch or draw both parts, each into a folder of its own."""
        with write_whole(raw) as draft:
            return sum(part.download(draft / name) for name, part in self.parts.items())

    def annotations(self, raw: Path) -> Annotations:
        """Merge both parts under ids that cannot meet: those of the distractors begin with `distractor/`."""
        found = self.parts[QUERIES].annotations(raw / QUERIES)
        others = self.parts[DISTRACTORS].annotations(raw / DISTRACTORS)
        images = [replace(image, file=f"{QUERIES}/{image.file}") for image in found.images]
        wanted = self.card.distractor_labels
        chosen = [image for image in others.images if wanted is None or set(wanted) & set(image.labels)]
        images += [self._distractor(image) for image in chosen]
        dropped: list[Drop] = [
            *found.dropped,
            *((kind, f"distractor/{i}", rule, why) for kind, i, rule, why in others.dropped),
        ]
        return replace(found, images=images, dropped=dropped, composed_queries=[])

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """Picture bytes of either part; a part's pictures are asked for in one go, in their order."""
        split = [file.split("/", 1) for file in files]
        streams = {
            name: part.read_pictures(raw / name, [file for own, file in split if own == name])
            for name, part in self.parts.items()
        }
        for name, _ in split:
            yield next(streams[name])

    def _distractor(self, image: RawImage) -> RawImage:
        split = "test" if self.card.pool == "all" else self.card.pool
        return RawImage(f"distractor/{image.image_id}", f"{DISTRACTORS}/{image.file}", split, (), distractor=True)
