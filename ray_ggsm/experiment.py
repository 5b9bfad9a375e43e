"""One YAML file describes one experiment; this composes its config. `ray_ggsm.stages` names what its stages write."""

import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from ray_ggsm import masks
from ray_ggsm.config import Config, InputError, Location, Runtime, load
from ray_ggsm.data.config import DataConfig
from ray_ggsm.embedding.config import EmbeddingConfig
from ray_ggsm.evaluation.config import AttentionConfig, ProbeConfig
from ray_ggsm.masks import MaskConfig
from ray_ggsm.masks.ggsm import ImportanceConfig
from ray_ggsm.model.kinds import EncoderConfig, FeaturesConfig, SupervisedConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.training.config import TrainingConfig


class PoolSize(Config):
    """A number of actors that follows the cluster: it grows with nodes that come, and goes on without those that go."""

    min: int = Field(ge=1)
    """As many must fit into the cluster before work begins."""
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"expected max to be at least min, found {self.min} to {self.max}")
        return self

    def at_most(self, number: int) -> "PoolSize":
        """With no more actors than `number`."""
        return PoolSize(min=min(self.min, number), max=min(self.max, number))


def _some(workers: int | PoolSize) -> int | PoolSize:
    if isinstance(workers, int) and workers < 1:
        raise ValueError("expected a number from 1 on, or {min: 1, max: 8}")
    return workers


class RayConfig(Config):
    """Resources; they change how fast results come, not what they are, beyond rounding and the draws of dropout."""

    local_cpus: int = Field(4, ge=4)
    """Logical CPUs of a cluster that a job starts itself (no RAY_ADDRESS); below 4, Ray's own actors starve it."""
    local_object_store_gb: float = Field(1.0, gt=0)
    """Shared memory of such a cluster, GB."""
    train_workers: int = Field(1, ge=1)
    """Number of data-parallel training workers; with dropout, its draws depend on this number."""
    embed_workers: Annotated[int | PoolSize, AfterValidator(_some)] = 2
    """Encoder actors, for events and for users: a number, or {min: 1, max: 8} for a cluster that grows and shrinks."""
    cpus_per_train_worker: int = Field(2, ge=1)
    """Also its number of threads on CPU."""
    cpus_per_embed_worker: int = Field(1, ge=1)
    """Also its number of threads on CPU."""
    gpu: bool = False
    """GPUs for training workers, one each, and for encoder actors."""
    gpus_per_embed_worker: float = Field(1.0, gt=0, le=1)
    """With .5, two encoder actors share a GPU, and one encodes while the other writes its bucket."""
    cache: str | None = None
    """Local directory of each machine for merged event vectors; null: one of this user's in the system's temporary
    directory. It can be deleted at any time between jobs."""
    max_failures: int = Field(3, ge=-1)
    """How often a training run is restarted from its last checkpoint before it is given up; -1: without limit."""
    max_restarts: int = Field(-1, ge=-1)
    """How often an encoder actor is started anew that has gone with its node or process, before the job fails; -1:
    without limit, as spot nodes need it (a chunk that ends every process that encodes it is tried for ever then)."""
    resources_within_minutes: float = Field(10.0, ge=0)
    """How long a job waits for nodes that what it asks for fits on, for clusters that have to grow first; then it ends
    with exit code 4. A cluster that the job started itself cannot grow: there it is refused at once."""
    stalled_after_minutes: float = Field(60.0, gt=0)
    """How long nothing may get on in work on Ray Data (encoding rows and texts, looking for nearest users), for example
    because nodes went and no others came; then the job ends with exit code 4. Longer than an encoder takes for a
    bucket. Training ends likewise once the cluster has had no room for its workers for so long, and every job once no
    node has had room for a task."""
    pass_environment: tuple[str, ...] | None = None
    """Variables of the job's environment that workers of a cluster (RAY_ADDRESS) get, as names in which `*` stands for
    anything; null: the AWS_* and HF_* that hold credentials, addresses and settings, OPENAI_API_KEY, RAY_GGSM_* and
    the proxies; []: none, workers have their own."""

    @property
    def cache_directory(self) -> str:
        """`cache`, or its default."""
        return self.cache or os.path.join(tempfile.gettempdir(), f"ray_ggsm-{os.getuid()}")

    @property
    def pool(self) -> PoolSize:
        """`embed_workers` as a range."""
        return size if isinstance(size := self.embed_workers, PoolSize) else PoolSize(min=size, max=size)

    @property
    def busy_cpus(self) -> int:
        """Logical CPUs that training or embedding workers keep busy."""
        training = self.train_workers * self.cpus_per_train_worker
        return max(training, self.pool.max * self.cpus_per_embed_worker)


