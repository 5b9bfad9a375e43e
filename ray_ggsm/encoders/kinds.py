"""From a config or a saved directory to an encoder of its kind."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.coles import Coles
from ray_ggsm.encoders.cpc import Cpc
from ray_ggsm.encoders.features import FeatureReader, Features
from ray_ggsm.encoders.found import Found
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.encoders.msdp import Msdp
from ray_ggsm.encoders.one4all import One4all
from ray_ggsm.encoders.small_model import (
    Reader,
    SmallEncoder,
    SmallLearner,
    SmallModel,
    check_files,
    description_of,
    load_weights,
)
from ray_ggsm.encoders.stream import StreamModel, StreamReader
from ray_ggsm.encoders.supervised import Supervised
from ray_ggsm.encoders.text import TextModel, TextReader
from ray_ggsm.masks import MaskConfig
from ray_ggsm.model import saved
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import ModelConfig
from ray_ggsm.model.contents import Lookup
from ray_ggsm.model.contract import Encoder
from ray_ggsm.model.description import FILE, SavedEncoder
from ray_ggsm.model.kinds import (
    ColesConfig,
    CpcConfig,
    EncoderConfig,
    FeaturesConfig,
    FoundConfig,
    MsdpConfig,
    One4allConfig,
    StreamConfig,
    SupervisedConfig,
    TextConfig,
)
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.learner import Learner
from ray_ggsm.training.old_space import OldSpace
from ray_ggsm.training.workers import Workers

SmallConfig = StreamConfig | FeaturesConfig | TextConfig
"""Configs of all kinds but the language model."""
STREAM_MODELS: dict[type[StreamConfig], Callable[[Any, tuple[Modality, ...], int], StreamModel]] = {
    CpcConfig: Cpc,
    ColesConfig: Coles,
    MsdpConfig: Msdp,
    One4allConfig: One4all,
}


@dataclass(frozen=True)
class Inputs:
    """What the rows have."""

    modalities: tuple[Modality, ...]
    """Event sequences, in order."""
    feature_names: tuple[str, ...]
    """Tabular features, in order; empty without features."""
    labels: tuple[str, ...]
    """Labels of the data's config, in order."""
    event_width: int
    """Width of the event vectors."""
    event_encoder_digest: str
    """Digest of the event encoder."""
    lookup: Lookup
    """Event texts -> event vectors."""


@dataclass(frozen=True)
class Run:
    """A training run, as its worker sees it."""

    training: TrainingConfig
    """Resolved settings."""
    workers: Workers
    """This worker's place among all."""
    seed: int
    """Seed of weights, dropout and draws."""
    head: pa.Table
    """Training rows that statistics and centres are taken from, the same on every worker."""
    future_days: int | None
    """Days that futures cover."""
    device: torch.device
    asked: pa.Table | None = None
    """As `head`, of the query-answer pairs; None: none are trained on."""


def new_learner(config: EncoderConfig, mask: MaskConfig | None, inputs: Inputs, run: Run) -> Learner:
    """An untrained encoder of the config's kind, ready for its first step or for `restore`.

    Raises:
        InputError: a pretrained part cannot be loaded.
    """
    if not isinstance(config, ModelConfig):
        return _small_learner(config, inputs, run)
    assert mask is not None, "the experiment has checked it"
    made_of = (inputs.modalities, inputs.feature_names, inputs.event_width, inputs.event_encoder_digest)
    bundle = saved.new_encoder(config, mask, *made_of, run.seed)
    bundle.encoder.to(run.device)
    collator = Collator(bundle.encoder.template, bundle.tokenizer, inputs.lookup)
    return Contrastive(
        bundle, collator, run.training, run.workers, run.seed, head=run.head, asked=run.asked,
        future_days=run.future_days, old_space=_old_space(run, inputs.lookup, bundle.encoder.vector_width),
    )  # fmt: skip


