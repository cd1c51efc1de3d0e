"""Category search: pictures of a class, by the class's name, by exemplar pictures, or by both (source 003).

All retrievers search with the same queries, each a class with exemplars of its own, so that any two can be compared
query by query. Who takes part, and in which role, is decided in `category_roles`.
"""

from __future__ import annotations

import logging

import numpy as np

from twinlens.config.params import CategoryCard, Params
from twinlens.core.tables import AS_PUBLISHED
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.category_roles import (
    ID_SEPARATOR,
    Roles,
    assign_roles,
    check_apart,
    draw_negatives,
    find_classes,
    select_classes,
    write_class_prompts,
)
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import CLASSES, IMAGES, NEGATIVES, UNTRAINED, Input, build_picture_input
from twinlens.tasks.qrels import Groups

log = logging.getLogger("twinlens")

NAME = "category_search"
PUBLISHED_NEGATIVES = 1000  # out of its 46,830 ranked pictures; all of them where there are fewer


def build(collection: Collection, params: Params) -> tuple[list[Task], list[Input]]:
    """Build the task under our protocol and, where wanted, under the published one.

    Raises:
        DataError: a negative is also ranked or an exemplar.
    """
    given = params.category_search
    classed = find_classes(collection.pool, collection.images)
    exemplars = given.standard.queries_per_class * given.standard.exemplars_per_query
    pictures = build_picture_input(IMAGES, collection.pool, again=(UNTRAINED,))
    inputs, negatives = [pictures], collection.groups[:0]
    if select_classes(classed, exemplars):
        negatives = draw_negatives(collection.groups, collection.images, given.negatives, given.seed)
        prompts = write_class_prompts(sorted(classed["class"].unique()), given.prompt)
        inputs.append(Input(CLASSES, prompts, shared=True, again=(UNTRAINED,)))
        if len(negatives):
            inputs.append(build_picture_input(NEGATIVES, negatives))
    tasks = []
    for name, card in ((NAME, given.standard), (NAME + AS_PUBLISHED, given.as_published)):
        if card is None:
            continue
        roles = assign_roles(classed, card.queries_per_class, card.exemplars_per_query, card.seed)
        if not roles.classes:
            log.info(
                "%s is left out: it needs 2 classes with more than %d pictures that show nothing else; "
                "%d of the pool's pictures have one class, in %d classes",
                name,
                card.queries_per_class * card.exemplars_per_query,
                len(classed),
                classed["class"].n_unique(),
            )
            continue
        apart = len(negatives)
        if card.negatives_from == "outside":
            check_apart(negatives["image_id"].to_list(), roles)
        else:
            apart = min(PUBLISHED_NEGATIVES, len(roles.item_ids))
        tasks.append(_task(name, roles, apart, card))
    return tasks, inputs if tasks else []


def _task(name: str, roles: Roles, negatives: int, card: CategoryCard) -> Task:
    names = sorted({*roles.item_classes, *roles.classes})
    code_of = {label: code for code, label in enumerate(names)}
    asked = list(zip(roles.query_classes, roles.query_exemplars, strict=True))
    return Task(
        name,
        TaskMetadata(
            title="Category search: pictures of a class, by its name, by an example, or by both",
            category="it2i",
            place=4,
            cluster_by="group",  # queries for a class share their words and what they should find
            full_ranking=True,
            published_of=NAME if name.endswith(AS_PUBLISHED) else None,
            published="classes" if name.endswith(AS_PUBLISHED) else None,
            query_text=CLASSES,
            query_picture=IMAGES,
            item_picture=IMAGES,
            counts={"classes": len(roles.classes), "negatives": negatives},
        ),
        query_ids=[ID_SEPARATOR.join([label, *own]) for label, own in asked],
        query_images=[own[0] for own in roles.query_exemplars],
        item_ids=roles.item_ids,
        qrels=Groups(
            np.array([code_of[label] for label in roles.query_classes]),
            np.array([code_of[label] for label in roles.item_classes]),
        ),
        group_names=names,
        shown=roles.query_exemplars,
        texts=roles.query_classes,
    )
