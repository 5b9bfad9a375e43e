"""The contrastive objective: InfoNCE with same-side negatives and a false-negative mask. Paper, eq. 6-8.

    Z_i = e^{s(u_i,a_i)/tau} + sum_{j != i} [ m^ua_ij e^{s(u_i,a_j)/tau} + m^uu_ij e^{s(u_i,u_j)/tau}
                                             + m^aa_ij e^{s(a_i,a_j)/tau} ]

m^xy_ij = 0 where s(x_i, y_j) > s(u_i, a_i) + c, else 1: every term is masked by its own similarity. Two rows of one
user are never each other's negatives.

Legend: B rows of the global batch, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Term = Literal["ua", "uu", "aa"]
SameSide = Literal["literal", "unmasked"]
Gather = Callable[[Tensor], Tensor]
"""(b, ...) -> (B, ...): the rows of all workers in rank order, where this worker's own rows keep their gradient."""


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
    user_BD, answer_BD, user_ids_B = _whole(user_BD, answer_BD, user_ids_B, centre, gather)
    similarities = _similarities(user_BD, answer_BD, terms)
    kept = _kept(similarities, user_ids_B, margin, same_side)
    positive_B1 = similarities["ua"].diagonal()[:, None]
    negatives = [similarities[term].masked_fill(~kept[term], -torch.inf) for term in terms]
    logits = torch.cat([positive_B1, *negatives], dim=1) / temperature
    return (torch.logsumexp(logits, dim=1) - logits[:, 0]).mean()


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
    user_BD, answer_BD, user_ids_B = _whole(user_BD, answer_BD, user_ids_B, centre, gather)
    similarities = _similarities(user_BD, answer_BD, terms)
    kept = _kept(similarities, user_ids_B, margin, same_side)
    s_ua = similarities["ua"]
    other = user_ids_B[:, None] != user_ids_B[None, :]
    rank_B = 1 + ((s_ua > s_ua.diagonal()[:, None]) & other).sum(dim=1)
    n_other = other.sum().clamp(min=1)
    return BatchStatistics(
        accuracy=(rank_B == 1).float().mean().item(),
        mean_rank=rank_B.float().mean().item(),
        positive=s_ua.diagonal().mean().item(),
        negative=(s_ua[other].mean() if other.any() else s_ua.new_zeros(())).item(),
        masked={term: 1 - (kept[term].sum() / n_other).item() for term in terms},
    )


def _whole(
    user_BD: Tensor, answer_BD: Tensor, user_ids_B: Tensor, centre: bool, gather: Gather | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The global batch, centred if asked for."""
    if gather is not None:
        user_BD, answer_BD, user_ids_B = gather(user_BD), gather(answer_BD), gather(user_ids_B)
    if centre:
        user_BD, answer_BD = user_BD - user_BD.mean(dim=0), answer_BD - answer_BD.mean(dim=0)
    return user_BD, answer_BD, user_ids_B


def _similarities(user_BD: Tensor, answer_BD: Tensor, terms: tuple[Term, ...]) -> dict[str, Tensor]:
    """Cosines in float32, (B, B) per term; `ua` is always there, for the positives."""
    with torch.autocast(user_BD.device.type, enabled=False):
        u, a = normalize(user_BD.float(), dim=1), normalize(answer_BD.float(), dim=1)
        pairs = {"ua": (u, a), "uu": (u, u), "aa": (a, a)}
        return {name: x @ y.T for name, (x, y) in pairs.items() if name == "ua" or name in terms}


def _kept(similarities: dict[str, Tensor], user_ids_B: Tensor, margin: float, same_side: SameSide) -> dict[str, Tensor]:
    """Which entries count as negatives, (B, B) bool per term: m of eq. 8 without the user's own rows."""
    other = user_ids_B[:, None] != user_ids_B[None, :]
    limit_B1 = similarities["ua"].detach().diagonal()[:, None] + margin
    return {
        name: other if name != "ua" and same_side == "unmasked" else other & (s <= limit_B1)
        for name, s in similarities.items()
    }
