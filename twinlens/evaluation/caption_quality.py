"""Object coverage of generated captions: the labels of a picture that its caption names."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

WORD = re.compile(r"[^\W_]+")


def find_named_labels(text: str, labels: list[str]) -> set[str]:
    """Find the labels whose words stand in the text, side by side and in order, in the singular or with an s."""
    words = WORD.findall(text.lower())
    found = set()
    for label in labels:
        wanted = WORD.findall(label.lower())
        for start in range(len(words) - len(wanted) + 1):
            here = words[start : start + len(wanted)]
            last, wanted_last = here[-1], wanted[-1]
            if here[:-1] == wanted[:-1] and last in (wanted_last, f"{wanted_last}s", f"{wanted_last}es"):
                found.add(label)
    return found


def measure_captions(generated: pl.DataFrame, images: pl.DataFrame) -> dict[str, float]:
    """Measure generated captions over the labelled pictures.

    `names_exactly` is the share of pictures whose caption names all their labels and no other;
    `label_recall` and `label_precision` are means over pictures. Words are compared with words, so a
    caption that says "man" does not name the label "person".

    Args:
        generated: `image_id`, `text`.
        images: `image_id`, `labels`.
    """
    if generated.is_empty():
        return {"captions": 0}
    joined = generated.join(images, on="image_id", how="left", maintain_order="left")
    vocabulary = sorted({label for labels in images["labels"] for label in labels})
    figures: dict[str, float] = {
        "captions": len(joined),
        "empty": int((joined["text"] == "").sum()),
        "different": joined["text"].n_unique(),
        "median_words": float(np.median([len(WORD.findall(text)) for text in joined["text"]])),
    }
    exact, recall, precision = [], [], []
    for text, labels in joined.filter(pl.col("labels").list.len() > 0).select("text", "labels").iter_rows():
        named, wanted = find_named_labels(text, vocabulary), set(labels)
        exact.append(named == wanted)
        recall.append(len(named & wanted) / len(wanted))
        precision.append(len(named & wanted) / len(named) if named else 0.0)
    if exact:
        figures |= {
            "names_exactly": round(float(np.mean(exact)), 6),
            "label_recall": round(float(np.mean(recall)), 6),
            "label_precision": round(float(np.mean(precision)), 6),
        }
    return figures
