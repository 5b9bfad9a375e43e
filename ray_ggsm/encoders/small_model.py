"""What all kinds but the language model share: how they are trained, saved, loaded, and give vectors.

A kind is a `SmallModel` with two methods: the states that become vectors, and the loss of a batch; and a reader, which
makes its batches of rows. Vectors are states less their mean over training rows, L2-normalised.

Legend: B rows, W width of the vectors.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.model.contract import AnyBatch, Sequences, Tower
from ray_ggsm.model.description import FILE, FORMAT, EncoderDescription, SavedEncoder
from ray_ggsm.model.saved import file_digest
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.divergence import check_finite
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.nested import check_nested
from ray_ggsm.training.workers import Workers

WEIGHTS = "modules.safetensors"


class Reader(Protocol[AnyBatch]):
    """User rows (`ray_ggsm.data.schema`) -> batches of a model."""

    def counts(self, rows: pa.Table) -> np.ndarray:
        """Events of each row that are read, int64 (B,)."""

    def sequences(self, rows: pa.Table) -> Sequences[AnyBatch]:
        """Lengths of the rows, and their batches on demand."""

    def batch(self, rows: pa.Table) -> AnyBatch:
        """The batch of rows, in their order."""


class SmallModel(nn.Module, Generic[AnyBatch]):
    """An encoder that is trained and saved as a whole."""

    trains = True
    """Whether there is anything to train."""
    progress: float = 0.0
    """Share of the training steps that are done, for losses that change."""
    nested: tuple[int, ...] = ()
    """Prefixes that the loss is taken over, too (`training.nested`), in kinds whose config says `nests`."""
    source: str | None = None
    """Digest of pretrained weights that are not saved with the encoder; None without such."""
    centre_W: Tensor
    """Mean of the states of training rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre_W", torch.zeros(width))

    def saved_weights(self) -> dict[str, Tensor]:
        """What is saved, by name."""
        return self.state_dict()

    def prepare(self, reader: Any, head: pa.Table, future_days: int | None, seed: int) -> None:
        """Take statistics from training rows, the same on every worker, before the first step."""

    def states(self, batch: AnyBatch) -> Tensor:
        """One state per row, (B, W) float32."""
        raise NotImplementedError

    def training_batch(self, reader: Any, rows: pa.Table, seed: int) -> Any:
        """What `loss` reads of training rows; has `to` and `n_tokens`. `seed` is that of `loss`."""
        return reader.batch(rows)

    def loss(self, batch: Any, workers: Workers, seed: int) -> tuple[Tensor, Metrics]:
        """The loss of the global batch, of which this worker has `batch` (`training_batch`), and further metrics.

        Either every worker computes all of it, from what all gather; parameters that come behind that have names that
        begin with `heads.`. Or each computes its rows' part, and the metrics have `loss`, the sum of the parts. So
        gradients, summed over the workers, are those of one worker with the whole batch. `seed` is the same on all
        workers and differs from step to step.
        """
        raise NotImplementedError

    def text_sequences(self, texts: Sequence[str]) -> Sequences[Any]:
        """As in `Encoder`."""
        raise InputError("encoder: this kind has learned nothing about texts, so users cannot be compared with one")

    def text_vectors(self, batch: Any) -> Tensor:
        """Vectors of texts that users are compared with, (B, W) float32."""
        raise NotImplementedError

    def vectors(self, batch: AnyBatch) -> Tensor:
        """Published vectors, (B, W) float32."""
        return nn.functional.normalize(self.states(batch).float() - self.centre_W, dim=1)


class SmallEncoder:
    """A trained model as an `Encoder`."""

    def __init__(self, model: SmallModel[Any], reader: Reader[Any]) -> None:
        self.model, self.reader = model.eval(), reader

    @property
    def vector_width(self) -> int:
        """As in `Encoder`."""
        return len(self.model.centre_W)

    @property
    def device(self) -> torch.device:
        """As in `Encoder`."""
        return self.model.centre_W.device

    def user_sequences(self, rows: pa.Table) -> Sequences[Any]:
        """As in `Encoder`."""
        return self.reader.sequences(rows)

    def question_sequences(self, rows: pa.Table, queries: Sequence[str]) -> None:
        """As in `Encoder`: these kinds read no queries."""

    def text_sequences(self, texts: Sequence[str]) -> Sequences[Any]:
        """As in `Encoder`."""
        return self.model.text_sequences(texts)

    def events_read(self, rows: pa.Table) -> np.ndarray:
        """As in `Encoder`."""
        return self.reader.counts(rows).astype(np.int32)

    def vectors(self, batch: Any, tower: Tower) -> Tensor:
        """As in `Encoder`."""
        return self.model.vectors(batch) if tower == "user" else self.model.text_vectors(batch)


