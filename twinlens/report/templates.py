"""The templates of the pages: everything that comes from data is escaped, a name that is not given is an error."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

FOLDER = Path(__file__).parent
CODE = re.compile(r"`([^`]+)`")


def load_template(name: str, folder: Path = FOLDER) -> Template:
    """Load a template of a folder, the report's if absent.

    The filter `plain` writes a key as words, `coded` sets what stands between backticks as code.
    """
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = lambda key: str(key).replace("_", " ")
    environment.filters["coded"] = lambda text: Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))
    return environment.get_template(name)
