"""Do vectors tell who the encoder was trained on? Membership inference on published vectors.

The rows are those of the train split, and rows of the same moments of users whom the encoder has never seen. Half of
all users are known to the attacker: of each of them, whether the encoder was trained on their rows. A linear probe,
fitted on these, guesses the others. One attack reads the vector. The other reads how near the vector is to those of
known users of both groups (density: a vector that was trained apart from its neighbours, or towards them, lies in
another place among them).

No score is of a row that an attack was fitted on or compared with, so the interval is that of independent users.
(Cross-fitting would score everybody, but folds then are fitted on each other's groups, and an interval that takes them
as independent is too narrow.) The same attacks on the vectors of the encoder at step 0 show what the groups give away
by themselves.

Legend: N rows, M rows to score, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.cross_fitting import ProbeAll, folds_of
from ray_ggsm.evaluation.metrics import Estimate, bootstrap_aucs, paired_difference
from ray_ggsm.evaluation.results import RESAMPLES
from ray_ggsm.numerics import unit

TRAINED = "trained on"
"""Label of rows: 1 where the encoder was trained on the row, 0 where it never saw the user."""
MOST = 0.95
"""Share of the rows that training must have read for an attack that finds nothing to mean something."""
NEAREST = (1, 10)
"""Numbers of nearest vectors whose mean cosine is looked at."""
ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Attack:
    """AUCs of one attack on the users whose group it does not know; 0.5 is chance."""

    encoder: Estimate
    """On the encoder's vectors."""
    untrained: Estimate
    """On those of the encoder at step 0, the same rows."""
    difference: Estimate
    """Encoder minus untrained, paired."""

    @property
    def fails(self) -> bool:
        """Whether the vectors give away who was trained on, beyond what the groups do by themselves."""
        return self.encoder.low > 0.5 and self.difference.low > 0

    @property
    def of_groups(self) -> bool:
        """Whether the groups can be told apart, and in the untrained encoder's vectors as well."""
        return self.encoder.low > 0.5 and not self.fails


@dataclass(frozen=True)
class Privacy:
    """What the attacks found."""

    attacks: dict[str, Attack]
    trained: int
    """Users that the encoder was trained on, the known half included."""
    others: int
    """Users whom it has never seen."""
    read: float = 1.0
    """Share of the rows taken for trained on that training has read."""

    @property
    def verdict(self) -> str:
        """What it means, in a sentence or two."""
        name, worst = max(self.attacks.items(), key=lambda item: (item[1].fails, item[1].encoder.low))
        auc, control, more = (_told(e) for e in (worst.encoder, worst.untrained, worst.difference))
        if worst.fails:
            return (
                f"This fails: the vectors tell who was trained on. The attack by {name} guesses it with an AUC of "
                f"{auc}, on the untrained encoder's vectors with {control} (difference {more}). Treat the vectors as "
                "data that say who was in the training set."
            )
        if worst.of_groups:
            return (
                f"The interval is above 0.5, but this may not be memorisation: the attack by {name} tells the groups "
                f"apart with an AUC of {auc}, and with {control} in the vectors of the untrained encoder (difference "
                f"{more}). The groups differ by themselves; give users of the same kind to know more."
            )
        if self.read < MOST:
            return (
                f"This says little: training has read {100 * self.read:.0f} % of the rows taken for trained on,"
                f" and the others hide what it remembers. The best attack, by {name}, guesses with an AUC of {auc},"
                " where 0.5 is chance. Train for a whole pass to know more."
            )
        return (
            f"No memorisation was found: the best attack, by {name}, guesses who was trained on with an AUC of {auc}, "
            "where 0.5 is chance. Other attacks may find what these do not."
        )


