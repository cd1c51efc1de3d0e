"""Facts of a model for who chooses one, taken from its card: size, dimensions, input, licence, languages."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twinlens.config.licences import Use, classify_all
from twinlens.config.models import EndpointTower, ModelCard
from twinlens.core.errors import ParamsError

PICTURES, WORDS = "pictures", "words"
MULTILINGUAL = "multilingual"
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model; what its card does not say is None or empty."""

    name: str
    reads: list[str]  # PICTURES, WORDS or both
    parameters: int | None  # of all its towers
    dims: list[int]  # of a vector, by tower
    input_px: int | None
    context_tokens: int | None
    languages: list[str]
    licence: str | None
    use: Use  # what the licences of its towers allow together

    @property
    def commercial(self) -> bool:
        """Whether no licence forbids commercial use, as far as its name says."""
        return self.use != "non-commercial"


def gather_facts(name: str, card: ModelCard) -> ModelFacts:
    """Gather the facts of a model from its card."""
    towers = card.towers()
    abouts = [tower.about for tower in towers.values()]
    sizes = [about.parameters for about in abouts]
    licences = [about.licence for about in abouts]
    trained_here = card.train is not None and not any(licences)
    return ModelFacts(
        name=name,
        reads=_list_inputs(card),
        parameters=sum(size for size in sizes if size is not None) if None not in sizes else None,
        dims=[about.dims for about in abouts if about.dims is not None],
        input_px=next((about.input_px for about in abouts if about.input_px is not None), None),
        context_tokens=next((about.context_tokens for about in abouts if about.context_tokens is not None), None),
        languages=list(dict.fromkeys(language for about in abouts for language in about.languages)),
        licence="trained here" if trained_here else ", ".join(dict.fromkeys(filter(None, licences))) or None,
        use="permissive" if trained_here else classify_all(list(licences)),
    )


def _list_inputs(card: ModelCard) -> list[str]:
    if card.joint is not None:
        seen = not isinstance(card.joint, EndpointTower) or card.joint.reads_pictures
        return [PICTURES, WORDS] if seen else [WORDS]
    return [what for what, tower in ((PICTURES, card.image), (WORDS, card.text)) if tower is not None]


SORT_KEYS: dict[str, Callable[[ModelFacts], Any]] = {
    "name": lambda one: one.name,
    "parameters": lambda one: one.parameters,
    "dims": lambda one: sum(one.dims) or None,
    "input_px": lambda one: one.input_px,
    "context_tokens": lambda one: one.context_tokens,
    "licence": lambda one: one.licence and one.licence.lower(),
}


def sort_models(models: list[ModelFacts], key: str) -> list[ModelFacts]:
    """Sort models by a fact, the least first; those of which it is not known come last.

    Raises:
        ParamsError: there is no such fact.
    """
    if key not in SORT_KEYS:
        raise ParamsError(f"--sort {key}: no such column; there are {', '.join(SORT_KEYS)}")
    value = SORT_KEYS[key]
    return sorted(models, key=lambda one: (value(one) is None, value(one) if value(one) is not None else 0, one.name))


def filter_models(
    models: list[ModelFacts],
    licence: str | None = None,
    most: int | None = None,
    reads: str | None = None,
    language: str | None = None,
) -> list[ModelFacts]:
    """Keep the models that meet all conditions given; one of which a fact is not known does not meet it.

    Args:
        models: what there is.
        licence: `permissive`, `commercial` (not forbidden), `non-commercial`, or a part of a licence's name.
        most: parameters, at most.
        reads: `pictures`, `words` or `both`.
        language: its code; multilingual models read any.

    Raises:
        ParamsError: there is no such input.
    """
    if reads not in (None, PICTURES, WORDS, "both"):
        raise ParamsError(f"--reads {reads}: a model reads {PICTURES}, {WORDS} or both")
    wanted = {PICTURES, WORDS} if reads == "both" else {reads} - {None}
    return [
        one
        for one in models
        if (licence is None or _has_licence(one, licence.lower()))
        and (most is None or (one.parameters is not None and one.parameters <= most))
        and wanted <= set(one.reads)
        and (language is None or {language.lower(), MULTILINGUAL} & set(one.languages))
    ]


def _has_licence(one: ModelFacts, licence: str) -> bool:
    if licence in ("permissive", "non-commercial"):
        return one.use == licence
    if licence == "commercial":
        return one.commercial
    return licence in (one.licence or "").lower()


def parse_count(text: str) -> int:
    """Parse a number of parameters: 500M, 1.5B, 300k, 42000000.

    Raises:
        ParamsError: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmbg]?)\s*", text.lower())
    if found is None or not float(found[1]):
        raise ParamsError(f"'{text}' is no number of parameters: write 500M, 1.5B or 42000000")
    return round(float(found[1]) * UNITS[found[2]])


def format_count(count: int | None) -> str:
    """Format a number of parameters for a table: 151 M, 1.14 B; a dash where it is not known."""
    if count is None:
        return "-"
    if count >= 10**9:
        return f"{count / 10**9:.2f} B"
    return f"{count / 10**6:.0f} M" if count >= 10**7 else f"{count / 10**6:.1f} M"
