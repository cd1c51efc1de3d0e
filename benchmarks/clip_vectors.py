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


def _whatever_the_words(weights: np.ndarray, words: np.ndarray) -> np.ndarray:
    return weights


def _pulled(
    examples: exemplar.Examples, negatives: np.ndarray, lambda_w: float, lambda_q: float, words: np.ndarray
) -> np.ndarray:
    return exemplar.fit_svms(examples, negatives, lambda_w=lambda_w, texts=words, lambda_q=lambda_q).weights


def main() -> None:
    """Print a table: average precision, its mean over queries and over classes, and its paired difference to `text`."""
    with np.load(Path(sys.argv[1]), allow_pickle=False) as file:
        stored = {name: file[name] for name in file}
    row_of = {name: row for row, name in enumerate(stored["image_names"])}
    photos = list(dict.fromkeys(stored["text_image"]))
    rows_of = [np.flatnonzero(stored["text_image"] == name) for name in photos]
    shown = classes([[str(stored["text"][row]) for row in rows] for rows in rows_of])
    kept = [n for n, code in enumerate(shown) if code is not None]
    codes = np.array([shown[n] for n in kept])
    pictures = exemplar.scale_to_unit(stored["image_emb"][[row_of[photos[n]] for n in kept]])
    queries = np.flatnonzero(codes != NOBODY)
    apart = sorted(row for name, row in row_of.items() if name not in set(photos))
    chosen = np.random.default_rng(0).permutation(apart)[:1000]
    negatives = exemplar.scale_to_unit(stored["image_emb"][np.sort(chosen)])
    own = pictures[queries]
    texts = [exemplar.scale_to_unit(stored["text_emb"][[rows_of[kept[q]][n] for q in queries]]) for n in range(5)]

    def precision(make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Of every query, the mean over the captions of its photo; the photo itself is not ranked."""
        values = np.zeros(len(queries))
        for words in texts:
            made = exemplar.scale_to_unit(make(words)).astype(np.float32)
            for place, query in enumerate(queries):
                others = np.arange(len(kept)) != query
                items = pictures[others].astype(np.float32)
                qrels = Groups(codes[query : query + 1], codes[others])
                values[place] += average_precision(made[place : place + 1], items, qrels)[0]
        return values / len(texts)

    examples = exemplar.Examples.of(list(own[:, None]))
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
        ridge = exemplar.ridge(examples, negatives, 1 / (2 * c))
        svm = exemplar.fit_svms(examples, negatives, lambda_w=1 / (2 * c)).weights
        ways[f"exemplar_ridge, C {c:g}"] = partial(_whatever_the_words, ridge)
        ways[f"exemplar_svm, C {c:g}"] = partial(_whatever_the_words, svm)
    for lambda_w, lambda_q in TRIED:
        ways[f"exemplar_svm_and_text, lambda {lambda_w:g}, lambda_q {lambda_q:g}"] = partial(
            _pulled, examples, negatives, lambda_w, lambda_q
        )
    found = {name: precision(make) for name, make in ways.items()}
    of_queries = codes[queries]
    drawn = np.random.default_rng(0).integers(0, len(queries), (10_000, len(queries)))  # photos, with replacement
    lines = []
    for name, values in found.items():
        macro = np.mean([values[of_queries == code].mean() for code in range(NOBODY)])
        cells = [name, f"{values.mean():.3f}", f"{macro:.3f}"]
        for other in ("text", "exemplar"):
            difference = (values - found[other])[drawn].mean(axis=1)
            low, high = np.quantile(difference, [0.025, 0.975])
            cells.append("" if name == other else f"{(values - found[other]).mean():+.3f} ({low:+.3f} to {high:+.3f})")
        lines.append(cells)
    print(f"{len(queries)} photos x 5 captions search, {len(kept)} photos are ranked, {len(negatives)} negatives\n")
    print(
        format_markdown(
            ["searched by", "average precision", "over classes", "to text (95 %)", "to exemplar (95 %)"], lines
        )
    )


if __name__ == "__main__":
    main()
