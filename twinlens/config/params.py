"""`params.yaml` as types, and beside it the cards: every value is checked before anything slow runs.

Values have their home in `params.yaml`; bounds have theirs here. A stage reads the whole file, so
a mistake anywhere in it is found by whichever stage runs first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, SkipValidation, model_validator

from twinlens.config.captioners import CaptionerCard
from twinlens.config.datasets import DatasetCard
from twinlens.config.models import ModelCard
from twinlens.core.errors import ParamsError, suggest_nearest


class Section(BaseModel):
    """One section of params.yaml: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FilterParams(Section):
    """Rules for keeping rows of a dataset's annotations."""

    require_caption: bool  # drop pictures that no caption describes
    require_label: bool  # drop pictures without a labelled object


class ResizeParams(Section):
    """The one copy of the pixels that every later stage reads."""

    shortest_side_px: PositiveInt | None  # larger pictures shrink to it, smaller keep their bytes; null: never
    min_side_px: PositiveInt  # smaller pictures are set aside
    max_megapixels: Annotated[float, Field(gt=0)]  # larger pictures are set aside, undecoded
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]  # of pictures that had to be written anew
    images_per_shard: PositiveInt

    def at_most(self, shortest_side_px: int | None) -> Self:
        """Return a copy with a smaller limit, where a dataset's card gives one."""
        given = [px for px in (self.shortest_side_px, shortest_side_px) if px is not None]
        return self.model_copy(update={"shortest_side_px": min(given, default=None)})


class GroupParams(Section):
    """Definition of object sets, and of copies of a picture."""

    min_group_size: Annotated[int, Field(ge=2)]  # an object set needs this many pictures to be searched for
    near_duplicate_bits: Annotated[int, Field(ge=0, le=64)] | None  # of 256; null: only exact ones are looked for
    drop_duplicates: Literal["none", "leaks", "exact", "near"]  # near: exact ones too; leaks: the trained-on half


class RankParams(Section):
    """Settings of the runs."""

    depth: PositiveInt  # items kept per query
    image_weight: Annotated[float, Field(gt=0, lt=1)]  # share of the score that the pixels have beside the words
    rerank_depth: PositiveInt  # the best items of a run that a reranker scores anew
    seed: int  # of the draw of one caption a picture


class HybridParams(Section):
    """Words (BM25) and pixels together, in the task `caption_to_image`."""

    rrf_constant: Annotated[float, Field(gt=0)]  # of reciprocal rank fusion
    rrf_depth: PositiveInt  # items of each list that take part in it
    image_weight: Annotated[float, Field(ge=0, le=1)]  # of the weighted sum, where it cannot be chosen on validation
    validation_pictures: NonNegativeInt  # at most; 0: the weight is not chosen
    seed: int  # of their draw


class CategoryCard(Section):
    """One protocol of category search: which pictures search, and how their weights are learned."""

    queries_per_class: PositiveInt
    exemplars_per_query: PositiveInt
    scaling: Literal["rows", "columns"]  # unit rows, or columns divided by their norms over the pool
    negatives_from: Literal["outside", "ranked"]  # pictures that are never ranked, or (a leak) those that are
    seed: int  # of the draw of exemplars, and of negatives out of the ranked pictures
    svm_c: Annotated[float, Field(gt=0)]  # C of the exemplar SVM and, as 1 / (2 C), of the ridge regression
    lambda_w: Annotated[float, Field(gt=0)]  # ridge of the combined loss
    lambda_q: Annotated[float, Field(ge=0)]  # its pull towards the text
    image_weight: Annotated[float, Field(gt=0, lt=1)]  # of the exemplar in the sum with the text
    rocchio: tuple[float, float, float]  # of the text, of the exemplars, of the negatives
    shrinkage: Annotated[float, Field(gt=0, le=1)]  # of the covariance of the whitened exemplar


class CategoryParams(Section):
    """Category search: classes by name, by exemplar pictures, or both."""

    prompt: str = Field(pattern=r"\{label\}")
    negatives: NonNegativeInt  # drawn outside the ranked pictures; 0: what learns from negatives is left out
    seed: int  # of that draw
    standard: CategoryCard
    as_published: CategoryCard | None  # null: not measured


class IndexSetting(Section):
    """One approximate index, and how thoroughly it is searched."""

    index: Literal["ivf_flat", "ivf_sq", "ivf_pq", "ivf_hnsw_sq"]
    partitions: PositiveInt  # LanceDB takes fewer where there are too few items to train them
    nprobes: PositiveInt  # partitions that are searched
    ef: PositiveInt | None = None  # candidates of a graph's search
    refine: PositiveInt | None = None  # times k candidates whose true scores are computed


class ApproximateParams(Section):
    """Approximate search, measured against exact."""

    k: PositiveInt
    queries: PositiveInt  # asked of each setting, one by one
    settings: dict[str, IndexSetting]


class EvaluateParams(Section):
    """Measures, cuts and tests of the evaluation."""

    referee_queries: PositiveInt  # per run, measured again by each measure's second opinion
    resamples: Annotated[int, Field(ge=100)]  # of the bootstrap behind the intervals of the fixed pool
    seed: int
    ks: list[PositiveInt] = Field(min_length=1)


class ReportParams(Section):
    """Extent of the report."""

    queries: PositiveInt  # best, typical and worst ones each, a task and retriever
    found: PositiveInt  # items of each
    thumbnail_px: Annotated[int, Field(ge=32, le=512)]  # longer side


class IndexParams(Section):
    """Content of the search index."""

    thumbnail_px: Annotated[int, Field(ge=32, le=1024)]  # longer side
    vector_index: Literal["exact", "ivf", "hnsw"]  # exact: none
    from_rows: Annotated[int, Field(ge=256)]  # smaller tables are searched exactly, whatever `vector_index` says

    def approximate(self, rows: int) -> bool:
        """Whether a table of so many rows has vector indexes."""
        return self.vector_index != "exact" and rows >= self.from_rows


class SearchParams(Section):
    """Defaults of searching the index. No stage depends on them."""

    fusion: Literal["rrf", "weighted"]
    text_weight: Annotated[float, Field(ge=0, le=1)] | None  # of BM25 in a weighted hybrid; None: as `rank` chose
    negatives: PositiveInt  # random pictures that exemplars are told apart from
    seed: int  # of their draw
    probes: PositiveInt  # partitions of the vector index that are searched
    ef: PositiveInt  # candidates of a search in HNSW


Severity = Literal["error", "warn"]


class GateParams(Section):
    """Action of each sanity gate: stop the stage, or warn loudly and go on."""

    finite: Severity  # a vector is NaN or infinite
    unit_length: Severity
    repeated_vectors: Severity  # different inputs, one vector
    row_order: Severity  # vectors do not stand under their ids
    towers_swapped: Severity  # vectors of pictures and of words exchanged
    text_input: Severity  # padding is read, or the end of a text is not
    tied_scores: Severity
    chance_level: Severity
    own_pool: Severity  # a query finds itself
    train_overlap: Severity
    pool_size: Severity  # not what the dataset's card promises
    max_repeated_share: Annotated[float, Field(ge=0, le=1)]
    max_tied_share: Annotated[float, Field(ge=0, le=1)]


class ComputeParams(Section):
    """Device and speed settings: never part of a result's identity, so no stage depends on them."""

    device: str  # auto, cpu, cuda, cuda:1, mps
    decode_threads: PositiveInt
    image_batch: PositiveInt | None  # null: what suits the device
    text_batch: PositiveInt | None


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
