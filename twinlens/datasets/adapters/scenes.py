"""The embedded default: drawn scenes of one to three objects, with captions and labels.

It has everything the real datasets have (object sets of very different sizes, five captions a
picture of which some leave things out, a split), needs no network, and is the same on every
machine because one seed decides it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from twinlens.config.datasets import ScenesCard
from twinlens.core.progress import Progress
from twinlens.core.scratch import write_whole
from twinlens.core.spool import Spool
from twinlens.datasets.adapters.base import MISSING
from twinlens.datasets.adapters.drawing import BACKGROUNDS, COLOURS, OBJECTS, DrawnObject, draw_scene
from twinlens.datasets.annotations import SPLITS, Annotations, RawCaption, RawComposedQuery, RawImage

PER_SHARD = 1000
JPEG_QUALITY = 92
EDIT, QUERIES = "edit", "queries.parquet"  # pictures that are others with one thing changed, and who asks for them

LARGE_SIDE = {1: (0.55, 0.7), 2: (0.42, 0.48), 3: (0.42, 0.48)}  # share of the picture, by number of objects
SMALL_SIDE = {1: (0.34, 0.42), 2: (0.3, 0.36), 3: (0.3, 0.36)}
HIDDEN = 0.25  # of the objects stand behind something, which covers up to so much of their height
COVERED = (0.15, 0.35)

PLACES = {
    "meadow": ("on a meadow", "a green meadow"),
    "beach": ("on a beach", "a sandy beach"),
    "street": ("on a street", "a grey street"),
    "snow": ("in the snow", "a snowy field"),
    "night": ("at night", "a dark night"),
    "desert": ("in the desert", "a dry desert"),
    "lake": ("by the lake", "a blue lake"),
    "room": ("in a room", "a quiet room"),
}


@dataclass(frozen=True)
class Scene:
    """Content of one picture."""

    background: str
    things: tuple[DrawnObject, ...]  # left to right


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw one to three different objects; some categories and counts are commoner, as in photos."""
    count = int(rng.choice([1, 2, 3], p=[0.3, 0.4, 0.3]))
    weight = 1.0 / np.sqrt(np.arange(1, len(OBJECTS) + 1))
    names = rng.choice(list(OBJECTS), size=count, replace=False, p=weight / weight.sum())
    things = []
    for name, (left, top, room) in zip(names, _places(count, rng), strict=True):
        large = bool(rng.random() < 0.6)
        side = float(rng.uniform(*(LARGE_SIDE if large else SMALL_SIDE)[count]))
        things.append(
            DrawnObject(
                category=str(name),
                colour=str(rng.choice(list(COLOURS))),
                large=large,
                left=left + float(rng.uniform(0, max(0.0, room - side))),
                top=top + float(rng.uniform(0, max(0.0, room - side))),
                side=side,
                covered=float(rng.uniform(*COVERED)) if rng.random() < HIDDEN else 0.0,
            )
        )
    things.sort(key=lambda thing: thing.left + thing.side / 2)
    return Scene(str(rng.choice(list(BACKGROUNDS))), tuple(things))


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Squares that do not overlap, as (left, top, side), one an object."""
    if count == 1:
        return [(0.02, 0.02, 0.96)]
    corners = rng.permutation(4)[:count]
    return [(0.01 + 0.5 * (c % 2), 0.01 + 0.5 * (c // 2), 0.48) for c in corners]


def edit_scene(scene: Scene, rng: np.random.Generator) -> tuple[Scene, str]:
    """Edit one thing of a scene, its colour or its place; returns the edited scene and the words that say so."""
    if rng.random() < 0.7:
        which = int(rng.integers(len(scene.things)))
        thing = scene.things[which]
        colour = str(rng.choice([name for name in COLOURS if name != thing.colour]))
        things = tuple(replace(t, colour=colour) if n == which else t for n, t in enumerate(scene.things))
        return replace(scene, things=things), f"the same scene, but the {thing.category} is {colour}"
    background = str(rng.choice([name for name in BACKGROUNDS if name != scene.background]))
    return replace(scene, background=background), f"the same scene, but {PLACES[background][0]}"


def grade_likeness(scene: Scene, wanted: Scene) -> float:
    """Grade the gain of a scene where another is wanted.

    3: it is the one; 2: it shows the same things in the same colours at the same place, wherever they stand;
    1: the same things in the same colours at another place; 0: anything else.
    """
    if scene == wanted:
        return 3.0
    shown, asked = (sorted((thing.category, thing.colour) for thing in s.things) for s in (scene, wanted))
    return 0.0 if shown != asked else 2.0 if scene.background == wanted.background else 1.0


def write_captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Write five descriptions by five imaginary people: some name everything, some leave things out."""
    place, setting = PLACES[scene.background]
    full = [_noun(thing, colour=True) for thing in scene.things]
    plain = [_noun(thing) for thing in scene.things]
    sized = [_noun(thing, colour=True, size=True) for thing in scene.things]
    shuffled = [full[i] for i in rng.permutation(len(full))]
    main = scene.things[int(rng.integers(len(scene.things)))]
    if len(scene.things) > 1:
        left, right = scene.things[0], scene.things[-1]
        relation = f"{_noun(left)} to the left of {_noun(right)}"
    else:
        relation = f"a picture of {_noun(main)}" + (f" {place}" if rng.random() < 0.5 else "")
    return [
        f"{_listed(full)} {place}",
        f"{setting} with {_listed(plain)}",
        f"there is {_listed(shuffled)}",
        relation,
        f"{_listed(sized)} {place}" if rng.random() < 0.5 else f"{_noun(main, colour=True)} {place}",
    ]


