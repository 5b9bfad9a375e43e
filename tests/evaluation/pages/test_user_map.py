import numpy as np

from ray_ggsm.evaluation.pages.user_map import MOST, user_map


def test_map_keeps_rows_and_labels_together() -> None:
    draw = np.random.default_rng(3)
    side = (np.arange(2 * MOST) % 2).astype(np.float32)
    vectors = 0.01 * draw.normal(size=(len(side), 5)).astype(np.float32)
    vectors[:, 3] += side
    found = user_map(vectors, {"side": side}, seed=0)
    assert (found.points.shape, found.rows) == ((MOST, 2), 2 * MOST)
    assert found.variance > 0.9
    assert abs(np.corrcoef(found.points[:, 0], found.labels["side"])[0, 1]) > 0.99


def test_a_collapsed_encoder_has_a_map() -> None:
    found = user_map(np.full((9, 4), 0.5, np.float32), {}, seed=0)
    assert (found.variance, np.ptp(found.points)) == (0, 0)