def membership(
    config: ProbeConfig, seed: int, encoder: Aligned, untrained: Aligned, probe_all: ProbeAll, read: float = 1.0
) -> Privacy:
    """Attack the vectors of both encoders.

    Args:
        config: settings of linear probes.
        seed: seed of their folds and of the bootstrap.
        encoder: rows with the label `TRAINED`, no user in both groups.
        untrained: the same rows, with the vectors of the encoder at step 0.
        probe_all: fits all probes.
        read: share of the rows taken for trained on that training has read.

    Raises:
        InputError: too few users for the attacks.
    """
    data = {(of, name): rows for of, e in _both(encoder, untrained).items() for name, rows in attacked(e).items()}
    linear = config.model_copy(update={"kinds": ("linear",)})
    probed = probe_all(linear, seed, {" ".join(key): rows for key, rows in data.items()})
    aucs = {
        key: bootstrap_aucs(
            rows.score.labels,
            {TRAINED: probed[" ".join(key), "linear"][TRAINED].scores},
            rows.score.users,
            RESAMPLES,
            seed,
        )
        for key, rows in data.items()
    }
    found = {}
    for name in dict.fromkeys(name for _, name in data):
        trained_on, at_start = aucs["encoder", name], aucs["untrained", name]
        values = [each[TRAINED] for each in (trained_on.intervals(), at_start.intervals())]
        found[name] = Attack(values[0], values[1], paired_difference(trained_on, at_start)[TRAINED])
    trained, others = (len(np.unique(encoder.users[encoder.labels[TRAINED] == group])) for group in (1, 0))
    return Privacy(found, trained, others, read)


def attacked(rows: Aligned) -> dict[str, ProbeData]:
    """Per attack the known rows, and those whose group it guesses, with what it reads of each.

    Raises:
        InputError: too few users for the attacks.
    """
    quarter_N, member_N = folds_of(rows.users, 4), rows.labels[TRAINED] == 1
    known_N, halves = quarter_N % 2 == 0, (quarter_N == 0, quarter_N == 2)
    for half_N in halves:
        if min((half_N & member_N).sum(), (half_N & ~member_N).sum()) <= max(NEAREST):
            raise InputError(
                f"evaluation.privacy: the attacks need more than {4 * max(NEAREST)} users that were trained on and as "
                f"many others, found {member_N.sum()} and {(~member_N).sum()} rows; give more users"
            )
    vector_ND = unit(rows.vectors).astype(np.float32)
    to = [nearness(vector_ND, vector_ND[half_N], member_N[half_N]) for half_N in halves]
    # a known row is not compared with its own half, in which it would find itself and its user's other rows
    near_N4 = np.where(
        (quarter_N == 0)[:, None], to[1], np.where((quarter_N == 2)[:, None], to[0], (to[0] + to[1]) / 2)
    )
    return {
        name: ProbeData(_part(rows, values, known_N), _part(rows, values, ~known_N))
        for name, values in (("vectors", rows.vectors), ("neighbours", near_N4.astype(np.float32)))
    }


def nearness(vector_MD: np.ndarray, known_ND: np.ndarray, member_N: np.ndarray) -> np.ndarray:
    """Mean cosines of unit vectors to their 1 and 10 nearest known ones: of members, of others, float32 (M, 4)."""
    near_M4 = np.empty((len(vector_MD), 4), np.float32)
    for start in range(0, len(vector_MD), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        for column, group_ND in ((0, known_ND[member_N]), (2, known_ND[~member_N])):
            cosine_mN = vector_MD[rows] @ group_ND.T
            nearest = -np.sort(-np.partition(cosine_mN, -max(NEAREST), axis=1)[:, -max(NEAREST) :], axis=1)
            for place, k in enumerate(NEAREST):
                near_M4[rows, column + place] = nearest[:, :k].mean(axis=1)
    return near_M4


def _both(encoder: Aligned, untrained: Aligned) -> Mapping[str, Aligned]:
    assert (encoder.users == untrained.users).all(), "the same rows in the same order"
    return {"encoder": encoder, "untrained": untrained}


def _part(rows: Aligned, values: np.ndarray, which_N: np.ndarray) -> Aligned:
    labels = {TRAINED: rows.labels[TRAINED][which_N]}
    return replace(rows, vectors=values[which_N], labels=labels, users=rows.users[which_N])


def _told(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
