"""Machines that an experiment's times are of: figures of two different ones are never compared without a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twinlens.evaluation.experiments import Experiment

UNNAMED = "a machine that is not named"


def name_machine(experiment: Experiment) -> str:
    """Name the machine and the device that an experiment's times are of, as the records of its stages have them."""
    stages = experiment.costs.get("stages", {})
    machines = [stages[name].get("machine") for name in ("caption", "embed", "rank") if name in stages]
    told = [str(machine) for machine in dict.fromkeys(machines) if machine]
    device = stages.get("embed", {}).get("device")
    parts = [*([" and ".join(told)] if told else []), *([str(device)] if device else [])]
    return ", ".join(parts) or UNNAMED


def name_clocked(experiment: Experiment) -> str:
    """Name the machine that an experiment's queries were clocked on, with its digest: all that is known of it."""
    return describe_clocked(experiment.costs.get("serving", {}).get("machine", {}))


def describe_clocked(machine: Mapping[str, Any]) -> str:
    """Describe the machine of a block `serving` in words."""
    if not machine:
        return UNNAMED
    gpu = [] if machine["gpu"] == "none" else [str(machine["gpu"])]
    parts = [
        str(machine["processor"]),
        f"{machine['usable_cores']} of {machine['cores']} cores",
        *gpu,
        f"torch {machine['torch']}",
        str(machine["device"]),
        f"{machine['threads']} {'thread' if machine['threads'] == 1 else 'threads'}",
    ]
    return f"{', '.join(parts)} ({machine['digest']})"


def say_apart(named: Sequence[tuple[str, Sequence[Experiment]]]) -> str:
    """Say of candidates whose times are of different machines that these do not compare; empty where all are of one.

    Args:
        named: each candidate's name, and its experiments.
    """
    whole = all(one.costs.get("serving") for _, each in named for one in each)  # then all is known of each machine
    label = name_clocked if whole else name_machine
    of = {name: " and ".join(dict.fromkeys(map(label, each))) for name, each in named}
    known = {machine for machine in of.values() if machine != UNNAMED}
    if len(known) < 2:
        return ""
    told = "; ".join(f"{name} on {machine}" for name, machine in of.items())
    return f"Run on different machines, so that their times and memory do not compare: {told}."
