"""The contrastive objective: InfoNCE with same-side negatives and a false-negative mask. Paper, eq. 6-8.

    Z_i = e^{s(u_i,a_i)/tau} + sum_{j != i} [ m^ua_ij e^{s(u_i,a_j)/tau} + m^uu_ij e^{s(u_i,u_j)/tau}
                                             + m^aa_ij e^{s(a_i,a_j)/tau} ]

m^xy_ij = 0 where s(x_i, y_j) > s(u_i, a_i) + c, else 1: every term is masked by its own similarity. Two rows of one
user are never each other's negatives.

Legend: B rows of the global batch, n of them at a time, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

Term = Literal["ua", "uu", "aa"]
SameSide = Literal["literal", "unmasked"]
Gather = Callable[[Tensor], Tensor]
"""(b, ...) -> (B, ...): the rows of all workers in rank order, where this worker's own rows keep their gradient."""

ROWS_AT_A_TIME = 256
"""Rows whose similarities with the whole batch are in memory at once; the backward pass computes them again."""


def info_nce(
    user_BD: Tensor,
    answer_BD: Tensor,
    user_ids_B: Tensor,
    *,
    temperature: float,
    margin: float,
    terms: tuple[Term, ...] = ("ua", "uu", "aa"),
    same_side: SameSide = "literal",
    centre: bool = False,
    gather: Gather | None = None,
) -> Tensor:
    """Mean loss over the global batch (scalar, float32), the same on every worker.

    Every worker computes the whole loss, with gradients to its own rows. So parameter gradients summed over workers are
    those of one worker with the whole batch.

    Args:
        user_BD: user states; normalised here, in float32. With `gather`, this worker's rows.
        answer_BD: answer states, row by row the positives of `user_BD`.
        user_ids_B: int64, equal for rows of the same user.
        temperature: tau.
        margin: c of eq. 8.
        terms: kinds of negatives: user-answer, user-user, answer-answer.
        same_side: `literal` masks uu and aa negatives as eq. 8 says; `unmasked` keeps all of them.
        centre: subtract each side's mean over the global batch before normalising.
        gather: brings the other workers' rows; None: there are none.
    """
    sides = _sides(user_BD, answer_BD, user_ids_B, centre, gather)
    sums = [
        checkpoint(_loss_of_rows, *sides, start, temperature, margin, terms, same_side, use_reentrant=False)
        for start in range(0, len(sides[0]), ROWS_AT_A_TIME)
    ]
    return torch.stack(sums).sum() / len(sides[0])


def _loss_of_rows(
    user_BD: Tensor,
    answer_BD: Tensor,
    user_ids_B: Tensor,
    start: int,
    temperature: float,
    margin: float,
    terms: tuple[Term, ...],
    same_side: SameSide,
) -> Tensor:
    """Sum of eq. 6 over the rows from `start` on (n of them), against the whole batch."""
    similarity, kept, positive_n = _rows(user_BD, answer_BD, user_ids_B, start, margin, terms, same_side)
    negatives = [similarity[term].masked_fill(~kept[term], -torch.inf) for term in terms]
    logits = torch.cat([positive_n[:, None], *negatives], dim=1) / temperature
    return (torch.logsumexp(logits, dim=1) - logits[:, 0]).sum()


@dataclass(frozen=True)
class BatchStatistics:
    """What a batch looks like to the loss; shares and ranks in user-answer terms."""

    accuracy: float
    """Share of rows whose positive is the most similar answer of the batch."""
    mean_rank: float
    """Mean rank of the positive among the batch's answers; 1 is best."""
    positive: float
    """Mean cosine of positives."""
    negative: float
    """Mean cosine of user-answer negatives."""
    masked: dict[str, float]
    """Share of negatives of each term that eq. 8 masks."""


@torch.no_grad()
def batch_statistics(
    user_BD: Tensor,
    answer_BD: Tensor,
    user_ids_B: Tensor,
    *,
    margin: float,
    terms: tuple[Term, ...],
    same_side: SameSide,
    centre: bool = False,
    gather: Gather | None = None,
) -> BatchStatistics:
    """Statistics of the global batch; arguments as in `info_nce`."""
    sides = _sides(user_BD, answer_BD, user_ids_B, centre, gather)
    first, rank, positive, negative, n_other = (torch.zeros((), dtype=torch.float64) for _ in range(5))
    masked = {term: torch.zeros((), dtype=torch.float64) for term in terms}
    for start in range(0, len(sides[0]), ROWS_AT_A_TIME):
        similarity, kept, positive_n = _rows(*sides, start, margin, terms, same_side)
        other = sides[2][start : start + ROWS_AT_A_TIME, None] != sides[2]
        rank_n = 1 + ((similarity["ua"] > positive_n[:, None]) & other).sum(dim=1)
        first += (rank_n == 1).sum().cpu()
        rank += rank_n.sum().cpu()
        positive += positive_n.sum().cpu()
        negative += similarity["ua"][other].sum().cpu()
        n_other += other.sum().cpu()
        for term in terms:
            masked[term] += (other & ~kept[term]).sum().cpu()
    rows, pairs = len(sides[0]), n_other.clamp(min=1)
    return BatchStatistics(
        accuracy=first.item() / rows,
        mean_rank=rank.item() / rows,
        positive=positive.item() / rows,
        negative=(negative / pairs).item(),
        masked={term: (count / pairs).item() for term, count in masked.items()},
    )


def _sides(
    user_BD: Tensor, answer_BD: Tensor, user_ids_B: Tensor, centre: bool, gather: Gather | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The global batch, centred if asked for, normalised in float32; and whose the rows are."""
    if gather is not None:
        user_BD, answer_BD, user_ids_B = gather(user_BD), gather(answer_BD), gather(user_ids_B)
    if centre:
        user_BD, answer_BD = user_BD - user_BD.mean(dim=0), answer_BD - answer_BD.mean(dim=0)
    return normalize(user_BD.float(), dim=1), normalize(answer_BD.float(), dim=1), user_ids_B


def _rows(
    user_BD: Tensor,
    answer_BD: Tensor,
    user_ids_B: Tensor,
    start: int,
    margin: float,
    terms: tuple[Term, ...],
    same_side: SameSide,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Of n rows from `start` on: cosines (n, B) per term; which count as negatives; their positives' cosines (n).

    A negative is another user's row that m of eq. 8 leaves in.
    """
    end = start + ROWS_AT_A_TIME
    with torch.autocast(user_BD.device.type, enabled=False):
        u_nD, a_nD = user_BD[start:end], answer_BD[start:end]
        pairs = {"ua": (u_nD, answer_BD), "uu": (u_nD, user_BD), "aa": (a_nD, answer_BD)}
        similarity = {name: x @ y.T for name, (x, y) in pairs.items() if name == "ua" or name in terms}
    positive_n = similarity["ua"].diagonal(offset=start)
    other = user_ids_B[start:end, None] != user_ids_B
    limit_n1 = positive_n.detach()[:, None] + margin
    kept = {
        name: other if name != "ua" and same_side == "unmasked" else other & (s <= limit_n1)
        for name, s in similarity.items()
    }
    return similarity, kept, positive_n
