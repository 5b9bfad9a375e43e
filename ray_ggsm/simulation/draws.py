"""Random numbers that depend on what they are for, not on how many were drawn before: equal on every machine.

Legend: N draws.
"""

import numpy as np

from ray_ggsm.hashing import hash64, scramble

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MOST = 500.0
"""Largest mean of a Poisson number."""


def stream(seed: int, *what: object) -> np.uint64:
    """A key for draws of one kind, for example of the contents of a table's events on a day."""
    return np.uint64(hash64([" ".join(map(str, (seed, *what)))])[0])


def mixed(key: np.uint64 | np.ndarray, number_N: np.ndarray) -> np.ndarray:
    """A key per number, uint64 (N,)."""
    return scramble(scramble(number_N.astype(np.uint64) * GOLDEN + key) + key)


def uniform(key: np.uint64 | np.ndarray, number_N: np.ndarray) -> np.ndarray:
    """Numbers from (0, 1), (N,): one per key and number."""
    return ((mixed(key, number_N) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def poisson(uniform_N: np.ndarray, mean_N: np.ndarray) -> np.ndarray:
    """Poisson numbers with these means, at most `MOST`, int64 (N,), by inversion; many times faster than scipy's."""
    assert (mean_N <= MOST).all(), "exp(-mean) would be 0"
    probability_N = np.exp(-mean_N)
    below_N, count_N = probability_N.copy(), np.zeros(len(mean_N), np.int64)
    left = np.flatnonzero(uniform_N > below_N)
    k = 0
    while len(left):
        k += 1
        probability_N[left] *= mean_N[left] / k
        below_N[left] += probability_N[left]
        count_N[left] = k
        # above the mean, the sum of all probabilities can stay below a draw next to 1 by rounding
        is_end = (probability_N[left] < 1e-18) & (k > mean_N[left])
        left = left[(uniform_N[left] > below_N[left] + 1e-15) & ~is_end]
    return count_N
