"""What a trained card's folder of vectors holds: after and before training, by direction, and fit for the gates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tests.evaluation.test_gates import STRICT
from tests.tasks.small import COMPOSED, LABELS, params
from tests.tiny import CPU, tokenizer
from tests.training.frozen import COMPUTE, card, features, write_towers
from tests.training.scenes import drawn
from tests.training.test_finetuning import ARCHITECTURE, open_clip_folder, recipe
from twinlens.config.base import CardRemarks, GoldenVectors
from twinlens.config.gates import Gates
from twinlens.config.models import ModelCard, OpenClipTower
from twinlens.config.training import TowerRecipe
from twinlens.core.costs import Cost
from twinlens.core.errors import DataError
from twinlens.core.vectors import read_vectors
from twinlens.inference import embed
from twinlens.inference.conformity import compute_golden
from twinlens.inference.embed import Embedder
from twinlens.models import encoders
from twinlens.models.heads import CAPTION_TO_IMAGE, IMAGE_TO_CAPTION, ProjectionHeads
from twinlens.models.weights import identify_weights
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.rank import check_vectors
from twinlens.retrieval.registry import list_retrievers
from twinlens.tasks import captions
from twinlens.tasks.base import Task
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import CAPTIONS, CLASSES, IMAGES, NEGATIVES, OTHER_WAY, UNTRAINED, Input, build_picture_input
from twinlens.tasks.validation import draw_validation
from twinlens.training.data import TrainingData
from twinlens.training.dual_encoder import train_towers
from twinlens.training.projection_heads import train_heads

SIZES = pl.DataFrame({"width": [640], "height": [480]})
HELD_OUT = {"validation_images", "validation_captions"}
PLAIN = {"images", "captions", "captions_joined", "captions_generated", "classes", "negatives"}
BEFORE = {f"{name}_untrained" for name in PLAIN - {"negatives", "classes"}}
TURNED = {"images_image_to_caption", "captions_image_to_caption", "captions_generated_image_to_caption"}
CARDS: dict[str, dict[str, Any]] = {
    "heads": {},
    "lengths": {
        "heads": {"unit_length": False, "unit_input": False},
        "objective": "triplet",
        "distance": "squared_euclidean",
        "on_collapse": "record",
    },
    "each": {"heads": {"directions": "each"}},
    "lstm": {"pooling": "none"},
}


@dataclass(frozen=True)
class Embedded:
    """A card, what `train` left, what was embedded, and the folder it is in."""

    card: ModelCard
    trained: Path
    shards: Path
    tasks: list[Task]
    inputs: dict[str, Input]
    out: Path
    cost: Cost

    def names(self) -> set[str]:
        return {path.stem for path in self.out.glob("*.parquet")}

    def rows(self, name: str) -> np.ndarray:
        return np.load(self.out / f"{name}.npy")

    def embedder(self) -> Embedder:
        return Embedder(self.card, self.trained, CPU, COMPUTE, self.cost)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return drawn(tmp_path_factory.mktemp("scenes"), train=64, val=24, test=12, side_px=32)


def asked(material: TrainingData) -> tuple[list[Task], dict[str, Input]]:
    """The tasks of captions and pictures and what they want embedded, with prompts and negatives beside that."""
    given = params()
    pool = material.groups.filter("in_pool")
    texts = material.captions["text"]  # of words that are known
    drawn = draw_validation(material.groups, material.captions, given.hybrid)
    generated, of_validation = (
        pl.DataFrame({"image_id": some["image_id"], "text": texts[: len(some)]}) for some in (pool, drawn)
    )
    whole = Collection(material.groups, LABELS, material.captions, generated, of_validation, COMPOSED)
    tasks, inputs = captions.build(whole, given)
    prompts = pl.DataFrame({"id": ["car", "boat"], "image_id": ["car", "boat"], "text": ["a red car", "a boat"]})
    inputs += [
        Input(CLASSES, prompts, shared=True),
        build_picture_input(NEGATIVES, material.groups.filter(split="val")[:9]),
    ]
    return tasks, {one.name: one for one in inputs}


def train(kind: str, material: TrainingData, folder: Path) -> ModelCard:
    """Train a card into `folder` as the `train` stage does."""
    if kind in CARDS:
        model = card(write_towers(folder, material), **({"epochs": 1} | CARDS[kind]))
        train_heads(model, material, features(model), CPU, folder)
    else:
        words = tokenizer(material.captions["text"].to_list())
        torch.manual_seed(0)
        joint = open_clip_folder(folder / "pretrained", words)
        assert isinstance(joint, OpenClipTower)
        if kind == "from nothing":
            joint = OpenClipTower(open_clip="custom", architecture=ARCHITECTURE)
        model = ModelCard(joint=joint, train=recipe(epochs=1, on_collapse="record"))
        assert isinstance(model.train, TowerRecipe)
        train_towers(joint, model.train, material, CPU, folder)
    towers = {} if model.from_nothing else model.towers()
    note = {role: identify_weights(encoders.locate(tower)) for role, tower in towers.items()}
    (folder / "weights.json").write_text(json.dumps(note))
    return model


@pytest.fixture(scope="module")
def embedded(material: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Embedded]]:
    """By kind of card, what was embedded; made when first asked for."""
    done: dict[str, Embedded] = {}

    def of(kind: str) -> Embedded:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))
            (folder / "out").mkdir()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TWINLENS_SCRATCH", str(folder / "scratch"))
                model = train(kind, material, folder)
                made = Embedded(model, folder, material.shards, *asked(material), folder / "out", Cost())
                count = made.embedder().embed(made.inputs.values(), made.shards, made.out)
                assert count == sum(len(one.rows) for one in made.inputs.values() if one.embedded)
            done[kind] = made
        return done[kind]

    yield of


KINDS = [*CARDS, "from nothing", "pretrained"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_card_embeds_the_pool_as_it_was_before_too_and_each_direction(
    kind: str, embedded: Callable[[str], Embedded]
) -> None:
    found = embedded(kind)
    assert found.names() == PLAIN | BEFORE | HELD_OUT | (TURNED if kind == "each" else set())
    for name in BEFORE:
        after, before = found.rows(name.removesuffix("_untrained")), found.rows(name)
        assert after.shape == before.shape
        assert np.abs(after - before).max() > 1e-3
    assert set(found.cost.parts) == found.names()
    dims = {len(found.rows(name)[0]) for name in found.names()}
    assert len(dims) == 1
    assert {part["dim"] for part in found.cost.parts.values()} == dims


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_kept_where_they_mattered_in_training_and_only_there(
    kind: str, embedded: Callable[[str], Embedded]
) -> None:
    found = embedded(kind)
    kept = {path.name.removesuffix(".length.npy") for path in found.out.glob("*.length.npy")}
    assert kept == (found.names() if kind == "lengths" else set())


@pytest.mark.parametrize("kind", KINDS)
def test_the_gates_pass_and_every_source_is_searched_with(kind: str, embedded: Callable[[str], Embedded]) -> None:
    found = embedded(kind)
    sources = {name: read_vectors(found.out, name) for name in found.names()}
    gates = Gates(STRICT.model_copy(update={"max_repeated_share": 0.05}))  # of a hundred texts, few epochs
    check_vectors(gates, sources, found.out)
    assert gates.found == []
    texts = {name: one.rows for name, one in found.inputs.items() if "text" in one.reads}
    corpus = Corpus(sources, texts, found.card.shares_a_space)
    for task in found.tasks:
        made = [(one.name, one.published) for one in list_retrievers(task, corpus, params())]
        assert ("image_untrained", False) in made
        assert (("image", True) in made) == (kind == "lengths")


@pytest.mark.parametrize("kind", KINDS)
def test_towers_are_fed_as_their_libraries_feed_them(kind: str, embedded: Callable[[str], Embedded]) -> None:
    told = list(embedded(kind).embedder().inspect(SIZES))
    assert {gate for gate, _ in told} <= {"conformity", "enlarged", "no_better_than_random"}
    assert [trouble for gate, trouble in told if gate == "conformity" and trouble is not None] == []
    untrained = [trouble for _, trouble in told if trouble is not None]
    # the tiny model that one of them is trained from is itself as it was made, and so is told
    assert [("before training" in trouble or "that they are made with" in trouble) for trouble in untrained] == [
        True for _ in range(kind == "pretrained")
    ]


def test_what_a_card_remembers_is_held_against_the_weights_it_names_not_against_those_trained_from_them(
    embedded: Callable[[str], Embedded],
) -> None:
    found = embedded("pretrained")
    joint = found.card.joint
    assert joint is not None
    right = compute_golden("joint", joint, CPU, COMPUTE)
    assert right is not None and right.pictures is not None
    wrong = right.model_copy(update={"pictures": tuple(-number for number in right.pictures)})

    def told(golden: GoldenVectors) -> list[str]:
        tower = joint.model_copy(update={"about": CardRemarks(golden=golden)})
        card = found.card.model_copy(update={"joint": tower})
        embedder = Embedder(card, found.trained, CPU, COMPUTE, Cost())
        return [trouble for gate, trouble in embedder.inspect(SIZES) if gate == "golden" and trouble is not None]

    assert told(right) == []
    (one,) = told(wrong)
    assert "the vectors of the drawn pictures begin with" in one


@pytest.mark.parametrize("kind", ["heads", "lengths", "each", "lstm"])
def test_the_vectors_are_those_of_the_heads_on_the_towers_vectors(
    kind: str, embedded: Callable[[str], Embedded]
) -> None:
    found = embedded(kind)
    read = features(found.card)
    inputs = {
        "image": read.embed_pictures(found.shards, found.inputs[IMAGES].rows),
        "text": read.embed_texts(found.inputs[CAPTIONS].rows),
    }
    main = CAPTION_TO_IMAGE if kind == "each" else "both"
    ways = {"": ("weights", main), "_untrained": ("untrained", main)}
    ways |= {f"_{IMAGE_TO_CAPTION}": ("weights", IMAGE_TO_CAPTION)} if kind == "each" else {}
    for suffix, (folder, direction) in ways.items():
        heads = ProjectionHeads.read(found.trained / folder, read.table)
        for side, name in (("image", "images"), ("text", "captions")):
            wanted = heads.apply_to(inputs[side], direction, side, CPU.device)
            lengths = np.linalg.norm(wanted, axis=1)
            assert np.abs(found.rows(name + suffix) - wanted / lengths[:, None]).max() < 1e-5
            if kind == "lengths":
                kept = np.load(found.out / f"{name}{suffix}.length.npy")
                assert kept == pytest.approx(lengths, rel=1e-5)
                assert np.ptp(kept) > 1e-3


@pytest.mark.parametrize("kind", ["from nothing", "pretrained"])
def test_a_joint_model_before_training_is_what_it_began_with(kind: str, embedded: Callable[[str], Embedded]) -> None:
    found = embedded(kind)
    joint = found.card.joint
    assert joint is not None
    begun = found.trained / ("untrained" if kind == "from nothing" else "pretrained")
    for suffix, folder in (("", found.trained / "weights"), ("_untrained", begun)):
        text = encoders.load(joint, folder, CPU).text
        assert text is not None
        with torch.inference_mode():
            wanted = torch.nn.functional.normalize(text.encode(found.inputs[CAPTIONS].rows["text"].to_list()))
        assert np.abs(found.rows(f"captions{suffix}") - wanted.numpy()).max() < 1e-5


def test_towers_that_are_not_those_of_the_training_are_refused(
    embedded: Callable[[str], Embedded], tmp_path: Path
) -> None:
    found = embedded("heads")
    note = json.loads((found.trained / "weights.json").read_text())
    other = {role: {"sha256": {"other": "0"}} if role == "text" else value for role, value in note.items()}
    for name in ("weights", "untrained"):
        (tmp_path / "trained").mkdir(exist_ok=True)
        (tmp_path / "trained" / name).symlink_to(found.trained / name)
    (tmp_path / "trained/weights.json").write_text(json.dumps(other))
    embedder = Embedder(found.card, tmp_path / "trained", CPU, COMPUTE, Cost())
    with pytest.raises(DataError, match=r"words\.vec is not what `train` found there: `dvc repro -f train`"):
        embedder.embed(found.inputs.values(), found.shards, tmp_path)


def test_heads_on_towers_of_another_width_are_refused(embedded: Callable[[str], Embedded], tmp_path: Path) -> None:
    found = embedded("heads")
    heads = ProjectionHeads.read(found.trained / "weights")
    ProjectionHeads(heads.config, heads.widths["image"] + 1, heads.widths["text"]).write(tmp_path / "trained/weights")
    (tmp_path / "trained/weights.json").write_bytes((found.trained / "weights.json").read_bytes())
    with pytest.raises(DataError, match=r"the image tower's vectors have .* dimensions, its head was trained on"):
        Embedder(found.card, tmp_path / "trained", CPU, COMPUTE, Cost()).embed(
            found.inputs.values(), found.shards, tmp_path
        )


# --------------------------------------------------------------- which tower reads what

ROWS = pl.DataFrame({"id": ["a", "b"], "image_id": ["a", "b"]})
TEXT, PICTURE = ROWS.with_columns(text=pl.lit("a car")), ROWS.with_columns(shard=0, row=0, sha256=pl.lit("0"))


@dataclass
class Noted:
    """What each tower was asked to embed, in its order."""

    calls: list[tuple[str, str, str]] = field(default_factory=list)

    def embedder(self, patch: pytest.MonkeyPatch, tmp_path: Path, *roles: str, trained: bool = False) -> Embedder:
        """Of a card with towers that only take notes."""
        noted = self

        class Job:
            tower = None

            def in_role(self, role: str) -> Job:
                return self

            def __init__(self, tower: str, weights: str, *_: object) -> None:
                self.role = f"{tower}{weights}"

            def pictures(self, name: str, shards: Path, rows: pl.DataFrame, out: Path) -> None:
                assert rows is PICTURE
                noted.calls.append((self.role, "picture", name))

            def texts(self, name: str, rows: pl.DataFrame, out: Path) -> None:
                assert rows is TEXT
                noted.calls.append((self.role, "text", name))

        class Card:
            train = "somehow" if trained else None

            def towers(self) -> dict[str, str]:
                return {role: role for role in roles}

        patch.setattr(embed, "make_job", Job)
        patch.setattr(embed, "locate_weights", lambda *_: "")
        patch.setattr(embed, "locate_initial_weights", lambda *_: " before")
        return Embedder(Card(), tmp_path, CPU, COMPUTE, Cost())  # type: ignore[arg-type]


WANTED = [
    Input("pictures", PICTURE),
    Input("words", TEXT),
    Input("shared pictures", PICTURE, shared=True),
    Input("shared words", TEXT, shared=True),
    Input("only searched by words", TEXT, embedded=False),
    Input("both", TEXT.hstack(PICTURE.select("shard", "row", "sha256"))),
]


@pytest.mark.parametrize("trained", [False, True])
def test_a_joint_tower_reads_pictures_and_words_each_input_once(
    trained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = Noted()
    embedder = noted.embedder(monkeypatch, tmp_path, "joint", trained=trained)
    assert embedder.embed(WANTED, tmp_path, tmp_path) == 8
    assert noted.calls == [
        ("joint", "picture", "pictures"),
        ("joint", "text", "words"),
        ("joint", "picture", "shared pictures"),
        ("joint", "text", "shared words"),
    ]


def test_towers_of_their_own_read_one_kind_each_and_nothing_that_needs_a_shared_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for roles, wanted, count in (
        (("image", "text"), [("image", "picture", "pictures"), ("text", "text", "words")], 4),
        (("image",), [("image", "picture", "pictures")], 2),
        (("text",), [("text", "text", "words")], 2),
    ):
        noted = Noted()
        assert noted.embedder(monkeypatch, tmp_path, *roles).embed(WANTED, tmp_path, tmp_path) == count
        assert noted.calls == wanted


def test_only_a_trained_card_embeds_again_and_only_what_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = [replace(WANTED[0], again=(UNTRAINED, OTHER_WAY)), replace(WANTED[1], again=(OTHER_WAY,)), WANTED[3]]
    once = [
        ("joint", "picture", "pictures"),
        ("joint", "text", "words"),
        ("joint", "text", "shared words"),
    ]
    for trained in (False, True):
        noted = Noted()
        embedder = noted.embedder(monkeypatch, tmp_path, "joint", trained=trained)
        assert embedder.embed(again, tmp_path, tmp_path) == 6
        assert noted.calls == once + trained * [("joint before", "picture", "pictures_untrained")]
