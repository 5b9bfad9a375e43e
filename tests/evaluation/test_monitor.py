"""Verdicts on made-up periods whose truth is known: nothing changes, coordinates turn, or the vectors forget."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ray_ggsm.evaluation.alignment import Aligned
from ray_ggsm.evaluation.config import LinearConfig, ProbeConfig
from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.evaluation.monitor import (
    FIXED,
    FRESH,
    HOLDS,
    REFERENCE,
    REFIT,
    RETRAIN,
    TOO_FEW,
    RetrainConfig,
    follow,
    verdict_of,
)
from ray_ggsm.evaluation.probes import fit_and_score
from ray_ggsm.hashing import hash64

U, D, PERIODS, TURNING_POINT = 900, 5, 4, 2
CONFIG = ProbeConfig(kinds=("linear",), folds=3, linear=LinearConfig(strengths=(0.01, 0.1)))
RULE = RetrainConfig()
USERS = np.array([f"u{n}" for n in range(U)])


def probe_all(config, seed, vectors):
    """The job's function without Ray."""
    return {
        (name, kind): {
            label: fit_and_score(kind, data.fit.vectors, data.fit.labels[label], data.fit.users, data.score.vectors,
                                 data.score.labels[label], config, seed, label=label)
            for label in data.fit.labels
        }
        for (name, data), kind in itertools.product(vectors.items(), config.kinds)
    }  # fmt: skip


def population(changed=lambda vector_ND, rng: vector_ND, signal=2.0):
    """Every user in every period, with traits that tell two labels; from TURNING_POINT on vectors are `changed`."""
    rng = np.random.default_rng(0)
    vectors, labels = [], {"a": [], "b": []}
    for period in range(PERIODS):
        trait_ND = rng.normal(size=(U, D))
        for place, name in enumerate(labels):
            labels[name].append(signal * trait_ND[:, place] + rng.logistic(size=U) > 0)
        vectors.append(changed(trait_ND, rng) if period >= TURNING_POINT else trait_ND)
    rows = Aligned(
        np.concatenate(vectors).astype(np.float32),
        {name: np.concatenate(values).astype(np.float32) for name, values in labels.items()},
        np.tile(USERS, PERIODS),
        0,
    )
    return rows, np.repeat(np.arange(PERIODS) + 7, U)


def followed(rows, period_N, rule=RULE):
    return follow(rows, period_N, CONFIG, rule, 0, probe_all)


def verdicts(found):
    return [found[n].verdict for n in sorted(found)]


def test_nothing_changes() -> None:
    """Each probe reaches what the traits themselves reach, in every period."""
    rows, period_N = population()
    found = followed(rows, period_N)
    assert verdicts(found) == [REFERENCE, HOLDS, HOLDS, HOLDS]
    for n in range(8, 7 + PERIODS):
        for probe in (FIXED, FRESH):
            here_N = period_N == n
            best = [roc_auc_score(rows.labels[x][here_N], rows.vectors[here_N, i]) for i, x in enumerate("ab")]
            assert found[n].auc[probe]["mean"].value == pytest.approx(np.mean(best), abs=0.01)


def test_turned_coordinates_are_for_the_models_to_follow() -> None:
    found = followed(*population(lambda vector_ND, rng: vector_ND[:, ::-1]))
    assert verdicts(found) == [REFERENCE, HOLDS, REFIT, REFIT]
    assert found[9].auc[FIXED]["mean"].value == pytest.approx(0.5, abs=0.05)
    assert abs(found[9].change[FRESH]["mean"].value) < 0.02


def test_vectors_that_forget_need_another_encoder() -> None:
    """With noise as strong as the trait, the best score has correlation .71 with it: less than before, not nothing."""
    found = followed(*population(lambda vector_ND, rng: vector_ND + rng.normal(size=vector_ND.shape)))
    assert verdicts(found) == [REFERENCE, HOLDS, RETRAIN, RETRAIN]
    for probe in (FIXED, FRESH):
        assert 0.55 < found[10].auc[probe]["mean"].value < found[7].auc[FIXED]["mean"].value - 0.05


def test_a_loss_that_the_limit_allows_is_none() -> None:
    rows, period_N = population(lambda vector_ND, rng: vector_ND + rng.normal(size=vector_ND.shape))
    assert verdicts(followed(rows, period_N, RetrainConfig(loss=0.3))) == [REFERENCE, HOLDS, HOLDS, HOLDS]


