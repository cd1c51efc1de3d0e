"""Cards of models: which towers they have, where their weights come from, and how they are trained.

A card is data. It names where something comes from (with a pinned revision) and what it needs; the
code that loads it is chosen by the card's family. Everything on a card but `about` decides a result;
where and how fast it runs is in `params.compute`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from twinlens.config.architectures import refuse_impossible_open_clip, refuse_missing
from twinlens.config.base import Card, Origin, Weights
from twinlens.config.endpoints import Address, KeyVariable, RequestSettings
from twinlens.config.environments import Calls, Environment, ProcessLimits
from twinlens.config.numbers import Count, Flag, PositiveOrZero
from twinlens.config.sentence_models import MultiVectorTower, SentenceTransformersTower
from twinlens.config.training import HeadsRecipe, ModelRecipe, TowerRecipe

# ---------------------------------------------------------------- towers


class OpenClipTower(Weights):
    """An open_clip model, both towers: `open_clip` is the architecture, `pretrained` the tag."""

    family: ClassVar[str] = "open_clip"
    open_clip: str
    pretrained: str | None = None
    architecture: dict[str, Any] | None = None  # an architecture of your own: embed_dim, vision_cfg, text_cfg

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.open_clip == "custom") != (self.architecture is not None):
            raise ValueError("`architecture` goes with `open_clip: custom`, and only with it")
        if self.open_clip == "custom" and self.pretrained:
            raise ValueError("a custom architecture has no `pretrained` tag; give `checkpoint` or `train`")
        refuse_impossible_open_clip(self.architecture)
        return self


class TimmTower(Weights):
    """The pooled features of a timm image model (no classifier), in eval mode, with its own transform."""

    family: ClassVar[str] = "timm"
    timm: str  # architecture.tag as timm writes it
    kwargs: dict[str, Any] = {}  # for timm.create_model
    preprocess: dict[str, Any] = {}  # overrides of the transform that timm records: mean, std, crop_pct, ...


class TransformersTower(Weights):
    """A transformers model: both towers (CLIP, SigLIP, ...) or a text encoder with a pooling."""

    family: ClassVar[str] = "transformers"
    transformers: str  # hub repository
    pooling: Literal["mean", "cls"] | None = None  # for text-only models
    prompt: str = ""
    trust_remote_code: Flag = False
    code_revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")

    @model_validator(mode="after")
    def _remote_code_is_pinned(self) -> Self:
        if self.trust_remote_code and not (self.revision and self.code_revision) and not self.checkpoint:
            raise ValueError("trust_remote_code runs a stranger's code: pin `revision` and `code_revision`")
        return self


class JinaClipTower(Weights):
    """jina-clip-v2, both towers: its published weights, read into towers of timm and transformers."""

    family: ClassVar[str] = "jina_clip"
    jina_clip: str  # hub repository
    dimensions: Count | None = None  # the first of each vector, which stand alone (matryoshka); all of them without
    prompt: str = ""  # put before every text; as published, none


class OwnCodeTower(TransformersTower):
    """A transformers model that runs in a process of its own: with `trust_remote_code`, or another `environment`."""

    family: ClassVar[str] = "own_code"
    key: ClassVar[str] = "transformers"  # that names it on a card
    environment: Environment | None = None  # that of TwinLens if absent
    calls: Calls = Calls()
    limits: ProcessLimits = Field(default=ProcessLimits(), exclude=True)  # decide no result

    @property
    def own_code(self) -> str:
        """The hub repository."""
        return self.transformers


class TorchvisionTower(Weights):
    """Faster R-CNN of torchvision: features of the regions in which it sees objects, pooled over a picture."""

    family: ClassVar[str] = "torchvision"
    torchvision: Literal["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"]
    weights: str | None = None  # as torchvision names them: COCO_V1
    regions: Count = 36  # the best of a picture
    pooling: Literal["mean", "max"] = "mean"
    # The longer side; the rest of the square is grey.
    size_px: Annotated[int, Field(strict=True, ge=64, le=8192, multiple_of=32)] = 800

    @model_validator(mode="after")
    def _some_source(self) -> Self:
        if self.weights is None and self.checkpoint is None:
            raise ValueError("name a source: `weights` as torchvision names them (COCO_V1), or a `checkpoint`")
        if self.revision is not None:
            raise ValueError("torchvision's weights have no `revision`: part of their digest is in their file's name")
        return self


class WordVectorsTower(Card):
    """Vectors of single words, from a file of fastText (.vec) or GloVe (.txt), pooled over a text."""

    family: ClassVar[str] = "word_vectors"
    word_vectors: str  # the file, compressed by gzip or not; ~ and $VARIABLES are expanded
    pooling: Literal["mean", "sum", "none"] = "mean"  # none: words stay apart, for a trained head to read
    lowercase: Flag = True  # texts, before words are looked up; the file's words stay as they are
    max_words: Count = 64  # of a text; words without a vector do not count
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    trained_on: list[Origin] = Field(default=[], exclude=True)  # datasets, as far as is known; decides no result


class VectorsTower(Card):
    """Vectors that were made elsewhere, in files (`models/vector_files.py`): rows are taken by id or by text."""

    family: ClassVar[str] = "vectors"
    vectors: str  # .npy, .npz or .parquet, or a folder that clip-retrieval wrote; ~ and $VARIABLES are expanded
    ids: str | None = None  # what the rows of a .npy are of: a text file with a line a row, .npy or .parquet
    text_vectors: str | None = None  # of a joint pair: the texts' file, where `vectors` is that of the pictures
    text_ids: str | None = None
    normalise: Flag = False  # whether vectors of other lengths are brought to unit length, rather than refused
    unknown_ids: Literal["refuse", "ignore"] = "refuse"  # ids that the dataset does not have
    trained_on: list[Origin] = Field(default=[], exclude=True)  # datasets, as far as is known; decides no result


class EndpointTower(Card):
    """A service that embeds: texts, and pictures where its interface takes them."""

    family: ClassVar[str] = "endpoint"
    endpoint: Address  # with or without a slash or a version at its end
    api: Literal["openai", "cohere", "voyage", "jina", "vllm"] = "openai"  # how it is asked
    model: str
    key: KeyVariable | None = None  # the environment variable that holds the key
    dimensions: Count | None = None  # where the model offers several
    input_type: str | None = None  # of texts, where the interface knows such: search_query, query, ...
    prompt: str = ""  # put before every text
    price: PositiveOrZero | None = None  # of a million tokens
    requests: RequestSettings = RequestSettings()
    trained_on: list[Origin] = Field(default=[], exclude=True)  # datasets, as far as is known; decides no result

    @property
    def reads_pictures(self) -> bool:
        """Whether its interface takes pictures."""
        return self.api in ("cohere", "jina", "vllm") or (self.api == "voyage" and "multimodal" in self.model)


_FAMILIES = (
    *("open_clip", "timm", "torchvision", "sentence_transformers", "transformers", "jina_clip", "word_vectors"),
    *("vectors", "endpoint"),
)
_OWN_CODE = ("trust_remote_code", "environment", "calls", "limits")  # of a transformers model, keys that only such have


def _family(value: Any) -> str | None:
    """The family of a tower is the key that names it."""
    if isinstance(value, Card):
        return getattr(value, "family", None)
    found = [family for family in _FAMILIES if isinstance(value, dict) and family in value]
    if found == ["transformers"] and any(value.get(key) not in (None, False) for key in _OWN_CODE):
        return OwnCodeTower.family
    if found == ["sentence_transformers"] and "token_vectors" in value:
        return MultiVectorTower.family
    return found[0] if len(found) == 1 else None


_BY_FAMILY = Discriminator(
    _family,
    custom_error_type="tower_family",
    custom_error_message="a tower is named by one key: `open_clip`, `timm` or `torchvision` (pictures only), "
    "`word_vectors` (words only), `sentence_transformers`, `transformers`, `jina_clip`, `vectors` (files of your own) "
    "or `endpoint` (a service)",
)
_OpenClip = Annotated[OpenClipTower, Tag("open_clip")]
_Timm = Annotated[TimmTower, Tag("timm")]
_SentenceTransformers = Annotated[SentenceTransformersTower, Tag("sentence_transformers")]
_MultiVector = Annotated[MultiVectorTower, Tag("multi_vector")]
_JinaClip = Annotated[JinaClipTower, Tag("jina_clip")]
_Torchvision = Annotated[TorchvisionTower, Tag("torchvision")]
_Transformers = Annotated[TransformersTower, Tag("transformers")]
_OwnCode = Annotated[OwnCodeTower, Tag("own_code")]
_WordVectors = Annotated[WordVectorsTower, Tag("word_vectors")]
_Vectors = Annotated[VectorsTower, Tag("vectors")]
_Endpoint = Annotated[EndpointTower, Tag("endpoint")]

_Either = _Transformers | _OwnCode | _JinaClip | _Vectors | _Endpoint  # of pictures, of words or of both
JointTower = Annotated[_OpenClip | _SentenceTransformers | _MultiVector | _Either, _BY_FAMILY]
ImageTower = Annotated[_OpenClip | _Timm | _Torchvision | _SentenceTransformers | _MultiVector | _Either, _BY_FAMILY]
TextTower = Annotated[_OpenClip | _SentenceTransformers | _MultiVector | _WordVectors | _Either, _BY_FAMILY]
Tower = (
    OpenClipTower
    | TimmTower
    | TorchvisionTower
    | SentenceTransformersTower
    | MultiVectorTower
    | TransformersTower
    | JinaClipTower
    | OwnCodeTower
    | WordVectorsTower
    | VectorsTower
    | EndpointTower
)


class CrossEncoderCard(Weights):
    """A sentence-transformers cross-encoder that reads pictures: it scores the best of some runs anew."""

    cross_encoder: str  # hub repository
    prompt: str = ""  # its instruction
    retrievers: list[str] = Field(default=["image"], min_length=1)  # whose best `rank.rerank_depth` it takes


class ModelCard(Card):
    """One way of embedding: a joint pair of towers, or an image tower, a text tower, or one of each.

    Only a joint pair, or two towers with heads trained on them, puts pictures and words into one
    space and can rank pictures by a caption's words; other towers still compare like with like.
    """

    joint: JointTower | None = None
    image: ImageTower | None = None
    text: TextTower | None = None
    train: ModelRecipe | None = None
    reranker: CrossEncoderCard | None = None  # of pictures that texts have found
    # Of so many first dimensions each vector stands alone; it decides no vector, only what `compress` tries.
    matryoshka: list[Count] = Field(default=[], exclude=True)

    @model_validator(mode="after")
    def _some_tower(self) -> Self:
        if self.joint is not None and (self.image is not None or self.text is not None):
            raise ValueError("`joint` holds both towers: leave out `image` and `text`")
        if self.joint is None and self.image is None and self.text is None:
            raise ValueError("name a tower: `joint`, or `image`, `text` or both")
        if isinstance(self.joint, TransformersTower) and self.joint.pooling:
            raise ValueError("`pooling` is for a text tower; a joint transformers model pools by itself")
        if self.from_nothing and self.train is None:
            raise ValueError("a custom architecture needs `train` or a `checkpoint`: it has no weights")
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        if isinstance(self.train, HeadsRecipe) and (self.image is None or self.text is None):
            raise ValueError("`train.heads` stand on two towers: name `image` and `text`")
        if isinstance(self.train, HeadsRecipe) and any(
            isinstance(one, MultiVectorTower) for one in self.towers().values()
        ):
            raise ValueError("`train.heads` stand on one vector for an input: leave out `token_vectors`")
        if isinstance(self.train, TowerRecipe):
            if self.joint is None:
                raise ValueError("`train` without `heads` trains the towers of a joint model: name `joint`")
            if isinstance(self.joint, OwnCodeTower):
                raise ValueError("a model with code of its own, or an `environment`, cannot be trained here")
            if isinstance(self.joint, JinaClipTower):
                raise ValueError(
                    "a `jina_clip` model cannot be trained here: name it as `image` and `text`, with `train.heads`"
                )
            if isinstance(self.joint, SentenceTransformersTower):
                raise ValueError("a sentence-transformers model cannot be trained here; heads on its towers can")
            if isinstance(self.joint, OpenClipTower):
                sizes = ("embed_dim", "vision_cfg.image_size", "text_cfg.context_length")
                refuse_missing(self.joint.architecture, *sizes)
        return self

    @model_validator(mode="after")
    def _files_go_with_their_side(self) -> Self:
        for role, tower in self.towers().items():
            if isinstance(tower, VectorsTower) and role != "joint" and (tower.text_vectors or tower.text_ids):
                raise ValueError(f"`text_vectors` is for a joint pair: under `{role}:` name one file, as `vectors`")
            if isinstance(tower, EndpointTower) and role != "text" and not tower.reads_pictures:
                raise ValueError(f"`{role}:` embeds pictures, and this interface takes texts only: name it as `text:`")
        if isinstance(self.joint, VectorsTower | EndpointTower) and isinstance(self.train, TowerRecipe):
            raise ValueError("what is not computed here cannot be trained; `train.heads` stand on `image` and `text`")
        return self

    @model_validator(mode="after")
    def _words_go_with_an_lstm(self) -> Self:
        words = isinstance(self.text, WordVectorsTower) and self.text.pooling == "none"
        reads_words = isinstance(self.train, HeadsRecipe) and self.train.heads.text == "lstm"
        if words != reads_words:
            raise ValueError(
                "`pooling: none` leaves a text's words apart, which `train.heads.text: lstm` reads, and only that: "
                "write `pooling: mean` or `sum`, or train such a head"
            )
        return self

    @property
    def from_nothing(self) -> bool:
        """Whether training begins with random weights, so that there are none to fetch."""
        joint = self.joint
        return isinstance(joint, OpenClipTower) and joint.open_clip == "custom" and joint.checkpoint is None

    @property
    def shares_a_space(self) -> bool:
        """Whether pictures and words can be compared with one another."""
        return self.joint is not None or self.train is not None

    @property
    def trained_on(self) -> list[str]:
        """The datasets that its towers were trained on before, as far as the card knows."""
        return sorted({name for tower in self.towers().values() for name in tower.trained_on})

    def towers(self) -> dict[str, Tower]:
        """The towers by role: `joint`, or `image`, `text` or both."""
        named = {"joint": self.joint, "image": self.image, "text": self.text}
        return {role: tower for role, tower in named.items() if tower is not None}
