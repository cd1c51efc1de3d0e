"""Fitting of how sure a search is of its first picture, on validation captions.

Each caption searches the pool with its own picture added to it, which is otherwise not there. The temperature of the
signal makes the right pictures of the captions most likely; no promise is chosen with it.

The threshold of a promise is, of the signals at which 5, 10, ... 100 % of the captions are answered, the lowest that is
shown to keep it: by fixed sequences of tests from strict to loose, begun at several places, with the error shared
among them (Angelopoulos, Bates, Candes, Jordan and Lei, Learn then Test, 2021). Captions of one picture are right or
wrong together, so that each test is the bound of a share under clustering by Korn and Graubard (1998).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from twinlens.config.vector_forms import VectorForm
from twinlens.core.errors import DataError
from twinlens.core.row_sources import DerivedRows, iter_blocks
from twinlens.core.vectors import Matrix, Rows, Vectors
from twinlens.retrieval.compression import FittedForm
from twinlens.retrieval.confidence import BEST, ConfidenceRule, Scores, Signal, compute_signal
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.known import check_form, learn
from twinlens.retrieval.scores import compute_exact_scores, scale_down
from twinlens.tasks.inputs import CAPTIONS, IMAGES, VALIDATION_CAPTIONS, VALIDATION_IMAGES

FLOAT32 = VectorForm()
LEVEL = 0.95  # with which each promise is kept
PROMISES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
COVERAGES = np.arange(1, 21) / 20
STARTS = 2  # places at which tests begin
LEAST_PICTURES = 20  # to fit a rule on
COLUMNS = ("signal", "coverage", "precision", "promise")
TEMPERATURES = np.geomspace(1e-3, 1.0, 61)


@dataclass(frozen=True)
class Answers:
    """What captions with a known picture found."""

    best: Scores  # best first
    own: Float[np.ndarray, " queries"]  # the score of the right picture
    right: Bool[np.ndarray, " queries"]  # whether it is the first
    pictures: Int[np.ndarray, " queries"]  # its number: captions of one are not independent


@dataclass(frozen=True)
class Calibrated:
    """A model's rule, or why it has none."""

    rule: ConfidenceRule | None
    why: str = ""
    figures: dict[str, float] = field(default_factory=dict)  # of the captions that it was fitted on
    rows: list[dict[str, Any]] = field(default_factory=list)  # of `COLUMNS`

    @classmethod
    def without(cls, why: str) -> Self:
        """None, for a reason."""
        return cls(None, why)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rule = None if self.rule is None else self.rule.as_json()
        return {"rule": rule, "why": self.why, "figures": self.figures}

    def say(self) -> str:
        """Say what is promised, in a sentence."""
        if self.rule is None:
            return f"no confidence: {self.why}"
        told = ", ".join(f"{promise:g}" for promise in self.rule.thresholds)
        return (
            f"the first picture is promised to be right in a share of {told} of answers that are as sure, as "
            f"{self.rule.captions:,} captions of {self.rule.pictures:,} validation pictures show "
            f"(hit@1 {self.figures['hit_at_1']:.3f}; AUROC {self.figures['auroc_softmax']:.2f}, of the cosine "
            f"{self.figures['auroc_cosine']:.2f})"
        )


