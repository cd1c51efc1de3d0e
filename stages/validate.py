"""Refuse settings and cards that cannot be run, before any other stage starts; write the cards in use."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from stages.runner import run_stage
from twinlens.config.budget import read_budget
from twinlens.config.cards import Cards
from twinlens.config.datasets import list_places
from twinlens.config.load import check_cards, read_params
from twinlens.config.prices import read_prices
from twinlens.config.watched import FILE, read_watched
from twinlens.core import paths
from twinlens.core.buckets import is_bucket, refuse_unknown_store
from twinlens.core.scratch import write_whole_text

log = logging.getLogger("twinlens")


def main() -> None:
    """Check every value, and write what of the three cards in use decides results: all but their remarks.

    The others depend on these files, which stay as they are when a comment, `about:` or another card changes. What the
    models were taught on before decides no result either, but `evaluate` warns of it: that stands in a file of its own.
    """
    params = read_params()
    check_cards(params)
    if params.compute.parts is not None and is_bucket(params.compute.parts):
        refuse_unknown_store(params.compute.parts)
    watched = read_watched(Path("cards"), params.datasets)
    used = (params.dataset, params.datasets), (params.model, params.models), (params.captioner, params.captioners)
    places = list_places(params.dataset_card)
    if places and params.dataset not in watched:
        log.info(
            "%s is not watched: enter it in cards/%s, or after a change of its files run `dvc repro -f -s download@%s`",
            params.dataset,
            FILE,
            params.dataset,
        )
    named = paths.named_places(params.dataset)
    write_whole_text(named, json.dumps(places, indent=2, ensure_ascii=False) + "\n")
    for name, cards in used:
        assert isinstance(cards, Cards)
        file = paths.card(cards.kind, name)
        # With the defaults, so that what learns does so again when one of them changes; a dump never has `about`.
        content = cards[name].model_dump(mode="json", exclude_none=True)
        write_whole_text(file, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    known = {params.model: params.model_card.trained_on, params.captioner: params.captioner_card.trained_on}
    budget = read_budget().model_dump(mode="json") | {"matryoshka": params.model_card.matryoshka}
    write_whole_text(paths.budget_card(), json.dumps(budget, indent=2, sort_keys=True) + "\n")
    prices = read_prices().model_dump(mode="json")
    write_whole_text(paths.prices_card(), json.dumps(prices, indent=2, sort_keys=True) + "\n")
    origins = {"origins": params.dataset_card.origins, "trained_on": known}
    write_whole_text(paths.origins(), json.dumps(origins, indent=2) + "\n")


if __name__ == "__main__":
    run_stage(main)
