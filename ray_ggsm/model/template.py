"""The input template: which token stands where, and which slot it fills. Paper, Fig. 4 and eq. 9-10.

    <bill> B </bill> ... <tabular> T </tabular> Instruction: {query} <USER>

Every event and every tabular vector takes one position. The answer tower has two forms: answer text followed by EOS
(paper, A.3), or sampled future events between the same tags, followed by <ANSWER>.

A layout is built from segments: consecutive positions of one kind. All rows have the same segments in the same order,
with lengths of their own, so a whole batch is laid out with a few array operations.

Legend: B rows, S segments, L tokens of the longest row, T tokens of all rows together, E events of all rows together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ray_ggsm.masks import Tokens

USER_TOKEN = "<USER>"
ANSWER_TOKEN = "<ANSWER>"
GLOBAL_TOKEN = "<GLOBAL>"
TABULAR = "tabular"


@dataclass(frozen=True)
class Modality:
    """One kind of event sequence."""

    name: str
    keep: int
    """Newest events kept per row."""


@dataclass(frozen=True)
class Layout:
    """Where everything stands in a padded batch; -1 marks positions that a field says nothing about."""

    tokens: Tokens
    id_BL: torch.Tensor
    """int64: index into the tower's token ids (tags first, then text), -1 where a vector is put in."""
    event_BL: torch.Tensor
    """int64: index of the event among all E events, modality by modality, row by row within a modality."""
    tabular_BL: torch.Tensor
    """int64: which of the tabular vectors."""
    last_B: torch.Tensor
    """int64: position of the row's last token (<USER>, <ANSWER> or EOS)."""
    global_B: torch.Tensor | None = None
    """int64: position of the row's global query; None where the template or the tower has none."""


@dataclass(frozen=True)
class _Segment:
    """Consecutive positions of one kind; the unused ones of `id`, `event`, `tabular` are None."""

    length_B: np.ndarray
    slot: int
    id: int | None = None
    event_B: np.ndarray | None = None
    """index of each row's first event"""
    tabular: bool = False
    newest_first: bool = False
    """slots count back from the last position (recency rank), not forward from the first"""
    history: bool = True
    """part of the user segment, not of the text after it"""
    slots: int = 1
    """how many slots the segment has; later positions share the last"""