OF_THE_LANGUAGE_MODEL = (
    "temperature", "margin", "terms", "same_side", "contrast_weight", "targets", "answer", "questions", "mask_rule",
    "ntp_weight", "old_space", "tokens_per_micro_batch", "activation_checkpointing",
)  # fmt: skip
"""Settings of `training` that other kinds of encoders have no use for."""


class Experiment(Config):
    """Everything a job reads."""

    name: Runtime[str]
    """For people."""
    notes: Runtime[tuple[str, ...]] = ()
    """Sentences that the report shows, for example where the data come from."""
    output: Runtime[Location]
    """Where all stages write: a local directory or an s3:// location."""
    seed: int = Field(0, ge=0)
    """Seeds weights, shuffling, dropout, sampling and resampling."""
    data: DataConfig
    """Where user rows and labels come from."""
    model: EncoderConfig
    """The encoder."""
    mask: MaskConfig | None = None
    """The attention mask's journey, which only the language model has."""
    training: TrainingConfig
    """Contrastive training."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """Which rows are embedded, and how."""
    publishing: PublishingConfig = PublishingConfig()
    """The embedding table."""
    evaluation: ProbeConfig = ProbeConfig()
    """Probes on the frozen vectors."""
    attention: Runtime[AttentionConfig] = AttentionConfig()
    """Whose attention jobs/attention.py looks at; no other job depends on it."""
    ray: Runtime[RayConfig] = RayConfig()
    """Resources."""

    @model_validator(mode="after")
    def _mask_of_the_language_model(self) -> Self:
        if self.model.kind == "llm" and self.mask is None:
            raise ValueError("mask: this key is required and missing")
        if self.model.kind != "llm" and self.mask is not None:
            raise ValueError(f"mask: an encoder of the kind {self.model.kind} has no attention mask; leave it out")
        return self

    @model_validator(mode="after")
    def _published_form_of_ggsm(self) -> Self:
        mask = self.mask
        if isinstance(mask, ImportanceConfig) and mask.calibration == "none" and mask.row_scale == "removed":
            raise ValueError(
                "mask.calibration: none is the published form of GG-SM, whose gradient norms keep their row's scale; "
                "add row_scale: kept"
            )
        return self

    @model_validator(mode="after")
    def _settings_are_used(self) -> Self:
        if self.model.kind == "llm":
            return self
        self.embedding.check_read_by(self.model.kind)
        for name in OF_THE_LANGUAGE_MODEL:
            if getattr(self.training, name) != TrainingConfig.model_fields[name].default:
                raise ValueError(
                    f"training.{name}: an encoder of the kind {self.model.kind} does not use it; leave it out, or set "
                    f"it to its default, where a base gives it"
                )
        return self

    @model_validator(mode="after")
    def _can_nest(self) -> Self:
        if not self.training.nested:
            return self
        if not self.model.nests:
            raise ValueError(f"training.nested: an encoder of the kind {self.model.kind} has no loss over prefixes")
        fusion = self.model.fusion if self.model.kind == "llm" else None
        if fusion is not None and fusion.columns == "joined":
            raise ValueError(
                "training.nested: the first columns of joined vectors hold nothing of the features; set "
                "model.fusion.columns: mixed"
            )
        return self

    @model_validator(mode="after")
    def _model_has_what_it_reads(self) -> Self:
        if isinstance(self.model, FeaturesConfig) and not self.data.features:
            raise ValueError("model.kind: features: data.features has none, so there is nothing to read")
        if isinstance(self.model, SupervisedConfig):
            wanted, there = self.model.labels or (), self.data.labels
            if missing := [name for name in wanted if name not in there] or ([] if there else ["any"]):
                raise ValueError(
                    f"model.labels: data.labels has no '{missing[0]}'; it has {', '.join(there) or 'none'}"
                )
        return self

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        days, windows = self.data.snapshots.future_days, getattr(self.model, "windows_days", None)
        if windows and max(windows) > days:
            raise ValueError(
                f"model.windows_days: {max(windows)} days are more than the future has "
                f"(data.snapshots.future_days: {days})"
            )
        return self

    @model_validator(mode="after")
    def _can_train(self) -> Self:
        if all(split.role != "train" for split in self.data.splits.values()):
            raise ValueError("data.splits: one split needs `role: train`; encoders are trained on its rows")
        return self

    @model_validator(mode="after")
    def _splits_exist(self) -> Self:
        splits, attended = self.data.splits, self.attention.split
        named = [("embedding.splits", name) for name in self.embedding.splits or ()]
        named += [("attention.split", attended)] if attended is not None else []
        for key, name in named:
            if name not in splits:
                raise ValueError(f"{key}: there is no split '{name}' in data.splits; it has {', '.join(splits)}")
        return self

    @model_validator(mode="after")
    def _held_out_pairs_exist(self) -> Self:
        held_out, train = self.training.held_out, self.data.train_split
        others = [name for name in self.data.splits_with_future if name != train]
        if held_out is not None and held_out.split not in others:
            raise ValueError(
                f"training.held_out.split: '{held_out.split}' carries no future to compare with; expected one of the"
                f" splits with `future: true` ({', '.join(others) or 'none yet'}), other than '{train}'"
            )
        return self

    @model_validator(mode="after")
    def _horizons_fit(self) -> Self:
        targets, days = self.training.targets, self.data.snapshots.future_days
        if targets is not None and targets.horizons_days[-1] > days:
            raise ValueError(
                f"training.targets.horizons_days: {targets.horizons_days[-1]} days are more than the future has "
                f"(data.snapshots.future_days: {days})"
            )
        return self

    @property
    def embedded_splits(self) -> tuple[str, ...]:
        """The splits that are embedded."""
        if self.embedding.splits is not None:
            return self.embedding.splits
        return tuple(name for name in (self.data.fit_split, self.data.score_split) if name is not None)

    @property
    def probe_splits(self) -> tuple[str, str]:
        """The splits that probes are fitted and scored on.

        Raises:
            InputError: the config has none.
        """
        fit, score = self.data.fit_split, self.data.score_split
        if fit is None or score is None:
            raise InputError("data.splits: evaluation needs a split with `role: fit` and one with `role: score`")
        return fit, score

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the encoder reads of each kind of event."""
        return tuple(
            Modality(
                name,
                modality.keep,
                tuple(field for field, kind in modality.fields.items() if kind.text is not None),
                tuple(field for field, kind in modality.fields.items() if kind.number is not None),
                modality.parts is not None,
            )
            for name, modality in self.data.modalities.items()
        )

    def resolved(self, rows: int) -> "Experiment":
        """With the number of training steps filled in, for so many training rows."""
        return self.model_copy(update={"training": self.training.resolved(rows)})

    def resolved_mask(self) -> MaskConfig | None:
        """The mask config with T_total filled in; None: the encoder has no mask."""
        return None if self.mask is None else masks.with_total_steps(self.mask, self.training.total_steps)


def arguments(file: str, settings: Mapping[str, JsonValue]) -> str:
    """How a job is told of the experiment of `loaded`."""
    return shlex.join(["--config", file, *(part for change in _changes(settings) for part in ("--set", change))])


def loaded(file: str, settings: Mapping[str, JsonValue]) -> Experiment:
    """The experiment of a file with changes, `settings` (key.path -> value) of another config; raises as `load`."""
    return load(Experiment, file, _changes(settings), ["settings"] * len(settings))


def _changes(settings: Mapping[str, JsonValue]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
