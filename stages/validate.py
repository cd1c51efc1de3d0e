"""Refuse settings and cards that cannot be run, before any other stage starts; write the cards in use."""

from __future__ import annotations

import json

from stages.runner import run_stage
from twinlens.config.cards import Cards
from twinlens.config.load import check_cards, read_params
from twinlens.core import paths
from twinlens.core.scratch import write_whole_text


def main() -> None:
    """Check every value, and write what of the three cards in use decides results: all but their remarks.

    The others depend on these files, which stay as they are when a comment, `about:` or another card changes.
    """
    params = read_params()
    check_cards(params)
    used = (params.dataset, params.datasets), (params.model, params.models), (params.captioner, params.captioners)
    for name, cards in used:
        assert isinstance(cards, Cards)
        file = paths.card(cards.kind, name)
        # With the defaults, so that what learns does so again when one of them changes; a dump never has `about`.
        content = cards[name].model_dump(mode="json", exclude_none=True)
        write_whole_text(file, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_stage(main)
