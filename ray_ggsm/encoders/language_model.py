"""The language model with LoRA and a mask recipe (`kind: llm`): the paper's encoder."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from ray_ggsm.model.backbone import shortest_window
from ray_ggsm.model.batch import Batch, Collator
from ray_ggsm.model.contents import Lookup
from ray_ggsm.model.contract import Sequences, Tower
from ray_ggsm.model.events import kept_events
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.model.soft_prompt import ids_of


class LanguageModel:
    """A trained language model as an `Encoder`. Its LoRA is merged, so it cannot be trained any more."""

    def __init__(self, bundle: EncoderBundle, lookup: Lookup, finished_mask: bool = False) -> None:
        """Take the encoder.

        Args:
            bundle: the encoder; changed in place.
            lookup: event texts -> event vectors.
            finished_mask: use the recipe's inference mask even if training stopped half-way.
        """
        self.bundle, self.model, self.finished_mask = bundle, bundle.encoder.eval(), finished_mask
        self.model.merge_lora()
        self.collator = Collator(self.model.template, bundle.tokenizer, lookup)

    def use_prompts(self, prompts: dict[str, torch.Tensor]) -> None:
        """Have instructions stand for soft prompts: their vectors, (P, D) float32, by instruction."""
        vocabulary = self.model.backbone.get_input_embeddings().num_embeddings
        self.collator.prompt_ids = ids_of(prompts, vocabulary)
        self.model.soft_prompts = tuple(vector_PD.to(self.device) for vector_PD in prompts.values())

    @property
    def vector_width(self) -> int:
        """As in `Encoder`."""
        return self.model.vector_width

    @property
    def device(self) -> torch.device:
        """As in `Encoder`."""
        return self.model.device

    def user_sequences(self, rows: pa.Table) -> Sequences[Batch]:
        """As in `Encoder`."""
        return self.collator.user_sequences(rows)

    def question_sequences(self, rows: pa.Table, queries: Sequence[str]) -> Sequences[Batch] | None:
        """As in `Encoder`.

        None where the mask lets a history see what it is asked, or where a layer's window is shorter than a history
        with all questions: it would hide the history from the last ones.
        """
        if self.bundle.recipe.history_sees_query:
            return None
        sequences = self.collator.question_sequences(rows, queries)
        window = shortest_window(self.model.backbone)
        return None if window is not None and sequences.length_B.max(initial=0) > window else sequences

    def text_sequences(self, texts: Sequence[str]) -> Sequences[Batch]:
        """As in `Encoder`."""
        sequences = self.collator.text_sequences(texts)
        self.model.check_length(int(sequences.length_B.max(initial=0)))
        return sequences

    def events_read(self, rows: pa.Table) -> np.ndarray:
        """As in `Encoder`."""
        return kept_events(rows, self.model.template.modalities).sum(axis=0).astype(np.int32)

    def vectors(self, batch: Batch, tower: Tower) -> torch.Tensor:
        """As in `Encoder`."""
        state = self.model(batch, self.bundle.embedding_weight(batch.layout.tokens, self.finished_mask))
        return self.model.vectors(state.flatten(0, -2), tower).unflatten(0, state.shape[:-1])
