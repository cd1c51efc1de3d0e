"""The manifest: a small file, the same bytes for the same index, that says which table answers.

What LanceDB writes differs from build to build, so DVC keeps the manifest, and the table (the mapped files, and
LanceDB's own where it is asked for) lies in a folder named by the manifest's key. The manifest also says which vectors
and weights the table was made of, so that an index is never searched with a model that did not make it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from twinlens.config.params import IndexParams
from twinlens.config.vector_forms import VectorForm
from twinlens.core import paths
from twinlens.core.errors import DataError
from twinlens.core.hashing import hash_file
from twinlens.core.scratch import write_whole_text
from twinlens.core.vectors import list_files
from twinlens.retrieval.known import LEARNED_FROM
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, NEGATIVES

FOLDER = "index"  # in a manifest's own folder: the files that answer
TOWERS = "towers"  # beside it: what `train` left of the model, as far as queries need it
FILES = (IMAGES, CAPTIONS, GENERATED, NEGATIVES)  # of data/embedded
NAMED = {*FILES, *LEARNED_FROM}
PUBLISHED = "published"  # folder of the manifests last published, for the while in which DVC has removed its own


@dataclass(frozen=True)
class Manifest:
    """Name of the table that answers for a dataset, a model and a captioner, and what it was made of."""

    key: str  # of the table's content
    dataset: str
    model: str
    captioner: str
    rows: int
    settings: dict[str, Any]  # section `index` of params.yaml
    vectors: dict[str, str]  # SHA-256 of files of data/embedded, by name
    weights: dict[str, Any]  # what identifies each tower's weights, by role
    confidence: dict[str, Any] = field(default_factory=dict)  # `rule`, or `why` there is none; no part of the table

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: there is none.
            DataError: it is not a manifest.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} is no manifest of an index ({error}): `dvc repro -f index`") from None

    def write(self, path: Path) -> None:
        """Write it in one rename: whoever reads meets the old one or the new one."""
        write_whole_text(path, json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")

    @property
    def approximate(self) -> bool:
        """Whether the table has vector indexes."""
        return IndexParams.model_validate(self.settings).approximate(self.rows)

    @property
    def form(self) -> VectorForm:
        """How the table keeps vectors."""
        return IndexParams.model_validate(self.settings).form

    @property
    def folder(self) -> Path:
        """Folder of the table, if it was built on this machine."""
        return paths.index_tables() / self.key

    @property
    def towers(self) -> Path:
        """Folder with the weights that embed queries, or their note: kept with the table, else as `train` left it.

        DVC removes data/trained/<model> when it applies another experiment; the index goes on answering.
        """
        kept = self.folder / TOWERS
        return kept if kept.is_dir() else paths.trained(self.dataset, self.model)


def write_at_once(path: Path, text: str) -> None:
    """Write a file under another name, one that no other thread takes, then give it its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{uuid.uuid4().hex}-{path.name}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def locate_copy(dataset: str, model: str, captioner: str) -> Path:
    """Locate a copy of the manifest that DVC leaves alone: DVC removes an output before its stage makes it anew."""
    return paths.index_tables() / PUBLISHED / dataset / model / f"{captioner}.json"


def list_named_keys() -> set[str]:
    """List the keys of all tables that some manifest names, of this workspace or of the main checkout.

    A manifest that is gone by the time it is read, or is none, names nothing: the table can be built anew.
    """
    roots = {Path(), Path(os.environ.get("DVC_ROOT", "."))}
    files = {file for root in roots for file in (root / paths.DATA / "indexed").rglob("*.json")}
    files |= set((paths.index_tables() / PUBLISHED).rglob("*.json"))
    named: set[str] = set()
    for file in files:
        if not file.name.startswith("."):  # being written
            with suppress(FileNotFoundError, DataError):
                named.add(Manifest.read(file).key)
    return named


def list_vector_files(dataset: str, model: str, form: VectorForm) -> list[Path]:
    """List the files of data/embedded that an index is made of: those that are there.

    Args:
        dataset: a name.
        model: see `dataset`.
        form: of the vectors; what it learns from is among the files.
    """
    folder = paths.embedded(dataset, model)
    names = dict.fromkeys([*FILES, *(LEARNED_FROM if form.learns else ())])
    found = [[*list_files(folder, name), folder / f"{name}.parquet"] for name in names]
    return [file for files in found for file in files if file.exists()]


def digest_files(files: Iterable[Path], digest: Callable[[Path], str] = hash_file) -> dict[str, str]:
    """Compute the SHA-256 of each file, by name; of one of several that hold a source, with the source's name.

    Args:
        files: of `list_vector_files`.
        digest: how; by `recall_digest` where files are asked about often, as vectors of large pools take longer to
            read than to search.
    """
    return {name_vector_file(file): digest(file) for file in files}


def name_vector_file(file: Path) -> str:
    """Name a file of data/embedded as the manifest does."""
    return f"{file.parent.name}/{file.name}" if file.parent.name in NAMED else file.name
