"""What the stages of a pipeline record when they are finished (`stage.json`)."""

from pydantic import Field

from ray_ggsm.config import Record
from ray_ggsm.data.summary import DataSummary
from ray_ggsm.evaluation.counts import SplitCounts


class StageResult(Record):
    """What every stage records."""

    seconds: float = 0.0
    """Wall time."""


class PrepareResult(StageResult):
    """What `prepare` records."""

    summary: DataSummary


class EventCounts(Record):
    """Texts of events and of their parts in a stage's rows, with repetitions, and what had to be encoded."""

    events: int = 0
    events_found_in_store: int = 0
    """Those that had a vector before."""
    event_texts_encoded: int = 0
    """Distinct texts that were encoded."""


class TrainResult(StageResult, EventCounts):
    """What `train` records."""

    steps: int
    """Steps of the whole run."""
    best_step: int | None = None
    """Step of the published encoder where the best one is published."""
    trackers: dict[str, str] = Field({})
    """Tracker (mlflow, wandb) -> what it lacks of the run, and why; those that have all are left out."""


class EmbedResult(StageResult, EventCounts):
    """What `embed` records."""

    table: str
    """Location of the embedding table."""
    rows: int
    dead_letters: int


class EvaluateResult(StageResult):
    """What `evaluate` records."""

    auc: dict[str, dict[str, dict[str, float]]]
    """Vectors -> probe -> label -> AUC on the test rows."""
    counts: dict[str, SplitCounts]
    """Role -> rows used and left out."""
