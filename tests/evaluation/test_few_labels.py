"""Draws of few labelled rows: as many as asked, one per user, in the label's share, and the same for all vectors."""

import numpy as np
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import FewLabelsConfig, ProbeConfig
from ray_ggsm.evaluation.few_labels import drawn, few_labels
from ray_ggsm.evaluation.probes import ProbeResult


def made_up(rows: int, users: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels_N = (rng.random(rows) < share).astype(np.float32)
    labels_N[rng.random(rows) < 0.1] = np.nan
    return labels_N, np.array([f"u{i}" for i in rng.integers(users, size=rows)])


@pytest.mark.parametrize(("rows", "share", "positives"), [(50, 0.3, 15), (100, 0.3, 30), (50, 0.02, 5), (40, 0.99, 35)])
def test_a_draw(rows: int, share: float, positives: int) -> None:
    labels_N, users_N = made_up(4000, 1000, share)
    values_N = drawn(labels_N, users_N, rows, 5, (0, 1), "buys")
    there = np.flatnonzero(~np.isnan(values_N))
    assert len(there) == rows == len(set(users_N[there]))
    np.testing.assert_array_equal(values_N[there], labels_N[there])
    assert abs((values_N == 1).sum() - positives) <= (0 if positives in (5, 35) else 2)
    other = drawn(labels_N, users_N, rows, 5, (0, 2), "buys")
    assert (np.isnan(other) != np.isnan(values_N)).any()


def test_small_draws_are_parts_of_larger_ones() -> None:
    labels_N, users_N = made_up(4000, 1000, 0.3)
    small, large = (drawn(labels_N, users_N, rows, 5, (0, 1), "buys") for rows in (50, 200))
    assert not np.isnan(large[~np.isnan(small)]).any()


def test_every_row_of_a_user_can_be_drawn() -> None:
    labels_N, users_N = np.array([1.0, 0.0] * 20, dtype=np.float32), np.repeat(np.arange(20).astype(str), 2)
    drawn_N = [~np.isnan(drawn(labels_N, users_N, 10, 3, (0, draw), "buys")) for draw in range(40)]
    assert np.any(drawn_N, axis=0).all()


@pytest.mark.parametrize(("rows", "users"), [(9, 1000), (400, 300)])
def test_too_few(rows: int, users: int) -> None:
    labels_N, users_N = made_up(4000, users, 0.3)
    with pytest.raises(InputError, match=rf"evaluation\.few_labels\.rows: {rows} rows of label 'buys' need"):
        drawn(labels_N, users_N, rows, 5, (0, 1), "buys")


def test_all_vectors_get_the_same_draws_and_means_are_over_labels() -> None:
    labels = {name: made_up(600, 400, share)[0] for name, share in {"buys": 0.3, "leaves": 0.5}.items()}
    fit = Aligned(np.zeros((600, 2), np.float32), labels, made_up(600, 400, 0.3)[1], 0)
    vectors = {name: ProbeData(fit, fit) for name in ("encoder", "handcrafted")}
    seen: list[dict[str, dict[str, np.ndarray]]] = []

    def probe_all(config, seed, data):
        assert config.kinds == ("linear",)
        seen.append({name: d.fit.labels for name, d in data.items()})
        add = {"encoder": 0.2, "handcrafted": 0.1}
        scores = {"buys": 0.5, "leaves": 0.7}
        return {
            (name, "linear"): {
                label: ProbeResult(np.zeros(1), scores[label] + add[name] * len(seen) / 10, 0, {}) for label in labels
            }
            for name in data
        }

    found = few_labels(ProbeConfig(), FewLabelsConfig(rows=(20, 40), draws=3), 7, vectors, probe_all)
    assert found.rows == (20, 40)
    assert found.auc["encoder"] == [pytest.approx([0.62, 0.64, 0.66]), pytest.approx([0.68, 0.70, 0.72])]
    assert found.mean("handcrafted", 1) == pytest.approx(0.65)
    assert found.difference("encoder", "handcrafted", 0) == pytest.approx((0.02, 0.01))
    for data in seen:
        for label in labels:
            np.testing.assert_array_equal(data["encoder"][label], data["handcrafted"][label])
    assert [int((~np.isnan(data["encoder"]["buys"])).sum()) for data in seen] == [20] * 3 + [40] * 3
