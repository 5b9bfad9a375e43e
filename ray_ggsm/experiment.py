"""One YAML file describes one experiment; this composes its config and names what its stages write.

    prepare -> train -> embed -> evaluate

Every stage writes to `<output>/<stage>-<digest>`; the digest covers the settings it depends on, those of the stages
before it, and the input files. So a finished stage is reused as long as nothing it depends on changed, and a changed
setting never overwrites or mixes with older results. `stage.json` is written last: without it a stage is not finished.
"""

import os
import tempfile
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from ray_ggsm import masks, storage
from ray_ggsm.config import Config, InputError, digest
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.prepare import input_state
from ray_ggsm.embedding.config import EmbeddingConfig
from ray_ggsm.evaluation.attention import AttentionConfig
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.masks import MaskConfig, RecipeConfig
from ray_ggsm.model.encoder import ModelConfig
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.training.config import TrainingConfig


class RayConfig(Config):
    """Resources; they change how fast results come, not what they are."""

    local_cpus: int = Field(4, ge=4)
    """Logical CPUs of a cluster that a job starts itself (no RAY_ADDRESS); below 4, Ray's own actors starve it."""
    local_object_store_gb: float = Field(1.0, gt=0)
    """Shared memory of such a cluster, GB."""
    train_workers: int = Field(1, ge=1)
    """Data-parallel training workers."""
    embed_workers: int = Field(2, ge=1)
    """Encoder actors, for events and for users."""
    cpus_per_train_worker: int = Field(2, ge=1)
    """Also its number of threads on CPU."""
    cpus_per_embed_worker: int = Field(1, ge=1)
    """Also its number of threads on CPU."""
    gpu: bool = False
    """One GPU per training worker and per encoder actor."""
    cache: str | None = None
    """Local directory of each machine for merged event vectors; null: one of this user's in the system's temporary
    directory. It can be deleted at any time between jobs."""
    max_failures: int = Field(3, ge=0)
    """How often a training run is restarted from its last checkpoint before it is given up."""

    @property
    def cache_directory(self) -> str:
        """`cache`, or its default."""
        return self.cache or os.path.join(tempfile.gettempdir(), f"ray_ggsm-{os.getuid()}")


class RefreshConfig(Config):
    """The scheduled refresh of a long-lived table (jobs/refresh.py)."""

    rows: str
    """User rows: Parquet files, local or s3://, a pattern (`*` within a name); one row per user."""
    encoder: str
    """A saved encoder: the directory `encoder` that training wrote."""
    table: str
    """The table; its first refresh creates it."""


class Experiment(Config):
    """Everything a job reads."""

    name: str
    """For people; not part of any digest."""
    notes: tuple[str, ...] = ()
    """Sentences that the report shows, for example where the data come from."""
    output: str
    """Where all stages write: a local directory or an s3:// location."""
    seed: int = 0
    """Of weights, shuffling, dropout, sampling and resampling."""
    data: DataConfig
    """Where user rows and labels come from."""
    model: ModelConfig
    """The encoder."""
    mask: MaskConfig
    """The attention mask's journey."""
    training: TrainingConfig
    """Contrastive training."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """Which rows are embedded, and how."""
    publishing: PublishingConfig = PublishingConfig()
    """The embedding table."""
    refresh: RefreshConfig | None = None
    """null: nothing is refreshed."""
    evaluation: ProbeConfig = ProbeConfig()
    """Probes on the frozen vectors."""
    attention: AttentionConfig = AttentionConfig()
    """Whose attention jobs/attention.py looks at; no other job depends on it."""
    ray: RayConfig = RayConfig()
    """Resources."""

    def resolved(self, rows: int) -> "Experiment":
        """With the number of training steps filled in, for so many training rows."""
        return self.model_copy(update={"training": self.training.resolved(rows)})

    def resolved_mask(self) -> RecipeConfig:
        """The mask config with T_total filled in."""
        return masks.with_total_steps(self.mask, self.training.total_steps)


StageName = Literal["prepare", "train", "embed", "evaluate"]


@dataclass(frozen=True)
class Stage:
    """One stage's place."""

    name: StageName
    location: str

    def path(self, *parts: str) -> str:
        """A location below the stage's own."""
        return storage.join(self.location, *parts)

    def result(self) -> dict[str, Any] | None:
        """What `finish` recorded, or None while the stage is not finished."""
        marker = self.path("stage.json")
        return storage.read_json(marker) if storage.exists(marker) else None

    def require(self, job: str) -> dict[str, Any]:
        """What `finish` recorded.

        Raises:
            InputError: the stage is not finished; `job` tells the user what to run.
        """
        result = self.result()
        if result is None:
            raise InputError(
                f"{self.location} is not there yet (with these settings); run {job} with the same config first"
            )
        return result

    def finish(self, **values: Any) -> dict[str, Any]:
        """Record the stage as finished, with its results."""
        storage.write_json(self.path("stage.json"), values)
        return values


def stages(experiment: Experiment) -> dict[StageName, Stage]:
    """All stages of an experiment, by name.

    Raises:
        InputError: the input files are not there.
    """
    e = experiment
    # the limit of bad rows decides whether a run stops, never what it writes
    prepare = digest(e.data.model_dump(mode="json", exclude={"max_bad_share"}), input_state(e.data))
    train = digest(prepare, e.model, e.mask, e.training, e.seed)
    # the limits of the gates decide whether a version is published, never what it holds
    table = e.publishing.model_dump(mode="json", exclude={"gates"})
    embed = digest(train, e.embedding, table)
    final = digest(train, e.embedding.model_copy(update={"checkpoint": "final"}), table)
    evaluate = digest(final, e.evaluation, e.seed)
    digests: dict[StageName, str] = {"prepare": prepare, "train": train, "embed": embed, "evaluate": evaluate}
    return {
        name: Stage(name, storage.join(storage.absolute(e.output), f"{name}-{value}"))
        for name, value in digests.items()
    }


def event_vectors(experiment: Experiment) -> str:
    """Where the experiments below one `output` share their event vectors."""
    return storage.join(storage.absolute(experiment.output), "event_vectors")


def untrained(experiment: Experiment) -> Experiment:
    """The same experiment, embedding with the encoder at step 0."""
    embedding = experiment.embedding.model_copy(update={"checkpoint": "untrained"})
    return experiment.model_copy(update={"embedding": embedding})
