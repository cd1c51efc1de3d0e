"""Write the result tables of README.md and docs/category-search.md anew from the numbers they show: `make readme`.

The default's tables come from `metrics/retrieval.json`, the others from copies of that file kept in
`docs/results/`. A test holds that the README shows what the numbers say.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from twinlens.reporting import TASKS, markdown

README, CATEGORY_SEARCH = Path("README.md"), Path("docs/category-search.md")
KEPT = Path("docs/results")
MEASURES = {
    "hit_at_10": "hit@10",
    "recall_at_10": "recall@10",
    "mrr_at_10": "MRR@10",
    "ndcg_at_10": "nDCG@10",
    "map_at_10": "MAP@10",
}
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table_of(retrieval: dict[str, Any]) -> str:
    """The headline measures, a row per task and retriever, and the pools they are about."""
    rows = []
    tasks = [name for name in TASKS if name in retrieval and name != "category_search"]
    for task in tasks:
        for retriever, values in sorted(retrieval[task].items(), key=lambda item: -item[1].get("ndcg_at_10", 0)):
            if retriever != "pool":
                shown = [f"{values[measure]:.3f}" for measure in MEASURES]
                rows.append([task, f"`{retriever}`", *shown, f"{values['median_rank']:g}"])
    pools = [
        f"{task}: {pool['queries']:,} queries, {pool['items']:,} items, chance hit@10 {pool['chance_hit_at_10']:.3f}"
        for task, pool in ((task, retrieval[task]["pool"]) for task in tasks)
    ]
    table = markdown(["task", "a picture is fed as", *MEASURES.values(), "MedR"], rows)
    return f"{table}\n\n{'; '.join(pools)}.\n"


def category_table(standard: dict[str, Any], published: dict[str, Any]) -> str:
    """Category search under both protocols, best first, and the pools they are about."""
    rows = [
        [
            f"`{name}`",
            f"{values['average_precision']:.3f}",
            *(f"{values[measure]:.3f}" for measure in ("hit_at_10", "ndcg_at_10")),
            f"{values['median_rank']:g}",
            f"{published[name]['map']:.3f}" if name in published else "",
        ]
        for name, values in sorted(standard.items(), key=lambda item: -item[1].get("average_precision", 0))
        if name != "pool"
    ]
    header = ["searched by", "average precision", "hit@10", "nDCG@10", "MedR", "as published"]
    pools = [
        f"{what}: {pool['queries']:,} queries in {pool['classes']} classes, {pool['items']:,} items, "
        f"{pool['negatives']:,} negatives"
        for what, pool in (("standard", standard["pool"]), ("as published", published["pool"]))
    ]
    return f"{markdown(header, rows)}\n\n{'; '.join(pools)}.\n"


def block_of(name: str) -> str:
    """What stands in a block."""
    if name != "category_search":
        return table_of(numbers_of(name))
    published = json.loads(Path("metrics/as_published.json").read_text(encoding="utf-8"))
    return category_table(numbers_of("default")["category_search"], published["category_search"])


def numbers_of(name: str) -> dict[str, Any]:
    """The measures behind a block of the README."""
    path = Path("metrics/retrieval.json") if name == "default" else KEPT / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def rewritten(text: str) -> str:
    """The README, or another page, with every table made anew."""
    return BLOCK.sub(lambda block: f"{block[1]}{block_of(block['name'])}{block[3]}", text)


def main() -> None:
    """Rewrite the tables; with a name, first keep the current numbers under it."""
    for name in sys.argv[1:]:
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{name}.json").write_text(json.dumps(numbers_of("default"), indent=2) + "\n", encoding="utf-8")
    for page in (README, CATEGORY_SEARCH):
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
