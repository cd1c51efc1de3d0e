"""Reasons why a model has no row of its own in a task's results: words alone (BM25) say nothing of it."""

from __future__ import annotations

from collections.abc import Iterable

from twinlens.retrieval.base import Corpus, Retriever
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import GENERATED, IMAGES

JOINT = "a model whose towers share a space (`-S model=vit-b-32`)"
HEADS = "heads trained on both (a card with `train`: docs/training.md)"
CAPTIONER = "a captioner (`-S captioner=blip-base`), whose captions the text tower can compare"
OTHERS = "a text tower alone is measured by caption_to_caption (several captions a picture), an image tower by labels"


def explain_unmeasured(task: Task, corpus: Corpus, model: str, found: Iterable[Retriever]) -> str | None:
    """Explain why none of a task's retrievers uses the model's vectors, and what would help; None where one does.

    Args:
        task: that was searched.
        corpus: what the model made.
        model: its name.
        found: the task's retrievers.
    """
    if any(part.startswith("embed_") for one in found for part in one.costs):
        return None
    pixels = IMAGES in corpus.vectors
    words = any(name in corpus.texts for name in corpus.vectors)
    category = task.about.category
    if category in ("t2i", "i2t", "it2i") and pixels and words and not corpus.joint:
        why = "its two towers share no space, so that words cannot be compared with pixels"
        helps = [JOINT, HEADS, *([] if GENERATED in corpus.texts else [CAPTIONER])]
    elif category in ("t2i", "i2t", "t2t", "it2i") and not words:
        why, helps = "it has no text tower", ["a model with one (`twinlens models` lists them)"]
    elif category in ("t2i", "i2t", "it2i"):
        why, helps = "it has no image tower", [JOINT, CAPTIONER]
    elif category == "i2i" and not pixels:
        why, helps = "it reads no pixels, and there are no captions", [JOINT, CAPTIONER]
    else:
        why, helps = "it has no vectors of what is searched here", [JOINT]
    return f"{task.name}: {model} is not measured, as {why}. What would be: {'; '.join(helps)}. Else {OTHERS}"
