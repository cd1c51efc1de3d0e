"""Conformity: vectors of a few drawn pictures and texts by our path, against those of the library's own.

A model that is fed wrongly (channels in another order, a mean forgotten, a text read one token early) gives vectors
that look like any others, and a table that looks a little worse than it should. So before the long work a tower reads
the same few inputs in both ways. Ours are read in one batch, as the loops do; the library's one by one. What was found
stays in the scratch folder, so that a tower is looked at once.

The first numbers of our vectors can also be kept on a card (`about.golden`), by a machine that had the weights: other
weights under the same name are then seen.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from PIL import Image

from twinlens.config.base import GOLDEN_NUMBERS, GoldenVectors
from twinlens.config.models import EndpointTower, Tower, VectorsTower, WordVectorsTower
from twinlens.config.params import ComputeParams
from twinlens.core.code import code_digest
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.core.scratch import Scratch, fingerprint
from twinlens.core.vectors import Rows
from twinlens.images.drawn import draw_pictures
from twinlens.inference.enlarged import InputSize, measure_input
from twinlens.inference.tower import TowerJob
from twinlens.inference.tower_worker import TowerWorker
from twinlens.models import encoders, references
from twinlens.models.encoders.base import LoadedEncoders, TextEncoder, encode_jpegs
from twinlens.models.references.base import Vector

PICTURES, TEXTS = "pictures", "texts"
KINDS = {"joint": (PICTURES, TEXTS), "image": (PICTURES,), "text": (TEXTS,)}  # what a tower is looked at by
SHORT_TEXTS = {
    "short": "a dog",
    "a sentence": "two brown dogs and a small red car stand in the snow beside a house with a green door",
    "capitals": "A Red Car in PARIS, near NASA",
    "punctuation": "It's 3.5 km - or isn't it?! (yes; no)",
    "accents and emoji": "Zoë's naïve café \N{DOG FACE} \N{BEACH WITH UMBRELLA}",
}
LONG_LINE = "a cat and a tree on the hill under the sun by the sea with the boat"
LONGEST, MORE = 600, 40  # words of a long text, at most; and those by which another is too long
APART_AT_GOLDEN = {"exact": 0.05, "rounded": 0.25}  # of the kept numbers' length: another machine, another checkpoint


@dataclass(frozen=True)
class Tolerance:
    """How far the two vectors of an input may be apart, as 1 - cosine."""

    most: float
    share: float  # of how far different inputs are from one another: a model may have all of them close together
    noise: float  # less than this is rounding, however close together they are


# Measured with MobileNetV2, MiniLM, the default's CLIP and tiny models, as shares: pixels 3e-6 and texts 1e-12 in
# float32, 2e-4 and 4e-5 in bfloat16; the least of the planted faults 3e-3 (a deviation forgotten before a layer norm),
# and 5e-4 where bilinear stands for bicubic.
TOLERANCES = {
    ("exact", PICTURES): Tolerance(5e-3, 1e-4, 1e-7),
    ("exact", TEXTS): Tolerance(1e-4, 1e-4, 1e-8),
    ("rounded", PICTURES): Tolerance(2e-2, 5e-2, 1e-3),
    ("rounded", TEXTS): Tolerance(2e-2, 5e-2, 1e-3),
}


@dataclass(frozen=True)
class Comparison:
    """Vectors of drawn inputs of one kind: how far ours are from the library's own, and what to remember of ours."""

    kind: str  # PICTURES or TEXTS
    precision: str  # exact: computed in float32; or rounded
    library: str | None  # None: it has no path of its own
    names: list[str]
    apart: list[float]  # 1 - cosine; empty where there is no such path
    spread: float  # mean 1 - cosine between different inputs
    golden: list[float]  # the first numbers of the mean of our unit vectors

    def trouble(self, tower: str) -> str | None:
        """Whether ours are too far from the library's.

        Args:
            tower: its name, for the message.
        """
        tolerance = TOLERANCES[self.precision, self.kind]
        limit = min(tolerance.most, max(tolerance.noise, tolerance.share * self.spread))
        wrong = [place for place, apart in enumerate(self.apart) if not apart <= limit]
        if not wrong:
            return None
        worst = max(wrong, key=lambda place: self.apart[place])
        look = {
            PICTURES: "the order of channels, mean and deviation, crop or squash, and the interpolation",
            TEXTS: "capitals, special tokens, padding and its mask, the prompt, and the position that is pooled",
        }
        return (
            f"{tower}: {len(wrong)} of {len(self.apart)} drawn {self.kind} have other vectors by our path than by "
            f"{self.library}'s own with the same weights, the furthest '{self.names[worst]}' (1 - cosine "
            f"{self.apart[worst]:.2g}, at most {limit:.2g} is taken): look at {look[self.kind]}"
        )

    def golden_trouble(self, tower: str, kept: Sequence[float]) -> str | None:
        """Whether our vectors are not those that the card remembers.

        Args:
            tower: its name, for the message.
            kept: the numbers on the card.
        """
        found, wanted = np.array(self.golden), np.array(kept)
        if found.shape == wanted.shape:
            apart = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
            if apart <= APART_AT_GOLDEN[self.precision]:
                return None
        return (
            f"{tower}: the vectors of the drawn {self.kind} begin with {_shown(found)}, the card remembers "
            f"{_shown(wanted)} of this checkpoint: other weights under the same name. If they are the ones you want, "
            "`twinlens models --golden <name>` writes theirs, or take `golden` off the card"
        )


