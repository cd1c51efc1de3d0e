"""Fetch a dataset's files, or draw them."""

from __future__ import annotations

from stages.runner import run_stage
from twinlens import datasets, listed, paths
from twinlens.config.load import read_params
from twinlens.costs import Cost


def main(dataset: str) -> None:
    """Leave a manifest of what was fetched; archives stay in the download cache."""
    cost, card = Cost(), read_params().datasets[dataset]
    listed.refuse_unreadable(card.keep)
    files = datasets.adapter(card).download(paths.raw(dataset))
    listed.record(card.keep, paths.raw(dataset))
    cost.write(paths.cost("download", dataset), items=files)


if __name__ == "__main__":
    run_stage(main)
