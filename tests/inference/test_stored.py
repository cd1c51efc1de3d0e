"""Vectors of one's own, from files: found by id or by text, refused where they do not fit, and measured like any."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.evaluation.test_gates import STRICT
from tests.tiny import CPU, jpegs, write_shards
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.models import ModelCard
from twinlens.config.params import ComputeParams
from twinlens.core import tables
from twinlens.core.costs import Cost
from twinlens.core.errors import DataError, FetchError
from twinlens.core.vectors import read_vectors
from twinlens.indexing.query_encoder import QueryEncoder
from twinlens.inference.embed import Embedder
from twinlens.models import encoders
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.dense import retrievers
from twinlens.retrieval.rank import check_vectors, list_unmeasured, search
from twinlens.tasks import captions
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import CAPTIONS, CLASSES, GENERATED, IMAGES, JOINED, VALIDATION_IMAGES, Input, read_left_out

COUNT, DIM = 12, 8
COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=None, text_batch=None)


def unit(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


PICTURES = unit(COUNT, 0)
TEXTS = unit(2 * COUNT, 1)


class Data:
    """A dataset of a dozen pictures with two captions each, and files of vectors beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shards, self.trained = folder, folder / "shards", folder / "trained"
        pool = write_shards(jpegs(COUNT), self.shards).with_columns(
            split=pl.lit("test"), in_pool=True, object_set=pl.lit(None, dtype=pl.String)
        )
        self.ids = pool["image_id"].to_list()
        self.caption_ids = [f"{image_id}#{n}" for image_id in self.ids for n in range(2)]
        self.texts = [f"caption {n} of {image_id}" for image_id in self.ids for n in range(2)]
        table = pl.DataFrame(
            {
                "caption_id": self.caption_ids,
                "image_id": [i.split("#")[0] for i in self.caption_ids],
                "text": self.texts,
            }
        )
        none = pl.DataFrame(schema={"image_id": pl.String, "text": pl.String})
        self.collection = Collection(pool, pl.DataFrame(), table, none, none, pl.DataFrame())
        self.tasks, inputs = captions.build(self.collection, read_params())
        self.inputs = {one.name: one for one in inputs}

    def save(self, name: str, rows: np.ndarray, ids: list[str] | None = None) -> dict[str, str]:
        """A `.npy` and its ids; returns the keys of a card."""
        np.save(self.folder / f"{name}.npy", rows)
        names = ids or (self.ids if len(rows) == COUNT else self.caption_ids)
        (self.folder / f"{name}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        return {"vectors": str(self.folder / f"{name}.npy"), "ids": str(self.folder / f"{name}.txt")}

    def joint(self, pictures: dict[str, str] | None = None, texts: dict[str, str] | None = None, **more: Any) -> Any:
        own = pictures or self.save("pictures", PICTURES)
        said = texts or self.save("texts", TEXTS)
        return {"joint": own | {f"text_{key}": value for key, value in said.items()} | more}

    def embed(self, card: dict[str, Any], out: str = "out") -> Path:
        model = ModelCard.model_validate(card)
        self.trained.mkdir(exist_ok=True)
        towers = model.towers().items()
        note = {role: encoders.identify(tower, encoders.locate(tower)) for role, tower in towers}
        (self.trained / "weights.json").write_text(json.dumps(note))
        folder = self.folder / out
        folder.mkdir()
        Embedder(model, self.trained, CPU, COMPUTE, Cost()).embed(self.inputs.values(), self.shards, folder)
        return folder


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.npy")}


# ---------------------------------------------------------------- the forms


def parquet(data: Data) -> dict[str, Any]:
    order = np.random.default_rng(3).permutation(COUNT)
    own = {"image_id": [data.ids[row] for row in order], "embedding": [PICTURES[row].tolist() for row in order]}
    said = {"text": data.texts, "vector": pa.FixedSizeListArray.from_arrays(pa.array(TEXTS.ravel()), DIM)}
    pq.write_table(pa.table(own), data.folder / "pictures.parquet")
    pq.write_table(pa.table(said), data.folder / "texts.parquet")
    return {
        "joint": {
            "vectors": str(data.folder / "pictures.parquet"),
            "text_vectors": str(data.folder / "texts.parquet"),
        }
    }


def npz(data: Data) -> dict[str, Any]:
    np.savez(data.folder / "pictures.npz", vectors=PICTURES, ids=np.array([f"{i}.jpg" for i in data.ids]))
    np.savez(data.folder / "texts.npz", rows=TEXTS, ids=np.array(data.caption_ids))
    return {
        "joint": {"vectors": str(data.folder / "pictures.npz"), "text_vectors": str(data.folder / "texts.npz")},
    }


def npy(data: Data) -> dict[str, Any]:
    np.save(data.folder / "ids.npy", np.array(data.ids))
    pq.write_table(pa.table({"caption": data.texts}), data.folder / "texts.parquet")
    own = data.save("pictures", PICTURES) | {"ids": str(data.folder / "ids.npy")}
    said = data.save("texts", TEXTS) | {"ids": str(data.folder / "texts.parquet")}
    return data.joint(own, said)


def clip_retrieval(data: Data) -> dict[str, Any]:
    """One caption a picture, as that tool has it: so every picture stands twice, with the same vector."""
    root = data.folder / "clip"
    rows = np.repeat(np.arange(COUNT), 2)
    # twice the picture would be refused as twice an id, so the pictures' side is another folder's
    for part, chosen in enumerate((slice(0, 10), slice(10, None))):
        for kind, matrix in (("img_emb", PICTURES[rows]), ("text_emb", TEXTS)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            np.save(root / kind / f"{kind}_{part}.npy", matrix[chosen].astype(np.float16))
        (root / "metadata").mkdir(exist_ok=True)
        paths = [f"/photos/{data.ids[row]}.png" for row in rows[chosen]]
        table = pa.table({"image_path": paths, "caption": data.texts[chosen]})
        pq.write_table(table, root / "metadata" / f"metadata_{part}.parquet")
    return {"image": data.save("pictures", PICTURES), "text": {"vectors": str(root)}}


FORMS: dict[str, Callable[[Data], dict[str, Any]]] = {
    "npy and text": lambda data: data.joint(),
    "npy and names": npy,
    "parquet": parquet,
    "npz": npz,
    "clip-retrieval": clip_retrieval,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_gives_the_rows_of_the_inputs(form: str, data: Data) -> None:
    out = data.embed(FORMS[form](data))
    close = 2e-3 if form == "clip-retrieval" else 1e-7  # which writes float16
    for name, wanted, ids in ((IMAGES, PICTURES, data.ids), (CAPTIONS, TEXTS, data.caption_ids)):
        found = read_vectors(out, name)
        assert found.ids == ids
        assert np.abs(found.rows - wanted).max() < close
    vectors = {name: read_vectors(out, name) for name in names(out) if not name.endswith(".probe")}
    check_vectors(Gates(STRICT), vectors, out)


def test_a_folder_of_clip_retrieval_serves_both_sides_where_each_picture_has_one_caption(data: Data) -> None:
    root = data.folder / "clip"
    for kind, matrix in (("img_emb", PICTURES), ("text_emb", TEXTS[::2])):
        (root / kind).mkdir(parents=True)
        np.save(root / kind / f"{kind}_0.npy", matrix)
    (root / "metadata").mkdir()
    table = pa.table({"image_path": data.ids, "caption": data.texts[::2]})
    pq.write_table(table, root / "metadata" / "metadata_0.parquet")
    data.inputs[CAPTIONS] = Input(CAPTIONS, data.inputs[CAPTIONS].rows[::2])
    out = data.embed({"joint": {"vectors": str(root)}})
    assert np.allclose(read_vectors(out, IMAGES).rows, PICTURES, atol=1e-6)
    assert np.allclose(read_vectors(out, CAPTIONS).rows, TEXTS[::2], atol=1e-6)


# ------------------------------------------------------- what follows `embed`


def test_what_was_embedded_elsewhere_is_ranked_like_any_vectors(data: Data) -> None:
    out = data.embed(data.joint())
    vectors = {name: read_vectors(out, name) for name in (IMAGES, CAPTIONS)}
    params = read_params()
    task = next(task for task in data.tasks if task.name == captions.CAPTION_TO_IMAGE)
    corpus = Corpus(vectors, {}, joint=True)
    one = next(each for each in retrievers(task, corpus, params) if each.name == "image")
    task.write(data.folder / task.name)
    search(task, one, 5, "cpu", data.folder / task.name, Gates(params.gates))
    run = pl.read_parquet(data.folder / task.name / "runs/image.parquet").filter(pl.col("rank") == 1)
    best = [data.ids[row] for row in (TEXTS.astype(np.float64) @ PICTURES.T.astype(np.float64)).argmax(axis=1)]
    assert run["item_id"].cast(pl.String).to_list() == best


def test_inputs_without_vectors_are_named_and_left_out(data: Data) -> None:
    prompts = pl.DataFrame({"id": ["car"], "image_id": ["car"], "text": ["a picture of a car"]})
    data.inputs[CLASSES] = Input(CLASSES, prompts, shared=True)
    out = data.embed(data.joint())
    assert names(out) - {"probe"} == {IMAGES, CAPTIONS}
    left_out = read_left_out(out)
    assert set(left_out) == {JOINED, CLASSES}
    assert "has no vector of 12 of the 12 captions_joined: 'picture-000', 'picture-001'" in left_out[JOINED]
    told = list(list_unmeasured(data.tasks, left_out))
    assert told[1].startswith("retrievers by vectors that need classes are not measured: ")
    assert next(list_unmeasured([], {VALIDATION_IMAGES: "none"})).startswith("weights of hybrids are not chosen")


def test_captions_without_vectors_leave_their_tasks_out_by_name(data: Data) -> None:
    out = data.embed({"image": data.save("pictures", PICTURES), "text": data.save("texts", TEXTS[:1], ["a car"])} | {})
    told = " ".join(list_unmeasured(data.tasks, read_left_out(out)))
    assert "that need captions in caption_to_image, image_to_caption are not measured" in told
    assert "what it has is called 'a car'" in told


def test_texts_that_are_no_captions_are_found_by_what_they_say(data: Data) -> None:
    prompts = pl.DataFrame({"id": ["car"], "image_id": ["car"], "text": ["a picture of a car"]})
    data.inputs[CLASSES] = Input(CLASSES, prompts, shared=True)
    rows, said = np.concatenate([TEXTS, unit(1, 5)]), [*data.texts, "a picture of a car"]
    out = data.embed(data.joint(texts=data.save("texts", rows, said)))
    assert np.allclose(read_vectors(out, CLASSES).rows, unit(1, 5), atol=1e-6)
    assert np.allclose(read_vectors(out, CAPTIONS).rows, TEXTS, atol=1e-6)


def test_generated_captions_that_only_chance_to_be_there_are_left_out(data: Data) -> None:
    said = [data.texts[0], *(f"something of {image_id}" for image_id in data.ids[1:])]
    data.inputs[GENERATED] = Input(GENERATED, pl.DataFrame({"id": data.ids, "image_id": data.ids, "text": said}))
    out = data.embed(data.joint(texts=data.save("texts", TEXTS, data.texts)))
    assert "has no vector of 11 of the 12 captions_generated" in read_left_out(out)[GENERATED]


def test_files_that_changed_since_train_noted_them_are_refused(data: Data) -> None:
    card = data.joint()
    data.embed(card)
    data.save("texts", unit(2 * COUNT, 9))
    model = ModelCard.model_validate(card)
    with pytest.raises(DataError, match="is not what `train` found there"):
        Embedder(model, data.trained, CPU, COMPUTE, Cost()).embed(data.inputs.values(), data.shards, data.folder)


def test_other_ids_beside_the_same_rows_are_other_vectors(data: Data) -> None:
    first = read_vectors(data.embed(data.joint()), IMAGES).rows
    turned = data.joint(data.save("pictures", PICTURES, data.ids[::-1]))
    assert np.allclose(read_vectors(data.embed(turned, "again"), IMAGES).rows, first[::-1])


def test_nothing_new_can_be_searched_for_by_vectors_from_files(data: Data) -> None:
    card = ModelCard.model_validate(data.joint())
    towers = QueryEncoder(card, None, "cpu", "")  # type: ignore[arg-type]
    assert towers.stored
    assert not towers.reads_text
    assert not towers.reads_pictures
    assert towers.joint
    with pytest.raises(DataError, match="nothing new can be embedded"):
        encoders.load(card.towers()["joint"], data.folder, CPU)


# ------------------------------------------------------------------- faults


def changed(rows: np.ndarray, value: float) -> np.ndarray:
    other = rows.copy()
    other[3] = value
    return other


def ids_of(data: Data, ids: list[str]) -> dict[str, Any]:
    return data.joint(data.save("pictures", unit(len(ids), 0), ids))


def cut(data: Data) -> dict[str, Any]:
    card = data.joint()
    path = data.folder / "pictures.npy"
    path.write_bytes(path.read_bytes()[:-40])
    return card


def objects(data: Data) -> dict[str, Any]:
    card = data.joint()
    np.save(data.folder / "ids.npy", np.array(data.ids, dtype=object), allow_pickle=True)
    card["joint"]["ids"] = str(data.folder / "ids.npy")
    return card


def uneven(data: Data) -> dict[str, Any]:
    rows = [row.tolist()[: 5 if n == 2 else None] for n, row in enumerate(PICTURES)]
    pq.write_table(pa.table({"id": data.ids, "vector": rows}), data.folder / "pictures.parquet")
    return data.joint({"vectors": str(data.folder / "pictures.parquet")})


def other_words(data: Data) -> dict[str, Any]:
    table = pa.table({"caption_id": data.caption_ids, "text": [*data.texts[:-1], "another"], "v": TEXTS.tolist()})
    pq.write_table(table, data.folder / "texts.parquet")
    return data.joint(texts={"vectors": str(data.folder / "texts.parquet")})


FAULTS: dict[str, tuple[Callable[[Data], dict[str, Any]], str]] = {
    "unknown": (
        lambda data: ids_of(data, [*data.ids, "nobody", "no-one"]),
        "2 ids are not in the dataset: 'nobody', 'no-one': .* `unknown_ids: ignore`",
    ),
    "unknown caption": (
        lambda data: data.joint(texts=data.save("texts", unit(25, 1), [*data.caption_ids, "nobody#0"])),
        "1 ids are not in the dataset: 'nobody#0'",
    ),
    "twice": (lambda data: ids_of(data, [*data.ids, data.ids[4]]), "1 ids stand twice: 'picture-004'"),
    "missing": (
        lambda data: ids_of(data, data.ids[:-2]),
        "no vector of 2 of the 12 images: 'picture-010', 'picture-011'",
    ),
    "all missing": (
        lambda data: ids_of(data, [f"x{n}" for n in range(COUNT)]) | {},
        "(12 ids are not in the dataset)|(no vector of 12 of the 12 images)",
    ),
    "missing caption": (
        lambda data: data.joint(texts=data.save("texts", TEXTS[1:], data.caption_ids[1:])),
        "no vector of 1 of the 24 captions: 'picture-000#0'",
    ),
    "width": (
        lambda data: data.joint(texts=data.save("texts", TEXTS[:, :5])),
        "other numbers of dimensions: .*pictures.npy 8 .image., .*texts.npy 5 .text.",
    ),
    "nan": (
        lambda data: data.joint(data.save("pictures", changed(PICTURES, np.nan))),
        "1 of 12 vectors are NaN or infinite: 'picture-003'",
    ),
    "zero": (lambda data: data.joint(data.save("pictures", changed(PICTURES, 0))), "are zero, .*: 'picture-003'"),
    "length": (
        lambda data: data.joint(data.save("pictures", PICTURES * 3)),
        "12 of 12 vectors are not of unit length; .* `normalise: true`: 'picture-000'.* and 7 more",
    ),
    "rows": (lambda data: data.joint(data.save("pictures", PICTURES, data.ids[:-1])), "has 12 rows, .* 11 names"),
    "no ids": (
        lambda data: data.joint({"vectors": data.save("pictures", PICTURES)["vectors"]}),
        "does not say what its rows are of: name a file of ids",
    ),
    "shape": (lambda data: data.joint(data.save("pictures", PICTURES.ravel(), data.ids)), "numbers of shape"),
    "cut short": (cut, "is no NumPy file that can be read, or is cut short"),
    "objects": (objects, "holds Python objects"),
    "uneven": (uneven, "1 of 12 vectors have not 8 numbers as the others, the first has 5: 'picture-002'"),
    "other words": (
        other_words,
        "1 texts are not those of the dataset under the same ids, the first is 'picture-011#1'",
    ),
    "words twice": (
        lambda data: data.joint(texts=data.save("texts", unit(25, 1), [*data.texts, data.texts[0]])),
        "1 texts stand twice, with vectors that differ: 'caption 0 of picture-000'",
    ),
    "ending": (
        lambda data: data.joint({"vectors": data.save("pictures", PICTURES)["ids"]}),
        "vectors are read from .npy",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_vectors_that_do_not_fit_are_refused_before_any_is_written(fault: str, data: Data) -> None:
    make, message = FAULTS[fault]
    card = make(data)
    with pytest.raises(DataError, match=message):
        data.embed(card)
    assert not list((data.folder / "out").iterdir())


def test_ids_that_may_be_unknown_are_left_aside(data: Data) -> None:
    card = ids_of(data, [*data.ids, "nobody"])
    card["joint"]["unknown_ids"] = "ignore"
    assert IMAGES in names(data.embed(card))


def test_pictures_of_other_splits_and_those_set_aside_are_of_the_dataset(data: Data) -> None:
    more = pl.DataFrame({"image_id": ["train-1"], "shard": 0, "row": 0, "width": 1, "height": 1, "sha256": "x"})
    tables.write_table(more, data.shards / "index.parquet", tables.INDEX)
    notes = pl.DataFrame({"image_id": ["broken"], "kept": False, "note": "cut short"})
    tables.write_table(notes, data.shards / "notes.parquet", tables.NOTES)
    assert IMAGES in names(data.embed(ids_of(data, [*data.ids, "train-1", "broken"])))


def test_other_lengths_are_brought_to_one_where_the_card_says_so(data: Data) -> None:
    out = data.embed(data.joint(data.save("pictures", PICTURES * 3), normalise=True))
    assert np.allclose(read_vectors(out, IMAGES).rows, PICTURES, atol=1e-6)


def test_a_file_that_is_not_there_is_told_by_its_key(data: Data) -> None:
    card = data.joint()
    card["joint"]["text_ids"] = "nowhere/ids.txt"
    with pytest.raises(FetchError, match=r"`text_ids: nowhere/ids\.txt` is not there"):
        data.embed(card)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"image": {"vectors": "a.npy", "text_vectors": "b.npy"}}, "`text_vectors` is for a joint pair"),
        ({"image": {"vectors": "a.npy", "timm": "resnet50"}}, "a tower is named by one key"),
        ({"joint": {"vectors": "a", "unknown_ids": "drop"}}, "refuse"),
    ],
)
def test_cards_that_cannot_be_are_refused(card: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelCard.model_validate(card)
