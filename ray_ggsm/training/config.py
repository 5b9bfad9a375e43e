"""Settings of a training run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ray_ggsm.config import Config, Runtime
from ray_ggsm.training.answers import AnswerConfig
from ray_ggsm.training.loss import SameSide, Term
from ray_ggsm.training.optimizer import OptimizerConfig


class HeldOutConfig(Config):
    """Pairs that are never trained on; the loss on them is taken at every checkpoint and at the end."""

    split: str
    """Split of prepared rows, other than the one that is trained on."""
    rows: int = Field(512, ge=2)
    """Its first rows."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many looks without a lower loss; null: never."""
    publish: Literal["final", "best"] = "final"
    """The encoder of the last step, or that of the checkpoint with the lowest loss."""


class TrainingConfig(Config):
    """The run: how long, on what, with which objective."""

    steps: int | None = Field(None, ge=1)
    """Optimiser steps; T_total of the mask recipes. Either this or `epochs`."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the pairs; the steps follow from their number and `batch_size`."""
    batch_size: int = Field(ge=2)
    """Pairs in the global batch, over all workers."""
    temperature: float = Field(0.05, gt=0)
    """tau of eq. 6-7."""
    margin: float = Field(0.1, ge=0)
    """c of eq. 8, the false-negative mask."""
    terms: tuple[Term, ...] = ("ua", "uu", "aa")
    """Kinds of negatives: user-answer, user-user, answer-answer."""
    same_side: SameSide = "literal"
    """Whether eq. 8 masks uu and aa negatives too (`literal`), or only ua ones (`unmasked`)."""
    answer: AnswerConfig = AnswerConfig()
    """The answer tower's input."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    tokens_per_micro_batch: int = Field(16_384, ge=1)
    """Padded tokens that one forward pass takes; less needs less memory."""
    graph_tokens: Runtime[int] = Field(65_536, ge=0)
    """Padded tokens of a worker's batch whose graphs are kept for the backward pass; the rest runs forward twice, with
    the same result (gradient caching), so that memory does not grow with `batch_size`."""
    activation_checkpointing: Runtime[bool] = False
    """Keep only each layer's input and compute the layer again in the backward pass: less memory, a third slower."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints. Results depend on it: the held-out loss is taken at each."""
    keep_checkpoints: Runtime[int] = Field(2, ge=1)
    """The newest ones are kept, and the best with `held_out`."""
    centre_rows: int = Field(1024, ge=2)
    """Training rows that the towers' centres are taken from when an encoder is saved."""
    held_out: HeldOutConfig | None = None
    """null: no held-out pairs."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    def resolved(self, rows: int) -> "TrainingConfig":
        """With `steps` filled in, for so many training rows."""
        if self.epochs is None:
            return self
        steps = max(1, round(self.epochs * (rows // self.batch_size)))
        return self.model_copy(update={"steps": steps, "epochs": None})

    @property
    def total_steps(self) -> int:
        """T_total of a resolved config."""
        assert self.steps is not None, "resolve the config first"
        return self.steps
