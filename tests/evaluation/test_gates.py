"""Faults, each planted where it would happen, each caught by its gate; and clean runs pass all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tests.tiny import CPU
from twinlens.config.datasets import CocoCard, ScenesCard
from twinlens.config.gates import Gates
from twinlens.config.params import GateParams
from twinlens.core.errors import DataError
from twinlens.core.probes import Probe, choose_rows
from twinlens.core.vectors import Vectors
from twinlens.evaluation.gates import (
    detect_chance_level,
    detect_easy_pool,
    detect_near_copies,
    detect_overlap,
    detect_own_found,
    detect_still_learning,
    detect_taught_on,
    detect_wrong_size,
    find_near_copies,
    measure_apart,
)
from twinlens.evaluation.intervals import Interval, bootstrap_means
from twinlens.inference.probe import choose_texts, measure_last_word, probe_texts
from twinlens.retrieval.checks import Ties
from twinlens.retrieval.rank import check_vectors
from twinlens.retrieval.runs import RunWriter, read_run
from twinlens.tasks.inputs import CAPTIONS, IMAGES

NAMES = [name for name in GateParams.model_fields if not name.startswith("max_")]
STRICT = GateParams.model_validate(dict.fromkeys(NAMES, "error") | {"max_repeated_share": 0.01, "max_tied_share": 0.1})
COUNT, DIM = 40, 8
IDS = [f"i{n:02d}" for n in range(COUNT)]


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    made = rng.standard_normal((rows, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@dataclass
class Embedded:
    """What `embed` leaves: vectors under ids, and probes of them."""

    sources: dict[str, Vectors]
    folder: Path

    def check(self, gates: Gates | None = None) -> None:
        check_vectors(gates or Gates(STRICT), self.sources, self.folder)

    def put(self, name: str, rows: np.ndarray) -> None:
        self.sources[name] = Vectors(IDS, IDS, rows)

    def probe(self, name: str, **fields: object) -> None:
        path = self.folder / f"{name}.probe.npz"
        replace(Probe.read(path), **fields).write(path)  # type: ignore[arg-type]


@pytest.fixture
def embedded(tmp_path: Path) -> Embedded:
    rng = np.random.default_rng(0)
    sources = {name: Vectors(IDS, IDS, unit(rng, COUNT)) for name in (IMAGES, CAPTIONS)}
    for name, source in sources.items():
        rows = choose_rows(COUNT)
        alone = source.rows[rows]
        beside = alone if name == CAPTIONS else alone[:0]
        Probe([IDS[r] for r in rows], alone, beside, 0.3, COUNT, exact=True).write(tmp_path / f"{name}.probe.npz")
    return Embedded(sources, tmp_path)


def plant_nan(at: Embedded) -> None:
    rows = np.array(at.sources[IMAGES].rows)
    rows[7, 3] = np.nan
    at.put(IMAGES, rows)


def plant_length(at: Embedded) -> None:
    at.put(CAPTIONS, np.asarray(at.sources[CAPTIONS].rows) * np.float32(1.01))


def plant_repeats(at: Embedded) -> None:
    rows = np.array(at.sources[IMAGES].rows)
    rows[21] = rows[22]
    at.put(IMAGES, rows)


def plant_shift(at: Embedded) -> None:
    at.put(IMAGES, np.roll(at.sources[IMAGES].rows, 1, axis=0))


def plant_swap(at: Embedded) -> None:
    pictures, words = (np.asarray(at.sources[name].rows) for name in (IMAGES, CAPTIONS))
    at.put(IMAGES, words)
    at.put(CAPTIONS, pictures)


def plant_padding(at: Embedded) -> None:
    at.probe(CAPTIONS, beside=unit(np.random.default_rng(1), len(choose_rows(COUNT))))


@pytest.mark.parametrize(
    ("plant", "gate", "message"),
    [
        (plant_nan, "finite", "images: 1 of 40 vectors are NaN or infinite: i07"),
        (plant_length, "unit_length", r"captions: 40 of 40 vectors are not of unit length, the first 1.01: i00, i01"),
        (plant_repeats, "repeated_vectors", "40 different inputs have only 39 different vectors"),
        (plant_shift, "row_order", r"the vector of i00 stands \+1 rows from its id: rows are shifted"),
        (plant_swap, "towers_swapped", "the vector of i00 is among those of captions: the two were exchanged"),
        (plant_padding, "text_input", "captions: 8 of 8 inputs .* change beside a longer one: padding is read"),
    ],
)
def test_faults_of_vectors_are_caught(
    embedded: Embedded, plant: Callable[[Embedded], None], gate: str, message: str
) -> None:
    embedded.check()
    plant(embedded)
    with pytest.raises(DataError, match=message):
        embedded.check()
    warning = Gates(STRICT.model_copy(update={gate: "warn"}))
    try:
        embedded.check(warning)
    except DataError as other:  # NaN is of no length, and near no probe
        assert gate == "finite", other
    assert warning.found[0]["gate"] == gate


def test_a_collapsed_model_and_one_in_training_mode_are_caught(embedded: Embedded) -> None:
    rng = np.random.default_rng(2)
    embedded.probe(IMAGES, alone=unit(rng, len(choose_rows(COUNT))))
    with pytest.raises(DataError, match=r"8 of 8 inputs .* are not what is stored: was the model in training mode"):
        embedded.check()
    embedded.put(IMAGES, np.tile(embedded.sources[IMAGES].rows[:1], (COUNT, 1)))
    with pytest.raises(DataError, match="all vectors are the same, of 40 different inputs"):
        embedded.check()


class Tower:
    """A text tower that sums the hashes of what it reads; its faults can be switched on."""

    max_tokens, parameters = 12, 0

    def __init__(self, reads: int = 12, reads_padding: bool = False) -> None:
        self.reads, self.reads_padding = reads, reads_padding

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        words = [text.split()[: self.reads] for text in texts]
        longest = max(map(len, words))
        if self.reads_padding:
            words = [(own + ["<pad>"] * longest)[:longest] for own in words]
        rows = [[np.random.default_rng([ord(c) for c in word]).standard_normal(DIM) for word in own] for own in words]
        return torch.tensor(np.array([np.sum(row, axis=0) for row in rows]), dtype=torch.float32)


TEXTS = pl.DataFrame(
    {
        "id": [f"t{n}" for n in range(9)],
        "text": [" ".join(["the", "quick", "brown", "fox", "jumps"][: 1 + n % 5]) + f" {n}" for n in range(9)],
    }
)


@pytest.mark.parametrize("tower", [Tower(reads_padding=True), Tower(reads=3)])
def test_a_text_tower_that_reads_padding_or_cuts_too_early_is_caught(tower: Tower, tmp_path: Path) -> None:
    for encoder, sound in ((Tower(), True), (tower, False)):
        probe = probe_texts(encoder, choose_texts(TEXTS), CPU)
        probe.write(tmp_path / f"{CAPTIONS}.probe.npz")
        rows = np.concatenate([encoder.encode([text]).numpy() for text in TEXTS["text"]])
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        ids = TEXTS["id"].to_list()
        gates = Gates(STRICT.model_copy(update={"text_input": "warn", "repeated_vectors": "warn"}))
        check_vectors(gates, {CAPTIONS: Vectors(ids, ids, rows)}, tmp_path)
        assert any(found["gate"] == "text_input" for found in gates.found) is not sound


def test_a_text_longer_than_the_tower_reads_says_nothing_about_its_end() -> None:
    assert np.isnan(measure_last_word(Tower(), ["a " * 20]))
    assert measure_last_word(Tower(), ["one two three", "a " * 20]) > 0.01


def test_a_constant_scorer_and_a_rounded_one_are_caught_and_equal_items_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    items = unit(rng, 30)
    rows = np.tile(np.arange(10), (20, 1))

    def trouble(scores: np.ndarray, vectors: np.ndarray = items) -> str:
        ties = Ties()
        ties.add(scores.astype(np.float32), rows, vectors)
        return ties.trouble("t, image", STRICT.max_tied_share) or ""

    falling = np.tile(np.linspace(0.9, 0.1, 10), (20, 1))
    assert trouble(falling) == ""
    assert "for 20 of 20 queries all items have one score: a constant scorer" in trouble(np.full((20, 10), 0.5))
    rounded = np.round(falling * 4) / 4
    assert "different vectors have equal scores" in trouble(rounded)
    twins = items.copy()
    twins[:10] = items[np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])]
    assert trouble(np.repeat(falling[:, ::2], 2, axis=1), twins) == ""  # equal captions tie with reason


def test_a_score_that_is_nan_is_refused_in_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    with RunWriter(path, ["q"], ["a", "b"]) as run:
        run.add(0, np.array([[0, 1]]), np.array([[0.5, np.nan]], np.float32))
    with pytest.raises(DataError, match="a score is NaN"):
        list(read_run(path, ["q"], ["a", "b"]))


def test_a_run_at_chance_level_is_caught_and_a_weak_one_is_not() -> None:
    rng = np.random.default_rng(4)

    def trouble(true: float) -> str | None:
        hits = (rng.random((2000, 1)) < true).astype(float)
        interval = bootstrap_means(hits, np.arange(2000), resamples=500, seed=0)[0]
        return detect_chance_level({1: (interval, 0.2), 10: (Interval(None, None, "one cluster"), 0.5)}, "t, image")

    assert (trouble(0.2) or "").startswith("t, image: hit_at_1 lies between")
    assert trouble(0.26) is None
    assert trouble(0.1) is not None  # worse than chance is no better
    assert (
        detect_chance_level({10: (Interval(0.9, 1.0), 0.95)}, "t") is None
    )  # a pool so small that chance is nearly sure


def test_a_query_that_finds_itself_is_caught_by_id() -> None:
    ranked = np.array([[1, 2], [0, 2], [0, 1]])
    assert detect_own_found(np.array([0, 1, 2]), ranked, "t, image") is None
    assert detect_own_found(np.array([-1, -1, -1]), ranked, "t, image") is None
    found = detect_own_found(np.array([1, 1, 2]), ranked, "t, image")
    assert found is not None
    assert "1 of 3 queries found themselves" in found


def groups(**columns: list[object]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "image_id": ["a", "b", "c", "d"],
            "split": ["train", "train", "test", "test"],
            "in_pool": [False, False, True, True],
            "sha256": ["1", "2", "3", "4"],
        }
        | columns
    )


def test_pictures_that_were_trained_on_are_caught_by_id_and_by_their_bytes() -> None:
    assert detect_overlap(groups(), ["clip-scenes"]) is None
    same_bytes = groups(sha256=["1", "2", "2", "4"])
    assert "1 of 2 pictures of the pool taught clip-scenes, the first c (the bytes of b)" in str(
        detect_overlap(same_bytes, ["clip-scenes"])
    )
    assert detect_overlap(same_bytes, []) is None  # a model that was not trained here
    assert "2 of 4" in str(detect_overlap(groups(in_pool=[True] * 4), ["clip-scenes"]))


def test_a_pool_of_another_size_than_the_card_promises_is_caught() -> None:
    scenes = ScenesCard(adapter="scenes", train=2, val=1, test=2)
    assert scenes.promised_pool == 2
    assert scenes.model_copy(update={"pool": "all"}).promised_pool == 5
    coco = CocoCard(adapter="coco", parts=["val2017"])
    assert coco.promised_pool is None
    assert coco.model_copy(update={"pool_size": 5000}).promised_pool == 5000
    assert detect_wrong_size(groups(), 2) is None
    assert detect_wrong_size(groups(), None) is None
    assert "holds 2 pictures, the dataset's card promises 3" in str(detect_wrong_size(groups(), 3))


def test_a_gate_stops_or_warns_as_the_parameters_say(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it is so.*-S gates.own_pool=warn"):
        Gates(STRICT).check("own_pool", "it is so")
    gates = Gates(STRICT.model_copy(update={"own_pool": "warn"}))
    gates.check("own_pool", "it is so")
    gates.check("own_pool", None)
    assert "WARNING, gate own_pool: it is so" in caplog.text
    gates.write(tmp_path / "gates.json")
    later = Gates(STRICT)
    later.add(tmp_path / "gates.json")
    assert later.found == [{"gate": "own_pool", "trouble": "it is so"}]


def test_the_readme_tells_of_every_gate() -> None:
    text = Path("docs/trust.md").read_text(encoding="utf-8")
    table = text.split("| gate | is tripped by | seen in |")[1].split("\n\n")[0]
    told = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert sorted(told) == sorted(NAMES)


# ------------------------------------------------------------------- what was seen before


def copies(*rows: tuple[str, str, str, bool]) -> pl.DataFrame:
    schema = ["image_id", "other_id", "kind", "leak"]
    return pl.DataFrame(list(rows), schema=schema, orient="row", schema_overrides={"leak": pl.Boolean})


def pool_of(test: int, train: int = 100) -> pl.DataFrame:
    ids = [f"train-{n}" for n in range(train)] + [f"test-{n}" for n in range(test)]
    split = ["train"] * train + ["test"] * test
    return pl.DataFrame({"image_id": ids, "split": split, "in_pool": [own == "test" for own in split]})


def test_near_copies_of_training_pictures_are_counted_and_measured_apart(tmp_path: Path) -> None:
    pictures = pool_of(80)
    duplicates = copies(*((f"test-{n}", f"train-{n}", "near" if n else "exact", True) for n in range(30)))
    copied = find_near_copies(pictures, duplicates)
    assert copied == [f"test-{n}" for n in range(30)]
    values = [0.73 if n < 30 else 0.08 for n in range(80)]
    table = pl.DataFrame({"image_id": [f"test-{n}" for n in range(80)], "hit_at_1": values})
    (tmp_path / "caption_to_image").mkdir()
    table.write_parquet(tmp_path / "caption_to_image/image.parquet")
    apart = measure_apart(tmp_path, copied, "hit_at_1")
    found = detect_near_copies(pictures, copied, ["clip", "blip"], apart)
    assert found is not None
    assert found.startswith("30 of 80 pictures of the pool are copies or near copies of pictures that taught clip and ")
    assert "hit_at_1 of `image` is 0.730 on them and 0.080 on the others in caption_to_image" in found
    assert "`-S group.drop_duplicates=leaks`" in found
    assert detect_near_copies(pictures, copied, [], apart) is None  # nothing was trained here


def test_copies_that_move_no_number_or_are_gone_from_training_raise_no_alarm(tmp_path: Path) -> None:
    pictures, leak = pool_of(1000), copies(("test-5", "train-1", "near", True), ("test-7", "test-6", "near", False))
    assert find_near_copies(pictures, leak) == ["test-5"]
    assert detect_near_copies(pictures, ["test-5"], ["clip"], "") is None  # one in a thousand
    assert find_near_copies(pictures.filter(pl.col("image_id") != "train-1"), leak) == []  # was dropped
    assert measure_apart(tmp_path, ["test-5"], "hit_at_1") == ""  # no run of pixels


def test_a_model_taught_on_what_the_dataset_is_part_of_is_named() -> None:
    taught = {"blip-base": ["coco", "sbu"], "vit-b-32": ["laion-2b"]}
    found = detect_taught_on(["coco"], taught)
    assert found is not None
    assert found.startswith("blip-base was trained on coco, where this dataset's pictures come from")
    assert detect_taught_on(["flickr30k"], taught) is None
    assert detect_taught_on([], taught) is None


def training_log(folder: Path, figure: str, values: Sequence[float], first: int = 0) -> dict[str, Path]:
    path = folder / f"{figure}-{len(list(folder.iterdir()))}.csv"
    rows = [f"{epoch},{value:g}" for epoch, value in enumerate(values, start=first)]
    path.write_text("\n".join([f"epoch,{figure}", *rows]) + "\n")
    return {"some": path}


@pytest.mark.parametrize(
    ("figure", "values", "first", "told"),
    [
        # the scenes' CLIP after four epochs and after ten, their captioner after six
        ("val_mrr", [0.017, 0.261, 0.446, 0.564, 0.603], 0, "val_mrr went from 0.564 to 0.603 over the last 1 of 4"),
        ("val_mrr", [0.017, 0.278, 0.455, 0.546, 0.63, 0.69, 0.731, 0.753, 0.759, 0.764, 0.768], 0, None),
        (
            "val_loss",
            [0.622, 0.424, 0.241, 0.146, 0.096, 0.083],
            1,
            "val_loss went from 0.146 to 0.083 over",
        ),
        ("val_mrr", [0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 0, "over the last 2 of 8 epochs"),  # steadily
        ("val_mrr", [0.01, 0.5, 0.7, 0.78, 0.79, 0.81, 0.82, 0.825, 0.832], 0, None),  # two quarters: .03, then .012
        ("val_mrr", [0.01, 0.4, 0.6, 0.59], 0, None),  # the best is not the last
        ("val_loss", [0.5, 0.5, 0.5, 0.5], 1, None),
        ("val_mrr", [0.01, 0.3], 0, "over the last 1 of 1"),
        ("val_loss", [0.5], 1, None),  # one epoch, and nothing before it
        ("loss", [5, 4, 3, 2], 1, None),  # nothing was validated
    ],
)
def test_a_training_that_ended_while_validation_rose_is_told(
    tmp_path: Path, figure: str, values: list[float], first: int, told: str | None
) -> None:
    found = detect_still_learning(training_log(tmp_path, figure, values, first))
    assert (found is None) if told is None else (found is not None and told in found)


def test_of_models_that_were_not_trained_here_nothing_is_told(tmp_path: Path) -> None:
    assert detect_still_learning({"hub": tmp_path / "none.csv"}) is None


def test_a_pool_in_which_chance_is_nearly_sure_is_told() -> None:
    assert detect_easy_pool("t", 1000, {1: 0.001, 10: 0.01}) is None
    assert detect_easy_pool("t", 358, {1: 0.08, 10: 0.55}) is None  # the first cut still tells models apart
    small = detect_easy_pool("t", 19, {1: 0.05, 10: 0.53})
    assert small is not None
    assert "the 19 items are fewer than twice the cut k = 10" in small
    assert detect_easy_pool("t", 20, {1: 0.05, 10: 0.5}) is None
    common = detect_easy_pool("t", 1000, {1: 0.6, 10: 0.99})
    assert common is not None
    assert "a random ranking has hit@1 0.600" in common
