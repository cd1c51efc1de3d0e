"""The templates of the pages: everything that comes from data is escaped, a name that is not given is an error."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

FOLDER = Path(__file__).parent


def load_template(name: str, folder: Path = FOLDER) -> Template:
    """Load a template of a folder, the report's if absent; the filter `plain` writes a key as words."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = lambda key: str(key).replace("_", " ")
    return environment.get_template(name)
