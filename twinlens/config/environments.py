"""Parts of cards that say in which environment a model with code of its own runs, and how long it may take."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from twinlens.config.base import Card
from twinlens.config.numbers import Flag, Positive

EXACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[0-9A-Za-z!+._-]+")


def check_package(text: str) -> str:
    """Check that a package is named with one exact version.

    Raises:
        ValueError: it is not.
    """
    if not EXACT.fullmatch(text):
        raise ValueError(f"'{text}' names no exact version: write name==version, such as transformers==4.51.3")
    return text


def get_project(package: str) -> str:
    """Get the normalised name of a package's project: `Foo.Bar[extra]==1.0` is `foo-bar`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=]", package)[0]).lower()


Package = Annotated[str, AfterValidator(check_package)]
MethodName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Environment(Card):
    """A Python environment of exact versions, made once and kept."""

    python: str | None = Field(default=None, pattern=r"^3\.\d{1,2}(\.\d{1,2})?$")  # 3.11; ours if absent
    packages: list[Package] = []  # name==version; what they need besides is chosen when the environment is made
    inherits: Flag = False  # whether what is not named is taken from the environment that TwinLens runs in
    wheels: str | None = Field(default=None, exclude=True)  # a folder of wheels, looked through before the registry

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        if self.inherits and self.python:
            raise ValueError("`inherits` takes libraries of TwinLens, and so its Python: leave out `python`")
        if not self.inherits and not self.packages:
            raise ValueError("name `packages`, torch and transformers among them, or write `inherits: true`")
        names = [get_project(package) for package in self.packages]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"`packages` names {twice[0]} twice")
        return self


class Calls(Card):
    """Methods of the model that are called; `get_..._features` where it has them, else `encode_...`, if absent.

    `get_image_features` is given `pixel_values`, any other a batch of normalised pixels; `get_text_features` is given
    tokens by name, any other a list of texts.
    """

    image: MethodName | None = None
    text: MethodName | None = None


class ProcessLimits(Card):
    """How long a model's process may be silent before it counts as hanging. No vector depends on it."""

    start_s: Positive = 900.0  # to import its libraries and load the weights
    batch_s: Positive = 300.0  # for a batch
