"""User rows (Arrow) -> the encoder's input: a layout, token ids, event vectors and numbers.

Legend: M modalities, B rows, N chosen rows, E events of the batch (modality by modality, row by row, oldest first),
F tabular features, T text tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from ray_ggsm.model.contents import Contents, Lookup, contents_of
from ray_ggsm.model.contract import Sequences
from ray_ggsm.model.events import Events, history_events, kept_events, no_events
from ray_ggsm.model.layout import Layout
from ray_ggsm.model.modality import field_names
from ray_ggsm.model.template import TABULAR, Template

if TYPE_CHECKING:
    import transformers

Data = TypeVar("Data")


@dataclass(frozen=True)
class Batch:
    """The padded input of one tower."""

    layout: Layout
    text_ids_T: torch.Tensor
    """int64: token ids of instructions or answer texts."""
    contents: Contents
    """What the events hold."""
    age_E: torch.Tensor
    """float32: days before as_of."""
    amount_E: torch.Tensor
    """float32: NaN where an event has none."""
    tabular_BF: torch.Tensor | None
    """float32: features as they are in the rows; None without features and in the answer tower."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return on_device(self, device)

    @property
    def n_tokens(self) -> int:
        """Number of real tokens, without padding."""
        return int(self.layout.last_B.sum()) + len(self.layout.last_B)


