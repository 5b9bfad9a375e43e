"""One worker's part of a batch: its rows, their answers, and both towers' sequences.

Legend: b rows of this worker, N answers to them (one per row and draw).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ray_ggsm.hashing import hash64
from ray_ggsm.model.batch import Batch, Collator
from ray_ggsm.model.contract import Sequences, Tower
from ray_ggsm.model.encoder import UserEncoder
from ray_ggsm.training.answers import draw_answers
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.questions import without_some_queries
from ray_ggsm.training.towers import Towers


@dataclass(frozen=True)
class Part:
    """One worker's rows of a batch, b of them."""

    rows: pa.Table
    towers: Towers
    user_ids_b: Tensor
    """As `user_ids`."""
    answer_ids_N: Tensor
    """int64: one per row and draw, equal for equal answers."""
    appended_tokens: int
    """Tokens of answers behind <USER>."""


def part_of(
    rows: pa.Table,
    encoder: UserEncoder,
    collator: Collator,
    config: TrainingConfig,
    seed: int,
    answer_seed: int,
    appended: bool,
) -> Part:
    """Draw the answers, and divide both towers' sequences into micro-batches.

    Args:
        rows: this worker's rows of the batch.
        encoder: the encoder.
        collator: builds its batches.
        config: resolved settings.
        seed: seed of dropout.
        answer_seed: seed of answers, and of queries that are left out; the same on all workers.
        appended: append the text answers of the first draw behind <USER>, to learn their words.
    """
    if config.questions is not None:
        rows = without_some_queries(rows, config.questions.without_query, answer_seed)
    answers = draw_answers(rows, collator, config.answer, answer_seed)
    ids = collator.answer_ids(answers.texts[: len(rows)]) if appended else None
    sequences: dict[Tower, Sequences[Batch]] = {
        "user": collator.user_sequences(rows, ids),
        "answer": answers.sequences,
    }
    towers = Towers(encoder, sequences, config.tokens_per_micro_batch, seed)
    return Part(
        rows,
        towers,
        user_ids(rows).to(encoder.device),
        torch.from_numpy(answers.id_N).to(encoder.device),
        sum(map(len, ids or ())),
    )


def user_ids(rows: pa.Table) -> Tensor:
    """A number per row that is the same for all rows of a user, on every worker, int64 (b,)."""
    return torch.from_numpy(hash64(rows["user_id"]).view(np.int64).copy())