def _noun(thing: DrawnObject, colour: bool = False, size: bool = False) -> str:
    words = []
    if size:
        words.append("large" if thing.large else "small")
    if colour:
        words.append(thing.colour)
    words.append(thing.category)
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def _listed(nouns: list[str]) -> str:
    return nouns[0] if len(nouns) == 1 else ", ".join(nouns[:-1]) + " and " + nouns[-1]


class Scenes:
    """Adapter of the drawn scenes."""

    def __init__(self, card: ScenesCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Draw all pictures; there is nothing to download."""
        tasks = [(split, i) for split in SPLITS for i in range(getattr(self.card, split))]
        tasks += [(EDIT, i) for i in range(self.card.edits)]
        with write_whole(raw) as draft, Progress("draw", total=len(tasks), unit="img") as bar:
            for start in range(0, len(tasks), PER_SHARD):
                rows = [self._draw(*task) for task in tasks[start : start + PER_SHARD]]
                pq.write_table(pa.Table.from_pylist(rows), _shard(draft, start // PER_SHARD), compression="zstd")
                bar.add(len(rows))
            if self.card.edits:
                pq.write_table(pa.Table.from_pylist(self._queries()), draft / QUERIES, compression="zstd")
            manifest = {"drawn": len(tasks), "seed": self.card.seed, "side_px": self.card.side_px}
            (draft / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        return len(tasks)

    def _draw(self, split: str, i: int) -> dict[str, Any]:
        scene, _, rng = self._scene(split, i)
        picture = np.asarray(draw_scene(scene.background, list(scene.things), self.card.side_px, rng))
        image_id = f"{split}-{i:05d}"
        return {
            "image_id": image_id,
            "file": f"{image_id}.jpg",
            "split": "test" if split == EDIT else split,
            "labels": sorted({thing.category for thing in scene.things}),
            "captions": write_captions(scene, rng),
            "jpeg": simplejpeg.encode_jpeg(picture, quality=JPEG_QUALITY, colorsubsampling="444"),
        }

    def _scene(self, split: str, i: int) -> tuple[Scene, str, np.random.Generator]:
        """A picture's scene, the words that made it of another where it is an edit, and what it is drawn with.

        An edit is drawn with the numbers of its original, so that nothing else differs.
        """
        own = ("test", i % self.card.test) if split == EDIT else (split, i)
        rng = np.random.default_rng([self.card.seed, SPLITS.index(own[0]), own[1]])
        scene = sample_scene(rng)
        if split != EDIT:
            return scene, "", rng
        return *edit_scene(scene, np.random.default_rng([self.card.seed, len(SPLITS), i])), rng

    def _queries(self) -> list[dict[str, Any]]:
        """Build one query of each edit, with the gain of every picture of the split for it."""
        names = [("test", i) for i in range(self.card.test)] + [(EDIT, i) for i in range(self.card.edits)]
        scenes = {f"{split}-{i:05d}": self._scene(split, i) for split, i in names}
        found = []
        for i in range(self.card.edits):
            own, edit = f"test-{i % self.card.test:05d}", f"{EDIT}-{i:05d}"
            wanted, text, _ = scenes[edit]
            gains = {
                image_id: grade_likeness(scene, wanted) for image_id, (scene, _, _) in scenes.items() if image_id != own
            }
            query = {"query_id": f"{own}+{edit}", "image_id": own, "text": text}
            found += [query | {"target_id": target, "gain": gain} for target, gain in gains.items() if gain]
        return found

    def annotations(self, raw: Path) -> Annotations:
        """The drawn pictures' labels and captions."""
        images, captions = Spool(RawImage), Spool(RawCaption)
        for path in sorted(raw.glob("drawn-*.parquet")):
            for row in pq.read_table(path, columns=["image_id", "file", "split", "labels", "captions"]).to_pylist():
                images.append(RawImage(row["image_id"], row["file"], row["split"], tuple(row["labels"])))
                captions += [RawCaption(row["image_id"], text) for text in row["captions"]]
        queries = pq.read_table(raw / QUERIES).to_pylist() if (raw / QUERIES).exists() else []
        composed = [RawComposedQuery(**query) for query in queries]
        return Annotations(images, captions, composed_queries=composed, repeats_meant=True)

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """JPEG bytes, one shard in memory at a time while `files` are in the order of `annotations`."""
        places = {
            file: (path, row)
            for path in sorted(raw.glob("drawn-*.parquet"))
            for row, file in enumerate(pq.read_table(path, columns=["file"])["file"].to_pylist())
        }
        held: Path | None = None
        for file in files:
            if file not in places:
                yield MISSING
                continue
            path, row = places[file]
            if path != held:
                held, jpegs = path, pq.read_table(path, columns=["jpeg"])["jpeg"]
            yield jpegs[row].as_py()


def _shard(folder: Path, number: int) -> Path:
    return folder / f"drawn-{number:03d}.parquet"