@dataclass(frozen=True)
class Inspection:
    """Findings about one tower."""

    comparisons: list[Comparison]
    initialised: int  # norms of the model, where all of them are as they are made; 0 where one is not
    needs: InputSize  # how large it reads pictures

    def troubles(self, job: TowerJob) -> Iterator[tuple[str, str | None]]:
        """Each gate with what is wrong with the tower, in words."""
        name, golden = name_tower(job), job.tower.about.golden
        kept = {} if golden is None else {PICTURES: golden.pictures, TEXTS: golden.texts}
        for one in self.comparisons:
            yield "conformity", one.trouble(name)
            if (numbers := kept.get(one.kind)) is not None:
                yield "golden", one.golden_trouble(name, numbers)
        if self.initialised:
            yield (
                "no_better_than_random",
                f"{name}: all {self.initialised} norms of the model have the scale 1 and the shift 0 that they are "
                "made with: random weights, or a checkpoint that was not loaded",
            )


def inspect_tower(job: TowerJob, kinds: Sequence[str]) -> Inspection:
    """Look at a tower, or take what was found when it was looked at before.

    Args:
        job: the tower with its weights; it is loaded where it was not looked at before.
        kinds: PICTURES, TEXTS or both: what it is used for.
    """
    family = job.tower.family
    modules = [module for module in (f"{references.__name__}.{family}",) if references.has_own_path(family)]
    # looked at anew where the code has changed that looks, while the vectors themselves can stay
    key = fingerprint(inspected=code_digest(__name__, *modules), kinds=sorted(kinds), **job.identity)
    with Scratch("conformity", key) as scratch:
        if not scratch.has("found.json"):
            text = json.dumps(asdict(job.ask(_inspect, kinds)))
            scratch.put("found.json", lambda path: _write(path, text))
        found = json.loads(scratch.path("found.json").read_text(encoding="utf-8"))
    comparisons = [Comparison(**one) for one in found["comparisons"]]
    return Inspection(comparisons, found["initialised"], InputSize(**found["needs"]))


def needs_inspection(job: TowerJob) -> bool:
    """Whether there is something to see: a library's own path, or numbers on the card.

    Drawn inputs cannot be read by a tower whose vectors come from elsewhere.
    """
    if isinstance(job.tower, VectorsTower | EndpointTower):
        return False
    return references.has_own_path(job.tower.family) or job.tower.about.golden is not None


def compute_golden(role: str, tower: Tower, placement: Placement, compute: ComputeParams) -> GoldenVectors | None:
    """Compute what a card can remember of a tower's weights as they are here, in float32; None where it has no vectors.

    Raises:
        FetchError: the weights cannot be had.
        DataError: they do not fit.
    """
    if isinstance(tower, VectorsTower | EndpointTower):
        return None
    if isinstance(tower, WordVectorsTower) and tower.pooling == "none":
        return None
    exact = Placement(placement.device, torch.float32)
    job = TowerJob(tower, encoders.locate(tower), exact, compute, Cost())
    found = {one.kind: one.golden for one in inspect_tower(job, KINDS[role]).comparisons}
    return GoldenVectors.model_validate(found)


