import numpy as np
import pytest

from ray_ggsm.config import InputError, build
from ray_ggsm.evaluation import probes
from ray_ggsm.evaluation.config import LightGBMConfig, ProbeConfig
from ray_ggsm.evaluation.probes import fit_and_score, grouped_folds, signed_log

CONFIG = ProbeConfig(folds=3, lightgbm=LightGBMConfig(max_rounds=60, patience=5, feature_fraction=1.0))


def planted(rows=400, width=5, seed=0, signal=1.5):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, width)).astype(np.float32)
    labels = (signal * vectors[:, 0] + rng.logistic(size=rows) > 0).astype(np.float32)
    return vectors, labels, np.array([f"u{n // 2}" for n in range(rows)])


def run(kind, train, test, seed=0, config=CONFIG):
    return fit_and_score(kind, *train, *test[:2], config, seed, 1, label="buys")


@pytest.mark.parametrize("kind", ["linear", "lightgbm"])
def test_planted_signal_is_found_on_read_only_inputs_and_repeats_exactly(kind):
    train, test = planted(), planted(seed=1)
    for array in (*train, *test):
        array.flags.writeable = False
    first, second = run(kind, train, test), run(kind, train, test)
    assert first.auc > 0.75
    assert abs(first.cv_auc - first.auc) < 0.08
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.scores.dtype == np.float32


@pytest.mark.parametrize("kind", ["linear", "lightgbm"])
def test_undefined_labels_are_left_out_and_counted(kind):
    vectors, labels, users = planted()
    test = planted(seed=1)
    hidden = np.arange(len(labels)) % 4 == 0
    blank = np.where(hidden, np.nan, labels)
    got = run(kind, (vectors, blank, users), test)
    kept = run(kind, (vectors[~hidden], labels[~hidden], users[~hidden]), test)
    np.testing.assert_array_equal(got.scores, kept.scores)
    assert got.train_rows == 300
    partial = run(kind, (vectors, labels, users), (test[0], np.where(hidden, np.nan, test[1])))
    assert (partial.test_rows, len(partial.scores)) == (300, 400)


@pytest.mark.parametrize("kind", ["linear", "lightgbm"])
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


@pytest.mark.parametrize("block", [7, 1024])
def test_linear_probe_is_sklearns_pipeline(block, monkeypatch):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    monkeypatch.setattr(probes, "BLOCK_ROWS", block)  # 400 rows: 57 full blocks and a rest, or one
    train, test = planted(), planted(seed=1)
    result = run("linear", train, test)
    model = LogisticRegression(C=result.hyperparameters["C"], tol=1e-8)
    reference = make_pipeline(FunctionTransformer(signed_log), StandardScaler(), model).fit(train[0], train[1] == 1)
    np.testing.assert_allclose(result.scores, reference.decision_function(test[0]), atol=2e-2)


def test_linear_probe_survives_long_tails():
    """exp(4 x) of the informative dimension is hopeless for a plain linear model, and read well after the logarithm."""
    (vectors, labels, users), (other, other_labels, _) = planted(), planted(seed=1)
    assert run("linear", (np.exp(4 * vectors), labels, users), (np.exp(4 * other), other_labels)).auc > 0.72


def test_signed_log_is_odd_monotone_and_neutral_for_unit_vectors():
    values = np.linspace(-1e6, 1e6, 1_001, dtype=np.float32)
    np.testing.assert_allclose(signed_log(values), -signed_log(-values))
    assert (np.diff(signed_log(values)) > 0).all()
    assert signed_log(values.astype(np.float64)).dtype == np.float32
    small = np.linspace(-0.05, 0.05, 101, dtype=np.float32)
    assert np.corrcoef(small, signed_log(small))[0, 1] > 0.999


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


def test_too_few_users_of_a_class_are_refused():
    vectors, labels, users = planted(rows=40)
    rare = np.zeros(40, np.float32)
    rare[:4] = 1  # two users
    with pytest.raises(InputError, match=r"label 'buys', stage 'probe': 2 users have a positive row and 18 a negative"):
        run("linear", (vectors, rare, users), (vectors, labels))
    with pytest.raises(InputError, match=r"label 'buys', stage 'test'.*found 0 and 40"):
        run("linear", (vectors, labels, users), (vectors, np.zeros(40, np.float32)))


@pytest.mark.parametrize("kind", ["linear", "lightgbm"])
def test_constant_vectors_and_a_dozen_users_are_no_crash(kind):
    """A dozen rows are enough for the linear probe; LightGBM finds no leaf that is large enough."""
    users, labels = np.arange(12).astype(str), np.tile([0, 1], 6).astype(np.float32)
    constant = np.full((12, 3), 7.0, np.float32)
    assert run(kind, (constant, labels, users), (constant, labels)).auc == 0.5
    vectors, _, _ = planted(rows=12)
    auc = run(kind, (vectors, labels, users), (vectors, labels)).auc
    assert auc > 0.9 if kind == "linear" else auc == 0.5


def test_config_reads_as_yaml_gives_it_and_refuses_nonsense():
    config = build(ProbeConfig, {"kinds": ["linear"], "linear": {"strengths": [0.01, 1]}}, "a.yaml")
    assert (config.kinds, config.linear.strengths) == (("linear",), (0.01, 1.0))
    for wrong in ({"kinds": ["svm"]}, {"folds": 1}, {"linear": {"strengths": [-1.0]}}, {"lightgbm": {"leafs": 7}}):
        with pytest.raises(InputError, match=r"a\.yaml: "):
            build(ProbeConfig, wrong, "a.yaml")