def test_numbers_are_those_of_plain_code() -> None:
    rows, period_N = population()
    found = followed(rows, period_N)
    fold_N = np.array(hash64(list(rows.users)) % np.uint64(3))
    auc = {}
    for n, fitted in ((7, 7), (9, 7), (9, 9)):
        folds = []
        for fold in range(3):
            fit_N, score_N = (period_N == fitted) & (fold_N != fold), (period_N == n) & (fold_N == fold)
            result = fit_and_score("linear", rows.vectors[fit_N], rows.labels["a"][fit_N], rows.users[fit_N],
                                   rows.vectors[score_N], rows.labels["a"][score_N], CONFIG, 0, label="a")  # fmt: skip
            folds.append(roc_auc_score(rows.labels["a"][score_N], result.scores))
        auc[n, fitted] = np.mean(folds)
    assert found[9].change[FIXED]["a"].value == pytest.approx(auc[9, 7] - auc[7, 7], abs=1e-9)
    assert found[9].change[FRESH]["a"].value == pytest.approx(auc[9, 9] - auc[7, 7], abs=1e-9)
    assert found[7].auc[FIXED]["a"].value == pytest.approx(auc[7, 7], abs=1e-9)


def test_changes_are_paired_by_user() -> None:
    """The same rows again have changed by nothing, whoever is drawn; the same rows of other people have not."""
    rows, period_N = population()
    first_N = period_N == 7
    twice = Aligned(
        np.tile(rows.vectors[first_N], (2, 1)), {"a": np.tile(rows.labels["a"][first_N], 2)}, np.tile(USERS, 2), 0
    )
    number_N = np.repeat([0, 1], U)
    assert followed(twice, number_N)[1].change[FIXED]["a"] == Estimate(0, 0, 0)
    others = Aligned(twice.vectors, twice.labels, np.append(USERS, [f"v{n}" for n in range(U)]), 0)
    change = followed(others, number_N)[1].change[FIXED]["a"]
    assert change.high - change.low > 0.02


def test_no_probe_knows_the_users_that_it_scores() -> None:
    """Labels that stay a user's for ever, and vectors that only name the user: a fit with the user would reach 1."""
    rng = np.random.default_rng(1)
    users, answer = np.array([f"u{n}" for n in range(240)]), rng.random(240) < 0.5
    rows = Aligned(
        np.tile(rng.normal(size=(240, 300)), (2, 1)).astype(np.float32),
        {"a": np.tile(answer, 2).astype(np.float32)},
        np.tile(users, 2),
        0,
    )
    found = followed(rows, np.repeat([0, 1], 240))
    for probe in (FIXED, FRESH):
        assert found[1].auc[probe]["a"].value == pytest.approx(0.5, abs=0.12)


def test_too_few_positives_get_a_sentence_and_no_number() -> None:
    rows, period_N = population()
    rows.labels["b"][(period_N == 8) & (np.cumsum(rows.labels["b"] * (period_N == 8)) > 49)] = 0
    found = followed(rows, period_N)
    assert found[8].auc[FIXED].keys() == found[8].change[FRESH].keys() == {"a", "mean"}
    assert found[8].change[FIXED]["mean"].value == found[8].change[FIXED]["a"].value
    (sentence,) = found[8].too_few
    assert sentence.startswith("label 'b': 49 users with a positive row and 851 with a negative one are too few")
    assert found[9].auc[FIXED].keys() == {"a", "b", "mean"}


def test_a_label_that_the_reference_lacks_is_compared_with_nothing() -> None:
    rows, period_N = population()
    for name in "ab":
        rows.labels[name][period_N == 7] = np.nan
    found = followed(rows, period_N)
    assert verdicts(found) == [TOO_FEW] * 4
    assert len(found[7].too_few) == 2
    assert found[8].too_few == ("its reference has no number to compare with",)


def test_undefined_labels_are_left_out() -> None:
    rows, period_N = population()
    rows.labels["a"][::2] = np.nan
    found = followed(rows, period_N)
    assert verdicts(found) == [REFERENCE, HOLDS, HOLDS, HOLDS]
    wide, narrow = (found[8].change[FIXED][name] for name in "ab")
    assert wide.high - wide.low > narrow.high - narrow.low


@pytest.mark.parametrize(
    ("fixed", "fresh", "verdict"),
    [
        ((-0.030, -0.011), (-0.005, 0.009), REFIT),
        ((-0.030, -0.011), (-0.030, -0.011), RETRAIN),
        ((-0.030, -0.010), (-0.030, -0.011), HOLDS),  # an interval that reaches the limit does not lie below it
        ((-0.030, 0.002), (-0.030, -0.011), HOLDS),  # a probe that was fitted before does as well as ever
        ((0.020, 0.030), (0.020, 0.030), HOLDS),
    ],
)
def test_the_rule(fixed: tuple[float, float], fresh: tuple[float, float], verdict: str) -> None:
    change = {probe: {"mean": Estimate(sum(ends) / 2, *ends)} for probe, ends in {FIXED: fixed, FRESH: fresh}.items()}
    assert verdict_of(change, 0.01) == verdict
