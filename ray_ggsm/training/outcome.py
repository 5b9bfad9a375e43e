"""What the forward passes of a contrastive step gave, over the global batch."""

from dataclasses import dataclass, replace

from ray_ggsm.training.loss import BatchStatistics


@dataclass(frozen=True)
class Outcome:
    """The loss of a step, and what it says about the batch."""

    loss: float
    statistics: BatchStatistics
    """Of the contrast."""
    cosines: dict[str, float]
    """Tower -> mean cosine of its states before they are centred."""
    parts: dict[str, float]
    """Parts of the loss, if it has several."""

    def with_next_tokens(self, loss: float) -> "Outcome":
        """With the weighted next-token loss of answers as a part more."""
        parts = self.parts or {"loss_contrast": self.loss}
        return replace(self, loss=self.loss + loss, parts={**parts, "loss_ntp": loss})

    def metrics(self) -> dict[str, float]:
        """As the log has them."""
        return {
            "loss": self.loss, "accuracy": self.statistics.accuracy, "mean_rank": self.statistics.mean_rank,
            "cos_positive": self.statistics.positive, "cos_negative": self.statistics.negative,
            **{f"cos_{tower}_states": cosine for tower, cosine in self.cosines.items()},
            **{f"masked_{term}": share for term, share in self.statistics.masked.items()}, **self.parts,
        }  # fmt: skip
