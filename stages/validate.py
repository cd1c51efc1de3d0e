"""Refuse a params.yaml that cannot be run, before any other stage starts."""

from __future__ import annotations

from stages.runner import run_stage
from twinlens import paths
from twinlens.config.load import read_params


def main() -> None:
    """Check every value; the output is constant, so that passing invalidates nothing."""
    read_params()
    paths.params_ok().parent.mkdir(parents=True, exist_ok=True)
    paths.params_ok().write_text("params.yaml was checked\n")


if __name__ == "__main__":
    run_stage(main)