def fit_or_explain(
    vectors: Mapping[str, Vectors],
    model: str,
    joint: bool,
    device: str = "cpu",
    form: VectorForm = FLOAT32,
    matryoshka: Sequence[int] = (),
) -> Calibrated:
    """Fit the rule of a model on its validation captions, or say in words why there is none.

    Args:
        vectors: of the model, by the names of inputs.
        model: its name.
        joint: whether pictures and words share a space.
        device: where the pool is searched.
        form: in which the search index holds the pool: the rule is about the scores that a search has.
        matryoshka: of the model's card.

    Raises:
        DataError: a validation picture is in the pool, or too few pictures are there to fit the form to.
        ParamsError: the vectors cannot be kept in the form.
    """
    if form.rescored is not None:
        return Calibrated.without(
            f"'{form.name}' scores anew only the {form.rescored} that its bits find, and the rule compares the first "
            f"with {BEST}"
        )
    if not joint or IMAGES not in vectors:
        return Calibrated.without(f"{model} does not put words and pictures into one space: words find none by vectors")
    if VALIDATION_IMAGES not in vectors or VALIDATION_CAPTIONS not in vectors:
        return Calibrated.without(
            "there are no validation captions outside the pool (a split `val`, hybrid.validation_pictures above 0)"
        )
    pool, pictures, captions = (vectors[name] for name in (IMAGES, VALIDATION_IMAGES, VALIDATION_CAPTIONS))
    if both := set(pictures.ids) & set(pool.ids):
        raise DataError(
            f"{len(both)} pictures on which confidence would be fitted are in the pool, the first is '{min(both)}': "
            "`dvc repro -f tasks`"
        )
    if len(pictures.ids) < LEAST_PICTURES:
        return Calibrated.without(
            f"{len(pictures.ids)} validation pictures are too few to fit a rule on: {LEAST_PICTURES} are needed"
        )
    row_of = {image_id: row for row, image_id in enumerate(pictures.ids)}
    of_captions = np.array([row_of[image_id] for image_id in captions.image_ids])
    fitted = None
    if form != FLOAT32:
        known = learn(
            vectors, pool.unit, pool.ids, pictures=True, captions_ask=CAPTIONS in vectors, matryoshka=matryoshka
        )
        check_form(form, pool.unit.shape[1], known, model)
        fitted = FittedForm.of(form, pool.unit, known)
    asked, own = np.asarray(captions.unit), np.asarray(pictures.unit)
    answers = find_answers(asked, own, of_captions, pool.unit, device, fitted)
    rule = fit_rule(answers)
    rows = build_coverage_rows(answers, rule)
    if rule.most is None:
        why = (
            f"not even a share of {PROMISES[0]:g} right answers is shown on {rule.captions:,} validation captions of "
            f"{rule.pictures:,} pictures"
        )
        return Calibrated(None, why, {}, rows)
    figures = {
        "hit_at_1": float(answers.right.mean()),
        "auroc_softmax": measure_auroc(compute_signal(answers.best, rule.temperature), answers.right) or 0.0,
        "auroc_cosine": measure_auroc(answers.best[:, 0], answers.right) or 0.0,
    }
    return Calibrated(rule, "", {name: round(value, 4) for name, value in figures.items()}, rows)


def find_answers(
    captions: Matrix,
    pictures: Matrix,
    of_captions: Int[np.ndarray, " queries"],
    pool: Rows,
    device: str = "cpu",
    fitted: FittedForm | None = None,
) -> Answers:
    """Let each caption search the pool with its own picture in it; a tie with another counts as wrong.

    Args:
        captions: unit vectors, of pictures outside the pool.
        pictures: unit vectors of these.
        of_captions: the row of the picture that each caption describes.
        pool: unit vectors of what is searched.
        device: where it is searched.
        fitted: the form in which both are kept; float32 if absent.
    """
    scale = np.float32(1.0)
    if fitted is not None:
        written = partial(_write_out, fitted)
        captions = fitted.prepare(captions)
        scale = max(scale_down(written(block), captions) for block in iter_blocks(pool))
        pictures = written(pictures) / scale
        pool = DerivedRows((pool,), lambda rows: written(rows) / scale, (len(pool), captions.shape[1]))
    found = list(find_nearest(captions, pool, min(BEST, len(pool)), device=device))
    others = scale * np.concatenate([block.scores for block in found])
    own = scale * compute_exact_scores(captions, pictures, of_captions[:, None])[:, 0]
    best = -np.sort(-np.hstack([others, own[:, None]]), axis=1)[:, :BEST]
    return Answers(best, own, own > others[:, 0], of_captions)


def _write_out(fitted: FittedForm, rows: Matrix) -> Matrix:
    return fitted.make_codes(fitted.encode(rows)).decode()


def fit_rule(answers: Answers, promises: tuple[float, ...] = PROMISES) -> ConfidenceRule:
    """Fit a rule."""
    temperature = fit_temperature(answers)
    signal, thresholds = compute_signal(answers.best, temperature), dict[float, float]()
    least = -np.inf
    for promise in sorted(promises):
        found = find_threshold(signal, answers.right, answers.pictures, promise)
        if found is None:
            continue
        least = max(least, found)  # what is enough for a higher promise is enough for a lower one
        thresholds[promise] = float(least)
    return ConfidenceRule(temperature, thresholds, len(np.unique(answers.pictures)), len(answers.right))


