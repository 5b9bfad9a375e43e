"""Batches of like length."""

from itertools import pairwise, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ray_ggsm.model.planning import BATCH_COST, batches_by_length


@given(st.lists(st.integers(0, 60), max_size=80), st.integers(1, 500))
def test_every_row_once_within_the_budget_longest_first(lengths: list[int], budget: int) -> None:
    length_N = np.array(lengths, dtype=int)
    batches = batches_by_length(length_N, budget)
    assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * length_N[batch].max() <= budget
    for before, after in pairwise(batches):
        assert length_N[before].min() >= length_N[after].max()


@given(st.lists(st.integers(1, 900), min_size=1, max_size=7, unique=True), st.integers(1, 5), st.integers(1, 4000))
def test_no_way_to_cut_between_lengths_is_cheaper(lengths: list[int], times: int, budget: int) -> None:
    """`times` rows of each length; all ways to cut are tried."""
    falling = sorted(lengths, reverse=True)

    def cost(cuts: tuple[bool, ...]) -> float:
        total, first = 0.0, 0
        for at in range(1, len(falling) + 1):
            if at == len(falling) or cuts[at - 1]:
                rows, fit = (at - first) * times, max(1, budget // falling[first])
                total += rows * falling[first] + BATCH_COST * -(-rows // fit)
                first = at
        return total

    length_N = np.repeat(falling, times)
    batches = batches_by_length(length_N, budget)
    cheapest = min(cost(cuts) for cuts in product([False, True], repeat=len(falling) - 1))
    found = sum(len(batch) * length_N[batch].max() for batch in batches) + BATCH_COST * len(batches)
    assert found <= cheapest + 1e-9
