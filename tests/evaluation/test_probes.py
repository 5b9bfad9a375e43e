import numpy as np
import pytest

from ray_ggsm.config import InputError, build
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.metrics import auc
from tests.helpers.probes import planted, run


@pytest.mark.parametrize("kind", ["linear", "lightgbm", "mlp"])
def test_planted_signal_is_found_on_read_only_inputs_and_repeats_exactly(kind):
    train, test = planted(), planted(seed=1)
    for array in (*train, *test):
        array.flags.writeable = False
    first, second = run(kind, train, test), run(kind, train, test)
    assert first.auc > 0.75
    assert abs(first.cv_auc - first.auc) < 0.08
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.scores.dtype == np.float32


@pytest.mark.parametrize("kind", ["linear", "lightgbm", "mlp"])
def test_undefined_labels_are_left_out(kind):
    vectors, labels, users = planted()
    test = planted(seed=1)
    hidden = np.arange(len(labels)) % 4 == 0
    blank = np.where(hidden, np.nan, labels)
    got = run(kind, (vectors, blank, users), test)
    kept = run(kind, (vectors[~hidden], labels[~hidden], users[~hidden]), test)
    np.testing.assert_array_equal(got.scores, kept.scores)
    whole = run(kind, (vectors, labels, users), test)
    partial = run(kind, (vectors, labels, users), (test[0], np.where(hidden, np.nan, test[1])))
    np.testing.assert_array_equal(partial.scores, whole.scores)
    assert partial.auc == auc(test[1][~hidden], whole.scores[~hidden])


@pytest.mark.parametrize("kind", ["linear", "lightgbm", "mlp"])
def test_noise_gives_no_signal(kind):
    train, test = planted(rows=1_000, signal=0.0), planted(rows=1_000, seed=1, signal=0.0)
    result = run(kind, train, test)
    assert abs(result.auc - 0.5) < 0.06
    assert abs(result.cv_auc - 0.5) < 0.08


def test_memorised_users_do_not_leak_between_folds():
    """Vectors that only identify the user are worth nothing: grouped folds see that, folds by row would not."""
    rng = np.random.default_rng(0)
    per_user = rng.random(60) < 0.5
    user = np.repeat(np.arange(60), 8)
    train = (np.eye(60, dtype=np.float32)[user], per_user[user].astype(np.float32), user.astype(str))
    assert run("linear", train, train).cv_auc < 0.6


def test_too_few_users_of_a_class_are_refused():
    vectors, labels, users = planted(rows=40)
    rare = np.zeros(40, np.float32)
    rare[:4] = 1  # two users
    with pytest.raises(InputError, match=r"label 'buys'.* 2 users have a positive row and 18 a negative"):
        run("linear", (vectors, rare, users), (vectors, labels))
    with pytest.raises(InputError, match=r"label 'buys', split 'score'.*found 0 and 40"):
        run("linear", (vectors, labels, users), (vectors, np.zeros(40, np.float32)))


@pytest.mark.parametrize("kind", ["linear", "lightgbm", "mlp"])
def test_constant_vectors_and_a_dozen_users_are_no_crash(kind):
    """A dozen rows are enough for the linear probe; LightGBM finds no leaf that is large enough."""
    users, labels = np.arange(12).astype(str), np.tile([0, 1], 6).astype(np.float32)
    constant = np.full((12, 3), 7.0, np.float32)
    assert run(kind, (constant, labels, users), (constant, labels)).auc == 0.5
    vectors, _, _ = planted(rows=12)
    auc = run(kind, (vectors, labels, users), (vectors, labels)).auc
    assert {"linear": auc > 0.9, "lightgbm": auc == 0.5, "mlp": auc >= 0.5}[kind]


def test_config_reads_as_yaml_gives_it_and_refuses_nonsense():
    config = build(ProbeConfig, {"kinds": ["linear"], "linear": {"strengths": [0.01, 1]}}, "a.yaml")
    assert (config.kinds, config.linear.strengths) == (("linear",), (0.01, 1.0))
    for wrong in ({"kinds": ["svm"]}, {"folds": 1}, {"linear": {"strengths": [-1.0]}}, {"lightgbm": {"leafs": 7}}):
        with pytest.raises(InputError, match=r"a\.yaml: "):
            build(ProbeConfig, wrong, "a.yaml")
