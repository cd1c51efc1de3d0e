"""`params.yaml` as types, and beside it the cards: every value is checked before anything slow runs.

Values have their home in `params.yaml`; bounds have theirs here. A stage reads the whole file, so
a mistake anywhere in it is found by whichever stage runs first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SkipValidation, model_validator

from twinlens.config.captioners import CaptionerCard
from twinlens.config.datasets import DatasetCard
from twinlens.config.models import ModelCard
from twinlens.config.numbers import (
    LARGEST,
    Batch,
    Count,
    CountOrZero,
    Flag,
    InnerShare,
    Positive,
    PositiveOrZero,
    Seed,
    Several,
    Share,
    Side,
    Signed,
    Threads,
)
from twinlens.config.vector_forms import VectorForm
from twinlens.core.buckets import is_bucket, refuse_bad_url
from twinlens.core.cores import choose_threads
from twinlens.core.errors import ParamsError, suggest_nearest


class Section(BaseModel):
    """One section of params.yaml: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FilterParams(Section):
    """Rules for keeping rows of a dataset's annotations."""

    require_caption: Flag  # drop pictures that no caption describes
    require_label: Flag  # drop pictures without a labelled object


class ResizeParams(Section):
    """The one copy of the pixels that every later stage reads."""

    shortest_side_px: Side | None  # larger pictures shrink to it, smaller keep their bytes; null: never
    min_side_px: Side  # smaller pictures are set aside
    max_megapixels: Annotated[float, Field(strict=True, gt=0, le=10_000)]  # larger pictures are set aside, undecoded
    jpeg_quality: Annotated[int, Field(strict=True, ge=1, le=100)]  # of pictures that had to be written anew
    images_per_shard: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]  # that are listed for it

    def at_most(self, shortest_side_px: int | None) -> Self:
        """Return a copy with a smaller limit, where a dataset's card gives one."""
        given = [px for px in (self.shortest_side_px, shortest_side_px) if px is not None]
        return self.model_copy(update={"shortest_side_px": min(given, default=None)})


class GroupParams(Section):
    """Definition of object sets, and of copies of a picture."""

    min_group_size: Several  # an object set needs this many pictures to be searched for
    near_duplicate_bits: Annotated[int, Field(strict=True, ge=0, le=64)] | None  # of 256; null: only exact ones count
    drop_duplicates: Literal["none", "leaks", "exact", "near"]  # near: exact ones too; leaks: the trained-on half


class RankParams(Section):
    """Settings of the runs."""

    depth: Count  # items kept per query
    image_weight: InnerShare  # share of the score that the pixels have beside the words
    rerank_depth: Count  # the best items of a run that a reranker scores anew
    seed: Seed  # of the draw of one caption a picture
    caption_draws: Count  # so often; measures are means over draws


class HybridParams(Section):
    """Words (BM25) and pixels together, in the task `caption_to_image`."""

    rrf_constant: Positive  # of reciprocal rank fusion
    rrf_depth: Count  # items of each list that take part in it
    image_weight: Share  # of the weighted sum, where it cannot be chosen on validation
    validation_pictures: CountOrZero  # at most; 0: the weight is not chosen
    seed: Seed  # of their draw


class CategoryCard(Section):
    """One protocol of category search: which pictures search, and how their weights are learned."""

    queries_per_class: Count
    exemplars_per_query: Count
    scaling: Literal["rows", "columns"]  # unit rows, or columns divided by their norms over the pool
    negatives_from: Literal["outside", "ranked"]  # pictures that are never ranked, or (a leak) those that are
    seed: Seed  # of the draw of exemplars, and of negatives out of the ranked pictures
    svm_c: Positive  # C of the exemplar SVM and, as 1 / (2 C), of the ridge regression
    lambda_w: Positive  # ridge of the combined loss
    lambda_q: PositiveOrZero  # its pull towards the text
    image_weight: InnerShare  # of the exemplar in the sum with the text
    rocchio: tuple[Signed, Signed, Signed]  # of the text, of the exemplars, of the negatives
    shrinkage: Annotated[float, Field(strict=True, gt=0, le=1)]  # of the covariance of the whitened exemplar


class CategoryParams(Section):
    """Category search: classes by name, by exemplar pictures, or both."""

    prompt: str = Field(pattern=r"\{label\}")
    negatives: CountOrZero  # drawn outside the ranked pictures; 0: what learns from negatives is left out
    seed: Seed  # of that draw
    standard: CategoryCard
    as_published: CategoryCard | None  # null: not measured


