"""Settings of a training run."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ray_ggsm.config import Config, Rising, Runtime
from ray_ggsm.training.answers import AnswerConfig
from ray_ggsm.training.loss import MaskRule, Objective, SameSide, Term
from ray_ggsm.training.old_space import OldSpaceConfig
from ray_ggsm.training.optimizer import OptimizerConfig
from ray_ggsm.training.questions import QuestionsConfig
from ray_ggsm.training.targets import TargetsConfig
from ray_ggsm.training.trackers.config import TrackerConfig


class HeldOutConfig(Config):
    """Pairs that are never trained on; their loss is computed at every checkpoint and at the end."""

    split: str
    """Split of prepared rows that the pairs come from; not the one that is trained on."""
    rows: int = Field(512, ge=2)
    """Number of rows taken from the split, from the first on."""
    patience: int | None = Field(None, ge=1)
    """Number of held-out losses in a row without a new minimum after which training stops; null: it never does."""
    publish: Literal["final", "best"] = "final"
    """Published encoder: that of the last step, or that of the checkpoint with the lowest loss."""


class TrainingConfig(Config):
    """Length, batches and objective of a training run."""

    steps: int | None = Field(None, ge=1)
    """Number of optimiser steps, which is T_total of the mask recipes. Give either this or `epochs`."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the behaviour pairs, from which the number of steps follows."""
    batch_size: int = Field(ge=2)
    """Pairs in the global batch, over all workers."""
    temperature: float = Field(0.05, gt=0)
    """tau of eq. 6-7."""
    margin: float = Field(0.1, ge=0)
    """c of eq. 8, the false-negative mask."""
    terms: tuple[Term, ...] = Field(("ua", "uu", "aa"), min_length=1)
    """Kinds of negatives: user-answer, user-user, answer-answer, answer-user."""
    same_side: SameSide = "literal"
    """Whether eq. 8 masks uu and aa negatives, too (`literal`), or only those between a user and an answer
    (`unmasked`)."""
    mask_rule: MaskRule = "own"
    """What eq. 8 compares: the similarity of each term (`own`), or for all terms those of the user to the other user
    and the other answer (`any`)."""
    contrast_weight: float = Field(1.0, ge=0)
    """Weight of InfoNCE beside `targets`."""
    targets: TargetsConfig | None = None
    """Dense targets of the future beside InfoNCE; null: the paper's form."""
    nested: Rising = ()
    """Numbers of first dimensions that the loss is taken over, too, each with the weight of the whole vector: e.g. [32,
    64, 128] (`ray_ggsm.training.nested`). Empty: over the whole vector alone."""
    old_space: OldSpaceConfig | None = None
    """An older encoder whose vectors are to be read from the new ones, so that models of them live on; null: none."""
    answer: AnswerConfig = AnswerConfig()
    """The answer tower's input."""
    questions: QuestionsConfig | None = None
    """Query-answer pairs beside the behaviour pairs; null: none."""
    ntp_weight: float = Field(0.0, ge=0)
    """Weight of the next-token loss on text answers behind <USER> (`ray_ggsm.training.next_token`), in training alone;
    held-out losses are without it. 0: the paper's form."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    tokens_per_micro_batch: int = Field(16_384, ge=1)
    """Padded tokens in one forward pass; fewer need less memory. Results depend on it: dropout is drawn per pass."""
    graph_tokens: Runtime[int] = Field(65_536, ge=0)
    """Padded tokens of a worker's batch whose graphs are kept for the backward pass. The others run forward twice, with
    the same result (gradient caching), so that memory does not grow with `batch_size`."""
    activation_checkpointing: Runtime[bool] = False
    """Keep only each layer's input, and compute the layer again in the backward pass: less memory, a third slower."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints. Results depend on it: the held-out loss is computed at each."""
    keep_checkpoints: Runtime[int] = Field(2, ge=1)
    """Number of newest checkpoints kept; with `held_out`, the best one is kept, too."""
    pack: Runtime[bool] = False
    """Put the pretrained models (backbone, event encoder) into the encoder's directory, also of one that is trained
    already, so that a fresh machine embeds with it without a model hub or their packages."""
    centre_rows: int = Field(1024, ge=2)
    """Number of training rows that the towers' centres are computed from when an encoder is saved."""
    held_out: HeldOutConfig | None = None
    """Held-out pairs; null: none."""
    trackers: Runtime[tuple[TrackerConfig, ...]] = ()
    """Registers of runs that get the metrics, too: MLflow, Weights & Biases. One that fails ends no training."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        others = (self.targets is not None and self.targets.has_weight) or self.old_space is not None
        if self.contrast_weight == 0 and not others:
            raise ValueError("contrast_weight: 0, and no target has a weight, so nothing would be learned")
        return self

    @model_validator(mode="after")
    def _answers_have_words(self) -> Self:
        if self.ntp_weight and self.answer.form == "events" and self.questions is None:
            raise ValueError(
                "ntp_weight: no answer is a text that could be predicted; give answer.form: text, or questions"
            )
        return self

    @field_validator("terms")
    @classmethod
    def _terms_differ(cls, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        if len(set(terms)) < len(terms):
            raise ValueError("give each kind of negatives once, or it counts twice")
        return terms

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.mask_rule == "any" and self.same_side == "unmasked":
            raise ValueError("same_side: unmasked says what mask_rule: any contradicts; give one of them")
        return self

    @model_validator(mode="after")
    def _some_questions(self) -> Self:
        if self.questions is not None and not self.question_rows:
            share = self.questions.share
            raise ValueError(
                f"questions.share: {share} of a batch of {self.batch_size} is no pair; give a larger share"
            )
        return self

    @model_validator(mode="after")
    def _an_epoch_has_behaviour(self) -> Self:
        if self.epochs is not None and self.question_rows == self.batch_size:
            raise ValueError("epochs: passes over behaviour pairs, of which no batch has any; give steps")
        return self

    @property
    def question_rows(self) -> int:
        """Query-answer pairs in a batch."""
        return 0 if self.questions is None else round(self.batch_size * self.questions.share)

    def resolved(self, rows: int) -> "TrainingConfig":
        """A copy with `steps` instead of `epochs`, for this number of training rows."""
        if self.epochs is None:
            return self
        steps = max(1, round(self.epochs * (rows // max(1, self.batch_size - self.question_rows))))
        return self.model_copy(update={"steps": steps, "epochs": None})

    @property
    def total_steps(self) -> int:
        """T_total; the config must be resolved."""
        assert self.steps is not None, "resolve the config first"
        return self.steps

    @property
    def objective(self) -> Objective:
        """The negatives, and how sharply they count."""
        return Objective(self.temperature, self.margin, self.terms, self.same_side, self.mask_rule)
