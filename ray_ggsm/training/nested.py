"""Nested dimensions: the same loss over prefixes of the user vector, so that each prefix is a vector of its own.

    L = mean over n of L_n,   n = the prefixes, and the whole width

(Matryoshka representations: Kusupati et al., 2022, there the sum.) L_n sees the first n columns of the vectors,
normalised again, as a reader does who takes them (`ray_ggsm.numerics.prefix`). In the contrast these are the prefix's
columns of the sequence, on both sides; a dense target has heads of its own on each prefix.

Legend: B rows, n columns of a prefix, W width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ray_ggsm.config import InputError
from ray_ggsm.training.loss import Objective, Sides, info_nce


def prefix(vector_BW: Tensor, n: int) -> Tensor:
    """The first n columns at length 1, (B, n); the vectors themselves if they have no more."""
    return vector_BW if n >= vector_BW.shape[1] else normalize(vector_BW[:, :n], dim=1)


def nested_info_nce(sides: Sides, objective: Objective, columns: Sequence[int]) -> Tensor:
    """Mean of `info_nce` over all columns and over each of these numbers of first columns."""
    parts = [
        info_nce(sides._replace(user_BD=prefix(sides.user_BD, n), answer_BD=prefix(sides.answer_BD, n)), objective)
        for n in columns
    ]
    return torch.stack([info_nce(sides, objective), *parts]).mean() if parts else info_nce(sides, objective)


def sequence_columns(nested: Sequence[int], width: int, of_sequence: Callable[[int], int]) -> list[int]:
    """How many columns of the sequence each prefix has, by `of_sequence`; raises like `check_nested`."""
    check_nested(nested, width)
    return [of_sequence(n) for n in nested]


def check_nested(nested: Sequence[int], width: int) -> None:
    """Refuse prefixes that are no shorter than the vectors.

    Raises:
        InputError: one is not.
    """
    if nested and nested[-1] >= width:
        raise InputError(
            f"training.nested: {nested[-1]} dimensions are no part of a vector of {width}; the whole vector always "
            "counts, so give smaller numbers"
        )
