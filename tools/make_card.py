"""Make a model's card of what others have written down: `python -m tools.make_card HUB-ID --mteb FOLDER`.

Three sources, none of which is imported or run:

- `--mteb FOLDER`: the registry of mteb, from its wheel (`pip download mteb --no-deps`, unpacked). It has the commit,
  parameters, dimensions, languages and licence of nearly a thousand models.
- `--config FILE`: the `config.json` of a hub repository, with `--revision COMMIT` and `--licence NAME`.
- `--checkpoint FOLDER`: a model on this disk, as transformers or sentence-transformers saved it, by any name.

The card goes to standard output; what cannot be known is left out. Look it over, and try it: the library that loads the
model is a guess (`--family`), which `tests/models/test_card_facts.py` holds against the library.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from twinlens.config.models import ModelCard

SPELLED = {"mit": "MIT", "apache-2.0": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause"}  # as cards write them
SHORT = {"eng": "en", "zho": "zh", "cmn": "zh", "deu": "de", "fra": "fr", "spa": "es", "jpn": "ja", "kor": "ko"}
MANY = 6  # languages; more are `multilingual`
FIELDS = (
    "name",
    "revision",
    "n_parameters",
    "embed_dim",
    "max_tokens",
    "license",
    "languages",
    "modalities",
    "framework",
)


def read_registry(folder: Path) -> dict[str, dict[str, Any]]:
    """Read mteb's registry from its source: what each entry says in plain values, by hub id.

    Raises:
        SystemExit: the folder holds none.
    """
    files = sorted(folder.rglob("model_implementations/*.py"))
    if not files:
        sys.exit(f"{folder} holds no mteb/models/model_implementations: unpack the wheel there (`unzip mteb-*.whl`)")
    entries = (entry for file in files for entry in _list_entries(ast.parse(file.read_text(encoding="utf-8"))))
    return {str(entry["name"]): entry for entry in entries if "name" in entry}


def _list_entries(tree: ast.Module) -> Iterator[dict[str, Any]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "ModelMeta":
            yield {word.arg: _value(word) for word in node.keywords if word.arg in FIELDS}


def _value(word: ast.keyword) -> Any:
    """A plain value. Of languages also the name of a constant, as these are long lists; others are not known."""
    try:
        return ast.literal_eval(word.value)
    except ValueError:
        return getattr(word.value, "id", None) if word.arg == "languages" else None


def card_of_entry(entry: dict[str, Any], family: str | None = None) -> dict[str, Any]:
    """Make a card of an entry of the registry.

    Args:
        entry: what `read_registry` gave.
        family: the key of the tower; by what the model reads if absent.

    Raises:
        SystemExit: no family here loads such a model.
    """
    reads = set(entry.get("modalities") or ["text"])
    if "text" not in reads:
        sys.exit(f"{entry['name']} reads {', '.join(sorted(reads))}: take timm's copy of it, as `image: {{timm: ...}}`")
    role = "joint" if "image" in reads else "text"
    by_sentences = role == "text" or "Sentence Transformers" in (entry.get("framework") or ())
    family = family or ("sentence_transformers" if by_sentences else "transformers")
    given = entry.get("embed_dim")
    dims = sorted(given) if isinstance(given, list) else [given] if given else []
    about = {
        "licence": spell_licence(entry.get("license")),
        "source": "the registry of mteb",
        "parameters": entry.get("n_parameters"),
        "dims": dims[-1] if dims else None,
        "context_tokens": entry.get("max_tokens"),
        "languages": shorten_languages(entry.get("languages")),
    }
    return _build(role, family, str(entry["name"]), entry.get("revision"), about, dims[:-1])


def card_of_config(hub: str, config: dict[str, Any], revision: str | None, licence: str | None) -> dict[str, Any]:
    """Make a card of the `config.json` of a joint model of transformers.

    Raises:
        SystemExit: it is not one of a pair of towers, or brings code of its own.
    """
    if "auto_map" in config:
        sys.exit(f"{hub} brings code of its own (`auto_map`): read it, and write its card by hand (cards/README.md)")
    words, pictures = config.get("text_config"), config.get("vision_config")
    if not isinstance(words, dict) or not isinstance(pictures, dict):
        sys.exit(f"the configuration of {hub} has no `text_config` and `vision_config`: a text model is a `text:` card")
    about = {
        "licence": spell_licence(licence),
        "source": "config.json of the hub",
        "dims": config.get("projection_dim") or words.get("projection_size") or words.get("hidden_size"),
        "input_px": pictures.get("image_size"),
        "context_tokens": words.get("max_position_embeddings"),
    }
    return _build("joint", "transformers", hub, revision, about, [])


def card_of_folder(name: str, folder: Path, licence: str | None) -> dict[str, Any]:
    """Make a card of a model on the disk: of sentence-transformers where it has a `modules.json`.

    Raises:
        SystemExit: it is neither that nor a joint model of transformers.
    """
    config = _read_json(folder / "config.json")
    if (folder / "modules.json").exists():
        about = {"licence": spell_licence(licence), "source": "config.json of the checkpoint"}
        role = "joint" if "vision_config" in config else "text"
        card = _build(role, "sentence_transformers", name, None, about, [])
    else:
        card = card_of_config(name, config, None, licence)
    (tower,) = card.values()
    tower["about"].pop("note")  # a commit is of the hub
    about = tower.pop("about")
    return {role: tower | {"checkpoint": str(folder.absolute()), "about": about} for role in card}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{file} cannot be read as JSON: {error}")
    return content


def _build(
    role: str, family: str, hub: str, revision: Any, about: dict[str, Any], shorter: Sequence[int]
) -> dict[str, Any]:
    known = {name: value for name, value in about.items() if value}
    if not revision:
        known = {"note": "Its commit could not be learned here: pin it."} | known
    tower = {family: hub} | ({"revision": revision} if revision else {}) | {"about": known}
    return {role: tower} | ({"matryoshka": list(shorter)} if shorter else {})


def spell_licence(licence: str | None) -> str | None:
    """Spell a licence as cards do: MIT, Apache-2.0, CC-BY-NC-4.0; others as they are."""
    if licence is None or licence == "not specified":
        return None
    return SPELLED.get(licence.lower(), licence.upper() if licence.lower().startswith("cc") else licence)


def shorten_languages(languages: Any) -> list[str]:
    """Shorten languages, such as `eng-Latn`, to two letters; many, or a named list of them, are `multilingual`."""
    if not isinstance(languages, list):
        return ["multilingual"] if languages else []
    if len(languages) > MANY:
        return ["multilingual"]
    return list(dict.fromkeys(SHORT.get(one[:3], one[:3]) for one in languages))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the card.

    Raises:
        SystemExit: no card can be made; the message says why.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hub", metavar="HUB-ID")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mteb", type=Path, metavar="FOLDER")
    source.add_argument("--config", type=Path, metavar="FILE")
    source.add_argument("--checkpoint", type=Path, metavar="FOLDER")
    parser.add_argument("--revision", metavar="COMMIT")
    parser.add_argument("--licence", metavar="NAME")
    parser.add_argument("--family", choices=("transformers", "sentence_transformers"))
    given = parser.parse_args(arguments)
    if given.mteb is not None:
        registry = read_registry(given.mteb)
        if given.hub not in registry:
            near = ", ".join(difflib.get_close_matches(given.hub, registry, n=3, cutoff=0.4))
            sys.exit(
                f"mteb's registry of {len(registry)} models has no {given.hub}{f'; near it: {near}' if near else ''}"
            )
        card = card_of_entry(registry[given.hub], given.family)
    elif given.checkpoint is not None:
        card = card_of_folder(given.hub, given.checkpoint, given.licence)
    else:
        card = card_of_config(given.hub, _read_json(given.config), given.revision, given.licence)
    try:
        ModelCard.model_validate(card)
    except ValidationError as error:
        sys.exit(f"what is known of {given.hub} makes no card: {error.errors()[0]['msg']}; write it by hand")
    print(yaml.safe_dump(card, sort_keys=False, allow_unicode=True), end="")


if __name__ == "__main__":
    main()
