"""Turn the pool's pictures and texts into unit vectors with every tower the model has."""

from __future__ import annotations

import polars as pl

from stages.runner import run_stage
from twinlens import categories, paths, tables
from twinlens.config.load import read_params
from twinlens.config.params import CategoryParams
from twinlens.costs import Cost
from twinlens.encoders.sources import Embedder, Sources
from twinlens.placement import place
from twinlens.scratch import prune, publishing
from twinlens.sources import CAPTIONS, text_sources
from twinlens.validation import draw


def main(dataset: str, model: str) -> None:
    """Write one file of vectors and one of ids for the pictures and for each kind of text."""
    params = read_params()
    card, placement = params.models[model], place(params.compute.device)
    cost = Cost(placement.name)
    groups = tables.read_table(paths.grouped(dataset) / "images.parquet", tables.GROUPS)
    pool = groups.filter("in_pool")
    captions = tables.read_table(paths.filtered(dataset) / "captions.parquet", tables.CAPTIONS)
    generated = tables.read_table(paths.captioned(dataset, params.captioner) / "captions.parquet", tables.GENERATED)
    texts = text_sources(pool, captions, generated)
    validation = draw(groups, captions, params.hybrid) if card.shares_a_space else groups[:0]
    prompts, negatives = category_sources(dataset, groups, params.category_search)
    with publishing(paths.embedded(dataset, model)) as draft:
        held_out = text_sources(validation, captions, generated[:0]).get(CAPTIONS)
        sources = Sources(paths.resized(dataset), pool, negatives, prompts, texts, validation, held_out)
        Embedder(card, paths.trained(dataset, model), placement, params.compute, cost).embed(sources, draft)
    prune()
    items = len(pool) + len(negatives) + len(validation)
    cost.write(paths.cost("embed", dataset, model), items=items, seconds=cost.seconds_of_parts())


def category_sources(dataset: str, groups: pl.DataFrame, params: CategoryParams) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What category search needs beside the pool's pictures: prompts and negatives; empty where it has no classes."""
    images = tables.read_table(paths.filtered(dataset) / "images.parquet", tables.IMAGES)
    classed = categories.classes_of(groups.filter("in_pool"), images)
    exemplars = params.standard.queries_per_class * params.standard.exemplars_per_query
    if not categories.searched_classes(classed, exemplars):
        return categories.class_prompts([], params.prompt), groups[:0]
    negatives = categories.draw_negatives(groups, images, params.negatives, params.seed)
    return categories.class_prompts(sorted(classed["class"].unique()), params.prompt), negatives


if __name__ == "__main__":
    run_stage(main)