class Collator:
    """Builds the batches of both towers."""

    def __init__(self, template: Template, tokenizer: "transformers.PreTrainedTokenizerBase", lookup: Lookup) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.lookup = lookup
        self.prompt_ids: Mapping[str, list[int]] = {}
        """Query that stands for a soft prompt -> ids of its vectors (`UserEncoder.soft_prompts`)."""

    def user_sequences(self, rows: pa.Table, answers: Sequence[list[int]] | None = None) -> Sequences[Batch]:
        """The user tower's sequences for user rows; `answers` are as in `users`."""
        length_B = self.user_lengths(rows) + (0 if answers is None else _counts(answers))

        def batch(index_N: np.ndarray) -> Batch:
            return self.users(rows.take(pa.array(index_N)), answers and [answers[n] for n in index_N])

        return Sequences(length_B, batch)

    def question_sequences(self, rows: pa.Table, queries: Sequence[str]) -> Sequences[Batch]:
        """The user tower's sequences for user rows that are all asked the same Q things, after one history each."""
        ids = self._instructed(queries)
        kept_MB = kept_events(rows, self.template.modalities)
        length_B = self.template.questions_lengths(kept_MB, _counts(ids))
        return Sequences(length_B, lambda index_N: self._asked(rows.take(pa.array(index_N)), ids))

    def _asked(self, rows: pa.Table, ids: list[list[int]]) -> Batch:
        events = history_events(rows, self.template.modalities)
        layout = self.template.questions_layout(events.count_MB, _counts(ids))
        return self._user_batch(layout, ids * len(rows), events, rows)

    def users(self, rows: pa.Table, answers: Sequence[list[int]] | None = None) -> Batch:
        """The user tower's batch for user rows (`ray_ggsm.data.schema`), in their order.

        Args:
            rows: the rows.
            answers: token ids of each row's answer, which is appended behind <USER>, hidden from all before it; empty
                for a row without one. None: no row has one.
        """
        events = history_events(rows, self.template.modalities)
        ids = self._instruction_ids(rows)
        layout = self.template.user_layout(events.count_MB, _counts(ids), None if answers is None else _counts(answers))
        ids = ids if answers is None else [query + answer for query, answer in zip(ids, answers, strict=True)]
        return self._user_batch(layout, ids, events, rows)

    def user_lengths(self, rows: pa.Table) -> np.ndarray:
        """Tokens per row in the user tower, int64 (B,)."""
        ids = self._instruction_ids(rows)
        return self.template.user_lengths(kept_events(rows, self.template.modalities), _counts(ids))

    def bag(self, rows: pa.Table) -> tuple[Contents, torch.Tensor]:
        """What the histories' events hold, without event vectors, and the number of events of each row and modality,
        int64 (B, M), to fit a bag to."""
        events = history_events(rows, self.template.modalities)
        names = field_names(self.template.modalities)
        contents = contents_of(events, lambda texts: np.zeros((len(texts), 0)), *names, hashed=True)
        return contents, torch.from_numpy(events.count_MB.T)

    def numbers(self, rows: pa.Table) -> torch.Tensor:
        """The number fields of the histories' events, (E, N) float32, NaN where an event has none."""
        events = history_events(rows, self.template.modalities)
        _, names = field_names(self.template.modalities)
        columns = [events.fields[name].to_numpy(zero_copy_only=False).astype(np.float32) for name in names]
        return torch.from_numpy(np.stack(columns, axis=1) if columns else np.zeros((len(events.age_E), 0), np.float32))

    def event_sequences(self, events: Events) -> Sequences[Batch]:
        """The answer tower's sequences for sampled future events."""
        lengths_B = self.template.answer_events_lengths(events.count_MB)
        return Sequences(lengths_B, lambda index_N: self._answer_events(events.take(index_N)))

    def answer_ids(self, texts: Sequence[str | None]) -> list[list[int]]:
        """Token ids of answers, however long, with EOS at the end; none for None."""
        ids, end = self._token_ids([text or "" for text in texts]), self.tokenizer.eos_token_id
        return [[] if text is None else [*tokens, end] for text, tokens in zip(texts, ids, strict=True)]

    def text_sequences(self, texts: Sequence[str]) -> Sequences[Batch]:
        """The answer tower's sequences for texts, with their `answer_ids`."""
        ids = self.answer_ids(texts)
        return Sequences(_counts(ids), lambda index_N: self._answer_ids([ids[n] for n in index_N]))

    def _answer_events(self, events: Events) -> Batch:
        return self._batch(self.template.answer_events_layout(events.count_MB), [], events, None)

    def _answer_ids(self, ids: list[list[int]]) -> Batch:
        layout = self.template.answer_text_layout(_counts(ids))
        return self._batch(layout, ids, no_events(self.template.modalities, len(ids)), None)

    def _instruction_ids(self, rows: pa.Table) -> list[list[int]]:
        """Token ids of each row's instruction, cut to the template's limit."""
        return self._instructed(_queries(rows))

    def _instructed(self, queries: Sequence[str | None]) -> list[list[int]]:
        """Token ids of instructions, cut to the template's limit; a soft prompt stands behind the bare word."""
        prompts = [self.prompt_ids.get(query or "") for query in queries]
        texts = [instruction_text(None if prompt else query) for query, prompt in zip(queries, prompts, strict=True)]
        cut = [ids[: self.template.max_text_tokens] for ids in self._token_ids(texts)]
        return [ids + (prompt or []) for ids, prompt in zip(cut, prompts, strict=True)]

    def instruction_tokens_cut(self, rows: pa.Table) -> np.ndarray:
        """Tokens of each row's instruction that are left out (`max_text_tokens`), int64 (B,)."""
        texts = [instruction_text(query) for query in _queries(rows)]
        return np.maximum(0, _counts(self._token_ids(texts)) - self.template.max_text_tokens)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        if not len(texts):
            return []
        encoded: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=False, split_special_tokens=True
        )["input_ids"]
        return encoded

    def _user_batch(self, layout: Layout, ids: list[list[int]], events: Events, rows: pa.Table) -> Batch:
        tabular_BF = tabular_matrix(rows) if self.template.tabular_tokens else None
        return self._batch(layout, ids, events, tabular_BF, self.template.bag)

    def _batch(
        self, layout: Layout, ids: list[list[int]], events: Events, tabular_BF: torch.Tensor | None, bag: bool = False
    ) -> Batch:
        flat = np.array([token for row in ids for token in row], dtype=np.int64)
        contents = contents_of(events, self.lookup, *field_names(self.template.modalities), hashed=bag)
        age_E, amount_E = torch.from_numpy(events.age_E), torch.from_numpy(events.amount_E)
        return Batch(layout, torch.from_numpy(flat), contents, age_E, amount_E, tabular_BF)


def tabular_matrix(rows: pa.Table) -> torch.Tensor:
    """The `tabular` column, (B, F) float32."""
    flat = rows[TABULAR].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.astype(np.float32).reshape(len(rows), -1))


def _counts(ids: Sequence[list[int]]) -> np.ndarray:
    return np.array([len(row) for row in ids], dtype=np.int64)


def _queries(rows: pa.Table) -> list[str | None]:
    return rows["query"].to_pylist() if "query" in rows.column_names else [None] * len(rows)


def instruction_text(query: str | None) -> str:
    """The text of an instruction in the template."""
    return "Instruction:" + (f" {query}" if query else "")


def on_device(value: Data, device: torch.device) -> Data:
    """Tensors on the device, also those inside of dataclasses; any other value unchanged."""
    moved: Any = value
    if isinstance(value, torch.Tensor):
        moved = value.to(device, non_blocking=True)
    elif is_dataclass(value) and not isinstance(value, type):
        moved = replace(value, **{f.name: on_device(getattr(value, f.name), device) for f in fields(value)})
    return moved
