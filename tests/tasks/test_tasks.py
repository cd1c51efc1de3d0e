"""The tasks as data: who searches what, what is embedded for it, and that what is read is what was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.tasks.small import CAPTION_IDS, CAPTION_IMAGES, GROUPS, HUMAN, IDS, MACHINE, built, collection, params
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.tasks import registry
from twinlens.tasks.base import Task, TaskMetadata, read_about, read_tasks
from twinlens.tasks.collection import build_text_inputs
from twinlens.tasks.inputs import (
    CAPTIONS,
    CLASSES,
    GENERATED,
    IMAGES,
    JOINED,
    NEGATIVES,
    OTHER_WAY,
    UNTRAINED,
    VALIDATION_CAPTIONS,
    VALIDATION_GENERATED,
    VALIDATION_IMAGES,
    Input,
    check_ids,
    read_inputs,
    write_inputs,
)
from twinlens.tasks.qrels import Groups, Pairs
from twinlens.tasks.registry import build_tasks

# ----------------------------------------------------------------- who searches what


def test_tasks_stand_in_the_order_of_their_place() -> None:
    assert list(built()[0]) == ["object_sets", "caption_to_image", "image_to_caption", "caption_to_caption"]


def test_object_sets_are_searched_by_those_who_share_one_and_never_find_themselves() -> None:
    task = built()[0]["object_sets"]
    assert task.query_ids == task.item_ids == ["i0", "i2"]
    assert task.exclude is not None
    assert task.exclude.tolist() == [0, 1]
    assert task.qrels.counts().tolist() == [1, 1]
    assert task.about.category == "i2i"


def test_captions_find_their_picture_and_pictures_their_captions() -> None:
    tasks, _ = built()
    there, back = tasks["caption_to_image"], tasks["image_to_caption"]
    assert there.query_ids == CAPTION_IDS
    assert [IDS[int(there.qrels.relevant_rows(query)[0])] for query in range(6)] == CAPTION_IMAGES
    assert there.query_images == CAPTION_IMAGES
    assert there.item_ids == IDS  # i3 has no caption but can be found
    assert there.qrels.counts().tolist() == [1] * 6
    assert back.query_ids == ["i0", "i1", "i2"]  # i3 has nothing to find
    assert back.item_ids == CAPTION_IDS
    assert back.qrels.counts().tolist() == [2, 1, 3]
    assert (there.about.category, back.about.category) == ("t2i", "i2t")


def test_pictures_are_paired_with_their_first_caption_and_captions_with_nothing() -> None:
    tasks, _ = built()
    partners = tasks["image_to_caption"].partners
    assert partners is not None
    assert partners.tolist() == [0, 2, 3]
    assert tasks["caption_to_image"].partners is None


def test_a_dataset_has_the_tasks_that_it_has_data_for() -> None:
    assert list(built(captions=HUMAN[:0])[0]) == ["object_sets"]
    alone = GROUPS.with_columns(object_set=pl.lit(None, dtype=pl.String))
    assert list(built(groups=alone)[0]) == ["caption_to_image", "image_to_caption", "caption_to_caption"]
    with pytest.raises(DataError, match=r"there is nothing to search for: .* Choose another `pool` on the dataset's"):
        built(groups=alone, captions=HUMAN[:0])


def test_a_dataset_with_classes_is_searched_for_them_too() -> None:
    tasks, inputs = built(**of_classes())
    assert list(tasks) == ["category_search", "category_search_as_published"]
    ours, published = tasks.values()
    assert ours.about.published_of is None
    assert published.about.published_of == "category_search"
    assert list(inputs) == [IMAGES, CLASSES, NEGATIVES]
    assert inputs[CLASSES].shared
    assert not inputs[NEGATIVES].shared
    assert len(inputs[NEGATIVES].rows) == ours.about.counts["negatives"] == 7
    assert not set(inputs[NEGATIVES].rows["id"]) & {
        *ours.item_ids,
        *(own for shown in ours.shown or [] for own in shown),
    }


def of_classes() -> dict[str, pl.DataFrame]:
    """Pictures of two classes, 14 of each in the pool and 7 outside."""
    ids = [f"p{n:02d}" for n in range(35)]
    groups = pl.DataFrame(
        {
            "image_id": ids,
            "split": ["test"] * 28 + ["train"] * 7,
            "in_pool": [True] * 28 + [False] * 7,
            "object_set": [None] * 35,
            "shard": [0] * 35,
            "row": range(35),
            "sha256": ids,
        },
        schema_overrides={"object_set": pl.String},
    )
    images = pl.DataFrame({"image_id": ids, "labels": [["cat"], ["dog"]] * 17 + [["cat"]]})
    return {"groups": groups, "images": images, "captions": HUMAN[:0], "generated": MACHINE[:0]}


# --------------------------------------------------------------------- what is embedded


def test_every_task_draws_on_the_pools_pictures_and_its_texts() -> None:
    _, inputs = built()
    assert list(inputs) == [IMAGES, CAPTIONS, JOINED, GENERATED]
    assert inputs[IMAGES].rows["id"].to_list() == IDS
    assert inputs[IMAGES].reads == {"image"}
    assert {frozenset({"text"})} == {inputs[name].reads for name in (CAPTIONS, JOINED, GENERATED)}
    assert not any(one.shared for one in inputs.values())
    assert all(one.embedded for one in inputs.values())


def test_all_inputs_are_embedded_as_before_training_and_both_sides_of_the_caption_tasks_the_other_way() -> None:
    _, inputs = built()
    assert {name: one.again for name, one in inputs.items()} == {
        IMAGES: (UNTRAINED, OTHER_WAY),
        CAPTIONS: (UNTRAINED, OTHER_WAY),
        JOINED: (UNTRAINED,),
        GENERATED: (UNTRAINED, OTHER_WAY),
    }
    _, inputs = built(captions=HUMAN[:0])
    assert inputs[IMAGES].again == inputs[GENERATED].again == (UNTRAINED,)


def test_what_weights_are_chosen_on_is_shared_and_its_generated_captions_get_no_vectors() -> None:
    groups = GROUPS.with_columns(split=pl.Series(["test"] * 4 + ["val"]))
    captions = pl.concat([HUMAN, pl.DataFrame({"caption_id": ["o#0"], "image_id": ["outside"], "text": ["a car"]})])
    drawn = pl.DataFrame({"image_id": ["outside"], "text": ["a cat"]})
    _, inputs = built(groups=groups, captions=captions, generated_of_validation=drawn)
    assert inputs[VALIDATION_IMAGES].rows["id"].to_list() == ["outside"]
    assert inputs[VALIDATION_CAPTIONS].rows["id"].to_list() == ["o#0"]
    assert inputs[VALIDATION_GENERATED].rows["text"].to_list() == ["a cat"]
    names = (VALIDATION_IMAGES, VALIDATION_CAPTIONS, VALIDATION_GENERATED)
    assert [inputs[name].shared for name in names] == [True, True, False]
    assert [inputs[name].embedded for name in names] == [True, True, False]
    assert VALIDATION_GENERATED not in built(groups=groups, captions=captions)[1]
    with pytest.raises(DataError, match="not those of the pool"):  # generated for other pictures
        built(groups=groups, captions=captions, generated_of_validation=MACHINE[:1])


def test_texts_stand_in_the_order_of_the_pool_and_of_the_file() -> None:
    captions = pl.DataFrame(
        {
            "caption_id": ["b#0", "a#0", "b#1", "x#0"],
            "image_id": ["b", "a", "b", "x"],
            "text": ["first of b", "of a", "second of b", "of another"],
        }
    )
    pool = pl.DataFrame({"image_id": ["a", "b"]})
    generated = pl.DataFrame({"image_id": ["a", "b"], "text": ["made for a", "made for b"]})
    texts = build_text_inputs(pool, captions, generated)
    assert texts[CAPTIONS]["id"].to_list() == ["a#0", "b#0", "b#1"]
    assert texts[JOINED]["text"].to_list() == ["of a", "first of b second of b"]
    assert texts[GENERATED]["text"].to_list() == ["made for a", "made for b"]
    assert GENERATED not in build_text_inputs(pool, captions, generated[:0])
    with pytest.raises(DataError, match="not those of the pool"):
        build_text_inputs(pool, captions, generated[:1])


def test_inputs_are_read_as_they_were_written(tmp_path: Path) -> None:
    both = Input("both", collection().pool.select(pl.col("image_id").alias("id"), "image_id", "shard", "row", "sha256"))
    both = replace(both, rows=both.rows.with_columns(text=pl.lit("bigger")), shared=True)
    wanted = [*built()[1].values(), both, Input("words", both.rows.select("id", "image_id", "text"), embedded=False)]
    write_inputs(wanted, tmp_path)
    found = read_inputs(tmp_path)
    assert list(found) == [one.name for one in wanted]
    for one in wanted:
        again = found[one.name]
        assert (again.shared, again.embedded, again.again) == (one.shared, one.embedded, one.again)
        assert again.reads == one.reads
        assert again.rows.select(sorted(one.rows.columns)).rows() == one.rows.select(sorted(one.rows.columns)).rows()
    assert found["both"].reads == {"text", "image"}


def test_inputs_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"inputs\.json is not here: `dvc repro tasks` makes it, `dvc pull tasks`"):
        read_inputs(tmp_path)


def test_vectors_of_other_inputs_are_refused() -> None:
    _, inputs = built()
    for name in (IMAGES, IMAGES + UNTRAINED, IMAGES + OTHER_WAY):
        check_ids(inputs, name, IDS)
        with pytest.raises(DataError, match=f"{name}: the vectors' ids are not those of the tasks' inputs: `dvc repro"):
            check_ids(inputs, name, ["i0", "i1", "i3", "i2"])
    with pytest.raises(DataError, match="paintings: the vectors' ids are not those of the tasks' inputs"):
        check_ids(inputs, "paintings", IDS)


# ------------------------------------------------------------- what is found in the package


def making(monkeypatch: pytest.MonkeyPatch, *made: tuple[list[Task], list[Input]]) -> tuple[list[Task], list[Input]]:
    """What is built where modules make these tasks and inputs."""
    with monkeypatch.context() as patch:
        patch.setattr(registry, "find_builders", lambda: iter([lambda *_, own=own: own for own in made]))
        return build_tasks(collection(), params())


def task(name: str, place: int) -> Task:
    whole = built()[0]["object_sets"]
    return replace(whole, name=name, about=replace(whole.about, place=place))


def test_tasks_of_other_modules_stand_by_place_and_then_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = making(monkeypatch, ([task("c", 2), task("b", 1)], []), ([task("d", 0), task("a", 2)], []))
    assert [one.name for one in found] == ["d", "b", "a", "c"]


def test_two_different_inputs_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, inputs = built()
    other = replace(inputs[IMAGES], rows=inputs[IMAGES].rows[:2])
    making(monkeypatch, ([task("a", 0)], [inputs[IMAGES]]), ([task("b", 1)], [inputs[IMAGES]]))
    with pytest.raises(
        DataError, match=r"two tasks want different rows of the input 'images': give one .* another name"
    ):
        making(monkeypatch, ([task("a", 0)], [inputs[IMAGES]]), ([task("b", 1)], [other]))


@pytest.mark.parametrize("turned", [False, True])
def test_an_input_of_two_tasks_is_embedded_in_every_way_that_one_of_them_wants(
    turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = built()[1][IMAGES].rows
    one = Input("some", rows, shared=True, embedded=True, again=(UNTRAINED, OTHER_WAY))
    other = Input("some", rows, shared=False, embedded=False)
    made = [([task("a", 0)], [one]), ([task("b", 1)], [other])]
    (found,) = making(monkeypatch, *(reversed(made) if turned else made))[1]
    assert (found.shared, found.embedded, found.again) == (False, True, (UNTRAINED, OTHER_WAY))


# --------------------------------------------------------------------- written and read


def by_groups() -> Task:
    return Task(
        "by_groups",
        TaskMetadata("Some", "i2i", 4, cluster_by="group", macro=True, query_picture=IMAGES, counts={"classes": 2}),
        query_ids=["q0", "q1", "q2"],
        query_images=["x", "y", "z"],
        item_ids=["a", "b", "c", "d"],
        qrels=Groups(np.array([1, 0, 1]), np.array([1, 2, 1, 0]), np.array([0, -1, 2])),
        exclude=np.array([0, -1, 2]),
        group_names=["dog", "cat", "nobody's"],
        partners=np.array([2, 3, 0]),
        shown=[["x"], ["y", "x"], ["z"]],
        texts=["a cat", "", "two cats"],
    )


def by_pairs() -> Task:
    pairs = pl.DataFrame({"query_id": ["q0", "q0", "q2"], "item_id": ["b", "c", "d"], "gain": [2.0, 0.5, 1.0]})
    whole = by_groups()
    qrels = Pairs.of(pairs, whole.query_ids, whole.item_ids)
    return replace(whole, name="by_pairs", qrels=qrels, group_names=None)


PARTS = ("exclude", "partners", "shown", "texts")


@pytest.mark.parametrize("bare", [(), PARTS, *((part,) for part in PARTS)])
@pytest.mark.parametrize("whole", [by_groups(), by_pairs()], ids=["groups", "pairs"])
def test_a_task_is_read_as_it_was_written(whole: Task, bare: tuple[str, ...], tmp_path: Path) -> None:
    if "exclude" in bare and isinstance(whole.qrels, Groups):
        whole = replace(whole, qrels=replace(whole.qrels, own=None))
    written = replace(whole, **dict.fromkeys(bare))  # type: ignore[arg-type]
    written.write(tmp_path / written.name)
    found = Task.read(tmp_path / written.name)
    for part in ("name", "about", "query_ids", "query_images", "item_ids", "shown", "texts"):
        assert getattr(found, part) == getattr(written, part)
    for part in ("exclude", "partners"):
        wanted, read = getattr(written, part), getattr(found, part)
        assert (read is None) == (wanted is None)
        assert wanted is None or read.tolist() == wanted.tolist()
    assert type(found.qrels) is type(written.qrels)
    assert found.qrels.pairs(0, 3).equals(written.qrels.pairs(0, 3))
    if isinstance(found.qrels, Groups) and isinstance(written.qrels, Groups):
        assert found.group_names is not None and written.group_names is not None
        for ours, theirs in (
            (found.qrels.query_groups, written.qrels.query_groups),
            (found.qrels.item_groups, written.qrels.item_groups),
        ):
            assert [found.group_names[c] for c in ours] == [written.group_names[c] for c in theirs]


def test_the_tasks_of_a_dataset_are_read_as_they_were_written_and_in_their_order(tmp_path: Path) -> None:
    tasks, _ = built()
    for one in tasks.values():
        one.write(tmp_path / one.name)
    write_inputs([], tmp_path / "inputs")  # beside them, and no task
    found = read_tasks(tmp_path)
    assert [one.name for one in found] == list(tasks)
    for one in found:
        assert one.qrels.pairs(0, len(one.query_ids)).equals(tasks[one.name].qrels.pairs(0, len(one.query_ids)))
        assert one.about == tasks[one.name].about


def test_a_folder_without_a_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no task: `dvc repro tasks` makes them, `dvc pull tasks` fetches them"):
        read_tasks(tmp_path)
    for read in (read_about, Task.read):
        with pytest.raises(DataError, match=r"task\.json is not here: `dvc repro` makes it, `dvc pull` fetches it"):
            read(tmp_path)  # type: ignore[operator]


@pytest.mark.parametrize("whole", [by_groups(), by_pairs()], ids=["groups", "pairs"])
def test_queries_that_do_not_belong_to_the_judgements_are_refused(whole: Task, tmp_path: Path) -> None:
    whole.write(tmp_path / whole.name)
    path = tmp_path / whole.name / "queries.parquet"
    table = pl.read_parquet(path)
    table.with_columns(relevant=pl.lit(7, dtype=pl.Int32)).write_parquet(path)
    with pytest.raises(
        DataError, match=r"queries\.parquet: the queries' counts of .* are not those of the judgements: `dvc"
    ):
        Task.read(tmp_path / whole.name)


@pytest.mark.parametrize("name", ["queries", "items"])
def test_a_task_without_one_of_its_tables_is_refused(name: str, tmp_path: Path) -> None:
    by_groups().write(tmp_path / "some")
    (tmp_path / "some" / f"{name}.parquet").unlink()
    with pytest.raises(DataError, match=rf"{name}\.parquet is not here"):
        Task.read(tmp_path / "some")


def test_pairs_that_are_gone_are_refused(tmp_path: Path) -> None:
    by_pairs().write(tmp_path / "some")
    (tmp_path / "some/qrels.parquet").unlink()
    with pytest.raises(DataError, match=r"qrels\.parquet is not here: `dvc repro` makes it"):
        Task.read(tmp_path / "some")


@pytest.mark.parametrize("column", ["exclude", "partner"])
def test_an_item_that_is_named_and_not_there_is_refused(column: str, tmp_path: Path) -> None:
    by_groups().write(tmp_path / "some")
    path = tmp_path / "some/queries.parquet"
    pl.read_parquet(path).with_columns(pl.lit("elsewhere").alias(column)).write_parquet(path)
    with pytest.raises(
        DataError, match=rf"queries\.parquet: {column} 'elsewhere' is not one of the task's 4 items: `dvc repro"
    ):
        Task.read(tmp_path / "some")


def test_what_is_told_of_a_task_is_plain_json(tmp_path: Path) -> None:
    by_groups().write(tmp_path / "some")
    told = json.loads((tmp_path / "some/task.json").read_text())
    assert told["title"] == "Some"
    assert told["counts"] == {"classes": 2}
    assert told["query_text"] is None


def test_a_query_that_must_not_find_what_is_right_for_it_is_refused() -> None:
    metadata = TaskMetadata("a title", "it2i", 4)
    table = pl.DataFrame({"query_id": ["q", "r"], "item_id": ["a", "b"], "gain": [1.0, 2.0]})
    pairs = Pairs.of(table, ["q", "r"], ["a", "b"])
    Task("some", metadata, ["q", "r"], ["a", "b"], ["a", "b"], pairs, exclude=np.array([1, -1]))
    with pytest.raises(DataError, match="1 queries must not find an item that is right for them, the first is 'r'"):
        Task("some", metadata, ["q", "r"], ["a", "b"], ["a", "b"], pairs, exclude=np.array([-1, 1]))


def test_an_item_knows_its_picture(tmp_path: Path) -> None:
    for task in build_tasks(collection(), params())[0]:
        task.write(tmp_path / task.name)
        pictures = tables.read_table(tmp_path / task.name / "items.parquet", tables.ITEMS)["image_id"].to_list()
        assert pictures == (CAPTION_IMAGES if task.name == "image_to_caption" else task.item_ids)
        again = Task.read(tmp_path / task.name)
        assert (again.item_images or again.item_ids) == pictures


def test_tasks_tell_captions_of_other_words_apart_and_care_for_no_other_texts() -> None:
    def digests(**changes: pl.DataFrame) -> dict[str, str | None]:
        return {task.name: task.about.texts_digest for task in build_tasks(collection(**changes), params())[0]}

    plain = digests()
    assert plain.keys() >= {"object_sets", "caption_to_image", "image_to_caption"}
    assert plain["object_sets"] is None
    reworded = HUMAN.with_columns(text=pl.when(pl.col("caption_id") == "i2#1").then(pl.lit("x")).otherwise("text"))
    changed = digests(captions=reworded)
    assert {name for name in plain if plain[name] != changed[name]} == {
        *("caption_to_image", "image_to_caption", "caption_to_caption")
    }
    assert digests(generated=MACHINE.with_columns(text=pl.lit("something else"))) == plain
