"""Writing of the tables of README.md and docs/ from what they show, numbers and measures: `make readme`.

The default's tables come from `metrics/retrieval.json`, the others from numbers kept in `docs/results/`:
`python -m tools.readme real-photos` keeps a copy of that file, `training` what there is to say of the
trained model whose results are in `metrics/`. What `twinlens choose` said of a sweep is kept by itself,
`twinlens choose a b c --format json --out docs/results/choice-<name>.json`, for the block `choice-<name>`, its
sentence alone is `sentence-<name>`. A test holds that the pages show what the numbers say.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from twinlens.core.scratch import write_whole_text
from twinlens.evaluation.measures import MAIN, MEASURES, drawn, headline
from twinlens.report.choice_text import format_cost, label_measure
from twinlens.report.summary import describe_pool, format_markdown, select_shown

README, CATEGORY_SEARCH, TRAINED = Path("README.md"), Path("docs/category-search.md"), Path("docs/training.md")
RESULTS = Path("docs/results.md")
PAGES = (
    README,
    RESULTS,
    CATEGORY_SEARCH,
    TRAINED,
    *(Path(page) for page in ("docs/measures.md", "docs/real-photos.md", "CONTRIBUTING.md")),
)
KEPT = Path("docs/results")
CHOICE = "choice-"  # how the names of choices that are kept begin
SENTENCE = "sentence-"  # of one of these, by the rest of its name
OF_THE_DEFAULT = ("default", "default_all", "category_search")  # tables of what is in `metrics/`
# What the first table of the README shows: enough to say what feeds a search best. `docs/results.md` has the rest.
FIRST = {
    "caption_to_image": (
        *("hybrid_generated_weighted", "image", "image_and_caption_generated", "caption_generated"),
        *("bm25_generated", "image_untrained"),
    ),
    "object_sets": ("image", "captions_joined"),
}
TRAINED_TASKS = ("caption_to_image", "image_to_caption")
PARTS = ("mean", "sd", "least", "greatest")
K = 10  # the cut that the tables show
ROOMS = (  # from the ground up
    *("core", "config", "engines", "images", "datasets", "tasks", "models", "inference", "training"),
    *("retrieval", "evaluation", "indexing", "report", "apps"),
)
BESIDE = {  # what is no package
    "params.yaml": "Every setting, with its reason.",
    "cards/": "What there is to choose from: a file for each dataset, model and captioner.",
    "dvc.yaml": "The pipeline: stages, what they read, what they write.",
    "stages/": "A script for each stage: read, call, write, log.",
    "tools/": "For the repository itself: README's tables, making cards, moving old ones.",
    "tests/": "The same rooms; `pipeline/` runs DVC and holds this plan.",
    "benchmarks/": "Ratios, measured side by side.",
    "docs/": "Decisions and their reasons; datasets, training, choosing, category search.",
}
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def format_results(retrieval: dict[str, Any]) -> str:
    """Format the headline measures, one row per task and retriever, and the pools they are about."""
    rows = []
    tasks = [name for name in retrieval if name != "category_search"]
    measures = select_shown(headline(), {task: retrieval[task] for task in tasks}, K)
    for task in tasks:
        for retriever, values in sorted(retrieval[task].items(), key=lambda item: -item[1].get(MAIN.at(K), 0)):
            if retriever != "pool":
                cells = [f"{values[measure.at(K)]:.3f}" for measure in measures]
                rows.append([task, f"`{retriever}`", *cells, f"{values['median_rank']:g}"])
    pools = [describe_pool(task, retrieval[task]["pool"], K) for task in tasks]
    table = format_markdown(
        ["task", "a picture is fed as", *(f"{measure.title}@{K}" for measure in measures), "MedR"], rows
    )
    return f"{table}\n\n{'; '.join(pools)}.\n"


def format_first(retrieval: dict[str, Any], intervals: dict[str, Any], seeds: dict[str, Any]) -> str:
    """Format the few rows that the README begins with: value, interval, and what another seed of the training moves."""
    rows = []
    for task, retrievers in FIRST.items():
        for name in retrievers:
            if name not in retrieval[task]:
                continue
            values, key = retrieval[task][name], MAIN.at(K)
            bounds = intervals[task][name][key]
            spread = seeds["spread"].get(task, {}).get(name)
            interval = f"{bounds['low']:.3f} to {bounds['high']:.3f}" if "low" in bounds else "not defined"
            moved = "" if spread is None else f"{spread[key]['sd']:.3f}"
            hit = f"{values[f'hit_at_{K}']:.3f}"
            rows.append([task, f"`{name}`", f"{values[key]:.3f}", interval, moved, hit, f"{values['median_rank']:g}"])
    header = ["task", "a picture is fed as", f"{MAIN.title}@{K}", "95 % interval", "sd over seeds", f"hit@{K}", "MedR"]
    pools = [describe_pool(task, retrieval[task]["pool"], K) for task in FIRST]
    return f"{format_markdown(header, rows)}\n\n{'; '.join(pools)}.\n"


def format_seeds(seeds: dict[str, Any]) -> str:
    """Format the spread of every row over seeds of the trainings."""
    rows = [
        [task, f"`{name}`", *(f"{values[key][part]:.3f}" for key in (MAIN.at(K), f"hit_at_{K}") for part in PARTS)]
        for task, retrievers in seeds["spread"].items()
        for name, values in retrievers.items()
    ]
    header = [f"{title} {part}" for title in (f"{MAIN.title}@{K}", f"hit@{K}") for part in PARTS]
    return f"{format_markdown(['task', 'a picture is fed as', *header], rows)}\n"


def format_categories(standard: dict[str, Any], published: dict[str, Any]) -> str:
    """Format category search under both protocols, best first, and the pools they are about."""
    measures = select_shown(drawn(), {"category_search": standard}, K)
    rows = [
        [
            f"`{name}`",
            f"{values['average_precision']:.3f}",
            *(f"{values[measure.at(K)]:.3f}" for measure in measures),
            f"{values['median_rank']:g}",
            f"{published[name]['map']:.3f}" if name in published else "",
        ]
        for name, values in sorted(standard.items(), key=lambda item: -item[1].get("average_precision", 0))
        if name != "pool"
    ]
    header = ["searched by", "average precision", *(f"{m.title}@{K}" for m in measures), "MedR", "as published"]
    pools = [
        f"{what}: {pool['queries']:,} queries in {pool['classes']} classes, {pool['items']:,} items, "
        f"{pool['negatives']:,} negatives"
        for what, pool in (("standard", standard["pool"]), ("as published", published["pool"]))
    ]
    return f"{format_markdown(header, rows)}\n\n{'; '.join(pools)}.\n"


def format_training(kept: list[dict[str, Any]]) -> str:
    """Format the effect of training, one row per trained model: before, after, and the sources' own measures."""

    def hit(values: dict[str, Any], interval: bool) -> str:
        return f"{values['hit']:.3f}" + (f" ({values['low']:.3f} to {values['high']:.3f})" if interval else "")

    rows = [
        [
            f"`{own['model']}`",
            *(
                hit(own[task][retriever], interval=retriever == "image")
                for task in TRAINED_TASKS
                for retriever in ("image_untrained", "image")
            ),
            f"{own['in_batch_mrr_at_10']:.3f}",
            f"{own['caption_to_image']['map_at_5']:.3f}",
            f"{own['seconds']:.0f} s",
        ]
        for own in kept
    ]
    header = ["card", "caption to image, before", "after", "image to caption, before", "after", "in batches", "mAP@5"]
    header.append("trained in")
    pools = kept[0]["pools"]
    told = [
        f"{task}: {pool['queries']:,} queries, {pool['items']:,} items, chance {pool['chance']:.3f}"
        for task, pool in pools.items()
    ]
    return f"{format_markdown(header, rows)}\n\n{'; '.join(told)}.\n"