class IndexSetting(Section):
    """One approximate index, and how thoroughly it is searched."""

    index: Literal["ivf_flat", "ivf_sq", "ivf_pq", "ivf_rq", "ivf_hnsw_sq"]
    partitions: Count  # LanceDB takes fewer where there are too few items to train them
    nprobes: Count  # partitions that are searched
    ef: Count | None = None  # candidates of a graph's search
    refine: Count | None = None  # times k candidates whose true scores are computed


class ApproximateParams(Section):
    """Approximate search, measured against exact."""

    k: Count
    queries: Count  # asked of each setting, one by one
    settings: dict[str, IndexSetting]


class EvaluateParams(Section):
    """Measures, cuts and tests of the evaluation."""

    referee_queries: Count  # per run, measured again by each measure's second opinion
    resamples: Annotated[int, Field(strict=True, ge=100, le=1_000_000)]  # of the bootstrap of the fixed pool
    seed: Seed
    ks: list[Count] = Field(min_length=1)


class ReportParams(Section):
    """Extent of the report."""

    queries: Count  # best, typical and worst ones each, a task and retriever
    found: Count  # items of each
    thumbnail_px: Annotated[int, Field(strict=True, ge=32, le=512)]  # longer side


class IndexParams(Section):
    """Content of the search index."""

    thumbnail_px: Annotated[int, Field(strict=True, ge=32, le=1024)]  # longer side
    # The form of the vectors that are searched. The default is for manifests from before there was a choice.
    vectors: Annotated[str, AfterValidator(lambda name: VectorForm.read(name).name)] = "float32"
    vector_index: Literal["exact", "ivf", "ivf_rq", "hnsw"]  # exact: none
    # Smaller tables are searched exactly, whatever `vector_index` says.
    from_rows: Annotated[int, Field(strict=True, ge=256, le=LARGEST)]

    @model_validator(mode="before")
    @classmethod
    def _older_name(cls, given: Any) -> Any:
        """Read what was `precision` when it was one of float32, float16 and int8: in manifests, and old settings."""
        if isinstance(given, dict) and "precision" in given and "vectors" not in given:
            return {"vectors" if key == "precision" else key: value for key, value in given.items()}
        return given

    @model_validator(mode="after")
    def _bits_are_searched_exactly(self) -> Self:
        if self.vector_index != "exact" and self.form.by_bits:
            raise ValueError(
                f"`{self.vectors}` is searched exactly (vector_index: exact): ivf_rq has bits of its own, which find "
                "candidates for vectors in float16 or int8"
            )
        return self

    @property
    def form(self) -> VectorForm:
        """How the vectors are kept."""
        return VectorForm.read(self.vectors)

    def approximate(self, rows: int) -> bool:
        """Whether a table of so many rows has vector indexes."""
        return self.vector_index != "exact" and rows >= self.from_rows


class SearchParams(Section):
    """Defaults of searching the index. No stage depends on them."""

    fusion: Literal["rrf", "weighted"]
    text_weight: Share | None  # of BM25 in a weighted hybrid; None: as `rank` chose
    negatives: Count  # random pictures that exemplars are told apart from
    seed: Seed  # of their draw
    probes: Count  # partitions of the vector index that are searched
    ef: Count  # candidates of a search in HNSW


Severity = Literal["error", "warn"]


class GateParams(Section):
    """Action of each sanity gate: stop the stage, or warn loudly and go on."""

    misplaced_captions: Severity  # captions do not name what their pictures show
    label_spelling: Severity  # labels that differ in capitals or blanks only
    generic_text: Severity  # one text under a large share of the captions
    finite: Severity  # a vector is NaN or infinite
    unit_length: Severity
    repeated_vectors: Severity  # different inputs, one vector
    row_order: Severity  # vectors do not stand under their ids
    towers_swapped: Severity  # vectors of pictures and of words exchanged
    text_input: Severity  # padding is read, or the end of a text is not
    tied_scores: Severity
    chance_level: Severity
    no_better_than_random: Severity  # a model is not above itself before training, or its weights are as initialised
    conformity: Severity  # our vectors of drawn pictures and texts are not those of the library's own path
    enlarged: Severity  # pictures are stored smaller than a model reads them
    golden: Severity  # nor those that the card remembers of its checkpoint
    own_pool: Severity  # a query finds itself
    train_overlap: Severity
    near_copies: Severity  # of the pool's pictures, among those that were trained on
    taught_on: Severity  # the cards say that the model or captioner learnt on this dataset
    still_learning: Severity  # a training ended while its validation rose
    easy_pool: Severity  # so small, or with so much that is relevant, that chance is nearly sure
    pool_size: Severity  # not what the dataset's card promises
    published: Severity  # a measure is not what a source reports of the model under the same conditions
    max_repeated_share: Share
    max_tied_share: Share


