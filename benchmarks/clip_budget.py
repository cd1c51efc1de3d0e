"""Vectors in fewer bytes on genuine CLIP vectors: `python -m benchmarks.clip_budget FILE` (docs/budget.md).

FILE holds vectors of Flickr8k photos and of five captions of a hundred of them (`image_names`, `image_emb`, `text`,
`text_emb`, `text_image`). Principal axes are those of the other photos, the mean query is that of a hundred captions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from twinlens.config.budget import read_budget
from twinlens.evaluation.budget import measure_budget
from twinlens.evaluation.recommendation import say_recommended
from twinlens.report.summary import format_markdown
from twinlens.retrieval.exemplar import scale_to_unit
from twinlens.retrieval.known import Known
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.qrels import Groups


def main() -> None:
    """Print a table of all settings."""
    with np.load(Path(sys.argv[1]), allow_pickle=False) as stored:
        ids, described = ([str(name) for name in stored[key]] for key in ("image_names", "text_image"))
        items, queries = (scale_to_unit(stored[key]).astype(np.float32) for key in ("image_emb", "text_emb"))
    row_of = {name: row for row, name in enumerate(ids)}
    wanted = np.array([row_of[name] for name in described])
    names, about = [str(n) for n in range(len(wanted))], TaskMetadata("words to pictures", "t2i", 0)
    task = Task("caption_to_image", about, names, described, ids, Groups(wanted, np.arange(len(ids))))
    known = Known(np.delete(items, wanted, axis=0), True, queries[:100].mean(axis=0), [items.shape[1] // 2])
    rows = measure_budget(task, queries, items, read_budget(), known)
    lines = [
        [
            row["setting"],
            f"{row['bytes']:g}",
            f"{row['hit']:.3f}",
            f"{row['hit_difference']:+.3f} ({row['hit_low']:+.3f} to {row['hit_high']:+.3f})",
            f"{row['recall']:.3f}",
            f"{row['ms_per_query'] / rows[0]['ms_per_query']:.2f}",
        ]
        for row in rows
    ]
    heading = ["kept as", "bytes", f"hit@{rows[0]['k']}", "difference (95 %)", "recall", "time of a query"]
    print(format_markdown(heading, lines))
    print(f"\n{say_recommended(rows)}")


if __name__ == "__main__":
    main()
