"""The contrastive objective: InfoNCE with same-side negatives and a false-negative mask. Paper, eq. 6-8.

    Z_i = e^{s(u_i,a_i)/tau} + sum_{j != i} [ m^ua_ij e^{s(u_i,a_j)/tau} + m^uu_ij e^{s(u_i,u_j)/tau}
                                             + m^aa_ij e^{s(a_i,a_j)/tau} ]

m^xy_ij = 0 where s(x_i, y_j) > s(u_i, a_i) + c, else 1: every term is masked by its own similarity. With the mask rule
`any`, one m_ij = m^ua_ij m^uu_ij serves all terms, as eq. 8 can also be read. A further term, au, has the answer among
the batch's users: e^{s(a_i,u_j)/tau}. Two rows of one user, or with equal answers (two empty futures), are never each
other's negatives.

Legend: B rows of the global batch, b rows of this worker, n rows at a time, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

Term = Literal["ua", "uu", "aa", "au"]
MaskRule = Literal["own", "any"]
SameSide = Literal["literal", "unmasked"]
Gather = Callable[[Tensor], Tensor]
"""(b, ...) -> (B, ...): the rows of all workers in rank order; this worker's rows keep their gradient."""

SAME: tuple[Term, ...] = ("uu", "aa")
"""Terms of negatives on the same side."""
ROWS_AT_A_TIME = 256
"""Rows whose similarities with the whole batch are in memory at once; the backward pass computes them again."""


@dataclass(frozen=True)
class Objective:
    """The negatives of a pair, and how sharply they count."""

    temperature: float
    """tau."""
    margin: float
    """c of eq. 8."""
    terms: tuple[Term, ...] = ("ua", "uu", "aa")
    """Kinds of negatives: user-answer, user-user, answer-answer."""
    same_side: SameSide = "literal"
    """literal: same-side negatives (uu, aa) are masked as eq. 8 says. unmasked: all of them are kept."""
    mask_rule: MaskRule = "own"
    """own: each term is masked by its own similarity. any: where the other user or the other answer is too close to the
    user, all terms are masked."""


class Sides(NamedTuple):
    """Both sides of the global batch, the same on every worker; only this worker's rows carry gradients."""

    user_BD: Tensor
    """Unit vectors, float32."""
    answer_BD: Tensor
    """Unit vectors, float32, row by row the positives of `user_BD`."""
    user_ids_B: Tensor
    """int64, equal for rows of the same user."""
    answer_ids_B: Tensor
    """int64, equal for equal answers."""

    def others(self, start: int) -> Tensor:
        """Whether rows can be negatives of each other, bool (n, B), for the n rows from `start` on."""
        rows = slice(start, start + ROWS_AT_A_TIME)
        return (self.user_ids_B[rows, None] != self.user_ids_B) & (self.answer_ids_B[rows, None] != self.answer_ids_B)


def gathered(
    user_bD: Tensor,
    answer_bD: Tensor,
    user_ids_b: Tensor,
    centre: bool,
    gather: Gather | None = None,
    answer_ids_b: Tensor | None = None,
) -> Sides:
    """Gather this worker's states, and centre and normalise them.

    Args:
        user_bD: user states of this worker.
        answer_bD: answer states, row by row the positives of `user_bD`.
        user_ids_b: int64, equal for rows of the same user.
        centre: whether each side's mean over the global batch is subtracted.
        gather: adds the rows of the other workers; None: there are none.
        answer_ids_b: int64, equal for equal answers; None: all of them differ.
    """
    user_BD, answer_BD, user_ids_B, answer_ids_B = user_bD, answer_bD, user_ids_b, answer_ids_b
    if gather is not None:
        user_BD, answer_BD, user_ids_B = gather(user_bD), gather(answer_bD), gather(user_ids_b)
        answer_ids_B = gather(answer_ids_b) if answer_ids_b is not None else None
    if answer_ids_B is None:
        answer_ids_B = torch.arange(len(user_ids_B), device=user_ids_B.device)
    if centre:
        user_BD, answer_BD = user_BD - user_BD.mean(dim=0), answer_BD - answer_BD.mean(dim=0)
    return Sides(normalize(user_BD.float(), dim=1), normalize(answer_BD.float(), dim=1), user_ids_B, answer_ids_B)


def info_nce(sides: Sides, objective: Objective) -> Tensor:
    """Mean loss over the global batch (scalar, float32), the same on every worker.

    Every worker computes the whole loss, with gradients to its rows only. So parameter gradients summed over workers
    are those of one worker with the whole batch.
    """
    sums = [
        checkpoint(_loss_of_rows, *sides, start, objective, use_reentrant=False)
        for start in range(0, len(sides.user_BD), ROWS_AT_A_TIME)
    ]
    return torch.stack(sums).sum() / len(sides.user_BD)