def _refuse_odd_place(location: str) -> str:
    if not location.strip() or location.split("://", maxsplit=1)[0] in ("http", "https", "hf"):
        raise ValueError("wanted a folder, or a bucket such as s3://bucket/folder")
    if is_bucket(location):
        refuse_bad_url(location)
    return location


PartsPlace = Annotated[str, AfterValidator(_refuse_odd_place)]


class ComputeParams(Section):
    """Device and speed settings: never part of a result's identity, so no stage depends on them."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$")]  # auto, cpu, cuda, cuda:1, mps
    # Null: what suits the machine, chosen here, so that whoever reads the settings has a number.
    decode_threads: Annotated[Threads, BeforeValidator(lambda given: choose_threads() if given is None else given)]
    engine: Literal["local", "ray"] = "local"  # who works on the parts of a stage
    address: str | None = None  # of the Ray cluster; null: one on this machine
    parts: PartsPlace | None = (
        None  # folder or bucket of finished parts, which every worker sees; null: `paths.scratch()`
    )
    pixels: Literal["cpu", "device"] = "cpu"  # where `embed` decodes and resizes; in the key of what it keeps
    image_batch: Batch | None  # null: what suits the device
    text_batch: Batch | None


class Settings(Section):
    """The content of params.yaml."""

    dataset: str
    model: str
    captioner: str
    filter: FilterParams
    resize: ResizeParams
    group: GroupParams
    rank: RankParams
    hybrid: HybridParams
    category_search: CategoryParams
    gates: GateParams
    report: ReportParams
    index: IndexParams
    search: SearchParams
    compute: ComputeParams
    approximate: ApproximateParams
    evaluate: EvaluateParams

    @model_validator(mode="after")
    def _the_runs_are_deep_enough(self) -> Self:
        if self.evaluate.ks != sorted(set(self.evaluate.ks)):
            raise ValueError(f"evaluate.ks: {self.evaluate.ks} must rise and hold no value twice")
        if self.evaluate.ks[-1] > self.rank.depth:
            raise ValueError(
                f"evaluate.ks: {self.evaluate.ks[-1]} is more than rank.depth, {self.rank.depth}: "
                "the runs are not that deep; raise rank.depth"
            )
        return self


class Params(Settings):
    """The experiment's parameters: the settings, and the cards by name, each checked when it is first asked for."""

    datasets: SkipValidation[Mapping[str, DatasetCard]]
    models: SkipValidation[Mapping[str, ModelCard]]
    captioners: SkipValidation[Mapping[str, CaptionerCard]]

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for key, cards in (("dataset", self.datasets), ("model", self.models), ("captioner", self.captioners)):
            name = getattr(self, key)
            if name not in cards:
                raise ValueError(f"{key}: '{name}' has no card in cards/{key}s ({suggest_nearest(name, cards)})")
        if self.model_card.train is not None or self.captioner_card.train is not None:
            self.refuse_selection("the model or captioner would be trained on it")
        return self

    def refuse_selection(self, purpose: str) -> None:
        """Refuse to tune anything on the active dataset where its licence forbids it; every selection asks here.

        Args:
            purpose: what would be chosen, in words.

        Raises:
            ParamsError: the dataset's card says `selection: never`.
        """
        if self.dataset_card.selection == "never":
            licence = self.dataset_card.about.licence
            raise ParamsError(
                f"dataset '{self.dataset}' says `selection: never`: its licence ({licence}) allows "
                f"no parameter to be tuned on it, and {purpose}. Choose on another dataset, then measure on this one"
            )

    @property
    def dataset_card(self) -> DatasetCard:
        """The active dataset's card."""
        return self.datasets[self.dataset]

    @property
    def model_card(self) -> ModelCard:
        """The active model's card."""
        return self.models[self.model]

    @property
    def captioner_card(self) -> CaptionerCard:
        """The active captioner's card."""
        return self.captioners[self.captioner]
