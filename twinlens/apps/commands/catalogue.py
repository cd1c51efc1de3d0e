"""`twinlens models` and `twinlens datasets`: the cards, and what of them is on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinlens.apps.commands.completion import make_card_completer
from twinlens.apps.commands.options import Captioner, Dataset, Json
from twinlens.apps.commands.terminal import note, print_table
from twinlens.core import paths

if TYPE_CHECKING:
    from twinlens.config.datasets import DatasetCard
    from twinlens.config.models import ModelCard, Tower
    from twinlens.config.params import Params

Golden = Annotated[
    str | None,
    typer.Option(
        help="Write golden vectors on this model's card instead.", autocompletion=make_card_completer("models")
    ),
]
Licence = Annotated[
    str | None,
    typer.Option(
        help="Only such licences: `permissive`, `commercial` (not forbidden), `non-commercial`, or part of a name."
    ),
]
MaxParams = Annotated[str | None, typer.Option("--max-params", help="At most so many parameters: 500M, 1.5B.")]
Reads = Annotated[str | None, typer.Option(help="Only what reads `pictures`, `words` or `both`.")]
Language = Annotated[str | None, typer.Option(help="Only what reads a language, by its code: zh.")]
Sort = Annotated[
    str, typer.Option(help="By name, parameters, dims, input_px, context_tokens or licence; unknown ones last.")
]
YES_NO = {True: "yes", False: "-"}
NOT_COMMERCIAL = " (no commercial use)"
MODEL_COLUMNS = [
    *("model", "active", "reads", "parameters", "dims", "input px", "languages", "licence", "towers"),
    *("weights", "vectors", "index"),
]


@dataclass(frozen=True)
class ModelState:
    """One model, as it stands on this machine for one dataset and captioner."""

    name: str
    active: bool
    towers: dict[str, str]  # family and what it loads, by role
    reads: list[str]
    parameters: int | None
    dims: list[int]  # by tower
    input_px: int | None
    context_tokens: int | None
    languages: list[str]
    licence: str | None
    commercial_use: bool  # not forbidden, as far as the licences' names say
    weights: bool  # trained here, or found by `train`
    embedded: bool
    indexed: bool  # there is an index that can be asked, with or without the model's weights in data/
    note: str | None


@dataclass(frozen=True)
class DatasetState:
    """One dataset, as it stands on this machine."""

    name: str
    active: bool
    adapter: str
    licence: str | None
    selection: str
    here: bool  # went through the stage `group`
    pictures: int | None  # that are used; None: never grouped
    pool: int | None  # those of them that are searched


def models(
    dataset: Dataset = None,
    captioner: Captioner = None,
    licence: Licence = None,
    max_params: MaxParams = None,
    reads: Reads = None,
    language: Language = None,
    sort: Sort = "name",
    as_json: Json = False,
    golden: Golden = None,
) -> None:
    """List the models: what they read, their sizes and licences, and what of them is here.

    A licence that forbids commercial use is marked. A model whose card does not say something does not meet a condition
    on it.

    `weights`, `vectors` and `index` are those for the dataset (and captioner) given, or else the active ones.

    With `--golden <name>` nothing is listed: the weights of that model, as they are here, are run on drawn pictures and
    texts, and the first numbers of their vectors written on its card. `embed` then refuses other weights of that name.

    Examples: `twinlens models --licence permissive --max-params 500M --sort parameters`,
    `twinlens models --reads both --language zh`, `twinlens models --json`, `twinlens models --golden vit-b-32`.
    """
    from twinlens.config.facts import filter_models, gather_facts, parse_count, sort_models
    from twinlens.config.load import check_cards, read_params
    from twinlens.indexing.open import can_answer
    from twinlens.indexing.validate import check_name

    params = read_params()
    check_cards(params)
    if golden is not None:
        _write_golden(check_name(golden, params.models, "model"), params)
        return
    dataset = check_name(dataset or params.dataset, params.datasets, "dataset")
    captioner = check_name(captioner or params.captioner, params.captioners, "captioner")
    most = None if max_params is None else parse_count(max_params)
    facts = [gather_facts(name, card) for name, card in params.models.items()]
    found = [
        ModelState(
            name=one.name,
            active=one.name == params.model,
            towers={role: _tower(tower) for role, tower in params.models[one.name].towers().items()},
            reads=one.reads,
            parameters=one.parameters,
            dims=one.dims,
            input_px=one.input_px,
            context_tokens=one.context_tokens,
            languages=one.languages,
            licence=one.licence,
            commercial_use=one.commercial,
            weights=_has_weights(params.models[one.name], paths.trained(dataset, one.name)),
            embedded=paths.embedded(dataset, one.name).exists(),
            indexed=can_answer(dataset, one.name, captioner),
            note=params.models[one.name].about.note,
        )
        for one in sort_models(filter_models(facts, licence, most, reads, language), sort)
    ]
    if as_json:
        _print_json(found)
        return
    print_table(MODEL_COLUMNS, [_model_row(one) for one in found])
    if not found:
        note(f"none of the {len(facts)} models meets these conditions; `twinlens models` lists all")


def _model_row(one: ModelState) -> list[str]:
    from twinlens.config.facts import format_count

    return [
        one.name,
        YES_NO[one.active],
        "+".join(one.reads),
        format_count(one.parameters),
        "/".join(map(str, one.dims)) or "-",
        "-" if one.input_px is None else str(one.input_px),
        ",".join(one.languages) or "-",
        (one.licence or "not said") + ("" if one.commercial_use else NOT_COMMERCIAL),
        ", ".join(f"{role}: {tower}" for role, tower in one.towers.items()),
        *(YES_NO[here] for here in (one.weights, one.embedded, one.indexed)),
    ]


def _write_golden(name: str, params: Params) -> None:
    from twinlens.config.cards import Cards, Library
    from twinlens.config.golden import write_golden
    from twinlens.core.device import choose_device
    from twinlens.core.errors import ParamsError
    from twinlens.inference.conformity import compute_golden

    assert isinstance(params.models, Cards)
    card, folder = params.models[name], params.models.library.folder
    if card.from_nothing:
        raise ParamsError(f"{name} is trained from nothing: there are no weights that its card could remember")
    for role, tower in card.towers().items():
        numbers = compute_golden(role, tower, choose_device(params.compute.device), params.compute)
        if numbers is not None:
            path = write_golden(Library(folder), f"models/{name}", role, tower, numbers)
            typer.echo(f"{path}: golden vectors of {_tower(tower)}")


def datasets(as_json: Json = False) -> None:
    """List the datasets: where they come from, their licences, and what of them is here.

    `pictures` (all that are used) and `pool` (those that are searched) are counted once a dataset has been through the
    pipeline, here or elsewhere.

    Examples: `twinlens datasets`, `twinlens datasets --json`.
    """
    from twinlens.config.load import check_cards, read_params

    params = read_params()
    check_cards(params)
    found = [_dataset(name, card, name == params.dataset) for name, card in params.datasets.items()]
    if as_json:
        _print_json(found)
        return
    print_table(
        ["dataset", "active", "adapter", "licence", "selection", "here", "pictures", "pool"],
        [
            [
                one.name,
                YES_NO[one.active],
                one.adapter,
                one.licence or "not said",
                one.selection,
                YES_NO[one.here],
                *("-" if count is None else f"{count:,}" for count in (one.pictures, one.pool)),
            ]
            for one in found
        ],
    )


def _dataset(name: str, card: DatasetCard, active: bool) -> DatasetState:
    figures: dict[str, Any] = {}
    if (file := paths.dataset_card(name)).exists():
        figures = json.loads(file.read_text(encoding="utf-8"))
    return DatasetState(
        name=name,
        active=active,
        adapter=str(getattr(card, "adapter", "composed")),
        licence=card.about.licence,
        selection=card.selection,
        here=paths.grouped(name).exists(),
        pictures=figures.get("pictures", {}).get("after_duplicates"),
        pool=figures.get("pictures", {}).get("in_pool"),
    )


def _tower(tower: Tower) -> str:
    what = str(getattr(tower, tower.family))
    tag = getattr(tower, "pretrained", None)
    return f"{tower.family} {what}{f' ({tag})' if tag else ''}"


def _has_weights(card: ModelCard, trained: Path) -> bool:
    return (trained / ("weights" if card.train is not None else "weights.json")).exists()


def _print_json(found: list[Any]) -> None:
    typer.echo(json.dumps([asdict(one) for one in found], indent=2))
