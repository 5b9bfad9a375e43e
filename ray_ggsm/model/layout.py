"""Lays out a padded batch from segments: consecutive positions of one kind.

All rows have the same segments in the same order, with lengths of their own, so a whole batch takes a few array
operations.

Legend: B rows, S segments, L tokens of the longest row, T tokens of all rows together, E events of all rows together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ray_ggsm.masks import Tokens
from ray_ggsm.model.ragged import ranks


@dataclass(frozen=True)
class Layout:
    """The content of every position of a padded batch; -1 where a field does not apply."""

    tokens: Tokens
    id_BL: torch.Tensor
    """int64: index into the tower's token ids (tags first, then text), -1 at positions that take a vector."""
    event_BL: torch.Tensor
    """int64: index of the event among all E events, modality by modality, row by row within a modality."""
    tabular_BL: torch.Tensor
    """int64: index of the tabular vector."""
    last_B: torch.Tensor
    """int64: position of the row's last token (<USER>, <ANSWER> or EOS); of <USER> where an answer follows it."""
    global_B: torch.Tensor | None = None
    """int64: position of the row's global query; None without one."""
    last_BQ: torch.Tensor | None = None
    """int64: positions of the last tokens of a row's Q instructions; None where a row has one instruction."""
    summary_BL: torch.Tensor | None = None
    """int64: index of the summary (`ray_ggsm.model.summary`); None without summaries."""

    def of_question(self, k: int) -> "Layout":
        """The layout of a row whose instruction is the k-th alone (from 0): the others count as padding."""
        tokens = self.tokens
        assert tokens.question_BL is not None
        assert self.last_BQ is not None
        valid_BL = tokens.valid_BL & ((tokens.question_BL == 0) | (tokens.question_BL == k + 1))
        return replace(self, tokens=replace(tokens, valid_BL=valid_BL), last_B=self.last_BQ[:, k])

    def placed(
        self, token_TD: torch.Tensor, event_ED: torch.Tensor, of_rows: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Vectors at their positions, (B, L, D) float32; zeros at padding.

        Args:
            token_TD: those of token ids.
            event_ED: those of events.
            of_rows: K vectors of each row (B, K, D), and the positions' indices among them (B, L), -1 for none.
        """
        first = token_TD.shape[0]
        source_BL = torch.where(self.event_BL >= 0, self.event_BL + first, self.id_BL)
        row_B1 = torch.arange(source_BL.shape[0], device=source_BL.device)[:, None]
        vectors, first = [token_TD, event_ED], first + event_ED.shape[0]
        for vector_BKD, index_BL in of_rows:
            source_BL = torch.where(index_BL >= 0, first + row_B1 * vector_BKD.shape[1] + index_BL, source_BL)
            vectors.append(vector_BKD.flatten(0, 1))
            first += vectors[-1].shape[0]
        vectors.append(token_TD.new_zeros(1, token_TD.shape[1]))  # padding reads the last row
        return torch.cat([vector.float() for vector in vectors])[source_BL]


@dataclass(frozen=True)
class Segment:
    """Consecutive positions of one kind in every row: ids, events or tabular vectors."""

    length_B: np.ndarray
    """int64: positions per row."""
    slot: int
    """First slot of the segment."""
    slots: int = 1
    """Number of its slots; later positions share the last one."""
    newest_first: bool = False
    """Whether slots count back from the last position (recency rank) instead of forward from the first."""
    in_history: bool = True
    """Whether the segment belongs to the user segment."""
    id: int | None = None
    """Index of its token id; None for vectors."""
    event_B: np.ndarray | None = None
    """int64: index of each row's first event; None for other segments."""
    is_tabular: bool = False
    """Whether its positions are the tabular vectors."""
    question: int = 0
    """Number of the instruction that it belongs to, from 1 on, where a row has several; 0: none."""
    summary: int = -1
    """Index of the summary that it is; -1: none."""
    is_answer: bool = False
    """Whether it is an answer that follows the row's <USER>."""


def lengths(segments: Sequence[Segment]) -> np.ndarray:
    """Tokens per row, int64 (B,)."""
    return np.stack([s.length_B for s in segments]).sum(axis=0)


def lay_out(segments: Sequence[Segment], first_text_id: int, n_slots: int, n_positions: int) -> Layout:
    """The layout of a batch, with the positions of the last tokens but no global query.

    Args:
        segments: the rows' segments, in order.
        first_text_id: the `id` of text segments, whose tokens have ids of their own from here on, row by row.
        n_slots: number of slots in the template.
        n_positions: length of the longest sequence that the template allows, in tokens.
    """
    length_BS = np.stack([s.length_B for s in segments], axis=1).astype(np.int64)
    length_B = length_BS.sum(axis=1)
    B, S = length_BS.shape
    row_T, column_T = np.repeat(np.arange(B), length_B), ranks(length_B)
    segment_T = np.repeat(np.tile(np.arange(S), B), length_BS.reshape(-1))
    rank_T = ranks(length_BS.reshape(-1))

    def padded(values_T: np.ndarray, fill: int) -> torch.Tensor:
        values_BL = np.full((B, length_B.max()), fill, dtype=np.int64)
        values_BL[row_T, column_T] = values_T
        return torch.from_numpy(values_BL)

    slot_T = _slots(segments, segment_T, rank_T, length_BS[row_T, segment_T])
    history_T = np.array([s.in_history for s in segments])[segment_T]
    valid_BL = torch.arange(int(length_B.max())) < torch.from_numpy(length_B)[:, None]
    tabular_T = np.where(np.array([s.is_tabular for s in segments])[segment_T], rank_T, -1)
    question_S, summary_S = np.array([s.question for s in segments]), np.array([s.summary for s in segments])
    answer_S = np.array([s.is_answer for s in segments])
    question_BL = padded(question_S[segment_T], 0) if question_S.any() else None
    answer_BL = padded(answer_S[segment_T], 0).bool() if answer_S.any() else None
    history_BL = padded(history_T, 0).bool()
    return Layout(
        Tokens(valid_BL, padded(slot_T, 0), history_BL, n_slots, n_positions, question_BL, answer_BL),
        padded(_ids(segments, segment_T, first_text_id), -1),
        padded(_events(segments, segment_T, row_T, rank_T), -1),
        padded(tabular_T, -1),
        torch.from_numpy(length_B - 1 - length_BS[:, answer_S].sum(axis=1)),
        summary_BL=padded(summary_S[segment_T], -1) if (summary_S >= 0).any() else None,
    )


def _slots(segments: Sequence[Segment], segment_T: np.ndarray, rank_T: np.ndarray, length_T: np.ndarray) -> np.ndarray:
    """Slot of each token; `length_T` is the length of its segment in its row."""
    counts_back_T = np.array([s.newest_first for s in segments])[segment_T]
    first_T = np.array([s.slot for s in segments])[segment_T]
    limit_T = np.array([s.slots - 1 for s in segments])[segment_T]
    return first_T + np.minimum(np.where(counts_back_T, length_T - 1 - rank_T, rank_T), limit_T)


def _ids(segments: Sequence[Segment], segment_T: np.ndarray, first_text_id: int) -> np.ndarray:
    """Index of each token's id, -1 for vectors."""
    id_T = np.array([-1 if s.id is None else s.id for s in segments])[segment_T]
    is_text_T = id_T == first_text_id
    id_T[is_text_T] += np.arange(is_text_T.sum())
    return id_T


def _events(segments: Sequence[Segment], segment_T: np.ndarray, row_T: np.ndarray, rank_T: np.ndarray) -> np.ndarray:
    """Index of each token's event, -1 for other tokens."""
    nothing_B = np.full(len(segments[0].length_B), -1)
    first_BS = np.stack([nothing_B if s.event_B is None else s.event_B for s in segments], axis=1)
    first_T = first_BS[row_T, segment_T]
    return np.where(first_T >= 0, first_T + rank_T, -1)