def keep_training() -> None:
    """Keep the numbers of the trained model whose results are in `metrics/`."""
    names = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    retrieval, intervals, published, cost = (
        json.loads(Path(f"metrics/{name}.json").read_text(encoding="utf-8"))
        for name in ("retrieval", "intervals", "as_published", "cost")
    )
    own: dict[str, Any] = {"dataset": names["dataset"], "model": names["model"], "pools": {}}
    own["seconds"] = cost["stages"]["train"]["seconds"]
    for task in TRAINED_TASKS:
        pool = retrieval[task]["pool"]
        own["pools"][task] = {"queries": pool["queries"], "items": pool["items"], "chance": pool["chance_hit_at_10"]}
        own[task] = {
            retriever: {"hit": retrieval[task][retriever]["hit_at_10"]}
            | {side: intervals[task][retriever]["hit_at_10"][side] for side in ("low", "high")}
            for retriever in ("image", "image_untrained")
        } | {"map_at_5": published[task]["image"]["map_at_5"]}
    own["in_batch_mrr_at_10"] = published["image_to_caption"]["image"]["in_batch_mrr_at_10"]
    path = KEPT / "training.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    by_name = {(entry["dataset"], entry["model"]): entry for entry in kept}  # in its place, or below the others
    by_name[own["dataset"], own["model"]] = own
    every = sorted(by_name.values(), key=lambda entry: str(entry["dataset"]))
    write_whole_text(path, json.dumps(every, indent=2) + "\n")


