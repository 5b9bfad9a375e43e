"""Configs of all kinds of encoders; `model.kind` in YAML chooses which. Reading them loads no torch."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from ray_ggsm.config import Config
from ray_ggsm.model.config import EventEncoderConfig, FieldsConfig, ModelConfig, Precision


class StreamConfig(Config):
    """What kinds share that read all events of a row as one stream (`ray_ggsm.encoders.stream`)."""

    trains: ClassVar[bool] = True
    """Whether there is anything to train."""
    nests: ClassVar[bool] = False
    """Whether its loss can be taken over prefixes, too (`training.nested`)."""
    changed: ClassVar[str | None] = None
    """What its training once did in another way with the same config, so that old results do not pass for new ones."""
    event_encoder: EventEncoderConfig
    """The frozen text encoder of single events."""
    fields: FieldsConfig = FieldsConfig()
    """Fields of events (`data.modalities.*.fields`)."""
    periods_days: tuple[Annotated[float, Field(gt=0)], ...] = (1.0, 7.0)
    """Periods whose phases an event's age is told in: a day, a week."""
    newest: int = Field(256, ge=1)
    """Events of a row that are read: the newest of all modalities."""
    width: int = Field(128, ge=2)
    """Width of an event in the stream."""


class CpcConfig(StreamConfig):
    """Contrastive predictive coding (`ray_ggsm.encoders.cpc`)."""

    kind: Literal["cpc"]
    state: int = Field(256, ge=1)
    """Width of the GRU's state, which is the vector."""
    ahead: int = Field(6, ge=1)
    """How many events ahead the state predicts: the next one, the one after it, ..."""
    negatives: int = Field(40, ge=1)
    """Events of other users that a prediction is told from."""


class ColesConfig(StreamConfig):
    """CoLES (`ray_ggsm.encoders.coles`)."""

    nests: ClassVar[bool] = True
    changed: ClassVar[str | None] = "slices have any length up to the row's"
    kind: Literal["coles"]
    state: int = Field(256, ge=1)
    """Width of the GRU's state, which is the vector."""
    slices: int = Field(5, ge=2)
    """Slices of a row in a step."""
    least: int = Field(5, ge=1)
    """Events of the shortest slice; shorter rows are taken whole."""
    most: int = Field(100, ge=1)
    """Events of the longest slice."""
    margin: float = Field(0.5, gt=0)
    """Distance from which on slices of two users are far enough apart."""
    hard_negatives: int = Field(5, ge=1)
    """Slices of other users, the nearest ones, that a slice is pushed away from."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.most < self.least:
            raise ValueError(f"most: {self.most} events are fewer than least: {self.least}")
        return self


class TransformerConfig(StreamConfig):
    """What kinds share that read the stream with a transformer, and clusters of event vectors."""

    layers: int = Field(2, ge=1)
    """Layers of the transformer."""
    heads: int = Field(4, ge=1)
    """Heads of each layer; `width` must be a multiple."""
    clustered_events: int = Field(50_000, ge=1)
    """Events of training rows that clusters are found on, drawn at random; vectors of no more are made at a time."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide width: {self.width}")
        return self


