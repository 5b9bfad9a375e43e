"""Turns user rows into vectors, in one process and without Ray.

Legend: B rows, N rows of a batch, D width.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ray_ggsm.model.contract import Encoder, EncoderBatch, Sequences, Tower
from ray_ggsm.model.planning import batches_by_length


@dataclass(frozen=True)
class Embedded:
    """The vectors of some rows or texts, in their order."""

    vectors: np.ndarray
    """(B, D) float32, centred and L2-normalised; zero where `fits` is false."""
    fits: np.ndarray
    """(B,) bool: false for a row that does not fit in memory even as the only one of its batch."""


class Embedder:
    """Embeds validated user rows, and texts to compare them with."""

    def __init__(self, encoder: Encoder, tokens_per_batch: int) -> None:
        """Take the encoder; a forward pass gets up to `tokens_per_batch` padded tokens."""
        self.encoder, self.tokens_per_batch = encoder, tokens_per_batch
        self.tokens = 0
        """Number of tokens embedded so far, without padding."""

    @torch.inference_mode()
    def __call__(self, rows: pa.Table) -> Embedded:
        """Vectors of user rows, from the user tower. A batch that does not fit in memory is halved until it does."""
        return self._embed(self.encoder.user_sequences(rows), "user")

    @torch.inference_mode()
    def questions(self, rows: pa.Table, queries: Sequence[str]) -> list[Embedded]:
        """Vectors of user rows for each query ("" for none). Where the encoder's histories do not look at the query,
        each history is encoded once; elsewhere each row is encoded once per query."""
        shared = self.encoder.question_sequences(rows, queries)
        if shared is None or len(queries) == 1:
            return [self(asked(rows, query)) for query in queries]
        found = self._embed(shared, "user", (len(queries), self.encoder.vector_width))
        return [Embedded(found.vectors[:, k], found.fits) for k in range(len(queries))]

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Embedded:
        """Vectors of texts, from the answer tower; they can be compared with those of users."""
        return self._embed(self.encoder.text_sequences(texts), "answer")

    def _embed(self, sequences: Sequences[Any], tower: Tower, shape: tuple[int, ...] = ()) -> Embedded:
        """Vectors of `shape` for each row; by default (D,)."""
        B, shape = len(sequences.length_B), shape or (self.encoder.vector_width,)
        vector_BD, fits_B = np.zeros((B, *shape), dtype=np.float32), np.zeros(B, dtype=bool)
        waiting = batches_by_length(sequences.length_B, self.tokens_per_batch)[::-1]
        for index_N, building in _building(sequences, waiting):
            try:
                vector_BD[index_N], fits_B[index_N] = self._forward(building.result(), tower), True
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(index_N) > 1:
                    waiting += np.array_split(index_N, 2)
        return Embedded(vector_BD, fits_B)

    def _forward(self, batch: EncoderBatch, tower: Tower) -> np.ndarray:
        batch = batch.to(self.encoder.device)
        self.tokens += batch.n_tokens
        vector_ND: np.ndarray = self.encoder.vectors(batch, tower).cpu().numpy()
        return vector_ND


def asked(rows: pa.Table, query: str) -> pa.Table:
    """The rows with this instruction ("" for none) instead of their own."""
    column = pa.array([query or None] * len(rows), pa.string())
    if "query" in rows.column_names:
        return rows.set_column(rows.column_names.index("query"), "query", column)
    return rows.append_column("query", column)


def _building(sequences: Sequences[Any], waiting: list[np.ndarray]) -> Iterator[tuple[np.ndarray, Future[Any]]]:
    """The batches of `waiting`, from its end on, until it is empty; the caller may append more on the way.

    The rows at its end are the longest, so that a batch that does not fit in memory comes first. A thread builds one
    batch while the caller works on the one before.
    """
    started: list[tuple[np.ndarray, Future[Any]]] = []
    with ThreadPoolExecutor(1) as pool:
        while waiting or started:
            while waiting and len(started) < 2:
                index_N = waiting.pop()
                started.append((index_N, pool.submit(sequences.batch, index_N)))
            yield started.pop(0)


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory is the reason for an error; on CPU, torch raises a plain RuntimeError for that."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