def format_choice(kept: dict[str, Any]) -> str:
    """Format what `twinlens choose --format json` said: its sentence, and a row a candidate."""
    header = ["", "candidate", label_measure(kept["measure"]), "95 % interval", "group"]
    costs = list(kept["entries"][0]["costs"])
    rows = []
    for entry in kept["entries"]:
        bounds = entry["interval"]
        interval = f"{bounds['low']:.3f} to {bounds['high']:.3f}" if "low" in bounds else "not defined"
        row = [
            "**>**" if entry["name"] == kept["chosen"] else "",
            f"`{entry['name']}`",
            f"{entry['mean']:.3f}",
            interval,
        ]
        row.append(entry["group"] + (" *" if entry["efficient"] else ""))
        rows.append(row + [format_cost(cost, entry["costs"][cost]) for cost in costs])
    where = f"{kept['task']}: {kept['queries']:,} queries in {kept['clusters']:,} clusters."
    return f"{kept['sentence']}\n\n{format_markdown([*header, *costs], rows)}\n\n{where}\n"


def format_measures() -> str:
    """Format every measure with its definition and its other names, as they are registered."""
    rows = [[f"`{measure.name}_at_k`", measure.description, measure.also] for measure in MEASURES.values()]
    return f"{format_markdown(['here', 'value of one query', 'also known as'], rows)}\n"


def format_tree() -> str:
    """Format the layout: a line for each folder, packages by the first line of their docstring."""
    packages = sorted(path.parent for path in Path("twinlens").rglob("__init__.py") if path.parent != Path("twinlens"))
    order = {room: n for n, room in enumerate(ROOMS)}
    packages.sort(key=lambda path: (order[path.parts[1]], path.parts))
    said = [
        (folder, text) for folder, text in BESIDE.items() if folder in ("params.yaml", "cards/", "dvc.yaml", "stages/")
    ]
    for path in packages:
        docstring = ast.get_docstring(ast.parse((path / "__init__.py").read_text(encoding="utf-8"))) or ""
        said.append(
            (
                "  " * (len(path.parts) - 2) + f"{'twinlens/' if len(path.parts) == 2 else ''}{path.name}/",
                docstring.split("\n")[0],
            )
        )
    said += [(folder, text) for folder, text in BESIDE.items() if (folder, text) not in said]
    width = max(len(folder) for folder, _ in said)
    return "".join(f"    {folder.ljust(width)}  {text}\n" for folder, text in said)


def format_block(name: str) -> str:
    """Format the content of a block."""
    made = {
        "tree": lambda: f"\n{format_tree()}\n",
        "measures": format_measures,
        "seeds": lambda: format_seeds(read_kept("seeds")),
        "default": lambda: format_first(read_numbers("default"), read_metrics("intervals"), read_kept("seeds")),
        "category_search": lambda: format_categories(
            read_numbers("default")["category_search"], read_metrics("as_published")["category_search"]
        ),
    }
    if name in made:
        return made[name]()
    if name.startswith(CHOICE):
        return format_choice(read_kept(name))
    if name.startswith(SENTENCE):
        return f"\n> {read_kept(CHOICE + name.removeprefix(SENTENCE))['sentence']}\n\n"
    if name.startswith("training-"):
        return format_training(
            [own for own in read_kept("training") if own["dataset"] == name.removeprefix("training-")]
        )
    return format_results(read_numbers(name))


def read_metrics(name: str) -> dict[str, Any]:
    """Read what the pipeline measured last."""
    found: dict[str, Any] = json.loads(Path(f"metrics/{name}.json").read_text(encoding="utf-8"))
    return found


def read_kept(name: str) -> Any:
    """Read numbers that were kept."""
    return json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))


def read_numbers(name: str) -> dict[str, Any]:
    """Read the measures behind a block of the README."""
    path = Path("metrics/retrieval.json") if name in OF_THE_DEFAULT else KEPT / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def rewrite_page(text: str, left: tuple[str, ...] = ()) -> str:
    """Rewrite the README, or another page, with every table made anew but those that are `left` as they are."""
    return BLOCK.sub(
        lambda block: block[0] if block["name"] in left else f"{block[1]}{format_block(block['name'])}{block[3]}", text
    )


def main() -> None:
    """Rewrite the tables; with a name, first keep the current numbers under it.

    Numbers that are kept are of another dataset or model than the default's tables, which are then left as they are.
    """
    for name in sys.argv[1:]:
        if name == "training":
            keep_training()
            continue
        write_whole_text(KEPT / f"{name}.json", json.dumps(read_numbers("default"), indent=2) + "\n")
    for page in PAGES:
        write_whole_text(page, rewrite_page(page.read_text(encoding="utf-8"), OF_THE_DEFAULT if sys.argv[1:] else ()))


if __name__ == "__main__":
    main()