def _loss_of_rows(
    user_BD: Tensor, answer_BD: Tensor, user_ids_B: Tensor, answer_ids_B: Tensor, start: int, objective: Objective
) -> Tensor:
    """Sum of eq. 6 over the n rows from `start` on, against the whole batch."""
    similarity, kept, positive_n = _rows(Sides(user_BD, answer_BD, user_ids_B, answer_ids_B), start, objective)
    negatives = [similarity[term].masked_fill(~kept[term], -torch.inf) for term in objective.terms]
    logits = torch.cat([positive_n[:, None], *negatives], dim=1) / objective.temperature
    return (torch.logsumexp(logits, dim=1) - logits[:, 0]).sum()


@torch.no_grad()
def mean_cosine(states_bD: Tensor, reduce: Callable[[Tensor], Tensor]) -> float:
    """Mean cosine between different rows of all workers' states, before they are centred; 0 for one row alone.

    Args:
        states_bD: states of this worker.
        reduce: sums a tensor over all workers.
    """
    unit_bD = normalize(states_bD.double(), dim=1)
    sum_D, rows = reduce(torch.cat([unit_bD.sum(dim=0), unit_bD.new_tensor([len(unit_bD)])])).split(
        [unit_bD.shape[1], 1]
    )
    return ((sum_D @ sum_D - rows) / (rows * (rows - 1)).clamp(min=1)).item()


@dataclass(frozen=True)
class BatchStatistics:
    """How well a batch is solved, and how much of it is masked."""

    accuracy: float
    """Share of rows whose positive is the most similar answer of the batch."""
    mean_rank: float
    """Mean rank of the positive among the batch's answers; 1 is best."""
    positive: float
    """Mean cosine of positives."""
    negative: float
    """Mean cosine of user-answer negatives."""
    masked: dict[Term, float]
    """Share of each term's negatives that eq. 8 masks."""


@torch.no_grad()
def batch_statistics(sides: Sides, objective: Objective) -> BatchStatistics:
    """Statistics of the global batch."""
    first, rank, positive, negative, n_other = (torch.zeros((), dtype=torch.float64) for _ in range(5))
    masked = {term: torch.zeros((), dtype=torch.float64) for term in objective.terms}
    for start in range(0, len(sides.user_BD), ROWS_AT_A_TIME):
        similarity, kept, positive_n = _rows(sides, start, objective)
        other = sides.others(start)
        rank_n = 1 + ((similarity["ua"] > positive_n[:, None]) & other).sum(dim=1)
        first += (rank_n == 1).sum().cpu()
        rank += rank_n.sum().cpu()
        positive += positive_n.sum().cpu()
        negative += similarity["ua"][other].sum().cpu()
        n_other += other.sum().cpu()
        for term in objective.terms:
            masked[term] += (other & ~kept[term]).sum().cpu()
    rows, pairs = len(sides.user_BD), n_other.clamp(min=1)
    return BatchStatistics(
        accuracy=first.item() / rows,
        mean_rank=rank.item() / rows,
        positive=positive.item() / rows,
        negative=(negative / pairs).item(),
        masked={term: (count / pairs).item() for term, count in masked.items()},
    )


def _rows(sides: Sides, start: int, objective: Objective) -> tuple[dict[Term, Tensor], dict[Term, Tensor], Tensor]:
    """The n rows from `start` on: cosines (n, B) per term, which of them are negatives, and cosines (n) of positives.

    A negative is another user's row with another answer that m of eq. 8 does not mask.
    """
    user_BD, answer_BD, end = sides.user_BD, sides.answer_BD, start + ROWS_AT_A_TIME
    with torch.autocast(user_BD.device.type, enabled=False):
        u_nD, a_nD = user_BD[start:end], answer_BD[start:end]
        pairs: dict[Term, tuple[Tensor, Tensor]] = {
            "ua": (u_nD, answer_BD), "uu": (u_nD, user_BD), "aa": (a_nD, answer_BD), "au": (a_nD, user_BD),
        }  # fmt: skip
        needed = {"ua", *objective.terms, *(("uu",) if objective.mask_rule == "any" else ())}
        similarity = {name: x @ y.T for name, (x, y) in pairs.items() if name in needed}
    positive_n = similarity["ua"].diagonal(offset=start)
    other = sides.others(start)
    limit_n1 = positive_n.detach()[:, None] + objective.margin
    if objective.mask_rule == "any":
        far = other & (similarity["ua"] <= limit_n1) & (similarity["uu"] <= limit_n1)
        return similarity, dict.fromkeys(similarity, far), positive_n
    kept = {
        name: other if name in SAME and objective.same_side == "unmasked" else other & (s <= limit_n1)
        for name, s in similarity.items()
    }
    return similarity, kept, positive_n
