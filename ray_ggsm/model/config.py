"""Settings of the encoder's parts. Reading them loads no torch."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ray_ggsm.config import Config, Runtime

if TYPE_CHECKING:
    import torch

Backend = Literal["sdpa", "flex", "eager"]
"""Implementations of attention (`ray_ggsm.model.attention`)."""
Precision = Literal["bfloat16", "float32"]
PROMPT = "prompt:"
"""What an instruction begins with that names a soft prompt (`ray_ggsm.model.soft_prompt`)."""


class PretrainedConfig(Config):
    """A pretrained model, and where its weights come from."""

    name: str
    """Directory, hub name, path of a .gguf file, or package:NAME/PATH."""
    revision: str | None = None
    """Hub revision (commit) to pin; null: the hub's default branch."""
    layers: int | None = Field(None, ge=1)
    """Number of layers to use, from the first on; null: all."""


class BackboneConfig(PretrainedConfig):
    """The decoder that user vectors come from."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """random: the named model's architecture and tokenizer, with new weights."""
    seed: int | None = Field(None, ge=0)
    """With random weights: their seed; null: that of the experiment."""
    width: int | None = Field(None, ge=8)
    """With random weights: width of the states; the other widths shrink with it. null: the model's own."""
    trained: Literal["lora", "all"] = "lora"
    """What training changes: low-rank updates, or every weight but the token embeddings, which are then float32."""

    @model_validator(mode="after")
    def _new_weights_alone_have_a_choice(self) -> Self:
        if self.width is not None and self.weights == "pretrained":
            raise ValueError("width: pretrained weights have one width; give `weights: random`, too")
        if self.seed is not None and self.weights == "pretrained":
            raise ValueError("seed: pretrained weights have none; give `weights: random`, too")
        return self


class EventEncoderConfig(PretrainedConfig):
    """The text encoder of single events, and how a text becomes one vector."""

    pooling: Literal["cls", "mean"] = "mean"
    """State at the first position, or the mean over the text's positions; take what the encoder was trained with."""
    max_tokens: int = Field(64, ge=4)
    """Longest event text, in word pieces; longer ones are cut."""
    dtype: Precision = "bfloat16"
    """Type of weights and matrix products."""

    @property
    def torch_dtype(self) -> "torch.dtype":
        """`dtype` for torch."""
        return _torch_dtype(self.dtype)


class LoraConfig(Config):
    """Low-rank adaptation of every linear layer of the backbone (PEFT)."""

    r: int = Field(64, ge=1)
    """Rank."""
    alpha: float = Field(64, gt=0)
    """Scale: updates are multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the low-rank path."""


class FieldsConfig(Config):
    """How the encoder reads the fields of events, where they have any."""

    buckets: int = Field(32768, ge=1)
    """Rows of the hash table of texts; each text has two of them."""
    width: int = Field(64, ge=1)
    """Width of its rows."""


class BagConfig(Config):
    """A bag of the contents of a history (`ray_ggsm.model.bag`)."""

    contents: int = Field(8192, ge=1)
    """Number of contents it has places for, those that most training rows have."""
    least_rows: int = Field(5, ge=1)
    """Training rows that a content must be in, of the rows that statistics are taken from (16,384 at most)."""
    width: int = Field(256, ge=1)
    """Width of what it becomes."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout on the contents in training."""


class FusionConfig(Config):
    """The tabular features' own component of the user vector (`ray_ggsm.model.fusion`)."""

    width: int = Field(128, ge=1)
    """Width of the network's output."""
    hidden: int = Field(256, ge=1)
    """Width of its hidden layer."""
    linear_width: int | None = Field(None, ge=1)
    """Width of the linear part, a fixed random projection of the z-scores; null: the z-scores themselves."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout on the z-scores and on the hidden layer."""
    bag: BagConfig | None = None
    """A bag of the contents of a history as a third part, also of rows without features; null: none."""
    columns: Literal["joined", "mixed"] = "joined"
    """Order of the vector's columns. joined: the sequence's, the linear part's, the network's, the bag's. mixed: these
    by turns, so that every prefix has something of each (`training.nested`); the linear part then is principal
    components."""


class ProjectionConfig(Config):
    """A network behind both towers, whose output is compared and published (Q-Anchor)."""

    hidden: int = Field(512, ge=1)
    """Width of its hidden layer."""
    width: int = Field(128, ge=1)
    """Width of its output."""


class ModelConfig(Config):
    """The language model, the paper's encoder."""

    trains: ClassVar[bool] = True
    """Whether there is anything to train, under most masks."""
    nests: ClassVar[bool] = True
    """Whether its loss can be taken over prefixes, too (`training.nested`)."""
    kind: Literal["llm"] = "llm"
    """Which kind of encoder it is."""
    backbone: BackboneConfig
    """The decoder-only language model."""
    event_encoder: EventEncoderConfig
    """The frozen text encoder of single events."""
    fields: FieldsConfig = FieldsConfig()
    """Fields of events (`data.modalities.*.fields`)."""
    lora: LoraConfig = LoraConfig()
    """The trained part of the backbone, with `backbone.trained: lora`."""
    adapter_layers: Literal[1, 2] = 2
    """Layers of the adapters of event vectors: an MLP, or a linear map (InstructUE)."""
    summary_tokens: bool = False
    """Begin a row with summaries of the user and of each modality (`ray_ggsm.model.summary`; Q-Anchor); false: the
    paper's form."""
    periods_days: tuple[Annotated[float, Field(gt=0)], ...] = (1.0, 7.0)
    """Periods whose phases an event's age is told in: a day, a week. Add 365.25 where the season matters."""
    pooling: Literal["user", "mean"] = "user"
    """Final hidden state at the row's last token (<USER>; paper, eq. 12), or the mean over its tokens."""
    projection: ProjectionConfig | None = None
    """Project the pooled states of both towers; null: the pooled state is the vector, the paper's form."""
    centre: bool = True
    """Subtract the tower's mean from the pooled state before normalising; false: the paper's form."""
    tabular_tokens: int = Field(4, ge=1)
    """Number of vectors that the tabular features become, if the rows have any."""
    tabular_residual: bool = False
    """Add a linear map of the tabular features to the pooled state, past the backbone; false: the paper's form."""
    tabular_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the tabular features in training."""
    fusion: FusionConfig | None = None
    """Join the tabular features with the sequence's state before the loss, if the rows have any; null: the paper's
    form."""
    max_text_tokens: int = Field(64, ge=4)
    """Longest instruction, in tokens; longer ones are cut. Answers are not cut."""
    attention: Runtime[Literal["auto", "sdpa", "flex", "eager"]] = "auto"
    """Implementation of attention; all give the same results. auto: `eager` on CPU, `sdpa` on CUDA. `flex` is meant for
    CUDA."""
    dtype: Precision = "bfloat16"
    """Type of the frozen backbone and its matrix products; everything trained stays float32."""

    @property
    def backbone_dtype(self) -> "torch.dtype":
        """Type of the backbone's weights."""
        return _torch_dtype("float32" if self.backbone.trained == "all" else self.dtype)

    @model_validator(mode="after")
    def _fusion_centres(self) -> Self:
        if self.fusion is not None and not (self.centre and not self.tabular_residual):
            raise ValueError("fusion: it needs `centre: true` and no `tabular_residual`, which it replaces")
        return self

    @property
    def torch_dtype(self) -> "torch.dtype":
        """`dtype` for torch."""
        return _torch_dtype(self.dtype)


def _torch_dtype(precision: Precision) -> "torch.dtype":
    import torch

    return torch.bfloat16 if precision == "bfloat16" else torch.float32