def _old_space(run: Run, lookup: Lookup, W: int) -> OldSpace | None:
    """The older encoder that the run learns to be read as; None: there is none."""
    config = run.training.old_space
    if config is None:
        return None
    older = load(config.encoder, lookup, run.device, config.mask == "inference")
    embedder = Embedder(older, run.training.tokens_per_micro_batch)

    def vectors(rows: pa.Table) -> torch.Tensor:
        found = embedder(rows)
        if not found.fits.all():
            raise InputError(
                f"training.old_space: a row does not fit in memory for {config.encoder}; give workers more memory"
            )
        return torch.from_numpy(found.vectors)

    return OldSpace(W, older.vector_width, config.weight, run.seed, vectors)


def load(
    location: str, lookup: Lookup, device: torch.device, finished_mask: bool = False, text_model: str | None = None
) -> Encoder:
    """The encoder in a directory, local or s3://.

    Args:
        location: the directory.
        lookup: event texts -> event vectors.
        device: where it computes.
        finished_mask: use the mask's last form even if training stopped half-way.
        text_model: local directory of the model of the kind `text`; None: where its config says.

    Raises:
        InputError: the directory has no finished encoder, or its parts do not fit each other.
    """
    found = SavedEncoder.read(location)
    described = found.description
    if isinstance(described.model, ModelConfig):
        return LanguageModel(saved.load(location, device), lookup, finished_mask)
    made_of, config = (described.modalities, described.feature_names), described.model
    if isinstance(config, TextConfig) and text_model is not None:
        config = config.model_copy(update={"name": text_model, "revision": None})
    model = _small_model(config, *made_of, described.event_width, seed=0)
    if model.source != described.backbone_digest:
        raise InputError(
            f"{location}: it was made with the weights {described.backbone_digest}, and its config names "
            f"{model.source} now; restore them, or pin `model.revision` and train again"
        )
    if isinstance(model, Found):
        model.event_encoder_digest, model.packed_in = described.event_encoder_digest, location
    with storage.local_copy(location) as directory:
        check_files(found, directory)
        load_weights(model, directory, location)
    return SmallEncoder(model.to(device), _reader(config, model, *made_of, lookup))


def copy(directory: str, location: str) -> int:
    """Write the encoder of a checkpoint in a local directory to a location, without the rest; returns its step."""
    described = SavedEncoder.read(directory).description
    if isinstance(described.model, ModelConfig):
        saved.save(saved.load(directory, torch.device("cpu")), location)
        return described.step
    for name in (*described.files, FILE):  # the last one says that the others are there
        with open(os.path.join(directory, name), "rb") as file:
            storage.write_bytes(storage.join(location, name), file.read())
    return described.step


def _small_learner(config: SmallConfig, inputs: Inputs, run: Run) -> Learner:
    if isinstance(config, SupervisedConfig) and config.labels is None:
        config = config.model_copy(update={"labels": inputs.labels})
    model = _small_model(config, inputs.modalities, inputs.feature_names, inputs.event_width, run.seed).to(run.device)
    described = description_of(
        config, inputs.modalities, inputs.feature_names, inputs.event_width, inputs.event_encoder_digest, model
    )
    reader = _reader(config, model, inputs.modalities, inputs.feature_names, inputs.lookup)
    return SmallLearner(model, reader, described, run.training, run.workers, run.seed, run.head, run.future_days)


def _small_model(
    config: SmallConfig, modalities: tuple[Modality, ...], features: tuple[str, ...], event_width: int, seed: int
) -> SmallModel[Any]:
    """A model with new weights, where they are not pretrained; equal arguments give equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(config, FeaturesConfig):
            return Features(len(features))
        if isinstance(config, TextConfig):
            return TextModel(config)
        if isinstance(config, FoundConfig):
            return Found(config, modalities, event_width, len(features))
        if isinstance(config, SupervisedConfig):
            return Supervised(config, modalities, event_width, len(features))
        return STREAM_MODELS[type(config)](config, modalities, event_width)


def _reader(
    config: SmallConfig, model: Any, modalities: tuple[Modality, ...], features: tuple[str, ...], lookup: Lookup
) -> Reader[Any]:
    """What makes the batches of a model."""
    if isinstance(config, FeaturesConfig):
        return FeatureReader()
    if isinstance(config, TextConfig):
        return TextReader(model, modalities, features)
    return StreamReader(modalities, config.newest, lookup)
