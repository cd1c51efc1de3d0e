"""Steps of a sweep: the experiments that models, captioners and seeds make, and what each sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from twinlens.config.params import Params
from twinlens.config.training import Recipe
from twinlens.config.yaml_file import parse_yaml
from twinlens.core.errors import DataError, ParamsError, suggest_nearest

SETTINGS = "params.yaml"


@dataclass(frozen=True)
class Step:
    """One experiment of a sweep."""

    name: str
    choice: dict[str, str]  # dataset, model, captioner
    settings: tuple[str, ...] = ()  # further `key=value`, as for -S

    @property
    def pairs(self) -> list[str]:
        """What is set, each as `key=value`."""
        return [f"{key}={value}" for key, value in self.choice.items()] + list(self.settings)

    @property
    def options(self) -> list[str]:
        """Options of `dvc exp run`."""
        return [word for one in self.pairs for word in ("-S", one)]


def plan_steps(
    params: Params, models: Sequence[str], captioners: Sequence[str], settings: Sequence[str], prefix: str
) -> list[Step]:
    """Plan the experiments, one for each model with each captioner, and for each seed of those; every card is read.

    Raises:
        ParamsError: there is no such card, it is no good, a setting is not `key=value`, or seeds contradict each other.
    """
    models, captioners = list(dict.fromkeys(models)), list(dict.fromkeys(captioners)) or [params.captioner]
    for kind, cards, names in (("models", params.models, models), ("captioners", params.captioners, captioners)):
        for name in names:
            if name not in cards:
                raise ParamsError(f"there is no card cards/{kind}/{name}.yaml ({suggest_nearest(name, cards)})")
            cards[name]
    if wrong := next((one for one in settings if "=" not in one), None):
        raise ParamsError(f"-S wants key=value, found '{wrong}'")
    return [
        Step(
            prefix + (model if len(captioners) == 1 else f"{model}-{captioner}") + suffix,
            {"dataset": params.dataset, "model": model, "captioner": captioner},
            (*settings, *seed),
        )
        for model, captioner in product(models, captioners)
        for suffix, seed in _list_seeds(params, model, captioner, settings)
    ]


def _list_seeds(
    params: Params, model: str, captioner: str, settings: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """List the ends of the names of a choice's experiments, one a seed that its cards ask for, and what sets the seed.

    Raises:
        ParamsError: the cards ask for different numbers of seeds, or the settings for others than the cards.
    """
    recipes: dict[str, Recipe | None] = {
        f"cards/models/{model}.yaml": params.models[model].train,
        f"cards/captioners/{captioner}.yaml": params.captioners[captioner].train,
    }
    several = {file: one for file, one in recipes.items() if one is not None and (one.seeds or 1) > 1}
    for setting in settings:
        file, key, value = split_setting(setting)
        if key == "train.seeds":
            raise ParamsError(f"-S {setting}: `seeds` are read from the card; write `seeds: {value}` into {file}")
        if key == "train.seed" and file in several:
            raise ParamsError(
                f"-S {setting} asks for one seed, and {file} for {several[file].seeds} (`train.seeds`): leave one of "
                "the two out"
            )
    if not several:
        return [("", ())]
    counts = {file: one.seeds or 1 for file, one in several.items()}
    if len(set(counts.values())) > 1:
        told = " and ".join(f"{file} for {count}" for file, count in counts.items())
        raise ParamsError(f"{told} seeds (`train.seeds`): both are trained together, so that they need as many")
    first = next(iter(several.values()))
    return [
        (f"-seed{first.seed + n}", tuple(f"{file}:++train.seed={one.seed + n}" for file, one in several.items()))
        for n in range(first.seeds or 1)
    ]


def split_setting(setting: str) -> tuple[str, str, str]:
    """Split `key=value` or `file:key=value`, as of `-S`, into file, key (without signs before it) and value."""
    name, _, value = setting.partition("=")
    file, colon, key = name.rpartition(":")
    return file if colon else SETTINGS, key.lstrip("+~"), value


def parse_settings(text: str, file: str) -> dict[str, Any]:
    """Parse what params.yaml or a card holds.

    Raises:
        ParamsError: it is no YAML.
        DataError: it holds no settings.
    """
    found = parse_yaml(text.encode(), file)
    if not isinstance(found, dict):
        raise DataError(f"{file} holds no settings")
    return found


def set_value(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set a value of nested settings by its dotted key."""
    *path, last = key.split(".")
    place = settings
    for part in path:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]
    place[last] = value