class MsdpConfig(TransformerConfig):
    """MSDP (`ray_ggsm.encoders.msdp`)."""

    changed: ClassVar[str | None] = "heads begin with base rates, and all windows of a row have the same masked events"
    kind: Literal["msdp"]
    behaviours: int = Field(64, ge=1)
    """Clusters of future events' vectors."""
    windows_per_row: int = Field(3, ge=1)
    """Windows of a row in a step, of 1 to `future_days` days."""
    masked_share: float = Field(0.2, ge=0, lt=1)
    """Share of the events that are masked on one side."""
    alike_weight: float = Field(0.5, ge=0)
    """lambda: weight of the part that wants both sides alike."""
    windows_days: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Windows whose states are published, one after the other, none longer than `future_days`; null: that one."""


class One4allConfig(TransformerConfig):
    """One4all, ShopperBERT (`ray_ggsm.encoders.one4all`)."""

    changed: ClassVar[str | None] = "heads begin with base rates, and some events stay visible"
    kind: Literal["one4all"]
    codebooks: tuple[Annotated[int, Field(ge=1)], ...] = Field((16, 64, 256), min_length=1)
    """Sizes of the codebooks of event vectors."""
    most_years: int = Field(20, ge=1)
    """Years that are told apart, up to the last one of the training rows; earlier ones count as the first."""
    masked_share: float = Field(0.15, gt=0, lt=1)
    """Share of the events that are asked of."""
    visible_share: float = Field(0.2, ge=0, lt=1)
    """Share of these that stay visible; the others are hidden."""


class FoundConfig(StreamConfig):
    """FOUND (`ray_ggsm.encoders.found`)."""

    nests: ClassVar[bool] = True
    changed: ClassVar[str | None] = "sentences are read to their end; windows without events say nothing"
    kind: Literal["found"]
    state: int = Field(128, ge=1)
    """Width of each modality's state, which is that of the vector."""
    first_stage: float = Field(1 / 3, ge=0, le=1)
    """Share of the steps in which windows of one history are aligned; then vectors with sentences about the future."""
    window_days: float = Field(30.0, gt=0)
    """Shortest window of a history."""
    divergence_weight: float = Field(0.1, ge=0)
    """Weight of the part that wants the windows' vectors to be distributed alike."""
    temperature: float = Field(0.07, gt=0)
    """tau of both contrasts."""
    told_events: int = Field(16, ge=1)
    """Future events, drawn anew at each step, that a sentence tells."""
    told_tokens: int = Field(256, ge=4)
    """Longest sentence, in word pieces of the event encoder; longer ones are cut, and counted in the log."""


class SupervisedConfig(StreamConfig):
    """A network that is trained on labels (`ray_ggsm.encoders.supervised`)."""

    kind: Literal["supervised"]
    labels: tuple[str, ...] | None = Field(None, min_length=1)
    """Labels of `data.labels` that it is trained on; null: all of them."""
    state: int = Field(256, ge=1)
    """Width of the GRU's state."""
    hidden: int = Field(256, ge=1)
    """Width of the features' network."""
    vector: int = Field(128, ge=2)
    """Width of the vector."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout on the features, and before the vector."""


class FeaturesConfig(Config):
    """The hand-crafted features themselves (`ray_ggsm.encoders.features`)."""

    trains: ClassVar[bool] = False
    nests: ClassVar[bool] = False
    kind: Literal["features"]
    event_encoder: ClassVar[None] = None
    """It reads no event."""


class TextConfig(Config):
    """A text embedding model on rows that are told as text (`ray_ggsm.encoders.text`)."""

    trains: ClassVar[bool] = False
    nests: ClassVar[bool] = False
    kind: Literal["text"]
    event_encoder: ClassVar[None] = None
    """It reads no event vectors."""
    name: str
    """Directory, hub name, or package:NAME/PATH of a model that sentence-transformers loads."""
    revision: str | None = None
    """Hub revision (commit) to pin; null: the hub's default branch."""
    prompt: str = ""
    """What stands before each text, as the model was trained with."""
    max_tokens: int | None = Field(None, ge=4)
    """Longest text, in tokens; longer ones are cut. null: the model's own."""
    newest: int = Field(64, ge=1)
    """Events of a row that are told: the newest of all modalities."""
    dtype: Precision = "bfloat16"
    """Type of weights and matrix products."""


def kind(values: Any) -> str | None:
    """The kind of a config, or of its values before validation; those without `kind` are the language model's."""
    found: str | None = values.get("kind", "llm") if isinstance(values, dict) else getattr(values, "kind", None)
    return found


EncoderConfig = Annotated[
    Annotated[ModelConfig, Tag("llm")]
    | Annotated[CpcConfig, Tag("cpc")]
    | Annotated[ColesConfig, Tag("coles")]
    | Annotated[MsdpConfig, Tag("msdp")]
    | Annotated[One4allConfig, Tag("one4all")]
    | Annotated[FoundConfig, Tag("found")]
    | Annotated[SupervisedConfig, Tag("supervised")]
    | Annotated[FeaturesConfig, Tag("features")]
    | Annotated[TextConfig, Tag("text")],
    Field(discriminator=Discriminator(kind)),
]
"""The config of any kind."""