class SmallLearner:
    """A model in training, as a `Learner`."""

    product_dtype = torch.float32

    def __init__(
        self,
        model: SmallModel[Any],
        reader: Reader[Any],
        description: Callable[[int, dict[str, str]], EncoderDescription],
        config: TrainingConfig,
        workers: Workers,
        seed: int,
        head: pa.Table,
        future_days: int | None,
    ) -> None:
        """Take the model to train.

        Args:
            model: the model.
            reader: builds its batches.
            description: step and digests of files -> what `encoder.json` says.
            config: resolved settings.
            workers: this worker's place among all.
            seed: seed of the draws.
            head: training rows that statistics and the centre are taken from, the same on every worker.
            future_days: days that futures cover.
        """
        self.model, self.reader, self.description = model, reader, description
        self.config, self.workers, self.seed, self.head = config, workers, seed, head
        self.future_days = future_days
        check_nested(config.nested, len(model.centre_W))
        model.nested = config.nested
        self.step = 0
        self.record: dict[str, list[float]] = {}

    @property
    def trains(self) -> bool:
        """As in `Learner`."""
        return self.model.trains

    @property
    def device(self) -> torch.device:
        """As in `Learner`."""
        return self.model.centre_W.device

    @property
    def sources(self) -> dict[str, str]:
        """As in `Learner`."""
        described = self.description(0, {})
        pretrained = {} if described.backbone_digest is None else {"backbone": described.backbone_digest}
        return {"event encoder": described.event_encoder_digest, **pretrained}

    def prepare(self) -> None:
        """As in `Learner`."""
        self.model.prepare(self.reader, self.head, self.future_days, self.seed)
        self.settle()

    def gradients(self, rows: pa.Table) -> Metrics:
        """As in `Learner`."""
        self.model.train()
        self.model.progress = self.step / self.config.total_steps
        seed = self.seed * 1_000_003 + self.step
        batch = self.model.training_batch(self.reader, rows, seed).to(self.device)
        loss, found = self.model.loss(batch, self.workers, seed)
        check_finite(loss.item(), self.step, rows)
        loss.backward()
        weights = sum(p.numel() for p in self.model.parameters())
        return {"loss": loss.item(), **found, "tokens": float(batch.n_tokens), "flops": 6.0 * weights * batch.n_tokens}

    def advance(self) -> None:
        """As in `Learner`."""
        self.step += 1

    @torch.no_grad()
    def held_out(self, rows: pa.Table) -> Metrics:
        """As in `Learner`, always by the loss that training ends with; the draws are the same at every look."""
        self.model.eval()
        self.model.progress = 1.0
        batch = self.model.training_batch(self.reader, rows, self.seed).to(self.device)
        loss, found = self.model.loss(batch, self.workers, self.seed)
        return {"loss": loss.item(), **found}

    @torch.no_grad()
    def settle(self) -> None:
        """As in `Learner`."""
        self.model.eval()
        rows = self.head.slice(0, self.config.centre_rows)
        parts = [rows.slice(start, self.config.batch_size) for start in range(0, len(rows), self.config.batch_size)]
        states = [self.model.states(self.reader.batch(part).to(self.device)) for part in parts]
        self.model.centre_W.copy_(torch.cat(states).mean(dim=0))

    def parameters(self) -> dict[str, nn.Parameter]:
        """As in `Learner`."""
        return dict(self.model.named_parameters())

    def save(self, directory: str) -> None:
        """As in `Learner`."""
        self.save_encoder(directory)

    def restore(self, directory: str, step: int, record: dict[str, list[float]]) -> None:
        """As in `Learner`."""
        load_weights(self.model, directory, directory)
        self.step, self.record = step, record

    def save_encoder(self, location: str) -> None:
        """As in `Learner`."""
        with tempfile.TemporaryDirectory() as directory:
            file = os.path.join(directory, WEIGHTS)
            save_file({name: t.detach().cpu().contiguous() for name, t in self.model.saved_weights().items()}, file)
            files = {WEIGHTS: file_digest(directory, WEIGHTS)}
            storage.upload(directory, location)
        described = self.description(self.step, files).model_dump(mode="json", exclude_none=True)
        storage.write_json(storage.join(location, FILE), described)

    def write_record(self, location: str) -> None:
        """As in `Learner`: there is none."""


def description_of(
    config: Any,
    modalities: tuple[Any, ...],
    features: tuple[str, ...],
    event_width: int,
    digest: str,
    model: SmallModel[Any],
) -> Callable[[int, dict[str, str]], EncoderDescription]:
    """What `encoder.json` says, but for step and files."""

    def described(step: int, files: dict[str, str]) -> EncoderDescription:
        return EncoderDescription(
            format=FORMAT, model=config, step=step, modalities=modalities, feature_names=features,
            event_width=event_width, width=len(model.centre_W), event_encoder_digest=digest,
            backbone_digest=model.source, files=files,
        )  # fmt: skip

    return described


def load_weights(model: SmallModel[Any], directory: str, location: str) -> None:
    """Load the weights in a local directory, in place; errors name it `location`.

    Raises:
        InputError: they are not those of the model.
    """
    state, expected = load_file(os.path.join(directory, WEIGHTS)), model.saved_weights()
    shapes, wanted = ({name: tuple(t.shape) for name, t in each.items()} for each in (state, expected))
    if shapes != wanted:
        odd = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        raise InputError(f"{location}: {WEIGHTS} does not fit the encoder's config: {', '.join(odd[:3])}")
    model.load_state_dict(state, strict=False)  # what is saved was compared


def check_files(saved: SavedEncoder, directory: str) -> None:
    """Check that the files of a saved encoder, in a local directory, are those that were saved.

    Raises:
        InputError: one is not.
    """
    for name, digest in saved.description.files.items():
        if file_digest(directory, name) != digest:
            raise InputError(f"{saved.location}: {name} was changed since it was saved; train again, or restore it")
