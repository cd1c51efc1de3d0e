"""What `rank` searches, as it lies on the disk: the tasks, the inputs, and the vectors of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twinlens.config.params import Params
from twinlens.core import paths
from twinlens.core.costs import Cost
from twinlens.core.token_matrices import read_token_matrices
from twinlens.core.vectors import Vectors, has_vectors, read_vectors
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.cross_encoder import find_shards
from twinlens.retrieval.lexical import read_validation
from twinlens.tasks.base import Task, read_tasks
from twinlens.tasks.inputs import IMAGES, OTHER_WAY, UNTRAINED, Input, check_ids, read_inputs


@dataclass(frozen=True)
class Opened:
    """Tasks of a dataset, and what a model's vectors and the texts give to search."""

    tasks: list[Task]
    corpus: Corpus
    inputs: Mapping[str, Input]
    vectors: Mapping[str, Vectors]


def open_corpus(params: Params, dataset: str, model: str, cost: Cost) -> Opened:
    """Open what there is to search; vectors are mapped.

    Args:
        params: the settings, with the cards.
        dataset: name of its card.
        model: name of its card.
        cost: where the seconds of making something to search are noted.

    Raises:
        DataError: files are not there, or do not belong together.
    """
    folder, embedded = paths.tasks(dataset, params.captioner), paths.embedded(dataset, model)
    inputs, tasks = read_inputs(folder / "inputs"), read_tasks(folder)
    names = [name + way for way in ("", UNTRAINED, OTHER_WAY) for name in inputs]
    vectors = {name: read_vectors(embedded, name) for name in names if has_vectors(embedded, name)}
    for name, found in vectors.items():
        check_ids(inputs, name, found.ids)
    pool = inputs[IMAGES].rows
    validation = read_validation(params, vectors, inputs, pool["image_id"].to_list())
    texts = {name: one.rows for name, one in inputs.items() if "text" in one.reads}
    card = params.models[model]
    tokens, shards = read_token_matrices(embedded, vectors), find_shards(card, dataset)
    corpus = Corpus(vectors, texts, card.shares_a_space, validation, shards, pool, cost, tokens)
    return Opened(tasks, corpus, inputs, vectors)
