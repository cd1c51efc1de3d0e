"""Dense retrievers: search by vectors.

| category | queries | items | retrievers |
|---|---|---|---|
| `i2i` | pictures | the same, but for the query | `image`, by each kind of text, and by pixels and text |
| `t2i` | texts | pictures | `image`, `caption_generated`, `image_and_caption_generated` |
| `i2t` | pictures | texts | the same |
| `t2t` | captions | captions | `caption` |
| `it2i` | a picture and a text | pictures | `image`, `text`, `image_and_text`, `image_with_text` |

A retriever is named by what a picture is fed as, so that every row of a result answers "which model, fed with what".
Pixels search words, and words pixels, by a joint model only. `<retriever>_untrained` is the same by a trained model as
it was before, of every retriever that is fed one input: a sum of two would say no more than its parts. Heads that were
trained by distances are ranked by them too, in the protocol of their source. Category search, whose queries show
several pictures, is in `by_example`, search by words in `lexical`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Int

from twinlens.config.params import Params, RankParams
from twinlens.core.row_sources import choose_rows
from twinlens.core.vectors import Matrix, Rows, Vectors
from twinlens.retrieval.base import Corpus, Dense, Retriever, Scorer, costs_of
from twinlens.retrieval.euclidean import convert_to_inner_products
from twinlens.retrieval.exemplar import combine_unit_vectors
from twinlens.retrieval.fusion import concatenate
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import CAPTIONS, COMPOSED_PAIRS, GENERATED, IMAGES, JOINED, OTHER_WAY, UNTRAINED

BOTH, RANDOM = "image_and_", "caption_random"


def retrievers(task: Task, corpus: Corpus, params: Params) -> list[Retriever]:
    """List the retrievers that the vectors allow."""
    about, weight = task.about, params.rank.image_weight
    if about.category == "i2i":
        found = _among_themselves(task, corpus, weight, params.rank.seed)
        return [_drawn_again(one, task, corpus, params.rank) if one.name == RANDOM else one for one in found]
    if about.category in ("t2i", "i2t"):
        turned = about.category == "i2t"
        text = about.item_text if turned else about.query_text
        if text is None or text not in corpus.vectors:
            return []
        ids = (task.item_ids, task.query_ids) if turned else (task.query_ids, task.item_ids)
        return _across(_Sides(corpus.vectors, text, *ids, turned), corpus.joint, weight)
    if about.category == "t2t" and about.query_text == about.item_text == CAPTIONS and CAPTIONS in corpus.vectors:
        return [_retriever("caption", (CAPTIONS,), partial(_between_captions, corpus.vectors[CAPTIONS], task))]
    if about.category == "it2i" and task.shown is None and IMAGES in corpus.vectors:
        return _composed(task, corpus)
    return []


def _retriever(name: str, inputs: tuple[str, ...], make: Callable[[], Scorer], published: bool = False) -> Retriever:
    return Retriever(name, make, inputs, costs_of(inputs), published=published)


def _untrained(name: str, fed: str, make: Callable[[], Scorer], published: bool = False) -> Retriever:
    """The retriever `name`, by the model as it was before training."""
    return Retriever(f"{name}{UNTRAINED}", make, (fed,), costs_of((fed,)), untrained_of=name, published=published)


# ------------------------------------------------------------- one kind of thing among itself


def _among_themselves(task: Task, corpus: Corpus, image_weight: float, seed: int) -> list[Retriever]:
    vectors, ids = corpus.vectors, task.item_ids

    def alone(suffix: str) -> dict[str, tuple[str, Callable[[], Rows]]]:
        ways: dict[str, tuple[str, Callable[[Vectors], Rows]]] = {
            "image": (IMAGES, lambda source: take_rows(source, ids)),
            "captions_joined": (JOINED, lambda source: take_rows(source, ids)),
            "caption_random": (CAPTIONS, lambda source: _one_caption(source, ids, seed)),
            "caption_generated": (GENERATED, lambda source: take_rows(source, ids)),
        }
        there = {name: (fed, make) for name, (fed, make) in ways.items() if fed + suffix in vectors}
        return {name: (fed, partial(make, vectors[fed + suffix])) for name, (fed, make) in there.items()}

    ways = alone("")
    found = [_retriever(name, (fed,), _themselves(make)) for name, (fed, make) in ways.items()]
    if "image" in ways:
        together = {name: way for name, way in sorted(ways.items()) if name not in ("image", "caption_random")}
        found += [
            _retriever(BOTH + name, (IMAGES, fed), _themselves(_with_pixels(vectors[IMAGES], make, ids, image_weight)))
            for name, (fed, make) in together.items()
        ]
    return found + [_untrained(name, fed, _themselves(make)) for name, (fed, make) in alone(UNTRAINED).items()]


def _themselves(make: Callable[[], Rows]) -> Callable[[], Dense]:
    def scorer() -> Dense:
        rows = make()
        return Dense(rows, rows)

    return scorer


def _with_pixels(images: Vectors, words: Callable[[], Rows], ids: list[str], image_weight: float) -> Callable[[], Rows]:
    return lambda: concatenate(take_rows(images, ids), words(), image_weight)


def _between_captions(source: Vectors, task: Task) -> Dense:
    return Dense(take_rows(source, task.query_ids), take_rows(source, task.item_ids))


def _drawn_again(retriever: Retriever, task: Task, corpus: Corpus, params: RankParams) -> Retriever:
    """The same retriever with further draws of a caption; pictures of one caption each have no other draw."""
    source = corpus.vectors[CAPTIONS]
    if len(set(source.image_ids)) == len(source.image_ids):
        return retriever
    seeds = [(params.seed, n) for n in range(1, params.caption_draws)]
    again = [_themselves(partial(_one_caption, source, task.item_ids, seed)) for seed in seeds]
    return replace(retriever, draws=tuple(again))


def _one_caption(source: Vectors, ids: list[str], seed: int | tuple[int, int]) -> Rows:
    return np.asarray(source.unit[draw_one_caption_each(source.image_ids, ids, seed)])


# ----------------------------------------------------------------- texts and pictures


@dataclass(frozen=True)
class _Sides:
    """Texts and pictures of a task, whichever of them asks."""

    vectors: Mapping[str, Vectors]
    text: str  # the input that holds the texts
    text_ids: list[str]
    image_ids: list[str]
    turned: bool  # whether pictures ask

    @property
    def way(self) -> str:
        """Ends the names of vectors that heads of this direction made, where each has its own."""
        return OTHER_WAY if self.turned else ""

    def scorer(self, texts: Rows, pictures: Rows) -> Dense:
        """Score by the vectors of both sides."""
        return Dense(pictures, texts) if self.turned else Dense(texts, pictures)

    def rows(self, name: str, suffix: str) -> Rows:
        """The vectors of one side, with a suffix where there are such."""
        return take_rows(self._of(name, suffix), self._ids(name))

    def against(self, fed: str, suffix: str | None = None) -> Dense:
        """Texts and what pictures are fed as."""
        ending = self.way if suffix is None else suffix
        return self.scorer(self.rows(self.text, ending), self.rows(fed, ending))

    def both(self, image_weight: float) -> Dense:
        """Pictures by pixels and generated captions together."""
        texts = self.rows(self.text, self.way)
        pictures = concatenate(self.rows(IMAGES, self.way), self.rows(GENERATED, self.way), image_weight)
        return self.scorer(concatenate(texts, texts, image_weight), pictures)

    def by_distance(self, suffix: str) -> Dense:
        """Score by distance, of vectors as long as the heads made them."""
        texts, pictures = self._whole(self.text, suffix), self._whole(IMAGES, suffix)
        return Dense(*convert_to_inner_products(*((pictures, texts) if self.turned else (texts, pictures))))

    def _whole(self, name: str, suffix: str) -> Matrix:
        source = self._of(name, suffix)
        assert source.lengths is not None
        return (
            np.asarray(self.rows(name, suffix))
            * np.asarray(source.lengths)[_places(source.ids, self._ids(name))][:, None]
        )

    def _of(self, name: str, suffix: str) -> Vectors:
        return self.vectors[name + suffix if name + suffix in self.vectors else name]

    def _ids(self, name: str) -> list[str]:
        return self.text_ids if name == self.text else self.image_ids


def _across(sides: _Sides, joint: bool, image_weight: float) -> list[Retriever]:
    """Texts against pictures.

    Args:
        sides: with vectors of the texts.
        joint: whether pixels and words share one space.
        image_weight: of pixels beside words.
    """
    pixels, words = joint and IMAGES in sides.vectors, GENERATED in sides.vectors
    before = {fed for fed in (IMAGES, GENERATED) if {fed + UNTRAINED, sides.text + UNTRAINED} <= sides.vectors.keys()}
    by_length = pixels and sides.vectors[IMAGES].lengths is not None
    both = (IMAGES, GENERATED)
    ways = [
        (pixels, _retriever("image", (IMAGES,), partial(sides.against, IMAGES))),
        (pixels and IMAGES in before, _untrained("image", IMAGES, partial(sides.against, IMAGES, UNTRAINED))),
        (words, _retriever("caption_generated", (GENERATED,), partial(sides.against, GENERATED))),
        (
            words and GENERATED in before,
            _untrained("caption_generated", GENERATED, partial(sides.against, GENERATED, UNTRAINED)),
        ),
        (pixels and words, _retriever(f"{BOTH}caption_generated", both, partial(sides.both, image_weight))),
        # ranks within batches stay those by cosine
        (by_length, _retriever("image", (IMAGES,), partial(sides.by_distance, sides.way), published=True)),
        (
            by_length and IMAGES in before,
            _untrained("image", IMAGES, partial(sides.by_distance, UNTRAINED), published=True),
        ),
    ]
    return [retriever for possible, retriever in ways if possible]


# ------------------------------------------------------------------ a picture and a text


def _composed(task: Task, corpus: Corpus) -> list[Retriever]:
    """A picture with a text that says what is to be different: by each alone, by the sum, and by both read together."""
    vectors, text = corpus.vectors, task.about.query_text

    def pictures(suffix: str = "") -> Rows:
        return take_rows(vectors[IMAGES + suffix], task.query_images)

    def texts(suffix: str = "") -> Rows:
        assert text is not None
        return take_rows(vectors[text + suffix], task.query_ids)

    def items(suffix: str = "") -> Rows:
        return take_rows(vectors[IMAGES + suffix], task.item_ids)

    def both() -> Dense:
        return Dense(combine_unit_vectors(np.asarray(pictures()), np.asarray(texts()), 0.5).astype(np.float32), items())

    found = [replace(_retriever("image", (IMAGES,), lambda: Dense(pictures(), items())), asks=(IMAGES,))]
    asks = corpus.joint and text is not None and text in vectors
    if asks:
        found.append(replace(_retriever("text", (IMAGES,), lambda: Dense(texts(), items())), asks=(str(text),)))
        found.append(_retriever(f"{BOTH}text", (IMAGES,), both))
    if asks and COMPOSED_PAIRS in vectors:
        found.append(
            _retriever(
                "image_with_text", (IMAGES,), lambda: Dense(take_rows(vectors[COMPOSED_PAIRS], task.query_ids), items())
            )
        )
    if IMAGES + UNTRAINED in vectors:
        found.append(_untrained("image", IMAGES, lambda: Dense(pictures(UNTRAINED), items(UNTRAINED))))
        if asks and f"{text}{UNTRAINED}" in vectors:
            found.append(_untrained("text", IMAGES, lambda: Dense(texts(UNTRAINED), items(UNTRAINED))))
    return found


# ------------------------------------------------------------------------------ rows


def take_rows(source: Vectors, ids: list[str]) -> Rows:
    """Take the unit vectors of some ids, in their order; as they are stored where these are all of them."""
    return source.unit if ids == source.ids else choose_rows(source.unit, _places(source.ids, ids))


def _places(ids: list[str], wanted: list[str]) -> Int[np.ndarray, " wanted"]:
    row_of = {own: row for row, own in enumerate(ids)}
    return np.array([row_of[name] for name in wanted], dtype=np.int64)


def draw_one_caption_each(
    image_ids: list[str], wanted: list[str], seed: int | tuple[int, int]
) -> Int[np.ndarray, " wanted"]:
    """Draw the row of one caption of each wanted picture, evenly and by seed.

    Args:
        image_ids: the picture of each caption row; a picture's captions stand together.
        wanted: pictures, each of which has a caption.
        seed: of the draw, or with the draw's number; the draw of a picture does not depend on which others are wanted.
    """
    first: dict[str, int] = {}
    count: dict[str, int] = {}
    for row, image_id in enumerate(image_ids):
        first.setdefault(image_id, row)
        count[image_id] = count.get(image_id, 0) + 1
    share = dict(zip(first, np.random.default_rng(seed).random(len(first)), strict=True))
    return np.array([first[i] + int(share[i] * count[i]) for i in wanted])
