"""Does a picture with a text find more than either? On genuine CLIP vectors: `python -m benchmarks.clip_vectors FILE`.

FILE holds vectors of Flickr8k photos and of five captions of a hundred of them (`image_names`, `image_emb`, `text`,
`text_emb`, `text_image`). A query is one of those photos with one of its captions; its class is whom most of
its captions name (WHO), if that is one only; the other such photos, and those that show nobody, are
ranked, and 1,000 photos without captions are the negatives.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from twinlens.report.summary import format_markdown
from twinlens.retrieval import exemplar
from twinlens.retrieval.full_ranking import average_precision
from twinlens.tasks.qrels import Groups

WHO = {
    "child": r"girls?|boys?|child|children|kids?|toddlers?|baby",
    "dog": r"dogs?|puppy|puppies",
    "man": r"man|men|guys?",
    "woman": r"woman|women|lady|ladies",
}
NOBODY = len(WHO)
MAJORITY = 3  # captions of five
NEGATIVES = 1000
# What is tried; docs/category-search.md says which values of `category_search.standard` were chosen from it.
WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6)
SHRINKAGES = (0.2, 0.4, 0.6, 0.8, 1.0)
CS = (0.001, 0.01, 0.1, 1.0)
TRIED = [(lambda_w, lambda_q) for lambda_w in (1.0, 10.0, 100.0) for lambda_q in (100.0, 1000.0)]


def classes(captions: list[list[str]]) -> list[int | None]:
    """Whom each photo shows, by its captions; None where it is more than one."""
    found: list[int | None] = []
    for texts in captions:
        named = [
            code
            for code, words in enumerate(WHO.values())
            if sum(bool(re.search(rf"\b({words})\b", text, re.IGNORECASE)) for text in texts) >= MAJORITY
        ]
        found.append(None if len(named) > 1 else (named or [NOBODY])[0])
    return found


@dataclass(frozen=True)
class Searches:
    """Photos that search, each with each of its five captions, and what they search among."""

    pictures: np.ndarray  # that are ranked, those that search among them
    codes: np.ndarray  # the class of each
    queries: np.ndarray  # rows of the pictures that search
    texts: list[np.ndarray]  # unit vectors of the queries' n-th captions
    negatives: np.ndarray

    @property
    def examples(self) -> exemplar.Examples:
        """The query's own picture alone."""
        return exemplar.Examples.of(list(self.pictures[self.queries][:, None]))

    def scaled_by_columns(self) -> Searches:
        """The same with columns divided by their norms, as source 003's; texts stay, as its did."""
        norms = np.linalg.norm(np.vstack([self.pictures, self.negatives]), axis=0)
        return replace(self, pictures=self.pictures / norms, negatives=self.negatives / norms)

    def precision(self, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Average precision of every query, the mean over its captions; the photo itself is not ranked."""
        values = np.zeros(len(self.queries))
        for words in self.texts:
            made = exemplar.scale_to_unit(make(words)).astype(np.float32)
            for place, query in enumerate(self.queries):
                others = np.arange(len(self.codes)) != query
                items = self.pictures[others].astype(np.float32)
                qrels = Groups(self.codes[query : query + 1], self.codes[others])
                values[place] += average_precision(made[place : place + 1], items, qrels)[0]
        return values / len(self.texts)

    def svm(self, c: float) -> Callable[[np.ndarray], np.ndarray]:
        """Exemplar SVMs, whatever the words: LinearSVC with its default intercept."""
        weights = exemplar.fit_svms(
            self.examples, self.negatives, lambda_w=1 / (2 * c), intercept="regularised"
        ).weights
        return lambda words: weights

    def svm_and_text(self, lambda_w: float, lambda_q: float) -> Callable[[np.ndarray], np.ndarray]:
        """The combined loss of source 003, with its free intercept."""

        def make(words: np.ndarray) -> np.ndarray:
            return exemplar.fit_svms(
                self.examples, self.negatives, lambda_w=lambda_w, intercept="free", texts=words, lambda_q=lambda_q
            ).weights

        return make


def read_searches(path: Path) -> Searches:
    """Read the file, and choose what searches, what is ranked and what are negatives."""
    with np.load(path, allow_pickle=False) as file:
        stored = {name: file[name] for name in file}
    row_of = {name: row for row, name in enumerate(stored["image_names"])}
    photos = list(dict.fromkeys(stored["text_image"]))
    rows_of = [np.flatnonzero(stored["text_image"] == name) for name in photos]
    shown = classes([[str(stored["text"][row]) for row in rows] for rows in rows_of])
    kept = [n for n, code in enumerate(shown) if code is not None]
    codes = np.array([shown[n] for n in kept])
    queries = np.flatnonzero(codes != NOBODY)
    apart = sorted(row for name, row in row_of.items() if name not in set(photos))
    chosen = np.sort(np.random.default_rng(0).permutation(apart)[:NEGATIVES])
    return Searches(
        exemplar.scale_to_unit(stored["image_emb"][[row_of[photos[n]] for n in kept]]),
        codes,
        queries,
        [exemplar.scale_to_unit(stored["text_emb"][[rows_of[kept[q]][n] for q in queries]]) for n in range(5)],
        exemplar.scale_to_unit(stored["image_emb"][chosen]),
    )


def measure(searches: Searches) -> dict[str, np.ndarray]:
    """Average precision of every query, by what is searched with."""
    own, examples, negatives = searches.pictures[searches.queries], searches.examples, searches.negatives
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "text": lambda words: words,
        "exemplar": lambda words: own,
        "rocchio, 1 .75 .15": lambda words: exemplar.rocchio(examples, negatives, words, 1.0, 0.75, 0.15),
    }
    for weight in WEIGHTS:
        ways[f"exemplar_and_text, image_weight {weight:g}"] = partial(
            exemplar.combine_unit_vectors, own, image_weight=weight
        )
    for shrinkage in SHRINKAGES:
        whitened = exemplar.lda_whitened(examples, negatives, shrinkage)
        ways[f"exemplar_lda, shrinkage {shrinkage:g}"] = partial(_whatever_the_words, whitened)
    for c in CS:
        ridge = exemplar.ridge(examples, negatives, 1 / (2 * c), "regularised")
        ways[f"exemplar_ridge, C {c:g}"] = partial(_whatever_the_words, ridge)
        ways[f"exemplar_svm, C {c:g}"] = searches.svm(c)
    for lambda_w, lambda_q in TRIED:
        ways[f"exemplar_svm_and_text, lambda {lambda_w:g}, lambda_q {lambda_q:g}"] = searches.svm_and_text(
            lambda_w, lambda_q
        )
    return {name: searches.precision(make) for name, make in ways.items()}


def measure_as_published(searches: Searches) -> dict[str, np.ndarray]:
    """The same of the four that source 003 has, with its parameters."""
    own = searches.pictures[searches.queries]
    ways = {
        "text": lambda words: words,
        "exemplar": lambda words: own,
        "exemplar_svm, C 1": searches.svm(1.0),
        "exemplar_svm_and_text, lambda 1, lambda_q 1000": searches.svm_and_text(1.0, 1000.0),
    }
    return {name: searches.precision(make) for name, make in ways.items()}


def _whatever_the_words(weights: np.ndarray, words: np.ndarray) -> np.ndarray:
    return weights


def _table(found: dict[str, np.ndarray], of_queries: np.ndarray) -> str:
    """Each mean over queries and over classes, and its paired differences, by bootstrap over the photos."""
    count = len(of_queries)
    drawn = np.random.default_rng(0).integers(0, count, (10_000, count))
    lines = []
    for name, values in found.items():
        macro = np.mean([values[of_queries == code].mean() for code in range(NOBODY)])
        cells = [name, f"{values.mean():.3f}", f"{macro:.3f}"]
        for other in ("text", "exemplar"):
            difference = (values - found[other])[drawn].mean(axis=1)
            low, high = np.quantile(difference, [0.025, 0.975])
            cells.append("" if name == other else f"{(values - found[other]).mean():+.3f} ({low:+.3f} to {high:+.3f})")
        lines.append(cells)
    return format_markdown(
        ["searched by", "average precision", "over classes", "to text (95 %)", "to exemplar (95 %)"], lines
    )


def main() -> None:
    """Print a table for rows of unit length, and one for source 003's scaling of columns."""
    searches = read_searches(Path(sys.argv[1]))
    of_queries = searches.codes[searches.queries]
    print(
        f"{len(of_queries)} photos x 5 captions search, {len(searches.codes)} photos are ranked, "
        f"{len(searches.negatives)} negatives\n\nRows of unit length:\n"
    )
    print(_table(measure(searches), of_queries))
    print("\nColumns divided by their norms, as source 003 had them:\n")
    print(_table(measure_as_published(searches.scaled_by_columns()), of_queries))


if __name__ == "__main__":
    main()
