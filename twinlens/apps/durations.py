"""How long a sweep will take, by what earlier runs took."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from twinlens.apps.steps import SETTINGS, Step, parse_settings
from twinlens.apps.sweeps import run_command
from twinlens.core.errors import TwinLensError
from twinlens.evaluation.cost import STAGES


def read_known_costs(revisions: Sequence[str]) -> list[dict[str, Any]]:
    """Read what earlier runs took, of other revisions and of the workspace: their choice, and seconds by stage."""
    known = []
    for revision in (*revisions, ""):
        try:
            if revision:
                chosen, costs = (
                    run_command("git", "show", f"{revision}:./{file}") for file in ("params.yaml", "metrics/cost.json")
                )
            else:
                chosen, costs = (Path(file).read_text("utf-8") for file in ("params.yaml", "metrics/cost.json"))
            params, cost = parse_settings(chosen, SETTINGS), json.loads(costs)
            known.append({"choice": {kind: str(params[kind]) for kind in ("dataset", "model", "captioner")}} | cost)
        except (TwinLensError, OSError, KeyError, ValueError):
            continue
    return known


def list_revisions() -> list[str]:
    """List the revisions of all experiments, the oldest first."""
    told = run_command("git", "for-each-ref", "--sort=committerdate", "--format=%(refname)", "refs/exps")
    return [ref for ref in told.split() if re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/.+", ref)]


def format_duration(seconds: float) -> str:
    """Format a duration as one would say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"{round(minutes)} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def list_machines(record: Mapping[str, Any]) -> list[str]:
    """List the machines that a run's times are of, as far as its stages name them."""
    return list(dict.fromkeys(stage["machine"] for stage in record["stages"].values() if stage.get("machine")))


def estimate_here(
    step: Step,
    known: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, int | None],
    trained: Collection[str],
    here: str,
) -> tuple[float | None, list[str]]:
    """Estimate the seconds that a step takes by what ran on this machine, or else on any; tells which others.

    Args:
        step: the experiment.
        known: of `read_known_costs`.
        parameters: of each model, where they are known.
        trained: the models that are trained here.
        here: the name of this machine.
    """
    own = [one for one in known if all(name.startswith(here) for name in list_machines(one))]  # a GPU may follow
    seconds = estimate_seconds(step, own, parameters, trained)
    if seconds is not None:
        return seconds, []
    others = dict.fromkeys(name for one in known for name in list_machines(one) if not name.startswith(here))
    return estimate_seconds(step, known, parameters, trained), list(others)


def estimate_seconds(
    step: Step, known: Sequence[Mapping[str, Any]], parameters: Mapping[str, int | None], trained: Collection[str]
) -> float | None:
    """Estimate the seconds that a step takes; None where nothing comparable was measured.

    A stage that ran for the same names costs what it did then; of another model on the same dataset, embedding and
    training cost in proportion to the parameters. What the dataset's own stages made is there, and the weights of a
    model that is not trained here are only noted.

    Args:
        step: the experiment.
        known: of `read_known_costs`, later ones preferred.
        parameters: of each model, where they are known.
        trained: the models that are trained here.
    """
    total = 0.0
    for stage, kinds in STAGES.items():
        if kinds == ("dataset",) or (stage == "train" and step.choice["model"] not in trained):
            continue
        own = [
            one for one in known if stage in one["stages"] and all(one["choice"][k] == step.choice[k] for k in kinds)
        ]
        if own:
            total += own[-1]["stages"][stage]["seconds"]
            continue
        near = [one for one in known if stage in one["stages"] and one["choice"]["dataset"] == step.choice["dataset"]]
        if stage == "train":
            near = [one for one in near if one["choice"]["model"] in trained]
        if not near:
            return None
        seconds, scale = near[-1]["stages"][stage]["seconds"], 1.0
        if stage in ("embed", "train"):
            mine, theirs = (parameters.get(model) for model in (step.choice["model"], near[-1]["choice"]["model"]))
            if stage == "train" and not mine:
                return None
            scale = mine / theirs if mine and theirs else 1.0
        total += seconds * scale
    return total
