"""Settings of the probes, and of measuring attention."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveFloat

from ray_ggsm.config import Config, InputError, Rising, Runtime

Kind = Literal["linear", "lightgbm", "mlp"]
"""Kind of probe."""


class LinearConfig(Config):
    """Logistic regression on standardised vectors."""

    strengths: tuple[PositiveFloat, ...] = Field((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0), min_length=1)
    """Inverse L2 penalties C to choose from; a smaller one gives a simpler probe."""
    max_iterations: int = Field(300, ge=1)
    """Upper limit of L-BFGS iterations per fit."""
    tolerance: float = Field(1e-4, gt=0)
    """Largest gradient component at which L-BFGS stops."""


class LightGBMConfig(Config):
    """Gradient-boosted trees; the last fit has as many rounds as the folds needed on average."""

    max_rounds: int = Field(400, ge=1)
    """Upper limit of boosting rounds."""
    patience: int = Field(20, ge=1)
    """Rounds without a lower held-out log-loss after which a fold stops."""
    learning_rate: float = Field(0.05, gt=0)
    """Weight of each tree."""
    leaves: int = Field(7, ge=2)
    """Leaves per tree."""
    min_rows_per_leaf: int = Field(20, ge=1)
    """Smallest number of rows in a leaf."""
    feature_fraction: float = Field(0.2, gt=0, le=1)
    """Share of the vector's dimensions that each tree may use."""
    bins: int = Field(63, ge=2)
    """Histogram bins per dimension."""


class MLPConfig(Config):
    """A small network on standardised vectors; the last fit has as many epochs as the folds needed on average."""

    hidden: int = Field(128, ge=0)
    """Width of its hidden layer; 0: none, which is logistic regression."""
    max_epochs: int = Field(50, ge=1)
    """Upper limit of passes over the rows."""
    patience: int = Field(5, ge=1)
    """Epochs without a lower held-out log-loss after which a fold stops."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's."""
    batch_rows: int = Field(256, ge=1)
    """Rows in a step."""


class FewLabelsConfig(Config):
    """How good vectors are where labels are few (`ray_ggsm.evaluation.few_labels`)."""

    rows: Rising = Field((50, 100, 200, 400, 800), min_length=1)
    """Numbers of labelled rows to fit linear probes on."""
    draws: int = Field(5, ge=1)
    """Random draws of each number."""


class DimensionsConfig(Config):
    """What fewer dimensions and bytes cost (`ray_ggsm.evaluation.dimensions`)."""

    prefixes: Rising = Field((32, 64, 128), min_length=1)
    """Numbers of first dimensions to look at, beside all of them."""


class PrivacyConfig(Config):
    """Whether vectors tell who was trained on (`ray_ggsm.evaluation.privacy`)."""

    others: str
    """Split of users that are not trained on, at the cutoffs of the train split; `embedding.splits` has both."""
    users: int = Field(4000, ge=100)
    """Users of each of the two that are looked at, those with the smallest hashes."""


class ProbeConfig(Config):
    """Which probes are fitted, and how."""

    kinds: tuple[Kind, ...] = Field(("linear", "lightgbm"), min_length=1)
    """Kinds of probe to fit for every label."""
    folds: int = Field(5, ge=2)
    """Cross-validation folds; all rows of a user are in one fold."""
    linear: LinearConfig = LinearConfig()
    """Settings of the linear probe."""
    lightgbm: LightGBMConfig = LightGBMConfig()
    """Settings of the LightGBM probe."""
    mlp: MLPConfig = MLPConfig()
    """Settings of the network's probe."""
    instructions: dict[str, str] = Field(default_factory=dict)
    """Label -> the name of the instruction (`embedding.instructions`) whose vectors its probes read; needed where there
    are several."""
    few_labels: FewLabelsConfig | None = None
    """Fit linear probes on few labelled rows, too; null: on all rows alone."""
    dimensions: DimensionsConfig | None = None
    """Show what fewer dimensions and bytes cost: a linear probe for each of twelve forms by default; null: no."""
    privacy: PrivacyConfig | None = None
    """Attack the vectors, to see whether they tell who was trained on; null: no."""
    allow_missing: Runtime[bool] = False
    """Leave out, and count, label rows without a vector. They are an error if this is false, and in a study always."""
    allow_same_period: Runtime[bool] = False
    """Accept splits whose futures overlap, as long as their users differ; overlaps are an error if this is false."""

    def labels_of(self, instructions: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Instruction -> the labels whose probes read its vectors.

        Raises:
            InputError: a label has no instruction, or `instructions` names an unknown label or instruction.
        """
        named = self.instructions or (dict.fromkeys(labels, instructions[0]) if len(instructions) == 1 else {})
        if missing := [label for label in labels if label not in named]:
            raise InputError(
                f"evaluation.instructions: label '{missing[0]}' has none of embedding.instructions "
                f"({', '.join(instructions)}); give each label the one whose vectors its probes read"
            )
        for label, instruction in named.items():
            if label not in labels:
                raise InputError(
                    f"evaluation.instructions: there is no label '{label}'; data.labels has {', '.join(labels)}"
                )
            if instruction not in instructions:
                raise InputError(
                    f"evaluation.instructions.{label}: there is no instruction '{instruction}'; embedding.instructions "
                    f"has {', '.join(instructions)}"
                )
        return {name: of for name in instructions if (of := tuple(each for each in labels if named[each] == name))}


class AttentionConfig(Config):
    """The user rows whose attention is measured (jobs/attention.py)."""

    split: str | None = None
    """Split of prepared rows; null: the one that probes are scored on. Rows are stored in a shuffled order, so the
    first ones are a fair sample."""
    rows: int = Field(256, ge=1)
    """Largest number of user rows; the first ones are taken."""
