"""Look whether files of a dataset in folders of your own have changed, by name, size and time; runs each time."""

from __future__ import annotations

import logging

from stages.runner import run_stage
from twinlens.config.datasets import list_places
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.watch import describe_state, write_state

log = logging.getLogger("twinlens")


def main(dataset: str) -> None:
    """Write what is there: `download` depends on it, and so runs again after a change."""
    places = list_places(read_params().datasets[dataset])
    state = describe_state(places)
    if state is None:
        log.info("%s: %s not all here: what was recorded of them counts", dataset, ", ".join(places))
    write_state(state, paths.watched(dataset))


if __name__ == "__main__":
    run_stage(main)
