"""Fetch a dataset's files, or draw them."""

from __future__ import annotations

from stages.runner import run_stage
from twinlens import datasets
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.costs import Cost
from twinlens.datasets import keep_lists


def main(dataset: str) -> None:
    """Leave a manifest of what was fetched; archives stay in the download cache."""
    cost, card = Cost(), read_params().datasets[dataset]
    keep_lists.refuse_unreadable(card.keep)
    files = datasets.make_adapter(card).download(paths.raw(dataset))
    keep_lists.record(card.keep, paths.raw(dataset))
    cost.write(paths.cost("download", dataset), items=files)


if __name__ == "__main__":
    run_stage(main)