def fit_temperature(answers: Answers) -> float:
    """Find the temperature at which the right pictures are most likely among the best and themselves."""
    own = answers.own[:, None]
    # where the right picture is not among the best, it takes the last one's place
    scores = np.where(own < answers.best[:, -1:], np.hstack([answers.best[:, :-1], own]), answers.best)
    scores = np.asarray(scores, dtype=np.float64)

    def miss(temperature: float) -> float:
        scaled = (scores - own) / temperature
        top = scaled.max(axis=1)
        return float((top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))).mean())

    return float(min(TEMPERATURES, key=miss))


def find_threshold(
    signal: Signal, right: Bool[np.ndarray, " queries"], clusters: Int[np.ndarray, " queries"], promise: float
) -> float | None:
    """Find the least signal at which the promise is shown to be kept; None where it is at none.

    Args:
        signal: of each query; higher is surer.
        right: whether what it found is right.
        clusters: queries that share one are not independent.
        promise: the least share that is right of what is answered.
    """
    order = np.argsort(-signal, kind="stable")
    levels = np.unique(signal[order[np.ceil(COVERAGES * len(signal)).astype(int) - 1]])[::-1]  # strict to loose
    alpha = (1.0 - LEVEL) / STARTS
    possible = [
        place
        for place, level in enumerate(levels)
        if promise ** len(np.unique(clusters[signal >= level])) <= alpha  # were all right, it would be shown
    ]
    if not possible:
        return None
    kept = -1
    for start in sorted({possible[len(possible) * n // STARTS] for n in range(STARTS)}):
        place = start
        while place < len(levels):
            answered = signal >= levels[place]
            if bound_share(right[answered], clusters[answered], alpha) < promise:
                break
            kept = max(kept, place)
            place += 1
    return None if kept < 0 else float(levels[kept])


def bound_share(right: Bool[np.ndarray, " queries"], clusters: Int[np.ndarray, " queries"], alpha: float) -> float:
    """Bound a share from below where queries come in clusters, with an error of `alpha`.

    Clopper and Pearson's bound with the number of queries that would be as good if they were independent: share (1 -
    share) / variance, with t for the few clusters that the variance is of, at most all queries (Korn and Graubard,
    Survey Methodology 1998). Where all are right the variance says nothing, and each cluster counts as one.
    """
    codes = np.unique(clusters, return_inverse=True)[1]
    count, groups, share = len(right), int(codes.max()) + 1, float(right.mean())
    if groups < 2 or share == 0.0:
        return 0.0
    sums = np.bincount(codes, weights=right - share)
    variance = groups / (groups - 1) * float((sums**2).sum()) / count**2
    effective = float(groups)
    if variance > 0:
        few = stats.t.ppf(alpha, count - 1) / stats.t.ppf(alpha, groups - 1)
        effective = min(float(count), share * (1.0 - share) / variance * few**2)
    hits = share * effective
    return float(stats.beta.ppf(alpha, hits, effective - hits + 1.0))


def build_coverage_rows(answers: Answers, rule: ConfidenceRule) -> list[dict[str, Any]]:
    """Build the rows of `COLUMNS`: what is right of what is answered, and the highest promise that is given there."""
    signal = compute_signal(answers.best, rule.temperature)
    return [
        {
            "signal": round(level, 4),
            "coverage": round(coverage, 4),
            "precision": round(precision, 4),
            "promise": max((promise for promise, least in rule.thresholds.items() if level >= least), default=None),
        }
        for level, coverage, precision in trace_coverage(signal, answers.right)
    ]


def measure_auroc(signal: Signal, right: Bool[np.ndarray, " queries"]) -> float | None:
    """Measure how often a right answer has the higher signal than a wrong one; None where all are of one kind."""
    if right.all() or not right.any():
        return None
    ranks = stats.rankdata(signal)
    good = int(right.sum())
    return float((ranks[right].sum() - good * (good + 1) / 2) / (good * (len(right) - good)))


def trace_coverage(signal: Signal, right: Bool[np.ndarray, " queries"]) -> list[tuple[float, float, float]]:
    """Trace what is answered against what is right of it: (signal, coverage, precision) from strict to loose."""
    order = np.argsort(-signal, kind="stable")
    places = np.ceil(COVERAGES * len(signal)).astype(int) - 1
    levels = np.unique(signal[order[places]])[::-1]
    found = []
    for level in levels:
        answered = signal >= level
        found.append((float(level), float(answered.mean()), float(right[answered].mean())))
    return found


def write_coverage(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows of `COLUMNS` as CSV; the header alone where there are none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