@dataclass(frozen=True)
class Template:
    """The order of modalities, tags and special tokens, and the numbering of slots."""

    modalities: tuple[Modality, ...]
    tabular_tokens: int
    """Vectors that the tabular features become; 0 when there are none."""
    max_text_tokens: int
    """Longest instruction or answer text, in tokens."""
    global_query: bool = False
    """A token after the history that joins the user vector (mask recipe hybrid_gq)."""

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """The added tokens, in the order of their ids."""
        names = [m.name for m in self.modalities] + ([TABULAR] if self.tabular_tokens else [])
        special = (USER_TOKEN, ANSWER_TOKEN, *([GLOBAL_TOKEN] if self.global_query else []))
        return (*(tag for name in names for tag in (f"<{name}>", f"</{name}>")), *special)

    @cached_property
    def slot_names(self) -> tuple[str, ...]:
        """One name per slot: tags, `modality[recency rank]` (0 is the newest), `tabular[k]`, and `text`."""
        events = [f"{m.name}[{rank}]" for m in self.modalities for rank in range(m.keep)]
        return (*self.tags, *events, *(f"{TABULAR}[{k}]" for k in range(self.tabular_tokens)), "text")

    @property
    def n_positions(self) -> int:
        """Longest possible sequence, in tokens."""
        return len(self.tags) + sum(m.keep for m in self.modalities) + self.tabular_tokens + self.max_text_tokens

    def every_slot(self) -> Tokens:
        """One row that fills every slot once, to look at what a mask does per slot."""
        n = len(self.slot_names)
        all_1S = torch.ones(1, n, dtype=torch.bool)
        return Tokens(all_1S, torch.arange(n)[None], all_1S, n, self.n_positions)

    def user_layout(self, events_MB: np.ndarray, text_B: np.ndarray) -> Layout:
        """The user tower's layout.

        Args:
            events_MB: int, number of events per modality and row, at most the modality's `keep`.
            text_B: int, number of instruction tokens per row.
        """
        segments = self._event_segments(events_MB)
        one_B = np.ones_like(text_B)
        if self.tabular_tokens:
            segments += [
                self._tag(f"<{TABULAR}>", one_B),
                _Segment(
                    one_B * self.tabular_tokens, self._slot(f"{TABULAR}[0]"), tabular=True, slots=self.tabular_tokens
                ),
                self._tag(f"</{TABULAR}>", one_B),
            ]
        if self.global_query:
            segments.append(replace(self._tag(GLOBAL_TOKEN, one_B), history=False))
        segments += [self._text(text_B), replace(self._tag(USER_TOKEN, one_B), history=False)]
        layout = self._lay_out(segments)
        if self.global_query:
            return replace(layout, global_B=layout.last_B - torch.from_numpy(text_B) - 1)
        return layout

    def answer_events_layout(self, events_MB: np.ndarray) -> Layout:
        """The answer tower's layout for sampled future events; `events_MB` as in `user_layout`."""
        segments = self._event_segments(events_MB)
        segments.append(self._tag(ANSWER_TOKEN, np.ones(events_MB.shape[1], dtype=np.int64)))
        return self._lay_out(segments)

    def answer_text_layout(self, text_B: np.ndarray) -> Layout:
        """The answer tower's layout for text; `text_B` counts the tokens of each row, EOS included."""
        return self._lay_out([self._text(text_B)])

    def _event_segments(self, events_MB: np.ndarray) -> list[_Segment]:
        one_B = np.ones(events_MB.shape[1], dtype=np.int64)
        first_MB = (np.cumsum(events_MB.reshape(-1)) - events_MB.reshape(-1)).reshape(events_MB.shape)
        segments = []
        for modality, length_B, event_B in zip(self.modalities, events_MB, first_MB, strict=True):
            slot = self._slot(f"{modality.name}[0]")
            segments += [
                self._tag(f"<{modality.name}>", one_B),
                _Segment(length_B, slot, event_B=event_B, newest_first=True, slots=modality.keep),
                self._tag(f"</{modality.name}>", one_B),
            ]
        return segments

    def _tag(self, tag: str, one_B: np.ndarray) -> _Segment:
        return _Segment(one_B, self._slot(tag), id=self.tags.index(tag))

    def _text(self, text_B: np.ndarray) -> _Segment:
        return _Segment(text_B, self._slot("text"), id=len(self.tags), history=False)

    @cached_property
    def _slots(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.slot_names)}

    def _slot(self, name: str) -> int:
        return self._slots[name]

    def _lay_out(self, segments: Sequence[_Segment]) -> Layout:
        length_BS = np.stack([s.length_B for s in segments], axis=1).astype(np.int64)
        B, S = length_BS.shape
        flat = length_BS.reshape(-1)
        segment_T = np.repeat(np.tile(np.arange(S), B), flat)
        rank_T = np.arange(flat.sum()) - np.repeat(np.cumsum(flat) - flat, flat)
        row_length_B = length_BS.sum(axis=1)
        row_T = np.repeat(np.arange(B), row_length_B)
        column_T = np.arange(flat.sum()) - np.repeat(np.cumsum(row_length_B) - row_length_B, row_length_B)

        # slots: forward from the segment's first position, or back from its last
        from_end_T = length_BS[row_T, segment_T] - 1 - rank_T
        back_S = np.array([s.newest_first for s in segments])
        limit_S = np.array([s.slots - 1 for s in segments])
        slot_T = np.array([s.slot for s in segments])[segment_T] + np.minimum(
            np.where(back_S[segment_T], from_end_T, rank_T), limit_S[segment_T]
        )

        id_S = np.array([-1 if s.id is None else s.id for s in segments])
        id_T = id_S[segment_T]
        is_text_T = id_T == len(self.tags)
        id_T[is_text_T] += np.arange(is_text_T.sum())
        event_BS = np.stack([np.full(B, -1) if s.event_B is None else s.event_B for s in segments], axis=1)
        first_T = event_BS[row_T, segment_T]
        event_T = np.where(first_T >= 0, first_T + rank_T, -1)
        tabular_T = np.where(np.array([s.tabular for s in segments])[segment_T], rank_T, -1)

        def padded(values_T: np.ndarray, fill: int) -> torch.Tensor:
            values_BL = np.full((B, row_length_B.max()), fill, dtype=np.int64)
            values_BL[row_T, column_T] = values_T
            return torch.from_numpy(values_BL)

        valid_BL = torch.arange(int(row_length_B.max())) < torch.from_numpy(row_length_B)[:, None]
        history_T = np.array([s.history for s in segments])[segment_T]
        tokens = Tokens(
            valid_BL, padded(slot_T, 0), padded(history_T, 0).bool(), len(self.slot_names), self.n_positions
        )
        return Layout(
            tokens, padded(id_T, -1), padded(event_T, -1), padded(tabular_T, -1), torch.from_numpy(row_length_B - 1)
        )
