import numpy as np

from ray_ggsm.evaluation.probe_task import grouped_folds


def test_folds_are_disjoint_by_user_complete_and_balanced():
    rng = np.random.default_rng(3)
    users = rng.integers(0, 97, 500).astype(str)
    positive = rng.random(500) < 0.08
    splits = grouped_folds(positive, users, 5, 0, "buys")
    assert sorted(np.concatenate([held_out for _, held_out in splits])) == list(range(500))
    for fit, held_out in splits:
        assert not set(users[fit]) & set(users[held_out])
        assert 0 < positive[held_out].sum() < len(held_out)
        assert abs(positive[held_out].mean() - positive.mean()) < 0.05


def test_folds_are_the_same_for_users_numbered_in_their_order():
    users = np.random.default_rng(3).integers(0, 97, 500).astype(str)
    positive = np.random.default_rng(4).random(500) < 0.3
    named = grouped_folds(positive, users, 5, 0, "buys")
    numbered = grouped_folds(positive, np.unique(users, return_inverse=True)[1], 5, 0, "buys")
    for (_, first), (_, second) in zip(named, numbered, strict=True):
        np.testing.assert_array_equal(first, second)
