"""Loading of `params.yaml` and the cards; errors name the file and key, and what is allowed there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from twinlens.config.captioners import CaptionerCard
from twinlens.config.cards import KINDS, Cards, Library
from twinlens.config.datasets import DatasetCard
from twinlens.config.explain import explain_problems
from twinlens.config.models import ModelCard
from twinlens.config.params import Params, Settings
from twinlens.config.yaml_file import parse_yaml
from twinlens.core.errors import GO_TO_ROOT, ParamsError

TYPES = {"datasets": DatasetCard, "models": ModelCard, "captioners": CaptionerCard}
IN_A_BASE = re.compile(r" \(a base of [^)]*\)")  # of a message, which the base's own card has without it
MOST = 5  # values that are named one by one


def read_params(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml and the three cards that it names; other cards are read when they are asked for.

    Raises:
        ParamsError: a file is missing, is not YAML, or holds a value that is not allowed; the
            message names each key, what was found, what is wanted and the nearest valid name.
    """
    path = Path(path)
    try:
        raw = parse_yaml(path.read_bytes(), path)
    except FileNotFoundError:
        raise ParamsError(f"{path} is not here: {GO_TO_ROOT}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} should hold keys and values, found {type(raw).__name__}")
    refuse_cards(raw, path)
    library = Library(path.parent / "cards")
    cards = {kind: Cards[Any](library, kind, card) for kind, card in TYPES.items()}
    try:
        return Params.model_validate(raw | cards)
    except ValidationError as error:
        problems = explain_problems(error, raw, Settings)
        told = "\n".join(f"  - {_say_where(keys, message, raw, library)}" for keys, message in problems)
        raise ParamsError(f"{path} has {error.error_count()} problem(s); nothing was run:\n{told}") from None


def check_cards(params: Params) -> None:
    """Check every card, so that a mistake is found before its card is needed.

    Raises:
        ParamsError: cards are not what they should be; the message lists all that is wrong.
    """
    kinds = (params.datasets, params.models, params.captioners)
    wrong = next((cards.library.list_misnamed() for cards in kinds if isinstance(cards, Cards)), [])
    for cards in kinds:
        for name in cards:
            try:
                cards[name]
            except ParamsError as error:
                wrong += str(error).splitlines()
    own = {message: IN_A_BASE.sub("", message) for message in wrong}
    once = [message for message in own if message == own[message] or own[message] not in own]
    if once:
        told = "\n".join(f"  - {message}" for message in once)
        raise ParamsError(f"the cards have {len(once)} problem(s); nothing was run:\n{told}")


def refuse_cards(raw: dict[str, Any], path: Path) -> None:
    """Refuse cards inside params.yaml: an old file, or what `-S +models.x.y=z` wrote into it.

    Raises:
        ParamsError: there are some.
    """
    sections = [kind for kind in KINDS if kind in raw]
    if not sections:
        return
    found = [(kind, *card) for kind in sections if isinstance(raw[kind], dict) for card in raw[kind].items()]
    values = [
        f"-S 'cards/{kind}/{name}.yaml:{key}={'' if value is None else value}'"
        for kind, name, card in found
        for key, value in _leaves(card)
    ]
    if values and len(values) <= MOST:
        how = f"write {' '.join(values)} (with a + before a key that the card does not have), and take the section out"
    else:
        how = "`python tools/move_cards.py` moves them there, with their comments"
    named = ", ".join(f"`{kind}:`" for kind in sections)
    raise ParamsError(f"{path} has cards under {named}, but cards stand in files of their own, cards/*/*.yaml: {how}")


def _say_where(keys: tuple[Any, ...], message: str, raw: dict[str, Any], library: Library) -> str:
    """Say of a section that params.yaml does not have whether a card of the run has it; DVC advises `-S +<key>=`."""
    if len(keys) != 1 or keys[0] in Settings.model_fields:
        return message
    key, found = keys[0], []
    for kind, named in {"models": "model", "captioners": "captioner"}.items():
        file = f"{kind}/{raw.get(named)}"
        card = library.filled(file) if file in library.texts else {}
        if key in card:
            places = [".".join(filter(None, (key, rest))) + f"={value}" for rest, value in _leaves(raw[key])]
            found += [f"-S '{library.path(file)}:{place}'" for place in places]
    if found:
        message = f"{key}: no key of params.yaml, but one of cards: {' or '.join(found)}"
    return f"{message}; take `{key}` out of the file"


def _leaves(card: Any) -> list[tuple[str, Any]]:
    if not isinstance(card, dict):
        return [("", card)]
    return [(f"{key}.{rest}".rstrip("."), value) for key, part in card.items() for rest, value in _leaves(part)]


def read_stamp(path: str | Path = "params.yaml") -> tuple[tuple[str, int, int], ...]:
    """Read the state of params.yaml and the cards that changes when any of them does."""
    folders = [Path(path).parent / "cards" / kind for kind in KINDS]
    files = [Path(path), *(Path(entry) for folder in folders if folder.is_dir() for entry in os.scandir(folder))]
    stats = [(str(file), file.stat()) for file in files if file.exists()]
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_ino) for name, stat in stats))
