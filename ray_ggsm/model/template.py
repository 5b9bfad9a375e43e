"""The input template: the order of tokens, and the slot each of them fills. Paper, Fig. 4 and eq. 9-10.

    <bill> B </bill> ... <tabular> T </tabular> Instruction: {query} <USER>

Every event and every tabular vector takes one position. The answer tower has two forms: answer text followed by EOS
(paper, A.3), or sampled future events between the same tags, followed by <ANSWER>.

With summaries (Q-Anchor, 3.2), the row begins with a token for the user and one for each modality that is not empty.

Legend: M modalities, B rows.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ray_ggsm.masks import Tokens
from ray_ggsm.model.layout import Layout, Segment, lay_out, lengths
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.ragged import starts

USER_TOKEN = "<USER>"
ANSWER_TOKEN = "<ANSWER>"
GLOBAL_TOKEN = "<GLOBAL>"
TABULAR = "tabular"
SUMMARY = "MEAN"


@dataclass(frozen=True)
class Template:
    """The order of modalities, tags and special tokens, and the numbering of slots."""

    modalities: tuple[Modality, ...]
    tabular_tokens: int
    """Number of vectors that the tabular features become; 0 without features."""
    max_text_tokens: int
    """Longest instruction, in tokens; an answer may be longer."""
    global_query: bool = False
    """Whether a token after the history joins the user vector (mask recipe hybrid_gq)."""
    summary_tokens: bool = False
    """Whether user rows begin with summaries of the user and of each modality."""
    bag: bool = False
    """Whether the contents of events come with their hashes, for a bag of them (`ray_ggsm.model.bag`)."""

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """The added tokens, in the order of their ids."""
        names = [m.name for m in self.modalities] + ([TABULAR] if self.tabular_tokens else [])
        special = (USER_TOKEN, ANSWER_TOKEN, *([GLOBAL_TOKEN] if self.global_query else []))
        return (*(tag for name in names for tag in (f"<{name}>", f"</{name}>")), *special)

    @cached_property
    def slot_names(self) -> tuple[str, ...]:
        """One name per slot: tags, `modality[recency rank]` (0 is the newest), `tabular[k]`, and `text`; then the
        summaries, `MEAN` of the user and `MEAN[modality]`."""
        events = [f"{m.name}[{rank}]" for m in self.modalities for rank in range(m.keep)]
        tabular = [f"{TABULAR}[{k}]" for k in range(self.tabular_tokens)]
        return (*self.tags, *events, *tabular, "text", *self._summaries)

    @cached_property
    def _summaries(self) -> tuple[str, ...]:
        """Slots of the summaries, in their order."""
        names = [m.name for m in self.modalities] + ([TABULAR] if self.tabular_tokens else [])
        return (SUMMARY, *(f"{SUMMARY}[{name}]" for name in names)) if self.summary_tokens else ()

    @cached_property
    def block_S(self) -> torch.Tensor:
        """The block of the history that each slot belongs to, int64: a modality or the features, with their tags and
        summaries; -1 for the user's summary and for the slots after the history."""
        blocks = {m.name: i for i, m in enumerate(self.modalities)} | {TABULAR: len(self.modalities)}
        names = [re.sub(rf"^{SUMMARY}\[(.*)\]$|\[.*$|[</>]", r"\1", name) for name in self.slot_names]
        return torch.tensor([blocks.get(name, -1) for name in names])

    @property
    def n_positions(self) -> int:
        """Length of the longest possible sequence, in tokens."""
        events = sum(m.keep for m in self.modalities)
        return len(self.tags) + len(self._summaries) + events + self.tabular_tokens + self.max_text_tokens

    def every_slot(self) -> Tokens:
        """One row that fills every slot once, to see a mask slot by slot: a user's longest row with one token of text,
        and at its end the answer's tag."""
        keep_M1 = np.array([m.keep for m in self.modalities], dtype=np.int64).reshape(-1, 1)
        one_1 = np.ones(1, dtype=np.int64)
        return self._lay_out([*self._user_segments(keep_M1, one_1), self._tag(ANSWER_TOKEN, one_1)]).tokens

    def user_layout(self, events_MB: np.ndarray, text_B: np.ndarray, answer_B: np.ndarray | None = None) -> Layout:
        """The user tower's layout.

        Args:
            events_MB: int, number of events per modality and row, at most the modality's `keep`.
            text_B: int, number of instruction tokens per row.
            answer_B: int, number of tokens of the answer behind <USER>; None: no row has one.
        """
        segments = self._user_segments(events_MB, text_B)
        if answer_B is not None:
            segments.append(replace(self._text(answer_B), is_answer=True))
        layout = self._lay_out(segments)
        if self.global_query:
            return replace(layout, global_B=layout.last_B - torch.from_numpy(text_B) - 1)
        return layout

    def questions_layout(self, events_MB: np.ndarray, text_Q: np.ndarray) -> Layout:
        """The user tower's layout for rows that all have the same Q instructions, which share the row's history.

        Args:
            events_MB: as in `user_layout`.
            text_Q: int, number of tokens of each instruction.
        """
        layout = self._lay_out(self._question_segments(events_MB, text_Q))
        # the last instruction ends the row, and each before it ends where the next one begins
        after_Q = np.concatenate([np.cumsum((text_Q + 1)[::-1])[::-1][1:], [0]])
        last_BQ = layout.last_B[:, None] - torch.from_numpy(after_Q)
        first_B = layout.last_B - int((text_Q + 1).sum())
        return replace(layout, last_BQ=last_BQ, global_B=first_B if self.global_query else None)

    def questions_lengths(self, events_MB: np.ndarray, text_Q: np.ndarray) -> np.ndarray:
        """Tokens per row of `questions_layout`, int64 (B,)."""
        return lengths(self._question_segments(events_MB, text_Q))

    def user_lengths(self, events_MB: np.ndarray, text_B: np.ndarray) -> np.ndarray:
        """Tokens per row of `user_layout`, int64 (B,)."""
        return lengths(self._user_segments(events_MB, text_B))

    def answer_events_layout(self, events_MB: np.ndarray) -> Layout:
        """The answer tower's layout for sampled future events; `events_MB` as in `user_layout`."""
        return self._lay_out(self._answer_segments(events_MB))

    def answer_events_lengths(self, events_MB: np.ndarray) -> np.ndarray:
        """Tokens per row of `answer_events_layout`, int64 (B,)."""
        return lengths(self._answer_segments(events_MB))

    def answer_text_layout(self, text_B: np.ndarray) -> Layout:
        """The answer tower's layout for text; `text_B` is the number of tokens per row, EOS included."""
        return self._lay_out([self._text(text_B)])

    def event_counts(self, layout: Layout) -> torch.Tensor:
        """Events of each row and modality in a layout of this template, int64 (B, M)."""
        block_BL = self.block_S.to(layout.event_BL.device)[layout.tokens.slot_BL].masked_fill(layout.event_BL < 0, -1)
        return torch.stack([(block_BL == m).sum(dim=1) for m in range(len(self.modalities))], dim=1)

    def _user_segments(self, events_MB: np.ndarray, text_B: np.ndarray) -> list[Segment]:
        segments, one_B = self._summary_segments(events_MB) + self._event_segments(events_MB), np.ones_like(text_B)
        if self.tabular_tokens:
            n, slot = self.tabular_tokens, self._slot(f"{TABULAR}[0]")
            tabular = Segment(one_B * n, slot, slots=n, is_tabular=True)
            segments += [self._tag(f"<{TABULAR}>", one_B), tabular, self._tag(f"</{TABULAR}>", one_B)]
        if self.global_query:
            segments.append(replace(self._tag(GLOBAL_TOKEN, one_B), in_history=False))
        return [*segments, self._text(text_B), replace(self._tag(USER_TOKEN, one_B), in_history=False)]

    def _question_segments(self, events_MB: np.ndarray, text_Q: np.ndarray) -> list[Segment]:
        one_B = np.ones(events_MB.shape[1], dtype=np.int64)
        *history, text, user = self._user_segments(events_MB, one_B)
        for k, length in enumerate(text_Q.tolist(), 1):
            history += [replace(text, length_B=one_B * length, question=k), replace(user, question=k)]
        return history

    def _answer_segments(self, events_MB: np.ndarray) -> list[Segment]:
        one_B = np.ones(events_MB.shape[1], dtype=np.int64)
        return [*self._event_segments(events_MB), self._tag(ANSWER_TOKEN, one_B)]

    def _summary_segments(self, events_MB: np.ndarray) -> list[Segment]:
        """The user's summary, then those of the modalities and the features; none of what a row does not have."""
        there = [events_B > 0 for events_B in events_MB]
        if self.tabular_tokens:
            there.append(np.ones(events_MB.shape[1], dtype=bool))
        there.insert(0, np.any(there, axis=0))
        return [
            Segment(there_B.astype(np.int64), self._slot(name), summary=k)
            for k, (name, there_B) in enumerate(zip(self._summaries, there, strict=False))
        ]

    def _event_segments(self, events_MB: np.ndarray) -> list[Segment]:
        one_B = np.ones(events_MB.shape[1], dtype=np.int64)
        first_MB = starts(events_MB.reshape(-1)).reshape(events_MB.shape)
        segments = []
        for modality, length_B, event_B in zip(self.modalities, events_MB, first_MB, strict=True):
            slot = self._slot(f"{modality.name}[0]")
            segments += [
                self._tag(f"<{modality.name}>", one_B),
                Segment(length_B, slot, slots=modality.keep, newest_first=True, event_B=event_B),
                self._tag(f"</{modality.name}>", one_B),
            ]
        return segments

    def _tag(self, tag: str, one_B: np.ndarray) -> Segment:
        return Segment(one_B, self._slot(tag), id=self.tags.index(tag))

    def _text(self, text_B: np.ndarray) -> Segment:
        return Segment(text_B, self._slot("text"), id=len(self.tags), in_history=False)

    def _lay_out(self, segments: list[Segment]) -> Layout:
        return lay_out(segments, len(self.tags), len(self.slot_names), self.n_positions)

    @cached_property
    def _slots(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.slot_names)}

    def _slot(self, name: str) -> int:
        return self._slots[name]
