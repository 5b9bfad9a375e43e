"""Which events of a user row moved a probe's score: each taken away, integrated gradients, and the deletion test.

Legend: K variants of a row, E events, W width of the vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from ray_ggsm.config import InputError
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.encoders.small_model import SmallEncoder
from ray_ggsm.encoders.stream import StreamReader
from ray_ggsm.evaluation.probe_task import Probe
from ray_ggsm.explaining.config import DeletionConfig
from ray_ggsm.explaining.events import event_counts, events_read, without
from ray_ggsm.explaining.gradients import Attribution
from ray_ggsm.hashing import hash64
from ray_ggsm.model.contract import Encoder
from ray_ggsm.model.modality import Modality

Method = Literal["leave_one_out", "integrated_gradients"]
METHODS: tuple[Method, ...] = ("leave_one_out", "integrated_gradients")


@dataclass(frozen=True)
class Moves:
    """How far deletions move the score of one row."""

    explained: dict[Method, float]
    """Without the events that the method ranks first."""
    random: float
    """Without as many random events: the mean over draws."""


@dataclass(frozen=True)
class ExplainedRow:
    """What moved one row's score."""

    rows: pa.Table
    """The row, with the events that the encoder reads."""
    score: float
    effects: dict[Method, np.ndarray]
    """(E,) each, float64: score minus what it would be without the event; the mean's share for gradients."""
    attribution: Attribution | None
    moves: Moves | None
    """None for a row with too few events."""


@dataclass(frozen=True)
class ReadEvents:
    """Which events an encoder reads."""

    modalities: Sequence[Modality]
    newest: int | None

    @classmethod
    def of(cls, encoder: Encoder) -> "ReadEvents":
        """Those of a language model, or of a kind that reads streams.

        Raises:
            InputError: the encoder is of another kind.
        """
        if isinstance(encoder, LanguageModel):
            return cls(encoder.model.template.modalities, None)
        if isinstance(encoder, SmallEncoder) and isinstance(encoder.reader, StreamReader):
            return cls(encoder.reader.modalities, encoder.reader.newest)
        raise InputError(
            "encoder: this kind does not read events one by one, so none can be taken away; explanations work for the "
            "language model and for kinds that read streams of events"
        )


class Explainer:
    """Explains rows one after the other."""

    def __init__(
        self,
        embedder: Embedder,
        probe: Probe,
        gradients: Callable[[pa.Table], Attribution] | None,
        deletion: DeletionConfig,
        seed: int,
    ) -> None:
        """Take the encoder and the probe.

        Args:
            embedder: the encoder, as embedding uses it.
            probe: the fitted probe.
            gradients: integrated gradients of rows; None where there are none.
            deletion: the deletion test.
            seed: seed of its random events.
        """
        self.embedder, self.probe, self.gradients = embedder, probe, gradients
        self.deletion, self.seed = deletion, seed
        self.read = ReadEvents.of(embedder.encoder)

    def __call__(self, row: pa.Table) -> ExplainedRow:
        """Explain one row."""
        row = events_read(row, self.read.modalities, self.read.newest)
        E = int(event_counts(row, self.read.modalities).sum())
        score_K = self._scores(row, [np.zeros(0, dtype=np.int64), *np.arange(E)[:, None]])
        effects: dict[Method, np.ndarray] = {"leave_one_out": score_K[0] - score_K[1:]}
        attribution = self.gradients(row) if self.gradients else None
        if attribution is not None:
            effects["integrated_gradients"] = attribution.effect_E
        moves = self._moves(row, score_K[0], effects) if self.deletion.events < E else None
        return ExplainedRow(row, float(score_K[0]), effects, attribution, moves)

    def _moves(self, row: pa.Table, score: float, effects: dict[Method, np.ndarray]) -> Moves:
        k, E = self.deletion.events, len(effects["leave_one_out"])
        key = int(hash64([f"{row['user_id'][0]} {row['as_of'][0]}"])[0])
        draw = np.random.default_rng([self.seed, key])
        random = [draw.choice(E, k, replace=False) for _ in range(self.deletion.draws)]
        score_K = self._scores(row, [*(first_events(effect_E, k) for effect_E in effects.values()), *random])
        moved_K = np.abs(score - score_K)
        n = len(effects)
        return Moves(dict(zip(effects, moved_K[:n].tolist(), strict=True)), float(moved_K[n:].mean()))

    def _scores(self, row: pa.Table, dropped: Sequence[np.ndarray]) -> np.ndarray:
        """Scores of the row's variants without these events, float64 (K,)."""
        variants = without(row, self.read.modalities, np.zeros(len(dropped), dtype=np.int64), dropped)
        embedded = self.embedder(variants)
        if not embedded.fits.all():
            raise InputError("embedding: a row of these does not fit in memory; keep fewer events, or use a larger one")
        return np.asarray(self.probe.scores(embedded.vectors), dtype=np.float64)


def first_events(effect_E: np.ndarray, k: int) -> np.ndarray:
    """The k events with the largest effects, whether they raise the score or lower it."""
    return np.argsort(-np.abs(effect_E), kind="stable")[:k]
