"""Attacks on made-up vectors: they find planted memorisation, stay at chance without, and tell a plain loop's AUC."""

from dataclasses import replace

import numpy as np
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import LinearConfig, ProbeConfig
from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.evaluation.privacy import TRAINED, Attack, Privacy, attacked, membership, nearness
from ray_ggsm.evaluation.probes import fit_and_score
from ray_ggsm.evaluation.results import Probed
from ray_ggsm.numerics import unit

CONFIG = ProbeConfig(folds=2, linear=LinearConfig(strengths=(0.01,)))
D = 12


def probe_all(config: ProbeConfig, seed: int, data: dict[str, ProbeData]) -> Probed:
    def one(rows: ProbeData) -> dict:
        sides = (rows.fit.vectors, rows.fit.labels[TRAINED], rows.fit.users, rows.score.vectors)
        return {TRAINED: fit_and_score("linear", *sides, rows.score.labels[TRAINED], config, seed, label=TRAINED)}

    return {(name, "linear"): one(rows) for name, rows in data.items()}


def groups(seed: int, users: int = 500, rows: int = 2) -> Aligned:
    """Exchangeable groups: who is a member says nothing about a user's vectors, which are alike from row to row."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"{seed}-{n}" for n in range(users)], rows)
    vector_ND = np.repeat(rng.normal(size=(users, D)), rows, axis=0) + 0.3 * rng.normal(size=(users * rows, D))
    member_N = np.repeat((rng.random(users) < 0.6).astype(np.float32), rows)
    return Aligned(unit(vector_ND).astype(np.float32), {TRAINED: member_N}, names, 0)


def shifted(rows: Aligned, by: float) -> Aligned:
    """Members lie a little to one side."""
    vector_ND = rows.vectors + by * rows.labels[TRAINED][:, None] * np.eye(D)[0]
    return replace(rows, vectors=unit(vector_ND).astype(np.float32))


def clustered(rows: Aligned) -> Aligned:
    """Members lie on few directions of no common side: no linear probe sees it, their neighbours do."""
    centres = np.random.default_rng(9).normal(size=(20, D))
    centres = np.concatenate([centres, -centres])
    rng, member_N = np.random.default_rng(8), rows.labels[TRAINED] == 1
    vector_ND = np.where(
        member_N[:, None], centres[rng.integers(40, size=len(member_N))] + 0.3 * rng.normal(size=rows.vectors.shape),
        rng.normal(size=rows.vectors.shape),
    )  # fmt: skip
    return replace(rows, vectors=unit(vector_ND).astype(np.float32))


def test_planted_memorisation_is_found() -> None:
    clean = groups(0)
    found = membership(CONFIG, 0, shifted(clean, 0.5), clean, probe_all)
    assert found.attacks["vectors"].fails
    assert found.attacks["vectors"].encoder.value > 0.65
    assert found.verdict.startswith("This fails: the vectors tell who was trained on. The attack by vectors")
    assert (found.trained, found.others) == tuple((clean.labels[TRAINED][::2] == group).sum() for group in (1, 0))


def test_neighbours_find_what_no_linear_probe_sees() -> None:
    clean = groups(1)
    found = membership(CONFIG, 0, clustered(clean), clean, probe_all)
    assert found.attacks["neighbours"].fails
    assert not found.attacks["vectors"].fails
    assert found.attacks["neighbours"].encoder.value > 0.8


def test_exchangeable_groups_stay_at_chance() -> None:
    """Of 30 seeded worlds with two attacks, the intervals of about one in twenty leave 0.5 out, and AUCs average it."""
    aucs, outside, fails = [], 0, 0
    for seed in range(30):
        rows = groups(100 + seed, users=240)
        found = membership(CONFIG, seed, rows, groups(100 + seed, users=240), probe_all)
        for attack in found.attacks.values():
            aucs.append(attack.encoder.value)
            outside += not attack.encoder.low <= 0.5 <= attack.encoder.high
            fails += attack.fails
    assert abs(np.mean(aucs) - 0.5) < 3 * np.std(aucs) / len(aucs) ** 0.5
    assert outside <= 8, "3 are expected of 60; more than 8 come in less than one of 100 such tests"
    assert fails == 0, "encoder and control are the same vectors"


def test_groups_that_differ_by_themselves_are_not_called_memorised() -> None:
    rows = shifted(groups(2), 0.5)
    found = membership(CONFIG, 0, rows, rows, probe_all)
    assert not found.attacks["vectors"].fails
    assert found.attacks["vectors"].of_groups
    assert "The groups differ by themselves" in found.verdict


def test_the_number_is_that_of_a_plain_loop() -> None:
    clean = groups(3, users=200)
    rows = shifted(clean, 0.3)
    found = membership(CONFIG, 0, rows, clean, probe_all).attacks
    for name, data in attacked(rows).items():
        result = probe_all(CONFIG, 0, {"x": data})["x", "linear"][TRAINED]
        member_M, wins, pairs = data.score.labels[TRAINED], 0.0, 0
        for i in np.flatnonzero(member_M == 1):
            for j in np.flatnonzero(member_M == 0):
                wins += float(result.scores[i] > result.scores[j]) + 0.5 * float(result.scores[i] == result.scores[j])
                pairs += 1
        assert found[name].encoder.value == pytest.approx(wins / pairs, abs=1e-12)


def test_nobody_is_scored_by_what_knows_him() -> None:
    rows = groups(4)
    for data in attacked(rows).values():
        assert not set(data.fit.users) & set(data.score.users)
        assert len(data.fit.users) + len(data.score.users) == len(rows.users)
    # were a known row compared with its own half, the nearest one would be itself
    assert attacked(rows)["neighbours"].fit.vectors.max() < 0.99999


def test_nearness_against_a_loop() -> None:
    rows = groups(5, users=60)
    member_N, vectors = rows.labels[TRAINED] == 1, rows.vectors.astype(float)
    found = nearness(rows.vectors[:7], rows.vectors[10:], member_N[10:])
    for row in range(7):
        for column, (group, k) in enumerate([(True, 1), (True, 10), (False, 1), (False, 10)]):
            cosines = sorted(vectors[row] @ vectors[n] for n in range(10, 120) if member_N[n] == group)
            assert found[row, column] == pytest.approx(np.mean(cosines[-k:]), abs=1e-5)


def test_too_few_users_are_refused() -> None:
    with pytest.raises(InputError, match="more than 40 users that were trained on"):
        attacked(groups(6, users=30, rows=1))


def test_an_interval_that_holds_chance_passes() -> None:
    def attack(value: float, more: float) -> Attack:
        return Attack(*(Estimate(v, v - 0.03, v + 0.03) for v in (value, value - more, more)))

    passed = Privacy({"vectors": attack(0.52, 0.01), "neighbours": attack(0.48, 0.0)}, 10, 10)
    assert passed.verdict.startswith("No memorisation was found")
    part = replace(passed, read=0.33)
    assert part.verdict.startswith("This says little: training has read 33 % of the rows taken")
    # one attack that fails is said, whatever another one finds
    assert Privacy({"vectors": attack(0.9, 0.0), "neighbours": attack(0.55, 0.05)}, 10, 10).verdict.startswith(
        "This fails"
    )