def _inspect(worker: TowerWorker, kinds: Sequence[str]) -> Inspection:
    loaded, found = worker.loaded, []
    with torch.inference_mode():
        # the library's path is that of the model as it is published: folding must not move what it is compared with
        published = encoders.load(worker.tower, worker.weights, worker.placement) if loaded.folded else loaded
        reference = references.build(worker.tower, worker.weights, published, worker.placement)
        library = None if reference is None else reference.library
        if PICTURES in kinds and loaded.reads_pictures:
            own = None if reference is None else reference.picture
            found.append(_compare(PICTURES, worker, library, *read_pictures(loaded, own)))
        if TEXTS in kinds and loaded.text is not None:
            own_text = None if reference is None else reference.text
            found.append(_compare(TEXTS, worker, library, *read_texts(loaded.text, own_text)))
    model = getattr(loaded.image or loaded.native or loaded.text, "model", None)
    untouched = count_untouched_norms(model) if isinstance(model, torch.nn.Module) else 0
    return Inspection(found, untouched, measure_input(loaded) if PICTURES in kinds else InputSize())


def read_pictures(
    loaded: LoadedEncoders, own: Callable[[Image.Image], Vector] | None
) -> tuple[list[str], Rows, Rows | None]:
    """Read the drawn pictures: their names, our vectors, and the library's where it has a path of its own."""
    drawn = draw_pictures()
    ours = encode_jpegs(loaded, list(drawn.values())).cpu().numpy()
    if own is None:
        return list(drawn), ours, None
    opened = (Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in drawn.values())
    return list(drawn), ours, torch.cat([own(picture) for picture in opened]).cpu().numpy()


def read_texts(encoder: TextEncoder, own: Callable[[str], Vector] | None) -> tuple[list[str], Rows, Rows | None]:
    """Read the drawn texts; as `read_pictures`."""
    texts = list((SHORT_TEXTS | (long := _write_long_texts(encoder))).values())
    # By length, as beside a text of full length nobody's padding can be too short; and the first by itself.
    parts = texts[:1], texts[1 : len(SHORT_TEXTS)], texts[len(SHORT_TEXTS) :]
    ours = torch.cat([encoder.encode(part) for part in parts]).cpu().numpy()
    theirs = None if own is None else torch.cat([own(text) for text in texts]).cpu().numpy()
    return [*SHORT_TEXTS, *long], ours, theirs


def _write_long_texts(encoder: TextEncoder) -> dict[str, str]:
    """A text as long as the tower reads, and one that it has to cut."""
    words = (f"{LONG_LINE} " * LONGEST).split()[:LONGEST]
    counts = encoder.token_counts([" ".join(words[:count]) for count in range(1, len(words) + 1)])
    fits = max((count for count, tokens in enumerate(counts, start=1) if tokens <= encoder.max_tokens), default=1)
    return {"as long as fits": " ".join(words[:fits]), "too long": " ".join(words[: fits + MORE])}


def _compare(
    kind: str, worker: TowerWorker, library: str | None, names: list[str], ours: Rows, theirs: Rows | None
) -> Comparison:
    unit = _unit(ours)
    beside = unit if theirs is None else _unit(theirs)
    count = len(beside)
    return Comparison(
        kind,
        "exact" if worker.placement.dtype == torch.float32 else "rounded",
        library,
        names,
        [] if theirs is None else np.maximum(0.0, 1.0 - (unit * beside).sum(axis=1)).tolist(),
        float(1.0 - ((beside @ beside.T).sum() - count) / (count * (count - 1))),
        unit.mean(axis=0)[:GOLDEN_NUMBERS].tolist(),
    )


def count_untouched_norms(model: torch.nn.Module) -> int:
    """Count the norms of a model if all of them are as they are made: scale 1, shift 0, and no statistics; else 0.

    Training moves every one of them. Matrices tell nothing: random ones look like trained ones.
    """
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    made = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    count = 0
    for norm in norms:
        own = dict(norm.named_parameters(recurse=False)) | dict(norm.named_buffers(recurse=False))
        values = {name: own[name] for name in made if name in own and own[name].ndim == 1}
        if any(bool((value != made[name]).any()) for name, value in values.items()):
            return 0
        count += bool(values)
    return count


def _unit(rows: Rows) -> Float64[np.ndarray, "rows dim"]:
    wide = np.asarray(rows, dtype=np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300))


def name_tower(job: TowerJob) -> str:
    """Name a tower in a message: its family and what it is called there."""
    return f"{job.tower.family} {getattr(job.tower, job.tower.family)}"


def _shown(numbers: Any) -> str:
    return " ".join(f"{number:.4f}" for number in numbers[:4])


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
