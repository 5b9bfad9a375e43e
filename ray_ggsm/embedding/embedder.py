"""User rows -> vectors, with a saved encoder; no Ray here.

Legend: B rows, L tokens, D width.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from ray_ggsm.model.batch import Batch, Collator, Lookup
from ray_ggsm.model.encoder import Tower
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.model.saved import EncoderBundle


@dataclass(frozen=True)
class Embedded:
    """What came out for some rows or texts, in their order."""

    vectors: np.ndarray
    """(B, D) float32, centred and L2-normalised; zero where `fits` is false."""
    fits: np.ndarray
    """(B,) bool: false for a row that is too large for the memory, alone in its batch."""


class Embedder:
    """Embeds validated user rows."""

    def __init__(
        self, bundle: EncoderBundle, lookup: Lookup, tokens_per_batch: int, finished_mask: bool = False
    ) -> None:
        """Take over the encoder, and folds its LoRA in.

        Args:
            trained: the encoder.
            lookup: event texts -> event vectors.
            tokens_per_batch: padded tokens in one forward pass.
            finished_mask: use the recipe's inference mask even where training stopped half-way.
        """
        self.bundle, self.tokens_per_batch, self.finished_mask = bundle, tokens_per_batch, finished_mask
        self.encoder = bundle.encoder.eval()
        self.encoder.merge_lora()
        self.tokens = 0
        """real tokens so far, without padding"""
        self.collator = Collator(self.encoder.template, bundle.tokenizer, lookup)

    @torch.inference_mode()
    def __call__(self, rows: pa.Table) -> Embedded:
        """Vectors of the user tower. A batch that does not fit is halved until its rows fit, or one row alone does
        not."""
        return self._embed(
            self.collator.user_lengths(rows), lambda chosen: self.collator.users(rows.take(pa.array(chosen))), "user"
        )

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Embedded:
        """Vectors of the answer tower for texts, to be compared with users'."""
        ids = self.collator.text_ids(texts)
        return self._embed(
            np.array([len(i) for i in ids]), lambda chosen: self.collator.answer_ids([ids[n] for n in chosen]), "answer"
        )

    def _embed(self, length_B: np.ndarray, build: Callable[[np.ndarray], Batch], tower: Tower) -> Embedded:
        vector_BD = np.zeros((len(length_B), self.encoder.width), dtype=np.float32)
        fits_B = np.zeros(len(length_B), dtype=bool)
        waiting = batches_by_length(length_B, self.tokens_per_batch)[::-1]
        with ThreadPoolExecutor(1) as pool:  # builds a batch while the device works on the one before

            def start_next() -> tuple[np.ndarray, Future[Batch]] | None:
                if not waiting:
                    return None
                chosen = waiting.pop()  # the longest first: what does not fit shows at once
                return chosen, pool.submit(build, chosen)

            current = start_next()
            while current:
                (chosen, built), current = current, start_next()
                try:
                    vector_BD[chosen], fits_B[chosen] = self._forward(built.result(), tower), True
                except (MemoryError, RuntimeError) as error:
                    if not _out_of_memory(error):
                        raise
                    if len(chosen) > 1:
                        waiting += np.array_split(chosen, 2)
                        current = current or start_next()
        return Embedded(vector_BD, fits_B)

    def _forward(self, batch: Batch, tower: Tower) -> np.ndarray:
        batch = batch.to(self.encoder.device)
        self.tokens += batch.n_tokens
        weight = self.bundle.embedding_weight(batch.layout.tokens, self.finished_mask)
        vector_BD: np.ndarray = self.encoder.vectors(self.encoder(batch, weight), tower).cpu().numpy()
        return vector_BD


def _out_of_memory(error: BaseException) -> bool:
    """On CPU, torch tells it in words only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
